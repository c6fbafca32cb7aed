//! What a line will carry, computed before anything is connected. Pure: the same timetable and planner that will run
//! are run here against the cost model instead of the wire, once as fast as the wire allows and once on a wire of no
//! length, which shows what is asked of it. Devices are taken to answer as fast as is usual; nothing is lost or
//! repeated.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub mod advice;
mod outcome;
mod silent;

pub use crate::poll::forecast::outcome::{Age, Bereft, Forecast, Request, Without};

use crate::config::plant::{Device, Line, Point, Schedule, Source};
use crate::point::{AddressRange, DeviceId, PointId, Table};
use crate::poll::agenda::{Agenda, Next};
use crate::poll::forecast::silent::Silent;
use crate::poll::health;
pub(crate) use crate::poll::member::USUAL_TURNAROUND;
use crate::poll::plan::{self, Cost, Holes};
use crate::poll::schedule::{Clocks, Timetable};

/// Counted at least so long, and so many of the longest period: the order of turns takes some rounds to repeat itself.
const SHORTEST: Duration = Duration::from_secs(60);
const ROUNDS: u32 = 6;
/// The same when a device dies: half a hundred of its probes.
const MOURNING: Duration = Duration::from_secs(600);
/// Rarer turns than hourly weigh nothing.
const LONGEST: Duration = Duration::from_secs(3600);
/// Bounds on the work: at 20 ms this is an hour of one device. Deaths share it, each with this much at least.
const TURNS: usize = 200_000;
const TURNS_AT_LEAST: usize = 20_000;
const TABLES: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];

/// Computes it from what is configured: `devices` and `points` may be the whole plant's.
pub fn of(line: &Line, devices: &[Device], points: &[Arc<Point>]) -> Forecast {
    with_turnaround(line, devices, points, USUAL_TURNAROUND)
}

/// The same for devices that take so long to begin an answer once they know that the question has ended.
pub fn with_turnaround(line: &Line, devices: &[Device], points: &[Arc<Point>], turnaround: Duration) -> Forecast {
    let model = Model::new(line, devices, points, turnaround);
    let asked = model.run(None, Wire::OfNoLength);
    let real = model.run(None, Wire::AsItIs);
    let points = model.ages(&real);
    let without = model.devices.iter().map(|dead| model.without(dead, &asked, &points)).collect();
    Forecast { line: Arc::clone(&line.name), load: asked.load(), requests: model.requests(&real), points, without }
}

/// Only the load, which is quick: wire time asked of the line by the time there is.
pub fn load(line: &Line, devices: &[Device], points: &[Arc<Point>], turnaround: Duration) -> f64 {
    Model::new(line, devices, points, turnaround).run(None, Wire::OfNoLength).load()
}

/// Whether reads take time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    AsItIs,
    OfNoLength,
}

struct Model<'a> {
    line: &'a Line,
    devices: Vec<&'a Device>,
    points: Vec<&'a Point>,
    cost: Cost,
}

/// What happened in a simulated while.
struct Run {
    busy: Duration,
    lasted: Duration,
    reads: BTreeMap<(DeviceId, Table, AddressRange), Sent>,
    /// In step with the model's points.
    arrivals: Vec<Option<Arrivals>>,
    /// Counted from then on.
    settled: Duration,
    /// When the death was noticed of the device that died; zero where none did, and the end of time until then.
    noticed: Duration,
}

/// When a read was sent.
#[derive(Clone, Copy)]
struct Sent {
    first: Duration,
    last: Duration,
    count: u32,
}

#[derive(Clone, Copy)]
struct Arrivals {
    first: Duration,
    last: Duration,
    count: u32,
    longest: Duration,
    /// The longest of those that began before a death was noticed.
    unnoticed: Duration,
}

impl Run {
    fn new(points: usize, settled: Duration, end: Duration) -> Self {
        Self {
            busy: Duration::ZERO,
            lasted: end - settled,
            reads: BTreeMap::new(),
            arrivals: vec![None; points],
            settled,
            noticed: Duration::ZERO,
        }
    }

    fn load(&self) -> f64 {
        if self.lasted.is_zero() { 0.0 } else { self.busy.div_duration_f64(self.lasted) }
    }

    fn sent(&mut self, read: (DeviceId, Table, AddressRange), now: Duration) {
        let sent = self.reads.entry(read).or_insert(Sent { first: now, last: now, count: 0 });
        sent.last = now;
        sent.count += 1;
    }

    fn arrived(&mut self, at: usize, now: Duration) {
        let zero = Duration::ZERO;
        let fresh = Arrivals { first: now, last: now, count: 0, longest: zero, unnoticed: zero };
        let seen = self.arrivals[at].get_or_insert(fresh);
        if now < self.settled {
            *seen = fresh;
        } else if seen.last < now {
            let longest = if seen.last < self.noticed { &mut seen.unnoticed } else { &mut seen.longest };
            *longest = (*longest).max(now - seen.last);
            seen.count += 1;
            seen.last = now;
        }
    }

    fn of(&self, at: usize) -> Option<Arrivals> {
        self.arrivals[at].filter(|seen| seen.count > 0)
    }
}

/// A turn's reads, each with the places of the points it brings.
type Reads = Vec<Read>;
type Read = (Table, AddressRange, Vec<usize>);

impl<'a> Model<'a> {
    fn new(line: &'a Line, devices: &'a [Device], points: &'a [Arc<Point>], turnaround: Duration) -> Self {
        let devices: Vec<&Device> = devices.iter().filter(|d| d.line == line.id).collect();
        let points = points.iter().map(|p| &**p).filter(|p| devices.iter().any(|d| d.id == p.device)).collect();
        Self { line, devices, points, cost: Cost::new(line, turnaround + plan::silence(line)) }
    }

    fn run(&self, dead: Option<DeviceId>, wire: Wire) -> Run {
        let clocks = |now: Duration| Clocks { now, wall_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX) };
        let rows = self.points.iter().map(|p| (p.device, p.id, &p.schedule));
        let mut agenda = Agenda::new(Timetable::new(rows, clocks(Duration::ZERO), jiff::tz::TimeZone::UTC));
        let turns = if dead.is_none() { TURNS } else { (TURNS / self.devices.len()).max(TURNS_AT_LEAST) };
        let (settled, end) = self.window(turns, if dead.is_none() { SHORTEST } else { MOURNING });
        let mut plans: HashMap<(DeviceId, Vec<PointId>), Rc<Reads>> = HashMap::new();
        let mut run = Run::new(self.points.len(), settled, end);
        run.noticed = if dead.is_none() { Duration::ZERO } else { Duration::MAX };
        let mut silent = dead.map(|device| Silent::new(self.line, (device, settled), self.longest(), self.cost));
        let (mut now, mut begun) = (Duration::ZERO, 0);
        while now < end && begun < turns {
            let next_turn = |id| agenda.table.next_of(|device| device != id);
            let next_turn = |id| if agenda.is_busy(now) { Some(now) } else { next_turn(id) };
            if let Some(took) = silent.as_mut().and_then(|s| s.probe(now, next_turn(s.device))) {
                now += took;
                continue;
            }
            match agenda.next(clocks(now)) {
                Next::Begin(due) => {
                    begun += 1;
                    let not_before = silent.as_ref().map_or(Some(Duration::ZERO), |s| s.may_begin(due.device));
                    let Some(not_before) = not_before else { continue };
                    let key = (due.device, due.points.clone());
                    let reads = plans.entry(key).or_insert_with_key(|(d, points)| Rc::new(self.plan(*d, points)));
                    agenda.begin(&due, (Rc::clone(reads), 0), not_before);
                }
                Next::GoOn(mut turn) => {
                    if let Some(asked) = silent.as_mut().and_then(|s| s.ask(turn.device, now)) {
                        now += asked.took;
                        if let Some(again) = asked.again {
                            agenda.rest(turn, again);
                        }
                        run.noticed = silent.as_ref().and_then(|s| s.noticed).unwrap_or(Duration::MAX);
                        continue;
                    }
                    let (reads, at) = &mut turn.work;
                    if let Some(read) = reads.get(*at) {
                        *at += 1;
                        self.read((turn.device, read), &mut now, wire, &mut run);
                    }
                    if *at < reads.len() {
                        agenda.put_back(turn);
                    }
                }
                Next::Wait(until) => {
                    let wake = silent.as_ref().and_then(|s| s.next(now)).into_iter().chain(until).min();
                    let Some(wake) = wake.filter(|wake| *wake < end) else { return run };
                    now = wake.max(now);
                }
            }
        }
        run.lasted = now.max(settled + Duration::from_millis(1)).min(end) - settled;
        run
    }

    fn read(&self, (device, read): (DeviceId, &Read), now: &mut Duration, wire: Wire, run: &mut Run) {
        let (table, range, points) = read;
        let took = self.cost.of(*table, u32::from(range.count()));
        let counts = *now >= run.settled;
        if wire == Wire::AsItIs {
            *now += took;
        }
        if counts {
            run.busy += took;
            run.sent((device, *table, *range), *now);
        }
        points.iter().for_each(|at| run.arrived(*at, *now));
    }

    /// When to begin to count, and when to end: whole numbers of the longest period in between. A period so long that
    /// the shorter ones would use up all turns first weighs nothing beside them.
    fn window(&self, turns: usize, at_least: Duration) -> (Duration, Duration) {
        let groups: HashSet<_> = self.points.iter().filter_map(|p| Some((p.device, period(p)?))).collect();
        let rate: f64 = groups.iter().map(|(_, period)| period.as_secs_f64().recip()).sum();
        let longest = self.longest();
        // One to settle, the others to count.
        #[expect(clippy::cast_precision_loss, reason = "far below the limit")]
        let affordable = turns as f64 / rate.max(1e-3) / f64::from(ROUNDS + 1);
        let longest = longest.min(Duration::from_secs_f64(affordable));
        let counted = u32::try_from(at_least.as_micros().div_ceil(longest.as_micros().max(1))).unwrap_or(u32::MAX - 1);
        (longest, longest * (1 + counted.max(ROUNDS)))
    }

    fn longest(&self) -> Duration {
        self.points.iter().filter_map(|p| period(p)).max().unwrap_or(SHORTEST).min(LONGEST)
    }

    fn plan(&self, device: DeviceId, points: &[PointId]) -> Reads {
        let Some(device) = self.devices.iter().find(|d| d.id == device) else { return Vec::new() };
        let own = self.points.iter().enumerate().filter(|(_, p)| points.contains(&p.id));
        let places: Vec<_> = own.filter_map(|(at, p)| place(p).map(|(table, range)| (at, table, range))).collect();
        let mut reads = Vec::new();
        for table in TABLES {
            let wanted: Vec<_> = places.iter().filter(|(_, t, _)| *t == table).map(|(_, _, range)| *range).collect();
            let limit = if table.is_bits() { device.max_bits } else { device.max_registers };
            for read in plan::plan(table, &wanted, limit, self.cost, &Holes::default()) {
                let inside = places.iter().filter(|(_, t, range)| *t == table && read.contains(*range));
                reads.push((table, read, inside.map(|(at, _, _)| *at).collect()));
            }
        }
        reads
    }

    fn requests(&self, run: &Run) -> Vec<Request> {
        let is_full = run.load() > 0.99;
        let name = |id: DeviceId| self.devices.iter().find(|d| d.id == id).map(|d| Arc::clone(&d.name));
        let all = run.reads.iter().filter_map(|((device, table, range), sent)| {
            let wire = self.cost.of(*table, u32::from(range.count()));
            // What goes by the grid comes a whole number of times; on a full line rounds end anywhere.
            let every = match sent.count {
                2.. if is_full => (sent.last - sent.first) / (sent.count - 1),
                count => run.lasted / count,
            };
            Some(Request { device: name(*device)?, table: *table, range: *range, wire, every })
        });
        all.collect()
    }

    fn ages(&self, run: &Run) -> Vec<Age> {
        let age = |(at, point): (usize, &&Point)| {
            place(point)?;
            let device = self.devices.iter().find(|d| d.id == point.device)?;
            let period = period(point);
            let asked = period.unwrap_or_default();
            let seen = run.of(at);
            Some(Age {
                point: point.id,
                device: point.device,
                name: format!("{}/{}", device.name, point.name),
                period,
                achievable: seen.map_or(asked, |a| (a.last - a.first) / a.count),
                worst: seen.map_or(asked, |a| a.longest),
            })
        };
        self.points.iter().enumerate().filter_map(age).collect()
    }

    fn without(&self, dead: &Device, asked: &Run, ages: &[Age]) -> Without {
        let run = self.run(Some(dead.id), Wire::AsItIs);
        let own = asked.reads.iter().filter(|((device, ..), _)| *device == dead.id);
        let own: Duration =
            own.map(|((_, table, range), sent)| self.cost.of(*table, range.count().into()) * sent.count).sum();
        let probes = silent::probe(self.line).div_duration_f64(health::LONGEST_PAUSE);
        Without {
            id: dead.id,
            device: Arc::clone(&dead.name),
            load: asked.load() - own.div_duration_f64(asked.lasted.max(Duration::from_millis(1))) + probes,
            hold_up: silent::hold_up(self.line),
            noticed: self.noticed(dead.id, &run, ages),
            points: self.bereft(dead.id, &run, ages),
        }
    }

    /// From its last answer on.
    fn noticed(&self, dead: DeviceId, run: &Run, ages: &[Age]) -> Duration {
        let own = || self.points.iter().enumerate().filter(|(_, p)| p.device == dead);
        let last = own().filter_map(|(at, _)| Some(run.arrivals[at]?.last)).max();
        let every = ages.iter().filter(|age| age.device == dead).map(|age| age.achievable).min();
        match last {
            Some(last) if last < run.noticed && run.noticed < Duration::MAX => run.noticed - last,
            _ => silent::noticed_after(self.line, every.unwrap_or(LONGEST), self.cost),
        }
    }

    fn bereft(&self, dead: DeviceId, run: &Run, ages: &[Age]) -> Vec<Bereft> {
        let on_wire = (0..self.points.len()).filter(|n| place(self.points[*n]).is_some());
        let others = ages.iter().zip(on_wire).enumerate().filter(|(_, (age, _))| age.device != dead);
        let bereft = |(at, (age, n)): (usize, (&Age, usize))| {
            let seen = run.of(n);
            let or_as_ever = |age: &Age, seen: Option<Duration>| seen.filter(|d| !d.is_zero()).unwrap_or(age.worst);
            let worst = or_as_ever(age, seen.map(|a| a.longest));
            // A death has one moment here; another could have held this point up for a whole question.
            let unlucky = age.worst + plan::question(self.line) + self.line.timeout;
            Bereft { at, worst, unnoticed: or_as_ever(age, seen.map(|a| a.unnoticed)).max(unlucky) }
        };
        others.map(bereft).collect()
    }
}

fn period(point: &Point) -> Option<Duration> {
    match &point.schedule {
        Schedule::Every { period, .. } => Some(*period),
        Schedule::Cron(_) => None,
    }
}

fn place(point: &Point) -> Option<(Table, AddressRange)> {
    match &point.source {
        Source::Wire(wire) => Some((wire.table, wire.range)),
        Source::Compute(_) => None,
    }
}

#[cfg(test)]
mod tests;
