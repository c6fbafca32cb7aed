//! Other points for a publish task that goes on. A reload adds first, then changes the lines, and takes away last: so every
//! reading finds the point it was taken for, and one under its old meaning is told under that. What goes is told and
//! cleared: a retained value must not outlive its point, nor a state its device.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::config::Plant;
use crate::message::{Message, Retain};
use crate::point::{DeviceId, PointId};
use crate::publish::PublishTask;
use crate::publish::task::{Outlet, Speaker, name, place, state_message};
use crate::status::PublishStatus;
use crate::topic::{Qos, TopicName};

/// What is to be done with the points of the new plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Those that are new come; nothing goes.
    Add,
    /// Those that are not in it go.
    Remove,
    /// All are told again with their next reading, and all states at once: there is a listener who knows nothing yet.
    TellAgain,
}

/// A round on its way, and who waits until it is done.
pub(super) struct Renewal {
    plant: Arc<Plant>,
    round: Round,
    done: oneshot::Sender<()>,
}

/// Gives the task other points. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Renewals(mpsc::Sender<Renewal>);

impl Renewals {
    pub(super) const fn new(task: mpsc::Sender<Renewal>) -> Self {
        Self(task)
    }

    /// False when the task has ended. Before a removal, all readings that were handed over are told.
    pub async fn renew(&self, plant: &Arc<Plant>, round: Round) -> bool {
        let (done, renewed) = oneshot::channel();
        let renewal = Renewal { plant: Arc::clone(plant), round, done };
        self.0.send(renewal).await.is_ok() && renewed.await.is_ok()
    }
}

impl PublishTask {
    pub(super) fn renew(&mut self, renewal: Renewal) -> (Vec<Message>, oneshot::Sender<()>) {
        let Renewal { plant, round, done } = renewal;
        let messages = match round {
            Round::Add => {
                self.add(&plant);
                Vec::new()
            }
            Round::Remove => self.remove(&plant),
            Round::TellAgain => self.tell_again(),
        };
        (messages, done)
    }

    fn add(&mut self, plant: &Plant) {
        for device in &plant.devices {
            self.speakers.entry(device.id).or_insert_with(|| Speaker::new(&plant.gateway, device));
        }
        let count = plant.points.iter().map(|p| place(p.id) + 1).max().unwrap_or(0);
        if count > self.outlets.len() {
            self.outlets.resize_with(count, || None);
        }
        for point in &plant.points {
            let outlet = &mut self.outlets[place(point.id)];
            if outlet.is_none() {
                *outlet = Some(Outlet::new(point));
            }
        }
    }

    fn remove(&mut self, plant: &Plant) -> Vec<Message> {
        // The lines have let go of what goes: what is still on its way is here, and belongs to the old meaning.
        let mut messages = Vec::new();
        while let Ok(batch) = self.samples.try_recv() {
            messages.extend(batch.into_iter().filter_map(|sample| self.sample(sample)));
        }
        while let Ok(event) = self.events.try_recv() {
            messages.extend(self.device(event));
        }
        let stay: HashSet<PointId> = plant.points.iter().map(|p| p.id).collect();
        let topics: HashSet<&TopicName> =
            plant.points.iter().filter(|p| p.series.retain).map(|p| &p.series.topic).collect();
        let mut closed = HashMap::new();
        for at in 0..self.outlets.len() {
            let id = PointId(u32::try_from(at).expect("made from a u32"));
            if stay.contains(&id) {
                continue;
            }
            messages.extend(self.let_go(id));
            let Some(gone) = self.outlets[at].take() else { continue };
            let series = &gone.point.series;
            if series.retain && !topics.contains(&series.topic) {
                messages.push(cleared(&series.topic));
            }
            closed.insert(name(&self.speakers, &gone.point), gone.account);
        }
        self.go_on_with(&closed);
        self.outlets.truncate(plant.points.iter().map(|p| place(p.id) + 1).max().unwrap_or(0));
        messages.extend(self.bury(plant));
        messages
    }

    /// A point that has only got another meaning goes on with its account.
    fn go_on_with(&mut self, closed: &HashMap<String, PublishStatus>) {
        if closed.is_empty() {
            return;
        }
        for outlet in self.outlets.iter_mut().flatten() {
            if let Some(before) = closed.get(&name(&self.speakers, &outlet.point)) {
                let now = &mut outlet.account;
                now.polled += before.polled;
                now.suppressed += before.suppressed;
                now.published += before.published;
                now.failed += before.failed;
                now.held += before.held;
                now.told += before.told;
            }
        }
    }

    /// Devices that are no more: who listens hears it, who comes later finds nothing.
    fn bury(&mut self, plant: &Plant) -> Vec<Message> {
        let stay: HashSet<DeviceId> = plant.devices.iter().map(|d| d.id).collect();
        let gone: Vec<DeviceId> = self.speakers.keys().copied().filter(|id| !stay.contains(id)).collect();
        let topics = gone.iter().filter_map(|id| self.speakers.remove(id)?.state);
        topics.flat_map(|t| [state_message(&t, "offline", (Some("removed"), None), Retain::No), cleared(&t)]).collect()
    }

    fn tell_again(&mut self) -> Vec<Message> {
        self.outlets.iter_mut().flatten().for_each(|outlet| outlet.policy.forget());
        let told: Vec<_> = self.speakers.values().filter_map(|speaker| speaker.told.clone()).collect();
        let mut messages = self.own("online");
        messages.extend(told.into_iter().filter_map(|event| self.device(event)));
        messages
    }
}

/// What is retained there is forgotten (MQTT 3.1.1, 3.3.1.3).
fn cleared(topic: &TopicName) -> Message {
    Message::plain(topic.clone(), Bytes::new(), Qos::AtLeastOnce, Retain::Yes)
}
