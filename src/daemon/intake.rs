//! From the broker into the log: one subscription for all that any upstream wants. The spool never makes it wait.

use std::collections::HashSet;

use futures_util::FutureExt;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::broker::LocalSubscription;
use crate::config::Plant;
use crate::daemon::Groups;
use crate::spool::Spool;
use crate::supervise;
use crate::topic::{Qos, TopicFilter};

/// The subscription's name. What comes from upstream is published under it too, and so does not go back up.
pub(super) const NAME: &str = "$upstream";

/// Messages between the broker and the log: twenty seconds of the largest site, in case this task does not get its turn.
/// Full: the newest is dropped and counted.
const CAPACITY: usize = 100_000;

/// Subscribes and starts taking over. Ends when the broker has stopped and everything was taken. Where no upstream wants
/// anything, a reload may bring one that does.
pub(super) async fn start(
    groups: &Groups,
    fatal: &mpsc::Sender<String>,
    plant: &Plant,
    (broker, spool): (&Broker, &Spool),
) {
    let mut inbox = broker.subscribe(NAME, wanted(plant), CAPACITY).await;
    // What the broker retained from earlier runs is old, and was sent when it was new.
    let _ = inbox.recv().now_or_never();
    let (spool, stop) = (spool.clone(), groups.owners.stop.clone());
    // Nobody else takes values into the log: without it they would be lost and no one told.
    supervise::owner(&groups.intake.tasks, fatal, "intake", stop.clone(), async move {
        take_over(inbox, spool).await;
        // Where the broker has ended before it was told, its owner says so.
        stop.cancelled().await;
    });
}

/// What any upstream wants, each filter once.
pub(super) fn wanted(plant: &Plant) -> Vec<(TopicFilter, Qos)> {
    let filters: HashSet<_> = plant.upstreams.iter().flat_map(|u| &u.send).map(|m| m.filter.clone()).collect();
    filters.into_iter().map(|f| (f, Qos::ExactlyOnce)).collect()
}

async fn take_over(mut inbox: LocalSubscription, spool: Spool) {
    let mut overrun = 0;
    while let Some(batch) = inbox.recv().await {
        spool.append(batch).await;
        let now = inbox.overrun();
        if now > overrun {
            spool.count_overrun(now - overrun);
            tracing::error!(lost = now - overrun, "values lost: the queue before the spool was full");
            overrun = now;
        }
    }
}
