//! What the property is about: the room at work, a machine that writes down what is done to it, the trail on a real file, and the
//! ways in which all of that ends and begins again.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value as Json;
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
use crate::status::BrokerStatus;
use crate::status::LineStatus;

use super::Published;

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
/// What the line does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Done and answered, after so many milliseconds.
    Well(u64),
    /// Done, but the answer is lost.
    Mute,
    /// Lost on its way.
    Deaf,
}

/// A device that knows when it was told to write what.
#[derive(Debug)]
pub(super) struct Machine {
    registers: [u16; 8],
    pub(super) line: Line,
    /// Each value with when its request went out.
    pub(super) done: Vec<(Instant, u16)>,
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
pub(super) struct Run {
    pub(super) audit: Audit,
    owner: JoinHandle<()>,
    task: JoinHandle<()>,
    commands: mpsc::Sender<Vec<Message>>,
    seat: watch::Sender<Option<Desk>>,
    stop: CancellationToken,
}

pub(super) struct World {
    folder: TempDir,
    settings: plant::Audit,
    plant: Arc<Plant>,
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) run: Run,
    /// All that was told, as JSON, by topic.
    pub(super) told: Arc<Mutex<Vec<Json>>>,
    pub(super) published: Vec<Published>,
    pub(super) stalls: Vec<oneshot::Sender<()>>,
}

fn settings(folder: &Path, when_unwritable: WhenUnwritable) -> plant::Audit {
    plant::Audit { when_unwritable, ..plant::Audit::in_folder(folder) }
}

impl World {
    pub(super) fn new(when_unwritable: WhenUnwritable) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), when_unwritable);
        let plant = Arc::new(load_text("t.yaml", YAML, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant);
        let machine = Machine { registers: [0; 8], line: Line::Well(20), done: Vec::new() };
        let machine = Arc::new(Mutex::new(machine));
        let told = Arc::default();
        let run = begin(&settings, &plant, &machine, &told);
        Self { folder, settings, plant, machine, run, told, published: Vec::new(), stalls: Vec::new() }
    }

    pub(super) async fn publish(&mut self, published: Published) {
        let sent = self.run.commands.send(vec![published.message.clone()]).await;
        sent.expect("the room listens");
        self.published.push(published);
    }

    /// What the process left on the disk goes on; nothing else does.
    pub(super) async fn kill(&mut self) {
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

    pub(super) async fn restart(&mut self) {
        self.stalls.clear();
        self.run.stop.cancel();
        (&mut self.run.task).await.unwrap();
        self.run.audit.clone().close().await;
        (&mut self.run.owner).await.unwrap();
        self.run = begin(&self.settings, &self.plant, &self.machine, &self.told);
    }

    /// As after a bug: the task is made anew, the rest of the process goes on.
    pub(super) async fn panic(&mut self) {
        self.run.task.abort();
        let _ = (&mut self.run.task).await;
        let Run { audit, seat, .. } = &self.run;
        let (commands, stop, task) = room(&self.plant, seat, audit.clone(), &self.told);
        (self.run.commands, self.run.stop, self.run.task) = (commands, stop, task);
    }

    pub(super) fn seat(&self, seated: Seated) {
        let desk = (seated == Seated::Yes).then(|| desk(&self.machine));
        self.run.seat.send_replace(desk);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seated {
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
