//! Which log lines are said and which are only counted: of lines that are alike, the first few of a while, and then how many
//! more there were. The whiles grow as long as it goes on, so that what fails for a month costs a handful of lines an hour.
//! Pure: takes `now`. Bounded: what it knows of most kinds it forgets after a minute, and it knows so many at most.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many of a kind are said in each window: enough to see a rhythm, or different words at the same place.
pub(super) const SAID: u32 = 5;
/// So many of one place in the program, whatever they are about: a trunk of eighty devices that goes is told in full, ten
/// thousand clients with a name of their own each are not.
pub(super) const OF_A_PLACE: u32 = 300;
/// The first window of a kind, doubled while lines are left out.
const WINDOW: Duration = Duration::from_secs(60);
/// The longest: who looks at the log sees within this that it still goes on.
const LONGEST: Duration = Duration::from_secs(600);
/// Kinds that are known at once; half a kilobyte each at most. More at once and the eldest is forgotten, with its number told.
const KINDS: usize = 256;

/// What a line is, for those that are like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// Place, subject and words.
    pub(super) line: u64,
    /// The place alone.
    pub(super) place: u64,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Said,
    /// The first that is left out of its window: its words are wanted for the number that follows.
    LeftOutFirst,
    LeftOut,
}

/// How many were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum<T> {
    pub(super) left_out: u64,
    /// In how long.
    pub(super) over: Duration,
    /// The first of them.
    pub(super) sample: T,
}

/// All kinds that were seen of late.
#[derive(Debug)]
pub(super) struct Repeats<T> {
    kinds: HashMap<u64, Window<T>>,
    /// As many as there are places in the program that log.
    places: HashMap<u64, Window<T>>,
    /// No window ends before.
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Window<T> {
    since: Instant,
    length: Duration,
    said: u32,
    left_out: u64,
    sample: Option<T>,
}

impl<T> Window<T> {
    const fn new(now: Instant) -> Self {
        Self { since: now, length: WINDOW, said: 0, left_out: 0, sample: None }
    }

    fn end(&self) -> Instant {
        self.since + self.length
    }

    fn sum(&mut self, now: Instant) -> Option<Sum<T>> {
        let over = now.saturating_duration_since(self.since);
        let sample = self.sample.take()?;
        Some(Sum { left_out: std::mem::take(&mut self.left_out), over, sample })
    }

    fn judge(&mut self, most: u32) -> Verdict {
        if self.said < most {
            self.said += 1;
            return Verdict::Said;
        }
        self.left_out += 1;
        if self.sample.is_none() { Verdict::LeftOutFirst } else { Verdict::LeftOut }
    }
}

impl<T> Repeats<T> {
    pub(super) fn new() -> Self {
        Self { kinds: HashMap::new(), places: HashMap::new(), look_at: None }
    }

    /// The sums of windows that have ended.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Sum<T>> {
        if self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut sums = Vec::new();
        let mut is_open = |window: &mut Window<T>| {
            if now < window.end() {
                return true;
            }
            // A window without one too many ends the matter.
            let Some(sum) = window.sum(now) else { return false };
            sums.push(sum);
            let length = (window.length * 2).min(LONGEST);
            *window = Window { length, ..Window::new(now) };
            true
        };
        self.kinds.retain(|_, window| is_open(window));
        self.places.retain(|_, window| is_open(window));
        self.look_at = self.kinds.values().chain(self.places.values()).map(Window::end).min();
        sums
    }

    /// The sums of all windows, whether they have ended or not: nobody comes back to them.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<Sum<T>> {
        let all = self.kinds.drain().chain(self.places.drain());
        all.filter_map(|(_, mut window)| window.sum(now)).collect()
    }

    /// Judges a line. Also the sum of a kind that had to be forgotten for it.
    pub(super) fn judge(&mut self, kind: Kind, must: Must, now: Instant) -> (Verdict, Option<Sum<T>>) {
        let forgotten = if self.kinds.contains_key(&kind.line) { None } else { self.make_room(now) };
        let end = now + WINDOW;
        self.look_at = Some(self.look_at.map_or(end, |at| at.min(end)));
        let verdict = self.kinds.entry(kind.line).or_insert_with(|| Window::new(now)).judge(SAID);
        if verdict != Verdict::Said || must == Must::BeSaidOnce {
            return (verdict, forgotten);
        }
        (self.places.entry(kind.place).or_insert_with(|| Window::new(now)).judge(OF_A_PLACE), forgotten)
    }

    /// The words of the first that was left out.
    pub(super) fn remember(&mut self, kind: Kind, sample: T) {
        let full = |w: &Window<T>| w.left_out > 0 && w.sample.is_none();
        let windows = [self.kinds.get_mut(&kind.line), self.places.get_mut(&kind.place)];
        if let Some(window) = windows.into_iter().flatten().find(|window| full(window)) {
            window.sample = Some(sample);
        }
    }

    fn make_room(&mut self, now: Instant) -> Option<Sum<T>> {
        if self.kinds.len() < KINDS {
            return None;
        }
        let eldest = *self.kinds.iter().min_by_key(|(_, window)| window.end())?.0;
        self.kinds.remove(&eldest)?.sum(now)
    }
}

/// Whether a line may be left out because of others of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    /// It may.
    Nothing,
    /// The first of its kind is said in any case.
    BeSaidOnce,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Kind = Kind { line: 1, place: 100 };
    const B: Kind = Kind { line: 2, place: 100 };

    /// A line each second from `from` to `to`; at which seconds it was said, and the sums with theirs.
    fn each_second(
        repeats: &mut Repeats<u64>,
        begin: Instant,
        span: std::ops::Range<u64>,
    ) -> (Vec<u64>, Vec<(u64, Sum<u64>)>) {
        let (mut said, mut sums) = (Vec::new(), Vec::new());
        for second in span {
            let now = begin + Duration::from_secs(second);
            sums.extend(repeats.ended(now).into_iter().map(|sum| (second, sum)));
            match repeats.judge(A, Must::Nothing, now).0 {
                Verdict::Said => said.push(second),
                Verdict::LeftOutFirst => repeats.remember(A, second),
                Verdict::LeftOut => {}
            }
        }
        (said, sums)
    }

    #[test]
    fn the_first_five_are_said_and_then_how_many_more_in_ever_longer_whiles() {
        let (mut repeats, begin) = (Repeats::new(), Instant::now());
        let (said, sums) = each_second(&mut repeats, begin, 0..60 * 60);
        assert_eq!(said[..5], [0, 1, 2, 3, 4]);
        let first = Sum { left_out: 55, over: Duration::from_secs(60), sample: 5 };
        assert_eq!(sums[0], (60, first));
        let whiles: Vec<u64> = sums.iter().map(|(_, sum)| sum.over.as_secs()).collect();
        assert_eq!(whiles, [60, 120, 240, 480, 600, 600, 600, 600]);
        // Nothing is said twice or lost: what was said and what was counted is all there was until the last sum.
        let last = sums.last().unwrap().0;
        let until = said.iter().filter(|second| **second < last).count() as u64;
        assert_eq!(until + sums.iter().map(|(_, sum)| sum.left_out).sum::<u64>(), last);
        assert!(said.len() < 50, "{} in an hour", said.len());
    }

    #[test]
    fn after_a_quiet_while_all_begins_anew() {
        let (mut repeats, begin) = (Repeats::new(), Instant::now());
        each_second(&mut repeats, begin, 0..100);
        let (said, sums) = each_second(&mut repeats, begin, 1000..1010);
        assert_eq!(sums.iter().map(|(at, sum)| (*at, sum.left_out)).collect::<Vec<_>>(), [(1000, 35)]);
        assert_eq!(said, [1000, 1001, 1002, 1003, 1004]);
        assert!(repeats.ended(begin + Duration::from_secs(1500)).len() == 1);
        each_second(&mut repeats, begin, 1500..1520);
        assert_eq!(repeats.rest(begin + Duration::from_secs(1520)).iter().map(|sum| sum.left_out).sum::<u64>(), 15);
        assert!(repeats.ended(begin + Duration::from_secs(3000)).is_empty() && repeats.kinds.is_empty());
    }

    #[test]
    fn one_kind_says_nothing_about_another() {
        let (mut repeats, now) = (Repeats::<()>::new(), Instant::now());
        for _ in 0..100 {
            repeats.judge(A, Must::Nothing, now);
        }
        assert_eq!(repeats.judge(B, Must::Nothing, now).0, Verdict::Said);
    }

    #[test]
    fn a_place_whose_lines_are_all_different_is_limited_too_but_never_a_first_error() {
        let (mut repeats, now) = (Repeats::new(), Instant::now());
        let (mut said, mut sums) = (0, 0);
        for line in 0..10_000 {
            let kind = Kind { line, place: 7 };
            let (verdict, sum) = repeats.judge(kind, Must::Nothing, now);
            sums += sum.map_or(0, |sum: Sum<u64>| sum.left_out);
            match verdict {
                Verdict::Said => said += 1,
                Verdict::LeftOutFirst => repeats.remember(kind, line),
                Verdict::LeftOut => {}
            }
            assert!(repeats.kinds.len() <= KINDS);
        }
        assert!(said < 10_000 / 10, "{said}");
        sums += repeats.ended(now + LONGEST).iter().map(|sum| sum.left_out).sum::<u64>();
        assert_eq!(said + sums, 10_000, "what was left out is told");
        let error = Kind { line: 1 << 40, place: 7 };
        assert_eq!(repeats.judge(error, Must::BeSaidOnce, now).0, Verdict::Said);
    }
}
