//! Performs commands: one worker a line, so that a slow line delays nobody else's commands, each with a bounded queue.
//! A full queue is answered, never waited for: the asker is told that the line is busy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::ReadRequest;
use crate::bus::WriteRequest;
use crate::command::request;
use crate::command::request::Refusal;
use crate::command::request::Request;
use crate::config::plant::Device;
use crate::config::plant::Plant;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::decode;
use crate::decode::Words;
use crate::message::Message;
use crate::message::Properties;
use crate::message::Retain;
use crate::sample::Value;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Commands waiting for one line; more are answered "busy".
const WAITING: usize = 32;

/// Where answers go: the broker's in-process door.
pub type Outlet = mpsc::Sender<Vec<Message>>;

/// Takes `…/set` messages and does what they ask.
#[derive(Debug)]
pub struct CommandTask {
    commands: mpsc::Receiver<Vec<Message>>,
    answers: Outlet,
    plant: Arc<Plant>,
    buses: Vec<Seat>,
}

/// A line's bus as it stands now; `None` while the line is being made anew.
pub type Seat = watch::Receiver<Option<Bus>>;

/// A point that was named in a topic, with what a write needs.
#[derive(Debug)]
struct Target {
    device: Device,
    point: Point,
    scale_from: Option<Point>,
}

impl Target {
    /// Looked up by its names each time: commands are rare, and an index over all points of a large site would cost a
    /// megabyte for ever.
    fn named(plant: &Plant, topic: &str) -> Option<Self> {
        let names = topic.strip_prefix(&*plant.gateway)?.strip_prefix('/')?.strip_suffix("/set")?;
        let (device, point) = names.split_once('/')?;
        let device = plant.devices.iter().find(|d| *d.name == *device)?;
        let point = plant.points.iter().find(|p| p.device == device.id && *p.name == *point)?;
        let scale_from = match &point.source {
            Source::Wire(wire) => wire.scale_from.map(|id| plant.point(id).clone()),
            Source::Compute(_) => None,
        };
        Some(Self { device: device.clone(), point: point.clone(), scale_from })
    }
}

/// One command on its way to its line.
struct Job {
    target: Target,
    request: Request,
    message: Message,
    came: Instant,
}

/// A task over all points of the plant; `buses` are in the order of `plant.lines`.
pub fn new(
    plant: Arc<Plant>,
    buses: Vec<Seat>,
    commands: mpsc::Receiver<Vec<Message>>,
    answers: Outlet,
) -> CommandTask {
    CommandTask { commands, answers, plant, buses }
}

impl CommandTask {
    /// Runs until cancelled or the broker goes; commands under way are finished and answered.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut workers = JoinSet::new();
        let queues: Vec<_> = self.buses.iter().map(|bus| start_worker(&mut workers, bus, &self.answers)).collect();
        loop {
            let batch = tokio::select! {
                batch = self.commands.recv() => batch,
                () = stop.cancelled() => None,
                Some(ended) = workers.join_next() => {
                    // A worker ends only when its queue is dropped, so this one panicked: the whole task is made anew.
                    ended.expect("a worker outlives its queue");
                    None
                }
            };
            let Some(batch) = batch else { break };
            for message in batch {
                self.take(message, &queues).await;
            }
        }
        drop(queues);
        workers.join_all().await;
    }

    async fn take(&self, message: Message, queues: &[mpsc::Sender<Box<Job>>]) {
        let came = Instant::now();
        let refused = match self.understand(&message, came) {
            Ok(job) => {
                let line = usize::from(job.target.device.line.0);
                match queues[line].try_send(Box::new(job)) {
                    Ok(()) => return,
                    Err(_) => (None, "busy: too many commands wait for this line, try again".to_owned()),
                }
            }
            Err((id, refusal)) => (id, refusal.to_string()),
        };
        tracing::info!(topic = %message.topic, reason = refused.1, "command refused");
        if message.retain {
            self.forget(&message).await;
        }
        let (id, reason) = refused;
        answer(&self.answers, &message, id.as_deref(), &Outcome::Refused(reason), came).await;
    }

    /// Takes a refused command out of the retained messages, so that it does not come again at every start, here or upstream.
    async fn forget(&self, message: &Message) {
        let nothing = Message::plain(message.topic.clone(), Bytes::new(), Qos::AtLeastOnce, Retain::Yes);
        if self.answers.send(vec![nothing]).await.is_err() {
            tracing::debug!("broker gone, the retained command stays");
        }
    }

    fn understand(&self, message: &Message, came: Instant) -> Result<Job, (Option<String>, Refusal)> {
        if message.retain {
            return Err((None, Refusal::Retained));
        }
        let topic = message.topic.as_str();
        let target = Target::named(&self.plant, topic);
        let target = target.ok_or_else(|| (None, Refusal::UnknownPoint(topic.to_owned())))?;
        let request = request::parse(&message.payload).map_err(|refusal| (None, refusal))?;
        let write = target.point.write.as_ref();
        let write = write.ok_or_else(|| (request.id.clone(), Refusal::ReadOnly(target.point.name.to_string())))?;
        request::in_time(&request, write, crate::time::now().wall_us, Duration::ZERO)
            .map_err(|refusal| (request.id.clone(), refusal))?;
        Ok(Job { target, request, message: message.clone(), came })
    }
}

fn start_worker(workers: &mut JoinSet<()>, bus: &Seat, answers: &Outlet) -> mpsc::Sender<Box<Job>> {
    // The queue's places are made with it, for every line: a job is a kilobyte and lies elsewhere.
    let (queue, mut jobs) = mpsc::channel::<Box<Job>>(WAITING);
    let bus = bus.clone();
    let answers = answers.clone();
    workers.spawn(async move {
        while let Some(job) = jobs.recv().await {
            let seated = bus.borrow().clone();
            let outcome = match seated {
                Some(bus) => perform(&bus, &job).await,
                None => Outcome::Failed("the line is being restarted, try again".to_owned()),
            };
            tracing::info!(topic = %job.message.topic, value = %job.request.value, outcome = outcome.word(), "command");
            answer(&answers, &job.message, job.request.id.as_deref(), &outcome, job.came).await;
        }
    });
    queue
}

/// What became of a command.
#[derive(Debug)]
enum Outcome {
    /// Confirmed by the device; with the value read back where `verify` asks for it.
    Written { verified: Option<Value> },
    /// Not done.
    Refused(String),
    /// Tried; the device did not confirm, or shows another value.
    Failed(String),
}

impl Outcome {
    const fn word(&self) -> &'static str {
        match self {
            Self::Written { .. } => "written",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

async fn perform(bus: &Bus, job: &Job) -> Outcome {
    let point = &job.target.point;
    let Some(write) = &point.write else {
        return Outcome::Refused(Refusal::ReadOnly(point.name.to_string()).to_string());
    };
    let now_us = crate::time::now().wall_us;
    if let Err(refusal) = request::in_time(&job.request, write, now_us, job.came.elapsed()) {
        return Outcome::Refused(refusal.to_string());
    }
    let exponent = match scale(bus, &job.target).await {
        Ok(exponent) => exponent,
        Err(error) => return Outcome::Failed(format!("scale factor: {}", words_of(&error))),
    };
    let planned = match request::judge(point, &job.request.value, exponent) {
        Ok(planned) => planned,
        Err(refusal) => return Outcome::Refused(refusal.to_string()),
    };
    let unit = job.target.device.unit_id;
    if let Err(error) = bus.write(WriteRequest { unit, kind: planned.kind }).await {
        return Outcome::Failed(words_of(&error));
    }
    if !write.verify {
        return Outcome::Written { verified: None };
    }
    match read(bus, &job.target.device, point, exponent).await {
        Ok((words, value)) if words == planned.words => Outcome::Written { verified: Some(value) },
        Ok((_, value)) => Outcome::Failed(format!("verify: the device shows {value}")),
        Err(error) => Outcome::Failed(format!("written, but verify failed: {}", words_of(&error))),
    }
}

async fn scale(bus: &Bus, target: &Target) -> Result<Option<i32>, BusError> {
    let Some(point) = &target.scale_from else { return Ok(None) };
    let (_, value) = read(bus, &target.device, point, None).await?;
    Ok(decode::exponent_of(&value))
}

/// The point's words (of a bit field: those bits) and value, read now.
async fn read(bus: &Bus, device: &Device, point: &Point, exponent: Option<i32>) -> Result<(Vec<u16>, Value), BusError> {
    let Source::Wire(wire) = &point.source else {
        return Err(BusError::ShutDown);
    };
    let reply = bus.read(ReadRequest { unit: device.unit_id, table: wire.table, range: wire.range }).await?;
    let bad = |reason: crate::sample::Reason| Value::Text(reason.to_string().into());
    Ok(match reply.data {
        Data::Registers(mut words) => {
            let value = decode::decode(wire, Words::Registers(&words), exponent).unwrap_or_else(bad);
            if let Some(span) = wire.bits {
                words[0] &= u16::MAX >> (15 - (span.high - span.low)) << span.low;
            }
            (words, value)
        }
        Data::Bits(bits) => {
            let value = decode::decode(wire, Words::Bits(&bits), exponent).unwrap_or_else(bad);
            (bits.into_iter().map(u16::from).collect(), value)
        }
        Data::Written => (Vec::new(), Value::Text("nothing".into())),
    })
}

fn words_of(error: &BusError) -> String {
    match error {
        BusError::NoReply => "timeout: the device did not answer".to_owned(),
        other => other.to_string(),
    }
}

/// Says what became of it on `…/set/result`, and on the response topic where one was given (MQTT 5, 4.10).
async fn answer(answers: &Outlet, asked: &Message, id: Option<&str>, outcome: &Outcome, came: Instant) {
    let mut body = json!({ "result": outcome.word() });
    if let Some(id) = id {
        body["id"] = json!(id);
    }
    match outcome {
        Outcome::Written { verified: Some(value) } => body["value"] = value_json(value),
        Outcome::Written { verified: None } => {}
        Outcome::Refused(reason) | Outcome::Failed(reason) => body["reason"] = json!(reason),
    }
    body["duration_ms"] = json!(u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX));
    body["time"] = json!(crate::time::now().rfc3339());
    let payload = Bytes::from(body.to_string());
    let properties = asked.properties.as_deref();
    let wanted = properties.and_then(|p| p.response_topic.clone());
    let own = format!("{}/result", asked.topic);
    let topics = wanted.into_iter().map(|t| t.to_string()).chain([own]);
    let correlation = properties.and_then(|p| p.correlation.clone());
    let batch: Vec<_> = topics
        .filter_map(|topic| TopicName::new(topic).ok())
        .map(|topic| {
            let mut message = Message::plain(topic, payload.clone(), Qos::AtLeastOnce, Retain::No);
            message.properties = correlation
                .clone()
                .map(|correlation| Arc::new(Properties { correlation: Some(correlation), ..Properties::default() }));
            message
        })
        .collect();
    if answers.send(batch).await.is_err() {
        tracing::debug!("broker gone, answer not delivered");
    }
}

fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Text(text) => json!(&**text),
        Value::Bool(on) => json!(on),
        number => serde_json::from_str(&number.to_string()).unwrap_or_else(|_| json!(number.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_point_is_found_by_the_names_in_its_topic_and_by_nothing_else() {
        let yaml = "gateway: g\nlines: {a: {tcp: \"127.0.0.1:502\"}}\ndevices:\n\
            - {name: d, line: a, unit_id: 1, points: {p: {holding: 1, write: true}, q: {holding: 2}}}\n\
            - {name: e, line: a, unit_id: 2, points: {p: {holding: 3, write: true}}}\n";
        let plant = crate::config::load_text("test", yaml, Path::new("")).unwrap().plant;
        let found = |topic| Target::named(&plant, topic).map(|t| (t.device.name.to_string(), t.point.name.to_string()));
        assert_eq!(found("g/d/q/set"), Some(("d".into(), "q".into())));
        assert_eq!(found("g/e/p/set"), Some(("e".into(), "p".into())));
        for topic in ["g/e/q/set", "g/d/p", "h/d/p/set", "gg/d/p/set", "g/d/p/set/set", "g/d/set"] {
            assert_eq!(found(topic), None, "{topic}");
        }
    }
}
