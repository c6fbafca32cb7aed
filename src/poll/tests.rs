//! Polling as a transcript under a paused clock: what was asked when, what came of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bus::fake::Asked;
use crate::bus::{BusError, Data, ReadRequest, fake};
use crate::config::plant::{Compute, Port, Report, Schedule, Source, When, Wire};
use crate::message::Class;
use crate::payload::{Format, Series};
use crate::point::{AddressRange, DataType, LineId, PointId, Scale, Table, UnitId, WordOrder};
use crate::status::DeviceState;
use crate::topic::{Qos, TopicName};

mod identity;

fn device(unit: u8) -> Device {
    Device {
        id: DeviceId(unit.into()),
        name: format!("m{unit}").into(),
        line: LineId(0),
        unit_id: UnitId::new(unit).unwrap(),
        profile: None,
        max_registers: 125,
        max_bits: 2000,
        functions: Default::default(),
        fingerprint: None,
        tags: BTreeMap::new(),
        points: 0..0,
    }
}

fn wire(address: u16) -> Source {
    Source::Wire(Arc::new(Wire {
        table: Table::Holding,
        range: AddressRange::new(address, 1).unwrap(),
        data_type: DataType::U16,
        order: WordOrder::Abcd,
        bits: None,
        scale: Scale::default(),
        scale_from: None,
        names: BTreeMap::new(),
        invalid: Vec::new(),
    }))
}

fn point(unit: u8, id: u32, source: Source) -> Point {
    Point {
        id: PointId(id),
        device: DeviceId(unit.into()),
        name: format!("p{id}").into(),
        source,
        range: None,
        schedule: Schedule::Every { period: Duration::from_secs(1), align: false },
        report: Arc::new(Report { when: When::Poll, deadband: None, at_least: None, at_most: None }),
        write: None,
        series: Arc::new(Series {
            topic: TopicName::new(format!("g/m{unit}/p{id}")).unwrap(),
            format: Format::Value,
            unit: "".into(),
            names: BTreeMap::new(),
            qos: Qos::AtMostOnce,
            retain: false,
            class: Class::Normal,
        }),
    }
}

/// A point on these holding registers.
pub(super) fn held(range: AddressRange) -> Point {
    let mut source = wire(0);
    if let Source::Wire(wire) = &mut source {
        Arc::make_mut(wire).range = range;
    }
    point(1, 1, source)
}

fn line() -> Line {
    Line {
        id: LineId(0),
        name: "hall".into(),
        port: Port::Tcp("plc:502".into()),
        timeout: Duration::from_millis(100),
        min_timeout: Duration::from_millis(100),
        retries: 0,
        gap: None,
        raw_access: false,
    }
}

/// A trunk: after a miss a unit is left alone for the timeout, lest its late answer be taken for another.
fn trunk(retries: u8) -> Line {
    let port = crate::bench::work::serial_port("/dev/none", 115_200, crate::bench::work::F8N1);
    Line { port: Port::Serial(port), retries, ..line() }
}

fn every(ms: u64, point: Point) -> Point {
    Point { schedule: Schedule::Every { period: Duration::from_millis(ms), align: false }, ..point }
}

/// Everything that was asked, with milliseconds since the start.
type Notes = Arc<Mutex<Vec<(u64, String)>>>;

struct Scene {
    asked: Notes,
    samples: mpsc::Receiver<Vec<Sample>>,
    events: mpsc::Receiver<DeviceEvent>,
    status: watch::Receiver<LineStatus>,
    desk: mpsc::Sender<Order>,
    fitter: Fitter,
    cancelled: CancellationToken,
    begin: Instant,
}

type Answer = Result<Data, BusError>;

fn scene(devices: &[u8], points: Vec<Point>, answer: impl FnMut(u64, ReadRequest) -> Answer + Send + 'static) -> Scene {
    scene_with((line(), Lessons::default()), devices, points, answer)
}

fn scene_with(
    (line, lessons): (Line, Lessons),
    devices: &[u8],
    points: Vec<Point>,
    mut answer: impl FnMut(u64, ReadRequest) -> Answer + Send + 'static,
) -> Scene {
    let devices = devices.iter().map(|d| device(*d)).collect();
    scene_of((line, lessons), devices, points, move |ms, asked| match asked {
        Asked::Read(request) => answer(ms, request),
        Asked::Identify(request) => panic!("nobody wants to know who {} is", request.unit),
    })
}

fn scene_of(
    (line, lessons): (Line, Lessons),
    devices: Vec<Device>,
    points: Vec<Point>,
    mut answer: impl FnMut(u64, Asked) -> Answer + Send + 'static,
) -> Scene {
    let begin = Instant::now();
    let asked = Notes::default();
    let notes = Arc::clone(&asked);
    let bus = fake::bus(move |asked| {
        let ms = u64::try_from(begin.elapsed().as_millis()).unwrap();
        let what = match asked {
            Asked::Read(request) => format!("{} {} {}", request.unit, request.table, request.range),
            Asked::Identify(request) => format!("{} objects from {}", request.unit, request.object),
        };
        notes.lock().unwrap().push((ms, what));
        let answer = answer(ms, asked);
        let took = if answer == Err(BusError::NoReply) { 100 } else { 10 };
        (Duration::from_millis(took), answer)
    });
    let (out, samples) = mpsc::channel(64);
    let (tell, events) = mpsc::channel(64);
    let parts = Parts { line, devices, points: points.into_iter().map(Arc::new).collect(), lessons };
    let (status, task) = new(parts, bus, out, tell);
    let cancelled = CancellationToken::new();
    let (desk, fitter) = (task.desk(), task.fitter());
    tokio::spawn(task.run(cancelled.clone()));
    Scene { asked, samples, events, status, desk, fitter, cancelled, begin }
}

/// Every register holds its own address.
fn own_address(request: ReadRequest) -> Answer {
    Ok(Data::Registers((request.range.start()..request.range.start() + request.range.count()).collect()))
}

impl Scene {
    /// Samples that arrive up to that time, as `id=value` or `id!reason`.
    async fn until(&mut self, ms: u64) -> Vec<String> {
        let end = self.begin + Duration::from_millis(ms);
        let mut seen = Vec::new();
        while let Ok(Some(batch)) = tokio::time::timeout_at(end, self.samples.recv()).await {
            seen.extend(batch.iter().map(|s| match (s.value(), s.quality().reason()) {
                (Some(value), _) => format!("{}={value}", s.point().0),
                (None, reason) => format!("{}!{}", s.point().0, reason.unwrap()),
            }));
        }
        seen
    }

    fn asked(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn points_due_together_come_in_one_read_on_a_fixed_grid() {
    let sum = Compute {
        expression: "{p11} + {p12}".into(),
        inputs: vec![("p11".into(), PointId(11)), ("p12".into(), PointId(12))],
    };
    let points = vec![point(1, 11, wire(4)), point(1, 12, wire(6)), point(1, 13, Source::Compute(Arc::new(sum)))];
    let mut scene = scene(&[1], points, |_, request| own_address(request));
    assert_eq!(scene.until(2500).await, ["11=4", "12=6", "13=10"].repeat(3));
    let read = |ms: u64| (ms, "1 holding 4–6".to_owned());
    assert_eq!(scene.asked(), [read(0), read(1000), read(2000)]);
    let event = scene.events.recv().await.unwrap();
    assert_eq!(event, DeviceEvent::online(DeviceId(1)));
    let status = scene.status.borrow().clone();
    assert_eq!((status.devices[0].state, status.devices[0].points), (DeviceState::Online, 3));
    assert!((0.005..0.02).contains(&status.load), "{}", status.load);
    scene.cancelled.cancel();
    assert!(scene.events.recv().await.is_none());
}

/// Microseconds since 1970 of years that have 365 days.
fn year(year: i64) -> i64 {
    (year - 1970) * 365 * 86_400_000_000
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_by_days_and_years_costs_no_poll_and_no_value() {
    let aligned =
        Point { schedule: Schedule::Every { period: Duration::from_secs(10), align: true }, ..point(1, 2, wire(9)) };
    let quarter = Schedule::Cron("*/15 * * * * *".into());
    let cron = Point { schedule: quarter, ..point(1, 3, wire(20)) };
    let mut scene = scene(&[1], vec![point(1, 1, wire(0)), aligned, cron], |_, request| own_address(request));
    let (day, now) = (86_400_000_000, crate::time::now().wall_us);
    let last_of_32_bits = i64::from(i32::MAX) * 1_000_000;
    // There and back, across the end of 32 bits, to before 1970 and beyond what can be written as a date.
    let walls = [
        now + day,
        now,
        now - day,
        now,
        now + 365 * day,
        now,
        now - 365 * day,
        year(2040),
        last_of_32_bits - 20_000_000,
    ];
    let walls = walls.into_iter().chain([0, -day, year(9000), year(200_000), year(2026)]);
    let (mut ms, mut seen) = (0, Vec::new());
    for wall in walls {
        // Between two turns of the grid.
        seen.extend(scene.until(ms + 500).await);
        crate::time::set_wall(wall);
        ms += 60_000;
        seen.extend(scene.until(ms + 499).await);
    }
    let count = |what: &str| seen.iter().filter(|s| *s == what).count() as u64;
    assert_eq!(count("1=0"), ms / 1000 + 1, "each second, no more and no less");
    assert!(seen.iter().all(|s| !s.contains('!')), "no value is lost");
    // Each minute has its six and four, but for where the clock was set; there they begin at the next full ones.
    let minutes = ms / 60_000;
    assert!((minutes * 5..=minutes * 7).contains(&count("2=9")), "{} in {minutes} minutes", count("2=9"));
    // A pattern has no next time beyond what is a date: one minute of those has none.
    assert!(((minutes - 1) * 3..=minutes * 5).contains(&count("3=20")), "{} in {minutes} minutes", count("3=20"));
    let asked: Vec<u64> = scene
        .asked()
        .into_iter()
        .filter(|(_, what)| what == "1 holding 0" || what.contains("0–"))
        .map(|(ms, _)| ms)
        .collect();
    let late: Vec<u64> = asked.iter().copied().filter(|ms| ms % 1000 > 30).collect();
    assert!(late.is_empty(), "off the grid at {late:?}");
    assert_eq!(scene.status.borrow().missed_turns, 0);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_refused_is_split_until_the_hole_is_found_and_never_asked_again() {
    let points = vec![point(1, 1, wire(0)), point(1, 2, wire(1)), point(1, 3, wire(2)), point(1, 4, wire(5))];
    let mut scene = scene(&[1], points, |_, request| {
        let range = request.range;
        let (start, end) = (u32::from(range.start()), range.end());
        let hit = |address: u32| start <= address && address < end;
        // Register 1 and 4 do not exist: one is wanted, one would only be bridged.
        if hit(1) || hit(4) { Err(BusError::Refused(2)) } else { own_address(request) }
    });
    let mut first = scene.until(900).await;
    first.sort();
    assert_eq!(first, ["1=0", "2!exception 2", "3=2", "4=5"]);
    assert!(scene.asked().len() > 3);
    scene.until(1900).await;
    scene.asked();
    let mut later = scene.until(2900).await;
    later.sort();
    assert_eq!(later, ["1=0", "2!exception 2", "3=2", "4=5"]);
    let asked: Vec<String> = scene.asked().into_iter().map(|(_, what)| what).collect();
    assert_eq!(asked, ["1 holding 0", "1 holding 2", "1 holding 5"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_goes_offline_says_so_once_and_leaves_the_others_their_period() {
    let points = vec![point(1, 1, wire(0)), point(2, 2, wire(0))];
    let mut scene = scene(&[1, 2], points, |ms, request| {
        if request.unit.get() == 2 && ms < 60_000 { Err(BusError::NoReply) } else { own_address(request) }
    });
    let early = scene.until(10_000).await;
    let dead: Vec<_> = early.iter().filter(|s| s.starts_with("2!")).collect();
    assert_eq!(dead, ["2!timeout"; 4]);
    scene.asked();
    let late = scene.until(59_000).await;
    assert!(late.iter().all(|s| s == "1=0"), "{late:?}");
    assert_eq!(late.len(), 49);
    let asked = scene.asked();
    let probes = asked.iter().filter(|(_, what)| what.starts_with('2')).count();
    assert!((2..15).contains(&probes), "{probes} probes");
    for (ms, _) in asked.iter().filter(|(_, what)| what.starts_with('1')) {
        assert!(ms % 1000 <= 100, "{ms}");
    }
    // One good reply brings it back: its points are read at once, then on their grid.
    let back = scene.until(91_000).await;
    let firsts: Vec<u64> = scene.asked().into_iter().filter(|(_, w)| w.starts_with('2')).map(|(ms, _)| ms).collect();
    let online = firsts.iter().position(|ms| *ms >= 60_000).unwrap();
    assert!(firsts[online] <= 90_000 && firsts[online + 1] - firsts[online] <= 30, "{firsts:?}");
    assert!(back.iter().any(|s| s == "2=0"));
    let mut states = Vec::new();
    while let Ok(event) = scene.events.try_recv() {
        states.push((event.device.0, event.online));
    }
    assert_eq!(states, [(1, true), (2, false), (2, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_down_is_nobodys_death() {
    let mut scene = scene(&[1], vec![point(1, 1, wire(0))], |ms, request| {
        if ms < 8_000 { Err(BusError::LineDown("gone".into())) } else { own_address(request) }
    });
    let seen = scene.until(9_500).await;
    // At every turn, and once when the devices are told to be offline: points that were not due say so too.
    assert_eq!(seen[..9], ["1!line down"; 9]);
    assert_eq!(seen[9..], ["1=0"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_scale_factor_read_in_the_same_turn_counts() {
    let mut scaled = point(1, 1, wire(0));
    if let Source::Wire(wire) = &mut scaled.source {
        Arc::make_mut(wire).scale_from = Some(PointId(2));
    }
    let points = vec![scaled, point(1, 2, wire(1))];
    let mut scene = scene(&[1], points, |_, _| Ok(Data::Registers(vec![7, 2])));
    assert_eq!(scene.until(500).await, ["2=2", "1=700"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_tried_again_holds_up_nobody_but_its_device() {
    let points = vec![every(50, point(1, 1, wire(0))), point(2, 2, wire(7))];
    let mut scene = scene_with((trunk(1), Lessons::default()), &[1, 2], points, |ms, request| {
        if request.unit.get() == 2 && ms < 100 { Err(BusError::NoReply) } else { own_address(request) }
    });
    assert!(scene.until(260).await.contains(&"2=7".to_owned()));
    let asked: Vec<(u64, char)> =
        scene.asked().into_iter().map(|(ms, what)| (ms, what.chars().next().unwrap())).collect();
    assert_eq!(asked, [(0, '1'), (10, '2'), (110, '1'), (150, '1'), (200, '1'), (210, '2'), (250, '1')]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.status.borrow().wire.retries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_turn_of_slow_points_gives_way_to_fast_ones_between_its_reads() {
    let mut points: Vec<Point> = (0..4u16).map(|n| point(1, n.into(), wire(n * 500))).collect();
    points.push(every(25, point(2, 9, wire(0))));
    let mut scene = scene_with((trunk(0), Lessons::default()), &[1, 2], points, |_, request| own_address(request));
    scene.until(80).await;
    let asked: Vec<String> = scene.asked().into_iter().map(|(ms, what)| format!("{ms}: {what}")).collect();
    let slow = |ms: u64, address: u16| format!("{ms}: 1 holding {address}");
    let fast = |ms: u64| format!("{ms}: 2 holding 0");
    let want = [fast(0), slow(10, 0), slow(20, 500), fast(30), slow(40, 1000), fast(50), slow(60, 1500), fast(75)];
    assert_eq!(asked, want);
}

#[tokio::test(start_paused = true)]
async fn a_period_that_cannot_be_met_is_told_with_what_can_be_had() {
    let points = vec![every(5, point(1, 1, wire(0))), every(2000, point(2, 2, wire(0)))];
    let mut scene = scene(&[1, 2], points, |_, request| own_address(request));
    scene.until(5_000).await;
    let unmet = scene.status.borrow().unmet.clone();
    assert_eq!(unmet.len(), 1, "the slow point has its period: {unmet:?}");
    assert_eq!((unmet[0].device.as_str(), unmet[0].points.as_slice()), ("m1", &["p1".to_owned()][..]));
    assert!((9.0..12.0).contains(&unmet[0].achievable_ms), "{unmet:?}");
    assert!(unmet[0].missed_turns > 400, "{unmet:?}");
}

/// Registers 1 and 4 do not exist: one is wanted, one would only be bridged.
fn with_holes(request: ReadRequest) -> Answer {
    let (start, end) = (u32::from(request.range.start()), request.range.end());
    let hit = |address: u32| start <= address && address < end;
    if hit(1) || hit(4) { Err(BusError::Refused(3)) } else { own_address(request) }
}

fn around_the_holes() -> Vec<Point> {
    vec![point(1, 1, wire(0)), point(1, 2, wire(1)), point(1, 3, wire(2)), point(1, 4, wire(5))]
}

const AROUND: [&str; 3] = ["1 holding 0", "1 holding 2", "1 holding 5"];

impl Scene {
    fn asked_what(&self) -> Vec<String> {
        self.asked().into_iter().map(|(_, what)| what).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_device_taught_before_a_restart_is_not_asked_again() {
    let lessons = Lessons::default();
    let mut before = scene_with((line(), lessons.clone()), &[1], around_the_holes(), |_, request| with_holes(request));
    before.until(1_900).await;
    before.cancelled.cancel();
    assert!(before.events.recv().await.is_some() && before.events.recv().await.is_none(), "it has ended");
    assert_eq!(lessons.of("m1").named(), ["holding 1", "holding before 5"]);
    assert_eq!(before.status.borrow().devices[0].holes, ["holding 1", "holding before 5"]);
    let pace = lessons.of("m1").pace().unwrap();

    let mut after = scene_with((line(), lessons.clone()), &[1], around_the_holes(), |_, request| with_holes(request));
    assert_eq!(after.status.borrow().devices[0].turnaround_ms, pace.usual.as_secs_f64() * 1e3);
    let mut seen = after.until(900).await;
    seen.sort();
    assert_eq!(seen, ["1=0", "2!exception 3", "3=2", "4=5"]);
    assert_eq!(after.asked_what(), AROUND);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_shall_be_forgotten_is_asked_for_everything_at_once() {
    let lessons = Lessons::default();
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let whole = Arc::clone(&mended);
    let mut scene = scene_with((line(), lessons.clone()), &[1], around_the_holes(), move |_, request| {
        let whole = whole.load(std::sync::atomic::Ordering::Relaxed);
        if whole { own_address(request) } else { with_holes(request) }
    });
    scene.until(1_300).await;
    scene.asked();
    mended.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(lessons.forget("m1"), ["holding 1", "holding before 5"]);
    assert_eq!(scene.until(1_400).await, ["1=0", "2=1", "3=2", "4=5"], "long before the next turn");
    assert_eq!(scene.asked_what(), ["1 holding 0–5"]);
    assert!(lessons.of("m1").named().is_empty() && scene.status.borrow().devices[0].holes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_away_or_whose_line_was_down_is_asked_for_everything_again() {
    for gone in [BusError::NoReply, BusError::LineDown("unplugged".into())] {
        let lessons = Lessons::default();
        let mut scene = scene_with((line(), lessons.clone()), &[1], around_the_holes(), move |ms, request| match ms {
            0..3_000 => with_holes(request),
            3_000..12_000 => Err(gone.clone()),
            _ => own_address(request),
        });
        scene.until(2_900).await;
        assert_eq!(lessons.of("m1").named().len(), 2);
        scene.until(11_900).await;
        assert_eq!(lessons.of("m1").named().len(), 2, "kept while it is away");
        let seen = scene.until(60_000).await;
        assert!(seen.ends_with(&["1=0", "2=1", "3=2", "4=5"].map(String::from)), "{seen:?}");
        assert!(lessons.of("m1").named().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_point_that_somebody_asks_for_is_read_next_and_told_even_if_nothing_changed() {
    let slow = (0..4u16).map(|n| point(1, n.into(), wire(n * 500)));
    let points = slow.chain([point(2, 9, wire(0))]).collect();
    let mut scene = scene_with((trunk(0), Lessons::default()), &[1, 2], points, |_, request| own_address(request));
    // The first turn of the first device is under way.
    scene.until(15).await;
    scene.desk.send(Order::Read(vec![PointId(9)])).await.unwrap();
    let end = scene.begin + Duration::from_millis(35);
    let mut asked_for = Vec::new();
    while let Ok(Some(batch)) = tokio::time::timeout_at(end, scene.samples.recv()).await {
        asked_for.extend(batch.iter().filter(|s| s.is_wanted()).map(|s| s.point().0));
    }
    assert_eq!(asked_for, [9]);
    let asked: Vec<String> = scene.asked().into_iter().map(|(ms, what)| format!("{ms}: {what}")).collect();
    assert_eq!(asked[..3], ["0: 1 holding 0", "10: 1 holding 500", "20: 2 holding 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_device_is_left_alone_says_so_once_and_is_read_at_once_when_it_is_resumed() {
    let points = vec![point(1, 1, wire(0)), point(2, 2, wire(0))];
    let mut scene = scene(&[1, 2], points, |_, request| own_address(request));
    scene.until(500).await;
    scene.desk.send(Order::Pause(DeviceId(2))).await.unwrap();
    scene.desk.send(Order::Pause(DeviceId(2))).await.unwrap();
    assert_eq!(scene.until(3_500).await, ["2!paused", "1=0", "1=0", "1=0"]);
    assert_eq!(scene.status.borrow().devices[1].state, DeviceState::Offline);
    scene.asked();
    scene.desk.send(Order::Resume(DeviceId(2))).await.unwrap();
    assert_eq!(scene.until(3_600).await, ["2=0"]);
    let mut states = Vec::new();
    while let Ok(event) = scene.events.try_recv() {
        states.push((event.device.0, event.online, event.reason));
    }
    let online = |device| (device, true, None);
    assert_eq!(states, [online(1), online(2), (2, false, Some(crate::sample::Reason::Paused)), online(2)]);
}

fn roster(devices: &[u8], points: &[Point]) -> Roster {
    Roster {
        devices: devices.iter().map(|d| device(*d)).collect(),
        points: points.iter().cloned().map(Arc::new).collect(),
    }
}

/// Device 1 stays, 2 gets another point, 3 goes and 4 comes.
#[tokio::test(start_paused = true)]
async fn other_devices_are_taken_over_without_a_missed_turn_of_those_that_stay() {
    let stays = every(100, point(1, 11, wire(4)));
    let before = vec![stays.clone(), every(100, point(2, 21, wire(5))), every(100, point(3, 31, wire(6)))];
    let mut scene = scene(&[1, 2, 3], before.clone(), |_, request| own_address(request));
    scene.until(250).await;
    scene.asked();
    let after = [stays, before[1].clone(), every(100, point(2, 22, wire(15))), every(200, point(4, 41, wire(9)))];
    assert!(scene.fitter.refit(roster(&[1, 2, 4], &after)).await);
    let seen = scene.until(1005).await;
    let asked = scene.asked();
    let at = |unit: &str| asked.iter().filter(|(_, a)| a.starts_with(unit)).map(|(ms, _)| *ms).collect::<Vec<_>>();
    assert_eq!(at("1 "), [300, 400, 500, 600, 700, 800, 900, 1000], "on its grid, none missed, none twice");
    assert_eq!(at("3 "), [0_u64; 0], "it is gone");
    assert_eq!(at("2 ")[0], 250, "its new point is read at once");
    assert!(at("2 ").iter().skip(1).all(|ms| ms % 100 == 10 || ms % 100 == 0), "{asked:?}");
    assert_eq!(at("4 ").len(), 4, "at once and then every 200 ms on the grid of the line: {asked:?}");
    assert!(seen.contains(&"22=15".to_owned()) && seen.contains(&"41=9".to_owned()), "{seen:?}");
    let status = scene.status.borrow();
    assert_eq!(status.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["m1", "m2", "m4"]);
    assert_eq!(status.missed_turns, 0);
    assert!(status.devices[1].replies >= 3, "the account of a device that only got a point goes on");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_paused_or_has_taught_something_is_so_with_other_points() {
    let refuses = |request: ReadRequest| match request.range.start() {
        7 => Err(BusError::Refused(2)),
        _ => own_address(request),
    };
    let before = vec![point(1, 11, wire(7)), point(2, 21, wire(5))];
    let mut scene = scene(&[1, 2], before.clone(), move |_, request| refuses(request));
    scene.until(1500).await;
    scene.desk.send(Order::Pause(DeviceId(2))).await.unwrap();
    scene.until(1600).await;
    scene.asked();
    let after = [before[0].clone(), point(1, 12, wire(40)), before[1].clone(), point(2, 22, wire(50))];
    assert!(scene.fitter.refit(roster(&[1, 2], &after)).await);
    let seen = scene.until(3500).await;
    let asked = scene.asked();
    assert!(asked.iter().all(|(_, a)| a == "1 holding 40"), "the hole is known, the other is paused: {asked:?}");
    assert!(seen.contains(&"22!paused".to_owned()) && seen.contains(&"12=40".to_owned()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn another_device_under_an_old_name_is_met_without_prejudice() {
    let mut scene = scene(&[1], vec![point(1, 11, wire(7))], |_, request| match request.unit.get() {
        1 => Err(BusError::Refused(2)),
        _ => own_address(request),
    });
    scene.until(1500).await;
    let other = Device { unit_id: UnitId::new(9).unwrap(), ..device(1) };
    assert!(scene.fitter.refit(Roster { devices: vec![other], points: vec![point(1, 12, wire(7)).into()] }).await);
    assert!(scene.until(2500).await.contains(&"12=7".to_owned()));
    scene.cancelled.cancel();
    scene.until(2600).await;
    assert!(!scene.fitter.refit(roster(&[1], &[])).await, "a task that has ended says so");
}
