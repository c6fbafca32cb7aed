//! Polling a line: what is due, in which reads, and what becomes of the answers.
//! [`plan`], [`schedule`], [`health`], [`wait`], [`learned`], [`forecast`] and the private agenda and turn decide and are pure;
//! [`PollTask`] acts, one a line.

mod agenda;
pub mod forecast;
pub mod health;
mod identity;
pub mod learned;
mod member;
mod overload;
pub mod plan;
pub mod schedule;
mod task;
mod turn;
pub mod wait;

pub use task::PollTask;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::bus::Bus;
use crate::config::plant::{Device, Line, Point};
use crate::point::{DeviceId, PointId};
use crate::poll::learned::Lessons;
use crate::sample::{Reason, Sample};
use crate::status::LineStatus;

/// One line's part of the plant.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The line.
    pub line: Line,
    /// The devices that hang on it.
    pub devices: Vec<Device>,
    /// Their points.
    pub points: Vec<Arc<Point>>,
    /// What is known of devices; what these teach is told there.
    pub lessons: Lessons,
}

/// What somebody wants of a line's polling, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// These points are read next, and told even if nothing has changed.
    Read(Vec<PointId>),
    /// The device is left alone, its points are bad, until it is resumed or the gateway starts again.
    Pause(DeviceId),
    /// It is polled again.
    Resume(DeviceId),
}

/// What hangs on a line from now on.
#[derive(Debug, Clone)]
pub struct Roster {
    /// The devices.
    pub devices: Vec<Device>,
    /// Their points.
    pub points: Vec<Arc<Point>>,
}

/// A roster on its way, and who waits until it is in force.
type Refit = (Roster, oneshot::Sender<()>);

/// Gives a line that goes on other devices and points, between two of its reads. Whatever stays as it was does not notice:
/// no turn is missed, and what is known of a device that only got other points is kept.
#[derive(Debug, Clone)]
pub struct Fitter(mpsc::Sender<Refit>);

impl Fitter {
    /// Whether both fit the same task.
    pub fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }

    /// True when the roster is in force; false when the task has ended before.
    pub async fn refit(&self, roster: Roster) -> bool {
        let (done, fitted) = oneshot::channel();
        self.0.send((roster, done)).await.is_ok() && fitted.await.is_ok()
    }
}

/// Orders that wait for the poll task; it takes them between two reads. Full: whoever orders waits.
const ORDERS: usize = 16;

/// A device began or ceased to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEvent {
    /// Which.
    pub device: DeviceId,
    /// Whether it answers now.
    pub online: bool,
    /// Why not; `None` when it does.
    pub reason: Option<Reason>,
    /// In a sentence, where a word does not say it.
    pub detail: Option<Arc<str>>,
}

impl DeviceEvent {
    /// It answers.
    pub const fn online(device: DeviceId) -> Self {
        Self { device, online: true, reason: None, detail: None }
    }

    /// It does not, or what it says is worth nothing.
    pub const fn offline(device: DeviceId, reason: Option<Reason>) -> Self {
        Self { device, online: false, reason, detail: None }
    }
}

/// A line's poll task and what is true of the line. Samples and events are waited for when their queues are full.
pub fn new(
    parts: Parts,
    bus: Bus,
    out: mpsc::Sender<Vec<Sample>>,
    events: mpsc::Sender<DeviceEvent>,
) -> (watch::Receiver<LineStatus>, PollTask) {
    PollTask::new(parts, bus, out, events)
}

#[cfg(test)]
mod tests;
