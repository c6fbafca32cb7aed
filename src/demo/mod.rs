//! The main job in one process: simulated devices on a paced wire, the gateway by the very path of `run`, a second broker as
//! the cloud behind a cable that is cut now and then, a view of it all, and an account at the end that has to come out.
//! Thin on purpose: what is shown is the gateway's own work, not the demo's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::broker::{Broker, BrokerError, LocalSubscription};
use crate::config::Plant;
use crate::daemon::{Daemon, Options, Running, Socket, StartError};
use crate::demo::scenery::Scenery;
use crate::demo::screen::Screen;
use crate::demo::summary::Summary;
use crate::demo::watcher::Watcher;

mod account;
mod scenery;
mod screen;
mod summary;
mod view;
mod watcher;

/// Waiting at the account's subscriptions: ten minutes of the demo's values. Full: the account says it is incomplete.
const CAPACITY: usize = 100_000;
/// A cut of ten seconds every minute, the first after half a minute.
const CUT_AT: u64 = 30;
const CUT_FOR: u64 = 10;
/// The end waits this long for the log to empty; after Ctrl-C people want their prompt.
const DRAIN: Duration = Duration::from_secs(15);
const DRAIN_HASTY: Duration = Duration::from_millis(1200);

/// How the demo is to run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The upstream stays up.
    pub steady: bool,
    /// Ends by itself after so long.
    pub duration: Option<Duration>,
    /// Port of the gateway's broker.
    pub broker_port: u16,
    /// Port of the stand-in cloud.
    pub cloud_port: u16,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The gateway's port.
    #[error("port {0} is taken by another program: stop it, or choose another with --broker-port")]
    BrokerPort(u16),
    /// The cloud's port.
    #[error("port {0} is taken by another program: stop it, or choose another with --cloud-port")]
    CloudPort(u16),
    /// The shipped configuration: a bug.
    #[error("the demo's own configuration is wrong, which is a bug:\n{0}")]
    Config(String),
    /// The gateway.
    #[error(transparent)]
    Start(StartError),
    /// The stand-in cloud.
    #[error("the stand-in cloud: {0}")]
    Cloud(BrokerError),
    /// The simulation.
    #[error("cannot simulate {0}: {1}")]
    Simulation(&'static str, io::Error),
    /// Ended by a bug.
    #[error("the {0} ended by a bug")]
    Died(String),
}

/// Runs the demo to its end; true when the account came out.
pub async fn run(settings: Settings) -> Result<bool, DemoError> {
    let mut stop = Stop::new().map_err(|e| DemoError::Simulation("an end by Ctrl-C", e))?;
    let home = TempHome::new().map_err(|e| DemoError::Simulation("a state directory", e))?;
    let mut plant = scenery::plant(&settings, &home.0)?;
    let scenery = Scenery::build(&settings, &mut plant).await?;
    let cloud_side = scenery.subscribe_cloud(CAPACITY).await;
    let options = Options { socket: Socket::At(home.0.join("control.sock")), tap: Some(CAPACITY), config: None };
    let mut running = Daemon::start(plant.clone(), options).await.map_err(|e| taken(e, settings.broker_port))?;
    let truth = running.take_tap().expect("was asked for");
    let mut show = Show {
        watcher: Watcher::new(&plant),
        sides: Sides { truth, cloud: cloud_side },
        screen: Screen::open(),
        began: Instant::now(),
        settings,
    };
    let ended = show.play(&mut running, &scenery, &mut stop).await;
    let lasted = show.began.elapsed();
    scenery.restore();
    let hasty = matches!(ended, Ended::Asked);
    show.drain(&running, if hasty { DRAIN_HASTY } else { DRAIN }).await;
    let summary = Summary {
        now: running.board().snapshot(),
        sum: show.watcher.account.sum(),
        own_states: show.watcher.own_states,
        missed: show.sides.truth.overrun() + show.sides.cloud.overrun(),
        lasted,
    };
    drop(show.screen);
    running.stop().await;
    scenery.stop().await;
    let _ = io::Write::write_fmt(&mut io::stdout().lock(), format_args!("{summary}"));
    match ended {
        Ended::Died(task) => Err(DemoError::Died(task)),
        Ended::Asked | Ended::Over => Ok(summary.adds_up()),
    }
}

fn taken(error: StartError, port: u16) -> DemoError {
    match error {
        StartError::Broker(BrokerError::Bind { .. }) => DemoError::BrokerPort(port),
        other => DemoError::Start(other),
    }
}

enum Ended {
    Asked,
    Over,
    Died(String),
}

/// What was given out here, and what arrived there.
struct Sides {
    truth: LocalSubscription,
    cloud: LocalSubscription,
}

struct Show {
    watcher: Watcher,
    sides: Sides,
    screen: Screen,
    began: Instant,
    settings: Settings,
}

enum Happened {
    Given(Vec<crate::message::Message>),
    Arrived(Vec<crate::message::Message>),
    Tick,
    Over,
    Asked,
    Died(String),
}

impl Show {
    async fn play(&mut self, running: &mut Running, scenery: &Scenery, stop: &mut Stop) -> Ended {
        let mut ticks = interval(self.screen.pace());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let over = self.began + self.settings.duration.unwrap_or_default();
        loop {
            let happened = tokio::select! {
                Some(batch) = self.sides.truth.recv() => Happened::Given(batch),
                Some(batch) = self.sides.cloud.recv() => Happened::Arrived(batch),
                _ = ticks.tick() => Happened::Tick,
                () = tokio::time::sleep_until(over), if self.settings.duration.is_some() => Happened::Over,
                () = stop.asked() => Happened::Asked,
                task = running.fatal() => Happened::Died(task),
            };
            match happened {
                Happened::Given(batch) => self.watcher.given(&batch),
                Happened::Arrived(batch) => self.watcher.arrived(&batch),
                Happened::Asked => return Ended::Asked,
                Happened::Died(task) => return Ended::Died(task),
                Happened::Over => return Ended::Over,
                Happened::Tick => self.show(running, scenery),
            }
        }
    }

    fn show(&mut self, running: &Running, scenery: &Scenery) {
        let elapsed = self.began.elapsed();
        let plan = if self.settings.steady { Cut::Never } else { Cut::at(elapsed) };
        scenery.cut(matches!(plan, Cut::Now { .. }));
        let mut scene = self.watcher.scene(running.board().snapshot(), elapsed);
        scene.total = self.settings.duration;
        scene.ports = (self.settings.broker_port, self.settings.cloud_port);
        (scene.cut_for, scene.next_cut) = match plan {
            Cut::Never => (None, None),
            Cut::Now { left } => (Some(left), None),
            Cut::Later { after } => (None, Some(after)),
        };
        self.screen.show(&scene);
    }

    /// No more polls; waits until the cloud has everything, or the time is over.
    async fn drain(&mut self, running: &Running, patience: Duration) {
        let until = Instant::now() + patience;
        running.stop_polling().await;
        let mut board = interval(Duration::from_millis(50));
        loop {
            let step = async {
                tokio::select! {
                    Some(batch) = self.sides.truth.recv() => self.watcher.given(&batch),
                    Some(batch) = self.sides.cloud.recv() => self.watcher.arrived(&batch),
                    _ = board.tick() => {}
                }
            };
            if timeout_at(until, step).await.is_err() {
                return;
            }
            let now = running.board().snapshot();
            let sum = self.watcher.account.sum();
            let to_send = sum.given + self.watcher.own_states;
            // What the spool says of what waits is a commit interval old; the account is not.
            let is_sent = now.upstreams.iter().all(|u| u.acknowledged >= to_send);
            if is_sent && sum.lost == 0 && sum.strange == 0 {
                return;
            }
        }
    }
}

/// Where in its minute the demo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never,
    Now { left: Duration },
    Later { after: Duration },
}

impl Cut {
    fn at(elapsed: Duration) -> Self {
        let (cut, minute) = (Duration::from_secs(CUT_AT), Duration::from_secs(60));
        let mended = cut + Duration::from_secs(CUT_FOR);
        let place = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(0) % 60_000);
        if place < cut {
            Self::Later { after: cut - place }
        } else if place < mended {
            Self::Now { left: mended - place }
        } else {
            Self::Later { after: minute + cut - place }
        }
    }
}

/// Ctrl-C or SIGTERM.
struct Stop {
    int: Signal,
    term: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// A state directory that is gone afterwards.
struct TempHome(PathBuf);

impl TempHome {
    fn new() -> io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("trunkline-demo-{}-{:08x}", std::process::id(), crate::time::boot_id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempHome {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_is_cut_for_ten_seconds_every_minute() {
        let s = Duration::from_secs;
        assert_eq!(Cut::at(s(0)), Cut::Later { after: s(30) });
        assert_eq!(Cut::at(s(30)), Cut::Now { left: s(10) });
        assert_eq!(Cut::at(s(40)), Cut::Later { after: s(50) });
        assert_eq!(Cut::at(s(95)), Cut::Now { left: s(5) });
    }
}
