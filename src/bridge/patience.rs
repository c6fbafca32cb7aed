//! How long the bridge waits before it calls a link dead. Pure. A black hole must be left soon, because its TCP
//! connection comes back later than the way itself does; a slow peer must not be left at all. So the waits begin
//! short and follow what the peer has shown.

use std::time::Duration;

/// Most that a connection may take from the first packet to the CONNACK.
const CONNECT_MOST: Duration = Duration::from_secs(10);
/// Least that it gets, once it is known to be quick.
const CONNECT_LEAST: Duration = Duration::from_secs(2);
/// Every so many tries get the most again: the way may have become slower.
const FULL_EVERY: u32 = 8;
/// Nothing answered for this long while publishes wait: silence.
const SILENCE: Duration = Duration::from_secs(5);
/// A publish without answer for this long means a dead link, whatever else is answered.
const ANSWER_MOST: Duration = Duration::from_secs(20);

/// What the peer has shown so far.
#[derive(Debug)]
pub(super) struct Patience {
    silence: Duration,
    strikes: u32,
    took: Option<Duration>,
    failures: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence: SILENCE, strikes: 0, took: None, failures: 0 }
    }
}

impl Patience {
    /// One that calls silence what others would not.
    #[cfg(test)]
    pub(super) fn short(silence: Duration) -> Self {
        Self { silence, ..Self::default() }
    }

    /// How long the next connection may take until its CONNACK.
    pub(super) fn connect(&self) -> Duration {
        match self.took {
            Some(took) if !(self.failures + 1).is_multiple_of(FULL_EVERY) => {
                (took * 4).clamp(CONNECT_LEAST, CONNECT_MOST)
            }
            _ => CONNECT_MOST,
        }
    }

    /// The CONNACK came after this long.
    pub(super) const fn connected(&mut self, took: Duration) {
        self.took = Some(took);
        self.failures = 0;
    }

    /// It did not come.
    pub(super) const fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long nothing may be answered while publishes wait, for a peer that answers after `usual_ms`.
    pub(super) fn silence(&self, usual_ms: f64) -> Duration {
        let usual = Duration::from_secs_f64((usual_ms * 8.0 / 1000.0).clamp(0.0, ANSWER_MOST.as_secs_f64()));
        (self.silence * 2u32.pow(self.strikes.min(8))).max(usual).min(ANSWER_MOST)
    }

    /// How long one publish may wait for its answer.
    pub(super) const fn answer() -> Duration {
        ANSWER_MOST
    }

    /// It was silent for too long: a slow peer is given twice as long the next time.
    pub(super) const fn was_silent(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    /// An answer came after this long.
    pub(super) fn answered(&mut self, took: Duration) {
        if took < self.silence {
            self.strikes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_peer_is_given_two_seconds_and_now_and_then_ten() {
        let mut patience = Patience::default();
        assert_eq!(patience.connect(), CONNECT_MOST);
        patience.connected(Duration::from_millis(30));
        for _ in 0..7 {
            assert_eq!(patience.connect(), CONNECT_LEAST);
            patience.failed();
        }
        assert_eq!(patience.connect(), CONNECT_MOST);
        patience.connected(Duration::from_secs(1));
        assert_eq!(patience.connect(), Duration::from_secs(4));
    }

    #[test]
    fn a_slow_peer_is_not_left_again_and_again() {
        let mut patience = Patience::default();
        assert_eq!(patience.silence(10.0), SILENCE);
        patience.was_silent();
        assert_eq!(patience.silence(10.0), 2 * SILENCE);
        patience.answered(Duration::from_secs(8));
        assert_eq!(patience.silence(10.0), 2 * SILENCE);
        patience.answered(Duration::from_millis(8));
        assert_eq!(patience.silence(10.0), SILENCE);
        assert_eq!(patience.silence(2_000.0), Duration::from_secs(16));
    }
}
