//! How the log is read: disk first, then memory, for one upstream on one lane. What is read is noted as given out, to
//! be held against the acknowledgements; times from before the clock was set are put right on the way.

use super::super::Batch;
use super::super::Entry;
use super::super::Lane;
use super::super::Seq;
use super::super::row::Content;
use super::super::row::Taken;
use super::CLOCK_SET;
use super::Log;
use super::cursor::Counts;
use super::cursor::counts;
use crate::message::Message;
use crate::time::Stamp;

/// A question for entries.
#[derive(Debug, Clone, Copy)]
pub(in crate::spool) struct Question {
    /// Whose.
    pub(in crate::spool) upstream: usize,
    /// Which of its readers asks.
    pub(in crate::spool) lane: Lane,
    /// What it has; `None`: what it has acknowledged.
    pub(in crate::spool) after: Option<Seq>,
    /// Most entries.
    pub(in crate::spool) max: usize,
}

impl Question {
    /// The first upstream asks for the oldest.
    pub(in crate::spool) const fn oldest(max: usize) -> Self {
        Self { upstream: 0, lane: Lane::Backlog, after: None, max }
    }
}

/// A question under way.
struct Reading {
    upstream: usize,
    max: usize,
    /// Nothing above this.
    limit: Seq,
    batch: Batch,
    handed: Vec<(Seq, Counts)>,
    fault: Option<rusqlite::Error>,
}

impl Reading {
    fn found(&mut self, seq: Seq, message: Message, is_entry: bool) {
        let counts = if is_entry { Counts::Acknowledged } else { Counts::Nothing };
        self.batch.entries.push(Entry { seq, message });
        self.handed.push((seq, counts));
    }
}

impl Log {
    /// A question on the backlog lane.
    #[cfg(test)]
    pub(in crate::spool) fn batch(&mut self, upstream: usize, after: Option<Seq>, max: usize, now: Stamp) -> Batch {
        self.read(Question { upstream, lane: Lane::Backlog, after, max }, now)
    }

    /// What the upstream wants, empty when there is nothing yet. Nothing found and nothing in flight: its cursor
    /// moves on by itself.
    pub(in crate::spool) fn read(&mut self, question: Question, now: Stamp) -> Batch {
        let Question { upstream, lane, after, max } = question;
        let cursor = &mut self.cursors[upstream];
        let (from, limit) = match (lane, &cursor.live) {
            (Lane::Live, Some(live)) => (live.from.max(cursor.acknowledged), self.last),
            (Lane::Live, None) => return Batch { entries: Vec::new(), upto: after.unwrap_or(0) },
            (Lane::Backlog, _) => (cursor.acknowledged, cursor.limit().min(self.last)),
        };
        let after = after.map_or(from, |a| a.max(from));
        cursor.rewind(lane, after);
        let batch = Batch { entries: Vec::new(), upto: after };
        let mut reading = Reading { upstream, max, limit, batch, handed: Vec::new(), fault: None };
        self.read_disk(&mut reading);
        self.read_memory(&mut reading);
        let Reading { mut batch, handed, fault, .. } = reading;
        if let Some(e) = fault {
            self.fault(&e);
        }
        for entry in &mut batch.entries {
            restamp(&mut entry.message, now);
        }
        self.cursors[upstream].hand_out(lane, handed);
        if batch.entries.is_empty() && self.cursors[upstream].idle(lane) {
            match lane {
                Lane::Backlog => self.acknowledge(upstream, batch.upto),
                Lane::Live => self.acknowledge_live(upstream, batch.upto),
            }
            let cursor = &mut self.cursors[upstream];
            if cursor.acknowledged == self.last && cursor.idle(Lane::Live) {
                cursor.found(0);
            }
        }
        batch
    }

    fn read_disk(&self, r: &mut Reading) {
        let memory_from = self.memory.front().map_or(Seq::MAX, |h| h.seq);
        let end = self.committed.min(memory_from - 1).min(r.limit);
        let Some(disk) = &self.disk else { return };
        let cursor = &self.cursors[r.upstream];
        while r.batch.entries.len() < r.max && r.batch.upto < end {
            let rows = match disk.read(r.batch.upto, r.max) {
                Ok(rows) => rows,
                Err(e) => return r.fault = Some(e),
            };
            if rows.is_empty() {
                r.batch.upto = end;
                return;
            }
            for (seq, decoded) in rows {
                if seq > end {
                    r.batch.upto = end;
                    return;
                }
                if r.batch.entries.len() == r.max {
                    return;
                }
                r.batch.upto = seq;
                let Some((content, taken)) = decoded.filter(|_| cursor.waits_for(seq)) else { continue };
                let counts = counts(&content);
                let message = match content {
                    Content::Gap(gap) => gap.message(cursor.name()),
                    Content::Message(message) => cursor.wants(seq, &message).then_some(message),
                };
                if let Some(message) = message {
                    r.found(seq, mark_run(message, taken, disk.run), counts);
                }
            }
        }
    }

    fn read_memory(&self, r: &mut Reading) {
        let memory_from = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let disk_is_read = r.batch.upto >= self.committed || r.batch.upto + 1 >= memory_from;
        if !disk_is_read || r.batch.entries.len() == r.max || r.batch.upto >= r.limit {
            return;
        }
        let cursor = &self.cursors[r.upstream];
        let (from, limit) = (self.memory.partition_point(|h| h.seq <= r.batch.upto), r.limit);
        for held in self.memory.range(from..).take_while(|h| h.seq <= limit) {
            if r.batch.entries.len() == r.max {
                return;
            }
            r.batch.upto = held.seq;
            if !held.wanted_by(r.upstream) || !cursor.waits_for(held.seq) {
                continue;
            }
            let message = match &held.content {
                Content::Gap(gap) => gap.message(cursor.name()),
                Content::Message(message) => Some(message.clone()),
            };
            if let Some(message) = message {
                r.found(held.seq, message, counts(&held.content));
            }
        }
        r.batch.upto = r.limit;
    }
}

/// Monotonic stamps of other runs mean nothing in this one: marked, so that nobody reckons with them.
pub(super) fn mark_run(mut message: Message, taken: Taken, run: u64) -> Message {
    if taken.run != run
        && let Some(own) = &mut message.own
    {
        own.sample = restamped(&own.sample, Stamp { mono_us: u64::MAX, wall_us: taken.stamp.wall_us });
    }
    message
}

/// A value taken before the clock was set gets the right time when it leaves, while the run that took it lives.
pub(super) fn restamp(message: &mut Message, now: Stamp) {
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
