//! What the disk is to have: the core names what changed since it was asked last, and takes back what was kept. Pure.
//! Flash is worn by bytes, so what changes often is written seldom: the gateway's own values every [`OWN_WINDOW`] (they
//! are published anew after every start), clients' retained messages in the next save (every half second) as long as few
//! change, else every [`BUSY_WINDOW`]; messages and in-flight state only if they are still there at the second save.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::core::Core;
use super::packet::Will;
use super::queue::Depth;
use super::router::Subscriber;
use super::router::Subscription;
use super::seat::Seat;
use super::session::Changes;
use super::session::Restored;
use super::session::Session;
use super::session::Subscribed;
use super::stored::Life;
use super::stored::Stored;
use super::will::LastWill;
use crate::message::Message;
use crate::topic::TopicName;

// Measured (`trunkline bench broker wear`): 1000 retained updates a second on 1000 topics cost 0.94 GB a day when they
// come from clients; the gateway's own are written a tenth as often.

/// The gateway's own values: a kill -9 costs at most this, until the first poll brings new ones.
pub const OWN_WINDOW: Duration = Duration::from_secs(600);
/// Retained messages of clients beyond [`QUICK_REFILL`]; a kill -9 brings back a value at most so old.
pub const BUSY_WINDOW: Duration = Duration::from_secs(60);
/// So many changes of retained messages are written with the next save before it counts as busy …
pub const QUICK_BURST: u32 = 256;
/// … and so many more for each second that goes by: a page of flash each.
pub const QUICK_REFILL: u32 = 1;
/// Topics remembered as changed while the disk cannot be written; beyond, everything is written when it can.
const MAX_TOUCHED: usize = 250_000;
/// Bytes of their names: a name has up to 64 kB, and one that was kept and cleared again is remembered all the same.
const MAX_TOUCHED_BYTES: usize = 16 * 1024 * 1024;

/// What one save writes, in this order.
#[derive(Debug, Default)]
pub struct Batch {
    /// Everything kept before is to go first.
    pub whole: bool,
    /// Sessions that ended.
    pub ended: Vec<u64>,
    /// Sessions that changed.
    pub sessions: Vec<SessionChanges>,
    /// Last wills by the number of their session, which need not be kept itself; `None`: no more.
    pub wills: Vec<(u64, Option<Arc<Will>>)>,
    /// Topics and what is retained there now.
    pub retained: Vec<(TopicName, Option<Arc<Stored>>)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        !self.whole
            && self.ended.is_empty()
            && self.sessions.is_empty()
            && self.wills.is_empty()
            && self.retained.is_empty()
    }
}

/// What changed in a session.
#[derive(Debug)]
pub struct SessionChanges {
    /// Its number on the disk.
    pub number: u64,
    /// Its row, where that changed.
    pub row: Option<Row>,
    /// The rest.
    pub changes: Changes,
}

/// A session without what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Client id.
    pub client_id: Arc<str>,
    /// Whose.
    pub user: Option<Arc<str>>,
    /// Seconds it outlives its connection.
    pub expiry: u32,
    /// Since when the client is away; `None`: it is there.
    pub left: Option<Instant>,
}

/// A session as the disk gave it back.
#[derive(Debug)]
pub struct SavedSession {
    /// Its number.
    pub number: u64,
    /// Its row; `left` is never later than the start.
    pub row: Row,
    /// What it holds.
    pub restored: Restored,
    /// Last will: the client was connected, or had gone and its delay was not over.
    pub will: Option<Will>,
}

/// Everything the disk gave back.
#[derive(Debug, Default)]
pub struct Saved {
    /// Sessions.
    pub sessions: Vec<SavedSession>,
    /// Wills of clients whose sessions ended with their connections, by number.
    pub orphans: Vec<(u64, Will)>,
    /// Retained messages.
    pub retained: Vec<Arc<Stored>>,
}

/// What the disk has of a seat.
#[derive(Debug)]
pub(super) struct Kept {
    number: u64,
    row: Option<Row>,
}

/// What the core remembers between two saves.
#[derive(Debug, Default)]
pub(super) struct Keep {
    /// Somebody saves.
    on: bool,
    whole: bool,
    last: u64,
    ended: Vec<u64>,
    pace: Pace,
}

/// Which retained topics changed, and when they are to be written.
#[derive(Debug, Default)]
struct Pace {
    quick: HashSet<TopicName>,
    busy: HashSet<TopicName>,
    own: HashSet<TopicName>,
    /// Of the names in the three.
    bytes: usize,
    tokens: u32,
    times: Option<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    refilled: Instant,
    busy: Instant,
    own: Instant,
}

impl Keep {
    /// A number for a new session.
    pub(super) const fn number(&mut self) -> Kept {
        self.last += 1;
        Kept { number: self.last, row: None }
    }

    pub(super) fn ended(&mut self, seat: &Seat) {
        if seat.kept.row.is_some() || seat.will.is_on_disk() {
            self.ended.push(seat.kept.number);
        }
    }

    /// A retained message changed. `$SYS` is the broker's own and new at each start.
    pub(super) fn touch(&mut self, now: Instant, message: &Message) {
        if !self.on || message.topic.as_str().starts_with("$SYS/") {
            return;
        }
        self.pace.touch(now, message);
        let topics = self.pace.quick.len() + self.pace.busy.len() + self.pace.own.len();
        if topics > MAX_TOUCHED || self.pace.bytes > MAX_TOUCHED_BYTES {
            self.pace = Pace::default();
            self.whole = true;
        }
    }
}

impl Pace {
    fn touch(&mut self, now: Instant, message: &Message) {
        let topic = &message.topic;
        if message.own.is_some() {
            self.bytes += if self.own.insert(topic.clone()) { topic.as_str().len() } else { 0 };
        } else if !self.quick.contains(topic) && !self.busy.contains(topic) {
            self.refill(now);
            self.bytes += topic.as_str().len();
            if self.tokens > 0 {
                self.tokens -= 1;
                self.quick.insert(topic.clone());
            } else {
                self.busy.insert(topic.clone());
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let Some(times) = &mut self.times else {
            self.tokens = QUICK_BURST;
            self.times = Some(Times { refilled: now, busy: now, own: now });
            return;
        };
        let seconds = now.saturating_duration_since(times.refilled).as_secs();
        times.refilled += Duration::from_secs(seconds);
        let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(QUICK_REFILL);
        self.tokens = self.tokens.saturating_add(more).min(QUICK_BURST);
    }

    fn due(&mut self, now: Instant, depth: Depth) -> Vec<TopicName> {
        self.refill(now);
        let mut due: Vec<TopicName> = self.quick.drain().collect();
        let Some(times) = &mut self.times else { return due };
        for (last, window, topics) in
            [(&mut times.busy, BUSY_WINDOW, &mut self.busy), (&mut times.own, OWN_WINDOW, &mut self.own)]
        {
            if depth == Depth::All || now.saturating_duration_since(*last) >= window {
                *last = now;
                due.extend(topics.drain());
            }
        }
        self.bytes -= due.iter().map(|topic| topic.as_str().len()).sum::<usize>();
        due
    }
}

impl Core {
    /// From now on changes are remembered for [`Core::save`], on top of what the disk had.
    pub fn restore(&mut self, now: Instant, saved: Saved) {
        self.keep.on = true;
        for stored in saved.retained {
            if stored.life(now) == Life::Expired || !self.retained.set(&stored) {
                self.keep.touch(now, &stored.message);
            }
        }
        for session in saved.sessions {
            self.keep.last = self.keep.last.max(session.number);
            self.restore_session(session);
        }
        // A broker that was killed has closed its connections like any other failure: what ended with them ended then.
        for (number, will) in saved.orphans {
            self.keep.last = self.keep.last.max(number);
            self.keep.ended.push(number);
            self.publish_will(now, None, &will);
        }
        // Wills whose delay and sessions whose time is over meanwhile.
        self.tick(now);
    }

    fn restore_session(&mut self, saved: SavedSession) {
        let SavedSession { number, row, restored, will } = saved;
        if self.by_id.contains_key(&row.client_id) {
            self.keep.ended.push(number);
            return;
        }
        let mut session = Session::new(self.bounds);
        session.restore(restored);
        if let Ok(id) = getrandom::u32() {
            session.queue().number_from((id & 0xFFFF) as u16);
        }
        // Whoever was connected is away since this start: nobody knows when the one before ended.
        let left = row.left.unwrap_or(self.started);
        let seat = Seat {
            client_id: Arc::clone(&row.client_id),
            user: row.user.clone(),
            session,
            conn: None,
            left,
            expiry: row.expiry,
            will: LastWill::restored(will, left, row.expiry),
            kept: Kept { number, row: Some(row) },
        };
        let client_id = Arc::clone(&seat.client_id);
        let key = self.seats.insert(seat);
        self.by_id.insert(client_id, key);
        let Some(seat) = self.seats.get(key) else { return };
        for subscribed in seat.session.subscriptions().values() {
            let Subscribed { filter, group, identifier, options } = subscribed;
            let who = Subscriber::Session(key);
            let subscription = Subscription { who, options: *options, identifier: *identifier };
            self.router.insert(filter, group.as_ref(), subscription);
        }
    }

    /// The disk lost everything: the next save writes all.
    pub fn lost(&mut self) {
        self.keep.whole = true;
    }

    /// What changed since the last call, if anything; from now on it is taken as written.
    pub fn save(&mut self, now: Instant, depth: Depth) -> Option<Batch> {
        let whole = std::mem::take(&mut self.keep.whole);
        if whole {
            self.forget_disk();
        }
        let depth = if whole { Depth::All } else { depth };
        let mut batch = Batch { whole, ended: std::mem::take(&mut self.keep.ended), ..Batch::default() };
        for seat in self.seats.iter_mut() {
            batch.sessions.extend(changes_of(seat, depth, &mut batch.ended));
            batch.wills.extend(seat.will.change(depth).map(|will| (seat.kept.number, will)));
        }
        let topics = self.keep.pace.due(now, depth);
        batch.retained = if whole {
            let all = self.retained.all().into_iter().filter(|s| !s.message.topic.as_str().starts_with("$SYS/"));
            all.map(|stored| (stored.message.topic.clone(), Some(stored))).collect()
        } else {
            topics.into_iter().map(|topic| (topic.clone(), self.retained.get(&topic).cloned())).collect()
        };
        (!batch.is_empty()).then_some(batch)
    }

    fn forget_disk(&mut self) {
        self.keep.ended.clear();
        for seat in self.seats.iter_mut() {
            seat.kept.row = None;
            seat.session.forget_disk();
            seat.will.forget_disk();
        }
    }
}

fn changes_of(seat: &mut Seat, depth: Depth, ended: &mut Vec<u64>) -> Option<SessionChanges> {
    let number = seat.kept.number;
    if seat.expiry == 0 {
        if seat.kept.row.take().is_some() {
            ended.push(number);
            seat.session.forget_disk();
            seat.will.forget_disk();
        }
        return None;
    }
    let left = seat.conn.is_none().then_some(seat.left);
    let now = Row { client_id: Arc::clone(&seat.client_id), user: seat.user.clone(), expiry: seat.expiry, left };
    if seat.kept.row.is_none() {
        // It may have lived for a while without being kept.
        seat.session.forget_disk();
    }
    let row = (seat.kept.row.as_ref() != Some(&now)).then(|| {
        seat.kept.row = Some(now.clone());
        now
    });
    let changes = seat.session.changes(depth);
    (row.is_some() || !changes.is_empty()).then_some(SessionChanges { number, row, changes })
}
