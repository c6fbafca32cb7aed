//! A device that dies on the simulated wire, treated as the poll task and the bus treat one: the line waits for it at
//! its turns until its health says that it is gone, then it is probed where there is room. Pure. Probes come at other
//! times than the real ones, whose pauses are drawn: swept over a round, so that the worst moment is among them.

use std::time::Duration;

use crate::config::plant::{Line, Port};
use crate::point::DeviceId;
use crate::poll::health::{Health, PATIENCE, Silence, Turn};
use crate::poll::plan;
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
    device: DeviceId,
    dies: Duration,
    health: Health,
    hold_up: Duration,
    probe: Duration,
    /// Until then the line is kept for its late answer, should it be asked again.
    quiet_until: Duration,
    late: Duration,
    round: Duration,
    probes: u32,
    probe_at: Duration,
    /// When it was taken offline.
    pub(super) noticed: Option<Duration>,
}

impl Silent {
    /// It dies at a moment; turns repeat themselves after a round.
    pub(super) fn new(line: &Line, device: DeviceId, dies: Duration, round: Duration) -> Self {
        let mut health = Health::new(0);
        health.answered();
        Self {
            device,
            dies,
            health,
            hold_up: hold_up(line),
            probe: probe(line),
            quiet_until: Duration::ZERO,
            late: late_answer(line),
            round: round.clamp(Duration::from_millis(1), LONGEST_ROUND),
            probes: 0,
            probe_at: Duration::ZERO,
            noticed: None,
        }
    }

    /// What a turn of this device costs the others; `None`: it is alive.
    pub(super) fn turn(&mut self, device: DeviceId, now: Duration) -> Option<Duration> {
        if device != self.device || now < self.dies {
            return None;
        }
        if self.health.state() == DeviceState::Offline {
            return Some(Duration::ZERO);
        }
        let end = now.max(self.quiet_until) + self.hold_up;
        self.quiet_until = end + self.late;
        let silence = Silence { devices: 1, probe: self.probe };
        if matches!(self.health.missed(end, Reason::Timeout, silence), Turn::Offline(_)) {
            self.noticed = Some(end);
            self.rest(end);
        }
        Some(end - now)
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

    /// Whether this device's points are the dead ones.
    pub(super) fn is(&self, device: DeviceId) -> bool {
        self.device == device
    }
}

/// From the last answer to the notice, of a device that is asked so rarely that the simulation does not see it.
pub(super) fn noticed_after(line: &Line, every: Duration) -> Duration {
    let every = every.max(Duration::from_millis(1));
    let mut silent = Silent::new(line, DeviceId(0), Duration::ZERO, every);
    // It misses its first turn one period after the last answer.
    let mut now = every;
    while silent.noticed.is_none() {
        let took = silent.turn(DeviceId(0), now).unwrap_or_default();
        let turns = took.div_duration_f64(every).ceil().max(1.0);
        now += every.mul_f64(turns);
    }
    silent.noticed.unwrap_or_default()
}

/// What a read costs that nobody answers, with all its tries.
pub(super) fn hold_up(line: &Line) -> Duration {
    let tries = 1 + u32::from(line.retries);
    (plan::question(line) + line.timeout) * tries + late_answer(line) * (tries - 1)
}

/// How long the line is kept for a late answer before the same unit is asked again; Modbus TCP tells late answers by
/// their numbers.
fn late_answer(line: &Line) -> Duration {
    if matches!(line.port, Port::Tcp(_)) { Duration::ZERO } else { line.timeout }
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
        let seconds = |every| noticed_after(&line, Duration::from_millis(every)).as_secs_f64();
        let hold_up = hold_up(&line).as_secs_f64();
        assert!((0.9..0.95).contains(&hold_up), "two tries of 300 ms and one such wait between: {hold_up}");
        assert!((seconds(1_000) - (4.0 + hold_up)).abs() < 1e-6, "{}", seconds(1_000));
        assert!((seconds(60_000) - (180.0 + hold_up)).abs() < 1e-6, "{}", seconds(60_000));
    }
}
