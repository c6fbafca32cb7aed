//! When the backlog will be gone: from how fast it shrinks while new entries come in, not from how fast they are sent.
//! Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Weight of the newest look: at one a second, some five seconds count.
const WEIGHT: f64 = 0.3;

/// Looks at the backlog of one connection.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    last: Option<(Instant, u64)>,
    /// Entries a second that the backlog loses.
    per_s: Option<f64>,
}

impl Estimate {
    /// The backlog as it is now. Gives by how much it shrinks a second, and when it will be gone if that goes on;
    /// `None`: not known yet, or never.
    pub(super) fn look(&mut self, now: Instant, backlog: u64) -> (f64, Option<Duration>) {
        if let Some((at, before)) = self.last.replace((now, backlog)) {
            let seconds = now.saturating_duration_since(at).as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "a backlog has far fewer entries than 2^52")]
            let rate = (before as f64 - backlog as f64) / seconds;
            self.per_s = Some(self.per_s.map_or(rate, |smooth| smooth + WEIGHT * (rate - smooth)));
        }
        let per_s = self.per_s.unwrap_or(0.0);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let left = backlog as f64 / per_s;
        // A year is never.
        let is_known = per_s > 0.0 && left < 31_536_000.0;
        (per_s, is_known.then(|| Duration::from_secs_f64(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_shrinks_has_an_end_and_one_that_grows_has_none() {
        let (mut estimate, begin) = (Estimate::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        assert_eq!(estimate.look(at(0), 10_000), (0.0, None));
        assert_eq!(estimate.look(at(1), 9_000), (1_000.0, Some(Duration::from_secs(9))));
        // A second of standstill is not the end of it.
        let (rate, left) = estimate.look(at(2), 9_000);
        assert!(rate > 690.0 && left.unwrap() < Duration::from_secs(14), "{rate} {left:?}");
        let mut growing = Estimate::default();
        growing.look(at(0), 10);
        assert_eq!(growing.look(at(1), 30).1, None);
        assert_eq!(estimate.look(at(3), 0).1, Some(Duration::ZERO));
    }
}
