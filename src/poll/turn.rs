//! One turn of one device: the points that are due, the reads that fetch them, and what came of each. Pure: it says what to
//! ask next and which samples an answer makes; who asks, and when, is not its affair. Every due point ends the turn with
//! exactly one sample. A refused block is split until what is refused is found.

use std::collections::HashSet;
use std::sync::Arc;

use crate::bus::Data;
use crate::point::{AddressRange, Table};
use crate::poll::member::{Member, Planned, Slot};
use crate::poll::plan;
use crate::sample::{Reason, Sample};
use crate::time::Stamp;

/// One read of one table, and how often it has been tried in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) table: Table,
    pub(crate) range: AddressRange,
    pub(crate) tries: u8,
}

/// What a refusal has taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Refused even when asked for alone.
    Hole(Table, AddressRange),
    /// Both answer, but not together.
    Seam(Table, AddressRange, AddressRange),
}

#[derive(Debug)]
pub(crate) struct Turn {
    /// The member's place among those of its line.
    pub(crate) at: usize,
    slots: Arc<[Slot]>,
    /// On the wire, and without a sample yet.
    open: Vec<Slot>,
    /// Still to be asked, the next one last.
    reads: Vec<Read>,
    answered: Vec<Slot>,
    /// Answered, but a scale factor is not here yet.
    waiting: Vec<(Slot, AddressRange, Data, Stamp)>,
    splits: Vec<(Table, AddressRange, AddressRange)>,
    /// Somebody asked for these points.
    wanted: bool,
}

impl Turn {
    /// The turn of the member at this place, as it was planned.
    pub(crate) fn new(at: usize, member: &Member, planned: &Planned) -> Self {
        let slots = Arc::clone(&planned.slots);
        let open = slots.iter().copied().filter(|s| member.wire(*s).is_some()).collect();
        let reads = planned.reads.iter().rev().map(|(table, range)| Read { table: *table, range: *range, tries: 0 });
        let reads = reads.collect();
        Self { at, slots, open, reads, answered: Vec::new(), waiting: Vec::new(), splits: Vec::new(), wanted: false }
    }

    /// Its samples are told even if they say nothing new.
    pub(crate) fn wanted(self) -> Self {
        Self { wanted: true, ..self }
    }

    /// Whether it is for these points because somebody asked for them.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn told(&self, samples: Vec<Sample>) -> Vec<Sample> {
        if self.wanted { samples.into_iter().map(Sample::wanted).collect() } else { samples }
    }

    /// What to ask; `None` when the turn is over.
    pub(crate) fn next(&self) -> Option<Read> {
        self.reads.last().copied()
    }

    /// The points that are due.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The next read was in vain and is to be tried again.
    pub(crate) fn try_again(&mut self) {
        if let Some(read) = self.reads.last_mut() {
            read.tries += 1;
        }
    }

    /// The next read was answered: samples of every open point that lies in it.
    pub(crate) fn answered(&mut self, member: &mut Member, data: &Data, taken: Stamp) -> Vec<Sample> {
        let Some(Read { table, range, .. }) = self.reads.pop() else { return Vec::new() };
        let mut samples = Vec::new();
        for slot in self.take(member, table, range) {
            self.answered.push(slot);
            if member.waits_for_others(slot) {
                self.waiting.push((slot, range, data.clone(), taken));
            } else {
                samples.push(member.read(slot, range, data, taken));
            }
        }
        self.told(samples)
    }

    /// The next read was refused. Where the block may be at fault and can be split, its halves are asked next.
    pub(crate) fn refused(&mut self, member: &mut Member, code: u8, now: Stamp) -> (Vec<Sample>, Option<Finding>) {
        let Some(Read { table, range, .. }) = self.reads.last().copied() else { return (Vec::new(), None) };
        if !matches!(code, 2 | 3) {
            return (self.failed(member, Reason::Exception(code), now), None);
        }
        if let Some((low, high)) = plan::halves(range, &member.wanted(table, &self.slots)) {
            self.reads.pop();
            self.splits.push((table, low, high));
            self.reads.extend([high, low].map(|range| Read { table, range, tries: 0 }));
            return (Vec::new(), None);
        }
        let lesson = member.holes_mut(table).bury(range, code).then_some(Finding::Hole(table, range));
        (self.failed(member, Reason::Exception(code), now), lesson)
    }

    /// The next read brought nothing usable, but the others may.
    pub(crate) fn failed(&mut self, member: &mut Member, reason: Reason, now: Stamp) -> Vec<Sample> {
        let Some(Read { table, range, .. }) = self.reads.pop() else { return Vec::new() };
        let samples = self.take(member, table, range).into_iter().map(|slot| member.fail(slot, reason, now)).collect();
        self.told(samples)
    }

    /// No use in asking on: every open point fails.
    pub(crate) fn give_up(&mut self, member: &mut Member, reason: Reason, now: Stamp) -> Vec<Sample> {
        self.reads.clear();
        let samples = self.open.drain(..).map(|slot| member.fail(slot, reason, now)).collect();
        self.told(samples)
    }

    /// What waited for scale factors, what holes hide, and what is computed, in this order; and what the splits taught.
    pub(crate) fn finish(self, member: &mut Member, now: Stamp) -> (Vec<Sample>, Vec<Finding>) {
        let mut samples = Vec::new();
        for (slot, range, data, taken) in &self.waiting {
            samples.push(member.read(*slot, *range, data, *taken));
        }
        samples.extend(self.open.iter().map(|slot| member.refused(*slot, now)));
        for slot in self.slots.iter().copied().filter(|slot| member.wire(*slot).is_none()).collect::<Vec<_>>() {
            samples.push(member.compute(slot, now));
        }
        let lessons = self.seams(member);
        (self.told(samples), lessons)
    }

    /// Where both halves answered and the whole did not, nothing may reach across again.
    fn seams(&self, member: &mut Member) -> Vec<Finding> {
        let mut lessons = Vec::new();
        for (table, low, high) in &self.splits {
            let good: HashSet<AddressRange> = member.wanted(*table, &self.answered).into_iter().collect();
            let wanted = member.wanted(*table, &self.slots);
            let whole = |half: AddressRange| wanted.iter().filter(|w| half.contains(**w)).all(|w| good.contains(w));
            if whole(*low) && whole(*high) && member.holes_mut(*table).seam(u32::from(high.start())) {
                lessons.push(Finding::Seam(*table, *low, *high));
            }
        }
        lessons
    }

    /// Takes the open points that lie in a read out of the list.
    fn take(&mut self, member: &Member, table: Table, read: AddressRange) -> Vec<Slot> {
        let inside = |slot: &Slot| member.wire(*slot).is_some_and(|w| w.table == table && read.contains(w.range));
        let (taken, left) = self.open.iter().partition(|slot| inside(slot));
        self.open = left;
        taken
    }
}
