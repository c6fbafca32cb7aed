//! What the service manager is told: READY, RELOADING, STATUS, WATCHDOG, STOPPING. Does nothing where nobody asked.
//! The watchdog is fed by work that was really done, not by a timer: whoever sees the work feeds [`Watchdog`].

use std::time::Duration;

use sd_notify::NotifyState;

/// Lines and listeners are up.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Another configuration is being taken; [`ready`] says that it is in force, or that the one before still is.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the service manager of a reload"),
    }
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

/// The service manager's watchdog.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    limit: Duration,
}

impl Watchdog {
    /// `None` when the unit has no `WatchdogSec`.
    pub fn from_env() -> Option<Self> {
        sd_notify::watchdog_enabled().map(|limit| Self { limit })
    }

    /// Without food for this long the service manager kills and restarts the process.
    pub const fn limit(self) -> Duration {
        self.limit
    }

    /// All who have work have done some.
    pub fn feed(self) {
        tell(&[NotifyState::Watchdog]);
    }
}
