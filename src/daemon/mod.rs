//! The one who knows everyone: builds channels and tasks from the [`Plant`] and starts and stops them in one order.
//! `run` and `demo` both go through [`Daemon::start`]. Values flow downstream, so the start begins at the end of the road
//! (spool, broker, bridges, publish, lines) and the stop at its beginning, and nothing that was polled is left on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker;
use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::broker::LocalSubscription;
use crate::command::Floor;
use crate::command::audit::Audit;
use crate::command::failsafe::Eyes;
use crate::config::Plant;
use crate::config::difference::Difference;
use crate::control;
use crate::control::server::ControlError;
use crate::daemon::beside::Beside;
use crate::daemon::lines::{Lines, Step};
use crate::daemon::memory::Memory;
use crate::daemon::reload::{Reloads, Setting};
use crate::daemon::site::{Site, Web};
use crate::daemon::upstreams::Upstreams;
use crate::daemon::windows::Views;
use crate::database::FileError;
use crate::message::Message;
use crate::publish;
use crate::spool;
use crate::spool::Spool;
use crate::spool::SpoolError;
use crate::spool::SpoolThread;
use crate::status::{Board, ConfigStatus, Parts};
use crate::supervise;
use crate::supervise::Panics;
use crate::web;
use crate::web::WebError;

mod audit;
mod beside;
mod clients;
mod commands;
mod desk;
mod failsafe;
mod file;
mod intake;
mod journal;
mod ledger;
mod lines;
mod memory;
mod modbus;
mod reload;
mod site;
mod stats;
mod upstreams;
mod watchdog;
mod windows;
mod wire_log;

pub use wire_log::LOG as WIRE_LOG;

/// Batches of samples between the lines and publish, and of device events. Full: the line waits, its schedule counts the
/// missed turns.
const SAMPLE_BATCHES: usize = 256;
/// From the first word to the last: what is not done by then is cut, but for the spool.
const GRACE: Duration = Duration::from_secs(8);
/// Of it, what a reload under way may take.
const RELOAD_GRACE: Duration = Duration::from_secs(3);
/// The spool commits its memory storey when it closes; a slow card may need this long.
const CLOSING: Duration = Duration::from_secs(20);

/// Where the control socket lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// At this path, or not at all: refused where it cannot be had.
    At(PathBuf),
    /// At the usual place; the gateway runs without it where that cannot be had.
    Usual,
}

/// What does not come from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The control socket.
    pub socket: Socket,
    /// Listen in on all that goes upstream, from before the first value, with room for so many messages.
    pub tap: Option<usize>,
    /// The file the plant was read from; without it there is nothing to reload.
    pub config: Option<PathBuf>,
}

/// Why the gateway does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No place for the databases.
    #[error(
        "the state directory {} cannot be used: {why}; make it writable for this user (`sudo install -d -o $USER {}`), \
         or name another by STATE_DIRECTORY",
        .path.display(), .path.display()
    )]
    State {
        /// Where.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The log.
    #[error("the spool cannot be opened: {0}")]
    Spool(#[from] SpoolError),
    /// The audit trail.
    #[error("the audit trail cannot be opened: {0}")]
    Audit(FileError),
    /// The users file.
    #[error("{0}")]
    Users(String),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The web server.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Starts the gateway.
#[derive(Debug)]
pub struct Daemon;

/// Who is told to stop, in this order. Each group has its token and its tracker.
#[derive(Debug, Default, Clone)]
struct Group {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Group {
    /// Tells the group to stop and waits for it, at most until `until`.
    async fn end(&self, name: &str, until: Instant) {
        tracing::debug!(group = name, "stops");
        self.stop.cancel();
        self.tasks.close();
        if timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::warn!(group = name, "did not end in time, is left behind");
        }
    }
}

#[derive(Debug, Default)]
struct Groups {
    /// Ends before what it might change; a reload that has begun is carried through.
    reload: Group,
    lines: Group,
    publish: Group,
    intake: Group,
    upstreams: Group,
    services: Group,
    /// Ends first, so that an owner's end in the course of the stop is no alarm.
    owners: Group,
}

/// The gateway at work.
#[derive(Debug)]
pub struct Running {
    board: Board,
    broker: Broker,
    spool: Spool,
    spool_thread: SpoolThread,
    audit: Audit,
    groups: Groups,
    fatal: mpsc::Receiver<String>,
    tap: Option<LocalSubscription>,
    ready: String,
    reloads: Reloads,
}

impl Daemon {
    /// Returns when listeners are bound and all tasks run; on an error nothing is left running.
    pub async fn start(plant: Plant, options: Options) -> Result<Running, StartError> {
        prepare_state_dir(&plant.state_dir)?;
        let control = bind_control(&options.socket)?;
        let left = journal::settle(&plant.state_dir);
        let web = match plant.web {
            Some(addr) => Some(web::Server::bind(addr).await?),
            None => None,
        };
        let beside = Beside::read(&plant).map_err(StartError::Users)?;
        let (spool, spool_thread) = spool::open(plant.spool.clone(), upstreams::subscribers(&plant))?;
        let opened = crate::command::audit::open(&plant.audit).map_err(StartError::Audit);
        let (audit, broker) = match opened.and_then(|audit| Ok((audit, start_broker(&plant, &beside)?))) {
            Ok(both) => both,
            Err(error) => {
                spool.close().await;
                return Err(error);
            }
        };
        let base = Base { groups: Groups::default(), panics: Panics::new(), broker, spool, audit };
        let (fatal, fatal_named) = mpsc::channel(1);
        watch_owners(&base, &fatal);
        let tap = match options.tap {
            Some(capacity) => Some(base.broker.subscribe("tap", intake::wanted(&plant), capacity).await),
            None => None,
        };
        let path = control.as_ref().map(|c| format!("; control socket {}", c.path().display())).unwrap_or_default();
        let ready = format!("{}{path}", describe(&plant, &base.broker));
        let (status, config) = watch::channel(ConfigStatus::default());
        let (mut site, asked) = build(&base, Arc::new(plant), beside, (&fatal, config)).await;
        if let Some(web) = web {
            site.web.begin(web, &site.board);
        }
        let board = site.board.clone();
        let (windows, forget) = (site.views.shown(), asked.forget);
        let modbus = modbus::verb(site.floors.subscribe(), &base.audit);
        let setting = Setting { file: options.config, ready: path, status, fatal: fatal.clone() };
        let (reloads, reloader) = reload::new(site, setting);
        let Group { stop, tasks } = &base.groups.reload;
        // It holds all live parts and the way back of a trial: nobody can make it anew.
        supervise::owner(tasks, &fatal, "reload", stop.clone(), reloader.run(left, stop.clone()));
        let services = &base.groups.services;
        if let Some(control) = control {
            let control = control.with(desk::verbs(&asked.accounts, &base.spool)).with(reload::verbs(&reloads));
            let control = control.with(clients::verbs(&base.broker)).with(vec![audit::verb(&base.audit), modbus]);
            services.tasks.spawn(control.run(board.clone(), windows, forget, services.stop.clone()));
        }
        let Base { groups, broker, spool, audit, .. } = base;
        Ok(Running { board, broker, spool, spool_thread, audit, groups, fatal: fatal_named, tap, ready, reloads })
    }
}

/// What does not depend on the lines and upstreams there are.
struct Base {
    groups: Groups,
    panics: Panics,
    broker: Broker,
    spool: Spool,
    audit: Audit,
}

/// What the control socket needs of those who were built.
struct ForControl {
    accounts: publish::Accounts,
    forget: control::Forget,
}

/// Builds what the plant names, from the end of the road to its beginning.
async fn build(
    base: &Base,
    plant: Arc<Plant>,
    beside: Beside,
    (fatal, config): (&mpsc::Sender<String>, watch::Receiver<ConfigStatus>),
) -> (Site, ForControl) {
    let Base { groups, panics, broker, spool, audit } = base;
    let all = Difference::between(&plant.nothing(), &plant);
    let plants = watch::Sender::new(Arc::clone(&plant));
    intake::start(groups, fatal, &plant, (broker, spool)).await;
    let to_local = broker.inlet_as(intake::NAME).await;
    let mut upstreams = Upstreams::new(&groups.upstreams, panics, &plant.gateway, spool, to_local);
    upstreams.begin(&plant);
    let memory = Memory::open(plants.subscribe());
    let lessons = memory.lessons.clone();
    let forget = memory::forget(lessons.clone(), plants.subscribe());
    memory.start(&groups.services, panics);
    let published = ledger::publish(groups, &plant, fatal, broker.inlet());
    let mut lines = Lines::new(&groups.lines, panics, plants.subscribe(), lessons, published.out);
    let leaving = lines.arrange(&plant);
    lines.change(leaving, &Step::new(&plant, &plant, &all)).await;
    let mut views = Views::new(&groups.services, panics);
    views.arrange(&plant.lines, &lines.desks());
    let eyes = Eyes { upstreams: upstreams.seen(), broker: broker.status(), lines: lines.seen() };
    let floors = watch::Sender::new(Floor { plant: Arc::clone(&plant), desks: lines.desks(), eyes });
    let links = commands::links(&groups.services, panics, &plant);
    let fail_safes = links.status.subscribe();
    let counts = watch::Sender::default();
    let commanded = counts.subscribe();
    let means = commands::Means { audit: audit.clone(), links, counts };
    commands::start(&groups.services, panics, broker, floors.subscribe(), means);
    let listed = watch::Sender::new(lines.seen());
    watchdog::start(
        &groups.services,
        watchdog::Workers { lines: listed.subscribe(), broker: broker.status(), spool: spool.status() },
    );
    let board = Board::new(Parts {
        gateway: plant.gateway.to_string(),
        lines: lines.seen(),
        publish: published.account,
        upstreams: upstreams.seen(),
        spool: spool.status(),
        audit: audit.status(),
        broker: broker.status(),
        commands: commanded,
        fail_safes,
        panics: panics.subscribe(),
        config,
    });
    let stats = stats::start(&groups.publish, plant.stats, &board, broker);
    let (renewals, accounts) = (published.renewals, published.accounts);
    let (stats, web) = ((groups.publish.clone(), stats), Web::new(&groups.services));
    let (broker, spool) = (broker.clone(), spool.clone());
    let site = Site {
        plant,
        beside,
        plants,
        lines,
        listed,
        floors,
        views,
        upstreams,
        renewals,
        spool,
        broker,
        board,
        stats,
        web,
    };
    (site, ForControl { accounts, forget })
}

impl Running {
    /// What is true now.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// The embedded broker.
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The subscription asked for in the options, once.
    pub const fn take_tap(&mut self) -> Option<LocalSubscription> {
        self.tap.take()
    }

    /// One sentence for the log and the service manager.
    pub fn ready(&self) -> String {
        self.ready.clone()
    }

    /// Reads the configuration anew and takes it over, if it is right; the log says what came of it.
    pub fn reload(&self) {
        self.reloads.reload();
    }

    /// Waits for the end of somebody the gateway cannot live without, and names it.
    pub async fn fatal(&mut self) -> String {
        match self.fatal.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Ends the polls and sends what they brought on its way; the rest goes on. The first step of [`Running::stop`].
    pub async fn stop_polling(&self) {
        let until = Instant::now() + GRACE;
        self.groups.owners.end("owners", until).await;
        // One that waits for a disk that hangs must not take the time of the others.
        self.groups.reload.end("reload", until.min(Instant::now() + RELOAD_GRACE)).await;
        self.groups.lines.end("lines", until).await;
        // The last line has dropped its end of the sample queue, so publish ends when it has read the rest.
        self.groups.publish.end("publish", until).await;
        drain(&self.broker.inlet(), until).await;
    }

    /// Stops in the order of the data's way, within a grace period. What is not acknowledged is on disk afterwards.
    pub async fn stop(self) {
        let until = Instant::now() + GRACE;
        self.stop_polling().await;
        self.broker.stop().await;
        // The subscription ends when the broker has; until then everything in it is taken over.
        self.groups.intake.end("intake", until).await;
        self.groups.upstreams.end("upstreams", until).await;
        self.groups.services.end("services", until).await;
        if timeout(CLOSING, self.audit.close()).await.is_err() {
            tracing::error!("the audit trail could not be closed in time: what waited for its disk may be lost");
        }
        if timeout(CLOSING, self.spool.close()).await.is_err() {
            tracing::error!("the spool could not be closed in time: what was in memory may be lost");
            return;
        }
        let joined = tokio::task::spawn_blocking(move || self.spool_thread.join().is_ok()).await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("the spool's thread ended by a panic");
        }
    }
}

/// Waits until the broker has taken everything out of its inlet: all places are free again.
async fn drain(inlet: &mpsc::Sender<Vec<Message>>, until: Instant) {
    let _ = timeout_at(until, inlet.reserve_many(inlet.max_capacity())).await;
}

fn prepare_state_dir(path: &Path) -> Result<(), StartError> {
    let fail = |why| StartError::State { path: path.to_owned(), why };
    std::fs::create_dir_all(path).map_err(fail)?;
    // Permission bits do not tell a read-only mount; trying does.
    let trial = path.join(".trunkline-writable");
    std::fs::write(&trial, b"").and_then(|()| std::fs::remove_file(&trial)).map_err(fail)
}

fn bind_control(socket: &Socket) -> Result<Option<control::Server>, StartError> {
    match socket {
        Socket::At(path) => Ok(Some(control::Server::bind(path)?)),
        Socket::Usual => match control::Server::bind(&control::listen_path()) {
            Ok(server) => Ok(Some(server)),
            Err(error @ ControlError::InUse(_)) => Err(error.into()),
            Err(error) => {
                tracing::warn!("no control socket, `trunkline status` will not work: {error}");
                Ok(None)
            }
        },
    }
}

fn start_broker(plant: &Plant, beside: &Beside) -> Result<Broker, StartError> {
    let users = beside.users.clone();
    let options = broker::Options { gateway: Arc::clone(&plant.gateway), state_dir: plant.state_dir.clone(), users };
    Ok(broker::start(plant.broker.clone(), options)?)
}

/// All live on threads of their own; that they are gone shows in that nobody writes their status.
fn watch_owners(base: &Base, fatal: &mpsc::Sender<String>) {
    let Base { groups: Groups { owners: group, .. }, broker, spool, audit, .. } = base;
    let stop = &group.stop;
    let until_stop = |name: &str, gone: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let token = stop.clone();
        supervise::owner(&group.tasks, fatal, name, stop.clone(), async move {
            token.run_until_cancelled(gone).await;
        });
    };
    until_stop("broker", Box::pin(supervise::gone(broker.status())));
    until_stop("spool", Box::pin(supervise::gone(spool.status())));
    until_stop("audit", Box::pin(supervise::gone(audit.status())));
}

fn describe(plant: &Plant, broker: &Broker) -> String {
    let listeners = broker.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let counts = [
        (plant.lines.len(), "line"),
        (plant.devices.len(), "device"),
        (plant.points.len(), "point"),
        (plant.upstreams.len(), "upstream"),
    ];
    let counts = counts.map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" })).join(", ");
    format!("gateway {} runs: {counts}; broker on {listeners}", plant.gateway)
}
