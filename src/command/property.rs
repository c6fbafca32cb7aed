//! The whole room against a machine that writes down what is done to it, with the trail on a real file, under a paused clock.
//! The property: whatever comes, goes, hangs, is killed and is handed out again, nothing expired, retained or done before is
//! done. What is allowed is reckoned here from what was published, by rules of four lines.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::fake;
use crate::command;
use crate::command::Desk;
use crate::command::Floor;
use crate::command::audit;
use crate::command::audit::Audit;
use crate::config::load_text;
use crate::config::plant;
use crate::config::plant::Plant;
use crate::config::plant::WhenUnwritable;
use crate::message::Message;
use crate::message::Properties;
use crate::message::Retain;
use crate::status::BrokerStatus;
use crate::status::LineStatus;
use crate::time;
use crate::topic::Qos;
use crate::topic::TopicName;

const YAML: &str = "\
gateway: g
lines: {plc: {tcp: 127.0.0.1:1}}
devices:
  - name: d
    line: plc
    unit_id: 1
    points:
      a: {holding: 0, write: true}
      b: {holding: 1, write: {expires: 4s}}
      c: {holding: 2, write: {verify: false}}
";
const POINTS: [&str; 3] = ["a", "b", "c"];
/// As the YAML says: 10 s is the usual.
const PATIENCE: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(4), Duration::from_secs(10)];

/// What the line does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Done and answered, after so many milliseconds.
    Well(u64),
    /// Done, but the answer is lost.
    Mute,
    /// Lost on its way.
    Deaf,
}

/// A device that knows when it was told to write what.
#[derive(Debug)]
struct Machine {
    registers: [u16; 8],
    line: Line,
    /// Each value with when its request went out.
    done: Vec<(Instant, u16)>,
}

fn bus(machine: &Arc<Mutex<Machine>>) -> crate::bus::Bus {
    let machine = Arc::clone(machine);
    fake::urgent(move |_, pdu| {
        let (machine, sent) = (Arc::clone(&machine), Instant::now());
        let line = machine.lock().unwrap().line;
        let took = if let Line::Well(ms) = line { ms } else { 500 };
        (Duration::from_millis(took), move || match line {
            Line::Deaf => Err(BusError::NoReply),
            Line::Mute => machine.lock().unwrap().obey(sent, &pdu).and(Err(BusError::NoReply)),
            Line::Well(_) => machine.lock().unwrap().obey(sent, &pdu),
        })
    })
}

impl Machine {
    fn obey(&mut self, sent: Instant, pdu: &[u8]) -> Result<Data, BusError> {
        let word = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
        let first = usize::from(word(1));
        let values: Vec<u16> = match pdu[0] {
            3 => return Ok(Data::Registers(self.registers[first..first + usize::from(word(3))].to_vec())),
            6 => vec![word(3)],
            16 => (0..usize::from(word(3))).map(|n| word(6 + 2 * n)).collect(),
            other => panic!("function {other}"),
        };
        self.registers[first..first + values.len()].copy_from_slice(&values);
        self.done.extend(values.into_iter().map(|value| (sent, value)));
        Ok(Data::Written)
    }
}

/// The room from one start to its end.
struct Run {
    audit: Audit,
    owner: JoinHandle<()>,
    task: JoinHandle<()>,
    commands: mpsc::Sender<Vec<Message>>,
    seat: watch::Sender<Option<Desk>>,
    stop: CancellationToken,
}

struct World {
    folder: TempDir,
    settings: plant::Audit,
    plant: Arc<Plant>,
    machine: Arc<Mutex<Machine>>,
    run: Run,
    /// All that was told, as JSON, by topic.
    told: Arc<Mutex<Vec<Json>>>,
    published: Vec<Published>,
    stalls: Vec<oneshot::Sender<()>>,
}

/// One message, and until when it may be done.
#[derive(Debug, Clone)]
struct Published {
    message: Message,
    came: Instant,
    values: Vec<u16>,
    has_id: bool,
    /// From when it came.
    lasts: Duration,
    /// By its own text.
    expires: Option<Instant>,
}

impl Published {
    fn may_be_done_at(&self, at: Instant) -> bool {
        let lasts = self.came <= at && at <= self.came + self.lasts;
        lasts && self.expires.is_none_or(|expires| at <= expires) && !self.message.retain
    }
}

fn settings(folder: &Path, when_unwritable: WhenUnwritable) -> plant::Audit {
    plant::Audit { when_unwritable, ..plant::Audit::in_folder(folder) }
}

/// Where a write is done that the disk does not take in time, a kill right after it forgets it: that is said in the manual, and
/// not what is claimed here. With a disk that takes what it is given the usual setting is held to the same.
fn setting(steps: &[Step]) -> WhenUnwritable {
    let stalls = steps.iter().any(|step| matches!(step, Step::Stall));
    if stalls { WhenUnwritable::Refuse } else { WhenUnwritable::Write }
}

impl World {
    fn new(when_unwritable: WhenUnwritable) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), when_unwritable);
        let plant = Arc::new(load_text("t.yaml", YAML, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant);
        let machine = Machine { registers: [0; 8], line: Line::Well(20), done: Vec::new() };
        let machine = Arc::new(Mutex::new(machine));
        let told = Arc::default();
        let run = begin(&settings, &plant, &machine, &told);
        Self { folder, settings, plant, machine, run, told, published: Vec::new(), stalls: Vec::new() }
    }

    async fn publish(&mut self, published: Published) {
        let sent = self.run.commands.send(vec![published.message.clone()]).await;
        sent.expect("the room listens");
        self.published.push(published);
    }

    /// What the process left on the disk goes on; nothing else does.
    async fn kill(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.folder.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        self.stalls.clear();
        for task in [&mut self.run.task, &mut self.run.owner] {
            task.abort();
            let _ = task.await;
        }
        self.folder = copy;
        self.settings = settings(self.folder.path(), self.settings.when_unwritable);
        self.run = begin(&self.settings, &self.plant, &self.machine, &self.told);
    }

    async fn restart(&mut self) {
        self.stalls.clear();
        self.run.stop.cancel();
        (&mut self.run.task).await.unwrap();
        self.run.audit.clone().close().await;
        (&mut self.run.owner).await.unwrap();
        self.run = begin(&self.settings, &self.plant, &self.machine, &self.told);
    }

    /// As after a bug: the task is made anew, the rest of the process goes on.
    async fn panic(&mut self) {
        self.run.task.abort();
        let _ = (&mut self.run.task).await;
        let Run { audit, seat, .. } = &self.run;
        let (commands, stop, task) = room(&self.plant, seat, audit.clone(), &self.told);
        (self.run.commands, self.run.stop, self.run.task) = (commands, stop, task);
    }

    fn seat(&self, seated: Seated) {
        let desk = (seated == Seated::Yes).then(|| desk(&self.machine));
        self.run.seat.send_replace(desk);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seated {
    Yes,
    No,
}

fn desk(machine: &Arc<Mutex<Machine>>) -> Desk {
    let (orders, mut taken) = mpsc::channel(16);
    tokio::spawn(async move { while taken.recv().await.is_some() {} });
    let (samples, _) = mpsc::channel(1);
    let (_, line) = watch::channel(LineStatus::default());
    Desk { bus: bus(machine), orders, samples: samples.downgrade(), line }
}

fn begin(
    settings: &plant::Audit,
    plant: &Arc<Plant>,
    machine: &Arc<Mutex<Machine>>,
    told: &Arc<Mutex<Vec<Json>>>,
) -> Run {
    let (audit, owner) = audit::open_here(settings);
    let seat = watch::Sender::new(Some(desk(machine)));
    let (commands, stop, task) = room(plant, &seat, audit.clone(), told);
    Run { audit, owner, task, commands, seat, stop }
}

type Room = (mpsc::Sender<Vec<Message>>, CancellationToken, JoinHandle<()>);

fn room(plant: &Arc<Plant>, seat: &watch::Sender<Option<Desk>>, audit: Audit, told: &Arc<Mutex<Vec<Json>>>) -> Room {
    let (commands, heard) = mpsc::channel(64);
    let (answers, mut answered) = mpsc::channel::<Vec<Message>>(64);
    let told = Arc::clone(told);
    tokio::spawn(async move {
        while let Some(batch) = answered.recv().await {
            for message in batch.iter().filter(|m| m.topic.as_str().ends_with("/result")) {
                told.lock().unwrap().push(serde_json::from_slice(&message.payload).unwrap());
            }
        }
    });
    let stop = CancellationToken::new();
    let eyes = command::failsafe::Eyes {
        upstreams: Vec::new(),
        broker: watch::channel(BrokerStatus::default()).1,
        lines: vec![watch::channel(LineStatus::default()).1],
    };
    let floor = Floor { plant: Arc::clone(plant), desks: vec![(plant.lines[0].id, seat.subscribe())], eyes };
    let (_, floors) = watch::channel(floor);
    let task = command::new(floors, heard, answers, audit);
    let task = tokio::spawn(task.run(stop.clone()));
    (commands, stop, task)
}

/// Whether the sender marks a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Given,
    None,
}

#[derive(Debug, Clone)]
enum Step {
    Set {
        point: usize,
        id: Id,
        retain: Retain,
        expires_s: Option<i64>,
        lives_s: Option<u32>,
    },
    Batch {
        id: Id,
        expires_s: Option<i64>,
    },
    /// The same message again, as whoever was not acknowledged sends it.
    Again(usize),
    /// The last of them, in their order, as a broker hands them out when its link is back.
    Redeliver(usize),
    Wait(u64),
    /// So many turns of the runtime: what is under way gets as far as it gets.
    Turns(usize),
    Line(Line),
    Unseat,
    Seat,
    Stall,
    Unstall,
    Panic,
    Kill,
    Restart,
}

/// What a throw of the dice would seldom bring together: a disk or a line that takes its time, a command whose time runs out
/// meanwhile, a kill in the middle, and the same command again.
fn scenes() -> impl Strategy<Value = Vec<Step>> {
    let short = || {
        (0..3_usize, prop::option::of(1_i64..5), prop::option::of(1_u32..5)).prop_map(|(point, expires_s, lives_s)| {
            Step::Set { point, id: Id::Given, retain: Retain::No, expires_s, lives_s }
        })
    };
    let after = || prop_oneof![(1_u64..6000).prop_map(Step::Wait), (0..40_usize).prop_map(Step::Turns)];
    let end = || prop_oneof![Just(Step::Kill), Just(Step::Panic), Just(Step::Restart), Just(Step::Turns(1))];
    let stalled = (short(), after(), end(), after())
        .prop_map(|(set, wait, end, more)| vec![Step::Stall, set, wait, end, Step::Unstall, more, Step::Again(0)]);
    let queued = (short(), short(), 1500_u64..4000, after(), end()).prop_map(|(first, set, ms, wait, end)| {
        vec![Step::Line(Line::Well(ms)), first, set, wait, end, Step::Redeliver(2)]
    });
    let cut =
        (short(), 0..60_usize, end()).prop_map(|(set, turns, end)| vec![set, Step::Turns(turns), end, Step::Again(0)]);
    prop_oneof![6 => steps().prop_map(|step| vec![step]), 1 => stalled, 1 => queued, 1 => cut]
}

fn steps() -> impl Strategy<Value = Step> {
    let id = || prop_oneof![4 => Just(Id::Given), 1 => Just(Id::None)];
    let expires = || prop_oneof![3 => Just(None), 1 => (-3_i64..8).prop_map(Some)];
    let retain = prop_oneof![6 => Just(Retain::No), 1 => Just(Retain::Yes)];
    let lives = prop_oneof![5 => Just(None), 1 => (1_u32..8).prop_map(Some)];
    let set = (0..3_usize, id(), retain, expires(), lives);
    let set =
        set.prop_map(|(point, id, retain, expires_s, lives_s)| Step::Set { point, id, retain, expires_s, lives_s });
    let line = prop_oneof![
        3 => (5_u64..3000).prop_map(Line::Well),
        1 => Just(Line::Mute),
        1 => Just(Line::Deaf),
    ];
    prop_oneof![
        8 => set,
        2 => (id(), expires()).prop_map(|(id, expires_s)| Step::Batch { id, expires_s }),
        4 => (0..9_usize).prop_map(Step::Again),
        2 => (1..6_usize).prop_map(Step::Redeliver),
        4 => (1_u64..6000).prop_map(Step::Wait),
        1 => (60_000_u64..1_800_000).prop_map(Step::Wait),
        6 => (1..40_usize).prop_map(Step::Turns),
        3 => line.prop_map(Step::Line),
        1 => Just(Step::Unseat),
        1 => Just(Step::Seat),
        1 => Just(Step::Stall),
        1 => Just(Step::Unstall),
        1 => Just(Step::Panic),
        3 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

/// A message of its own: values that nobody else has, so that what the machine shows tells whose they are.
fn message(n: usize, points: &[usize], id: Id, expires_s: Option<i64>, lives_s: Option<u32>) -> Published {
    let now = Instant::now();
    let values: Vec<u16> = points.iter().map(|point| u16::try_from(1000 + 4 * n + point).unwrap()).collect();
    let mut body = match (points, &values[..]) {
        ([_], [value]) => json!({ "value": value }),
        _ => {
            let write = |(point, value): (&usize, &u16)| json!({"point": POINTS[*point], "value": value});
            json!({ "writes": points.iter().zip(&values).map(write).collect::<Vec<_>>() })
        }
    };
    if id == Id::Given {
        body["id"] = json!(format!("id-{n}"));
    }
    let mut lasts = points.iter().map(|point| PATIENCE[*point]).min().unwrap();
    let expires = expires_s.map(|s| {
        body["expires"] = json!(time::rfc3339_millis(time::now().wall_us + s * 1_000_000));
        let span = Duration::from_secs(s.unsigned_abs());
        if s < 0 { now - span } else { now + span }
    });
    let topic = match points {
        [point] => format!("g/d/{}/set", POINTS[*point]),
        _ => "g/d/set".to_owned(),
    };
    let topic = TopicName::new(topic).unwrap();
    let mut message = Message::plain(topic, Bytes::from(body.to_string()), Qos::AtLeastOnce, Retain::No);
    if let Some(s) = lives_s {
        message.properties = Some(Arc::new(Properties { expiry: Some(s), ..Properties::default() }));
        lasts = lasts.min(Duration::from_secs(s.into()));
    }
    Published { message, came: now, values, has_id: id == Id::Given, lasts, expires }
}

/// The same message, come now: its own times count anew, but not the one that it carries as a text.
fn again(published: &Published) -> Published {
    Published { came: Instant::now(), ..published.clone() }
}

async fn play(world: &mut World, n: usize, step: &Step) {
    match step {
        Step::Set { point, id, retain, expires_s, lives_s } => {
            let mut published = message(n, &[*point], *id, *expires_s, *lives_s);
            published.message.retain = matches!(retain, Retain::Yes);
            world.publish(published).await;
        }
        Step::Batch { id, expires_s } => world.publish(message(n, &[0, 1], *id, *expires_s, None)).await,
        Step::Again(back) => {
            let known = world.published.len();
            if known > 0 {
                let published = again(&world.published[known - 1 - back % known]);
                world.publish(published).await;
            }
        }
        Step::Redeliver(last) => {
            let first = world.published.len().saturating_sub(*last);
            let last: Vec<Published> = world.published[first..].iter().map(again).collect();
            for published in last {
                world.publish(published).await;
            }
        }
        Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Step::Turns(turns) => {
            for _ in 0..*turns {
                tokio::task::yield_now().await;
            }
        }
        Step::Line(line) => world.machine.lock().unwrap().line = *line,
        Step::Unseat => world.seat(Seated::No),
        Step::Seat => world.seat(Seated::Yes),
        Step::Stall => {
            let stall = world.run.audit.stall();
            world.stalls.push(stall);
        }
        Step::Unstall => world.stalls.clear(),
        Step::Panic => world.panic().await,
        Step::Kill => world.kill().await,
        Step::Restart => world.restart().await,
    }
}

/// What the machine may have been told: each value only by a message that carried it, that was not retained, in its time; with
/// an id once, without one at most once a message.
fn judge(world: &World) -> Result<usize, TestCaseError> {
    let done = world.machine.lock().unwrap().done.clone();
    let mut times: HashMap<u16, usize> = HashMap::new();
    for (sent, value) in &done {
        let bearers: Vec<_> = world.published.iter().filter(|p| p.values.contains(value)).collect();
        let may = bearers.iter().any(|p| p.may_be_done_at(*sent));
        prop_assert!(may, "{value} was written, and every message with it was retained, expired or yet to come");
        let times = times.entry(*value).or_default();
        *times += 1;
        let most = if bearers[0].has_id { 1 } else { bearers.len() };
        prop_assert!(*times <= most, "{value} was written {times} times, {most} are allowed");
    }
    for answer in world.told.lock().unwrap().iter().filter(|a| a["result"] == "written") {
        for value in
            answer["writes"].as_array().unwrap_or(&vec![answer.clone()]).iter().filter_map(|w| w["value"].as_u64())
        {
            prop_assert!(times.contains_key(&u16::try_from(value).unwrap()), "{answer} is told and was not done");
        }
    }
    Ok(done.len())
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(setting(steps));
        for (n, step) in steps.iter().enumerate() {
            play(&mut world, n, step).await;
        }
        // All is well in the end: what is asked then is done, so the room was not merely silent.
        world.stalls.clear();
        world.machine.lock().unwrap().line = Line::Well(20);
        world.seat(Seated::Yes);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = judge(&world)?;
        for last in [1, 2] {
            let published = match last {
                1 => message(999, &[0], Id::Given, None, None),
                _ => again(world.published.last().expect("it was just published")),
            };
            world.publish(published).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.kill().await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        prop_assert_eq!(judge(&world)?, before + 1, "a last command is done, and once");
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_expired_retained_or_done_before_is_done(steps in prop::collection::vec(scenes(), 1..30)) {
        run(&steps.concat())?;
    }
}
