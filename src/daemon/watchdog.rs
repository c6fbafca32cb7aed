//! Feeds the service manager's watchdog from work that was really done: a line's poll task, the broker's and the spool's
//! owner each show theirs by writing their status. One that stands still for half the limit starves the watchdog.

use tokio::sync::watch;
use tokio::time::Instant;

use crate::daemon::Group;
use crate::status::{BrokerStatus, LineStatus, SpoolStatus};
use crate::systemd::Watchdog;

/// Who has to move.
pub(super) struct Workers<'a> {
    /// The lines.
    pub lines: &'a [watch::Receiver<LineStatus>],
    /// The broker's owner.
    pub broker: watch::Receiver<BrokerStatus>,
    /// The spool's owner.
    pub spool: watch::Receiver<SpoolStatus>,
}

/// Starts feeding, where the unit has a watchdog.
pub(super) fn start(group: &Group, workers: Workers<'_>) {
    let Some(watchdog) = Watchdog::from_env() else { return };
    let mut moments = vec![follow(group, workers.broker), follow(group, workers.spool)];
    moments.extend(workers.lines.iter().map(|line| follow(group, line.clone())));
    let (stop, limit) = (group.stop.clone(), watchdog.limit());
    group.tasks.spawn(async move {
        // The timer only looks; without movement it does not feed.
        while stop.run_until_cancelled(tokio::time::sleep(limit / 8)).await.is_some() {
            if moments.iter().all(|moment| moment.borrow().elapsed() < limit / 2) {
                watchdog.feed();
            }
        }
    });
}

/// When `status` was last written.
fn follow<T: Send + Sync + 'static>(group: &Group, mut status: watch::Receiver<T>) -> watch::Receiver<Instant> {
    let (moment, seen) = watch::channel(Instant::now());
    let stop = group.stop.clone();
    group.tasks.spawn(async move {
        while let Some(Ok(())) = stop.run_until_cancelled(status.changed()).await {
            moment.send_replace(Instant::now());
        }
    });
    seen
}
