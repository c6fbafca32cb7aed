//! When a reading becomes a message. Pure: time is the reading's own monotonic stamp.
//! The trick of report by exception: compare with what was last *published*, never with what was last read, or a slow drift is
//! never told (pitfall 20). A change of quality always passes, at once.

use std::sync::Arc;

use rust_decimal::Decimal;

use crate::config::plant::{Deadband, Report, When};
use crate::sample::{Quality, Sample, Value};

/// A reading that comes a little before the heartbeat's time is taken for it, or a poll of 1 s would beat every 61 s.
const EARLY_US: u64 = 20_000;

/// What becomes of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a message now.
    Publish,
    /// It says nothing new.
    Suppress,
    /// It may not be published yet; it waits, unless a newer one takes its place.
    Hold,
}

/// One point's memory.
#[derive(Debug, Clone)]
pub struct Policy {
    report: Arc<Report>,
    last: Option<(Option<Value>, Quality, u64)>,
    /// When the newest published reading was taken.
    newest_us: u64,
    /// Boxed, because few points hold anything back.
    held: Option<Box<Sample>>,
}

impl Policy {
    /// Nothing published yet.
    pub const fn new(report: Arc<Report>) -> Self {
        Self { report, last: None, newest_us: 0, held: None }
    }

    /// Decides on a reading. The second part is a held reading that lost its place to this one.
    pub fn judge(&mut self, sample: &Sample) -> (Verdict, Option<Sample>) {
        // Read before a write whose read-back has been told meanwhile: what was told or is held is newer.
        if sample.taken().mono_us < self.newest_us {
            return (Verdict::Suppress, None);
        }
        let replaced = self.held.take().map(|held| *held);
        let verdict = self.verdict(sample);
        match verdict {
            Verdict::Publish => self.published(sample),
            Verdict::Hold => self.held = Some(Box::new(sample.clone())),
            Verdict::Suppress => {}
        }
        (verdict, replaced)
    }

    /// When a held reading may go, in microseconds of the monotonic clock; `None` when nothing is held.
    pub fn held_until(&self) -> Option<u64> {
        self.held.as_ref()?;
        Some(self.next_allowed())
    }

    /// The held reading, now a message.
    pub fn release(&mut self) -> Option<Sample> {
        let sample = *self.held.take()?;
        // The rate counts from when it may leave, not from when it was read.
        let left = self.next_allowed().max(sample.taken().mono_us);
        self.last = Some((sample.value().cloned(), sample.quality(), left));
        self.newest_us = sample.taken().mono_us;
        Some(sample)
    }

    /// Whatever comes next is news: somebody listens who has heard nothing yet.
    pub fn forget(&mut self) {
        self.last = None;
    }

    fn next_allowed(&self) -> u64 {
        match (&self.last, self.report.at_most) {
            (Some((_, _, at)), Some(pause)) => at.saturating_add(micros(pause)),
            _ => 0,
        }
    }

    fn published(&mut self, sample: &Sample) {
        self.last = Some((sample.value().cloned(), sample.quality(), sample.taken().mono_us));
        self.newest_us = sample.taken().mono_us;
    }

    fn verdict(&self, sample: &Sample) -> Verdict {
        let Some((value, quality, at)) = &self.last else { return Verdict::Publish };
        if *quality != sample.quality() || sample.is_wanted() {
            return Verdict::Publish;
        }
        let now = sample.taken().mono_us;
        let beat = self.report.at_least.is_some_and(|pause| now.saturating_add(EARLY_US) >= at + micros(pause));
        let new = self.report.when == When::Poll || beat || self.is_change(value.as_ref(), sample.value());
        if !new {
            Verdict::Suppress
        } else if now < self.next_allowed() {
            Verdict::Hold
        } else {
            Verdict::Publish
        }
    }

    fn is_change(&self, was: Option<&Value>, is: Option<&Value>) -> bool {
        let (Some(was), Some(is)) = (was, is) else { return was.is_some() != is.is_some() };
        match self.report.deadband {
            None => was != is,
            Some(band) => was != is && exceeds(band, was, is),
        }
    }
}

/// Whether the change is at least as large as the deadband. What is no number, or cannot be compared, is a change.
fn exceeds(band: Deadband, was: &Value, is: &Value) -> bool {
    if let (Some(was), Some(is)) = (exact(was), exact(is)) {
        let limit = match band {
            Deadband::Absolute(limit) => Some(limit),
            Deadband::Percent(percent) => was.abs().checked_mul(percent).map(|p| p / Decimal::ONE_HUNDRED),
        };
        if let (Some(limit), Some(change)) = (limit, is.checked_sub(was)) {
            return change.abs() >= limit;
        }
    }
    let (Some(was), Some(is)) = (was.as_f64(), is.as_f64()) else { return true };
    let limit = match band {
        Deadband::Absolute(limit) => f64::try_from(limit).unwrap_or(0.0),
        Deadband::Percent(percent) => was.abs() / 100.0 * f64::try_from(percent).unwrap_or(0.0),
    };
    let change = (is - was).abs();
    // A NaN passes instead of holding for ever.
    change.is_nan() || change >= limit
}

fn exact(value: &Value) -> Option<Decimal> {
    match value {
        Value::Int(i) => Some(Decimal::from(*i)),
        Value::Uint(u) => Some(Decimal::from(*u)),
        Value::Decimal(d) => Some(*d),
        Value::Bool(_) | Value::Float(_) | Value::Text(_) => None,
    }
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::PointId;
    use crate::sample::Reason;
    use crate::time::Stamp;
    use Verdict::{Hold, Publish, Suppress};
    use proptest::prelude::*;
    use std::time::Duration;

    const PLAIN: Report = Report { when: When::Change, deadband: None, at_least: None, at_most: None };

    fn stamp(ms: u64) -> Stamp {
        Stamp { mono_us: ms * 1000, wall_us: 0 }
    }

    fn int(ms: u64, value: i64) -> Sample {
        Sample::good(PointId(0), Value::Int(value), stamp(ms))
    }

    fn verdicts(report: Report, samples: &[Sample]) -> Vec<Verdict> {
        let mut policy = Policy::new(Arc::new(report));
        samples.iter().map(|s| policy.judge(s).0).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let seen = verdicts(PLAIN, &[int(0, 1), int(1, 1), int(2, 2)]);
        assert_eq!(seen, [Publish, Suppress, Publish]);
        let poll = Report { when: When::Poll, ..PLAIN };
        assert_eq!(verdicts(poll, &[int(0, 1), int(1, 1)]), [Publish, Publish]);
    }

    #[test]
    fn a_slow_drift_passes_the_deadband_in_the_end() {
        let band = Report { deadband: Some(Deadband::Absolute(Decimal::from(3))), ..PLAIN };
        let drift: Vec<_> = (0..7i64).map(|n| int(0, 100 + n)).collect();
        let seen = verdicts(band, &drift);
        assert_eq!(seen, [Publish, Suppress, Suppress, Publish, Suppress, Suppress, Publish]);
        let percent = Report { deadband: Some(Deadband::Percent(Decimal::from(2))), ..PLAIN };
        let seen = verdicts(percent, &[int(0, 100), int(1, 101), int(2, 102), int(3, 104), int(4, 105)]);
        assert_eq!(seen, [Publish, Suppress, Publish, Suppress, Publish]);
    }

    #[test]
    fn a_change_of_quality_always_passes() {
        let strict = Report {
            deadband: Some(Deadband::Absolute(Decimal::from(1000))),
            at_most: Some(Duration::from_secs(3600)),
            ..PLAIN
        };
        let bad = |reason| Sample::bad(PointId(0), reason, stamp(1));
        let seen =
            verdicts(strict, &[int(0, 1), bad(Reason::Timeout), bad(Reason::Timeout), bad(Reason::Crc), int(2, 1)]);
        assert_eq!(seen, [Publish, Publish, Suppress, Publish, Publish]);
    }

    #[test]
    fn a_reading_from_before_what_was_told_is_not_told_after_it() {
        let slow = Report { at_most: Some(Duration::from_secs(1)), ..PLAIN };
        let mut policy = Policy::new(Arc::new(slow));
        assert_eq!(policy.judge(&int(1000, 8).wanted()), (Publish, None));
        assert_eq!(policy.judge(&int(1500, 9)), (Hold, None));
        assert_eq!(policy.judge(&int(900, 7)), (Suppress, None));
        assert!(policy.release().is_some_and(|held| held.value() == int(1500, 9).value()), "what is held stays");
    }

    #[test]
    fn the_heartbeat_comes_at_the_latest_after_its_time() {
        let beat = Report { at_least: Some(Duration::from_secs(2)), ..PLAIN };
        let seen = verdicts(beat, &[int(0, 1), int(1000, 1), int(1999, 1), int(3000, 1), int(3999, 1)]);
        assert_eq!(seen, [Publish, Suppress, Publish, Suppress, Publish]);
    }

    #[test]
    fn too_fast_values_are_held_and_the_newest_goes() {
        let slow = Report { at_most: Some(Duration::from_secs(1)), ..PLAIN };
        let mut policy = Policy::new(Arc::new(slow));
        assert_eq!(policy.judge(&int(0, 1)), (Publish, None));
        assert_eq!(policy.judge(&int(100, 2)), (Hold, None));
        assert_eq!(policy.judge(&int(200, 3)), (Hold, Some(int(100, 2))));
        assert_eq!(policy.held_until(), Some(1_000_000));
        assert_eq!(policy.release(), Some(int(200, 3)));
        assert_eq!(policy.judge(&int(1_100, 4)), (Hold, None));
        assert_eq!(policy.held_until(), Some(2_000_000));
        // Back where it was: there is nothing to tell any more.
        assert_eq!(policy.judge(&int(1_200, 3)), (Suppress, Some(int(1_100, 4))));
        assert_eq!(policy.held_until(), None);
    }

    #[test]
    fn floats_and_texts_are_compared_as_what_they_are() {
        let band = Report { deadband: Some(Deadband::Absolute(Decimal::from(1))), ..PLAIN };
        let value = |v| Sample::good(PointId(0), v, stamp(0));
        let texts = [value(Value::Text("a".into())), value(Value::Text("b".into())), value(Value::Int(3))];
        assert_eq!(verdicts(band.clone(), &texts), [Publish, Publish, Publish]);
        let floats = [1e30, 1e30 + 1e28, 1e30].map(|x| value(Value::Float(x)));
        assert_eq!(verdicts(band.clone(), &floats), [Publish, Publish, Publish]);
        let nan = [1.0, f64::NAN, 1.2].map(|x| value(Value::Float(x)));
        assert_eq!(verdicts(band, &nan), [Publish, Publish, Publish]);
    }

    proptest! {
        #[test]
        fn what_subscribers_hold_is_never_a_deadband_away(values in prop::collection::vec(-50i64..50, 1..60), band in 1i64..20) {
            let report = Report { deadband: Some(Deadband::Absolute(Decimal::from(band))), ..PLAIN };
            let mut policy = Policy::new(Arc::new(report));
            let mut shown = None;
            for value in values {
                if policy.judge(&int(0, value)).0 == Publish { shown = Some(value); }
                prop_assert!((shown.unwrap() - value).abs() < band);
            }
        }
    }
}
