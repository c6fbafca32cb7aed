//! Whether a device answers, decided from what its requests came to. Pure: time and the line's silent devices are arguments.
//! One miss is no death (pitfall 6), a dead device must not be felt by the others (pitfall 5), and one good reply brings
//! it back at once.

use std::time::Duration;

use crate::sample::Reason;
use crate::status::DeviceState;

/// Misses in a row before a device counts as offline, and for how long it must have missed.
const MISSES: u32 = 3;
const SILENT_FOR: Duration = Duration::from_secs(3);
/// The first pause between probes, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(27);
/// How long a probe waits for a moment in which nobody else is due; with the longest pause this makes thirty seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// One in so many: the share of a line's time that its silent devices may cost together, 2 %.
const SHARE: u32 = 50;

/// What a reply or a miss changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing to tell.
    Same,
    /// It answers (again, or for the first time).
    Online,
    /// It does not answer any more.
    Offline(Reason),
}

/// What all silent devices of a line cost: needed to pace their probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// How many devices are offline, this one included.
    pub devices: u32,
    /// What one unanswered probe costs.
    pub probe: Duration,
}

impl Silence {
    /// The longest a probe may take with so many silent devices, so that each can be probed often enough and all stay
    /// within their share: 432 ms for one, 144 ms each for three.
    pub fn affordable(devices: u32) -> Duration {
        LONGEST_PAUSE * 4 / 5 / SHARE / devices.max(1)
    }
}

/// One device's state.
#[derive(Debug, Clone)]
pub struct Health {
    state: DeviceState,
    misses: u32,
    missing_since: Duration,
    pause: Duration,
    probe_at: Duration,
    seed: u64,
}

impl Health {
    /// Unknown until asked. The seed spreads the probes of different devices.
    pub const fn new(seed: u64) -> Self {
        let zero = Duration::ZERO;
        let state = DeviceState::Unknown;
        Self { state, misses: 0, missing_since: zero, pause: FIRST_PAUSE, probe_at: zero, seed }
    }

    /// Whether it answers.
    pub const fn state(&self) -> DeviceState {
        self.state
    }

    /// When to probe next; `None` while it is not offline.
    pub fn probe_at(&self) -> Option<Duration> {
        (self.state == DeviceState::Offline).then_some(self.probe_at)
    }

    /// It answered: a value or an exception of its own.
    pub fn answered(&mut self) -> Change {
        let was = std::mem::replace(&mut self.state, DeviceState::Online);
        self.misses = 0;
        match was {
            DeviceState::Unknown | DeviceState::Offline => Change::Online,
            DeviceState::Online | DeviceState::Shaky => Change::Same,
        }
    }

    /// It did not answer, or nothing that could be read.
    pub fn missed(&mut self, now: Duration, reason: Reason, silence: Silence) -> Change {
        if self.misses == 0 {
            self.missing_since = now;
        }
        self.misses = self.misses.saturating_add(1);
        if self.state == DeviceState::Offline {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.probe_at = now + self.next_pause(silence);
            return Change::Same;
        }
        let gone = self.misses >= MISSES && now.saturating_sub(self.missing_since) >= SILENT_FOR;
        if !gone {
            // A device that never answered stays unknown: there is no good reading behind it that might come back.
            if self.state == DeviceState::Online {
                self.state = DeviceState::Shaky;
            }
            return Change::Same;
        }
        self.state = DeviceState::Offline;
        self.pause = FIRST_PAUSE;
        self.probe_at = now + self.next_pause(silence);
        Change::Offline(reason)
    }

    /// Long enough that all silent devices together stay within their share, never longer than the longest pause, and
    /// up to a fifth shorter, so that devices that died together are not probed together.
    fn next_pause(&mut self, silence: Silence) -> Duration {
        let share = silence.probe * silence.devices * SHARE;
        let pause = self.pause.max(share + share / 4).min(LONGEST_PAUSE);
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let jitter = u32::try_from(self.seed >> 56).unwrap_or(0);
        pause - pause / 5 * jitter / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Silence = Silence { devices: 1, probe: Duration::from_millis(10) };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn gone(now: u64) -> Health {
        let mut health = Health::new(7);
        for n in 0..3 {
            health.missed(secs(now + 2 * n), Reason::Timeout, ONE);
        }
        health
    }

    #[test]
    fn one_miss_is_no_death() {
        let mut health = Health::new(1);
        assert_eq!(health.answered(), Change::Online);
        assert_eq!(health.missed(secs(1), Reason::Timeout, ONE), Change::Same);
        assert_eq!(health.state(), DeviceState::Shaky);
        assert_eq!(health.answered(), Change::Same);
        assert_eq!(health.state(), DeviceState::Online);
    }

    #[test]
    fn offline_takes_several_misses_and_some_seconds() {
        let mut health = Health::new(1);
        health.answered();
        for ms in [0, 100, 200, 300, 2_999] {
            assert_eq!(health.missed(Duration::from_millis(ms), Reason::Timeout, ONE), Change::Same);
        }
        assert_eq!(health.missed(secs(3), Reason::Crc, ONE), Change::Offline(Reason::Crc));
        assert!(health.probe_at().is_some_and(|at| at > secs(3) && at <= secs(4)));
    }

    #[test]
    fn one_good_reply_brings_it_back_at_once() {
        let mut health = gone(0);
        assert_eq!(health.state(), DeviceState::Offline);
        assert_eq!(health.answered(), Change::Online);
        assert_eq!(health.probe_at(), None);
        assert_eq!(health.missed(secs(99), Reason::Timeout, ONE), Change::Same);
    }

    proptest! {
        #[test]
        fn probes_grow_and_come_at_least_every_thirty_seconds(seed in any::<u64>(), devices in 1u32..20) {
            let mut health = Health::new(seed);
            let silence = Silence { devices, probe: Duration::from_millis(10) };
            let mut now = Duration::ZERO;
            let mut asked = 0u32;
            for _ in 0..3 { health.missed(now, Reason::Timeout, silence); now += secs(2); }
            let begin = now;
            while let Some(at) = health.probe_at().filter(|at| *at < begin + secs(3600)) {
                prop_assert!(at <= now + secs(30));
                now = now.max(at);
                health.missed(now, Reason::Timeout, silence);
                asked += 1;
            }
            let cost = silence.probe * asked * devices;
            prop_assert!(cost <= (now - begin) / 50 + silence.probe * devices * 5, "{cost:?} of {:?}", now - begin);
        }
    }
}
