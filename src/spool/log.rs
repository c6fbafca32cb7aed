//! The log itself: two storeys and the cursors, without threads or waiting, so that a model can be held against it.
//! Memory holds the newest stretch, unbroken up to the newest entry; the disk holds what was committed below it.
//! Entries at or under `committed` are on disk too and stay in memory only as a copy to read from.

mod cursor;
mod limits;

use std::collections::VecDeque;
use std::time::Duration;

use self::cursor::Cursor;
use self::cursor::counts;
use super::Batch;
use super::Entry;
use super::Link;
use super::Seq;
use super::SpoolError;
use super::Subscriber;
use super::disk::Commit;
use super::disk::Disk;
use super::row::Content;
use super::row::Taken;
use crate::config::plant::Keep;
use crate::config::plant::Spool as Settings;
use crate::message::Class;
use crate::message::Message;
use crate::status::SpoolStatus;
use crate::time::Stamp;

/// Most entries in memory while the disk cannot be written; beyond it `when_full` decides, counted.
const MEMORY_MOST: usize = 200_000;
/// More than this in memory is no small lag any more: to disk.
const MEMORY_WINDOW: usize = 10_000;
/// Copies of committed entries kept to read from, so that a short outage is sent without touching the disk.
const COPIES: usize = 2_000;
/// An entry that waits longer for its acknowledgement goes to disk although the link counts as up: it may be a black
/// hole.
const LAG: Duration = Duration::from_millis(750);
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
    counts: SpoolStatus,
}

impl Log {
    /// Opens the file and finds each upstream's place; a new upstream begins at the end.
    pub(super) fn open(settings: Settings, upstreams: Vec<Subscriber>, boot: u64) -> Result<Self, SpoolError> {
        if upstreams.len() > 64 {
            return Err(SpoolError::TooMany(upstreams.len()));
        }
        let mut log = Self {
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
            counts: SpoolStatus::default(),
        };
        log.open_disk(upstreams)?;
        Ok(log)
    }

    fn open_disk(&mut self, upstreams: Vec<Subscriber>) -> Result<(), SpoolError> {
        let path = self.settings.path.clone();
        let (disk, aside) = Disk::open(&path, self.settings.max_size, self.boot)?;
        if let Some(aside) = aside {
            let words = format!("{} was damaged; set aside as {}, a new log begun", path.display(), aside.display());
            tracing::error!("{words}");
            self.counts.set_aside = Some(words);
        }
        let sql = |e: rusqlite::Error| SpoolError::of(&path, &e);
        disk.keep_cursors(&upstreams.iter().map(|u| &*u.name).collect::<Vec<_>>()).map_err(sql)?;
        let known = disk.cursors().map_err(sql)?;
        self.last = disk.last_seq().map_err(sql)?;
        self.committed = self.last;
        self.cursors = upstreams
            .into_iter()
            .map(|who| {
                let place = known.get(&*who.name).copied();
                Cursor::new(who, place, self.last)
            })
            .collect();
        self.disk = Some(disk);
        Ok(())
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

    /// What the upstream wants after `after` (`None`: after its last acknowledgement). Nothing found and nothing in
    /// flight: its cursor moves on by itself.
    pub(super) fn batch(&mut self, upstream: usize, after: Option<Seq>, max: usize, now: Stamp) -> Batch {
        let acknowledged = self.cursors[upstream].acknowledged;
        let after = after.map_or(acknowledged, |a| a.max(acknowledged));
        self.cursors[upstream].rewind(after);
        let mut batch = Batch { entries: Vec::new(), upto: after };
        self.read_disk(upstream, max, &mut batch);
        self.read_memory(upstream, max, &mut batch);
        for entry in &mut batch.entries {
            restamp(&mut entry.message, now);
        }
        let cursor = &mut self.cursors[upstream];
        if batch.entries.is_empty() && cursor.handed.is_empty() && batch.upto > cursor.acknowledged {
            self.acknowledge(upstream, batch.upto);
        }
        if batch.entries.is_empty() && batch.upto == self.last && self.cursors[upstream].handed.is_empty() {
            self.cursors[upstream].found(0);
        }
        batch
    }

    fn read_disk(&mut self, upstream: usize, max: usize, batch: &mut Batch) {
        let memory_from = self.memory.front().map_or(Seq::MAX, |h| h.seq);
        while batch.entries.len() < max && batch.upto < self.committed && batch.upto + 1 < memory_from {
            let Some(disk) = &self.disk else { return };
            let rows = match disk.read(batch.upto, max) {
                Ok(rows) => rows,
                Err(e) => return self.fault(&e),
            };
            if rows.is_empty() {
                batch.upto = self.committed.min(memory_from - 1);
                return;
            }
            for (seq, decoded) in rows {
                if seq >= memory_from {
                    batch.upto = memory_from - 1;
                    return;
                }
                if batch.entries.len() == max {
                    return;
                }
                batch.upto = seq;
                let Some((content, taken)) = decoded else { continue };
                let counts = counts(&content);
                let cursor = &mut self.cursors[upstream];
                let message = match content {
                    Content::Gap(gap) => gap.message(cursor.name()),
                    Content::Message(message) => cursor.who.wants(&message).then_some(message),
                };
                if let Some(message) = message {
                    let message = mark_run(message, taken, self.disk.as_ref().map_or(0, |d| d.run));
                    batch.entries.push(Entry { seq, message });
                    cursor.handed.push_back((seq, counts));
                }
            }
        }
    }

    fn read_memory(&mut self, upstream: usize, max: usize, batch: &mut Batch) {
        let memory_from = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let disk_is_read = batch.upto >= self.committed || batch.upto + 1 >= memory_from;
        if !disk_is_read || batch.entries.len() == max {
            return;
        }
        let from = self.memory.partition_point(|h| h.seq <= batch.upto);
        for held in self.memory.range(from..) {
            if batch.entries.len() == max {
                return;
            }
            batch.upto = held.seq;
            if !held.wanted_by(upstream) {
                continue;
            }
            let cursor = &mut self.cursors[upstream];
            let message = match &held.content {
                Content::Gap(gap) => gap.message(cursor.name()),
                Content::Message(message) => Some(message.clone()),
            };
            if let Some(message) = message {
                batch.entries.push(Entry { seq: held.seq, message });
                cursor.handed.push_back((held.seq, counts(&held.content)));
            }
        }
        batch.upto = self.last;
    }

    /// All up to `upto` is done for this upstream.
    pub(super) fn acknowledge(&mut self, upstream: usize, upto: Seq) {
        let upto = upto.min(self.last);
        if !self.cursors[upstream].waits_for(upto) {
            return;
        }
        self.cursors[upstream].acknowledge(upto);
        self.cursors_dirty = true;
        let done = self.done();
        while self.memory.front().is_some_and(|h| h.seq <= done) {
            self.memory.pop_front();
        }
    }

    fn done(&self) -> Seq {
        self.cursors.iter().map(|c| c.acknowledged).min().unwrap_or(self.last)
    }

    /// What the bridge says about its link. Down: what was given out will be asked for again.
    pub(super) fn link(&mut self, upstream: usize, link: Link) {
        self.cursors[upstream].link = link;
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
        let entries = self.must_commit(now);
        // Cursors matter on disk only while rows lie there: a healthy link writes nothing.
        let cursors = self.cursors_dirty && self.rows() > 0;
        if entries {
            self.commit_all();
        } else if cursors {
            self.commit(false);
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
        let done = self.done();
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
        let cursors = self.cursors.iter().enumerate().map(|(n, c)| {
            let only_memory = self.memory.iter().rev().take_while(|h| h.seq > committed.max(c.acknowledged));
            let only_memory = only_memory.filter(|h| h.wanted_by(n) && counts(&h.content)).count();
            (&*c.who.name, c.place(only_memory as u64))
        });
        let commit = Commit { cursors: cursors.collect(), entries, done };
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

    /// The disk said no. What is in memory stays there; a damaged file is set aside and a new one begun.
    fn fault(&mut self, error: &rusqlite::Error) {
        let path = self.settings.path.display();
        let words = match SpoolError::of(&self.settings.path, error) {
            SpoolError::Damaged { why, .. } => {
                let aside = self.disk.take().and_then(Disk::set_aside);
                let aside = aside.map_or_else(|| "nowhere".to_owned(), |a| a.display().to_string());
                let words = format!("{path} was damaged ({why}); set aside as {aside}, a new log begun");
                self.counts.set_aside = Some(words.clone());
                self.lose_disk();
                words
            }
            other => format!("{other}; entries wait in memory"),
        };
        if self.counts.error.as_ref() != Some(&words) {
            tracing::error!("spool: {words}");
        }
        self.counts.error = Some(words);
    }

    /// After damage: what lay only on disk is gone and counted; copies in memory are written again.
    fn lose_disk(&mut self) {
        let first = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let mut lost = 0;
        for (n, cursor) in self.cursors.iter_mut().enumerate() {
            let held = self.memory.iter().filter(|h| h.wanted_by(n) && cursor.waits_for(h.seq) && counts(&h.content));
            let held = held.count() as u64;
            lost = lost.max(cursor.backlog.saturating_sub(held));
            cursor.found(held);
            cursor.handed.retain(|(seq, _)| *seq >= first);
        }
        self.counts.damaged += lost;
        self.committed = first - 1;
        self.alarms_upto = 0;
        self.cursors_dirty = true;
    }

    fn reopen(&mut self) -> bool {
        match Disk::open(&self.settings.path, self.settings.max_size, self.boot) {
            Ok((disk, _)) => {
                self.disk = Some(disk);
                true
            }
            Err(e) => {
                self.counts.error = Some(format!("{e}; entries wait in memory"));
                false
            }
        }
    }

    #[cfg(test)]
    pub(super) const fn disk(&mut self) -> Option<&mut Disk> {
        self.disk.as_mut()
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

/// Monotonic stamps of other runs mean nothing in this one: marked, so that nobody reckons with them.
fn mark_run(mut message: Message, taken: Taken, run: u64) -> Message {
    if taken.run != run
        && let Some(own) = &mut message.own
    {
        own.sample = restamped(&own.sample, Stamp { mono_us: u64::MAX, wall_us: taken.stamp.wall_us });
    }
    message
}

/// A value taken before the clock was set gets the right time when it leaves, while the run that took it lives.
fn restamp(message: &mut Message, now: Stamp) {
    let Some(own) = &mut message.own else { return };
    let taken = own.sample.taken();
    if taken.wall_us >= CLOCK_SET || now.wall_us < CLOCK_SET || taken.mono_us > now.mono_us {
        return;
    }
    let wall_us = now.wall_us - i64::try_from(now.mono_us - taken.mono_us).unwrap_or(0);
    own.sample = restamped(&own.sample, Stamp { mono_us: taken.mono_us, wall_us });
    message.payload = bytes::Bytes::new();
}

fn restamped(sample: &crate::sample::Sample, taken: Stamp) -> crate::sample::Sample {
    use crate::sample::Quality;
    use crate::sample::Sample;
    match (sample.quality(), sample.value()) {
        (Quality::Good, Some(value)) => Sample::good(sample.point(), value.clone(), taken),
        (Quality::Stale(reason), Some(value)) => Sample::stale(sample.point(), value.clone(), reason, taken),
        (Quality::Bad(reason), _) => Sample::bad(sample.point(), reason, taken),
        (_, None) => sample.clone(),
    }
}
