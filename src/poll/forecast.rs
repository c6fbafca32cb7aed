//! What a line will carry, computed before anything is connected. Pure: the same timetable and planner that will run are
//! run here against the cost model instead of the wire, once as fast as the wire allows and once on a wire of no length,
//! which shows what is asked of it. Devices are taken to answer as fast as is usual; nothing is lost or repeated.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plant::{Device, Line, Point, Schedule, Source};
use crate::point::{AddressRange, DeviceId, PointId, Table};
use crate::poll::health::{self, Silence};
pub(crate) use crate::poll::member::USUAL_TURNAROUND;
use crate::poll::plan::{self, Cost, Holes};
use crate::poll::schedule::{Clocks, Timetable};

/// Simulated at least and at most; rarer turns than hourly weigh nothing.
const SHORTEST: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(3600);
/// Bounds on the work: at 20 ms this is an hour of one device. Deaths share it, each with this much at least.
const TURNS: usize = 200_000;
const TURNS_AT_LEAST: usize = 10_000;
/// A period counts as met when the mean stays within this part of it.
const TOLERANCE: u32 = 100;
const TABLES: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];

/// What a line will carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The line's key.
    pub line: Arc<str>,
    /// Wire time asked of the line by the time there is; above 1 it cannot be done.
    pub load: f64,
    /// Different reads, in order of device, table and address.
    pub requests: Vec<Request>,
    /// Every point that is read from the wire.
    pub points: Vec<Age>,
    /// What becomes of it when one device is dead, for each of them.
    pub without: Vec<Without>,
}

/// A read that will be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// To whom.
    pub device: Arc<str>,
    /// Of which table.
    pub table: Table,
    /// Which addresses.
    pub range: AddressRange,
    /// Wire time of one: both frames, the device's turnaround and the silences.
    pub wire: Duration,
    /// How often, on average.
    pub every: Duration,
}

/// How old a point's value gets before the next one is here.
#[derive(Debug, Clone, PartialEq)]
pub struct Age {
    /// Which.
    pub point: PointId,
    /// `device/point`.
    pub name: String,
    /// What the configuration asks for; `None` for cron.
    pub period: Option<Duration>,
    /// The period it will have, on average.
    pub achievable: Duration,
    /// The longest time between two readings.
    pub worst: Duration,
}

/// The line with one device dead, after that has been noticed.
#[derive(Debug, Clone, PartialEq)]
pub struct Without {
    /// Which is dead.
    pub device: Arc<str>,
    /// Load by the others and by probing it.
    pub load: f64,
    /// The worst age among the points of the others.
    pub worst: Duration,
    /// By how much the worst of them is older than its period.
    pub late: Duration,
    /// For how long at most one turn of the others is held up until the death is noticed.
    pub hold_up: Duration,
}

impl Age {
    /// False when the configured period cannot be had.
    pub fn is_met(&self) -> bool {
        self.period.is_none_or(|period| self.achievable <= period + period / TOLERANCE)
    }
}

impl Forecast {
    /// More is asked than the wire can carry.
    pub fn is_overloaded(&self) -> bool {
        self.load > 1.0
    }

    /// Points whose period cannot be met.
    pub fn unmet(&self) -> impl Iterator<Item = &Age> {
        self.points.iter().filter(|age| !age.is_met())
    }

    /// The oldest a value gets on this line.
    pub fn worst(&self) -> Duration {
        self.points.iter().map(|age| age.worst).max().unwrap_or_default()
    }
}

/// Computes it from what is configured: `devices` and `points` may be the whole plant's.
pub fn of(line: &Line, devices: &[Device], points: &[Point]) -> Forecast {
    with_turnaround(line, devices, points, USUAL_TURNAROUND)
}

/// The same for devices that take so long to begin an answer once they know that the question has ended.
pub fn with_turnaround(line: &Line, devices: &[Device], points: &[Point], turnaround: Duration) -> Forecast {
    let model = Model::new(line, devices, points, turnaround);
    let asked = model.run(None, Wire::OfNoLength);
    let real = model.run(None, Wire::AsItIs);
    let without = model.devices.iter().map(|dead| model.without(dead)).collect();
    Forecast {
        line: Arc::clone(&line.name),
        load: asked.load(),
        requests: model.requests(&real),
        points: model.ages(&real),
        without,
    }
}

/// Only the load, which is quick: wire time asked of the line by the time there is.
pub fn load(line: &Line, devices: &[Device], points: &[Point]) -> f64 {
    Model::new(line, devices, points, USUAL_TURNAROUND).run(None, Wire::OfNoLength).load()
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
    reads: BTreeMap<(DeviceId, Table, AddressRange), u32>,
    arrivals: HashMap<PointId, Arrivals>,
}

#[derive(Clone, Copy)]
struct Arrivals {
    first: Duration,
    last: Duration,
    count: u32,
    longest: Duration,
}

impl Run {
    fn load(&self) -> f64 {
        if self.lasted.is_zero() { 0.0 } else { self.busy.div_duration_f64(self.lasted) }
    }

    fn arrived(&mut self, point: PointId, now: Duration) {
        let fresh = Arrivals { first: now, last: now, count: 0, longest: Duration::ZERO };
        let seen = self.arrivals.entry(point).or_insert(fresh);
        if seen.last < now {
            seen.longest = seen.longest.max(now - seen.last);
            seen.count += 1;
            seen.last = now;
        }
    }
}

type Reads = Vec<(Table, AddressRange, Vec<PointId>)>;

impl<'a> Model<'a> {
    fn new(line: &'a Line, devices: &'a [Device], points: &'a [Point], turnaround: Duration) -> Self {
        let devices: Vec<&Device> = devices.iter().filter(|d| d.line == line.id).collect();
        let points = points.iter().filter(|p| devices.iter().any(|d| d.id == p.device)).collect();
        Self { line, devices, points, cost: Cost::new(line, turnaround + plan::silence(line)) }
    }

    fn run(&self, dead: Option<DeviceId>, wire: Wire) -> Run {
        let clocks = |now: Duration| Clocks { now, wall_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX) };
        let alive = self.points.iter().filter(|p| Some(p.device) != dead);
        let rows = alive.map(|p| (p.device, p.id, &p.schedule));
        let mut table = Timetable::new(rows, clocks(Duration::ZERO), jiff::tz::TimeZone::UTC);
        let turns = if dead.is_none() { TURNS } else { (TURNS / self.devices.len()).max(TURNS_AT_LEAST) };
        let (settled, end) = self.window(turns);
        let mut plans: HashMap<(DeviceId, Vec<PointId>), Reads> = HashMap::new();
        let mut run =
            Run { busy: Duration::ZERO, lasted: end - settled, reads: BTreeMap::new(), arrivals: HashMap::new() };
        let mut now = Duration::ZERO;
        for _ in 0..turns {
            let Some(due) = table.take(clocks(now)) else {
                match table.next() {
                    Some(next) if next < end => now = next.max(now),
                    _ => return run,
                }
                continue;
            };
            let counts = now >= settled;
            let reads = plans.entry((due.device, due.points)).or_insert_with_key(|(d, points)| self.plan(*d, points));
            for (kind, range, points) in reads.iter() {
                let took = self.cost.of(*kind, u32::from(range.count()));
                if wire == Wire::AsItIs {
                    now += took;
                }
                if counts {
                    run.busy += took;
                    *run.reads.entry((due.device, *kind, *range)).or_default() += 1;
                    points.iter().for_each(|point| run.arrived(*point, now));
                }
            }
            if now >= end {
                break;
            }
        }
        run.lasted = now.max(settled + Duration::from_millis(1)).min(end) - settled;
        run
    }

    /// When to begin to count, and when to end: whole numbers of the longest period in between. A period so long that the
    /// shorter ones would use up all turns first weighs nothing beside them.
    fn window(&self, turns: usize) -> (Duration, Duration) {
        let groups: HashSet<_> = self.points.iter().filter_map(|p| Some((p.device, period(p)?))).collect();
        let rate: f64 = groups.iter().map(|(_, period)| period.as_secs_f64().recip()).sum();
        let longest = groups.iter().map(|(_, period)| *period).max().unwrap_or(SHORTEST).min(LONGEST);
        // Three times: once to settle, twice to count.
        #[expect(clippy::cast_precision_loss, reason = "far below the limit")]
        let affordable = turns as f64 / rate.max(1e-3) / 3.0;
        let longest = longest.min(Duration::from_secs_f64(affordable));
        let counted = (SHORTEST.as_micros().div_ceil(longest.as_micros().max(1))).max(2);
        (longest, longest * (1 + u32::try_from(counted).unwrap_or(2)))
    }

    fn plan(&self, device: DeviceId, points: &[PointId]) -> Reads {
        let Some(device) = self.devices.iter().find(|d| d.id == device) else { return Vec::new() };
        let own = self.points.iter().filter(|p| points.contains(&p.id));
        let places: Vec<_> = own.filter_map(|p| place(p).map(|(table, range)| (p.id, table, range))).collect();
        let mut reads = Vec::new();
        for table in TABLES {
            let wanted: Vec<_> = places.iter().filter(|(_, t, _)| *t == table).map(|(_, _, range)| *range).collect();
            let limit = if table.is_bits() { device.max_bits } else { device.max_registers };
            for read in plan::plan(table, &wanted, limit, self.cost, &Holes::default()) {
                let inside = places.iter().filter(|(_, t, range)| *t == table && read.contains(*range));
                reads.push((table, read, inside.map(|(id, _, _)| *id).collect()));
            }
        }
        reads
    }

    fn requests(&self, run: &Run) -> Vec<Request> {
        let name = |id: DeviceId| self.devices.iter().find(|d| d.id == id).map(|d| Arc::clone(&d.name));
        let all = run.reads.iter().filter_map(|((device, table, range), count)| {
            let wire = self.cost.of(*table, u32::from(range.count()));
            let every = run.lasted / *count;
            Some(Request { device: name(*device)?, table: *table, range: *range, wire, every })
        });
        all.collect()
    }

    fn ages(&self, run: &Run) -> Vec<Age> {
        let on_wire = self.points.iter().filter(|p| place(p).is_some());
        let age = |point: &&Point| {
            let device = self.devices.iter().find(|d| d.id == point.device)?;
            let period = period(point);
            let asked = period.unwrap_or_default();
            let seen = run.arrivals.get(&point.id).filter(|a| a.count > 0);
            Some(Age {
                point: point.id,
                name: format!("{}/{}", device.name, point.name),
                period,
                achievable: seen.map_or(asked, |a| (a.last - a.first) / a.count),
                worst: seen.map_or(asked, |a| a.longest),
            })
        };
        on_wire.filter_map(age).collect()
    }

    fn without(&self, dead: &Device) -> Without {
        let (asked, real) = (self.run(Some(dead.id), Wire::OfNoLength), self.run(Some(dead.id), Wire::AsItIs));
        let probe = (plan::question(self.line) + self.line.timeout).min(Silence::affordable(1));
        let others = real.arrivals.values().map(|a| a.longest).max().unwrap_or_default();
        let periods = self.points.iter().filter_map(|p| Some((period(p)?, real.arrivals.get(&p.id)?)));
        let late = periods.map(|(period, a)| a.longest.saturating_sub(period)).max().unwrap_or_default();
        // On a line without rest the probe comes in between.
        let delay = if asked.load() + probe.div_duration_f64(SHORTEST) < 1.0 { Duration::ZERO } else { probe };
        let tries = 1 + u32::from(self.line.retries);
        Without {
            device: Arc::clone(&dead.name),
            load: asked.load() + probe.div_duration_f64(health::LONGEST_PAUSE),
            worst: others + delay,
            late: late + delay,
            // Between tries of one unit the line is kept for its late answer.
            hold_up: (plan::question(self.line) + self.line.timeout) * tries + self.line.timeout * (tries - 1),
        }
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

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = format!("{} {}", self.table, self.range);
        write!(f, "{:<20} {what:<18} {:>8.1} ms every {:>9.0} ms", self.device, ms(self.wire), ms(self.every))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} at most {:.0} ms old", self.name, ms(self.worst))?;
        match self.period {
            Some(period) if !self.is_met() => {
                write!(f, "; every {:.0} ms cannot be met, {:.0} ms can", ms(period), ms(self.achievable))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (load, worst, hold_up) = (self.load * 1e2, ms(self.worst), ms(self.hold_up));
        write!(
            f,
            "{:<20} dead: load {load:.1} %, others at most {worst:.0} ms old, once {hold_up:.0} ms late",
            self.device
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work;
    use crate::bus::{Data, fake};
    use crate::config::plant::Port;

    fn reference(baud: u32, period: Duration) -> (crate::poll::Parts, Forecast) {
        let port = work::serial_port("none", baud, work::F8N1);
        let parts = work::reference(Port::Serial(port), period);
        let forecast = of(&parts.line, &parts.devices, &parts.points);
        (parts, forecast)
    }

    #[test]
    fn a_line_with_room_meets_every_period_and_says_how_full_it_is() {
        let (_, forecast) = reference(115_200, Duration::from_secs(1));
        assert!((forecast.load - 0.392).abs() < 0.002, "{}", forecast.load);
        assert!(!forecast.is_overloaded() && forecast.unmet().count() == 0);
        assert_eq!((forecast.points.len(), forecast.without.len()), (300, 10));
        assert!(forecast.points.iter().all(|age| age.worst == Duration::from_secs(1)), "{}", forecast.points[0]);
        assert!(forecast.without.iter().all(|w| w.load < forecast.load), "{}", forecast.without[0]);
    }

    #[test]
    fn a_period_that_cannot_be_met_is_named_with_one_that_can() {
        let (_, forecast) = reference(9_600, Duration::from_secs(1));
        assert!((forecast.load - 2.179).abs() < 0.01, "{}", forecast.load);
        assert_eq!(forecast.unmet().count(), 300);
        let age = &forecast.points[0];
        assert!((2100..2300).contains(&age.achievable.as_millis()), "{age}");
        assert!(age.to_string().contains("every 1000 ms cannot be met, 21"), "{age}");
    }

    #[test]
    fn an_hourly_point_does_not_hide_an_overload() {
        let (mut parts, _) = reference(9_600, Duration::from_millis(20));
        parts.points[7].schedule = Schedule::Every { period: Duration::from_secs(3600), align: false };
        let load = load(&parts.line, &parts.devices, &parts.points);
        assert!((100.0..110.0).contains(&load), "{load}");
    }

    #[test]
    fn points_whose_periods_meet_share_their_requests() {
        let (mut parts, _) = reference(115_200, Duration::from_secs(1));
        for point in parts.points.iter_mut().filter(|p| p.id.0 % 2 == 1) {
            point.schedule = Schedule::Every { period: Duration::from_secs(2), align: false };
        }
        let forecast = of(&parts.line, &parts.devices, &parts.points);
        let (mean, wire): (Vec<f64>, Vec<f64>) =
            forecast.requests.iter().map(|r| (r.wire.div_duration_f64(r.every), r.wire.as_secs_f64())).unzip();
        assert!((mean.iter().sum::<f64>() - forecast.load).abs() < 1e-3 && wire.iter().all(|w| *w > 0.0));
        assert!(forecast.load < 0.392, "{}", forecast.load);
    }

    /// On a line without a machine behind it, so that only the forecast can be wrong; `cargo bench` compares it with the
    /// paced line.
    #[tokio::test(start_paused = true)]
    async fn the_running_line_is_as_busy_as_was_foreseen() {
        for (baud, period) in [(115_200, Duration::from_secs(1)), (19_200, Duration::from_secs(3))] {
            let (parts, forecast) = reference(baud, period);
            let cost = Cost::new(&parts.line, USUAL_TURNAROUND + plan::silence(&parts.line));
            let bus = fake::bus(move |request| {
                let words = vec![7; usize::from(request.range.count())];
                (cost.of(request.table, u32::from(request.range.count())), Ok(Data::Registers(words)))
            });
            let (out, mut samples) = tokio::sync::mpsc::channel(64);
            let (tell, mut events) = tokio::sync::mpsc::channel(64);
            let (_status, task) = crate::poll::new(parts, bus.clone(), out, tell);
            tokio::spawn(task.run(tokio_util::sync::CancellationToken::new()));
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            let end = tokio::time::Instant::now() + 12 * period - Duration::from_millis(1);
            while let Ok(Some(_)) = tokio::time::timeout_at(end, samples.recv()).await {}
            let ratio = bus.status().borrow().busy.div_duration_f64(12 * period) / forecast.load;
            assert!((0.95..1.05).contains(&ratio), "{baud}: {ratio}");
        }
    }
}
