//! The life of sessions in the core: taken up or begun by a connection, taken over by the next one, left, ended. With a
//! session goes its last will, which is published when the standard says (3.1.2.5), and what a shared group's member never
//! got goes to another member.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::core::Core;
use super::keep::Kept;
use super::packet::Code;
use super::packet::Connect;
use super::packet::Fault;
use super::packet::Version;
use super::packet::Will;
use super::router::Subscriber;
use super::session::Session;
use super::will::LastWill;
use crate::message::Origin;

/// Sessions kept for clients that are away; the one away for longest is forgotten first.
const MAX_AWAY: usize = 1000;
/// Never expires.
const FOR_EVER: u32 = u32::MAX;

/// A session and where it stands.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) client_id: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    pub(super) session: Session,
    /// Connected by this.
    pub(super) conn: Option<usize>,
    /// Since when it is away.
    pub(super) left: Instant,
    /// Seconds it is kept while away.
    pub(super) expiry: u32,
    /// Its client's last will.
    pub(super) will: LastWill,
    /// Its number on the disk, and what the disk has of it.
    pub(super) kept: Kept,
}

impl Seat {
    fn is_over(&self, now: Instant) -> bool {
        let kept = Duration::from_secs(u64::from(self.expiry));
        self.conn.is_none() && self.expiry != FOR_EVER && now.saturating_duration_since(self.left) >= kept
    }
}

impl Core {
    /// True when the id was made here.
    pub(super) fn assign_id(&self, connect: &mut Connect) -> Result<bool, Code> {
        if !connect.client_id.is_empty() {
            return Ok(false);
        }
        let v5 = connect.version.is_v5();
        if !v5 && (!connect.clean_start || connect.version == Version::V31) {
            return Err(Code::CLIENT_ID_INVALID);
        }
        let number = getrandom::u64().map_err(|_| Code::UNSPECIFIED)?;
        connect.client_id = format!("auto-{number:016x}");
        Ok(true)
    }

    /// The session for a client id, old or new, and whether it is an old one. Whoever holds it is taken over.
    pub(super) fn take_seat(
        &mut self,
        now: Instant,
        connect: &Connect,
        client_id: &Arc<str>,
        user: Option<&Arc<str>>,
    ) -> (usize, bool) {
        if let Some(&key) = self.by_id.get(client_id) {
            // Another user may take the name, never what was meant for the one before.
            let stranger = self.seats.get(key).is_some_and(|seat| seat.user.as_ref() != user);
            // A session that ends with its connection ends now, when that connection is closed.
            let held_by = self.seats.get(key).and_then(|seat| seat.conn).and_then(|old| self.conns.get(old));
            let ends = held_by.is_some_and(|old| old.session_expiry == 0);
            let fresh = connect.clean_start || stranger || ends;
            self.take_over(now, key, fresh);
            if !fresh && self.seats.get(key).is_some() {
                return (key, true);
            }
            self.end_session(now, key);
        }
        let session = Session::new(self.bounds);
        let client_id = Arc::clone(client_id);
        let (kept, will) = (self.keep.number(), LastWill::default());
        let seat = Seat { client_id, user: user.cloned(), session, conn: None, left: now, expiry: 0, will, kept };
        let client_id = Arc::clone(&seat.client_id);
        let key = self.seats.insert(seat);
        self.by_id.insert(client_id, key);
        self.make_room(now, key);
        (key, false)
    }

    /// The old connection goes. Its will is sent, whether it waited already or not, unless it has a delay and the session
    /// goes on: then its client is back in time.
    fn take_over(&mut self, now: Instant, key: usize, fresh: bool) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        let will = seat.will.take();
        if let Some(old) = seat.conn.take() {
            self.say_goodbye(old, Fault { code: Code::TAKEN_OVER, why: "another connection uses this client id" });
        }
        if let Some(will) = will.filter(|will| fresh || will.delay == 0) {
            self.publish_will(now, Some(key), &will);
        }
    }

    pub(super) fn say_goodbye_and_leave(&mut self, now: Instant, key: usize, fault: Fault) {
        let left = self.conns.get(key).and_then(|conn| Some((conn.session?, conn.session_expiry)));
        self.say_goodbye(key, fault);
        if let Some((seat, expiry)) = left {
            self.leave(now, seat, expiry);
        }
    }

    /// A session loses its connection.
    pub(super) fn leave(&mut self, now: Instant, key: usize, expiry: u32) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        seat.conn = None;
        seat.left = now;
        seat.expiry = expiry;
        seat.will.wait(now, expiry);
        if let Some(will) = seat.will.take_due(now) {
            self.publish_will(now, Some(key), &will);
        }
        // The will may have been this very session's to receive; it ends after.
        if expiry == 0 {
            self.end_session(now, key);
        }
    }

    /// By the right of who left it, which may have been taken away while it waited. Of one from the disk nobody knows any more
    /// where its client came from.
    pub(super) fn publish_will(&mut self, now: Instant, seat: Option<usize>, will: &Will) {
        if let Some(Origin::Client { client_id, user, peer }) = will.message.from.as_deref()
            && !self.access.grant(user.as_deref(), client_id, peer.ip()).may_write(&will.message.topic)
        {
            tracing::warn!(client = %client_id, topic = %will.message.topic, "last will not published: no rule allows it any more");
            return;
        }
        self.counts.messages_in += 1;
        self.route(now, seat.map(Subscriber::Session), None, will.message.clone());
    }

    /// Forgets a session; a will that still waits goes out (MQTT-3.1.3-9 speaks of the earlier of both).
    pub(super) fn end_session(&mut self, now: Instant, key: usize) {
        let Some(mut seat) = self.seats.remove(key) else { return };
        self.by_id.remove(&seat.client_id);
        for subscribed in seat.session.subscriptions().values() {
            self.router.remove(&subscribed.filter, subscribed.group.as_ref(), Subscriber::Session(key));
        }
        let will = seat.will.take();
        self.keep.ended(&seat);
        if let Some(will) = will {
            self.publish_will(now, None, &will);
        }
        for item in seat.session.into_unfinished() {
            self.hand_on(now, &item);
        }
    }

    /// Full of absent clients: the one away for longest is forgotten.
    fn make_room(&mut self, now: Instant, except: usize) {
        if self.seats.len() <= self.limits.clients.saturating_add(MAX_AWAY) {
            return;
        }
        let away = self.seats.iter().filter(|(key, seat)| seat.conn.is_none() && *key != except);
        if let Some((key, client)) = away.min_by_key(|(_, s)| s.left).map(|(key, s)| (key, Arc::clone(&s.client_id))) {
            tracing::warn!(%client, limit = MAX_AWAY, "too many absent clients, the oldest session is forgotten");
            self.end_session(now, key);
        }
    }

    /// Wills whose delay is over, then sessions whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let keys: Vec<usize> = self.seats.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(will) = self.seats.get_mut(key).and_then(|seat| seat.will.take_due(now)) {
                self.publish_will(now, Some(key), &will);
            }
        }
        let keys: Vec<usize> = self.seats.iter().filter(|(_, seat)| seat.is_over(now)).map(|(key, _)| key).collect();
        self.counts.expired += keys.len() as u64;
        for key in keys {
            self.end_session(now, key);
        }
    }

    /// Tells every client that the server goes, which ends their connections like any other trouble: wills without a delay
    /// are published to whoever will be there after the restart, the others wait on the disk.
    pub fn shut_down(&mut self, now: Instant) {
        let keys: Vec<usize> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.say_goodbye_and_leave(now, key, Fault { code: Code::SHUTTING_DOWN, why: "the gateway stops" });
        }
        self.settle(now);
    }
}
