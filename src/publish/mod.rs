//! From samples to messages: what is worth telling ([`policy`]), under which topic, in which words ([`PublishTask`]).
//! Also tells which devices answer, and that the gateway itself is there.

pub mod policy;
mod renewal;
mod task;

pub use renewal::Renewals;
pub use renewal::Round;
pub use task::PublishTask;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::config::plant::{Device, Point};
use crate::message::Message;
use crate::poll::DeviceEvent;
use crate::sample::Sample;
use crate::status::{Books, PublishStatus};

/// The plant's part; what is needed of it is copied, once.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `{gateway}` in topics.
    pub gateway: &'a str,
    /// All devices.
    pub devices: &'a [Device],
    /// All points.
    pub points: &'a [Arc<Point>],
}

/// The account and the task. When the sink is full the task waits, and behind it the polls.
pub fn new(
    parts: Parts<'_>,
    samples: mpsc::Receiver<Vec<Sample>>,
    events: mpsc::Receiver<DeviceEvent>,
    sink: mpsc::Sender<Vec<Message>>,
) -> (watch::Receiver<PublishStatus>, PublishTask) {
    PublishTask::new(parts, samples, events, sink)
}

/// Asks the task what became of each point's readings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Accounts(mpsc::Sender<oneshot::Sender<Books>>);

impl Accounts {
    /// The books as they stand; `None` when the task has ended.
    pub async fn ask(&self) -> Option<Books> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        answer.await.ok()
    }
}
