//! Waiting to the microsecond, on a timer of the kernel: tokio's own rounds up to whole milliseconds, which between two frames
//! at 115200 baud would cost a third of the line's time, and between two turns would make a period of 1 s waver by 2 ms.
//! Where a clock is paused, as in tests, only tokio's timer tells the time: [`Pause::default`] is that one.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::Itimerspec;
use rustix::time::TimerfdClockId;
use rustix::time::TimerfdFlags;
use rustix::time::TimerfdTimerFlags;
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A timer of its own for whoever waits often.
#[derive(Debug, Default)]
pub struct Pause {
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Pause {
    /// On a kernel timer; falls back to tokio's where there is none. To be called on a runtime.
    #[expect(deprecated, reason = "its replacement is unsafe for types that may close early; an OwnedFd does not")]
    pub fn precise() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).ok();
        Self { timer: timer.and_then(|t| AsyncFd::new(t).ok()) }
    }

    /// Returns not before `at`. May be dropped at any moment.
    pub async fn until(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match &self.timer {
            Some(timer) if sleep_on(timer, left).await.is_ok() => {}
            _ => tokio::time::sleep_until(at).await,
        }
    }
}

async fn sleep_on(timer: &AsyncFd<OwnedFd>, left: Duration) -> io::Result<()> {
    let secs = i64::try_from(left.as_secs()).map_err(io::Error::other)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: secs, tv_nsec: i64::from(left.subsec_nanos()) };
    let spec = Itimerspec { it_interval: zero, it_value: value };
    // Setting it anew also forgets that an earlier wait, dropped before its end, has come due meanwhile.
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec)?;
    loop {
        let mut guard = timer.readable().await?;
        match guard.try_io(|t| rustix::io::read(t.get_ref(), &mut [0u8; 8]).map_err(io::Error::from)) {
            Ok(done) => return done.map(|_| ()),
            Err(_not_yet) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_was_dropped_does_not_shorten_the_next() {
        let pause = Pause::precise();
        let begun = Instant::now();
        // Begun, so that the timer runs; dropped; and come due by itself before the next.
        tokio::select! {
            biased;
            () = pause.until(begun + Duration::from_millis(1)) => {}
            () = std::future::ready(()) => {}
        }
        while begun.elapsed() < Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        let at = Instant::now() + Duration::from_millis(20);
        pause.until(at).await;
        assert!(Instant::now() >= at, "came back early");
        pause.until(begun).await;
    }
}
