//! How the log stays within its bounds: bytes on disk, age, and space given back. What leaves here leaves without
//! acknowledgement and is counted; alarms leave last.

use std::time::Duration;

use super::super::Seq;
use super::super::disk::Row;
use super::super::gap::Gap;
use super::super::row::Content;
use super::super::row::Taken;
use super::CLOCK_SET;
use super::Held;
use super::Log;
use super::cursor::Why;
use crate::config::plant::WhenFull;
use crate::message::Class;
use crate::message::Message;
use crate::time::Stamp;

/// Rows dropped at once when the log is too large.
const EVICT_AT_ONCE: usize = 1_000;
/// Free pages that are worth giving back while rows remain (4 MB).
const FREE_WORTH_SHRINKING: u64 = 4 << 20;

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

    /// A gap in which this entry has left, as those see it who still waited for it.
    fn gap_of(&self, seq: Seq, message: &Message, taken: Stamp, wanted: u64) -> Gap {
        let mut gap = Gap::default();
        for (n, cursor) in self.cursors.iter().enumerate() {
            if wanted >> n & 1 == 1 && cursor.waits_for(seq) {
                gap.add(cursor.name(), &message.topic, taken.wall_us);
            }
        }
        gap
    }

    /// The books after an entry left without acknowledgement.
    fn forget(&mut self, seq: Seq, wanted: u64, why: Why) {
        for (_, cursor) in self.cursors.iter_mut().enumerate().filter(|(n, _)| wanted >> n & 1 == 1) {
            cursor.forget(seq, why);
        }
    }

    /// There is no room for this one: it becomes part of the gap at the end.
    pub(super) fn turn_away(&mut self, message: &Message, taken: Stamp, wanted: u64) {
        self.counts.evicted += 1;
        let gap = self.gap_of(Seq::MAX, message, taken, wanted);
        for (_, cursor) in self.cursors.iter_mut().enumerate().filter(|(n, _)| wanted >> n & 1 == 1) {
            cursor.turned_away();
        }
        match self.memory.back_mut() {
            Some(Held { content: Content::Gap(last), wanted: by, seq, .. }) if *seq > self.committed => {
                last.merge(gap);
                *by |= wanted;
            }
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
        let of = |class| self.memory.iter().position(|h| h.class() == Some(class));
        let Some(n) = of(Class::Normal).or_else(|| of(Class::Alarm).filter(|_| class == Class::Alarm)) else {
            return false;
        };
        let Held { seq, ref content, taken, wanted, .. } = self.memory[n];
        let Content::Message(message) = content else { return false };
        let mut gap = self.gap_of(seq, message, taken, wanted);
        self.forget(seq, wanted, Why::Full);
        self.counts.evicted += 1;
        let before = n.checked_sub(1).filter(|b| self.memory[*b].class().is_none());
        let mut by = wanted;
        if let Some(Held { content: Content::Gap(earlier), wanted, .. }) = before.and_then(|b| self.memory.remove(b)) {
            gap.merge(earlier);
            by |= wanted;
        }
        let held = &mut self.memory[before.unwrap_or(n)];
        held.content = Content::Gap(gap);
        held.wanted = by;
        true
    }

    /// `drop-newest` with a full disk: new entries but alarms become one gap.
    fn drop_uncommitted(&mut self) {
        let (mut gap, mut last) = (Gap::default(), None);
        for held in std::mem::take(&mut self.memory) {
            let mut by = held.wanted;
            match held.content {
                Content::Message(message) if held.seq > self.committed && message.class == Class::Normal => {
                    gap.merge(self.gap_of(held.seq, &message, held.taken, held.wanted));
                    self.forget(held.seq, held.wanted, Why::Full);
                    self.counts.evicted += 1;
                }
                Content::Gap(mut earlier) if held.seq > self.committed => {
                    earlier.retain(|name| self.cursors.iter().any(|c| c.name() == name && c.waits_for(held.seq)));
                    gap.merge(earlier);
                }
                content => {
                    self.memory.push_back(Held { content, ..held });
                    continue;
                }
            }
            by |= last.map_or(0, |(_, _, _, by)| by);
            last = Some((held.seq, held.taken, held.came, by));
        }
        let Some((seq, taken, came, wanted)) = last else { return };
        let place = self.memory.partition_point(|h| h.seq < seq);
        self.memory.insert(place, Held { seq, content: Content::Gap(gap), taken, came, wanted });
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
        if !rows.iter().any(|r| !matches!(&r.1, Some((c, _)) if class(c) != Some(Class::Normal))) {
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

    /// Drops rows and leaves a gap in the place of the last; says where. `None`: there was nothing to drop, or the
    /// disk does not let it.
    fn drop_rows(&mut self, rows: Vec<Row>, which: impl Fn(&Message) -> bool, why: Why) -> Option<Seq> {
        let (mut gone, mut gaps, mut gap) = (Vec::new(), Vec::new(), Gap::default());
        for (seq, decoded) in rows {
            match decoded {
                None => gone.push((seq, 0)),
                Some((Content::Message(message), taken)) if which(&message) => {
                    let wanted = self.wanted(&message);
                    gap.merge(self.gap_of(seq, &message, taken.stamp, wanted));
                    gone.push((seq, wanted));
                }
                Some((Content::Gap(earlier), _)) => gaps.push((seq, earlier)),
                Some(_) => {}
            }
        }
        let mut at = gone.last()?.0;
        for (seq, mut earlier) in gaps {
            earlier.retain(|name| self.cursors.iter().any(|c| c.name() == name && c.waits_for(seq)));
            gap.merge(earlier);
            gone.push((seq, 0));
            at = at.max(seq);
        }
        let seqs: Vec<Seq> = gone.iter().map(|g| g.0).collect();
        let marker = (!gap.is_empty()).then_some((at, &gap));
        if let Some(Err(e)) = self.disk.as_mut().map(|d| d.drop_rows(&seqs, marker)) {
            self.fault(&e);
            return None;
        }
        self.drop_from_books(gone, why);
        if !gap.is_empty() && self.memory.front().is_some_and(|h| h.seq <= at) {
            let wanted = self.cursors.iter().enumerate().filter(|(_, c)| gap.concerns(c.name()));
            let wanted = wanted.fold(0, |mask, (n, _)| mask | 1 << n);
            let place = self.memory.partition_point(|h| h.seq < at);
            let (content, taken) = (Content::Gap(gap), Taken::NEVER.stamp);
            self.memory.insert(place, Held { seq: at, content, taken, came: taken, wanted });
        }
        self.cursors_dirty = true;
        Some(at)
    }

    fn drop_from_books(&mut self, gone: Vec<(Seq, u64)>, why: Why) {
        let done = self.done();
        for (seq, wanted) in gone {
            if seq > done && wanted != 0 {
                match why {
                    Why::Full => self.counts.evicted += 1,
                    Why::Old => self.counts.expired += 1,
                }
            }
            if let Ok(n) = self.memory.binary_search_by_key(&seq, |h| h.seq) {
                self.memory.remove(n);
            }
            self.forget(seq, wanted, why);
        }
    }

    /// Drops rows older than `max_age`.
    pub(super) fn expire(&mut self, now: Stamp) {
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
