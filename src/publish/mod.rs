//! From samples to messages: what is worth telling ([`policy`]), under which topic, in which words ([`PublishTask`]).
//! Also tells which devices answer, and that the gateway itself is there.

pub mod policy;
mod task;

pub use task::PublishTask;

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::config::plant::{Device, Point};
use crate::message::Message;
use crate::poll::DeviceEvent;
use crate::sample::Sample;
use crate::status::PublishStatus;

/// The plant's part; what is needed of it is copied, once.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `{gateway}` in topics.
    pub gateway: &'a str,
    /// All devices.
    pub devices: &'a [Device],
    /// All points.
    pub points: &'a [Point],
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
