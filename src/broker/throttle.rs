//! Who comes too often: addresses whose logins failed take turns, each failure doubling the time between two tries; a
//! listener takes in only so many connections a second; a client is read only so fast. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

/// Between two tries after the first failure; doubles with each, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// A password is guessed at most so often, a site that shares an address waits at most so long.
const LONGEST: Duration = Duration::from_secs(60);
/// Without a failure for so long an address is as good as new.
const FORGIVEN: Duration = Duration::from_secs(600);
/// Addresses remembered; beyond, the one that has been quiet for longest is forgotten.
const ADDRESSES: usize = 1024;

/// New connections a listener takes at once …
const BURST: u32 = 200;
/// … and so many more a second; the rest waits in the system's backlog.
const PER_SECOND: u32 = 100;

/// Failed logins by address.
#[derive(Debug, Default)]
pub struct Failures(HashMap<IpAddr, Failed>);

#[derive(Debug)]
struct Failed {
    count: u32,
    last: Instant,
    /// When the next try may be made.
    free: Instant,
}

impl Failures {
    /// How long a try from there must wait; its turn is taken with this.
    pub fn turn(&mut self, address: IpAddr, now: Instant) -> Duration {
        let Some(failed) = self.0.get_mut(&address) else { return Duration::ZERO };
        if now.saturating_duration_since(failed.last) > FORGIVEN {
            self.0.remove(&address);
            return Duration::ZERO;
        }
        let turn = failed.free.max(now);
        failed.free = turn + pause(failed.count);
        turn.saturating_duration_since(now)
    }

    /// A login from there failed.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&address) {
            let quiet = self.0.iter().min_by_key(|(_, failed)| failed.last).map(|(address, _)| *address);
            quiet.map(|quiet| self.0.remove(&quiet));
        }
        let failed = self.0.entry(address).or_insert(Failed { count: 0, last: now, free: now });
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
        failed.free = failed.free.max(now + pause(failed.count));
    }

    /// A login from there was right.
    pub fn forgive(&mut self, address: IpAddr) {
        self.0.remove(&address);
    }
}

fn pause(count: u32) -> Duration {
    FIRST.saturating_mul(1 << count.saturating_sub(1).min(10)).min(LONGEST)
}

/// New connections of one listener.
#[derive(Debug)]
pub struct Arrivals {
    left: u32,
    counted: Instant,
}

impl Arrivals {
    /// From now on.
    pub const fn new(now: Instant) -> Self {
        Self { left: BURST, counted: now }
    }

    /// One more came: how long to wait before the next is taken.
    pub fn another(&mut self, now: Instant) -> Duration {
        let step = Duration::from_secs(1) / PER_SECOND;
        let gained = now.saturating_duration_since(self.counted).as_millis() / step.as_millis();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(BURST);
            self.counted = now;
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { step } else { Duration::ZERO }
    }
}

/// Packets of one client: a second's worth may come at once, then they are taken as fast as the rate says.
#[derive(Debug)]
pub struct Pace {
    rate: Option<u32>,
    /// When all that was taken so far would have come at the rate.
    even: Instant,
}

impl Pace {
    /// So many a second; `None`: as fast as they come.
    pub const fn new(rate: Option<u32>, now: Instant) -> Self {
        Self { rate, even: now }
    }

    /// How long to wait before the next packet is taken.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let rate = self.rate?;
        let ahead = self.even.saturating_duration_since(now);
        let allowed = Duration::from_secs(1) - Duration::from_secs(1) / rate;
        (ahead > allowed).then(|| ahead - allowed)
    }

    /// One was taken.
    pub fn took(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            self.even = self.even.max(now) + Duration::from_secs(1) / rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn each_failure_doubles_the_pause_and_parallel_tries_take_turns() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        assert_eq!(failures.turn(THERE, now), Duration::ZERO);
        failures.failed(THERE, now);
        assert_eq!(failures.turn(THERE, now), Duration::from_secs(1));
        assert_eq!(failures.turn(THERE, now), Duration::from_secs(2), "the one before has that turn");
        let later = now + Duration::from_secs(10);
        failures.failed(THERE, later);
        assert_eq!(failures.turn(THERE, later), Duration::from_secs(2));
        for _ in 0..50 {
            failures.failed(THERE, later);
        }
        assert!(failures.turn(THERE, later) <= LONGEST);
        failures.forgive(THERE);
        assert_eq!(failures.turn(THERE, later), Duration::ZERO);
    }

    #[test]
    fn many_addresses_cost_bounded_memory_and_time_forgives() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..5000_u32 {
            failures.failed(IpAddr::V4(n.into()), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(failures.0.len(), ADDRESSES);
        let last = IpAddr::V4(4999.into());
        assert_eq!(failures.turn(last, now + Duration::from_secs(700)), Duration::ZERO);
    }

    #[test]
    fn a_burst_of_connections_is_taken_and_a_flood_is_paced() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        let waits = (0..1000).filter(|_| arrivals.another(now) > Duration::ZERO).count();
        assert_eq!(waits, 801, "all but the burst");
        assert_eq!(arrivals.another(now + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn a_second_of_packets_may_come_at_once_and_the_rest_at_the_rate() {
        let mut now = Instant::now();
        let begin = now;
        let mut pace = Pace::new(Some(10), now);
        let mut taken = 0;
        while now < begin + Duration::from_secs(5) {
            match pace.pause(now) {
                Some(pause) => now += pause,
                None => {
                    pace.took(now);
                    taken += 1;
                }
            }
            assert!(taken >= 10 || now == begin, "the first ten are not held up");
        }
        assert_eq!(taken, 59, "ten, then forty-nine in just under five seconds");
        let mut slow = Pace::new(Some(1), now);
        slow.took(now);
        assert_eq!(slow.pause(now), Some(Duration::from_secs(1)));
        assert_eq!(Pace::new(None, now).pause(now), None);
    }
}
