//! What the broker knows of one client, connected or not: subscriptions, QoS 2 messages half received, and through `queue`
//! and `replay` what is to be sent to it. Pure. It remembers what the disk has of it and names the difference when asked.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::packet::Options;
use super::queue::Bounds;
use super::queue::Depth;
use super::queue::Entry;
use super::queue::Item;
use super::queue::Queue;
use super::queue::Room;
use super::queue::Step;
use super::replay::Cursor;
use super::replay::Replays;
use super::retained::Retained;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

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
    /// Retained messages still to be sent, all of them, where that changed.
    pub replays: Option<Vec<Cursor>>,
}

impl Changes {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        let lists = self.put.is_empty() && self.gone.is_empty() && self.subscriptions.is_empty();
        lists && self.received.is_none() && self.replays.is_none()
    }
}

/// Whether the disk had a subscription at the last question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// One of this text.
    There,
    /// None.
    Absent,
}

/// A session as the disk gave it back.
#[derive(Debug, Default)]
pub struct Restored {
    /// In order.
    pub entries: Vec<Entry>,
    /// By their text.
    pub subscriptions: Vec<(Arc<str>, Subscribed)>,
    /// QoS 2 messages received and not released.
    pub received: Vec<u16>,
    /// Retained messages still to be sent.
    pub replays: Vec<Cursor>,
}

/// What the disk has of a session beside its queue.
#[derive(Debug, Default)]
struct OnDisk {
    /// Something may differ.
    dirty: bool,
    /// Texts whose subscriptions changed, and whether the disk had one before. What the disk never had and what is not there
    /// now leaves no note: a client may subscribe and give back for ever without a save in between.
    subscriptions: HashMap<Arc<str>, Before>,
    received: Vec<u16>,
    received_before: Vec<u16>,
    replays: Vec<Cursor>,
    /// As the last save saw them.
    replays_before: Vec<Cursor>,
}

/// Messages of QoS 2 that a client may leave half sent, which is two bytes each: a Mosquitto that bridges with MQTT 5 sends
/// all that waited (a thousand, if it is not told otherwise) when it is back, whatever it is allowed.
pub(super) const MAX_UNRELEASED: u16 = 2000;

/// One client's state.
#[derive(Debug)]
pub struct Session {
    /// By the filter as written.
    subscriptions: HashMap<Arc<str>, Subscribed>,
    /// QoS 2 messages received and not released yet.
    received: HashSet<u16>,
    queue: Queue,
    replays: Replays,
    disk: OnDisk,
}

impl Session {
    /// A new session.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            subscriptions: HashMap::new(),
            received: HashSet::new(),
            queue: Queue::new(bounds),
            replays: Replays::default(),
            disk: OnDisk::default(),
        }
    }

    /// A connection begins: what was in flight goes again, at most `window` at once.
    pub fn resume(&mut self, window: u16) {
        self.queue.resume(window);
    }

    /// Messages that wait, in flight not counted.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Other bounds; what waits already may stay beyond them.
    pub const fn bound(&mut self, bounds: Bounds) {
        self.queue.bound(bounds);
    }

    /// More than half of the messages wait that may.
    pub fn is_crowded(&self) -> bool {
        self.queue.is_crowded()
    }

    /// Drops what waits, was never sent, and is on a topic that is not for this client (any more).
    pub fn forget_waiting(&mut self, foreign: impl Fn(&TopicName) -> bool) {
        self.replays.forget(&foreign);
        self.queue.forget_waiting(foreign);
    }

    /// Sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// Bytes that wait or are in flight.
    pub const fn bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Takes a QoS 1 or 2 message, if there is room.
    pub fn push(&mut self, now: Instant, item: Item) -> Room {
        self.queue.push(now, item)
    }

    /// Retained messages of a subscription are to be sent.
    pub fn replay(&mut self, subscribed: &Subscribed) {
        self.disk.dirty = true;
        self.replays.begin(subscribed);
    }

    /// Forgets retained messages still to be sent for a filter.
    pub fn stop_replay(&mut self, filter: &TopicFilter) {
        self.disk.dirty = true;
        self.replays.stop(filter);
    }

    /// What to send next; `None` when nothing waits or the window is full. Retained messages come last: they can wait.
    pub fn next(&mut self, now: Instant, retained: &Retained) -> Option<Step> {
        if let Some(step) = self.queue.next(now) {
            return Some(step);
        }
        if self.queue.is_resending() {
            return None;
        }
        let qos = self.replays.peek(now, retained)?;
        if qos == Qos::AtMostOnce {
            return self.replays.pop().map(|item| Step::Publish { id: None, dup: false, item });
        }
        if !self.queue.is_open_for(qos) {
            return None;
        }
        self.replays.pop().map(|item| self.queue.send(item))
    }

    /// Whether a search for retained messages has paused so that others have their turn.
    pub fn is_searching(&self) -> bool {
        self.replays.is_searching()
    }

    /// Another turn: a search may go on.
    pub const fn take_turn(&mut self) {
        self.replays.take_turn();
    }

    /// Where acknowledgements go.
    pub const fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Forgets what waited longer than it was to live (MQTT-3.3.2-5).
    pub fn drop_expired(&mut self, now: Instant) {
        self.queue.drop_expired(now);
    }

    /// The session ends: what came through a shared group and may still go to another member of it.
    pub fn into_unfinished(self) -> impl Iterator<Item = Item> {
        self.queue.into_unfinished().filter(|item| item.share.is_some())
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
            let before = if old.is_some() { Before::There } else { Before::Absent };
            self.disk.subscriptions.entry(text).or_insert(before);
        }
        old
    }

    /// Gives a subscription back.
    pub fn unsubscribe(&mut self, text: &str) -> Option<Subscribed> {
        let (text, old) = self.subscriptions.remove_entry(text)?;
        self.disk.dirty = true;
        match self.disk.subscriptions.get(&text) {
            Some(Before::Absent) => drop(self.disk.subscriptions.remove(&text)),
            Some(Before::There) => {}
            None => drop(self.disk.subscriptions.insert(text, Before::There)),
        }
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
        if !self.disk.dirty && !self.queue.is_dirty() && depth == Depth::Settled {
            return changes;
        }
        (changes.put, changes.gone) = self.queue.changes(depth);
        for (text, _) in std::mem::take(&mut self.disk.subscriptions) {
            let subscribed = self.subscriptions.get(&text).cloned();
            changes.subscriptions.push((text, subscribed));
        }
        changes.received = self.received_changed(depth);
        changes.replays = self.replays_changed(depth);
        let is_replaying = !self.disk.replays_before.is_empty() || !self.disk.replays.is_empty();
        self.disk.dirty = self.disk.received != self.disk.received_before || is_replaying;
        changes
    }

    /// Most are over before the second save, and are never written. As long as something in flight is too young for the disk,
    /// the disk must not have it as sent either: then it gets how far they were at the save before.
    fn replays_changed(&mut self, depth: Depth) -> Option<Vec<Cursor>> {
        let mut cursors = self.replays.cursors();
        let before = std::mem::replace(&mut self.disk.replays_before, cursors.clone());
        if depth == Depth::Settled && (before.is_empty() || self.queue.is_dirty()) {
            cursors = before;
        }
        (cursors != self.disk.replays).then(|| {
            self.disk.replays.clone_from(&cursors);
            cursors
        })
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
        self.queue.forget_disk();
        self.disk = OnDisk { dirty: true, ..OnDisk::default() };
        self.disk.subscriptions = self.subscriptions.keys().map(|text| (Arc::clone(text), Before::Absent)).collect();
    }

    /// Puts back what the disk had: before anything else happens to a new session.
    pub fn restore(&mut self, restored: Restored) {
        let Restored { entries, subscriptions, received, replays } = restored;
        self.queue.restore(entries);
        self.subscriptions.extend(subscriptions);
        self.disk.received.clone_from(&received);
        self.disk.received_before.clone_from(&received);
        self.received.extend(received);
        self.disk.replays_before.clone_from(&replays);
        self.disk.dirty = !replays.is_empty();
        for Cursor { filter, sent } in &replays {
            if let Some(subscribed) = self.subscriptions.get(filter.as_str()) {
                self.replays.go_on(subscribed.clone(), sent.clone());
            }
        }
        self.disk.replays = replays;
    }
}
