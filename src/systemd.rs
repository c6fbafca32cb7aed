//! What the service manager is told: READY, STATUS, WATCHDOG, STOPPING. Does nothing where nobody asked.
//! The watchdog is fed by work that was really done, not by a timer: whoever owns the work says so through [`Watchdog`].

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Lines and listeners are up.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The stop has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// True under journald, which stamps each line itself.
pub fn journal_reads_us() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Feeds the service manager's watchdog while there is work to show.
#[derive(Debug)]
pub struct Watchdog {
    every: Duration,
    fed: Instant,
}

impl Watchdog {
    /// `None` when the unit has no `WatchdogSec`.
    pub fn from_env() -> Option<Self> {
        let limit = sd_notify::watchdog_enabled()?;
        // Twice within the limit, as sd_watchdog_enabled(3) advises, and not at each of a thousand polls a second.
        Some(Self { every: limit / 2, fed: Instant::now() })
    }

    /// How long a pause in the work may at most be looked at: half the limit.
    pub const fn every(&self) -> Duration {
        self.every
    }

    /// Some work was done just now.
    pub fn worked(&mut self) {
        if self.fed.elapsed() >= self.every / 2 {
            tell(&[NotifyState::Watchdog]);
            self.fed = Instant::now();
        }
    }
}
