//! How the log stays within its bounds: bytes on disk, age, and space given back. What leaves here leaves without
//! acknowledgement and is counted; alarms leave last.

use std::time::Duration;

use super::super::Seq;
use super::super::disk::Row;
use super::super::row::Taken;
use super::CLOCK_SET;
use super::Log;
use crate::config::plant::WhenFull;
use crate::message::Class;
use crate::message::Message;
use crate::time::Stamp;

/// Rows dropped at once when the log is too large.
const EVICT_AT_ONCE: usize = 1_000;
/// Free pages that are worth giving back while rows remain (4 MB).
const FREE_WORTH_SHRINKING: u64 = 4 << 20;

impl Log {
    /// Drops the oldest rows, alarms last, until a commit fits again.
    pub(super) fn keep_under_max_size(&mut self) {
        let limit = self.settings.max_size;
        loop {
            let Some(disk) = &self.disk else { return };
            let wal = disk.bytes().saturating_sub(disk.used_and_free().map_or(0, |(used, free)| used + free));
            let used = match disk.used_and_free() {
                Ok((used, _)) => used,
                Err(e) => return self.fault(&e),
            };
            // A twentieth is left free for what the next commit brings.
            if used + wal <= limit - limit / 20 || disk.rows == 0 {
                return;
            }
            if wal > limit / 16 {
                if let Err(e) = disk.shrink(0) {
                    return self.fault(&e);
                }
                if used <= limit - limit / 20 {
                    return;
                }
            }
            if self.settings.when_full == WhenFull::DropNewest {
                return self.drop_uncommitted();
            }
            if !self.evict() {
                return;
            }
        }
    }

    /// `drop-newest` with a full disk: new entries but alarms go; the memory has to be emptied of them.
    fn drop_uncommitted(&mut self) {
        let committed = self.committed;
        let gone: Vec<(Seq, u64)> = (self.memory.iter())
            .filter(|h| h.seq > committed && h.message.class == Class::Normal)
            .map(|h| (h.seq, h.wanted))
            .collect();
        self.memory.retain(|h| h.seq <= committed || h.message.class == Class::Alarm);
        self.counts.evicted += gone.len() as u64;
        for (seq, wanted) in gone {
            self.forget(seq, wanted);
        }
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
        let normal = rows.iter().filter(|r| r.1.as_ref().is_none_or(|(m, _)| m.class == Class::Normal)).count();
        self.alarms_upto = if normal == rows.len() { from } else { end };
        normal == 0 || self.drop_rows(rows, |m| m.class == Class::Normal, Why::Full)
    }

    fn evict_rows(&mut self, which: impl Fn(&Message) -> bool) -> bool {
        let rows = self.disk.as_ref().and_then(|d| d.read(0, EVICT_AT_ONCE).ok()).unwrap_or_default();
        self.drop_rows(rows, which, Why::Full)
    }

    fn drop_rows(&mut self, rows: Vec<Row>, which: impl Fn(&Message) -> bool, why: Why) -> bool {
        let mut gone = Vec::new();
        for (seq, decoded) in rows {
            let message = decoded.map(|(m, _)| m);
            if message.as_ref().is_none_or(&which) {
                gone.push((seq, message.map_or(0, |m| self.wanted(&m))));
            }
        }
        let seqs: Vec<Seq> = gone.iter().map(|g| g.0).collect();
        if let Some(Err(e)) = self.disk.as_mut().map(|d| d.delete(&seqs)) {
            self.fault(&e);
            return false;
        }
        let done = self.done();
        for (seq, wanted) in gone {
            if seq > done {
                match why {
                    Why::Full => self.counts.evicted += 1,
                    Why::Old => self.counts.expired += 1,
                }
            }
            if let Ok(n) = self.memory.binary_search_by_key(&seq, |h| h.seq) {
                self.memory.remove(n);
            }
            self.forget(seq, wanted);
        }
        self.cursors_dirty = true;
        true
    }

    /// Drops rows older than `max_age`.
    pub(super) fn expire(&mut self, now: Stamp) {
        loop {
            let Some(disk) = &self.disk else { return };
            if disk.rows == 0 {
                return;
            }
            // One row is looked at every tick; the rest only when that one is too old.
            let old = |row: &Row| match &row.1 {
                Some((_, taken)) => age(*taken, disk.run, now) > self.settings.max_age,
                None => true,
            };
            if !disk.read(0, 1).is_ok_and(|rows| rows.iter().any(old)) {
                return;
            }
            let rows: Vec<_> = disk.read(0, EVICT_AT_ONCE).unwrap_or_default().into_iter().take_while(old).collect();
            if rows.is_empty() || !self.drop_rows(rows, |_| true, Why::Old) {
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

/// Why a row leaves without acknowledgement.
#[derive(Clone, Copy)]
enum Why {
    Full,
    Old,
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
