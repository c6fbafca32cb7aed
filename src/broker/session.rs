//! What the broker knows of one client, connected or not: subscriptions, what waits for it, what is in flight. Pure.
//! Bounded in messages and bytes. Order of sending: unacknowledged ones of the last connection, then the queue, then
//! retained messages of new subscriptions, which wait in the retained store and not here. It remembers what the disk has
//! of it and names the difference when asked; what comes and goes between two questions never gets there.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::packet::Options;
use super::retained::Retained;
use super::stored::Life;
use super::stored::Stored;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Most messages in flight to one client, whatever it allows: what is in flight is memory here.
pub const MAX_IN_FLIGHT: u16 = 100;
/// Retained messages fetched at once.
const REPLAY_STEP: usize = 32;

/// How much may wait for one client.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Messages in the queue.
    pub messages: usize,
    /// Bytes in the queue and in flight.
    pub bytes: usize,
}

/// A subscription as the session keeps it; its key is the filter as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// Without `$share/{name}/`.
    pub filter: TopicFilter,
    /// Share name.
    pub group: Option<Arc<str>>,
    /// Subscription identifier.
    pub identifier: Option<u32>,
    /// How to deliver.
    pub options: Options,
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

/// What differs from the disk.
#[derive(Debug, Default)]
pub struct Changes {
    /// New or changed.
    pub put: Vec<Entry>,
    /// Done with.
    pub gone: Vec<u64>,
    /// Subscriptions by their text; `None`: given back.
    pub subscriptions: Vec<(Arc<str>, Option<Subscribed>)>,
    /// QoS 2 messages received and not released, all of them, where that changed.
    pub received: Option<Vec<u16>>,
}

impl Changes {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty() && self.subscriptions.is_empty() && self.received.is_none()
    }
}

/// How much to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What was there at the last question already: most messages to a connected client live shorter.
    Settled,
    /// Everything.
    All,
}

/// What the disk has of a session beside its entries.
#[derive(Debug, Default)]
struct OnDisk {
    /// Something may differ.
    dirty: bool,
    /// Entries from here on came since the last question.
    young: u64,
    gone: Vec<u64>,
    subscriptions: HashSet<Arc<str>>,
    received: Vec<u16>,
    received_before: Vec<u16>,
}

/// Retained messages still to be read for a subscription.
#[derive(Debug)]
struct Replay {
    filter: TopicFilter,
    options: Options,
    identifier: Option<u32>,
    after: Option<TopicName>,
}

/// One client's state.
#[derive(Debug)]
pub struct Session {
    /// By the filter as written.
    subscriptions: HashMap<Arc<str>, Subscribed>,
    /// QoS 2 messages received and not released yet.
    received: HashSet<u16>,
    bounds: Bounds,
    window: usize,
    next_id: u16,
    next_seq: u64,
    disk: OnDisk,
    queue: VecDeque<Waiting>,
    bytes: usize,
    resend: VecDeque<InFlight>,
    in_flight: VecDeque<InFlight>,
    replays: VecDeque<Replay>,
    ready: VecDeque<Item>,
}

impl Session {
    /// Other bounds for what comes from now on.
    pub const fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// A new session.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            subscriptions: HashMap::new(),
            received: HashSet::new(),
            bounds,
            window: usize::from(MAX_IN_FLIGHT),
            next_id: 0,
            next_seq: 1,
            disk: OnDisk::default(),
            queue: VecDeque::new(),
            bytes: 0,
            resend: VecDeque::new(),
            in_flight: VecDeque::new(),
            replays: VecDeque::new(),
            ready: VecDeque::new(),
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
        self.queue.len() + self.resend.len()
    }

    /// Sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that wait or are in flight.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a QoS 1 or 2 message, if there is room.
    pub fn push(&mut self, item: Item) -> Room {
        let size = item.stored.size();
        let fits = self.bytes + size <= self.bounds.bytes || self.bytes == 0;
        if self.queue.len() >= self.bounds.messages || !fits {
            return Room::Full;
        }
        self.bytes += size;
        let seq = self.number();
        self.queue.push_back(Waiting { seq, kept: Kept::No, item });
        Room::Taken
    }

    /// Retained messages of a subscription are to be sent.
    pub fn replay(&mut self, subscribed: &Subscribed) {
        self.replays.retain(|r| r.filter != subscribed.filter);
        let Subscribed { filter, options, identifier, .. } = subscribed.clone();
        self.replays.push_back(Replay { filter, options, identifier, after: None });
    }

    /// Forgets retained messages still to be sent for a filter.
    pub fn stop_replay(&mut self, filter: &TopicFilter) {
        self.replays.retain(|r| r.filter != *filter);
    }

    /// What to send next; `None` when nothing waits or the window is full.
    pub fn next(&mut self, now: Instant, retained: &Retained) -> Option<Step> {
        let open = self.in_flight.len() < self.window;
        if let Some(front) = self.resend.front() {
            // Nothing overtakes what was sent before.
            if front.item.is_some() && !open {
                return None;
            }
            return self.send_again();
        }
        while open && let Some(waiting) = self.queue.pop_front() {
            if waiting.item.stored.life(now) == Life::Expired {
                self.bytes -= waiting.item.stored.size();
                self.off_disk(waiting.seq, waiting.kept);
                continue;
            }
            return Some(self.launch(waiting));
        }
        self.next_retained(now, retained, open)
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
        self.disk.dirty = true;
        self.in_flight.push_back(InFlight { id, seq, kept: kept.changed(), item: Some(item.clone()) });
        Step::Publish { id: Some(id), dup: false, item }
    }

    fn number(&mut self) -> u64 {
        self.disk.dirty = true;
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn off_disk(&mut self, seq: u64, kept: Kept) {
        if kept != Kept::No {
            self.disk.dirty = true;
            self.disk.gone.push(seq);
        }
    }

    fn next_retained(&mut self, now: Instant, retained: &Retained, open: bool) -> Option<Step> {
        while self.ready.is_empty() {
            self.fetch(now, retained)?;
        }
        if self.ready.front()?.qos == Qos::AtMostOnce {
            let item = self.ready.pop_front()?;
            return Some(Step::Publish { id: None, dup: false, item });
        }
        if !open {
            return None;
        }
        let item = self.ready.pop_front()?;
        self.bytes += item.stored.size();
        let seq = self.number();
        Some(self.launch(Waiting { seq, kept: Kept::No, item }))
    }

    /// `None` when no replay is left.
    fn fetch(&mut self, now: Instant, retained: &Retained) -> Option<()> {
        let replay = self.replays.front_mut()?;
        let some = retained.matching(&replay.filter, replay.after.as_ref(), REPLAY_STEP, now);
        match some.last() {
            Some(last) => replay.after = Some(last.message.topic.clone()),
            None => {
                self.replays.pop_front();
                return Some(());
            }
        }
        for stored in some {
            let qos = stored.message.qos.min(replay.options.qos);
            let identifiers = replay.identifier.into_iter().collect();
            self.ready.push_back(Item { stored, qos, retain: true, identifiers });
        }
        Some(())
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

    /// PUBACK, or a PUBREC that refuses. Unknown ones are ignored.
    pub fn acknowledged(&mut self, id: u16) {
        self.forget(id);
    }

    /// PUBREC: false when the id is not in flight.
    pub fn received(&mut self, id: u16) -> bool {
        let Some(entry) = self.in_flight.iter_mut().chain(&mut self.resend).find(|e| e.id == id) else { return false };
        if let Some(item) = entry.item.take() {
            self.bytes -= item.stored.size();
            entry.kept = entry.kept.changed();
            self.disk.dirty = true;
        }
        true
    }

    /// PUBCOMP. Unknown ones are ignored.
    pub fn completed(&mut self, id: u16) {
        self.forget(id);
    }

    /// What could not be sent (too large for the client) counts as delivered (MQTT-3.1.2-25).
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

    /// Subscriptions by the filter as written.
    pub const fn subscriptions(&self) -> &HashMap<Arc<str>, Subscribed> {
        &self.subscriptions
    }

    /// Adds or replaces a subscription; the one before, if any.
    pub fn subscribe(&mut self, text: Arc<str>, subscribed: Subscribed) -> Option<Subscribed> {
        let old = self.subscriptions.insert(Arc::clone(&text), subscribed);
        // Clients that subscribe anew at each connection write nothing.
        if old.as_ref() != self.subscriptions.get(&text) {
            self.disk.dirty = true;
            self.disk.subscriptions.insert(text);
        }
        old
    }

    /// Gives a subscription back.
    pub fn unsubscribe(&mut self, text: &str) -> Option<Subscribed> {
        let (text, old) = self.subscriptions.remove_entry(text)?;
        self.disk.dirty = true;
        self.disk.subscriptions.insert(text);
        Some(old)
    }

    /// QoS 2 messages received and not released.
    pub const fn unreleased(&self) -> &HashSet<u16> {
        &self.received
    }

    /// A QoS 2 message was taken in.
    pub fn took(&mut self, id: u16) {
        self.disk.dirty = true;
        self.received.insert(id);
    }

    /// PUBREL: false when the id is unknown.
    pub fn release(&mut self, id: u16) -> bool {
        self.disk.dirty = true;
        self.received.remove(&id)
    }

    /// What the disk does not have yet; from now on it is taken as written.
    pub fn changes(&mut self, depth: Depth) -> Changes {
        let mut changes = Changes::default();
        if !self.disk.dirty && depth == Depth::Settled {
            return changes;
        }
        let young = if depth == Depth::All { u64::MAX } else { self.disk.young };
        self.disk.young = self.next_seq;
        changes.gone = std::mem::take(&mut self.disk.gone);
        for entry in self.resend.iter_mut().chain(&mut self.in_flight) {
            if entry.kept == Kept::Stale || (entry.kept == Kept::No && entry.seq < young) {
                entry.kept = Kept::Yes;
                changes.put.push(Entry { seq: entry.seq, id: Some(entry.id), item: entry.item.clone() });
            }
        }
        // What the disk has is in front.
        for waiting in self.queue.iter_mut().rev().take_while(|w| w.kept == Kept::No) {
            if waiting.seq < young {
                waiting.kept = Kept::Yes;
                changes.put.push(Entry { seq: waiting.seq, id: None, item: Some(waiting.item.clone()) });
            }
        }
        for text in std::mem::take(&mut self.disk.subscriptions) {
            let subscribed = self.subscriptions.get(&text).cloned();
            changes.subscriptions.push((text, subscribed));
        }
        changes.received = self.received_changed(depth);
        let flying = self.resend.iter().chain(&self.in_flight).any(|entry| entry.kept != Kept::Yes);
        self.disk.dirty = flying
            || self.queue.back().is_some_and(|waiting| waiting.kept == Kept::No)
            || self.disk.received != self.disk.received_before;
        changes
    }

    fn received_changed(&mut self, depth: Depth) -> Option<Vec<u16>> {
        let mut ids: Vec<u16> = self.received.iter().copied().collect();
        ids.sort_unstable();
        let before = std::mem::replace(&mut self.disk.received_before, ids.clone());
        if depth == Depth::Settled {
            ids.retain(|id| before.binary_search(id).is_ok());
        }
        (ids != self.disk.received).then(|| {
            self.disk.received.clone_from(&ids);
            ids
        })
    }

    /// The disk has nothing of this session any more.
    pub fn forget_disk(&mut self) {
        let flying = self.resend.iter_mut().chain(&mut self.in_flight).map(|entry| &mut entry.kept);
        flying.chain(self.queue.iter_mut().map(|waiting| &mut waiting.kept)).for_each(|kept| *kept = Kept::No);
        self.disk = OnDisk { dirty: true, young: self.next_seq, ..OnDisk::default() };
        self.disk.subscriptions = self.subscriptions.keys().cloned().collect();
    }

    /// Puts back what the disk had: before anything else happens to a new session.
    pub fn restore(&mut self, entries: Vec<Entry>, subscriptions: Vec<(Arc<str>, Subscribed)>, received: Vec<u16>) {
        for Entry { seq, id, item } in entries {
            self.next_seq = self.next_seq.max(seq + 1);
            self.bytes += item.as_ref().map_or(0, |item| item.stored.size());
            let kept = Kept::Yes;
            match (id, item) {
                (Some(id), item) => self.in_flight.push_back(InFlight { id, seq, kept, item }),
                (None, Some(item)) => self.queue.push_back(Waiting { seq, kept, item }),
                (None, None) => {}
            }
        }
        self.subscriptions.extend(subscriptions);
        self.disk.received.clone_from(&received);
        self.disk.received_before.clone_from(&received);
        self.received.extend(received);
        self.disk.young = self.next_seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::message::Retain;
    use bytes::Bytes;

    fn item(text: &'static str) -> Item {
        let topic = TopicName::new("t").unwrap();
        let message = Message::plain(topic, Bytes::from_static(text.as_bytes()), Qos::AtLeastOnce, Retain::No);
        let stored = Arc::new(Stored { message, born: Instant::now() });
        Item { stored, qos: Qos::AtLeastOnce, retain: false, identifiers: Vec::new() }
    }

    fn session() -> Session {
        Session::new(Bounds { messages: 3, bytes: 10_000 })
    }

    fn sent(session: &mut Session) -> Vec<(u16, bool)> {
        let retained = Retained::default();
        let steps = std::iter::from_fn(|| session.next(Instant::now(), &retained));
        steps
            .map(|step| match step {
                Step::Publish { id, dup, .. } => (id.unwrap(), dup),
                Step::Release(id) => (id, true),
            })
            .collect()
    }

    #[test]
    fn packet_ids_are_never_zero_nor_reused_in_flight() {
        let mut session = session();
        session.next_id = u16::MAX - 1;
        session.push(item("a"));
        session.push(item("b"));
        assert_eq!(sent(&mut session), [(u16::MAX, false), (1, false)]);
        session.next_id = u16::MAX - 1;
        session.push(item("c"));
        assert_eq!(sent(&mut session), [(2, false)]);
    }

    #[test]
    fn the_window_holds_back_and_an_ack_lets_the_next_go() {
        let mut session = session();
        session.resume(2);
        for text in ["a", "b", "c"] {
            assert_eq!(session.push(item(text)), Room::Taken);
        }
        assert_eq!(session.push(item("d")), Room::Full);
        assert_eq!(sent(&mut session).len(), 2);
        session.acknowledged(1);
        assert_eq!(sent(&mut session), [(3, false)]);
        for id in [2, 3] {
            session.acknowledged(id);
        }
        assert_eq!(session.bytes(), 0);
    }

    #[test]
    fn a_new_connection_sends_again_in_order_with_dup() {
        let mut session = session();
        session.resume(10);
        for text in ["a", "b", "c"] {
            session.push(item(text));
        }
        sent(&mut session);
        session.acknowledged(2);
        session.resume(1);
        session.push(item("d"));
        assert_eq!(sent(&mut session), [(1, true)], "a smaller window of the new connection holds");
        session.acknowledged(1);
        assert_eq!(sent(&mut session), [(3, true)]);
        session.acknowledged(3);
        assert_eq!(sent(&mut session), [(4, false)]);
    }

    #[test]
    fn a_released_message_is_released_again_and_not_published_again() {
        let mut session = session();
        session.push(item("a"));
        sent(&mut session);
        assert!(session.received(1));
        assert!(!session.received(9));
        session.resume(10);
        let step = session.next(Instant::now(), &Retained::default());
        assert!(matches!(step, Some(Step::Release(1))));
        session.completed(1);
        assert_eq!((session.in_flight(), session.bytes()), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_but_takes_one_that_is_larger_alone() {
        let mut session = Session::new(Bounds { messages: 100, bytes: 10 });
        assert_eq!(session.push(item("a")), Room::Taken);
        assert_eq!(session.push(item("b")), Room::Full);
    }
}
