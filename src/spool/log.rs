//! The log itself: two storeys and the cursors, without threads or waiting, so that a model can be held against it.
//! Memory holds the newest stretch, unbroken up to the newest entry; the disk holds what was committed below it.
//! Entries at or under `committed` are on disk too and stay in memory only as a copy to read from.

mod cursor;
mod damage;
mod limits;
mod look;
mod read;
mod renew;

use std::collections::VecDeque;
use std::time::Duration;

use self::cursor::Cursor;
use self::cursor::both;
use self::cursor::counts;
use self::limits::Calm;
pub(super) use self::read::Question;
pub use self::renew::Leaver;
use super::Link;
use super::Seq;
use super::SpoolError;
use super::Standing;
use super::Subscriber;
use super::disk::Commit;
use super::disk::Disk;
use super::disk::Durability;
use super::disk::Place;
use super::row::Content;
use super::row::Taken;
use crate::config::plant::Keep;
use crate::config::plant::Replay;
use crate::config::plant::Spool as Settings;
use crate::message::Class;
use crate::message::Message;
use crate::status::SpoolStatus;
use crate::time::Stamp;

/// A bit each.
const UPSTREAMS_MOST: usize = 64;
/// Most entries in memory while the disk cannot be written; beyond it `when_full` decides, counted.
const MEMORY_MOST: usize = 200_000;
/// More than this in memory is no small lag any more: to disk.
const MEMORY_WINDOW: usize = 10_000;
/// Copies of committed entries kept to read from, so that a short outage is sent without touching the disk.
const COPIES: usize = 2_000;
/// An entry that waits longer for its acknowledgement goes to disk although the link counts as up: it may be a black
/// hole.
const LAG: Duration = Duration::from_millis(750);
/// Commits are this far apart at least: one of few rows writes whole pages all the same, and flash wears by them.
pub(super) const PACE: Duration = Duration::from_millis(400);
/// So many acknowledgements are written without waiting for the pace: after a kill as many would be sent twice.
const WINDOW: u64 = 100;
/// Most rows in one transaction.
const COMMIT_ROWS: usize = 10_000;
/// Wall times before 2020 come from a clock that was never set: they say nothing about age.
const CLOCK_SET: i64 = 1_577_836_800_000_000;

/// An entry in memory.
#[derive(Debug)]
struct Held {
    seq: Seq,
    content: Content,
    taken: Stamp,
    came: Stamp,
    wanted: u64,
}

impl Held {
    /// `None` for a gap.
    const fn class(&self) -> Option<Class> {
        match &self.content {
            Content::Message(message) => Some(message.class),
            Content::Gap(_) => None,
        }
    }

    const fn wanted_by(&self, upstream: usize) -> bool {
        self.wanted >> upstream & 1 == 1
    }
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    settings: Settings,
    boot: u64,
    disk: Option<Disk>,
    memory: VecDeque<Held>,
    cursors: Vec<Cursor>,
    last: Seq,
    committed: Seq,
    /// All rows up to here are alarms: eviction looks behind it.
    alarms_upto: Seq,
    cursors_dirty: bool,
    closing: bool,
    /// Least time between two commits.
    pace: Duration,
    /// When the last one was, by the monotonic clock, and how many entries had been acknowledged then.
    committed_at: (u64, u64),
    counts: SpoolStatus,
    /// The wall clock for ages.
    calm: Calm,
}

impl Log {
    /// Opens the file and finds each upstream's place; a new upstream begins at the end.
    pub(super) fn open(settings: Settings, upstreams: Vec<Subscriber>, boot: u64) -> Result<Self, SpoolError> {
        if upstreams.len() > UPSTREAMS_MOST {
            return Err(SpoolError::TooMany(upstreams.len()));
        }
        let mut log = Self::empty(settings, boot);
        log.open_disk(upstreams)?;
        Ok(log)
    }

    fn empty(settings: Settings, boot: u64) -> Self {
        Self {
            settings,
            boot,
            disk: None,
            memory: VecDeque::new(),
            cursors: Vec::new(),
            last: 0,
            committed: 0,
            alarms_upto: 0,
            cursors_dirty: true,
            closing: false,
            pace: Duration::ZERO,
            committed_at: (0, 0),
            counts: SpoolStatus::default(),
            calm: Calm::default(),
        }
    }

    /// The log of a gateway that does not run, as it lies there.
    pub(super) fn stored(settings: Settings, upstreams: Vec<Subscriber>) -> Result<Self, SpoolError> {
        let path = settings.path.clone();
        let disk = Disk::open_as_it_is(&path, settings.max_size)?;
        let mut log = Self::empty(settings, 0);
        log.place(disk, upstreams).map_err(|e| SpoolError::of(&path, &e))?;
        Ok(log)
    }

    fn open_disk(&mut self, upstreams: Vec<Subscriber>) -> Result<(), SpoolError> {
        let path = self.settings.path.clone();
        let (disk, aside) = Disk::open(&path, self.settings.max_size, self.boot)?;
        if let Some(aside) = aside {
            let words = format!("{} was damaged; set aside as {}, a new log begun", path.display(), aside.display());
            tracing::error!("{words}");
            self.counts.set_aside = Some(words);
            self.counts.set_aside_uptime_s = Some(crate::time::uptime().as_secs());
        }
        let sql = |e: rusqlite::Error| SpoolError::of(&path, &e);
        disk.keep_cursors(&upstreams.iter().map(|u| &*u.name).collect::<Vec<_>>()).map_err(sql)?;
        self.place(disk, upstreams).map_err(sql)
    }

    /// Every upstream at its place on this disk.
    fn place(&mut self, disk: Disk, upstreams: Vec<Subscriber>) -> rusqlite::Result<()> {
        let known = disk.cursors()?;
        self.last = disk.last_seq()?;
        // What went live and was acknowledged was never written, its number is used all the same.
        self.last = known.values().flat_map(|p| &p.ahead).fold(self.last, |last, (_, upto)| last.max(*upto));
        self.committed = self.last;
        self.cursors = upstreams
            .into_iter()
            .map(|who| {
                let place = known.get(&*who.name).cloned();
                Cursor::new(who, place, self.last)
            })
            .collect();
        self.disk = Some(disk);
        Ok(())
    }

    /// The same, with so much time between commits at least.
    pub(super) fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The upstreams' names, in order of their indices.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.cursors.iter().map(|c| &*c.who.name)
    }

    /// The index of an upstream.
    pub(super) fn index(&self, upstream: &str) -> Option<usize> {
        self.cursors.iter().position(|c| &*c.who.name == upstream)
    }

    /// Takes messages in; what no upstream wants is not kept.
    pub(super) fn append(&mut self, messages: Vec<Message>, now: Stamp) {
        for message in messages {
            let wanted = self.wanted(&message);
            if wanted == 0 {
                continue;
            }
            self.counts.appended += 1;
            let taken = message.own.as_ref().map_or(now, |own| own.sample.taken());
            if self.memory.len() >= MEMORY_MOST && !self.make_room(message.class) {
                self.turn_away(&message, taken, wanted);
                continue;
            }
            self.last += 1;
            for (_, cursor) in self.cursors.iter_mut().enumerate().filter(|(n, _)| wanted >> n & 1 == 1) {
                cursor.appended();
            }
            self.memory.push_back(Held {
                seq: self.last,
                content: Content::Message(message),
                taken,
                came: now,
                wanted,
            });
        }
    }

    fn wanted(&self, message: &Message) -> u64 {
        let bits = self.cursors.iter().enumerate().filter(|(_, c)| c.who.wants(message));
        bits.fold(0, |mask, (n, _)| mask | 1 << n)
    }

    /// All up to `upto` is done for this upstream.
    pub(super) fn acknowledge(&mut self, upstream: usize, upto: Seq) {
        let upto = upto.min(self.last);
        if upto <= self.cursors[upstream].acknowledged {
            return;
        }
        self.cursors[upstream].acknowledge(upto);
        self.cursors_dirty = true;
        let done = self.done();
        while self.memory.front().is_some_and(|h| h.seq <= done) {
            self.memory.pop_front();
        }
    }

    /// All up to `upto` is done on the live lane.
    pub(super) fn acknowledge_live(&mut self, upstream: usize, upto: Seq) {
        let Some(before) = self.cursors[upstream].acknowledge_live(upto.min(self.last)) else { return };
        self.cursors_dirty = true;
        let from = self.memory.partition_point(|h| h.seq <= before);
        let to = self.memory.partition_point(|h| h.seq <= upto);
        self.unwant((from, to), upstream);
    }

    /// One upstream waits no longer for this stretch of the memory.
    fn unwant(&mut self, (from, to): (usize, usize), upstream: usize) {
        for held in self.memory.range_mut(from..to) {
            held.wanted &= !(1 << upstream);
        }
        // What nobody waits for any more need not be written, though older entries are still there.
        if self.memory.range(from..to).any(|h| h.wanted == 0) {
            let kept: Vec<_> = self.memory.drain(from..to).filter(|h| h.wanted != 0).collect();
            kept.into_iter().enumerate().for_each(|(n, held)| self.memory.insert(from + n, held));
        }
    }

    /// What is done for all, as stretches.
    fn done_for_all(&self) -> Vec<(Seq, Seq)> {
        self.cursors.iter().fold(vec![(0, self.last)], |done, c| both(&done, &c.done()))
    }

    fn done(&self) -> Seq {
        self.cursors.iter().map(|c| c.acknowledged).min().unwrap_or(self.last)
    }

    /// What the bridge says about its link. Down: what was given out will be asked for again.
    pub(super) fn link(&mut self, upstream: usize, link: Link) {
        self.cursors[upstream].link(link);
        // What was passed over because it was in flight is the oldest again.
        self.alarms_upto = 0;
    }

    /// The link is up: how the log stands, and where its readers begin.
    pub(super) fn connected(&mut self, upstream: usize) -> Standing {
        self.link(upstream, Link::Up);
        let (newest, live_first) = (self.last, self.settings.replay == Replay::LiveFirst);
        let cursor = &mut self.cursors[upstream];
        let ahead = cursor.overtaken();
        if live_first {
            cursor.go_live(newest);
        }
        let live = cursor.live.is_some();
        if live {
            // On disk before the first new value goes: after a kill nobody else would know that what lies there is older.
            self.commit(false);
        }
        Standing { newest, live, ahead, replay_rate: self.settings.replay_rate }
    }

    /// The peer will never take this entry: it counts as refused when it is acknowledged with the others.
    pub(super) fn refuse(&mut self, upstream: usize, seq: Seq) {
        self.cursors[upstream].refuse(seq);
    }

    /// Whether entries have to go to disk now.
    fn must_commit(&self, now: Stamp) -> bool {
        let first = self.memory.partition_point(|h| h.seq <= self.committed);
        let Some(oldest) = self.memory.get(first) else { return false };
        self.settings.keep == Keep::Always
            || self.cursors.iter().any(|c| c.link == Link::Down && c.acknowledged < self.last)
            || self.memory.len() - first > MEMORY_WINDOW
            || now.mono_us.saturating_sub(oldest.came.mono_us) > u64::try_from(LAG.as_micros()).unwrap_or(u64::MAX)
    }

    /// Called every commit interval: writes what has to be written, keeps the limits, gives space back.
    pub(super) fn tick(&mut self, now: Stamp) {
        let acknowledged = self.cursors.iter().map(|c| c.account.acknowledged).sum::<u64>();
        let (before, known) = self.committed_at;
        let due = Duration::from_micros(now.mono_us.saturating_sub(before)) >= self.pace;
        let entries = (due || self.memory.len() > MEMORY_WINDOW) && self.must_commit(now);
        // Cursors matter on disk only while rows lie there: a healthy link writes nothing.
        let litter = self.disk.as_ref().is_some_and(|d| d.litter);
        let cursors = (due || acknowledged - known >= WINDOW) && (self.cursors_dirty || litter) && self.rows() > 0;
        if entries {
            self.commit_all();
        } else if cursors {
            self.commit(false);
        }
        if entries || cursors {
            self.committed_at = (now.mono_us, acknowledged);
        }
        self.expire(now);
        self.shrink();
    }

    /// Everything to disk, whatever `keep` says.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.commit_all();
        self.shrink();
    }

    /// In transactions of a bounded size, so that the limits are looked at between them.
    fn commit_all(&mut self) {
        loop {
            let before = self.committed;
            self.commit(true);
            if self.committed == before || self.committed == self.last {
                return;
            }
        }
    }

    fn rows(&self) -> u64 {
        self.disk.as_ref().map_or(0, |d| d.rows)
    }

    fn commit(&mut self, with_entries: bool) {
        if self.disk.is_none() && !self.reopen() {
            return;
        }
        let full = with_entries && self.keep_under_max_size();
        let done = self.done_for_all();
        let Some(disk) = &mut self.disk else { return };
        let run = disk.run;
        let from =
            if with_entries { self.memory.partition_point(|h| h.seq <= self.committed) } else { self.memory.len() };
        let entries: Vec<_> = self
            .memory
            .range(from..)
            .take(COMMIT_ROWS)
            .filter(|h| !(full && h.seq == self.last && h.class().is_none() && !self.closing))
            .map(|h| (h.seq, &h.content, Taken { run, stamp: h.taken }))
            .collect();
        let committed = entries.last().map_or(self.committed, |e| e.0);
        let commit = Commit { cursors: places(&self.cursors, &self.memory, committed), entries, done };
        match disk.commit(&commit) {
            Ok(()) => {
                self.committed = committed;
                self.cursors_dirty = false;
                self.counts.error = None;
                self.drop_copies();
            }
            Err(e) => self.fault(&e),
        }
    }

    fn drop_copies(&mut self) {
        while self.memory.len() > COPIES && self.memory.front().is_some_and(|h| h.seq <= self.committed) {
            self.memory.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) const fn disk(&mut self) -> Option<&mut Disk> {
        self.disk.as_mut()
    }

    /// For measurements.
    pub(super) fn durability(&self, durability: Durability) {
        if let Some(Err(e)) = self.disk.as_ref().map(|d| d.durability(durability)) {
            tracing::error!("spool: {e}");
        }
    }

    /// How things stand.
    pub(super) fn status(&self) -> SpoolStatus {
        let mut status = self.counts.clone();
        let first = self.memory.partition_point(|h| h.seq <= self.committed);
        status.in_memory = (self.memory.len() - first) as u64;
        status.on_disk = self.rows();
        status.disk_bytes = self.disk.as_ref().map_or(0, Disk::bytes);
        status.backlog = self.cursors.iter().map(|c| (c.who.name.to_string(), c.backlog)).collect();
        status.ledger = self.cursors.iter().map(|c| (c.who.name.to_string(), c.ledger())).collect();
        status
    }
}

/// Where each upstream stands on disk, while what lies above `committed` is in memory only.
fn places<'a>(cursors: &'a [Cursor], memory: &VecDeque<Held>, committed: Seq) -> Vec<(&'a str, Place)> {
    let place = |(n, c): (usize, &'a Cursor)| {
        let only_memory = memory.iter().rev().take_while(|h| h.seq > committed.max(c.acknowledged));
        let only_memory = only_memory.filter(|h| h.wanted_by(n) && counts(&h.content)).count();
        (&*c.who.name, c.place(only_memory as u64))
    };
    cursors.iter().enumerate().map(place).collect()
}
