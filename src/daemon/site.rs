//! Everything that runs by the configuration, and how it becomes another without a hiccup: [`Site::take`] does what the
//! difference asks for and touches nothing else. What can fail (a port that is taken) comes first and is undone; after it
//! nothing can. The order keeps two promises: no reading is told under a meaning it was not taken under, and no entry of
//! the log is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::broker::Readmitted;
use crate::command::Floor;
use crate::command::failsafe::Eyes;
use crate::config::Plant;
use crate::config::difference::{Deed, Difference, Part};
use crate::config::plant::Spool as Limits;
use crate::daemon::Group;
use crate::daemon::beside::Beside;
use crate::daemon::intake;
use crate::daemon::lines::{Lines, Step};
use crate::daemon::stats;
use crate::daemon::upstreams;
use crate::daemon::upstreams::Upstreams;
use crate::daemon::windows::Views;
use crate::publish::{Renewals, Round};
use crate::spool::{Leaver, Spool};
use crate::status::{Board, LineStatus};
use crate::web;
use crate::web::WebError;

/// A web server that is asked to end answers who is being answered.
const WEB_ENDS: Duration = Duration::from_secs(2);

/// All live parts.
pub(super) struct Site {
    /// What runs; its numbers are those of the tasks.
    pub(super) plant: Arc<Plant>,
    pub(super) beside: Beside,
    pub(super) plants: watch::Sender<Arc<Plant>>,
    pub(super) lines: Lines,
    pub(super) listed: watch::Sender<Vec<watch::Receiver<LineStatus>>>,
    pub(super) floors: watch::Sender<Floor>,
    pub(super) views: Views,
    pub(super) upstreams: Upstreams,
    pub(super) renewals: Renewals,
    pub(super) spool: Spool,
    pub(super) broker: Broker,
    pub(super) board: Board,
    pub(super) stats: (Group, CancellationToken),
    pub(super) web: Web,
}

impl Site {
    /// Runs this plant from now on. On an error what ran before runs on.
    pub(super) async fn take(
        &mut self,
        new: Plant,
        beside: Beside,
        difference: &Difference,
        leaver: Leaver,
    ) -> Result<(), String> {
        self.admit(&new, &beside).await?;
        self.beside = beside;
        let new = Arc::new(new);
        let running = std::mem::replace(&mut self.plant, Arc::clone(&new));
        self.change_upstreams(&running, difference, leaver).await;
        self.change_lines(&running, difference).await;
        if listens_to_more(&running, &new, difference) {
            self.renewals.renew(&new, Round::TellAgain).await;
        }
        if difference.parts.contains(&Part::Stats) {
            self.stats.1.cancel();
            self.stats.1 = stats::start(&self.stats.0, new.stats, &self.board, &self.broker);
        }
        self.relist();
        Ok(())
    }

    /// What was kept for upstreams that are gone is let go: they will not come back.
    pub(super) async fn forget_leavers(&self) {
        self.spool.renew(self.plant.spool.clone(), upstreams::subscribers(&self.plant), Leaver::Dropped).await;
        self.broker.refilter(intake::NAME, intake::wanted(&self.plant)).await;
    }

    /// Who may come in, and where: by the listeners of the web server and of the broker. They alone can fail.
    async fn admit(&mut self, new: &Plant, beside: &Beside) -> Result<(), String> {
        self.web.change(self.plant.web, new.web, &self.board).await.map_err(|e| e.to_string())?;
        // Also where nothing has changed: certificates are read anew.
        match self.broker.readmit(&new.broker, beside.users.clone()).await {
            Ok(Readmitted { without_login: 0, without_right: 0, .. }) => Ok(()),
            Ok(Readmitted { without_login, without_right, staying }) => {
                tracing::info!(without_login, without_right, staying, "clients that may not stay were let go");
                Ok(())
            }
            Err(error) => {
                if let Err(again) = self.web.change(new.web, self.plant.web, &self.board).await {
                    tracing::error!("the web server cannot listen again where it did: {again}");
                }
                Err(error.to_string())
            }
        }
    }

    async fn change_upstreams(&mut self, running: &Plant, difference: &Difference, leaver: Leaver) {
        let new = &self.plant;
        if difference.upstreams.is_empty() && !difference.parts.contains(&Part::Spool) {
            // None begins by it, but their order, which is no difference, may be another: a fail-safe finds them by it.
            self.upstreams.begin(new);
            return;
        }
        self.upstreams.end(&difference.upstreams).await;
        // The log knows whom it takes in for before the broker hands over what only they want.
        let limits = match leaver {
            Leaver::Kept => limits_on_trial(&running.spool, &new.spool),
            Leaver::Dropped => new.spool.clone(),
        };
        self.spool.renew(limits, upstreams::subscribers(new), leaver).await;
        let mut filters = intake::wanted(new);
        if leaver == Leaver::Kept {
            filters.extend(intake::wanted(running));
        }
        self.broker.refilter(intake::NAME, filters).await;
        self.upstreams.begin(new);
    }

    async fn change_lines(&mut self, running: &Plant, difference: &Difference) {
        let new = &self.plant;
        self.plants.send_replace(Arc::clone(new));
        if !difference.lines.is_empty() {
            self.renewals.renew(new, Round::Add).await;
        }
        // Also where no line differs: their order, which is no difference, may be another.
        let leaving = self.lines.arrange(new);
        self.lines.vacate(&leaving, difference);
        // Commands that come now are about the new plant; those under way are refused where their point is another.
        self.floors.send_replace(self.floor());
        if difference.lines.is_empty() {
            return;
        }
        let step = Step::new(running, new, difference);
        self.lines.change(leaving, &step).await;
        self.renewals.renew(new, Round::Remove).await;
        self.views.arrange(&new.lines, &self.lines.desks());
        self.listed.send_replace(self.lines.seen());
    }

    fn floor(&self) -> Floor {
        let eyes = Eyes { upstreams: self.upstreams.seen(), broker: self.broker.status(), lines: self.lines.seen() };
        Floor { plant: Arc::clone(&self.plant), desks: self.lines.desks(), eyes }
    }

    fn relist(&self) {
        let (lines, upstreams) = (self.lines.seen(), self.upstreams.seen());
        self.board.relist(|parts| (parts.lines, parts.upstreams) = (lines, upstreams));
    }
}

/// What a smaller log drops no way back brings again: its limits hold when they are confirmed.
fn limits_on_trial(running: &Limits, new: &Limits) -> Limits {
    Limits { max_size: new.max_size.max(running.max_size), max_age: new.max_age.max(running.max_age), ..new.clone() }
}

/// Whether an upstream is to hear what it could not hear before: it is told how things stand, not only what changes.
fn listens_to_more(running: &Plant, new: &Plant, difference: &Difference) -> bool {
    let sends = |plant: &Plant, name: &str| plant.upstreams.iter().find(|u| *u.name == *name).map(|u| u.send.clone());
    let more = |(name, deed): &(Arc<str>, Deed)| match deed {
        Deed::Begin => true,
        Deed::Restart => sends(running, name) != sends(new, name),
        Deed::Refit | Deed::End => false,
    };
    difference.upstreams.iter().any(more)
}

/// The web server, where there is one.
pub(super) struct Web {
    tasks: TaskTracker,
    stop: CancellationToken,
    at_work: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Web {
    /// None yet.
    pub(super) fn new(group: &Group) -> Self {
        Self { tasks: group.tasks.clone(), stop: group.stop.clone(), at_work: None }
    }

    /// Begins to answer.
    pub(super) fn begin(&mut self, server: web::Server, board: &Board) {
        let stop = self.stop.child_token();
        let ended = self.tasks.spawn(server.run(board.clone(), stop.clone()));
        self.at_work = Some((stop, ended));
    }

    async fn end(&mut self) {
        let Some((stop, ended)) = self.at_work.take() else { return };
        stop.cancel();
        // Who has been answered for so long is left behind; the port is free at once.
        let _ = timeout(WEB_ENDS, ended).await;
    }

    /// Listens there from now on; on an error where it did.
    async fn change(
        &mut self,
        was: Option<SocketAddr>,
        now: Option<SocketAddr>,
        board: &Board,
    ) -> Result<(), WebError> {
        if was == now {
            return Ok(());
        }
        let Some(address) = now else {
            self.end().await;
            return Ok(());
        };
        let one_port = was.is_some_and(|was| was.port() == address.port());
        if one_port {
            self.end().await;
        }
        match web::Server::bind(address).await {
            Ok(server) => {
                self.end().await;
                self.begin(server, board);
                Ok(())
            }
            Err(error) => {
                if let (true, Some(was)) = (one_port, was) {
                    match web::Server::bind(was).await {
                        Ok(server) => self.begin(server, board),
                        Err(again) => tracing::error!("{again}"),
                    }
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config;

    #[test]
    fn on_trial_the_log_keeps_the_larger_of_both_limits() {
        let limits = |size: &str, age: &str| {
            let text = format!(
                "gateway: g\nlines: {{hall: {{tcp: '127.0.0.1:1'}}}}\ndevices: [{{name: d, line: hall, unit_id: 1, \
                 every: 1s, points: {{p: {{holding: 0}}}}}}]\nspool: {{max_size: {size}, max_age: {age}}}\n"
            );
            config::load_text("t.yaml", &text, std::path::Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant.spool
        };
        let want = limits("200MiB", "7d");
        assert_eq!(limits_on_trial(&limits("200MiB", "7d"), &limits("16MiB", "1d")), want);
        assert_eq!(limits_on_trial(&limits("16MiB", "1d"), &limits("200MiB", "7d")), want);
        assert_eq!(limits_on_trial(&limits("200MiB", "1d"), &limits("16MiB", "7d")), want);
    }
}
