//! How the log is looked at, and a backlog thrown away, by a person's will: see [`super::super::look`].

use super::super::Seq;
use super::super::SpoolError;
use super::super::gap::Gap;
use super::super::look::SLICE;
use super::super::look::Slice;
use super::super::look::Waiting;
use super::super::row::Content;
use super::super::row::Taken;
use super::super::thread::Cleared;
use super::COPIES;
use super::Held;
use super::Log;
use super::cursor::Why;
use super::cursor::counts;
use super::read::mark_run;
use super::read::restamp;
use crate::time::Stamp;

impl Log {
    /// What waits behind `after`, at most so many places of the log. An error: the disk cannot be read.
    pub(in crate::spool) fn look(&self, after: Seq, max: usize, now: Stamp) -> rusqlite::Result<Slice> {
        let mut slice = Slice { entries: Vec::new(), upto: after, end: false };
        let memory_from = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let disk_end = self.committed.min(memory_from - 1);
        if let Some(disk) = self.disk.as_ref().filter(|_| after < disk_end) {
            let rows = disk.read(after, max)?;
            slice.upto = if rows.len() < max { disk_end } else { rows.last().map_or(disk_end, |r| r.0.min(disk_end)) };
            for (seq, decoded) in rows.into_iter().take_while(|r| r.0 <= disk_end) {
                let Some((content, taken)) = decoded else { continue };
                let wanted = match &content {
                    Content::Message(message) => self.wanted_at(seq, message),
                    Content::Gap(_) => u64::MAX,
                };
                self.seen(&mut slice, (seq, &content, wanted), (taken, now));
            }
        } else {
            let from = self.memory.partition_point(|h| h.seq <= after);
            let run = self.disk.as_ref().map_or(0, |d| d.run);
            slice.upto = self.last;
            for held in self.memory.range(from..).take(max) {
                slice.upto = held.seq;
                let taken = Taken { run, stamp: held.taken };
                self.seen(&mut slice, (held.seq, &held.content, held.wanted), (taken, now));
            }
        }
        slice.end = slice.upto >= self.last;
        Ok(slice)
    }

    fn seen(&self, slice: &mut Slice, (seq, content, wanted): (Seq, &Content, u64), (taken, now): (Taken, Stamp)) {
        let waits = |n: usize| wanted >> n & 1 == 1 && self.cursors[n].waits_for(seq);
        let upstreams = (0..self.cursors.len()).filter(|n| waits(*n)).map(|n| &self.cursors[n]);
        match content {
            Content::Message(message) => {
                let upstreams: Vec<_> = upstreams.map(|c| c.name().to_string()).collect();
                if !upstreams.is_empty() {
                    let run = self.disk.as_ref().map_or(0, |d| d.run);
                    let mut message = mark_run(message.clone(), taken, run);
                    restamp(&mut message, now);
                    slice.entries.push(Waiting { upstreams, ..Waiting::message(seq, &message, taken) });
                }
            }
            // Each upstream misses something else.
            Content::Gap(gap) => {
                for cursor in upstreams {
                    if let (Some(message), missing) = (gap.message(cursor.name()), gap.missing(cursor.name())) {
                        let upstreams = vec![cursor.name().to_string()];
                        slice.entries.push(Waiting { upstreams, ..Waiting::gap(seq, &message, missing) });
                    }
                }
            }
        }
    }

    /// A slice of the usual size.
    pub(in crate::spool) fn look_or_say(&self, after: Seq, now: Stamp) -> Result<Slice, SpoolError> {
        self.look(after, SLICE, now).map_err(|e| SpoolError::of(&self.settings.path, &e))
    }

    /// As [`Log::clear`], by name or for all.
    pub(in crate::spool) fn clear_named(&mut self, name: Option<&str>, now: Stamp) -> Result<Vec<Cleared>, SpoolError> {
        let chosen: Vec<usize> =
            (0..self.cursors.len()).filter(|n| name.is_none_or(|name| &**self.cursors[*n].name() == name)).collect();
        if let (Some(name), true) = (name, chosen.is_empty()) {
            let known = self.names().collect::<Vec<_>>().join(", ");
            return Err(SpoolError::NoUpstream { name: name.to_owned(), known });
        }
        let mut cleared = Vec::new();
        for n in chosen {
            let entries = self.clear(n, now);
            let upstream = self.cursors[n].name().to_string();
            if entries > 0 {
                tracing::warn!(
                    upstream,
                    entries,
                    "thrown away, as a person wanted it; the upstream is told of the gap"
                );
            }
            cleared.push(Cleared { upstream, entries, in_flight: self.cursors[n].ledger().in_flight });
        }
        Ok(cleared)
    }

    /// Throws away what waits for an upstream and is not under way; says how many entries. In their place a gap is told:
    /// a person's wish is no reason to leave a hole that nobody knows of.
    pub(in crate::spool) fn clear(&mut self, upstream: usize, now: Stamp) -> u64 {
        let (after, upto) = self.cursors[upstream].clearing(self.last);
        let count = self.cursors[upstream].waiting_unread().saturating_sub(self.unread_live(upstream, upto));
        if count == 0 {
            return 0;
        }
        let first_us = self.first_taken(after).unwrap_or(now.wall_us);
        let untold = self.untold(upstream, (after, upto));
        let cursor = &mut self.cursors[upstream];
        let filter = match cursor.who.filters.as_slice() {
            [only] => only.to_string(),
            _ => "#".to_owned(),
        };
        let mut gap = Gap::of(cursor.name(), filter, (count, first_us.min(now.wall_us), now.wall_us));
        for earlier in untold {
            gap.merge(earlier);
        }
        cursor.skip(after, upto);
        cursor.left(count, Why::Cleared);
        let bit = 1 << upstream;
        let (from, to) =
            (self.memory.partition_point(|h| h.seq <= after), self.memory.partition_point(|h| h.seq <= upto));
        self.unwant((from, to), upstream);
        self.last += 1;
        let (seq, content, taken) = (self.last, Content::Gap(gap), now);
        self.memory.push_back(Held { seq, content, taken, came: now, wanted: bit });
        self.cursors_dirty = true;
        if self.rows() > 0 {
            self.commit_all();
        }
        count
    }

    /// What earlier gaps of this stretch would have told this upstream.
    fn untold(&self, upstream: usize, (after, upto): (Seq, Seq)) -> Vec<Gap> {
        let cursor = &self.cursors[upstream];
        let disk = self.disk.as_ref().and_then(|d| d.gaps(after, upto.min(self.committed)).ok()).unwrap_or_default();
        let from = self.memory.partition_point(|h| h.seq <= after.max(self.committed));
        let held = self.memory.range(from..).take_while(|h| h.seq <= upto).filter_map(|h| match &h.content {
            Content::Gap(gap) => Some((h.seq, gap.clone())),
            Content::Message(_) => None,
        });
        let waits = disk.into_iter().chain(held).filter(|(seq, _)| cursor.waits_for(*seq));
        waits.map(|(_, mut gap)| gap.take(|name| name == cursor.name())).collect()
    }

    /// Entries above the backlog that its second reader has not read yet: they are new, and stay.
    fn unread_live(&self, upstream: usize, upto: Seq) -> u64 {
        if upto >= self.last {
            return 0;
        }
        let cursor = &self.cursors[upstream];
        let unread = |seq: Seq| seq > upto && cursor.waits_for(seq) && !cursor.in_flight(seq);
        let memory_from = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let held = self.memory.iter().filter(|h| h.wanted_by(upstream) && counts(&h.content) && unread(h.seq)).count();
        let (mut after, mut rows) = (upto, 0);
        while after < self.committed.min(memory_from - 1) {
            let found = self.disk.as_ref().and_then(|d| d.read(after, COPIES).ok()).unwrap_or_default();
            let Some(last) = found.last().map(|r| r.0) else { break };
            let wants = |seq, c: &Content| matches!(c, Content::Message(m) if cursor.wants(seq, m));
            let of_it = |(seq, row): &&super::super::disk::Row| {
                *seq < memory_from && unread(*seq) && row.as_ref().is_some_and(|(c, _)| wants(*seq, c))
            };
            rows += found.iter().filter(of_it).count();
            after = last;
        }
        (held + rows) as u64
    }

    /// When the first entry behind `after` was taken.
    fn first_taken(&self, after: Seq) -> Option<i64> {
        let row = self.disk.as_ref().and_then(|d| d.read(after, 1).ok()).and_then(|rows| rows.into_iter().next());
        let held = self.memory.get(self.memory.partition_point(|h| h.seq <= after)).map(|h| h.taken);
        let row = row.and_then(|(_, decoded)| decoded).map(|(_, taken)| taken.stamp);
        row.or(held).map(|stamp| stamp.wall_us)
    }
}
