//! The one place that reads the wall clock.
//! A stamp carries both clocks: the monotonic one orders and measures, the wall clock is for people and may
//! be wrong until the network has set it. Everything else in the house takes `now` as an argument.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// When something happened, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Microseconds since this process began, monotonic. Comparable within one [`boot_id`] only.
    pub mono_us: u64,
    /// Microseconds since 1970 UTC by the wall clock, as it stood at that moment.
    pub wall_us: i64,
}

impl Stamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-21T01:02:03.456Z`.
    pub fn rfc3339(self) -> String {
        rfc3339_millis(self.wall_us)
    }
}

/// Both clocks now. Both follow tokio's paused clock in tests.
pub fn now() -> Stamp {
    stamp_of(Instant::now())
}

/// The stamp of a moment of this process that was taken as an `Instant`.
pub fn stamp_of(at: Instant) -> Stamp {
    let age = Instant::now().saturating_duration_since(at);
    let wall = wall_us() - i64::try_from(age.as_micros()).unwrap_or(0);
    let mono = at.saturating_duration_since(anchor());
    Stamp { mono_us: u64::try_from(mono.as_micros()).unwrap_or(u64::MAX), wall_us: wall }
}

/// Microseconds since this process began: what the monotonic half of a stamp holds, for half the price.
pub fn mono_us() -> u64 {
    u64::try_from(uptime().as_micros()).unwrap_or(u64::MAX)
}

/// The stamp of a moment of this process that was kept as [`mono_us`]; its wall time is reckoned back from now, so that what
/// happened before the clock was set is shown right afterwards.
pub fn stamp_of_mono(mono_us: u64) -> Stamp {
    let now = now();
    let age = i64::try_from(now.mono_us.saturating_sub(mono_us)).unwrap_or(0);
    Stamp { mono_us, wall_us: now.wall_us - age }
}

/// A random number that names this run of the process: monotonic stamps of different boots are not comparable.
pub fn boot_id() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| getrandom::u64().unwrap_or_else(|_| wall_us().unsigned_abs()))
}

/// RFC 3339 in UTC with milliseconds of a wall time in microseconds since 1970.
pub fn rfc3339_millis(wall_us: i64) -> String {
    match jiff::Timestamp::from_microsecond(wall_us) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// RFC 3339 in UTC with microseconds: `2026-11-21T01:02:03.456789Z`.
pub fn rfc3339_micros(wall_us: i64) -> String {
    match jiff::Timestamp::from_microsecond(wall_us) {
        Ok(t) => format!("{t:.6}"),
        Err(_) => "1970-01-01T00:00:00.000000Z".to_owned(),
    }
}

/// The time of day in the system's zone with microseconds: `01:02:03.456789`.
pub fn clock_micros(wall_us: i64) -> String {
    match jiff::Timestamp::from_microsecond(wall_us) {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S.%6f").to_string(),
        Err(_) => "00:00:00.000000".to_owned(),
    }
}

/// How long the process has been running.
pub fn uptime() -> Duration {
    Instant::now().saturating_duration_since(anchor())
}

fn anchor() -> Instant {
    static ANCHOR: OnceLock<Instant> = OnceLock::new();
    *ANCHOR.get_or_init(Instant::now)
}

/// Under a paused clock the wall clock stands still with it, so that a test can wait for a wall time. The next runtime of the
/// same test may begin before the moment to which the first one had advanced.
#[cfg(test)]
fn wall_us() -> i64 {
    static FIRST: OnceLock<(Instant, i64)> = OnceLock::new();
    let now = Instant::now();
    let (first, wall_us) = FIRST.get_or_init(|| (now, read_wall_us()));
    let span = |from: Instant, to: Instant| i64::try_from((to - from).as_micros()).unwrap_or(i64::MAX);
    let wall_us = if now < *first { wall_us - span(now, *first) } else { wall_us + span(*first, now) };
    wall_us + SET_BY.get()
}

#[cfg(test)]
thread_local! {
    /// How far this thread's wall clock has been set, of a test that shows that nobody minds.
    static SET_BY: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// Sets the wall clock of this thread to microseconds since 1970, as somebody with the right to could at any moment.
#[cfg(test)]
pub(crate) fn set_wall(wall_us: i64) {
    SET_BY.set(SET_BY.get() + wall_us - now().wall_us);
}

#[cfg(not(test))]
fn wall_us() -> i64 {
    read_wall_us()
}

fn read_wall_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_micros()).unwrap_or(i64::MAX),
        Err(e) => -i64::try_from(e.duration().as_micros()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_prints_milliseconds_in_utc() {
        assert_eq!(rfc3339_millis(1_795_222_923_456_789), "2026-11-21T01:02:03.456Z");
        assert_eq!(rfc3339_micros(1_795_222_923_456_789), "2026-11-21T01:02:03.456789Z");
    }

    #[test]
    fn a_moment_kept_by_the_monotonic_clock_finds_its_wall_time() {
        let before = now();
        let again = stamp_of_mono(before.mono_us);
        assert_eq!(again.mono_us, before.mono_us);
        assert!((again.wall_us - before.wall_us).abs() < 1_000_000, "{again:?} {before:?}");
    }
}
