//! When to say that a line cannot keep its periods, and when that it can again. Pure. A single hiccup is counted but not
//! worth a line in the log; neither is a line at its limit worth one every few seconds.

use std::time::Duration;

/// For so long the periods must be missed before it is said, and met before it is taken back.
const LASTING: Duration = Duration::from_secs(30);

/// What to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Begins,
    Ends,
}

/// One line's.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    said: bool,
    /// Since when the opposite of what was said last is true.
    otherwise_since: Option<Duration>,
}

impl Overload {
    /// Asked now and then: whether some periods are not met now.
    pub(crate) fn judge(&mut self, now: Duration, unmet: usize) -> Option<Change> {
        if (unmet > 0) == self.said {
            self.otherwise_since = None;
            return None;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if now.saturating_sub(since) < LASTING {
            return None;
        }
        self.otherwise_since = None;
        self.said = !self.said;
        Some(if self.said { Change::Begins } else { Change::Ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(unmet: impl Fn(u64) -> usize, seconds: u64) -> Vec<(u64, Change)> {
        let mut overload = Overload::default();
        (0..seconds).filter_map(|s| Some((s, overload.judge(Duration::from_secs(s), unmet(s))?))).collect()
    }

    #[test]
    fn an_overload_is_said_once_when_it_lasts_and_taken_back_once() {
        assert_eq!(told(|s| usize::from((10..200).contains(&s)), 500), [(40, Change::Begins), (230, Change::Ends)]);
    }

    #[test]
    fn a_hiccup_is_not_said_and_neither_is_a_breath_in_between() {
        assert_eq!(told(|s| usize::from(s % 60 < 20), 500), []);
        assert_eq!(told(|s| usize::from(s % 60 != 59), 500), [(30, Change::Begins)]);
    }
}
