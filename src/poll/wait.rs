//! How long to wait for the first byte of one device's answer, learnt from its answers in the manner of RFC 6298: the smoothed
//! turnaround and four times its mean deviation, doubled after a miss, never outside the line's bounds. Pure.
//! The trick is what that RFC lacks: a device that is slow now and then (a meter that stores its profile) is steady in between,
//! so its deviation shrinks until the next slow answer is missed. Hence the slowest of its recent answers counts too.

use std::time::Duration;

/// Slow answers are remembered for at least so many answers, at most twice as many: four minutes at one a second.
const RECENT: u32 = 256;
/// Doubling stops counting here; by then the ceiling was reached long ago (10 ms to 60 s is not 13 doublings).
const MOST_DOUBLINGS: u32 = 13;

/// The wait for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    floor: Duration,
    ceiling: Duration,
    /// Smoothed turnaround, and the mean distance of a turnaround from it.
    pace: Option<(Duration, Duration)>,
    /// The slowest answer of this stretch of answers and of the one before.
    slowest: [Duration; 2],
    /// Answers in this stretch.
    answers: u32,
    /// Misses since the last answer.
    misses: u32,
}

impl Wait {
    /// Nothing learnt yet: waits as long as the ceiling. A floor above the ceiling is the ceiling.
    pub fn new(floor: Duration, ceiling: Duration) -> Self {
        let floor = floor.min(ceiling);
        Self { floor, ceiling, pace: None, slowest: [Duration::ZERO; 2], answers: 0, misses: 0 }
    }

    /// As it was when its usual turnaround and deviation were written down.
    #[must_use]
    pub fn recalling(mut self, usual: Duration, deviation: Duration) -> Self {
        self.pace = Some((usual.min(self.ceiling), deviation.min(self.ceiling)));
        self
    }

    /// It answered after so long (measured on an answer that surely belongs to its question).
    pub fn answered(&mut self, turnaround: Duration) {
        self.misses = 0;
        self.pace = Some(match self.pace {
            None => (turnaround, turnaround / 2),
            Some((usual, deviation)) => {
                let off = usual.abs_diff(turnaround);
                (usual - usual / 8 + turnaround / 8, deviation - deviation / 4 + off / 4)
            }
        });
        if self.answers >= RECENT {
            self.slowest = [Duration::ZERO, self.slowest[0]];
            self.answers = 0;
        }
        self.slowest[0] = self.slowest[0].max(turnaround);
        self.answers += 1;
    }

    /// It did not answer within the wait: the next is twice as long.
    pub fn missed(&mut self) {
        self.misses = (self.misses + 1).min(MOST_DOUBLINGS);
    }

    /// How long to wait for the next answer.
    pub fn now(&self) -> Duration {
        let Some((usual, deviation)) = self.pace else { return self.ceiling };
        let slowest = self.slowest[0].max(self.slowest[1]);
        let enough = (usual + deviation * 4).max(slowest + slowest / 2).max(self.floor);
        enough.saturating_mul(1 << self.misses).min(self.ceiling)
    }

    /// The smoothed turnaround; `None` before the first answer.
    pub fn usual(&self) -> Option<Duration> {
        self.pace.map(|(usual, _)| usual)
    }

    /// The mean distance of a turnaround from the usual one.
    pub fn deviation(&self) -> Option<Duration> {
        self.pace.map(|(_, deviation)| deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[derive(Debug, Clone)]
    enum Happened {
        Answered(Duration),
        Missed,
    }

    fn life() -> impl Strategy<Value = Vec<Happened>> {
        let answered = (0u64..90_000_000).prop_map(|us| Happened::Answered(Duration::from_micros(us)));
        prop::collection::vec(prop_oneof![4 => answered, 1 => Just(Happened::Missed)], 0..600)
    }

    #[test]
    fn before_anything_was_learnt_it_waits_as_long_as_it_may() {
        let mut wait = Wait::new(ms(100), ms(300));
        assert_eq!((wait.now(), wait.usual()), (ms(300), None));
        wait.missed();
        assert_eq!(wait.now(), ms(300));
    }

    #[test]
    fn a_quick_device_is_waited_for_shortly_and_twice_as_long_after_each_miss() {
        let mut wait = Wait::new(ms(50), ms(300));
        for _ in 0..50 {
            wait.answered(ms(5));
        }
        assert_eq!((wait.now(), wait.usual().unwrap().as_millis()), (ms(50), 5));
        let after = |wait: &mut Wait| {
            wait.missed();
            wait.now()
        };
        assert_eq!([after(&mut wait), after(&mut wait), after(&mut wait)], [ms(100), ms(200), ms(300)]);
        wait.answered(ms(5));
        assert_eq!(wait.now(), ms(50), "back on the first answer");
    }

    #[test]
    fn a_device_that_is_slow_once_in_a_hundred_answers_is_still_waited_for() {
        let mut wait = Wait::new(ms(10), ms(500));
        for n in 0..1_000 {
            let took = if n % 100 == 50 { ms(120) } else { ms(5) };
            assert!(n < 100 || wait.now() >= took, "answer {n} would have been missed: {:?}", wait.now());
            wait.answered(took);
        }
        for _ in 0..2 * RECENT {
            wait.answered(ms(5));
        }
        assert_eq!(wait.now(), ms(10), "and in time it is forgotten");
    }

    #[test]
    fn what_was_written_down_is_where_it_goes_on() {
        let wait = Wait::new(ms(10), ms(500)).recalling(ms(40), ms(10));
        assert_eq!((wait.now(), wait.usual(), wait.deviation()), (ms(80), Some(ms(40)), Some(ms(10))));
        let slower = Wait::new(ms(10), ms(100)).recalling(ms(400), ms(300));
        assert_eq!(slower.now(), ms(100), "the line's timeout may have been lowered meanwhile");
    }

    proptest! {
        #[test]
        fn the_wait_is_never_outside_its_bounds_and_never_shorter_after_a_miss(
            floor in 0u64..200, ceiling in 5u64..60_000, life in life()
        ) {
            let mut wait = Wait::new(ms(floor), ms(ceiling));
            for happened in life {
                let before = wait.now();
                match happened {
                    Happened::Answered(took) => wait.answered(took),
                    Happened::Missed => {
                        wait.missed();
                        prop_assert!(wait.now() >= before && wait.now() >= (before * 2).min(ms(ceiling)));
                    }
                }
                prop_assert!(wait.now() >= ms(floor.min(ceiling)) && wait.now() <= ms(ceiling));
            }
        }

        #[test]
        fn a_steady_device_with_jitter_is_given_half_as_much_again_as_its_slowest_recent_answer(
            took in prop::collection::vec(5_000u64..8_000, 1..700)
        ) {
            let mut wait = Wait::new(ms(1), ms(1_000));
            for us in &took {
                wait.answered(Duration::from_micros(*us));
            }
            let recent = took.iter().rev().take(usize::try_from(RECENT).unwrap()).max().unwrap();
            prop_assert!(wait.now() >= Duration::from_micros(*recent) * 3 / 2, "{:?} after {recent} us", wait.now());
            prop_assert!(wait.now() <= ms(30), "and not much more: {:?}", wait.now());
            let usual = wait.usual().unwrap();
            prop_assert!(usual >= ms(4) && usual <= ms(8), "{usual:?}");
        }
    }
}
