//! Who still owes an answer. Pure. An RTU answer does not say what it answers, so after a miss a unit's next answer of the
//! same shape could be the one it owes, however late. A device answers in order: once it has answered something that can
//! be told apart, everything before is past. So a unit in debt is first asked such a question.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bus::frame::Asked;

/// An answer that has not come in this time, and in ten timeouts, comes no more.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// More are not remembered: a device with so many requests in its queue would be seen by its first late answer.
const REMEMBERED: usize = 16;
/// Echo questions unanswered in a row before a unit is taken not to know them.
const DEAF: u8 = 3;
/// A unit for which no question tells is left alone this many timeouts, or longer if it has been heard to be slower.
const REST: u32 = 8;

#[derive(Debug)]
struct Owed {
    asked: Asked,
    at: Instant,
    /// Something did come, and was most likely the answer: one that tells is asked, but nobody waits.
    unlikely: bool,
}

#[derive(Debug, Default)]
struct Account {
    owed: Vec<Owed>,
    quiet_until: Option<Instant>,
    latest: Duration,
    unheard_echoes: u8,
}

/// All units of a line.
#[derive(Debug, Default)]
pub(super) struct Debts(HashMap<u8, Account>);

impl Debts {
    /// The unit is not to be asked before: the usual late answer is heard until then.
    pub(super) fn quiet_until(&self, unit: u8) -> Option<Instant> {
        let account = self.0.get(&unit)?;
        if account.owed.is_empty() { None } else { account.quiet_until }
    }

    /// How many answers are owed.
    pub(super) fn owed(&self, unit: u8) -> usize {
        self.0.get(&unit).map_or(0, |a| a.owed.len())
    }

    /// True when an owed answer could be mistaken for the answer to this.
    pub(super) fn doubts(&self, asked: &Asked) -> bool {
        self.0.get(&asked.unit()).is_some_and(|a| a.doubts(asked))
    }

    /// True when this is an exception that an owed question could have brought as well.
    pub(super) fn doubts_exception(&self, asked: &Asked, pdu: &[u8]) -> bool {
        let same = |a: &Account| a.owed.iter().any(|o| o.asked.pdu()[0] == asked.pdu()[0]);
        pdu[0] & 0x80 != 0 && self.0.get(&asked.unit()).is_some_and(same)
    }

    /// No answer came, or none that could be read.
    pub(super) fn missed(&mut self, asked: &Asked, now: Instant, timeout: Duration) {
        let account = self.0.entry(asked.unit()).or_default();
        account.owe(Owed { asked: asked.clone(), at: now, unlikely: false }, timeout);
        account.quiet_until = Some(now + timeout);
        if asked.is_echo() {
            account.unheard_echoes = account.unheard_echoes.saturating_add(1);
        }
    }

    /// What came was most likely the answer, if damaged or not believed; it may still be on its way.
    pub(super) fn unsettled(&mut self, asked: &Asked, now: Instant, timeout: Duration) {
        let account = self.0.entry(asked.unit()).or_default();
        account.owe(Owed { asked: asked.clone(), at: now, unlikely: true }, timeout);
    }

    /// A sound frame was put aside: what it answers is paid, and so is everything before. What it answers, where anything.
    pub(super) fn heard_late(&mut self, unit: u8, pdu: &[u8], now: Instant) -> Option<Asked> {
        let account = self.0.get_mut(&unit)?;
        let at = account.position(pdu)?;
        account.latest = account.latest.max(now.saturating_duration_since(account.owed[at].at));
        account.owed.drain(..=at).next_back().map(|o| o.asked)
    }

    /// True when such a frame would pay for something.
    pub(super) fn is_owed(&self, unit: u8, pdu: &[u8]) -> bool {
        self.0.get(&unit).is_some_and(|a| a.position(pdu).is_some())
    }

    /// An answer was taken. An exception of a function that is owed may be an old one: then this is owed instead.
    pub(super) fn answered(&mut self, asked: &Asked, pdu: &[u8], now: Instant) {
        let Some(account) = self.0.get_mut(&asked.unit()) else { return };
        account.unheard_echoes = 0;
        let exception = pdu[0] & 0x80 != 0;
        if exception && account.owed.iter().any(|o| o.asked.pdu()[0] == asked.pdu()[0]) {
            account.owed.remove(0);
            account.owed.push(Owed { asked: asked.clone(), at: now, unlikely: false });
        } else {
            account.owed.clear();
        }
    }

    /// Questions whose answer nothing owed can be mistaken for, the likelier to be understood first: fewer items of the
    /// same block; the diagnostic echo (serial line only, V1.1b3, 6.8), to which "unknown function" is an answer as well.
    pub(super) fn telling(&self, asked: &Asked, mark: u16) -> Vec<Asked> {
        let Some(account) = self.0.get(&asked.unit()) else { return Vec::new() };
        let shorter = asked.shorter().find(|question| !account.doubts(question));
        let echo = (account.unheard_echoes < DEAF).then(|| Asked::echo(asked.unit(), mark));
        shorter.into_iter().chain(echo).collect()
    }

    /// True while a unit for which nothing else tells must be left alone, so that a late answer comes into the silence.
    pub(super) fn is_resting(&self, unit: u8, now: Instant, timeout: Duration) -> bool {
        let Some(account) = self.0.get(&unit) else { return false };
        let rest = (timeout * REST).max(account.latest * 3 / 2);
        let last = account.owed.iter().rfind(|o| !o.unlikely);
        account.unheard_echoes >= DEAF && last.is_some_and(|o| now < o.at + rest)
    }

    /// How long after its time a unit has been heard to answer.
    pub(super) fn latest(&self, unit: u8) -> Duration {
        self.0.get(&unit).map_or(Duration::ZERO, |a| a.latest)
    }
}

impl Account {
    fn doubts(&self, asked: &Asked) -> bool {
        self.owed.iter().any(|o| o.asked.is_like(asked))
    }

    fn position(&self, pdu: &[u8]) -> Option<usize> {
        self.owed.iter().position(|o| o.asked.is_answered_by(pdu))
    }

    fn owe(&mut self, owed: Owed, timeout: Duration) {
        self.owed.retain(|o| owed.at.saturating_duration_since(o.at) < FORGOTTEN.max(timeout * 10));
        if self.owed.len() == REMEMBERED {
            self.owed.remove(0);
        }
        self.owed.push(owed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn read(count: u8) -> Asked {
        Asked::new(1, vec![3, 0, 10, 0, count])
    }

    fn in_debt(counts: &[u8]) -> Debts {
        let mut debts = Debts::default();
        counts.iter().for_each(|count| debts.missed(&read(*count), Instant::now(), TIMEOUT));
        debts
    }

    #[tokio::test]
    async fn a_unit_in_debt_is_asked_something_that_can_be_told_apart() {
        let debts = in_debt(&[3, 1]);
        assert!(debts.doubts(&read(3)) && !debts.doubts(&read(2)));
        let told: Vec<Vec<u8>> = debts.telling(&read(3), 7).iter().map(|q| q.pdu().to_vec()).collect();
        assert_eq!(told, [vec![3, 0, 10, 0, 2], vec![8, 0, 0, 0, 7]]);
    }

    #[tokio::test]
    async fn a_single_register_is_told_apart_by_the_echo_until_the_unit_proves_deaf_to_it() {
        let mut debts = in_debt(&[1]);
        for mark in [1, 2, 3] {
            let question = debts.telling(&read(1), mark).pop().unwrap();
            assert!(question.is_echo());
            debts.missed(&question, Instant::now(), TIMEOUT);
        }
        assert!(debts.telling(&read(1), 4).is_empty() && debts.doubts(&read(1)));
        let now = Instant::now();
        assert!(debts.is_resting(1, now, TIMEOUT) && !debts.is_resting(1, now + TIMEOUT * 8, TIMEOUT));
    }

    #[tokio::test]
    async fn an_answer_pays_for_all_before_it() {
        let now = Instant::now();
        let mut debts = in_debt(&[3, 2, 1]);
        debts.heard_late(1, &[3, 4, 0, 0, 0, 0], now);
        assert!(!debts.doubts(&read(3)) && debts.doubts(&read(1)));
        debts.answered(&read(4), &[3, 8, 0, 0, 0, 0, 0, 0, 0, 0], now);
        assert_eq!(debts.owed(1), 0);
    }

    #[tokio::test]
    async fn an_exception_may_be_the_answer_that_was_owed() {
        let mut debts = in_debt(&[3]);
        debts.answered(&read(2), &[0x83, 2], Instant::now());
        assert!(debts.doubts(&read(2)), "its own answer may still come");
        debts.answered(&Asked::echo(1, 5), &[0x88, 1], Instant::now());
        assert_eq!(debts.owed(1), 0, "nothing else could have brought this");
    }
}
