//! Takes commands in and sees them done: one worker a line, so that a slow line delays nobody else's commands, each with a
//! bounded queue. A full queue is answered, never waited for: the asker is told that the line is busy.

mod own;
mod teller;
mod work;
mod worker;

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::teller::Teller;
use self::work::Work;
use crate::command::answer;
use crate::command::answer::Outcome;
use crate::command::answered::Answered;
use crate::command::answered::Known;
use crate::command::audit::Audit;
use crate::command::cause::Cause;
use crate::command::commission;
use crate::command::failsafe;
use crate::command::failsafe::Door;
use crate::command::raw;
use crate::command::record;
use crate::command::record::Record;
use crate::command::record::Term;
use crate::command::request;
use crate::command::request::Refusal;
use crate::command::target::Change;
use crate::command::target::Seat;
use crate::command::target::Target;
use crate::command::target::Whole;
use crate::command::waiting::MOST;
use crate::config::plant::Line;
use crate::config::plant::Plant;
use crate::config::plant::Source;
use crate::message::Message;
use crate::message::Retain;
use crate::point::LineId;
use crate::sample::Value;
use crate::topic::Qos;
use crate::topic::RAW;

/// Most commands that are taken of what comes at once: more than all persons and programs of a site send in a moment. What is
/// beyond is answered, and not done.
pub const AT_ONCE: usize = 256;

/// Where answers go: the broker's in-process door.
pub type Outlet = mpsc::Sender<Vec<Message>>;

/// What can be commanded: the plant, and the desks of its lines. A reload sends another.
#[derive(Debug, Clone)]
pub struct Floor {
    /// The points that can be named.
    pub plant: Arc<Plant>,
    /// Where things are done.
    pub desks: Vec<(LineId, Seat)>,
    /// What a fail-safe is judged by.
    pub eyes: failsafe::Eyes,
}

impl Floor {
    /// Where things are done on that line.
    pub fn desk(&self, line: LineId) -> Option<&Seat> {
        self.desks.iter().find(|(id, _)| *id == line).map(|(_, seat)| seat)
    }
}

/// Takes `…/set`, `…/get` and `…/$command` messages and does what they ask.
#[derive(Debug)]
pub struct CommandTask {
    commands: mpsc::Receiver<Vec<Message>>,
    answers: Outlet,
    /// As it was seen last.
    floor: Floor,
    floors: watch::Receiver<Floor>,
    /// Shared with the workers, held for moments.
    answered: Arc<Mutex<Answered>>,
    audit: Audit,
    /// Where the gateway's own writes come from, if it has any.
    own: Option<Door>,
}

/// Whether a command was heard of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    First,
    /// Its id is under way: when its turn comes, that has ended, and it is answered with the same.
    Again,
}

/// One command on its way to its line.
#[derive(Debug)]
struct Job {
    line: LineId,
    work: Work,
    id: Option<String>,
    message: Message,
    term: Term,
    /// Of a command that asks to write.
    record: Option<Record>,
    cause: Cause,
    asked: Asked,
    /// What the point held before a write of the gateway's own, where that was to be looked up.
    before: Option<Value>,
}

/// Why not, with the asker's id where it could be read.
type Refused = (Option<String>, Refusal);

/// Where the commands of a line wait.
struct Queue {
    line: LineId,
    desk: Seat,
    jobs: mpsc::Sender<Box<Job>>,
}

/// A task over all points of the plant.
pub fn new(
    mut floors: watch::Receiver<Floor>,
    commands: mpsc::Receiver<Vec<Message>>,
    answers: Outlet,
    audit: Audit,
) -> CommandTask {
    let floor = floors.borrow_and_update().clone();
    CommandTask { commands, answers, floor, floors, answered: Arc::default(), audit, own: None }
}

fn queue_of(queues: &[Queue], line: LineId) -> &mpsc::Sender<Box<Job>> {
    &queues.iter().find(|queue| queue.line == line).expect("a queue for each line").jobs
}

impl CommandTask {
    /// Does the writes that come through the door, and tells it what becomes of its points.
    pub fn guarded(mut self, door: Door) -> Self {
        self.own = Some(door);
        self
    }

    /// Runs until cancelled or the broker goes; commands under way are finished and answered.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut workers = JoinSet::new();
        let mut queues = self.queues(&mut workers, Vec::new());
        loop {
            let batch = tokio::select! {
                batch = self.commands.recv() => batch,
                Some(write) = own::ordered(&mut self.own) => {
                    self.take_own(write, &queues).await;
                    continue;
                }
                () = stop.cancelled() => None,
                Ok(()) = self.floors.changed() => {
                    self.floor = self.floors.borrow_and_update().clone();
                    queues = self.queues(&mut workers, queues);
                    continue;
                }
                Some(ended) = workers.join_next() => {
                    // It ends well only when its line is gone. One that panicked: the whole task is made anew.
                    ended.expect("a worker outlives its queue");
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            for (n, message) in batch.into_iter().enumerate() {
                self.take(message, (n < AT_ONCE).then_some(&*queues)).await;
            }
        }
        drop(queues);
        drop(self.own.take());
        workers.join_all().await;
    }

    /// One for each line. A line that stays keeps its own; one that is gone does what waits there, and ends.
    fn queues(&self, workers: &mut JoinSet<()>, mut before: Vec<Queue>) -> Vec<Queue> {
        let queue = |line: &Line| {
            let desk = self.floor.desk(line.id)?;
            let same = |queue: &Queue| queue.line == line.id && queue.desk.same_channel(desk);
            Some(match before.iter().position(same) {
                Some(at) => before.swap_remove(at),
                None => Queue { line: line.id, desk: desk.clone(), jobs: self.start_worker(workers, desk.clone()) },
            })
        };
        self.floor.plant.lines.iter().filter_map(queue).collect()
    }

    fn start_worker(&self, workers: &mut JoinSet<()>, desk: Seat) -> mpsc::Sender<Box<Job>> {
        // The queue's places are made with it, for every line: a job is a kilobyte and lies elsewhere.
        let (queue, jobs) = mpsc::channel::<Box<Job>>(MOST);
        workers.spawn(worker::run(jobs, (desk, self.floors.clone()), self.teller()));
        queue
    }

    fn teller(&self) -> Teller {
        Teller {
            answers: self.answers.clone(),
            answered: Arc::clone(&self.answered),
            audit: self.audit.clone(),
            guards: self.own.as_ref().map(|door| door.teller.clone()),
        }
    }

    /// Without queues there is no room for what is understood.
    async fn take(&self, message: Message, queues: Option<&[Queue]>) {
        let came = Instant::now();
        let teller = self.teller();
        let (id, refusal) = match self.understand(&message, came) {
            Ok(job) => match teller.known(&job) {
                Some(Known::Other) => (job.id.clone(), Refusal::UsedId(job.id.unwrap_or_default())),
                Some(Known::Answer(payload)) => return teller.tell_again(&job, &payload).await,
                known => {
                    let asked = if known.is_some() { Asked::Again } else { Asked::First };
                    let mut job = Box::new(Job { asked, ..job });
                    let Some(queues) = queues else { return teller.tell(&mut job, &too_many()).await };
                    if let Err(full) = queue_of(queues, job.line).try_send(job) {
                        teller.tell(&mut full.into_inner(), &busy()).await;
                    }
                    return;
                }
            },
            Err(refused) => refused,
        };
        tracing::info!(topic = %message.topic, reason = %refusal, "command refused");
        if message.was_retained() {
            self.forget(&message).await;
        }
        let payload = answer::payload(&Outcome::Refused(refusal.to_string()), id.as_deref(), came);
        if ["/set", "/$modbus"].iter().any(|asks| message.topic.as_str().ends_with(asks)) {
            self.audit.note(record::unread(&message, id), &payload);
        }
        answer::tell(&self.answers, &message, &payload).await;
    }

    /// Takes a refused command out of the retained messages, so that it does not come again at every start, here or upstream.
    async fn forget(&self, message: &Message) {
        let nothing = Message::plain(message.topic.clone(), Bytes::new(), Qos::AtLeastOnce, Retain::Yes);
        if self.answers.send(vec![nothing]).await.is_err() {
            tracing::debug!("broker gone, the retained command stays");
        }
    }

    fn understand(&self, message: &Message, came: Instant) -> Result<Job, Refused> {
        if message.was_retained() {
            return Err((None, Refusal::Retained));
        }
        let topic = message.topic.as_str();
        let rest =
            topic.strip_prefix(&*self.floor.plant.gateway).and_then(|rest| rest.strip_prefix('/')).unwrap_or(topic);
        let levels: Vec<&str> = rest.split('/').collect();
        if let [line, RAW] = levels[..] {
            let refused = |refused: &Refused| {
                let (who, reason) = (commission::who(message.from.as_deref()), &refused.1);
                tracing::info!(target: commission::LOG, line, who, %reason, "raw access refused");
            };
            return self.raw(line, message, came).inspect_err(refused);
        }
        let unknown = || (None, Refusal::UnknownPoint(topic.to_owned()));
        let whole = levels.first().and_then(|device| Whole::named(&self.floor.plant, device));
        let whole = whole.ok_or_else(|| match levels.as_slice() {
            [_, _, _] => unknown(),
            _ => (None, Refusal::UnknownDevice(levels.first().copied().unwrap_or_default().to_owned())),
        })?;
        let point = |name: &str| whole.point(name).ok_or_else(unknown);
        let (work, id, expires_us) = match levels[1..] {
            [name, "set"] => set(point(name)?, &message.payload)?,
            [name, "get"] => get(point(name)?, &message.payload)?,
            ["set"] => batch(&whole, &message.payload)?,
            ["$command"] => {
                let parsed = request::parse_action(&message.payload).map_err(|refusal| (None, refusal))?;
                let (action, id, expires_us) = parsed;
                let points = whole.points().map(|point| point.id).collect();
                (Work::Act(Arc::clone(&whole.device), points, action), id, expires_us)
            }
            _ => return Err(unknown()),
        };
        let plant = &self.floor.plant;
        let record = match &work {
            Work::Set(change) => Some(Record::new(message, id.as_ref(), plant, std::slice::from_ref(change))),
            Work::Batch(changes) => Some(Record::new(message, id.as_ref(), plant, changes)),
            Work::Get(_) | Work::Act(..) | Work::Raw(..) => None,
        };
        let term = Term::of(message, came, expires_us);
        Ok(Job {
            line: whole.device.line,
            work,
            id,
            message: message.clone(),
            term,
            record,
            cause: Cause::Asked,
            asked: Asked::First,
            before: None,
        })
    }
}

impl CommandTask {
    fn raw(&self, name: &str, message: &Message, came: Instant) -> Result<Job, Refused> {
        let line = self.floor.plant.lines.iter().find(|line| *line.name == *name);
        let line = line.ok_or_else(|| (None, Refusal::UnknownLine(name.to_owned())))?;
        let (fields, id, expires_us) = request::parse_raw(&message.payload).map_err(|refusal| (None, refusal))?;
        let refuse = |refusal| (id.clone(), refusal);
        if !line.raw_access {
            return Err(refuse(Refusal::RawOff(name.to_owned())));
        }
        // The broker and the bridge have judged who may; what came by neither has been judged by nobody.
        if message.from.is_none() {
            return Err(refuse(Refusal::RawNobody));
        }
        let raw = raw::understand(&fields, line).map_err(|unfit| refuse(Refusal::Raw(unfit.to_string())))?;
        let record = (!raw.is_read()).then(|| Record::raw(record::asked(message, id.as_ref()), line, &raw));
        Ok(Job {
            line: line.id,
            work: Work::Raw(Box::new(line.clone()), raw),
            id,
            message: message.clone(),
            term: Term::of(message, came, expires_us),
            record,
            cause: Cause::Asked,
            asked: Asked::First,
            before: None,
        })
    }
}

type Understood = (Work, Option<String>, Option<i64>);

fn set(target: Target, payload: &[u8]) -> Result<Understood, Refused> {
    let request = request::parse(payload).map_err(|refusal| (None, refusal))?;
    if target.point.write.is_none() {
        return Err((request.id, Refusal::ReadOnly(target.point.name.to_string())));
    }
    Ok((Work::Set(Change { target, value: request.value }), request.id, request.expires_us))
}

fn get(target: Target, payload: &[u8]) -> Result<Understood, Refused> {
    let (id, expires_us) = request::parse_get(payload).map_err(|refusal| (None, refusal))?;
    match target.point.source {
        Source::Wire(_) => Ok((Work::Get(target), id, expires_us)),
        Source::Compute(_) => Err((id, Refusal::Computed(target.point.name.to_string()))),
    }
}

fn batch(whole: &Whole<'_>, payload: &[u8]) -> Result<Understood, Refused> {
    let asked = request::parse_batch(payload).map_err(|refusal| (None, refusal))?;
    let mut changes = Vec::with_capacity(asked.writes.len());
    for (name, value) in asked.writes {
        let target = whole.point(&name);
        let target = target.ok_or_else(|| (asked.id.clone(), Refusal::UnknownPoint(name)))?;
        changes.push(Change { target, value });
    }
    Ok((Work::Batch(changes), asked.id, asked.expires_us))
}

fn too_many() -> Outcome {
    Outcome::Later("busy: too many commands at once, try again".to_owned())
}

fn busy() -> Outcome {
    Outcome::Later("busy: too many commands wait for this line, try again".to_owned())
}
