//! The core's way of a message: retained store, router, then each subscriber's outbox, queue or local box.
//! Answers to "full": QoS 0 is dropped for that client; QoS 1 and 2 wait up to the session's bounds, then a connected
//! client is closed (0x97) and for an absent one the newest is dropped, also when all absent ones together have too much; a local
//! box drops the newest. All counted.

use std::sync::Arc;
use std::time::Instant;

use super::conn::BURST_AHEAD;
use super::conn::BURSTS;
use super::conn::Conn;
use super::conn::WRITE_AHEAD;
use super::core::Core;
use super::local::Inbox;
use super::packet::Ack;
use super::packet::Code;
use super::packet::Fault;
use super::packet::Options;
use super::packet::encode;
use super::queue::Item;
use super::queue::Room;
use super::queue::Step;
use super::router::Match;
use super::router::Subscriber;
use super::router::Subscription;
use super::seat::Seat;
use super::slab::Slab;
use super::stored::Life;
use super::stored::Stored;
use crate::message::Message;
use crate::topic::Qos;
use crate::topic::TopicFilter;

/// Bytes that wait for clients that are away, all sessions together, each message as often as it waits: so often it is on the disk.
/// A thousand kept sessions with a full queue each would be a gigabyte.
pub(super) const MAX_AWAY_BYTES: usize = 64 * 1024 * 1024;
/// Retained messages fetched at once for a local subscriber.
const LOCAL_STEP: usize = 1024;

/// A subscriber inside this process.
#[derive(Debug)]
pub struct Local {
    /// Its name: what was published under the same name does not come back to it.
    pub name: Arc<str>,
    /// Where its messages go.
    pub inbox: Inbox,
    /// What it subscribed to.
    pub filters: Vec<(TopicFilter, Qos)>,
}

impl Core {
    /// Messages of this process, under the publisher's name.
    pub fn publish_local(&mut self, now: Instant, name: &str, messages: impl IntoIterator<Item = Message>) {
        let unwritten: usize = self.conns.iter().map(|(_, conn)| conn.unwritten()).sum();
        self.room = if unwritten < BURSTS { BURST_AHEAD } else { WRITE_AHEAD };
        for message in messages {
            self.counts.messages_in += 1;
            self.counts.payload_in += message.payload.len() as u64;
            self.route(now, None, Some(name), message);
        }
        self.room = WRITE_AHEAD;
        self.settle(now);
    }

    /// Subscribes a part of this process; retained messages are in its box when this returns.
    pub fn subscribe_local(&mut self, now: Instant, local: Local) {
        let filters = local.filters.clone();
        let key = self.locals.insert(local);
        let mut seen = std::collections::HashSet::new();
        for (filter, qos) in &filters {
            let options = Options { qos: *qos, retain_as_published: true, ..Options::default() };
            let who = Subscriber::Local(key);
            self.router.insert(filter, None, Subscription { who, options, identifier: None });
            let mut after = None;
            loop {
                let some = self.retained.matching(filter, after.as_ref(), LOCAL_STEP, now);
                let Some(last) = some.last() else { break };
                after = Some(last.message.topic.clone());
                let fresh = some.iter().filter(|s| filters.len() == 1 || seen.insert(s.message.topic.clone()));
                let messages = fresh.map(|s| delivered(&s.message, s.message.qos.min(*qos), true)).collect();
                if let Some(local) = self.locals.get(key) {
                    local.inbox.fill(messages);
                }
            }
        }
    }

    /// Forgets local subscribers that nobody listens to any more.
    pub fn sweep_locals(&mut self) {
        let closed: Vec<usize> = self.locals.iter().filter(|(_, l)| l.inbox.is_closed()).map(|(key, _)| key).collect();
        for key in closed {
            if let Some(local) = self.locals.remove(key) {
                for (filter, _) in &local.filters {
                    self.router.remove(filter, None, Subscriber::Local(key));
                }
            }
        }
    }

    /// Keeps and delivers a message; false when nobody subscribed to it. `settle` must follow.
    pub(super) fn route(
        &mut self,
        now: Instant,
        origin: Option<Subscriber>,
        name: Option<&str>,
        message: Message,
    ) -> bool {
        let stored = Arc::new(Stored { message, born: now });
        // Clearing what is not there changes nothing, here or on the disk.
        if stored.message.retain
            && (!stored.message.payload.is_empty() || self.retained.get(&stored.message.topic).is_some())
        {
            if !self.retained.set(&stored) {
                self.counts.dropped += 1;
            }
            self.keep.touch(now, &stored.message);
        }
        let mut found = std::mem::take(&mut self.scratch);
        let able = able(&self.seats, &self.conns, &stored.message);
        self.router.matching(&stored.message.topic, origin, able, &mut found);
        let any = !found.is_empty();
        for found in found.drain(..) {
            match found.who {
                Subscriber::Session(key) => self.deliver(now, key, &stored, found),
                Subscriber::Local(key) => self.deliver_local(key, &stored.message, &found, name),
            }
        }
        self.scratch = found;
        any
    }

    fn deliver_local(&mut self, key: usize, message: &Message, found: &Match, from: Option<&str>) {
        let Some(local) = self.locals.get(key) else { return };
        if from == Some(&*local.name) {
            return;
        }
        self.counts.messages_out += 1;
        self.counts.payload_out += message.payload.len() as u64;
        local.inbox.offer(delivered(message, message.qos.min(found.qos), message.retain));
    }

    fn deliver(&mut self, now: Instant, key: usize, stored: &Arc<Stored>, found: Match) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        let qos = stored.message.qos.min(found.qos);
        let retain = stored.message.retain && found.retain_as_published;
        let item = Item { stored: Arc::clone(stored), qos, retain, identifiers: found.identifiers, share: found.share };
        if qos == Qos::AtMostOnce {
            let Some(conn) = seat.conn else { return };
            return self.deliver_at_most_once(now, conn, &item);
        }
        let away = seat.conn.is_none();
        let room = if away && self.away_bytes >= MAX_AWAY_BYTES { Room::Full } else { seat.session.push(now, item) };
        match (room, seat.conn) {
            (Room::Taken, Some(conn)) => self.pump(now, conn),
            (Room::Taken, None) => self.away_bytes += stored.size(),
            (Room::Full, conn) => {
                self.counts.dropped += 1;
                if let Some(conn) = conn {
                    let why = "too many messages wait for this client";
                    self.doomed.push((conn, Fault { code: Code::QUOTA_EXCEEDED, why }));
                }
            }
        }
    }

    /// A member of a shared group has gone for good with a message that it did not finish: another gets it (4.8.2).
    pub(super) fn hand_on(&mut self, now: Instant, item: &Item) {
        let Some(share) = &item.share else { return };
        if item.stored.life(now) == Life::Expired {
            return;
        }
        let picked = self.router.pick(share, able(&self.seats, &self.conns, &item.stored.message));
        if let Some(found @ Match { who: Subscriber::Session(key), .. }) = picked {
            self.deliver(now, key, &item.stored, found);
        }
    }

    fn deliver_at_most_once(&mut self, now: Instant, key: usize, item: &Item) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let asleep = conn.outbox.is_empty();
        if conn.unwritten() < self.room && conn.publish(now, item, None, false) {
            self.counts.messages_out += 1;
            self.counts.payload_out += item.stored.message.payload.len() as u64;
            // Once is enough until it is taken.
            if asleep {
                self.woken.push(key);
            }
        } else {
            self.counts.dropped += 1;
        }
    }

    /// Writes ahead for a connection as long as it has room and its session something to send.
    pub(super) fn pump(&mut self, now: Instant, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(seat) = conn.session.and_then(|seat| self.seats.get_mut(seat)) else { return };
        let before = conn.outbox.len();
        while conn.has_room() {
            match seat.session.next(now, &self.retained) {
                None => break,
                Some(Step::Release(id)) => {
                    encode::ack(&mut conn.outbox, conn.version, 6, Ack { id, code: Code::SUCCESS })
                }
                Some(Step::Publish { id, dup, item }) => {
                    if conn.publish(now, &item, id, dup) {
                        self.counts.messages_out += 1;
                        self.counts.payload_out += item.stored.message.payload.len() as u64;
                    } else {
                        self.counts.dropped += 1;
                        if let Some(id) = id {
                            seat.session.queue().forget(id);
                        }
                    }
                }
            }
        }
        // A paused search goes on when the connection has its next turn.
        if conn.outbox.len() > before || (seat.session.is_searching() && conn.has_room()) {
            self.woken.push(key);
        }
    }

    /// A connection has its turn again: a search that has paused goes on. False when there is none, or when it waits for room.
    pub fn search_on(&mut self, now: Instant, key: usize) -> bool {
        let Some(conn) = self.conns.get(key).filter(|conn| conn.has_room()) else { return false };
        let Some(seat) = conn.session.and_then(|seat| self.seats.get_mut(seat)) else { return false };
        if !seat.session.is_searching() {
            return false;
        }
        seat.session.take_turn();
        self.pump(now, key);
        true
    }
}

/// Who can take the message now: is there, and takes packets so large (3.1.2.11.4 leaves it to us whom a group prefers).
fn able<'a>(
    seats: &'a Slab<Seat>,
    conns: &'a Slab<Conn>,
    message: &'a Message,
) -> impl Fn(Subscriber) -> bool + use<'a> {
    move |who| match who {
        Subscriber::Local(_) => true,
        Subscriber::Session(key) => {
            let conn = seats.get(key).and_then(|seat| conns.get(seat.conn?));
            conn.is_some_and(|conn| conn.outbox.is_unlimited() || conn.outbox.takes(encode::at_most(message)))
        }
    }
}

/// Text and payload are shared, `own` travels along.
fn delivered(message: &Message, qos: Qos, retain: bool) -> Message {
    Message { qos, retain, ..message.clone() }
}
