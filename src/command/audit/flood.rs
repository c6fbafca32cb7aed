//! How many refused commands are kept one by one. Pure. Whoever makes a mistake finds it in the trail; a program that asks the
//! same thousand times a second is kept now and then, and the rest is counted, so that it neither wears the flash nor fills
//! `$audit`.

use std::time::Duration;

use tokio::time::Instant;

/// Kept at once, after a quiet time: a person's evening.
const BURST: u32 = 60;
/// Then one in so long: 2,880 a day, 40 MB of flash.
const REFILL: Duration = Duration::from_secs(30);

/// What remains of the allowance.
#[derive(Debug)]
pub(super) struct Flood {
    left: u32,
    since: Instant,
    /// Not kept since the last one that was.
    left_out: u64,
}

/// What becomes of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It is kept; so many before it were not.
    Kept { left_out: u64 },
    /// It is counted.
    Counted,
}

impl Flood {
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, left_out: 0 }
    }

    pub(super) fn judge(&mut self, now: Instant) -> Judged {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.since += REFILL * more;
        }
        if self.left == 0 {
            self.left_out += 1;
            return Judged::Counted;
        }
        self.left -= 1;
        Judged::Kept { left_out: std::mem::take(&mut self.left_out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_kept_now_and_then_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let (mut kept, mut counted) = (0, 0);
        // A thousand a second for an hour.
        for ms in 0..3_600_000_u64 {
            match flood.judge(start + Duration::from_millis(ms)) {
                Judged::Kept { left_out } => (kept, counted) = (kept + 1, counted + left_out),
                Judged::Counted => {}
            }
        }
        assert_eq!(kept, 60 + 119);
        assert!(kept + counted > 3_600_000 - 30_000, "what is told adds up but for the last half minute: {counted}");
        let day = start + Duration::from_secs(90_000);
        assert!((0..60).all(|_| matches!(flood.judge(day), Judged::Kept { .. })), "all is forgiven after a quiet time");
        assert_eq!(flood.judge(day), Judged::Counted);
    }
}
