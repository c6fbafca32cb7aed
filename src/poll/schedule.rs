//! When what is read. Pure: the monotonic clock (since the line began) and the wall clock are arguments.
//! A fixed grid per period, all from one origin, so that points whose periods meet share a request. Among what is due the
//! earliest deadline goes first, so that under overload a slow period is late but never starved. Turns that were missed are
//! counted and never made up for.

use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;

use crate::config::plant::Schedule;
use crate::point::{DeviceId, PointId};

/// A wall clock that moved by more than this against the monotonic one has been set.
const STEP_US: i64 = 500_000;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Since the line began, monotonic.
    pub now: Duration,
    /// Microseconds since 1970.
    pub wall_us: i64,
}

/// One device's points that are due together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub device: DeviceId,
    /// Which.
    pub points: Vec<PointId>,
    /// By when the turn should be over.
    pub deadline: Duration,
    /// Turns that passed without being taken, counted per point.
    pub missed: u64,
}

/// Points of one device with one schedule, whose turns come later than they should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretched {
    /// Whose.
    pub device: DeviceId,
    /// Which.
    pub points: Vec<PointId>,
    /// What is asked for.
    pub period: Duration,
    /// What can be had now: the time between two turns, smoothed.
    pub achievable: Duration,
    /// Turns that were missed since the start, by each of the points.
    pub missed: u64,
}

/// Points of one device with one schedule.
#[derive(Debug)]
struct Group {
    device: DeviceId,
    schedule: Schedule,
    points: Vec<PointId>,
    rule: Rule,
    due: Duration,
    /// When it was taken last: among equal deadlines the longest untaken goes first, so that overload is shared evenly.
    taken: Duration,
    hurried: bool,
    missed: u64,
    /// Since when it has been late without a break.
    behind: bool,
    /// The time between two turns, smoothed.
    between: Option<Duration>,
}

#[derive(Debug)]
enum Rule {
    Grid(Duration),
    Aligned(Duration),
    Cron(Box<Cron>),
}

/// All turns of a line.
#[derive(Debug)]
pub struct Timetable {
    groups: Vec<Group>,
    zone: TimeZone,
    offset_us: i64,
    /// By how much the wall clock was set since somebody asked.
    set_by_us: i64,
}

impl Timetable {
    /// Everything that is not bound to the wall clock is due at once.
    pub fn new<'a>(
        points: impl Iterator<Item = (DeviceId, PointId, &'a Schedule)>,
        clocks: Clocks,
        zone: TimeZone,
    ) -> Self {
        let mut table = Self { groups: Vec::new(), zone, offset_us: offset(clocks), set_by_us: 0 };
        for (device, point, schedule) in points {
            match table.groups.iter_mut().find(|g| g.device == device && g.schedule == *schedule) {
                Some(group) => group.points.push(point),
                None => table.groups.push(Group::new(device, point, schedule, clocks.now)),
            }
        }
        table.bind_to_wall(clocks);
        table
    }

    /// Other points from now on. What keeps its device and its schedule keeps its turns, and what is new comes at its place
    /// in the grid that all began with.
    pub fn refit<'a>(&mut self, points: impl Iterator<Item = (DeviceId, PointId, &'a Schedule)>, clocks: Clocks) {
        let mut old = std::mem::replace(self, Self::new(points, clocks, self.zone.clone()));
        (self.offset_us, self.set_by_us) = (old.offset_us, old.set_by_us);
        for group in &mut self.groups {
            let same = old.groups.iter().position(|g| g.device == group.device && g.schedule == group.schedule);
            match same {
                Some(n) => *group = Group { points: std::mem::take(&mut group.points), ..old.groups.swap_remove(n) },
                None => {
                    if let Rule::Grid(period) = group.rule {
                        group.due = period * whole_periods(clocks.now, period).saturating_add(1);
                    }
                }
            }
        }
    }

    /// When the next turn of one of these devices is due.
    pub fn next_of(&self, wanted: impl Fn(DeviceId) -> bool) -> Option<Duration> {
        let groups = self.groups.iter().filter(|g| wanted(g.device));
        groups.map(|g| if g.hurried { Duration::ZERO } else { g.due }).min()
    }

    /// The device with the earliest deadline among the turns that may begin now, by device and deadline, and all of its points
    /// that are due; their next turns are set.
    pub fn take_if(&mut self, clocks: Clocks, may: impl Fn(DeviceId, Duration) -> bool) -> Option<Due> {
        if offset(clocks).abs_diff(self.offset_us) > STEP_US.unsigned_abs() {
            self.set_by_us = self.set_by_us.saturating_add(offset(clocks).saturating_sub(self.offset_us));
            self.offset_us = offset(clocks);
            self.bind_to_wall(clocks);
        }
        let ready = self.groups.iter().filter(|g| g.is_due(clocks.now) && may(g.device, g.deadline()));
        let first = ready.min_by_key(|g| (g.deadline(), g.taken))?;
        let (device, deadline) = (first.device, first.deadline());
        let mut due = Due { device, points: Vec::new(), deadline, missed: 0 };
        let zone = &self.zone;
        for group in self.groups.iter_mut().filter(|g| g.device == device && g.is_due(clocks.now)) {
            let missed = group.advance(clocks, zone);
            group.missed += missed;
            due.missed += missed * u64::try_from(group.points.len()).unwrap_or(0);
            due.points.extend_from_slice(&group.points);
        }
        Some(due)
    }

    /// Reads all of a device's points now, without moving its grid: it has just come back.
    pub fn hurry(&mut self, device: DeviceId) {
        self.groups.iter_mut().filter(|g| g.device == device).for_each(|g| g.hurried = true);
    }

    /// Whose periods are not met now, the most stretched first.
    pub fn stretched(&self) -> Vec<Stretched> {
        let mut all: Vec<Stretched> = self.groups.iter().filter_map(Group::stretched).collect();
        all.sort_by(|a, b| b.factor().total_cmp(&a.factor()));
        all
    }

    /// By how many microseconds the wall clock was set since the last call, where turns have followed it.
    pub fn followed(&mut self) -> Option<i64> {
        let by = std::mem::take(&mut self.set_by_us);
        let is_bound = self.groups.iter().any(|g| !matches!(g.rule, Rule::Grid(_)));
        (by != 0 && is_bound).then_some(by)
    }

    fn bind_to_wall(&mut self, clocks: Clocks) {
        for group in &mut self.groups {
            match &group.rule {
                Rule::Grid(_) => {}
                Rule::Aligned(period) => group.due = clocks.now + until_aligned(*period, clocks.wall_us),
                Rule::Cron(cron) => group.due = clocks.now + until_cron(cron, clocks.wall_us, &self.zone),
            }
        }
    }
}

impl Stretched {
    /// How many times the period it takes.
    pub fn factor(&self) -> f64 {
        self.achievable.div_duration_f64(self.period)
    }
}

impl Group {
    fn new(device: DeviceId, point: PointId, schedule: &Schedule, now: Duration) -> Self {
        Self {
            device,
            points: vec![point],
            rule: rule(schedule),
            schedule: schedule.clone(),
            due: now,
            taken: Duration::ZERO,
            hurried: false,
            missed: 0,
            behind: false,
            between: None,
        }
    }

    fn stretched(&self) -> Option<Stretched> {
        let (Rule::Grid(period) | Rule::Aligned(period), Some(achievable)) = (&self.rule, self.between) else {
            return None;
        };
        let (period, missed) = (*period, self.missed);
        let points = self.points.clone();
        (self.behind && achievable > period).then_some(Stretched {
            device: self.device,
            points,
            period,
            achievable,
            missed,
        })
    }

    /// The time between two turns, an eighth at a time: one hiccup is not a stretched period. It is behind from the first
    /// missed turn until the mean is its period again.
    fn timed(&mut self, now: Duration, missed: u64) {
        let between = now.saturating_sub(self.taken);
        let period = match self.rule {
            Rule::Grid(period) | Rule::Aligned(period) => period,
            Rule::Cron(_) => return,
        };
        // The first turn after the start, or after the device was away, is measured from nothing.
        let Some(usual) = self.between else {
            self.between = Some(period);
            return;
        };
        let usual = usual - usual / 8 + between.min(period * 64) / 8;
        self.between = Some(usual);
        self.behind = missed > 0 || (self.behind && usual > period + period / 50);
    }

    fn is_due(&self, now: Duration) -> bool {
        self.hurried || self.due <= now
    }

    /// A turn should be over before the next begins. A cron turn may take a second: its own resolution.
    fn deadline(&self) -> Duration {
        match self.rule {
            Rule::Grid(period) | Rule::Aligned(period) => self.due + period,
            Rule::Cron(_) => self.due + Duration::from_secs(1),
        }
    }

    /// Sets the next turn and returns how many were passed over.
    fn advance(&mut self, clocks: Clocks, zone: &TimeZone) -> u64 {
        let hurried = std::mem::take(&mut self.hurried);
        let missed = if self.due > clocks.now { 0 } else { self.set_next(clocks, zone) };
        if hurried {
            self.between = None;
        }
        self.timed(clocks.now, missed);
        self.taken = clocks.now;
        missed
    }

    fn set_next(&mut self, clocks: Clocks, zone: &TimeZone) -> u64 {
        let late = clocks.now - self.due;
        match &self.rule {
            Rule::Grid(period) => {
                let missed = whole_periods(late, *period);
                self.due += *period * (missed + 1);
                u64::from(missed)
            }
            Rule::Aligned(period) => {
                let tick = Duration::from_micros(1);
                let mut next = clocks.now + tick + until_aligned(*period, clocks.wall_us + 1);
                // A wall clock that is slewed back would else have this turn twice.
                if next < self.due + *period / 2 {
                    next += *period;
                }
                self.due = next;
                u64::from(whole_periods(late, *period))
            }
            Rule::Cron(cron) => {
                // Searched from the turn that was due, should the wall clock be a little behind it.
                let planned = clocks.wall_us - micros(late);
                let from = clocks.wall_us.max(planned + micros(Duration::from_millis(500)));
                let ahead = Duration::from_micros(u64::try_from(from - clocks.wall_us).unwrap_or(0));
                self.due = clocks.now + ahead + until_cron(cron, from, zone);
                0
            }
        }
    }
}

fn rule(schedule: &Schedule) -> Rule {
    match schedule {
        Schedule::Every { period, align: false } => Rule::Grid(at_least_a_tick(*period)),
        Schedule::Every { period, align: true } => Rule::Aligned(at_least_a_tick(*period)),
        Schedule::Cron(text) => cron(text).map_or(Rule::Aligned(Duration::from_secs(60)), |c| Rule::Cron(Box::new(c))),
    }
}

/// A period of zero is refused by the configuration; here it must only not divide by zero.
fn at_least_a_tick(period: Duration) -> Duration {
    period.max(Duration::from_millis(1))
}

/// Six fields, seconds first. `None` for what the configuration would have refused.
fn cron(text: &Arc<str>) -> Option<Cron> {
    CronParser::builder().seconds(Seconds::Required).build().parse(text).ok()
}

fn offset(clocks: Clocks) -> i64 {
    clocks.wall_us - micros(clocks.now)
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX / 4)
}

fn whole_periods(late: Duration, period: Duration) -> u32 {
    u32::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX - 1)
}

fn until_aligned(period: Duration, wall_us: i64) -> Duration {
    let period = micros(period).max(1);
    let past = wall_us.rem_euclid(period);
    Duration::from_micros(u64::try_from((period - past) % period).unwrap_or(0))
}

/// Until the next time after `wall_us` that the pattern names; an hour where there is none.
fn until_cron(cron: &Cron, wall_us: i64, zone: &TimeZone) -> Duration {
    let next = jiff::Timestamp::from_microsecond(wall_us).ok().and_then(|at| {
        let next = cron.find_next_occurrence(&at.to_zoned(zone.clone()), false).ok()?;
        u64::try_from(next.timestamp().as_microsecond() - wall_us).ok()
    });
    next.map_or(Duration::from_secs(3600), Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Timetable {
        fn next(&self) -> Option<Duration> {
            self.next_of(|_| true)
        }

        fn take(&mut self, clocks: Clocks) -> Option<Due> {
            self.take_if(clocks, |_, _| true)
        }

        fn missed(&self, point: PointId) -> u64 {
            self.groups.iter().find(|g| g.points.contains(&point)).map_or(0, |g| g.missed)
        }
    }

    const A: DeviceId = DeviceId(1);
    const B: DeviceId = DeviceId(2);
    const WALL: i64 = 1_795_222_923_456_000;

    fn every(ms: u64) -> Schedule {
        Schedule::Every { period: Duration::from_millis(ms), align: false }
    }

    fn at(ms: u64) -> Clocks {
        Clocks { now: Duration::from_millis(ms), wall_us: WALL + i64::try_from(ms).unwrap() * 1000 }
    }

    fn table(rows: &[(DeviceId, u32, Schedule)]) -> Timetable {
        Timetable::new(rows.iter().map(|(d, p, s)| (*d, PointId(*p), s)), at(0), TimeZone::UTC)
    }

    fn points(due: Option<Due>) -> Vec<u32> {
        due.map(|d| d.points.iter().map(|p| p.0).collect()).unwrap_or_default()
    }

    #[test]
    fn points_whose_periods_meet_share_a_turn() {
        let mut table = table(&[(A, 1, every(200)), (A, 2, every(1000)), (A, 3, every(200))]);
        assert_eq!(points(table.take(at(0))), [1, 3, 2]);
        assert_eq!(points(table.take(at(200))), [1, 3]);
        assert_eq!(points(table.take(at(201))), [0u32; 0]);
        for ms in [400, 600, 800] {
            table.take(at(ms));
        }
        assert_eq!(points(table.take(at(1000))), [1, 3, 2]);
    }

    #[test]
    fn the_earliest_deadline_goes_first() {
        let mut table = table(&[(A, 1, every(1000)), (B, 2, every(100))]);
        assert_eq!(points(table.take(at(0))), [2]);
        assert_eq!(points(table.take(at(0))), [1]);
    }

    #[test]
    fn missed_turns_are_counted_and_never_made_up_for() {
        let mut table = table(&[(A, 1, every(100)), (A, 2, every(100))]);
        table.take(at(0));
        let late = table.take(at(450)).unwrap();
        assert_eq!((late.points.len(), late.missed, table.missed(PointId(2))), (2, 6, 3));
        assert_eq!(table.take(at(451)), None);
        assert_eq!(table.next(), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_device_that_came_back_is_read_at_once_and_keeps_its_grid() {
        let mut table = table(&[(A, 1, every(1000))]);
        table.take(at(0));
        table.hurry(A);
        assert_eq!(points(table.take(at(300))), [1]);
        assert_eq!(table.next(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn an_aligned_period_follows_the_wall_clock() {
        let minute = Schedule::Every { period: Duration::from_secs(60), align: true };
        let mut table = table(&[(A, 1, minute)]);
        // 01:02:03.456, so 56.544 s to the minute.
        assert_eq!(table.next(), Some(Duration::from_millis(56_544)));
        assert_eq!(points(table.take(at(56_544))), [1]);
        assert_eq!(table.next(), Some(Duration::from_millis(116_544)));
        // Somebody sets the clock ahead by 30 s: the next minute is nearer.
        let stepped = Clocks { wall_us: at(60_000).wall_us + 30_000_000, ..at(60_000) };
        assert_eq!(table.followed(), None);
        assert_eq!(table.take(stepped), None);
        assert_eq!(table.next(), Some(Duration::from_millis(86_544)));
        assert_eq!((table.followed(), table.followed()), (Some(30_000_000), None), "said once");
    }

    #[test]
    fn turns_that_are_not_bound_to_the_wall_clock_follow_nothing() {
        let mut table = table(&[(A, 1, every(1000))]);
        table.take(at(0));
        let stepped = |ms| Clocks { wall_us: 0, ..at(ms) };
        assert_eq!(table.take(stepped(999)), None);
        assert_eq!(points(table.take(stepped(1000))), [1]);
        assert_eq!(table.followed(), None);
    }

    #[test]
    fn cron_names_its_seconds() {
        let quarter = Schedule::Cron("0 */15 * * * *".into());
        let mut table = table(&[(A, 1, quarter)]);
        let first = 12 * 60_000 + 56_544;
        assert_eq!(table.next(), Some(Duration::from_millis(first)));
        assert_eq!(points(table.take(at(first))), [1]);
        assert_eq!(table.next(), Some(Duration::from_millis(first + 900_000)));
    }

    proptest! {
        #[test]
        fn an_overloaded_line_starves_nobody(periods in prop::collection::vec(20u64..400, 2..6), cost in 50u64..300) {
            let rows: Vec<_> = periods.iter().zip(0u32..).map(|(ms, n)| (DeviceId(n), n, every(*ms))).collect();
            let mut table = table(&rows);
            let mut last = vec![0u64; rows.len()];
            let mut now = 0;
            for _ in 0..300 {
                let Some(due) = table.take(at(now)) else { now += 1; continue };
                let n = usize::try_from(due.device.0).unwrap();
                let bound = periods[n] * 2 + cost * (rows.len() as u64 + 1) + 400;
                prop_assert!(now - last[n] <= bound, "{} waited {} ms", n, now - last[n]);
                last[n] = now;
                now += cost;
            }
        }
    }
}
