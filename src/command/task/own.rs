//! Writes of the gateway's own among those that are asked for: they wait in the same queues and are done in the same way; only who
//! is told of them differs.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::Asked;
use super::CommandTask;
use super::Job;
use super::Queue;
use super::Teller;
use super::Work;
use super::queue_of;
use crate::command::answer;
use crate::command::answer::Outcome;
use crate::command::cause::Cause;
use crate::command::failsafe::Commanded;
use crate::command::failsafe::Door;
use crate::command::failsafe::End;
use crate::command::failsafe::Look;
use crate::command::failsafe::News;
use crate::command::failsafe::Own;
use crate::command::perform;
use crate::command::record::Record;
use crate::command::record::Term;
use crate::command::target::Change;
use crate::command::target::Seat;
use crate::command::target::Whole;
use crate::message::Message;
use crate::message::Retain;
use crate::point::PointId;
use crate::sample::Value;
use crate::topic::Qos;
use crate::topic::TopicName;

impl CommandTask {
    /// A write of the gateway's own waits in the same queue as commands do.
    pub(super) async fn take_own(&self, own: Own, queues: &[Queue]) {
        let teller = self.teller();
        let Some(job) = self.own_job(&own) else {
            let end = End::NotDone("the point is not there any more".to_owned());
            return teller.guard(own.point, News::Own(own.point, own.ticket, end, None)).await;
        };
        if let Err(full) = queue_of(queues, job.line).try_send(Box::new(job)) {
            teller.tell(&mut full.into_inner(), &super::busy()).await;
        }
    }

    /// As if it had been asked for on the point's own topic.
    fn own_job(&self, own: &Own) -> Option<Job> {
        let plant = &self.floor.plant;
        let (whole, target) = Whole::around(plant, own.point)?;
        let topic = format!("{}/{}/{}/set", plant.gateway, whole.device.name, target.point.name);
        let payload = Bytes::from(answer::value_json(&own.value).to_string());
        let message = Message::plain(TopicName::new(topic).ok()?, payload, Qos::AtLeastOnce, Retain::No);
        let line = whole.device.line;
        let change = Change { target, value: own.value.clone() };
        let record = Some(Record::own(&own.who, plant, &change));
        let term = Term::own(Instant::now());
        let cause = Cause::FailSafe { who: Arc::clone(&own.who), look: own.look, ticket: own.ticket };
        Some(Job {
            line,
            work: Work::Set(change),
            id: None,
            message,
            term,
            record,
            cause,
            asked: Asked::First,
            before: None,
        })
    }
}

impl Teller {
    /// What the point held before goes ahead of the write: if that is cut off, a later run still knows it.
    pub(super) async fn tell_before(&self, job: &Job) {
        if let (Work::Set(change), Some(before)) = (&job.work, &job.before) {
            let point = change.target.point.id;
            self.guard(point, News::Looked(point, before.clone())).await;
        }
    }

    /// Tells the guards of points what becomes of them.
    pub(super) async fn tell_guards(&self, job: &Job, outcome: &Outcome) {
        match (&job.work, outcome, &job.cause) {
            (Work::Set(change), _, Cause::FailSafe { ticket, .. }) => {
                let point = change.target.point.id;
                self.guard(point, News::Own(point, *ticket, End::of(outcome), job.before.clone())).await;
            }
            (Work::Set(change), _, Cause::Asked) => self.commanded(change, outcome).await,
            (Work::Batch(changes), Outcome::Batch(parts), _) => {
                for (change, (_, outcome)) in changes.iter().zip(parts) {
                    self.commanded(change, outcome).await;
                }
            }
            _ => {}
        }
    }

    async fn commanded(&self, change: &Change, outcome: &Outcome) {
        let point = change.target.point.id;
        if let Some(how) = Commanded::of(outcome) {
            self.guard(point, News::Commanded(point, how)).await;
        }
    }

    async fn guard(&self, point: PointId, news: News) {
        if let Some(guards) = &self.guards {
            guards.tell(point, news).await;
        }
    }
}

/// The next write of the gateway's own; never, where there are none.
pub(super) async fn ordered(own: &mut Option<Door>) -> Option<Own> {
    match own {
        Some(door) => door.orders.recv().await,
        None => std::future::pending().await,
    }
}

/// What the point holds before a write of the gateway's own. Nothing of this line comes in between.
pub(super) async fn before(desk: &Seat, job: &Job) -> Option<Value> {
    let (Work::Set(change), Cause::FailSafe { look: Look::First, .. }) = (&job.work, &job.cause) else { return None };
    let seated = desk.borrow().clone()?;
    match perform::get(&seated, &change.target).await {
        Outcome::Read(Ok(value)) => Some(value),
        _ => None,
    }
}
