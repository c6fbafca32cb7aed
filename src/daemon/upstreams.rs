//! One supervised bridge an upstream. The board reads a channel that outlives the bridge when that is made anew.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::bridge;
use crate::config::Plant;
use crate::daemon::Group;
use crate::message::Message;
use crate::spool::Spool;
use crate::status::UpstreamStatus;
use crate::supervise;
use crate::supervise::Panics;

/// Starts a bridge for each upstream; gives their status, in order.
pub(super) fn start(
    group: &Group,
    panics: &Panics,
    plant: &Plant,
    spool: &Spool,
    to_local: &mpsc::Sender<Vec<Message>>,
) -> Vec<watch::Receiver<UpstreamStatus>> {
    let one = |upstream: &crate::config::plant::Upstream| {
        let first = UpstreamStatus { name: upstream.name.to_string(), ..UpstreamStatus::default() };
        let board = watch::Sender::new(first);
        let seen = board.subscribe();
        let (settings, gateway) = (upstream.clone(), Arc::clone(&plant.gateway));
        let (spool, to_local, stop) = (spool.clone(), to_local.clone(), group.stop.clone());
        let name = format!("upstream {}", upstream.name);
        supervise::leaf(&group.tasks, panics, &name, stop.clone(), move || {
            let (status, task) = bridge::new(settings.clone(), &gateway, spool.clone(), to_local.clone());
            supervise::mirrored(status, board.clone(), task.run(stop.clone()))
        });
        seen
    };
    plant.upstreams.iter().map(one).collect()
}
