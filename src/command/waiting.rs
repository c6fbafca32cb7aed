//! Commands that wait for one line. Pure. The latest wins: while a write waits, a newer one of the same point takes its place,
//! because the older would only be undone. The older is thrown out only where it is sure that the newer will be done; else it
//! stays behind it until that has shown. None overtakes a batch or a read: these may be about the same point.

use std::collections::VecDeque;

/// More are answered "busy": a line that cannot keep up with so many is in trouble that waiting does not mend.
pub(super) const MOST: usize = 32;

/// What can be said of a newer write before its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It will be tried, whenever one of those in its place would have been.
    Sure,
    /// It would be tried now, but may not be when it is its turn.
    Likely,
    /// It is going to be refused, as far as can be seen.
    Doubtful,
}

/// What became of a command that was to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put<J> {
    /// It waits.
    Waits,
    /// It waits in the place of these, which are not done any more.
    Instead(Vec<J>),
    /// There is no room for it.
    Full(J),
}

#[derive(Debug)]
struct Place<K, J> {
    key: Option<K>,
    /// Rivals; the newest is the last.
    jobs: Vec<J>,
}

/// In the order in which they will be done. `K` names the point of a write that may be replaced.
#[derive(Debug)]
pub(super) struct Waiting<K, J>(VecDeque<Place<K, J>>);

impl<K: PartialEq, J> Waiting<K, J> {
    pub(super) const fn new() -> Self {
        Self(VecDeque::new())
    }

    fn place(&self, key: Option<&K>) -> Option<usize> {
        let behind = self.0.iter().rposition(|place| place.key.is_none()).map_or(0, |at| at + 1);
        let same = self.0.iter().skip(behind).position(|place| key.is_some() && place.key.as_ref() == key);
        same.map(|at| behind + at)
    }

    /// Those whose place a write with this key would take.
    pub(super) fn rivals(&self, key: Option<&K>) -> &[J] {
        self.place(key).map_or(&[], |at| &self.0[at].jobs)
    }

    pub(super) fn put(&mut self, key: Option<K>, job: J, claim: Claim) -> Put<J> {
        let is_full = self.0.iter().map(|place| place.jobs.len()).sum::<usize>() >= MOST;
        let rivals = self.place(key.as_ref()).map(|at| &mut self.0[at].jobs);
        match (rivals, claim) {
            (Some(rivals), Claim::Sure) => Put::Instead(std::mem::replace(rivals, vec![job])),
            (Some(rivals), Claim::Likely) if is_full => {
                let oldest = rivals.remove(0);
                rivals.push(job);
                Put::Instead(vec![oldest])
            }
            _ if is_full => Put::Full(job),
            (Some(rivals), _) => {
                rivals.push(job);
                Put::Waits
            }
            (None, _) => {
                self.0.push_back(Place { key, jobs: vec![job] });
                Put::Waits
            }
        }
    }

    /// What is next, the newest last: an older one only where the newer ones come to nothing.
    pub(super) fn next(&mut self) -> Option<Vec<J>> {
        self.0.pop_front().map(|place| place.jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<K: PartialEq, J>(mut waiting: Waiting<K, J>) -> Vec<Vec<J>> {
        std::iter::from_fn(|| waiting.next()).collect()
    }

    #[test]
    fn the_latest_of_a_point_wins_and_keeps_the_place_of_the_first() {
        let mut waiting = Waiting::new();
        assert_eq!(waiting.put(Some("a"), 1, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(Some("b"), 2, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 3, Claim::Sure), Put::Instead(vec![1]));
        assert_eq!(all(waiting), [[3], [2]]);
    }

    #[test]
    fn one_that_may_come_to_nothing_throws_none_out() {
        let mut waiting = Waiting::new();
        assert_eq!(waiting.put(Some("a"), 1, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(Some("b"), 2, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 3, Claim::Doubtful), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 4, Claim::Likely), Put::Waits);
        assert_eq!(waiting.rivals(Some(&"a")), [1, 3, 4]);
        assert_eq!(waiting.put(Some("b"), 5, Claim::Sure), Put::Instead(vec![2]));
        assert_eq!(all(waiting), [vec![1, 3, 4], vec![5]]);
    }

    #[test]
    fn no_write_overtakes_a_batch_that_may_be_about_the_same_point() {
        let mut waiting = Waiting::new();
        assert_eq!(waiting.put(Some("a"), 1, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(None, 2, Claim::Doubtful), Put::Waits);
        assert!(waiting.rivals(Some(&"a")).is_empty());
        assert_eq!(waiting.put(Some("a"), 3, Claim::Sure), Put::Waits);
        assert_eq!(waiting.put(Some("a"), 4, Claim::Sure), Put::Instead(vec![3]));
        assert_eq!(all(waiting), [[1], [2], [4]]);
    }

    #[test]
    fn a_full_queue_gives_the_newest_back_unless_it_comes_in_the_place_of_another() {
        let mut waiting: Waiting<usize, usize> = Waiting::new();
        for n in 0..MOST {
            assert_eq!(waiting.put(Some(n), n, Claim::Sure), Put::Waits);
        }
        assert_eq!(waiting.put(Some(99), 99, Claim::Sure), Put::Full(99));
        assert_eq!(waiting.put(Some(3), 100, Claim::Doubtful), Put::Full(100), "it would throw out one that counts");
        assert_eq!(waiting.put(Some(3), 101, Claim::Likely), Put::Instead(vec![3]), "it takes no more room");
        assert_eq!(waiting.put(Some(3), 102, Claim::Sure), Put::Instead(vec![101]));
    }
}
