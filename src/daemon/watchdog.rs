//! Feeds the service manager's watchdog from work that was really done: a line's poll task, the broker's and the spool's
//! owner each show theirs by writing their status. One that stands still for half the limit starves the watchdog. Which
//! lines there are, a reload may change.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::daemon::Group;
use crate::status::{BrokerStatus, LineStatus, SpoolStatus};
use crate::systemd::Watchdog;

/// The lines, as they are now.
pub(super) type Listed = watch::Receiver<Vec<watch::Receiver<LineStatus>>>;

/// Who has to move.
pub(super) struct Workers {
    /// The lines.
    pub lines: Listed,
    /// The broker's owner.
    pub broker: watch::Receiver<BrokerStatus>,
    /// The spool's owner.
    pub spool: watch::Receiver<SpoolStatus>,
}

/// Starts feeding, where the unit has a watchdog.
pub(super) fn start(group: &Group, workers: Workers) {
    let Some(watchdog) = Watchdog::from_env() else { return };
    let Workers { mut lines, broker, spool } = workers;
    let (mut broker, mut spool) = (Follow::new(broker), Follow::new(spool));
    let (stop, limit) = (group.stop.clone(), watchdog.limit());
    let mut each = listed(&mut lines);
    group.tasks.spawn(async move {
        // The timer only looks; without movement it does not feed.
        while stop.run_until_cancelled(tokio::time::sleep(limit / 8)).await.is_some() {
            if lines.has_changed().unwrap_or(false) {
                each = listed(&mut lines);
            }
            // All are looked at each time: a look notes who has moved.
            let mut still: Vec<bool> = each.iter_mut().map(|line| line.stands_still(limit / 2)).collect();
            still.extend([broker.stands_still(limit / 2), spool.stands_still(limit / 2)]);
            if !still.contains(&true) {
                watchdog.feed();
            }
        }
    });
}

fn listed(lines: &mut Listed) -> Vec<Follow<LineStatus>> {
    lines.borrow_and_update().iter().cloned().map(Follow::new).collect()
}

/// When a status was last seen to have been written.
struct Follow<T> {
    status: watch::Receiver<T>,
    moment: Instant,
}

impl<T> Follow<T> {
    fn new(mut status: watch::Receiver<T>) -> Self {
        status.mark_unchanged();
        Self { status, moment: Instant::now() }
    }

    fn stands_still(&mut self, limit: Duration) -> bool {
        if self.status.has_changed().unwrap_or(false) {
            self.status.mark_unchanged();
            self.moment = Instant::now();
        }
        self.moment.elapsed() >= limit
    }
}
