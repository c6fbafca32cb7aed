//! A device that dies on the simulated wire, treated as the poll task and the bus treat one: the line waits for it at
//! its turns until its health says that it is gone, then it is probed where there is room. Pure. Probes come at other
//! times than the real ones, whose pauses are drawn: swept over a round, so that the worst moment is among them.

use std::time::Duration;

use crate::config::plant::{Line, Port};
use crate::point::{DeviceId, Table};
use crate::poll::health::{Change, Health, PATIENCE, Silence};
use crate::poll::plan::{self, Cost};
use crate::poll::wait::Wait;
use crate::sample::Reason;
use crate::status::DeviceState;

/// At least between two probes: rarer than the first real ones, more often than the later, so that enough are seen.
const PAUSE: Duration = Duration::from_secs(8);
/// The sweep covers so much at most; longer rounds are met at another place each time anyway.
const LONGEST_ROUND: Duration = Duration::from_secs(10);
/// The golden section: its multiples fill a round evenly however many there are.
const SECTION: f64 = 0.618_033_988_75;

/// One device that has answered up to a moment, and does not any more.
pub(super) struct Silent {
    pub(super) device: DeviceId,
    dies: Duration,
    health: Health,
    wait: Wait,
    question: Duration,
    probe: Duration,
    /// Tries so far of the turn that is under way, and so many more than one.
    tries: u8,
    retries: u8,
    is_tcp: bool,
    /// Until then it is left alone, for its late answer.
    quiet_until: Duration,
    timeout: Duration,
    round: Duration,
    probes: u32,
    probe_at: Duration,
    /// When it was taken offline.
    pub(super) noticed: Option<Duration>,
}

/// A question that nobody answers.
pub(super) struct Asked {
    /// What it costs the line.
    pub(super) took: Duration,
    /// When it is asked again; the others have the line until then.
    pub(super) again: Option<Duration>,
}

impl Silent {
    /// It dies at a moment, having answered as fast as all do; turns repeat themselves after a round.
    pub(super) fn new(line: &Line, (device, dies): (DeviceId, Duration), round: Duration, cost: Cost) -> Self {
        let mut health = Health::new(0);
        health.answered();
        let mut wait = Wait::new(line.min_timeout, line.timeout);
        let thinks = cost.of(Table::Holding, 0).saturating_sub(plan::question(line));
        wait.answered(thinks.min(line.min_timeout / 2));
        Self {
            device,
            dies,
            health,
            wait,
            question: plan::question(line),
            probe: probe(line),
            tries: 0,
            retries: line.retries,
            is_tcp: matches!(line.port, Port::Tcp(_)),
            quiet_until: Duration::ZERO,
            timeout: line.timeout,
            round: round.clamp(Duration::from_millis(1), LONGEST_ROUND),
            probes: 0,
            probe_at: Duration::ZERO,
            noticed: None,
        }
    }

    /// Not before when a turn of this device may begin; `None` when it is offline and not asked at all.
    pub(super) fn may_begin(&self, device: DeviceId) -> Option<Duration> {
        match device == self.device {
            true => (self.health.state() != DeviceState::Offline).then_some(self.quiet_until),
            false => Some(Duration::ZERO),
        }
    }

    /// What a question to this device comes to; `None`: it is alive.
    pub(super) fn ask(&mut self, device: DeviceId, now: Duration) -> Option<Asked> {
        if device != self.device || now < self.dies {
            return None;
        }
        let is_last = self.tries >= self.retries;
        let wait = if self.is_tcp || is_last && self.tries > 0 { self.timeout } else { self.wait.now() };
        let took = self.question + wait;
        let end = now + took;
        self.wait.missed();
        self.quiet_until = if self.is_tcp { end } else { end + self.timeout };
        if !is_last {
            self.tries += 1;
            return Some(Asked { took, again: Some(self.quiet_until) });
        }
        self.tries = 0;
        let silence = Silence { devices: 1, probe: self.probe };
        if matches!(self.health.missed(end, Reason::Timeout, silence), Change::Offline(_)) {
            self.noticed = Some(end);
            self.rest(end);
        }
        Some(Asked { took, again: None })
    }

    /// What a probe costs, if one goes now: it is due, and delays nobody or has waited long enough.
    pub(super) fn probe(&mut self, now: Duration, next_turn: Option<Duration>) -> Option<Duration> {
        let is_due = self.noticed.is_some() && self.probe_at <= now;
        let room = next_turn.is_none_or(|next| now + self.probe <= next);
        if !is_due || !room && now < self.probe_at + PATIENCE {
            return None;
        }
        self.rest(now + self.probe);
        Some(self.probe)
    }

    /// When there is something to do for it.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.noticed?;
        Some(if self.probe_at <= now { self.probe_at + PATIENCE } else { self.probe_at })
    }

    fn rest(&mut self, now: Duration) {
        self.probes += 1;
        let rounds = (now + PAUSE).div_duration_f64(self.round).ceil();
        self.probe_at = self.round.mul_f64(rounds + (SECTION * f64::from(self.probes)).fract());
    }
}

/// From the last answer to the notice, of a device that is asked so rarely that the simulation does not see it.
pub(super) fn noticed_after(line: &Line, every: Duration, cost: Cost) -> Duration {
    let every = every.max(Duration::from_millis(1));
    let mut silent = Silent::new(line, (DeviceId(0), Duration::ZERO), every, cost);
    // It misses its first turn one period after the last answer.
    let (mut turn, mut now) = (every, every);
    while silent.noticed.is_none() {
        let Some(asked) = silent.ask(DeviceId(0), now) else { break };
        let end = now + asked.took;
        now = asked.again.unwrap_or_else(|| {
            // The next turn waits while this one lasts, those after it are missed.
            turn += every;
            turn += every.mul_f64(end.saturating_sub(turn).div_duration_f64(every).floor());
            turn.max(silent.quiet_until)
        });
    }
    silent.noticed.unwrap_or_default()
}

/// What a turn costs that nobody answers, with all its tries; between them the others have the line.
pub(super) fn hold_up(line: &Line) -> Duration {
    (plan::question(line) + line.timeout) * (1 + u32::from(line.retries))
}

/// What an unanswered probe costs, one device being silent.
pub(super) fn probe(line: &Line) -> Duration {
    (plan::question(line) + line.timeout).min(Silence::affordable(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work;

    #[test]
    fn a_death_takes_three_misses_and_three_seconds_to_be_noticed() {
        let port = Port::Serial(work::serial_port("none", 9_600, work::F8N1));
        let line = work::line(port);
        let cost = Cost::new(&line, Duration::from_millis(9));
        let seconds = |every| noticed_after(&line, Duration::from_millis(every), cost).as_secs_f64();
        // Two tries of 300 ms, and the line is the others' for as long in between.
        let hold_up = hold_up(&line).as_secs_f64() + 0.3;
        assert!((0.9..0.95).contains(&hold_up), "{hold_up}");
        // The fourth turn begins when the third has ended and the device has been left alone.
        assert!((5.3..5.4).contains(&seconds(1_000)), "{}", seconds(1_000));
        assert!((seconds(60_000) - (180.0 + hold_up)).abs() < 1e-6, "{}", seconds(60_000));
    }
}
