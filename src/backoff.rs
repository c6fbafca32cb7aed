//! Pauses between tries: doubling from `first` up to `cap`, each jittered down by up to a fifth, so that gateways that lost
//! the same peer in the same moment do not all come back in the same moment. Pure but for the dice.

use std::time::Duration;

/// A growing pause. `reset` after success.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    pause: Duration,
    dice: u64,
}

impl Backoff {
    /// Begins at `first` and never passes `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        // Without entropy every gateway has the same jitter: worse, but not wrong.
        let dice = getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15) | 1;
        Self { first, cap, pause: first, dice }
    }

    /// How long to wait before the next try: between four fifths of the nominal pause and all of it.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it never ends and is reset")]
    pub fn next(&mut self) -> Duration {
        let nominal = self.pause.min(self.cap);
        self.pause = nominal.saturating_mul(2).min(self.cap);
        nominal - nominal.mul_f64(0.2 * self.roll())
    }

    /// The next pause is the first one again.
    pub const fn reset(&mut self) {
        self.pause = self.first;
    }

    /// xorshift64*: spread, not secrecy.
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        let high = u32::try_from(self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).unwrap_or(0);
        f64::from(high) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_are_never_longer_than_nominal() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for nominal in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            assert!(pause <= Duration::from_millis(nominal), "{pause:?} > {nominal} ms");
            assert!(pause >= Duration::from_millis(nominal * 4 / 5), "{pause:?} of {nominal} ms");
        }
    }

    #[test]
    fn after_success_the_first_pause_is_short_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
        for _ in 0..20 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
