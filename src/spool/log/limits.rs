//! How the log stays within its bounds: bytes on disk, age, and space given back. What leaves here leaves without
//! acknowledgement and is counted; alarms leave last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::Seq;
use super::super::disk::Leaving;
use super::super::disk::Row;
use super::super::gap::Gap;
use super::super::row::Content;
use super::super::row::Taken;
use super::CLOCK_SET;
use super::Held;
use super::Log;
use super::cursor::Cursor;
use super::cursor::Why;
use super::places;
use crate::config::plant::WhenFull;
use crate::message::Class;
use crate::message::Message;
use crate::time::Stamp;

/// Rows dropped at once when the log is too large.
const EVICT_AT_ONCE: usize = 1_000;
/// Free pages that are worth giving back while rows remain (4 MB).
const FREE_WORTH_SHRINKING: u64 = 4 << 20;

/// What is about to leave without acknowledgement. Each upstream gets one gap, in the place of the last entry that it
/// loses: behind all that it has read, before all that it has not.
#[derive(Debug, Default)]
struct Departure {
    /// Entries, and who waited for them.
    gone: Vec<(Seq, u64)>,
    /// By upstream.
    gaps: BTreeMap<usize, (Seq, Gap)>,
    /// What is left of earlier gaps that became part of these.
    earlier: Vec<(Seq, Gap)>,
}

impl Departure {
    /// This entry goes; those who want it are named by bits.
    fn entry(&mut self, log: &Log, seq: Seq, (message, taken, wanted): (&Message, Stamp, u64)) {
        let by = log.waiting(seq, wanted);
        for (n, cursor) in log.cursors.iter().enumerate().filter(|(n, _)| by >> n & 1 == 1) {
            let (at, gap) = self.gaps.entry(n).or_default();
            *at = seq;
            gap.add(cursor.name(), &message.topic, taken.wall_us);
        }
        self.gone.push((seq, by));
    }

    /// An earlier gap becomes part of the new one, but not for whom it is under way already.
    fn earlier(&mut self, log: &Log, seq: Seq, mut gap: Gap) {
        let before = gap.clone();
        let cursor = |name: &Arc<str>| log.index(name).map(|n| (n, &log.cursors[n]));
        let _nobody_waits = gap.take(|name| cursor(name).is_none_or(|(_, c)| !c.waits_for(seq)));
        for (n, (_, new)) in &mut self.gaps {
            let joins = |name: &Arc<str>| cursor(name).is_some_and(|(m, c)| m == *n && !c.in_flight(seq));
            new.merge(gap.take(joins));
        }
        if gap != before {
            self.earlier.push((seq, gap));
        }
    }

    /// The entry or gap that lies at this place of the memory.
    fn held(&mut self, log: &Log, n: usize) {
        let held = &log.memory[n];
        match &held.content {
            Content::Message(message) => self.entry(log, held.seq, (message, held.taken, held.wanted)),
            Content::Gap(gap) => self.earlier(log, held.seq, gap.clone()),
        }
    }

    /// Entries that this upstream loses.
    fn count(&self, upstream: usize) -> u64 {
        self.gone.iter().filter(|(_, by)| by >> upstream & 1 == 1).count() as u64
    }

    /// The new gaps, by place.
    fn markers(&self) -> BTreeMap<Seq, Gap> {
        let mut markers = BTreeMap::<Seq, Gap>::new();
        for (at, gap) in self.gaps.values() {
            markers.entry(*at).or_default().merge(gap.clone());
        }
        markers
    }
}

impl Log {
    /// Drops the oldest rows, alarms last, until a commit fits again. True: new entries had to go instead.
    pub(super) fn keep_under_max_size(&mut self) -> bool {
        let limit = self.settings.max_size;
        loop {
            let Some(disk) = &self.disk else { return false };
            let wal = disk.bytes().saturating_sub(disk.used_and_free().map_or(0, |(used, free)| used + free));
            let used = match disk.used_and_free() {
                Ok((used, _)) => used,
                Err(e) => {
                    self.fault(&e);
                    return false;
                }
            };
            // A twentieth is left free for what the next commit brings.
            if used + wal <= limit - limit / 20 || disk.rows == 0 {
                return false;
            }
            if wal > limit / 16 {
                if let Err(e) = disk.shrink(0) {
                    self.fault(&e);
                    return false;
                }
                if used <= limit - limit / 20 {
                    return false;
                }
            }
            if self.settings.when_full == WhenFull::DropNewest {
                self.drop_uncommitted();
                return true;
            }
            if !self.evict() {
                return false;
            }
        }
    }

    /// Those who still wait for this, of those who want it.
    fn waiting(&self, seq: Seq, wanted: u64) -> u64 {
        let waits = |(n, cursor): &(usize, &Cursor)| wanted >> n & 1 == 1 && cursor.waits_for(seq);
        self.cursors.iter().enumerate().filter(waits).fold(0, |mask, (n, _)| mask | 1 << n)
    }

    /// Whether a bridge has it: then it may be delivered already, and is neither dropped nor told as missing.
    fn in_flight(&self, seq: Seq) -> bool {
        self.cursors.iter().any(|c| c.in_flight(seq))
    }

    /// There is no room for this one: it becomes part of the gap at the end.
    pub(super) fn turn_away(&mut self, message: &Message, taken: Stamp, wanted: u64) {
        self.counts.evicted += 1;
        let mut gap = Gap::default();
        for (_, cursor) in self.cursors.iter_mut().enumerate().filter(|(n, _)| wanted >> n & 1 == 1) {
            cursor.turned_away();
            gap.add(cursor.name(), &message.topic, taken.wall_us);
        }
        self.cursors_dirty = true;
        // A gap that somebody has read already cannot grow any more for him.
        let unread = |seq: Seq, last: &Gap| {
            let index = |name: &Arc<str>| self.index(name).map(|n| &self.cursors[n]);
            let part = |name| last.upstreams().any(|n| n == name);
            let open = |name| index(name).is_some_and(|c| c.waits_for(seq) && !c.in_flight(seq));
            seq > self.committed && gap.upstreams().all(|name| part(name) && open(name))
        };
        let grows = self.memory.back().is_some_and(|h| matches!(&h.content, Content::Gap(g) if unread(h.seq, g)));
        match self.memory.back_mut() {
            Some(Held { content: Content::Gap(last), .. }) if grows => last.merge(gap),
            _ => {
                self.last += 1;
                let (seq, content) = (self.last, Content::Gap(gap));
                self.memory.push_back(Held { seq, content, taken, came: taken, wanted });
            }
        }
    }

    /// Memory is full because the disk takes nothing: drops one old entry, or says that the new one has to go.
    pub(super) fn make_room(&mut self, class: Class) -> bool {
        if self.memory.front().is_some_and(|h| h.seq <= self.committed) {
            self.memory.pop_front();
            return true;
        }
        if self.settings.when_full == WhenFull::DropNewest && class == Class::Normal {
            return false;
        }
        let of = |class| self.memory.iter().position(|h| h.class() == Some(class) && !self.in_flight(h.seq));
        let Some(n) = of(Class::Normal).or_else(|| of(Class::Alarm).filter(|_| class == Class::Alarm)) else {
            return false;
        };
        let mut departure = Departure::default();
        departure.held(self, n);
        if let Some(before) = n.checked_sub(1) {
            departure.held(self, before);
        }
        self.depart(departure, Why::Full);
        true
    }

    /// `drop-newest` with a full disk: new entries but alarms become gaps.
    fn drop_uncommitted(&mut self) {
        let from = self.memory.partition_point(|h| h.seq <= self.committed);
        let goes = |h: &Held| h.class() == Some(Class::Normal) && !self.in_flight(h.seq);
        let (gone, gaps): (Vec<_>, Vec<_>) = (from..self.memory.len())
            .filter(|n| goes(&self.memory[*n]) || self.memory[*n].class().is_none())
            .partition(|n| goes(&self.memory[*n]));
        let mut departure = Departure::default();
        gone.into_iter().chain(gaps).for_each(|n| departure.held(self, n));
        self.depart(departure, Why::Full);
    }

    fn evict(&mut self) -> bool {
        let Some(disk) = &self.disk else { return false };
        let from = self.alarms_upto;
        let rows = match disk.read(from, EVICT_AT_ONCE) {
            Ok(rows) => rows,
            Err(e) => {
                self.fault(&e);
                return false;
            }
        };
        let Some(end) = rows.last().map(|r| r.0) else {
            // Nothing but alarms is left: then the oldest of them go.
            self.alarms_upto = 0;
            return from > 0 && self.evict_rows(|_| true);
        };
        let goes = |(seq, decoded): &Row| match decoded {
            Some((content, _)) => class(content) == Some(Class::Normal) && !self.in_flight(*seq),
            None => true,
        };
        if !rows.iter().any(goes) {
            self.alarms_upto = end;
            return true;
        }
        let at = self.drop_rows(rows, |m| m.class == Class::Normal, Why::Full);
        // The gap is looked at again, so that it grows instead of having neighbours.
        self.alarms_upto = at.map_or(self.alarms_upto, |at| at - 1);
        at.is_some()
    }

    fn evict_rows(&mut self, which: impl Fn(&Message) -> bool) -> bool {
        let rows = self.disk.as_ref().and_then(|d| d.read(0, EVICT_AT_ONCE).ok()).unwrap_or_default();
        self.drop_rows(rows, which, Why::Full).is_some()
    }

    /// Drops rows and leaves gaps in the place of the last of each upstream; says where the first of them is. `None`:
    /// there was nothing to drop, or the disk does not let it.
    fn drop_rows(&mut self, rows: Vec<Row>, which: impl Fn(&Message) -> bool, why: Why) -> Option<Seq> {
        let (mut departure, mut earlier) = (Departure::default(), Vec::new());
        for (seq, decoded) in rows {
            match decoded {
                None => departure.gone.push((seq, 0)),
                Some((Content::Message(message), taken)) if which(&message) && !self.in_flight(seq) => {
                    departure.entry(self, seq, (&message, taken.stamp, self.wanted_at(seq, &message)));
                }
                Some((Content::Gap(gap), _)) => earlier.push((seq, gap)),
                Some(_) => {}
            }
        }
        let last = departure.gone.last()?.0;
        earlier.into_iter().for_each(|(seq, gap)| departure.earlier(self, seq, gap));
        let markers = departure.markers();
        let mut cursors = places(&self.cursors, &self.memory, self.committed);
        for (n, (_, place)) in cursors.iter_mut().enumerate() {
            place.left(departure.count(n), why);
        }
        let emptied = departure.earlier.iter().filter(|(_, gap)| gap.is_empty()).map(|(seq, _)| *seq);
        let gone = departure.gone.iter().map(|g| g.0).chain(emptied).collect();
        let kept = departure.earlier.iter().filter(|(_, gap)| !gap.is_empty()).map(|(seq, gap)| (*seq, gap));
        let gaps = markers.iter().map(|(seq, gap)| (*seq, gap)).chain(kept).collect();
        let leaving = Leaving { gone, gaps, cursors };
        if let Some(Err(e)) = self.disk.as_mut().map(|d| d.leave(&leaving)) {
            self.fault(&e);
            return None;
        }
        let at = markers.keys().next().copied().unwrap_or(last);
        self.depart(departure, why);
        Some(at)
    }

    /// Memory and books after entries left without acknowledgement.
    fn depart(&mut self, departure: Departure, why: Why) {
        for n in 0..self.cursors.len() {
            self.cursors[n].left(departure.count(n), why);
        }
        let left = departure.gone.iter().filter(|(_, by)| *by != 0).count() as u64;
        match why {
            Why::Full => self.counts.evicted += left,
            Why::Old => self.counts.expired += left,
            Why::Cleared => {}
        }
        let markers = departure.markers();
        for (seq, _) in departure.gone {
            if let Ok(n) = self.memory.binary_search_by_key(&seq, |h| h.seq) {
                self.memory.remove(n);
            }
        }
        for (seq, gap) in departure.earlier {
            if let Ok(n) = self.memory.binary_search_by_key(&seq, |h| h.seq) {
                match gap.is_empty() {
                    true => drop(self.memory.remove(n)),
                    false => self.memory[n].content = Content::Gap(gap),
                }
            }
        }
        for (at, gap) in markers {
            if at > self.committed || self.memory.front().is_some_and(|h| h.seq <= at) {
                let by = gap.upstreams().filter_map(|name| self.index(name)).fold(0, |mask, n| mask | 1 << n);
                let place = self.memory.partition_point(|h| h.seq < at);
                let (content, taken) = (Content::Gap(gap), Taken::NEVER.stamp);
                self.memory.insert(place, Held { seq: at, content, taken, came: taken, wanted: by });
            }
        }
        self.cursors_dirty = true;
    }

    /// Drops rows older than `max_age`.
    pub(super) fn expire(&mut self, now: Stamp) {
        let now = self.calm.reckon(now);
        loop {
            let Some(disk) = &self.disk else { return };
            if disk.rows == 0 {
                return;
            }
            // A few rows are looked at every tick; the rest only when one of those is too old.
            let old = |row: &Row| match &row.1 {
                Some((Content::Message(_), taken)) => age(*taken, disk.run, now) > self.settings.max_age,
                Some((Content::Gap(_), _)) => false,
                None => true,
            };
            if !disk.read(0, 4).is_ok_and(|rows| rows.iter().any(old)) {
                return;
            }
            let gap = |row: &Row| matches!(row.1, Some((Content::Gap(_), _)));
            let rows = disk.read(0, EVICT_AT_ONCE).unwrap_or_default();
            let rows = rows.into_iter().take_while(|row| old(row) || gap(row)).collect();
            if self.drop_rows(rows, |_| true, Why::Old).is_none() {
                return;
            }
        }
    }

    /// Gives space back after a drain.
    pub(super) fn shrink(&mut self) {
        let Some(disk) = &self.disk else { return };
        let result = disk.used_and_free().and_then(|(_, free)| {
            let worth = if disk.rows == 0 { 1 } else { FREE_WORTH_SHRINKING };
            if free >= worth { disk.shrink(2048) } else { Ok(()) }
        });
        if let Err(e) = result {
            self.fault(&e);
        }
    }
}

const fn class(content: &Content) -> Option<Class> {
    match content {
        Content::Message(message) => Some(message.class),
        Content::Gap(_) => None,
    }
}

/// A wall clock that may be set at any moment, for ages that reach back before this run. The earliest reckoning counts: set
/// ahead by a year for an hour, the clock must not cost what waits, and what is kept too long is no harm.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calm {
    /// When this run began, by the earliest clock that was ever set.
    began_us: Option<i64>,
}

impl Calm {
    fn reckon(&mut self, now: Stamp) -> Stamp {
        let mono = i64::try_from(now.mono_us).unwrap_or(i64::MAX);
        if now.wall_us >= CLOCK_SET {
            let began = now.wall_us.saturating_sub(mono);
            self.began_us = Some(self.began_us.map_or(began, |was| was.min(began)));
        }
        Stamp { wall_us: self.began_us.map_or(now.wall_us, |began| began.saturating_add(mono)), ..now }
    }
}

/// Age by the monotonic clock within a run, else by the wall clock where it was ever set.
fn age(taken: Taken, run: u64, now: Stamp) -> Duration {
    if taken.run == run {
        return Duration::from_micros(now.mono_us.saturating_sub(taken.stamp.mono_us));
    }
    if taken.stamp.wall_us < CLOCK_SET {
        return Duration::ZERO;
    }
    Duration::from_micros(u64::try_from(now.wall_us.saturating_sub(taken.stamp.wall_us)).unwrap_or(0))
}
