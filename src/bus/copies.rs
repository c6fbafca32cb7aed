//! Answers that were heard, so that a second copy of one is known again. Pure. A repeater, or a gateway that sends again, puts
//! an answer on the line twice, and an RTU answer does not say what it answers: the copy fits the next question of the same
//! shape. So what is byte for byte an earlier answer to another question is doubted until it is proven. A line that has been
//! heard to repeat itself is trusted less, one that has not costs nothing. See docs/decisions/0014.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Duration;

use tokio::time::Instant;

use crate::bus::frame::Asked;

/// A copy comes within this time: a gateway that sends again does so within its own timeout, a second at most.
const WINDOW: Duration = Duration::from_secs(1);
/// Answers remembered of each unit: on a fast line more than pass within the delay of any repeater heard of.
const REMEMBERED: usize = 32;
/// Below this, the pause before a copy cannot be told from this machine's own hesitation.
const FLOOR: Duration = Duration::from_millis(2);
/// Silence before a question costs everyone; beyond this, asking twice is cheaper.
const LONGEST_QUIET: Duration = Duration::from_millis(100);
/// A line that has not repeated itself for so long is well again.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Questions with an answer proven to be their own; more are not remembered, they only cost being proven again.
const PROVEN: usize = 256;
/// A question proven so often in a row has a twin: a register that stands at two addresses.
const TWIN: u8 = 8;

/// One answer that was heard.
#[derive(Debug)]
struct Heard {
    /// `None`: put aside, and nobody knows what it answers.
    question: Option<u64>,
    answer: u64,
    at: Instant,
}

/// What is known of one unit.
#[derive(Debug, Default)]
struct Unit {
    heard: VecDeque<Heard>,
    quickest: Duration,
    slowest: Duration,
}

/// All units of a line.
#[derive(Debug, Default)]
pub(super) struct Copies {
    units: HashMap<u8, Unit>,
    /// By question: the answer that was proven to be its own, and how often in a row.
    proven: HashMap<u64, (u64, u8)>,
    /// The longest time from an answer to its copy, and when the last copy came.
    delay: Option<(Duration, Instant)>,
}

fn digest(unit: u8, pdu: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (unit, pdu).hash(&mut hasher);
    hasher.finish()
}

impl Copies {
    /// An answer was taken.
    pub(super) fn answered(&mut self, asked: &Asked, pdu: &[u8], (at, turnaround): (Instant, Duration)) {
        let unit = self.units.entry(asked.unit()).or_default();
        if unit.slowest.is_zero() {
            unit.quickest = turnaround;
        }
        // Both forget slowly: a device may change its ways.
        unit.quickest = turnaround.min(unit.quickest + (turnaround.saturating_sub(unit.quickest)) / 32);
        unit.slowest = turnaround.max(unit.slowest - (unit.slowest.saturating_sub(turnaround)) / 32);
        unit.remember(Some(digest(asked.unit(), asked.pdu())), digest(asked.unit(), pdu), at);
    }

    /// A sound frame was put aside that answers this question of old.
    pub(super) fn late(&mut self, asked: &Asked, pdu: &[u8], at: Instant) {
        let question = Some(digest(asked.unit(), asked.pdu()));
        self.units.entry(asked.unit()).or_default().remember(question, digest(asked.unit(), pdu), at);
    }

    /// True when a sound frame that nobody takes has been heard before.
    pub(super) fn is_known(&self, unit: u8, pdu: &[u8], now: Instant) -> bool {
        let answer = digest(unit, pdu);
        self.units.get(&unit).is_some_and(|u| u.alike(answer, now).next().is_some())
    }

    /// This frame was a copy: the line repeats itself.
    pub(super) fn repeated(&mut self, unit: u8, pdu: &[u8], now: Instant) {
        let answer = digest(unit, pdu);
        let Some(unit) = self.units.get_mut(&unit) else { return };
        let Some(heard) = unit.heard.iter_mut().rev().find(|h| h.answer == answer) else { return };
        let delay = now.saturating_duration_since(heard.at).max(FLOOR);
        let longest = self.delay.map_or(delay, |(longest, _)| longest.max(delay));
        self.delay = Some((longest, now));
        self.proven.clear();
    }

    /// True when this may be a copy of an earlier answer: the same bytes answered something else, or they come sooner than
    /// this unit ever answers, or as soon as copies come on this line. So may our own question, heard by an adapter that
    /// nobody told us hears itself: for bits it can look like an answer.
    pub(super) fn doubts(&self, asked: &Asked, pdu: &[u8], (now, turnaround): (Instant, Duration)) -> bool {
        let is_question = (asked.is_read() || asked.is_read_write()) && pdu == asked.pdu();
        let Some(unit) = self.units.get(&asked.unit()) else { return is_question };
        let (question, answer) = (digest(asked.unit(), asked.pdu()), digest(asked.unit(), pdu));
        let is_proven = self.proven.get(&question).is_some_and(|(own, times)| *own == answer || *times >= TWIN);
        if is_question {
            return !is_proven;
        }
        let mut alike = unit.alike(answer, now).peekable();
        if alike.peek().is_none() {
            return false;
        }
        let delay = self.delay(now);
        let own = alike.clone().rfind(|h| h.question == Some(question));
        if let Some(delay) = delay {
            let strange = alike.any(|h| h.question != Some(question));
            return strange || own.is_some_and(|h| now < h.at + delay * 4);
        }
        match own {
            Some(_) => turnaround + FLOOR / 2 < unit.quickest / 2,
            None => !is_proven,
        }
    }

    /// Asked again the unit said the same again: these are this question's own words, whatever else they answer.
    pub(super) fn prove(&mut self, asked: &Asked, pdu: &[u8]) {
        if self.proven.len() >= PROVEN {
            self.proven.clear();
        }
        let proven = self.proven.entry(digest(asked.unit(), asked.pdu())).or_insert((0, 0));
        *proven = (digest(asked.unit(), pdu), proven.1.saturating_add(1));
    }

    /// How long to go on listening after something doubtful: if it was a copy, the answer follows within this time.
    pub(super) fn patience(&self, unit: u8, now: Instant) -> Duration {
        let slowest = self.units.get(&unit).map_or(Duration::ZERO, |u| u.slowest);
        (slowest * 2).max(self.delay(now).unwrap_or_default() * 3 / 2)
    }

    /// On a line that repeats itself, this unit is not to be asked before: the copy comes into the silence. Never longer than
    /// an answer may take.
    pub(super) fn quiet_until(&self, unit: u8, (now, timeout): (Instant, Duration)) -> Option<Instant> {
        let delay = self.delay(now)?;
        let last = self.units.get(&unit)?.heard.back()?;
        Some(last.at + (delay * 3 / 2).min(LONGEST_QUIET).min(timeout))
    }

    /// The longest time from an answer to its copy; `None` where there are none.
    fn delay(&self, now: Instant) -> Option<Duration> {
        self.delay.filter(|(_, last)| now < *last + FORGOTTEN).map(|(delay, _)| delay)
    }
}

impl Unit {
    fn remember(&mut self, question: Option<u64>, answer: u64, at: Instant) {
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(Heard { question, answer, at });
    }

    fn alike(&self, answer: u64, now: Instant) -> impl DoubleEndedIterator<Item = &Heard> + Clone {
        self.heard.iter().filter(move |h| h.answer == answer && now < h.at + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNAROUND: Duration = Duration::from_millis(20);
    const ANSWER: [u8; 4] = [3, 2, 0, 7];

    fn read(address: u8) -> Asked {
        Asked::new(1, vec![3, 0, address, 0, 1])
    }

    fn after(now: Instant, ms: u64) -> Instant {
        now + Duration::from_millis(ms)
    }

    /// Register 0 was answered now.
    fn heard(now: Instant) -> Copies {
        let mut copies = Copies::default();
        copies.answered(&read(0), &ANSWER, (now, TURNAROUND));
        copies
    }

    #[tokio::test]
    async fn the_same_bytes_to_another_question_are_doubted_until_proven_and_only_while_a_copy_can_come() {
        let now = Instant::now();
        let mut copies = heard(now);
        assert!(copies.doubts(&read(1), &ANSWER, (after(now, 30), TURNAROUND)));
        assert!(!copies.doubts(&read(1), &[3, 2, 0, 8], (after(now, 30), TURNAROUND)), "other bytes");
        assert!(!copies.doubts(&read(0), &ANSWER, (after(now, 30), TURNAROUND)), "a register that stands still");
        assert!(!copies.doubts(&read(1), &ANSWER, (after(now, 1_000), TURNAROUND)), "too long ago");
        copies.prove(&read(1), &ANSWER);
        assert!(!copies.doubts(&read(1), &ANSWER, (after(now, 60), TURNAROUND)));
        assert!(copies.doubts(&read(2), &ANSWER, (after(now, 60), TURNAROUND)), "proven for one is not for all");
    }

    #[tokio::test]
    async fn a_line_that_repeats_itself_is_trusted_less_until_it_has_been_well_for_long() {
        let now = Instant::now();
        let mut copies = heard(now);
        copies.prove(&read(1), &ANSWER);
        assert_eq!(copies.quiet_until(1, (now, TURNAROUND)), None);
        assert!(copies.is_known(1, &ANSWER, after(now, 10)) && !copies.is_known(2, &ANSWER, after(now, 10)));
        copies.repeated(1, &ANSWER, after(now, 10));
        let at = after(now, 12);
        assert_eq!(copies.quiet_until(1, (at, TURNAROUND)), Some(after(now, 15)));
        assert_eq!(copies.quiet_until(2, (at, TURNAROUND)), None, "nothing of that unit can come twice");
        assert!(copies.doubts(&read(1), &ANSWER, (at, TURNAROUND)), "proofs of a better time are void");
        assert!(copies.doubts(&read(0), &ANSWER, (after(now, 39), TURNAROUND)), "the last scan's answer again");
        assert!(!copies.doubts(&read(0), &ANSWER, (after(now, 41), TURNAROUND)), "later than copies come");
        let well = after(now, 10) + FORGOTTEN;
        assert_eq!(copies.quiet_until(1, (well, TURNAROUND)), None);
    }

    #[tokio::test]
    async fn the_silence_before_a_question_is_never_longer_than_an_answer_may_take() {
        let now = Instant::now();
        let mut copies = heard(now);
        copies.repeated(1, &ANSWER, after(now, 900));
        assert_eq!(copies.quiet_until(1, (now, TURNAROUND)), Some(now + TURNAROUND));
        assert_eq!(copies.quiet_until(1, (now, TURNAROUND * 100)), Some(now + LONGEST_QUIET));
    }

    #[tokio::test]
    async fn what_comes_much_sooner_than_a_device_ever_answers_is_doubted_if_it_was_heard_before() {
        let now = Instant::now();
        let copies = heard(now);
        let soon = Duration::from_millis(5);
        assert!(copies.doubts(&read(0), &ANSWER, (after(now, 30), soon)));
        assert!(!copies.doubts(&read(0), &[3, 2, 0, 8], (after(now, 30), soon)), "a device may hurry with a new value");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let now = Instant::now();
        let mut copies = Copies::default();
        for address in 0..=255 {
            copies.answered(&read(address), &ANSWER, (now, TURNAROUND));
            copies.prove(&read(address), &ANSWER);
            copies.prove(&Asked::new(2, vec![3, 0, address, 0, 1]), &ANSWER);
        }
        assert_eq!(copies.units[&1].heard.len(), REMEMBERED);
        assert!(copies.proven.len() <= PROVEN);
    }
}
