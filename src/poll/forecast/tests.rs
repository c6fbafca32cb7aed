//! The forecast alone, and against the real bus and poll task on a simulated wire.

use std::path::Path;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::*;
use crate::bench::work::{self, F8E1, F8N1};
use crate::bus::Bus;
use crate::bus::wire::{self, Account, Pace, Wire as Trunk};
use crate::config::plant::{CharFormat, Port};
use crate::poll::learned::Lessons;
use crate::poll::{self, DeviceEvent, Parts};
use crate::sample::Sample;

fn reference((baud, format): (u32, CharFormat), period: Duration) -> (Parts, Forecast) {
    let port = work::serial_port("none", baud, format);
    let parts = work::reference(Port::Serial(port), period);
    let forecast = of(&parts.line, &parts.devices, &parts.points);
    (parts, forecast)
}

#[test]
fn a_line_with_room_meets_every_period_and_says_how_full_it_is() {
    let (_, forecast) = reference((115_200, F8N1), Duration::from_secs(1));
    assert!((forecast.load - 0.392).abs() < 0.002, "{}", forecast.load);
    assert!(!forecast.is_overloaded() && forecast.unmet().count() == 0);
    assert_eq!((forecast.points.len(), forecast.without.len()), (300, 10));
    assert!(forecast.points.iter().all(|age| age.worst == Duration::from_secs(1)), "{:?}", forecast.points[0]);
    assert!(forecast.without.iter().all(|w| w.load < forecast.load), "{:?}", forecast.without[0]);
}

#[test]
fn a_period_that_cannot_be_met_is_named_with_one_that_can() {
    let (_, forecast) = reference((9_600, F8N1), Duration::from_secs(1));
    assert!((forecast.load - 2.179).abs() < 0.01, "{}", forecast.load);
    assert_eq!(forecast.unmet().count(), 300);
    let age = &forecast.points[0];
    assert!(!age.is_met() && (2100..2300).contains(&age.achievable.as_millis()), "{age:?}");
}

#[test]
fn an_hourly_point_does_not_hide_an_overload() {
    let (mut parts, _) = reference((9_600, F8N1), Duration::from_millis(20));
    Arc::make_mut(&mut parts.points[7]).schedule = Schedule::Every { period: Duration::from_secs(3600), align: false };
    let load = load(&parts.line, &parts.devices, &parts.points, USUAL_TURNAROUND);
    assert!((100.0..110.0).contains(&load), "{load}");
}

#[test]
fn points_whose_periods_meet_share_their_requests() {
    let (mut parts, _) = reference((115_200, F8N1), Duration::from_secs(1));
    for point in parts.points.iter_mut().filter(|p| p.id.0 % 2 == 1) {
        Arc::make_mut(point).schedule = Schedule::Every { period: Duration::from_secs(2), align: false };
    }
    let forecast = of(&parts.line, &parts.devices, &parts.points);
    let (mean, wire): (Vec<f64>, Vec<f64>) =
        forecast.requests.iter().map(|r| (r.wire.div_duration_f64(r.every), r.wire.as_secs_f64())).unzip();
    assert!((mean.iter().sum::<f64>() - forecast.load).abs() < 1e-3 && wire.iter().all(|w| *w > 0.0));
    assert!(forecast.load < 0.392, "{}", forecast.load);
}

/// What passed on the simulated wire, brought back to real time.
struct Measured {
    /// As the wire saw it, and as the bus counted it.
    loads: [f64; 2],
    account: Account,
    /// Of it, while it was measured.
    questions: usize,
    /// Good readings of each point.
    readings: HashMap<PointId, Vec<Duration>>,
}

/// The real bus and poll task on the wire, in slow motion.
struct Running {
    bus: Bus,
    trunk: Trunk,
    samples: mpsc::Receiver<Vec<Sample>>,
    events: mpsc::Receiver<DeviceEvent>,
    begun: Instant,
    slowed: u32,
    _stop: DropGuard,
}

/// tokio's paused clock knows whole milliseconds; slowed so, rounding up to them costs a fast line less than 1 %.
const SLOWED: u32 = 20;

fn zeros(pdu: &[u8]) -> Vec<u8> {
    let count = usize::from(u16::from_be_bytes([pdu[3], pdu[4]]));
    let bytes = if pdu[0] <= 2 { count.div_ceil(8) } else { count * 2 };
    [&[pdu[0], u8::try_from(bytes).unwrap()], vec![0; bytes].as_slice()].concat()
}

/// Every device thinks as long as the forecast takes it to; one may die some day.
fn running(parts: &Parts, slowed: u32, dies: Option<(u8, Duration)>) -> Running {
    let begun = Instant::now();
    let say = move |unit: u8, pdu: &[u8]| {
        let is_dead = dies.is_some_and(|(dead, at)| unit == dead && begun.elapsed() / slowed >= at);
        // The diagnostic echo is all that is asked besides reads.
        let answer = if pdu[0] == 8 { pdu.to_vec() } else { zeros(pdu) };
        (!is_dead).then(|| (USUAL_TURNAROUND * slowed, answer))
    };
    let (bus, trunk) = wire::start(&parts.line, Pace::slowed(&parts.line, slowed), say);
    let mut parts = parts.clone();
    parts.line = wire::slow_motion(&parts.line, slowed);
    for point in &mut parts.points {
        let Schedule::Every { period, .. } = &mut Arc::make_mut(point).schedule else {
            panic!("cron cannot be slowed")
        };
        *period *= slowed;
    }
    let (out, samples) = mpsc::channel(64);
    let (tell, events) = mpsc::channel(64);
    let (_status, task) = poll::new(parts, bus.clone(), out, tell);
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    Running { bus, trunk, samples, events, begun, slowed, _stop: stop.drop_guard() }
}

impl Running {
    async fn measure(&mut self, settle: Duration, lasting: Duration) -> Measured {
        self.until(settle).await;
        let busy = |bus: &Bus| bus.status().borrow().busy;
        let before = (self.trunk.account(), busy(&self.bus));
        let readings = self.until(settle + lasting).await;
        let account = self.trunk.account();
        let share = |busy: Duration| busy.div_duration_f64(lasting * self.slowed);
        let loads = [share(account.occupied - before.0.occupied), share(busy(&self.bus) - before.1)];
        let questions = account.questions.len() - before.0.questions.len();
        Measured { loads, account, questions, readings }
    }

    async fn until(&mut self, end: Duration) -> HashMap<PointId, Vec<Duration>> {
        let mut readings: HashMap<_, Vec<_>> = HashMap::new();
        // A millisecond before the next turn begins.
        let end = self.begun + end * self.slowed - Duration::from_millis(1);
        while let Ok(Some(batch)) = tokio::time::timeout_at(end, self.samples.recv()).await {
            let at = self.begun.elapsed() / self.slowed;
            for sample in batch.iter().filter(|s| s.value().is_some()) {
                readings.entry(sample.point()).or_default().push(at);
            }
        }
        readings
    }

    /// Goes on until a device is taken offline: when that was, and what was read until then.
    async fn until_offline(&mut self) -> (Duration, HashMap<PointId, Vec<Duration>>) {
        let mut readings: HashMap<_, Vec<_>> = HashMap::new();
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => if !event.online { return (self.begun.elapsed(), readings) },
                Some(batch) = self.samples.recv() => for sample in batch.iter().filter(|s| s.value().is_some()) {
                    readings.entry(sample.point()).or_default().push(self.begun.elapsed());
                },
            }
        }
    }
}

fn longest(times: &[Duration]) -> Duration {
    times.windows(2).map(|w| w[1] - w[0]).max().unwrap()
}

impl Measured {
    /// Mean and longest time between two readings.
    fn ages(&self, point: PointId) -> (Duration, Duration) {
        let times = &self.readings[&point];
        let count = u32::try_from(times.len() - 1).unwrap();
        ((times[times.len() - 1] - times[0]) / count, longest(times))
    }

    fn is_clean(&self) -> bool {
        (self.account.violations, self.account.collisions) == (0, 0)
    }
}

/// Within 5 %.
#[track_caller]
fn agree(what: &str, foreseen: f64, measured: f64) {
    let ratio = measured / foreseen;
    assert!((0.95..1.05).contains(&ratio), "{what}: foreseen {foreseen:.4}, measured {measured:.4}, ratio {ratio:.4}");
}

#[track_caller]
fn agree_in_time(what: &str, foreseen: Duration, measured: Duration) {
    agree(what, foreseen.as_secs_f64(), measured.as_secs_f64());
}

/// The forecast is of the line as it is, the measurement of the same line in slow motion.
#[tokio::test(start_paused = true)]
async fn the_running_line_is_as_busy_as_was_foreseen() {
    for (baud, format, secs) in [(9_600, F8N1, 5), (19_200, F8E1, 3), (115_200, F8N1, 1)] {
        let (parts, forecast) = reference((baud, format), Duration::from_secs(secs));
        let measured =
            running(&parts, SLOWED, None).measure(Duration::from_secs(secs), Duration::from_secs(10 * secs)).await;
        println!("{baud} {format}: foreseen {:.4}, wire and bus {:.4?}", forecast.load, measured.loads);
        measured.loads.iter().for_each(|load| agree("load", forecast.load, *load));
        assert_eq!(measured.questions, 10 * forecast.requests.len());
        assert!(measured.is_clean());
        for age in &forecast.points {
            agree_in_time(&age.name, age.worst, measured.ages(age.point).1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_line_achieves_the_periods_that_were_foreseen() {
    for (baud, format) in [(9_600, F8N1), (19_200, F8E1), (115_200, F8N1)] {
        let (parts, forecast) = reference((baud, format), Duration::from_millis(100));
        let scan = forecast.worst();
        let measured = running(&parts, SLOWED, None).measure(2 * scan, 10 * scan).await;
        println!("{baud} {format}: foreseen {:?}, measured {:?}", scan, measured.ages(PointId(0)));
        measured.loads.iter().for_each(|load| agree("load", 1.0, *load));
        assert!(forecast.unmet().count() == 300 && measured.is_clean());
        for age in &forecast.points {
            let (mean, longest) = measured.ages(age.point);
            agree_in_time(&age.name, age.achievable, mean);
            agree_in_time(&age.name, age.worst, longest);
        }
    }
}

fn plant(text: &str) -> Parts {
    let plant = crate::config::load_text("plan.yaml", text, Path::new("config")).unwrap().plant;
    Parts { line: plant.lines[0].clone(), devices: plant.devices, points: plant.points, lessons: Lessons::default() }
}

/// Three periods, all four tables, two shipped profiles and a device of its own.
fn mixed(baud: u32) -> (Parts, Forecast) {
    let text = r#"
lines:
  hall: {serial: /dev/none, baud: BAUD}
devices:
  - name: meter-{unit_id}
    line: hall
    unit_id: 1-3
    profile: eastron/sdm120
    every: 1s
    points:
      voltage: {every: 200ms}
      energy_total: {every: 10s}
  - {name: relay, line: hall, unit_id: 10, profile: waveshare/relay-8ch, points: {input_1: {every: 200ms}}}
  - name: tank
    line: hall
    unit_id: 11
    every: 1s
    points:
      level: {input: 3}
      alarm: {discrete: 40, every: 200ms}
      pump: {coil: 100}
      hours: {holding: 7, type: u32, every: 10s}
      name: {holding: 60, type: string(20), every: 10s}
"#;
    let parts = plant(&text.replace("BAUD", &baud.to_string()));
    let forecast = of(&parts.line, &parts.devices, &parts.points);
    (parts, forecast)
}

#[tokio::test(start_paused = true)]
async fn periods_of_every_kind_on_one_line_fare_as_was_foreseen() {
    // At 9600 a little more is asked than can be done.
    for baud in [9_600, 19_200, 115_200] {
        let (parts, forecast) = mixed(baud);
        let measured = running(&parts, SLOWED, None).measure(Duration::from_secs(10), Duration::from_secs(60)).await;
        println!("{baud}: foreseen {:.4}, wire and bus {:.4?}", forecast.load, measured.loads);
        if forecast.is_overloaded() {
            assert!(forecast.unmet().all(|age| age.period == Some(Duration::from_millis(200))));
        } else {
            measured.loads.iter().for_each(|load| agree("load", forecast.load, *load));
        }
        assert!(measured.is_clean());
        for age in &forecast.points {
            agree_in_time(&age.name, age.achievable, measured.ages(age.point).0);
        }
        // Where all are due at once it is chance which of several alike comes last.
        for period in [200, 1_000, 10_000].map(|ms| Some(Duration::from_millis(ms))) {
            let alike = || forecast.points.iter().filter(|age| age.period == period);
            let foreseen = alike().map(|age| age.worst).max().unwrap();
            agree_in_time("worst", foreseen, alike().map(|age| measured.ages(age.point).1).max().unwrap());
        }
    }
}

/// What was read of each point before a death was noticed, and for so long after. In real time, for health and probes
/// have times of their own; rounding up to milliseconds costs 2 % at these speeds.
async fn death(parts: &Parts, unit: u8, mourned: Duration) -> (Duration, [HashMap<PointId, Vec<Duration>>; 2]) {
    let dies = Duration::from_secs(20);
    let mut running = running(parts, 1, Some((unit, dies)));
    running.until(dies - Duration::from_secs(6)).await;
    let (noticed, before) = running.until_offline().await;
    let after = running.until(noticed + mourned).await;
    let device = parts.devices.iter().find(|d| d.unit_id.get() == unit).unwrap().id;
    let own = parts.points.iter().filter(|p| p.device == device).filter_map(|p| before.get(&p.id)?.last());
    (noticed - *own.max().unwrap(), [before, after])
}

#[tokio::test(start_paused = true)]
async fn a_death_is_felt_as_was_foreseen() {
    // With room, with hardly any, and overloaded.
    for (baud, format, secs) in [(19_200, F8E1, 3), (9_600, F8N1, 2), (9_600, F8N1, 1)] {
        let (parts, forecast) = reference((baud, format), Duration::from_secs(secs));
        let without = &forecast.without[3];
        let (noticed, [before, after]) = death(&parts, 4, Duration::from_secs(120)).await;
        let worst = |readings: &HashMap<PointId, Vec<Duration>>| {
            let live = parts.points.iter().filter(|p| p.device != without.id);
            live.map(|p| longest(&readings[&p.id])).max().unwrap()
        };
        let period = Duration::from_secs(secs);
        let (late, late_until_then) = forecast.late_without(without);
        let foreseen = [without.noticed, period + late_until_then, period + late];
        let measured = [noticed, worst(&before), worst(&after)];
        println!("{baud}, every {secs} s: foreseen {foreseen:.2?}, measured {measured:.2?}");
        for ((foreseen, measured), what) in foreseen.into_iter().zip(measured).zip(["noticed", "until then", "after"]) {
            agree_in_time(what, foreseen, measured);
        }
    }
}

/// Where many periods meet, which point is hit hardest is chance, and the pauses between probes are drawn: compared is
/// the worst of each period.
#[tokio::test(start_paused = true)]
async fn among_many_periods_a_death_hits_nobody_harder_than_was_foreseen() {
    let (parts, forecast) = mixed(19_200);
    let without = &forecast.without[4];
    let (noticed, [before, after]) = death(&parts, 11, Duration::from_secs(400)).await;
    agree_in_time("noticed", without.noticed, noticed);
    for (what, readings) in [("until noticed", &before), ("after", &after)] {
        let foreseen = |b: &Bereft| if what == "after" { b.worst } else { b.unnoticed };
        for period in [200, 1000].map(Duration::from_millis) {
            let alike = without.points.iter().filter(|b| forecast.points[b.at].period == Some(period));
            let foreseen = alike.clone().map(foreseen).max().unwrap();
            let measured = alike.map(|b| longest(&readings[&forecast.points[b.at].point])).max().unwrap();
            println!("{what}, {period:?}: foreseen {foreseen:.3?}, measured {measured:.3?}");
            assert!(measured < foreseen * 21 / 20, "{what}, {period:?}: foreseen {foreseen:?}, measured {measured:?}");
            assert!(measured > foreseen * 2 / 3, "the bound is far from what happens: {foreseen:?}, {measured:?}");
        }
    }
}
