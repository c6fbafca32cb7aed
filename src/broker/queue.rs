//! What waits for one client and what is in flight to it, in its order: unacknowledged messages of the last connection, then
//! what came since. Pure; bounded in messages and bytes. Each entry knows what the disk has of it, so that what comes and
//! goes between two saves never gets there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::stored::Life;
use super::stored::Stored;
use crate::topic::Qos;

/// Most messages in flight to one client, whatever it allows: what is in flight is memory here.
pub const MAX_IN_FLIGHT: u16 = 100;

/// How much may wait for one client.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Messages in the queue.
    pub messages: usize,
    /// Bytes in the queue and in flight.
    pub bytes: usize,
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

    /// Whether another QoS 1 or 2 message may be sent now.
    pub fn is_open(&self) -> bool {
        self.in_flight.len() < self.window
    }

    /// Whether something of the last connection is still to be sent again; nothing overtakes it.
    pub fn is_resending(&self) -> bool {
        !self.resend.is_empty()
    }

    /// Takes a QoS 1 or 2 message, if there is room.
    pub fn push(&mut self, item: Item) -> Room {
        let size = item.stored.size();
        let fits = self.bytes + size <= self.bounds.bytes || self.bytes == 0;
        if self.waiting.len() >= self.bounds.messages || !fits {
            return Room::Full;
        }
        self.bytes += size;
        let seq = self.number();
        self.waiting.push_back(Waiting { seq, kept: Kept::No, item });
        Room::Taken
    }

    /// What to send next; `None` when nothing waits or the window is full.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if let Some(front) = self.resend.front() {
            return if front.item.is_none() || self.is_open() { self.send_again() } else { None };
        }
        while self.is_open()
            && let Some(waiting) = self.waiting.pop_front()
        {
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

    /// PUBREC: false when the id is not in flight.
    pub fn received(&mut self, id: u16) -> bool {
        let Some(entry) = self.in_flight.iter_mut().chain(&mut self.resend).find(|e| e.id == id) else { return false };
        if let Some(item) = entry.item.take() {
            self.bytes -= item.stored.size();
            entry.kept = entry.kept.changed();
            self.dirty = true;
        }
        true
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::message::Retain;
    use crate::topic::TopicName;
    use bytes::Bytes;

    fn item(text: &'static str) -> Item {
        let topic = TopicName::new("t").unwrap();
        let message = Message::plain(topic, Bytes::from_static(text.as_bytes()), Qos::AtLeastOnce, Retain::No);
        let stored = Arc::new(Stored { message, born: Instant::now() });
        Item { stored, qos: Qos::AtLeastOnce, retain: false, identifiers: Vec::new() }
    }

    fn queue() -> Queue {
        Queue::new(Bounds { messages: 3, bytes: 10_000 })
    }

    fn sent(queue: &mut Queue) -> Vec<(u16, bool)> {
        let steps = std::iter::from_fn(|| queue.next(Instant::now()));
        steps
            .map(|step| match step {
                Step::Publish { id, dup, .. } => (id.unwrap(), dup),
                Step::Release(id) => (id, true),
            })
            .collect()
    }

    #[test]
    fn packet_ids_are_never_zero_nor_reused_in_flight() {
        let mut queue = queue();
        queue.next_id = u16::MAX - 1;
        queue.push(item("a"));
        queue.push(item("b"));
        assert_eq!(sent(&mut queue), [(u16::MAX, false), (1, false)]);
        queue.next_id = u16::MAX - 1;
        queue.push(item("c"));
        assert_eq!(sent(&mut queue), [(2, false)]);
    }

    #[test]
    fn the_window_holds_back_and_an_ack_lets_the_next_go() {
        let mut queue = queue();
        queue.resume(2);
        for text in ["a", "b", "c"] {
            assert_eq!(queue.push(item(text)), Room::Taken);
        }
        assert_eq!(queue.push(item("d")), Room::Full);
        assert_eq!(sent(&mut queue).len(), 2);
        queue.forget(1);
        assert_eq!(sent(&mut queue), [(3, false)]);
        for id in [2, 3] {
            queue.forget(id);
        }
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_new_connection_sends_again_in_order_with_dup() {
        let mut queue = queue();
        queue.resume(10);
        for text in ["a", "b", "c"] {
            queue.push(item(text));
        }
        sent(&mut queue);
        queue.forget(2);
        queue.resume(1);
        queue.push(item("d"));
        assert_eq!(sent(&mut queue), [(1, true)], "a smaller window of the new connection holds");
        queue.forget(1);
        assert_eq!(sent(&mut queue), [(3, true)]);
        queue.forget(3);
        assert_eq!(sent(&mut queue), [(4, false)]);
    }

    #[test]
    fn a_released_message_is_released_again_and_not_published_again() {
        let mut queue = queue();
        queue.push(item("a"));
        sent(&mut queue);
        assert!(queue.received(1));
        assert!(!queue.received(9));
        queue.resume(10);
        assert!(matches!(queue.next(Instant::now()), Some(Step::Release(1))));
        queue.forget(1);
        assert_eq!((queue.in_flight(), queue.bytes()), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_but_takes_one_that_is_larger_alone() {
        let mut queue = Queue::new(Bounds { messages: 100, bytes: 10 });
        assert_eq!(queue.push(item("a")), Room::Taken);
        assert_eq!(queue.push(item("b")), Room::Full);
    }
}
