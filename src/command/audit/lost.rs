//! Entries that the trail has lost, because more came than can wait for a disk that hangs or refuses. Counted where they
//! are lost, so that the status says so while the disk still hangs; warned of now and then; and told in the trail itself, by
//! an entry of its own, as soon as that is written again.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::command::audit::entry::Cause;
use crate::command::audit::entry::Draft;
use crate::status::AuditStatus;
use crate::time;

/// Between two warnings: the sum is in each of them.
const WARN: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    /// The sum is what the status says. Weak: the status ends with the thread, by which its end is noticed.
    status: Weak<watch::Sender<AuditStatus>>,
    /// Held for a moment.
    warned: Arc<Mutex<Option<Instant>>>,
}

impl Lost {
    pub(super) fn new(status: &Arc<watch::Sender<AuditStatus>>) -> Self {
        Self { status: Arc::downgrade(status), warned: Arc::default() }
    }

    /// One more.
    pub(super) fn count(&self) {
        let Some(status) = self.status.upgrade() else { return };
        status.send_modify(|status| {
            status.lost += 1;
            status.last_lost_uptime_s = Some(time::uptime().as_secs());
        });
        let (now, lost) = (Instant::now(), status.borrow().lost);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN) {
            *warned = Some(now);
            tracing::warn!(lost, "audit: entries are lost, more come than can wait for the disk");
        }
    }
}

/// What the trail says of them.
pub(super) fn told(entries: u64) -> (Draft, String) {
    let reason =
        format!("{entries} entries before this, or their outcomes, were lost: more came than could wait for the disk");
    let outcome = serde_json::json!({ "result": "lost", "entries": entries, "reason": reason });
    (Draft { cause: Cause::Gap, ..Draft::default() }, outcome.to_string())
}
