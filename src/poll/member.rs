//! One device of a line as the poll task knows it: its points with their last samples, its health, what it refused, how
//! long it thinks. Turns words into samples; asks nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::Data;
use crate::config::plant::{Device, Line, Point, Source, Wire};
use crate::decode::{self, Formula, Words};
use crate::point::{AddressRange, PointId, Table};
use crate::poll::health::Health;
use crate::poll::identity::Identity;
use crate::poll::learned::{Lesson, Pace};
use crate::poll::plan::{self, Cost, Holes};
use crate::poll::wait::Wait;
use crate::sample::{Reason, Sample, Value};
use crate::status::{DeviceState, DeviceStatus};
use crate::time::Stamp;

/// A device that has not answered yet is taken to think for this long once it knows that the question has ended.
pub(crate) const USUAL_TURNAROUND: Duration = Duration::from_millis(5);

pub(crate) struct Member {
    pub(crate) device: Device,
    /// By the points' numbers.
    points: Vec<Entry>,
    /// The last samples of those points that others are made of. Nobody asks for the rest again.
    sources: HashMap<PointId, Option<Sample>>,
    pub(crate) health: Health,
    /// Whether it is the one its profile describes.
    pub(crate) identity: Identity,
    holes: HashMap<Table, Holes>,
    /// What turns of these points ask; empty again whenever something is learnt.
    plans: HashMap<Vec<PointId>, Planned>,
    pub(crate) wait: Wait,
    pub(crate) reason: Option<Reason>,
    /// Told to be offline whatever its health says: its line is down, or it is paused.
    pub(crate) cut: bool,
    /// Not to be asked.
    pub(crate) paused: bool,
    /// Not to be asked before: its late answer is awaited, and the line would have to wait with it.
    pub(crate) quiet_until: Duration,
    /// Asked for while it was read because of an earlier wish.
    pub(crate) wishes: Vec<PointId>,
    pub(crate) replies: u64,
    pub(crate) failures: u64,
}

struct Entry {
    point: Arc<Point>,
    /// Boxed inside: most points have none.
    formula: Option<Formula>,
    /// Whether its last sample had no value.
    bad: bool,
}

/// One read of one table.
pub(crate) type Block = (Table, AddressRange);

/// What a turn of some points asks.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The points.
    pub(crate) slots: Arc<[Slot]>,
    /// The reads, in order.
    pub(crate) reads: Arc<[Block]>,
    /// As it was when this was planned.
    turnaround: Duration,
}

/// So many different sets of points due together are remembered; a few periods make a few sets.
const PLANS: usize = 64;
const TABLES: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];

/// A point by its place in this member.
pub(crate) type Slot = usize;

impl Member {
    pub(crate) fn new(device: Device, mut points: Vec<Arc<Point>>, line: &Line) -> Self {
        points.sort_by_key(|p| p.id);
        let sources = points.iter().flat_map(|p| sources_of(p)).map(|id| (id, None)).collect();
        let entry = |point: Arc<Point>| {
            let formula = match &point.source {
                Source::Compute(compute) => Formula::new(&compute.expression).ok(),
                Source::Wire(_) => None,
            };
            Entry { point, formula, bad: false }
        };
        Self {
            health: Health::new(u64::from(device.id.0) ^ crate::time::boot_id()),
            identity: Identity::new(device.fingerprint.clone()),
            device,
            points: points.into_iter().map(entry).collect(),
            sources,
            holes: HashMap::new(),
            plans: HashMap::new(),
            wait: Wait::new(line.min_timeout, line.timeout),
            reason: None,
            cut: false,
            paused: false,
            quiet_until: Duration::ZERO,
            wishes: Vec::new(),
            replies: 0,
            failures: 0,
        }
    }

    /// Whether this is still the device as configured, with these points. Where they stand in the plant says nothing.
    pub(crate) fn is_of(&self, device: &Device, points: &[Arc<Point>]) -> bool {
        let same = self.device == Device { points: self.device.points.clone(), ..device.clone() };
        let known = |point: &Arc<Point>| self.slot(point.id).is_some_and(|slot| self.points[slot].point == *point);
        same && self.points.len() == points.len() && points.iter().all(known)
    }

    /// The same device under the same address, configured otherwise before: what is known of it is kept. Gives the points of
    /// which nothing was ever said.
    pub(crate) fn succeed(&mut self, old: Self) -> Vec<Slot> {
        let lesson = old.lesson().fitting(self.points.iter().map(|e| &*e.point));
        self.recall(&lesson);
        let mut untold = Vec::new();
        for (slot, entry) in self.points.iter_mut().enumerate() {
            match old.slot(entry.point.id) {
                Some(was) => entry.bad = old.points[was].bad,
                None => untold.push(slot),
            }
        }
        for (id, last) in &mut self.sources {
            *last = old.sources.get(id).cloned().flatten();
        }
        (self.health, self.wait, self.reason) = (old.health, old.wait, old.reason);
        (self.cut, self.paused, self.quiet_until) = (old.cut, old.paused, old.quiet_until);
        (self.replies, self.failures) = (old.replies, old.failures);
        untold
    }

    /// What a turn of these points asks. Planning costs more than the rest of a turn, so it is done anew only when the device
    /// has taught something, or has become quicker or slower by an eighth: less hardly moves the best plan.
    pub(crate) fn planned(&mut self, points: &[PointId], line: &Line) -> Planned {
        let turnaround = self.turnaround(line);
        let known = self.plans.get(points).filter(|p| p.turnaround.abs_diff(turnaround) <= p.turnaround / 8);
        if let Some(known) = known {
            return known.clone();
        }
        if self.plans.len() >= PLANS {
            self.plans.clear();
        }
        let planned = self.plan(points, Cost::new(line, turnaround), turnaround);
        self.plans.insert(points.to_vec(), planned.clone());
        planned
    }

    fn plan(&self, points: &[PointId], cost: Cost, turnaround: Duration) -> Planned {
        let slots = self.slots(points);
        let mut reads = Vec::new();
        for table in TABLES {
            let ranges = plan::plan(table, &self.wanted(table, &slots), self.limit(table), cost, &self.holes(table));
            reads.extend(ranges.into_iter().map(|range| (table, range)));
        }
        Planned { slots: slots.into(), reads: reads.into(), turnaround }
    }

    fn slots(&self, points: &[PointId]) -> Vec<Slot> {
        points.iter().filter_map(|id| self.slot(*id)).collect()
    }

    fn slot(&self, id: PointId) -> Option<Slot> {
        self.points.binary_search_by_key(&id, |entry| entry.point.id).ok()
    }

    /// Which of these are its own.
    pub(crate) fn own(&self, points: &[PointId]) -> Vec<PointId> {
        points.iter().copied().filter(|id| self.slot(*id).is_some()).collect()
    }

    pub(crate) fn names(&self, points: &[PointId]) -> Vec<String> {
        self.slots(points).into_iter().map(|slot| self.points[slot].point.name.to_string()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Slot> {
        (0..self.points.len()).collect()
    }

    pub(crate) fn wire(&self, slot: Slot) -> Option<&Wire> {
        match &self.points[slot].point.source {
            Source::Wire(wire) => Some(wire),
            Source::Compute(_) => None,
        }
    }

    /// Where of these points lie in one table.
    pub(crate) fn wanted(&self, table: Table, slots: &[Slot]) -> Vec<AddressRange> {
        let wires = slots.iter().filter_map(|slot| self.wire(*slot));
        wires.filter(|wire| wire.table == table).map(|wire| wire.range).collect()
    }

    /// The shortest question that shows whether it is alive.
    pub(crate) fn probe(&self) -> Option<(Table, AddressRange)> {
        let wires = self.all().into_iter().filter_map(|slot| self.wire(slot));
        wires.map(|w| (w.table, w.range)).min_by_key(|(table, range)| (self.is_hidden(*table, *range), range.count()))
    }

    fn limit(&self, table: Table) -> u16 {
        if table.is_bits() { self.device.max_bits } else { self.device.max_registers }
    }

    fn holes(&self, table: Table) -> Holes {
        self.holes.get(&table).cloned().unwrap_or_default()
    }

    pub(crate) fn holes_mut(&mut self, table: Table) -> &mut Holes {
        self.plans.clear();
        self.holes.entry(table).or_default()
    }

    /// It was away: it may have been given other registers meanwhile.
    pub(crate) fn doubt_holes(&mut self) {
        self.plans.clear();
        self.holes.values_mut().for_each(Holes::doubt);
    }

    /// On request: what is found again is said again.
    pub(crate) fn forget_holes(&mut self) {
        self.plans.clear();
        self.holes.clear();
    }

    /// What it has taught so far, by its name.
    pub(crate) fn taught(&self) -> (Arc<str>, Lesson) {
        (Arc::clone(&self.device.name), self.lesson())
    }

    fn lesson(&self) -> Lesson {
        let pace = self.wait.usual().zip(self.wait.deviation());
        Lesson::new(&self.holes, pace.map(|(usual, deviation)| Pace { usual, deviation }))
    }

    /// Knows again what it taught before a restart.
    pub(crate) fn recall(&mut self, lesson: &Lesson) {
        self.holes = lesson.holes().iter().map(|(table, holes)| (*table, holes.clone())).collect();
        if let Some(pace) = lesson.pace() {
            self.wait = self.wait.clone().recalling(pace.usual, pace.deviation);
        }
    }

    fn is_hidden(&self, table: Table, range: AddressRange) -> bool {
        self.holes.get(&table).is_some_and(|holes| holes.hides(range))
    }

    /// From the end of a question to the beginning of the answer, as measured or as is usual.
    pub(crate) fn turnaround(&self, line: &Line) -> Duration {
        self.wait.usual().unwrap_or_else(|| USUAL_TURNAROUND + plan::silence(line))
    }

    /// Whether a point can only be understood once others have been read.
    pub(crate) fn waits_for_others(&self, slot: Slot) -> bool {
        self.wire(slot).is_none_or(|wire| wire.scale_from.is_some())
    }

    /// The sample that a reply to `read` holds of a point.
    pub(crate) fn read(&mut self, slot: Slot, read: AddressRange, data: &Data, taken: Stamp) -> Sample {
        let result = self.understand(slot, read, data);
        self.keep(slot, result, taken)
    }

    fn understand(&self, slot: Slot, read: AddressRange, data: &Data) -> Result<Value, Reason> {
        let point = &self.points[slot].point;
        let Some(wire) = self.wire(slot) else { return Err(Reason::Source) };
        let from = usize::from(wire.range.start() - read.start());
        let place = from..from + usize::from(wire.range.count());
        let words = match data {
            Data::Registers(words) => words.get(place).map(Words::Registers),
            Data::Bits(bits) => bits.get(place).map(Words::Bits),
            Data::Written | Data::Objects(_) => None,
        };
        let exponent = wire.scale_from.and_then(|id| self.last_value(id)).and_then(decode::exponent_of);
        let value = decode::decode(wire, words.ok_or(Reason::Crc)?, exponent)?;
        decode::judge(point.range.as_deref(), &value)?;
        Ok(value)
    }

    /// The result of a formula over the last samples.
    pub(crate) fn compute(&mut self, slot: Slot, now: Stamp) -> Sample {
        let entry = &self.points[slot];
        let (Source::Compute(compute), Some(formula)) = (&entry.point.source, &entry.formula) else {
            return self.keep(slot, Err(Reason::Source), now);
        };
        let ids = formula.names().iter().map(|name| {
            let input = compute.inputs.iter().find(|(input, _)| **input == **name);
            input.map(|(_, id)| *id)
        });
        let ids: Vec<Option<PointId>> = ids.collect();
        let values: Option<Vec<f64>> = ids.iter().map(|id| self.last_value((*id)?)?.as_f64()).collect();
        // As old as the oldest reading it is made of; a formula without any is of now.
        let oldest = ids.iter().filter_map(|id| Some(self.last((*id)?)?.taken())).min();
        let result = values.ok_or(Reason::Source).and_then(|values| formula.eval(&values));
        let result = result.and_then(|value| decode::judge(entry.point.range.as_deref(), &value).map(|()| value));
        self.keep(slot, result, oldest.unwrap_or(now))
    }

    fn last(&self, id: PointId) -> Option<&Sample> {
        self.sources.get(&id)?.as_ref()
    }

    fn last_value(&self, id: PointId) -> Option<&Value> {
        self.last(id)?.value()
    }

    /// No value, and why.
    pub(crate) fn fail(&mut self, slot: Slot, reason: Reason, now: Stamp) -> Sample {
        self.keep(slot, Err(reason), now)
    }

    /// A point that is not asked for any more: the exception it was refused with, said again.
    pub(crate) fn refused(&mut self, slot: Slot, now: Stamp) -> Sample {
        let said = self.wire(slot).and_then(|wire| self.holes.get(&wire.table)?.exception(wire.range));
        self.keep(slot, Err(Reason::Exception(said.unwrap_or(2))), now)
    }

    fn keep(&mut self, slot: Slot, result: Result<Value, Reason>, taken: Stamp) -> Sample {
        let entry = &mut self.points[slot];
        let sample = match result {
            Ok(value) => Sample::good(entry.point.id, value, taken),
            Err(reason) => Sample::bad(entry.point.id, reason, taken),
        };
        entry.bad = sample.value().is_none();
        if let Some(last) = self.sources.get_mut(&sample.point()) {
            *last = Some(sample.clone());
        }
        sample
    }

    pub(crate) fn status(&self) -> DeviceStatus {
        let (recognition, recognised) = self.identity.told();
        DeviceStatus {
            name: self.device.name.to_string(),
            unit_id: self.device.unit_id.get(),
            state: if self.cut { DeviceState::Offline } else { self.health.state() },
            reason: self.reason.map(|r| r.to_string()),
            replies: self.replies,
            failures: self.failures,
            turnaround_ms: self.wait.usual().map_or(0.0, |t| t.as_secs_f64() * 1e3),
            points: self.points.len(),
            bad_points: self.points.iter().filter(|e| e.bad).count(),
            holes: self.lesson().named(),
            recognition,
            recognised: recognised.as_deref().map(str::to_owned),
        }
    }
}

/// What has to be read before this point can be understood.
fn sources_of(point: &Point) -> Vec<PointId> {
    match &point.source {
        Source::Wire(wire) => wire.scale_from.into_iter().collect(),
        Source::Compute(compute) => compute.inputs.iter().map(|(_, id)| *id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_costs_its_poll_task_hardly_more_than_the_place_where_it_is() {
        assert!(size_of::<Entry>() <= 24, "{} bytes", size_of::<Entry>());
    }
}
