//! One supervised bridge an upstream. The board reads a channel that outlives the bridge when that is made anew, after a bug
//! or in a reload.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bridge;
use crate::config::Plant;
use crate::config::difference::Deed;
use crate::config::plant::Upstream;
use crate::daemon::Group;
use crate::message::Message;
use crate::spool::Spool;
use crate::spool::Subscriber;
use crate::status::UpstreamStatus;
use crate::supervise;
use crate::supervise::Panics;

/// A bridge says goodbye within a second.
const GOODBYE: Duration = Duration::from_secs(5);

/// All bridges at work.
pub(super) struct Upstreams {
    group: (tokio_util::task::TaskTracker, CancellationToken),
    panics: Panics,
    gateway: Arc<str>,
    spool: Spool,
    to_local: mpsc::Sender<Vec<Message>>,
    /// In order of the plant.
    all: Vec<Place>,
}

struct Place {
    name: Arc<str>,
    board: watch::Sender<UpstreamStatus>,
    stop: CancellationToken,
    ended: Option<JoinHandle<()>>,
}

impl Upstreams {
    /// None yet.
    pub(super) fn new(
        group: &Group,
        panics: &Panics,
        gateway: &Arc<str>,
        spool: &Spool,
        to_local: mpsc::Sender<Vec<Message>>,
    ) -> Self {
        let group = (group.tasks.clone(), group.stop.clone());
        Self {
            group,
            panics: panics.clone(),
            gateway: Arc::clone(gateway),
            spool: spool.clone(),
            to_local,
            all: Vec::new(),
        }
    }

    /// How each stands, in order of the plant.
    pub(super) fn seen(&self) -> Vec<watch::Receiver<UpstreamStatus>> {
        self.all.iter().map(|place| place.board.subscribe()).collect()
    }

    /// Ends the bridges that go or change, so that nobody reads the log in their name any more.
    pub(super) async fn end(&mut self, deeds: &[(Arc<str>, Deed)]) {
        let concerned = |name: &str| deeds.iter().any(|(n, _)| **n == *name);
        for place in self.all.iter().filter(|place| concerned(&place.name)) {
            place.stop.cancel();
        }
        for place in self.all.iter_mut().filter(|place| concerned(&place.name)) {
            let Some(ended) = place.ended.take() else { continue };
            if timeout(GOODBYE, ended).await.is_err() {
                tracing::warn!(upstream = %place.name, "its bridge did not end in time, is left behind");
            }
        }
    }

    /// Begins a bridge for each upstream that has none.
    pub(super) fn begin(&mut self, plant: &Plant) {
        let mut before: Vec<Option<Place>> = self.all.drain(..).map(Some).collect();
        for upstream in &plant.upstreams {
            let known = before.iter().position(|p| p.as_ref().is_some_and(|p| p.name == upstream.name));
            let known = known.and_then(|at| before[at].take());
            let place = match known {
                Some(place) if place.ended.is_some() => place,
                Some(place) => self.bridge(upstream, place.board),
                None => {
                    let first = UpstreamStatus { name: upstream.name.to_string(), ..UpstreamStatus::default() };
                    self.bridge(upstream, watch::Sender::new(first))
                }
            };
            self.all.push(place);
        }
    }

    fn bridge(&self, upstream: &Upstream, board: watch::Sender<UpstreamStatus>) -> Place {
        let (settings, gateway, name) =
            (upstream.clone(), Arc::clone(&self.gateway), format!("upstream {}", upstream.name));
        let (spool, to_local, stop) = (self.spool.clone(), self.to_local.clone(), self.group.1.child_token());
        let (shown, token) = (board.clone(), stop.clone());
        let ended = supervise::leaf(&self.group.0, &self.panics, &name, stop.clone(), move || {
            let (status, task) = bridge::new(settings.clone(), &gateway, spool.clone(), to_local.clone());
            supervise::mirrored(status, shown.clone(), task.run(token.clone()))
        });
        Place { name: Arc::clone(&upstream.name), board, stop, ended: Some(ended) }
    }
}

/// What the log is read by.
pub(super) fn subscribers(plant: &Plant) -> Vec<Subscriber> {
    let of = |u: &Upstream| Subscriber {
        name: Arc::clone(&u.name),
        filters: u.send.iter().map(|m| m.filter.clone()).collect(),
    };
    plant.upstreams.iter().map(of).collect()
}
