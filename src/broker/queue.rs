//! What waits for one client and what is in flight to it, in its order: unacknowledged messages of the last connection, then
//! what came since. Pure; bounded in messages and bytes. Each entry knows what the disk has of it, so that what comes and
//! goes between two saves never gets there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::router::Share;
use super::stored::Life;
use super::stored::Stored;
use crate::config::plant::Limits;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Most messages in flight to one client, whatever it allows: what is in flight is memory here.
pub const MAX_IN_FLIGHT: u16 = 100;
/// Most messages of QoS 2 in flight to a client that has not said how many it takes: Mosquitto, when it bridges to us, holds at
/// most 20 that are not released (its `max_inflight_messages`), ends the connection over one more of either QoS, and would
/// for ever, as they all come again. One place is left for QoS 1, which is acknowledged at once.
const UNASKED_EXACTLY_ONCE: usize = 19;
/// What a client takes that does not say (3.1.2.11.3), and any before 5.0.
const UNSAID: u16 = u16::MAX;

/// How much may wait for one client.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Messages in the queue.
    pub messages: usize,
    /// Bytes in the queue and in flight.
    pub bytes: usize,
}

impl Bounds {
    /// Where nothing is said of bytes: room for the count with small messages, and for some of the largest.
    pub fn of(limits: &Limits) -> Self {
        let usual = limits.queue.saturating_mul(1024).max(limits.packet.saturating_mul(4));
        Self { messages: limits.queue, bytes: limits.queue_bytes.unwrap_or(usual) }
    }
}

/// A message for this client.
#[derive(Debug, Clone)]
pub struct Item {
    /// The message.
    pub stored: Arc<Stored>,
    /// QoS of the delivery.
    pub qos: Qos,
    /// Retain flag of the delivery.
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: Vec<u32>,
    /// The shared group whose turn it was this client's to take it.
    pub share: Option<Arc<Share>>,
}

/// What to send next.
#[derive(Debug)]
pub enum Step {
    /// A PUBLISH.
    Publish {
        /// `None` for QoS 0.
        id: Option<u16>,
        /// Sent on an earlier connection.
        dup: bool,
        /// What.
        item: Item,
    },
    /// A PUBREL again.
    Release(u16),
}

/// Whether an item found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It waits.
    Taken,
    /// The bounds are reached; it was not taken.
    Full,
}

/// What an acknowledgement says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is in flight, and this was the answer due.
    Known,
    /// No such message is in flight; a late answer, mostly.
    Unknown,
    /// Its QoS, or how far it has got, allows no such answer.
    OutOfTurn,
}

/// How much to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What was there at the last question already: most messages to a connected client live shorter.
    Settled,
    /// Everything.
    All,
}

/// An entry as the disk keeps it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the order.
    pub seq: u64,
    /// Packet identifier; `None`: not sent yet.
    pub id: Option<u16>,
    /// `None`: only the PUBREL is still to be answered.
    pub item: Option<Item>,
}

/// What the disk has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Nothing.
    No,
    /// As it is now.
    Yes,
    /// As it was before.
    Stale,
}

impl Kept {
    const fn changed(self) -> Self {
        if matches!(self, Self::No) { Self::No } else { Self::Stale }
    }
}

#[derive(Debug)]
struct Waiting {
    /// Grows by one with each message of this session.
    seq: u64,
    kept: Kept,
    item: Item,
}

#[derive(Debug)]
struct InFlight {
    id: u16,
    seq: u64,
    kept: Kept,
    /// `None`: PUBREC came, PUBREL is out.
    item: Option<Item>,
}

/// What is on its way to one client.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    window: usize,
    /// Of these: QoS 2.
    exactly_once: usize,
    next_id: u16,
    next_seq: u64,
    bytes: usize,
    waiting: VecDeque<Waiting>,
    resend: VecDeque<InFlight>,
    in_flight: VecDeque<InFlight>,
    /// The disk may differ.
    dirty: bool,
    /// Entries from here on came since the last save.
    young: u64,
    /// Entries the disk has and should not.
    gone: Vec<u64>,
}

impl Queue {
    /// An empty one.
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            window: MAX_IN_FLIGHT as usize,
            exactly_once: UNASKED_EXACTLY_ONCE,
            next_id: 0,
            next_seq: 1,
            bytes: 0,
            waiting: VecDeque::new(),
            resend: VecDeque::new(),
            in_flight: VecDeque::new(),
            dirty: false,
            young: 0,
            gone: Vec::new(),
        }
    }

    /// A connection begins: what was in flight goes again, in its order (4.4), at most `window` at once.
    pub fn resume(&mut self, window: u16) {
        self.window = usize::from(window.clamp(1, MAX_IN_FLIGHT));
        self.exactly_once = if window == UNSAID { UNASKED_EXACTLY_ONCE } else { self.window };
        let later = std::mem::take(&mut self.resend);
        self.resend = std::mem::take(&mut self.in_flight);
        self.resend.extend(later);
    }

    /// Messages that wait, in flight not counted.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.resend.len()
    }

    /// Sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that wait or are in flight.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Other bounds; what waits already may stay beyond them.
    pub const fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// More than half of the messages wait that may.
    pub fn is_crowded(&self) -> bool {
        self.waiting() > self.bounds.messages / 2
    }

    /// Whether one more of this QoS may be in flight.
    pub fn is_open_for(&self, qos: Qos) -> bool {
        let exact = |entry: &&InFlight| entry.item.as_ref().is_none_or(|item| item.qos == Qos::ExactlyOnce);
        self.in_flight.len() < self.window
            && (qos != Qos::ExactlyOnce || self.in_flight.iter().filter(exact).count() < self.exactly_once)
    }

    /// Whether something of the last connection is still to be sent again; nothing overtakes it.
    pub fn is_resending(&self) -> bool {
        !self.resend.is_empty()
    }

    /// Takes a QoS 1 or 2 message, if there is room.
    pub fn push(&mut self, now: Instant, item: Item) -> Room {
        let size = item.stored.size();
        if !self.has_room(size) {
            self.drop_expired(now);
            if !self.has_room(size) {
                return Room::Full;
            }
        }
        self.bytes += size;
        let seq = self.number();
        self.waiting.push_back(Waiting { seq, kept: Kept::No, item });
        Room::Taken
    }

    /// One that is larger than all bounds is taken when nothing else is there.
    fn has_room(&self, size: usize) -> bool {
        self.waiting.len() < self.bounds.messages && (self.bytes + size <= self.bounds.bytes || self.bytes == 0)
    }

    /// Forgets what waited longer than it was to live and was not sent yet (MQTT-3.3.2-5; what was sent is finished,
    /// MQTT-4.3.3-7).
    pub fn drop_expired(&mut self, now: Instant) {
        self.drop_waiting(|item| item.stored.life(now) == Life::Expired);
    }

    /// Drops what waits, was never sent, and is on a topic that is not for this client (any more).
    pub fn forget_waiting(&mut self, foreign: impl Fn(&TopicName) -> bool) {
        self.drop_waiting(|item| foreign(&item.stored.message.topic));
    }

    fn drop_waiting(&mut self, goes: impl Fn(&Item) -> bool) {
        if !self.waiting.iter().any(|waiting| goes(&waiting.item)) {
            return;
        }
        let (gone, left): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| goes(&waiting.item));
        self.waiting = left;
        for waiting in gone {
            self.bytes -= waiting.item.stored.size();
            self.off_disk(waiting.seq, waiting.kept);
        }
    }

    /// What to send next; `None` when nothing waits or the window is full.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if let Some(front) = self.resend.front() {
            let goes = front.item.as_ref().is_none_or(|item| self.is_open_for(item.qos));
            return if goes { self.send_again() } else { None };
        }
        while let Some(waiting) = self.waiting.front() {
            if waiting.item.stored.life(now) != Life::Expired && !self.is_open_for(waiting.item.qos) {
                return None;
            }
            let waiting = self.waiting.pop_front()?;
            if waiting.item.stored.life(now) == Life::Expired {
                self.bytes -= waiting.item.stored.size();
                self.off_disk(waiting.seq, waiting.kept);
                continue;
            }
            return Some(self.launch(waiting));
        }
        None
    }

    /// Sends an item past the bounds: it does not wait. Only while the window is open.
    pub fn send(&mut self, item: Item) -> Step {
        self.bytes += item.stored.size();
        let seq = self.number();
        self.launch(Waiting { seq, kept: Kept::No, item })
    }

    fn send_again(&mut self) -> Option<Step> {
        let entry = self.resend.pop_front()?;
        let step = match &entry.item {
            Some(item) => Step::Publish { id: Some(entry.id), dup: true, item: item.clone() },
            None => Step::Release(entry.id),
        };
        self.in_flight.push_back(entry);
        Some(step)
    }

    /// The item's bytes are accounted for already.
    fn launch(&mut self, waiting: Waiting) -> Step {
        let id = self.free_id();
        let Waiting { seq, kept, item } = waiting;
        self.dirty = true;
        self.in_flight.push_back(InFlight { id, seq, kept: kept.changed(), item: Some(item.clone()) });
        Step::Publish { id: Some(id), dup: false, item }
    }

    const fn number(&mut self) -> u64 {
        self.dirty = true;
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn off_disk(&mut self, seq: u64, kept: Kept) {
        if kept != Kept::No {
            self.dirty = true;
            self.gone.push(seq);
        }
    }

    /// Never 0, never one that is in use (2.2.1). At most 200 are in use, so there is one.
    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            if id != 0 && !self.in_flight.iter().chain(&self.resend).any(|e| e.id == id) {
                return id;
            }
        }
    }

    fn find(&mut self, id: u16) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().chain(&mut self.resend).find(|entry| entry.id == id)
    }

    /// Forgets a message whose last answer this is, if it is one of those that `ends`.
    fn end(&mut self, id: u16, ends: impl FnOnce(Option<&Item>) -> bool) -> Told {
        let Some(entry) = self.find(id) else { return Told::Unknown };
        if !ends(entry.item.as_ref()) {
            return Told::OutOfTurn;
        }
        self.forget(id);
        Told::Known
    }

    /// PUBACK.
    pub fn acknowledged(&mut self, id: u16) -> Told {
        self.end(id, |item| item.is_some_and(|item| item.qos == Qos::AtLeastOnce))
    }

    /// PUBREC with a failure: the message counts as delivered (MQTT-4.4.0-2).
    pub fn refused(&mut self, id: u16) -> Told {
        self.end(id, |item| item.is_none_or(|item| item.qos == Qos::ExactlyOnce))
    }

    /// PUBCOMP.
    pub fn completed(&mut self, id: u16) -> Told {
        self.end(id, |item| item.is_none())
    }

    /// PUBREC: the PUBREL is to be sent, again if need be.
    pub fn received(&mut self, id: u16) -> Told {
        let Some(entry) = self.find(id) else { return Told::Unknown };
        if entry.item.as_ref().is_some_and(|item| item.qos != Qos::ExactlyOnce) {
            return Told::OutOfTurn;
        }
        if let Some(item) = entry.item.take() {
            entry.kept = entry.kept.changed();
            self.bytes -= item.stored.size();
            self.dirty = true;
        }
        Told::Known
    }

    /// Acknowledged, or not to be sent at all (too large for the client, MQTT-3.1.2-25). Unknown ones are ignored.
    pub fn forget(&mut self, id: u16) {
        let find = |list: &VecDeque<InFlight>| list.iter().position(|entry| entry.id == id);
        let entry = match find(&self.in_flight) {
            Some(at) => self.in_flight.remove(at),
            None => find(&self.resend).and_then(|at| self.resend.remove(at)),
        };
        let Some(InFlight { seq, kept, item, .. }) = entry else { return };
        self.bytes -= item.map_or(0, |item| item.stored.size());
        self.off_disk(seq, kept);
    }

    /// What somebody else may get instead of this client: what was never sent, and QoS 1 without its answer. A QoS 2 message
    /// that was sent is this client's alone (MQTT-4.8.2-5).
    pub fn into_unfinished(self) -> impl Iterator<Item = Item> {
        let sent = self.in_flight.into_iter().chain(self.resend).filter_map(|entry| entry.item);
        let sent = sent.filter(|item| item.qos == Qos::AtLeastOnce);
        sent.chain(self.waiting.into_iter().map(|waiting| waiting.item))
    }

    /// Whether the disk may differ.
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Entries that are new or changed, and those that are done with; from now on the disk is taken to have them so.
    pub fn changes(&mut self, depth: Depth) -> (Vec<Entry>, Vec<u64>) {
        let young = if depth == Depth::All { u64::MAX } else { self.young };
        self.young = self.next_seq;
        let mut put = Vec::new();
        for entry in self.resend.iter_mut().chain(&mut self.in_flight) {
            if entry.kept == Kept::Stale || (entry.kept == Kept::No && entry.seq < young) {
                entry.kept = Kept::Yes;
                put.push(Entry { seq: entry.seq, id: Some(entry.id), item: entry.item.clone() });
            }
        }
        // What the disk has is in front.
        for waiting in self.waiting.iter_mut().rev().take_while(|w| w.kept == Kept::No) {
            if waiting.seq < young {
                waiting.kept = Kept::Yes;
                put.push(Entry { seq: waiting.seq, id: None, item: Some(waiting.item.clone()) });
            }
        }
        self.dirty = self.resend.iter().chain(&self.in_flight).any(|entry| entry.kept != Kept::Yes)
            || self.waiting.back().is_some_and(|waiting| waiting.kept == Kept::No);
        (put, std::mem::take(&mut self.gone))
    }

    /// The disk has nothing of it any more.
    pub fn forget_disk(&mut self) {
        let flying = self.resend.iter_mut().chain(&mut self.in_flight).map(|entry| &mut entry.kept);
        flying.chain(self.waiting.iter_mut().map(|waiting| &mut waiting.kept)).for_each(|kept| *kept = Kept::No);
        self.gone.clear();
        self.young = self.next_seq;
        self.dirty = true;
    }

    /// Puts back what the disk had: before anything else happens to it.
    pub fn restore(&mut self, entries: Vec<Entry>) {
        for Entry { seq, id, item } in entries {
            self.next_seq = self.next_seq.max(seq + 1);
            self.bytes += item.as_ref().map_or(0, |item| item.stored.size());
            let kept = Kept::Yes;
            match (id, item) {
                (Some(id), item) => self.in_flight.push_back(InFlight { id, seq, kept, item }),
                (None, Some(item)) => self.waiting.push_back(Waiting { seq, kept, item }),
                (None, None) => {}
            }
        }
        self.young = self.next_seq;
    }

    /// Identifiers go on behind this one. After a restart that is a random one: a client may hold a QoS 2 message that it was
    /// sent in the last moments, of which the disk knows nothing, and would take another of the same number for a copy.
    pub const fn number_from(&mut self, id: u16) {
        self.next_id = id;
    }
}

#[cfg(test)]
mod tests;
