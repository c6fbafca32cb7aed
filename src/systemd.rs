//! What the service manager is told: READY, RELOADING, STATUS, WATCHDOG, STOPPING. Does nothing where nobody asked.
//! The watchdog is fed by work that was really done, not by a timer: whoever sees the work feeds [`Watchdog`].

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

/// What [`ready`] said last; locked for moments.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Lines and listeners are up.
pub fn ready(status: &str) {
    status.clone_into(&mut SAID.lock().unwrap_or_else(PoisonError::into_inner));
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Something is wrong while the gateway runs: shown by `systemctl status` until [`well`] or [`ready`].
pub fn trouble(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It is right again: what [`ready`] said last holds.
pub fn well() {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tell(&[NotifyState::Status(&said)]);
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

/// True where the journal reads our standard error. A shell inside a service has inherited the variable, but not the stream.
pub fn journal_reads_us() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let end = std::io::stderr().as_fd().try_clone_to_owned().and_then(|end| File::from(end).metadata());
    end.is_ok_and(|end| is_stream(&stream, (end.dev(), end.ino())))
}

/// systemd.exec(5): device and inode in decimals with a colon between.
fn is_stream(named: &str, (device, inode): (u64, u64)) -> bool {
    named == format!("{device}:{inode}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_journals_only_by_device_and_inode() {
        assert!(is_stream("9:123456", (9, 123_456)));
        assert!(!is_stream("9:123456", (9, 123_457)) && !is_stream("9", (9, 0)) && !is_stream("", (0, 0)));
    }
}
