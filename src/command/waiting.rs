//! Commands that wait for one line. Pure. The latest wins: while a write waits, a newer one of the same point takes its place,
//! because the older would only be undone. But none overtakes a batch or a read: these may be about the same point.

use std::collections::VecDeque;

/// More are answered "busy": a line that cannot keep up with so many is in trouble that waiting does not mend.
pub(super) const MOST: usize = 32;

/// What became of a command that was to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<J> {
    /// It waits.
    Waits,
    /// It waits in the place of this one, which is not done any more.
    Instead(J),
    /// There is no room for it.
    Full(J),
}

/// In the order in which they will be done. `K` names the point of a write that may be replaced.
#[derive(Debug)]
pub(super) struct Waiting<K, J>(VecDeque<(Option<K>, J)>);

impl<K: PartialEq, J> Waiting<K, J> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn put(&mut self, key: Option<K>, job: J) -> Put<J> {
        let behind = self.0.iter().rposition(|(waiting, _)| waiting.is_none()).map_or(0, |at| at + 1);
        let same = self.0.iter_mut().skip(behind).find(|(waiting, _)| key.is_some() && *waiting == key);
        if let Some((_, older)) = same {
            return Put::Instead(std::mem::replace(older, job));
        }
        if self.0.len() >= MOST {
            return Put::Full(job);
        }
        self.0.push_back((key, job));
        Put::Waits
    }

    pub(super) fn next(&mut self) -> Option<J> {
        self.0.pop_front().map(|(_, job)| job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_a_point_wins_and_keeps_the_place_of_the_first() {
        let mut waiting = Waiting::new();
        assert_eq!(waiting.put(Some("a"), 1), Put::Waits);
        assert_eq!(waiting.put(Some("b"), 2), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 3), Put::Instead(1));
        assert_eq!(std::iter::from_fn(|| waiting.next()).collect::<Vec<_>>(), [3, 2]);
    }

    #[test]
    fn no_write_overtakes_a_batch_that_may_be_about_the_same_point() {
        let mut waiting = Waiting::new();
        assert_eq!(waiting.put(Some("a"), 1), Put::Waits);
        assert_eq!(waiting.put(None, 2), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 3), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 4), Put::Instead(3));
        assert_eq!(std::iter::from_fn(|| waiting.next()).collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn a_full_queue_gives_the_newest_back() {
        let mut waiting: Waiting<usize, usize> = Waiting::new();
        for n in 0..MOST {
            assert_eq!(waiting.put(Some(n), n), Put::Waits);
        }
        assert_eq!(waiting.put(Some(99), 99), Put::Full(99));
        assert_eq!(waiting.put(Some(3), 100), Put::Instead(3), "it takes no more room");
    }
}
