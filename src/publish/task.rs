//! The task between polls and the broker. It keeps the account, of each point and in total: each reading is suppressed,
//! published, failed or held, and nothing else.
//! Ends when the samples end, after having passed on everything, the gateway's own `offline` last.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::config::plant::{Device, Point};
use crate::message::{Message, OwnValue, Retain};
use crate::payload::{Pen, Series};
use crate::point::{DeviceId, PointId};
use crate::poll::DeviceEvent;
use crate::publish::Accounts;
use crate::publish::Parts;
use crate::publish::policy::{Policy, Verdict};
use crate::publish::renewal::{Renewal, Renewals};
use crate::sample::Sample;
use crate::status::{Books, PointAccount, PublishStatus};
use crate::time;
use crate::topic::{Qos, TopicName};

/// Batches of samples taken at once: enough to spread the cost of a wake-up, little enough not to age.
const BATCHES: usize = 64;
/// Questions for the books that wait; more askers wait their turn.
const QUESTIONS: usize = 4;

pub(super) struct Outlet {
    pub(super) point: Arc<Point>,
    pub(super) policy: Policy,
    pub(super) account: PublishStatus,
}

impl Outlet {
    /// Nothing is told yet, nothing counted.
    pub(super) fn new(point: &Arc<Point>) -> Self {
        let (policy, account) = (Policy::new(Arc::clone(&point.report)), PublishStatus::default());
        Self { point: Arc::clone(point), policy, account }
    }
}

/// What is told of a device beside its points.
pub(super) struct Speaker {
    name: Arc<str>,
    /// `None` where the name makes no topic, which the configuration has checked.
    pub(super) state: Option<TopicName>,
    /// As it was told last.
    pub(super) told: Option<DeviceEvent>,
}

impl Speaker {
    pub(super) fn new(gateway: &str, device: &Device) -> Self {
        let state = TopicName::new(format!("{gateway}/{}/$state", device.name)).ok();
        Self { name: Arc::clone(&device.name), state, told: None }
    }
}

/// Turns samples into messages.
pub struct PublishTask {
    /// By the number of the point; a line's share of a plant leaves the others empty, and so does a reload.
    pub(super) outlets: Vec<Option<Outlet>>,
    pub(super) speakers: HashMap<DeviceId, Speaker>,
    own_state: Option<TopicName>,
    pub(super) samples: mpsc::Receiver<Vec<Sample>>,
    pub(super) events: mpsc::Receiver<DeviceEvent>,
    sink: mpsc::Sender<Vec<Message>>,
    status: watch::Sender<PublishStatus>,
    account: PublishStatus,
    pub(super) held: BTreeSet<(u64, PointId)>,
    pen: Pen,
    renewals: mpsc::Receiver<Renewal>,
    /// Kept, as `ask`.
    renew: mpsc::Sender<Renewal>,
    questions: mpsc::Receiver<oneshot::Sender<Books>>,
    /// Kept, so that the questions never end before the task does.
    ask: mpsc::Sender<oneshot::Sender<Books>>,
}

/// What woke the task.
enum Event {
    Samples(usize),
    Device(DeviceEvent),
    Release,
    Question(oneshot::Sender<Books>),
    Renewal(Renewal),
}

/// What happens to one reading, as the books see it.
#[derive(Clone, Copy)]
enum Turn {
    Polled,
    Suppressed,
    Published,
    Held,
    /// It waits no longer; what becomes of it is counted beside this.
    LetGo,
}

impl Turn {
    const fn count(self, account: &mut PublishStatus, sample: &Sample) {
        let good = sample.value().is_some();
        match self {
            Self::Polled => {
                account.polled += 1;
                account.failed += !good as u64;
            }
            Self::Published if good => account.published += 1,
            Self::Published => account.told += 1,
            // That it failed was counted when it came.
            _ if !good => {}
            Self::Suppressed => account.suppressed += 1,
            Self::Held => account.held += 1,
            Self::LetGo => account.held -= 1,
        }
    }
}

impl PublishTask {
    pub(crate) fn new(
        parts: Parts<'_>,
        samples: mpsc::Receiver<Vec<Sample>>,
        events: mpsc::Receiver<DeviceEvent>,
        sink: mpsc::Sender<Vec<Message>>,
    ) -> (watch::Receiver<PublishStatus>, Self) {
        let gateway = parts.gateway;
        let speakers = parts.devices.iter().map(|d| (d.id, Speaker::new(gateway, d))).collect();
        let own_state = TopicName::new(format!("{gateway}/$state")).ok();
        let count = parts.points.iter().map(|p| place(p.id) + 1).max().unwrap_or(0);
        let mut outlets = Vec::new();
        outlets.resize_with(count, || None);
        for point in parts.points {
            outlets[place(point.id)] = Some(Outlet::new(point));
        }
        let (status, seen) = watch::channel(PublishStatus::default());
        let (account, held) = (PublishStatus::default(), BTreeSet::new());
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let (renew, renewals) = mpsc::channel(1);
        let pen = Pen::default();
        let task = Self {
            outlets,
            speakers,
            own_state,
            samples,
            events,
            sink,
            status,
            account,
            held,
            pen,
            renewals,
            renew,
            questions,
            ask,
        };
        (seen, task)
    }

    /// The handle for whoever gives it other points.
    pub fn renewals(&self) -> Renewals {
        Renewals::new(self.renew.clone())
    }

    /// Goes on where the books of an earlier run end. What was held when that run was killed was never told.
    pub fn continuing(mut self, books: &Books) -> Self {
        let closed = |a: &PublishStatus| PublishStatus { suppressed: a.suppressed + a.held, held: 0, ..*a };
        let known: HashMap<&str, _> = books.points.iter().map(|p| (p.point.as_str(), closed(&p.account))).collect();
        for outlet in self.outlets.iter_mut().flatten() {
            let name = name(&self.speakers, &outlet.point);
            outlet.account = known.get(name.as_str()).copied().unwrap_or_default();
        }
        self.account = closed(&books.total);
        self.status.send_replace(self.account);
        self
    }

    /// The handle for whoever wants to see the books.
    pub fn accounts(&self) -> Accounts {
        Accounts(self.ask.clone())
    }

    fn books(&self) -> Books {
        let account =
            |outlet: &Outlet| PointAccount { point: name(&self.speakers, &outlet.point), account: outlet.account };
        let mut points: Vec<_> = self.outlets.iter().flatten().map(account).collect();
        points.sort_by(|a, b| a.point.cmp(&b.point));
        Books { total: self.account, points }
    }

    /// Until the samples end or the sink is gone; gives the books as they were closed.
    pub async fn run(mut self) -> Books {
        let hello = self.own("online");
        if self.pass(hello).await {
            self.work().await;
        }
        let mut last = self.release(u64::MAX);
        while let Ok(event) = self.events.try_recv() {
            last.extend(self.device(event));
        }
        last.extend(self.own("offline"));
        self.pass(last).await;
        self.books()
    }

    async fn work(&mut self) {
        let mut batches = Vec::with_capacity(BATCHES);
        let mut events_open = true;
        loop {
            let wake = self.held.first().map(|(at, _)| wait_for(*at));
            let event = tokio::select! {
                n = self.samples.recv_many(&mut batches, BATCHES) => Some(Event::Samples(n)),
                event = self.events.recv(), if events_open => event.map(Event::Device),
                Some(reply) = self.questions.recv() => Some(Event::Question(reply)),
                Some(renewal) = self.renewals.recv() => Some(Event::Renewal(renewal)),
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => Some(Event::Release),
            };
            let messages = match event {
                Some(Event::Samples(0)) => return,
                Some(Event::Samples(_)) => batches.drain(..).flatten().filter_map(|s| self.sample(s)).collect(),
                Some(Event::Device(event)) => self.device(event).into_iter().collect(),
                Some(Event::Release) => self.release(time::now().mono_us),
                Some(Event::Question(reply)) => {
                    let _ = reply.send(self.books());
                    Vec::new()
                }
                Some(Event::Renewal(renewal)) => {
                    let (messages, done) = self.renew(renewal);
                    if !self.pass(messages).await {
                        return;
                    }
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                    continue;
                }
                None => {
                    events_open = false;
                    Vec::new()
                }
            };
            if !self.pass(messages).await {
                return;
            }
        }
    }

    /// False when nobody takes messages any more.
    async fn pass(&mut self, messages: Vec<Message>) -> bool {
        self.status.send_replace(self.account);
        messages.is_empty() || self.sink.send(messages).await.is_ok()
    }

    pub(super) fn sample(&mut self, sample: Sample) -> Option<Message> {
        let id = sample.point();
        // A sample of a point that a reload has just removed.
        let outlet = self.outlets.get_mut(place(id))?.as_mut()?;
        let mut count = |turn: Turn, sample: &Sample| {
            turn.count(&mut self.account, sample);
            turn.count(&mut outlet.account, sample);
        };
        count(Turn::Polled, &sample);
        if let Some(at) = outlet.policy.held_until() {
            self.held.remove(&(at, id));
        }
        let (verdict, replaced) = outlet.policy.judge(&sample);
        if let Some(at) = outlet.policy.held_until() {
            self.held.insert((at, id));
        }
        if let Some(replaced) = replaced {
            count(Turn::LetGo, &replaced);
            count(Turn::Suppressed, &replaced);
        }
        match verdict {
            Verdict::Publish => {
                count(Turn::Published, &sample);
                Some(message(&mut self.pen, &outlet.point.series, sample))
            }
            Verdict::Suppress => {
                count(Turn::Suppressed, &sample);
                None
            }
            Verdict::Hold => {
                count(Turn::Held, &sample);
                None
            }
        }
    }

    /// Held values whose time has come.
    fn release(&mut self, now_us: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some((_, id)) = self.held.first().copied().filter(|(at, _)| *at <= now_us) {
            self.held.pop_first();
            messages.extend(self.let_go(id));
        }
        messages
    }

    pub(super) fn device(&mut self, event: DeviceEvent) -> Option<Message> {
        let speaker = self.speakers.get_mut(&event.device)?;
        let event = speaker.told.insert(event);
        let state = if event.online { "online" } else { "offline" };
        let reason = event.reason.map(|r| r.to_string());
        let why = (reason.as_deref(), event.detail.as_deref());
        Some(state_message(speaker.state.as_ref()?, state, why, Retain::Yes))
    }

    /// A reading that was held is told after all: its point ends.
    pub(super) fn let_go(&mut self, id: PointId) -> Option<Message> {
        self.held.retain(|(_, held)| *held != id);
        let outlet = self.outlets.get_mut(place(id))?.as_mut()?;
        let sample = outlet.policy.release()?;
        for turn in [Turn::LetGo, Turn::Published] {
            turn.count(&mut self.account, &sample);
            turn.count(&mut outlet.account, &sample);
        }
        Some(message(&mut self.pen, &outlet.point.series, sample))
    }

    pub(super) fn own(&self, state: &'static str) -> Vec<Message> {
        let message = |topic: &TopicName| {
            Message::plain(topic.clone(), Bytes::from_static(state.as_bytes()), Qos::AtLeastOnce, Retain::Yes)
        };
        self.own_state.iter().map(message).collect()
    }
}

/// A reason in a word, and what a word does not say.
type Why<'a> = (Option<&'a str>, Option<&'a str>);

pub(super) fn state_message(topic: &TopicName, state: &str, why: Why<'_>, retain: Retain) -> Message {
    let reason = why.0.map(|r| format!(",\"reason\":\"{r}\"")).unwrap_or_default();
    // A device may say of itself what it likes.
    let detail = why.1.map(|d| format!(",\"detail\":{}", serde_json::json!(d))).unwrap_or_default();
    let text = format!("{{\"state\":\"{state}\"{reason}{detail},\"time\":\"{}\"}}", time::now().rfc3339());
    Message::plain(topic.clone(), Bytes::from(text), Qos::AtLeastOnce, retain)
}

/// `{device}/{point}`, as it is named in the configuration.
pub(super) fn name(speakers: &HashMap<DeviceId, Speaker>, point: &Point) -> String {
    let device = speakers.get(&point.device).map_or("", |speaker| &*speaker.name);
    format!("{device}/{}", point.name)
}

/// A moment of the monotonic clock as a pause from now, never zero so that a timer that fires early does not spin.
fn wait_for(at_us: u64) -> Duration {
    Duration::from_micros(at_us.saturating_sub(time::now().mono_us).max(1))
}

/// Points are numbered from 0, with gaps after a reload only.
pub(super) const fn place(id: PointId) -> usize {
    id.0 as usize
}

fn message(pen: &mut Pen, series: &Arc<Series>, sample: Sample) -> Message {
    Message {
        topic: series.topic.clone(),
        payload: pen.render(series, &sample),
        qos: series.qos,
        retain: series.retain,
        properties: None,
        class: series.class,
        own: Some(OwnValue { series: Arc::clone(series), sample }),
        from: None,
    }
}

#[cfg(test)]
mod tests;
