//! Does the sum come out? Pure: what the gateway's own broker gave out is the truth, what arrived at the cloud is compared
//! with it, topic by topic, in order. Texts are kept as hashes and only until they are matched.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// Arrivals remembered per topic to tell a repetition from a stranger: more than a window in flight.
const REMEMBERED: usize = 256;

/// What came of everything that was given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// Given out locally.
    pub given: u64,
    /// Arrived at the cloud, repetitions not counted.
    pub arrived: u64,
    /// Never arrived.
    pub lost: u64,
    /// Arrived after a later one of its topic.
    pub out_of_order: u64,
    /// Arrived again: QoS 1 allows it after a cut, people should see it.
    pub repeated: u64,
    /// Arrived, but never given out.
    pub strange: u64,
}

/// The two sides as they come in; either may be ahead of the other.
#[derive(Debug, Default)]
pub(super) struct Account {
    topics: HashMap<String, Topic>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Topic {
    given: VecDeque<u64>,
    arrived: VecDeque<u64>,
    /// Passed over by a later arrival: lost, unless they still come.
    skipped: HashSet<u64>,
    recent: VecDeque<u64>,
    sum: Sum,
}

impl Account {
    /// The gateway's broker gave this out.
    pub(super) fn given(&mut self, topic: &str, payload: &[u8]) {
        let hash = self.hasher.hash_one(payload);
        let topic = self.topic(topic);
        topic.sum.given += 1;
        topic.given.push_back(hash);
        topic.settle();
    }

    /// The cloud got this, under the local topic's name.
    pub(super) fn arrived(&mut self, topic: &str, payload: &[u8]) {
        let hash = self.hasher.hash_one(payload);
        let topic = self.topic(topic);
        topic.arrived.push_back(hash);
        topic.settle();
    }

    /// The sum, if nothing more came on either side.
    pub(super) fn sum(&self) -> Sum {
        let mut all = Sum::default();
        for topic in self.topics.values() {
            let (s, waiting) = (topic.sum, topic.given.len() + topic.skipped.len());
            all.given += s.given;
            all.arrived += s.arrived;
            all.out_of_order += s.out_of_order;
            all.repeated += s.repeated;
            all.lost += u64::try_from(waiting).unwrap_or(u64::MAX);
            all.strange += u64::try_from(topic.arrived.len()).unwrap_or(u64::MAX);
        }
        all
    }

    fn topic(&mut self, name: &str) -> &mut Topic {
        if !self.topics.contains_key(name) {
            self.topics.insert(name.to_owned(), Topic::default());
        }
        self.topics.get_mut(name).expect("was inserted just now")
    }
}

impl Topic {
    /// Matches what can be matched. An arrival that is not known yet waits: the local side may be slower.
    fn settle(&mut self) {
        while let Some(next) = self.arrived.front().copied() {
            if self.given.front() == Some(&next) {
                self.given.pop_front();
                self.take(next);
            } else if self.skipped.remove(&next) {
                self.sum.out_of_order += 1;
                self.take(next);
            } else if let Some(place) = self.given.iter().position(|h| *h == next) {
                self.skipped.extend(self.given.drain(..place));
                self.given.pop_front();
                self.take(next);
            } else if self.recent.contains(&next) {
                self.sum.repeated += 1;
                self.arrived.pop_front();
            } else {
                return;
            }
        }
    }

    fn take(&mut self, hash: u64) {
        self.arrived.pop_front();
        self.sum.arrived += 1;
        self.recent.push_back(hash);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(given: &str, arrived: &str) -> Sum {
        let mut account = Account::default();
        for c in given.bytes() {
            account.given("a/b", &[c]);
        }
        for c in arrived.bytes() {
            account.arrived("a/b", &[c]);
        }
        account.sum()
    }

    #[test]
    fn what_arrives_in_order_is_right() {
        assert_eq!(account("abc", "abc"), Sum { given: 3, arrived: 3, ..Sum::default() });
    }

    #[test]
    fn what_never_arrives_is_lost() {
        assert_eq!(account("abcd", "abd"), Sum { given: 4, arrived: 3, lost: 1, ..Sum::default() });
        assert_eq!(account("abc", "ab").lost, 1);
    }

    #[test]
    fn a_late_one_is_out_of_order_and_not_lost() {
        assert_eq!(account("abcd", "acbd"), Sum { given: 4, arrived: 4, out_of_order: 1, ..Sum::default() });
    }

    #[test]
    fn a_repetition_is_counted_and_allowed() {
        let sum = account("abcd", "abcbcd");
        assert_eq!(sum, Sum { given: 4, arrived: 4, repeated: 2, ..Sum::default() });
    }

    #[test]
    fn the_cloud_may_hear_of_a_value_before_the_local_subscriber() {
        let mut account = Account::default();
        account.arrived("t", b"1");
        account.arrived("t", b"2");
        assert_eq!(account.sum().strange, 2);
        account.given("t", b"1");
        account.given("t", b"2");
        assert_eq!(account.sum(), Sum { given: 2, arrived: 2, ..Sum::default() });
    }
}
