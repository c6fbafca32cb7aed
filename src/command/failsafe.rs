//! What is done where a commander is gone: [`guard`] decides for one point (pure), [`task`] looks who is there and hands the
//! writes to the command task, which does them as it does commands. It is no safety function: the gateway may be off.

mod guard;
mod note;
mod task;
mod told;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::command::answer::Outcome;
use crate::point::PointId;
use crate::sample::Value;

pub use note::Note;
pub use task::Eyes;
pub use task::FailSafeTask;
pub use task::Links;
pub use task::new;

/// Writes on their way to the command task, and news on their way back. A write is ordered only where there is room for it, so
/// that the fail-safe task never waits for the command task, which may wait for it: it is always there to take news.
const WAITING: usize = 64;

/// By which the end of a write is known to be that write's.
pub(super) type Ticket = u64;

/// A write of the gateway's own, to be done as commands are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) point: PointId,
    pub(super) value: Value,
    pub(super) look: Look,
    /// Who is gone or back, in words.
    pub(super) who: Arc<str>,
    pub(super) ticket: Ticket,
}

/// Whether it is to be known what the point holds before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    First,
    No,
}

/// What happened to a point that has a fail-safe, in the order in which it happened on its line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    /// This is what the point holds, right before a write of ours: to be noted as soon as the disk takes it.
    Looked(PointId, Value),
    /// A write of ours has ended; with what the point held before, where that was looked up.
    Own(PointId, Ticket, End, Option<Value>),
    /// Somebody else's has.
    Commanded(PointId, Commanded),
}

/// How a write of ours ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The device has confirmed it.
    Written,
    /// It may have reached the device.
    Failed(String),
    /// It has not.
    NotDone(String),
}

/// How a command ended that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commanded {
    /// The device holds what was commanded.
    Done,
    /// Nobody knows what the device holds.
    Unknown,
}

impl End {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match (outcome, outcome.reason()) {
            (Outcome::Refused(_) | Outcome::Later(_), Some(reason)) => Self::NotDone(reason),
            (_, Some(reason)) => Self::Failed(reason),
            (_, None) => Self::Written,
        }
    }
}

impl Commanded {
    /// `None` where nothing was tried.
    pub(super) const fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Written { .. } => Some(Self::Done),
            Outcome::Failed(_) | Outcome::Differs(_) => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// The command task's end: what it is to write, and whom it tells.
#[derive(Debug)]
pub struct Door {
    pub(super) orders: mpsc::Receiver<Own>,
    pub(super) teller: Teller,
}

/// Tells what became of writes to the points that have a fail-safe.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    news: mpsc::Sender<News>,
    /// Sorted; a reload sends others.
    points: watch::Receiver<Arc<[PointId]>>,
}

impl Teller {
    /// Says it, if the point has a fail-safe.
    pub(super) async fn tell(&self, point: PointId, news: News) {
        // Both tasks end together; whoever is left has nobody to tell.
        let is_minded = self.points.borrow().binary_search(&point).is_ok();
        if is_minded && self.news.send(news).await.is_err() {
            tracing::debug!("nobody minds fail-safes any more");
        }
    }
}

/// The fail-safe task's end.
#[derive(Debug)]
struct Desk {
    orders: mpsc::Sender<Own>,
    news: mpsc::Receiver<News>,
    points: watch::Sender<Arc<[PointId]>>,
}

impl Desk {
    /// News of these points are wanted.
    fn mind(&self, points: impl Iterator<Item = PointId>) {
        let mut points: Vec<PointId> = points.collect();
        points.sort_unstable();
        self.points.send_replace(points.into());
    }
}

fn joined() -> (Door, Desk) {
    let (orders, ordered) = mpsc::channel(WAITING);
    let (news, heard) = mpsc::channel(WAITING);
    let (points, minded) = watch::channel(Arc::default());
    (Door { orders: ordered, teller: Teller { news, points: minded } }, Desk { orders, news: heard, points })
}
