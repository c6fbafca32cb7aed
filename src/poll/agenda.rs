//! Which turn goes on. Pure; the task asks it before each read, and the forecast before each read that it imagines.
//! Earliest deadline first, from read to read: a long turn of slow points gives way, between two of its reads, to one that
//! must be over sooner, and goes on afterwards. A turn that waits (a read to be tried again) holds up nobody but its device.

use std::time::Duration;

use crate::point::DeviceId;
use crate::poll::schedule::{Clocks, Due, Timetable};

/// A turn that has begun and is not over.
#[derive(Debug)]
pub(crate) struct Begun<T> {
    pub(crate) device: DeviceId,
    deadline: Duration,
    /// Not to go on before: its device is left alone for a while.
    not_before: Duration,
    pub(crate) work: T,
}

/// What is to be done now.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// A turn is due; it is begun with [`Agenda::begin`], or left.
    Begin(Due),
    /// This one goes on; it is given back with [`Agenda::put_back`] unless it is over.
    GoOn(Begun<T>),
    /// Nothing before this.
    Wait(Option<Duration>),
}

/// The turns of one line: those to come, and those that have begun.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    pub(crate) table: Timetable,
    begun: Vec<Begun<T>>,
}

impl<T> Agenda<T> {
    pub(crate) const fn new(table: Timetable) -> Self {
        Self { table, begun: Vec::new() }
    }

    /// What goes on now. A turn begins only where none that is under way must be over sooner, and where its device has none
    /// that waits: the device would be asked too early.
    pub(crate) fn next(&mut self, clocks: Clocks) -> Next<T> {
        let ready = (0..self.begun.len()).filter(|n| self.begun[*n].not_before <= clocks.now);
        let first = ready.min_by_key(|n| self.begun[*n].deadline);
        let soonest = first.map_or(Duration::MAX, |n| self.begun[n].deadline);
        let begun = &self.begun;
        let waits = |device| begun.iter().any(|b| b.device == device && b.not_before > clocks.now);
        if let Some(due) = self.table.take_if(clocks, |device, deadline| deadline < soonest && !waits(device)) {
            return Next::Begin(due);
        }
        match first {
            Some(n) => Next::GoOn(self.begun.swap_remove(n)),
            None => Next::Wait(self.wake(waits)),
        }
    }

    /// When something may go on: a waiting turn, or the next of a device that has none.
    fn wake(&self, waits: impl Fn(DeviceId) -> bool) -> Option<Duration> {
        let resting = self.begun.iter().map(|b| b.not_before);
        resting.chain(self.table.next_of(|device| !waits(device))).min()
    }

    /// Its device is not to be asked before `not_before`.
    pub(crate) fn begin(&mut self, due: &Due, work: T, not_before: Duration) {
        let (device, deadline) = (due.device, due.deadline);
        self.begun.push(Begun { device, deadline, not_before, work });
    }

    /// A turn out of turn: before all others whose deadline is later, but not before its device may be asked.
    pub(crate) fn begin_by(&mut self, device: DeviceId, work: T, (deadline, not_before): (Duration, Duration)) {
        self.begun.push(Begun { device, deadline, not_before, work });
    }

    /// Whether one like this is under way.
    pub(crate) fn any(&self, like: impl Fn(&T) -> bool) -> bool {
        self.begun.iter().any(|b| like(&b.work))
    }

    /// None of this device's turns goes on before.
    pub(crate) fn quiet(&mut self, device: DeviceId, until: Duration) {
        for begun in self.begun.iter_mut().filter(|b| b.device == device) {
            begun.not_before = begun.not_before.max(until);
        }
    }

    pub(crate) fn put_back(&mut self, turn: Begun<T>) {
        self.begun.push(turn);
    }

    /// The turn's device is not to be asked before, for no other turn either.
    pub(crate) fn rest(&mut self, turn: Begun<T>, until: Duration) {
        self.quiet(turn.device, until);
        self.begun.push(Begun { not_before: until, ..turn });
    }

    /// Of what is under way only this goes on.
    pub(crate) fn keep(&mut self, mut goes_on: impl FnMut(&mut T) -> bool) {
        self.begun.retain_mut(|b| goes_on(&mut b.work));
    }

    /// Nothing more of this device is under way.
    pub(crate) fn abandon(&mut self, device: DeviceId) {
        self.begun.retain(|b| b.device != device);
    }

    /// Whether a turn could go on now.
    pub(crate) fn is_busy(&self, now: Duration) -> bool {
        self.begun.iter().any(|b| b.not_before <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plant::Schedule;
    use crate::point::PointId;

    const SLOW: DeviceId = DeviceId(1);
    const FAST: DeviceId = DeviceId(2);

    fn at(ms: u64) -> Clocks {
        Clocks { now: Duration::from_millis(ms), wall_us: i64::try_from(ms).unwrap() * 1000 }
    }

    /// Turns are counted down: so many reads are left.
    fn agenda(rows: &[(DeviceId, u64)]) -> Agenda<u32> {
        let every = |ms| Schedule::Every { period: Duration::from_millis(ms), align: false };
        let rows: Vec<_> = rows.iter().zip(0..).map(|((d, ms), n)| (*d, PointId(n), every(*ms))).collect();
        let rows = rows.iter().map(|(d, p, s)| (*d, *p, s));
        Agenda::new(Timetable::new(rows, at(0), jiff::tz::TimeZone::UTC))
    }

    /// Who is asked at that time; a turn of the slow device has five reads, any other one.
    fn asked(agenda: &mut Agenda<u32>, ms: u64) -> Option<DeviceId> {
        loop {
            match agenda.next(at(ms)) {
                Next::Begin(due) => agenda.begin(&due, if due.device == SLOW { 5 } else { 1 }, Duration::ZERO),
                Next::GoOn(mut turn) => {
                    let device = turn.device;
                    turn.work -= 1;
                    if turn.work > 0 {
                        agenda.put_back(turn);
                    }
                    return Some(device);
                }
                Next::Wait(_) => return None,
            }
        }
    }

    #[test]
    fn a_long_turn_gives_way_between_two_reads_to_one_that_is_due_sooner() {
        let mut agenda = agenda(&[(SLOW, 1000), (FAST, 100)]);
        let order: Vec<_> = (0..7).map(|n| asked(&mut agenda, n * 60).unwrap().0).collect();
        assert_eq!(order, [2, 1, 2, 1, 2, 2, 1]);
    }

    #[test]
    fn a_turn_whose_time_is_nearly_over_is_not_held_up_by_faster_ones() {
        let mut agenda = agenda(&[(SLOW, 200), (FAST, 150)]);
        let order: Vec<_> = (0..7).map(|n| asked(&mut agenda, n * 30).unwrap().0).collect();
        // At 150 the fast one is due again, until 300; the slow one must be over by 200.
        assert_eq!(order, [2, 1, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn a_turn_that_rests_holds_up_only_its_own_device() {
        let mut agenda = agenda(&[(DeviceId(3), 100), (FAST, 100)]);
        let Next::Begin(due) = agenda.next(at(0)) else { panic!("both are due") };
        agenda.begin(&due, 1, Duration::ZERO);
        let resting = due.device;
        let Next::GoOn(turn) = agenda.next(at(0)) else { panic!("it has begun") };
        agenda.rest(turn, Duration::from_millis(300));
        let other = |device: Option<DeviceId>| device.is_some_and(|d| d != resting);
        for ms in [0, 100, 200] {
            assert!(other(asked(&mut agenda, ms)));
        }
        assert_eq!(asked(&mut agenda, 250), None);
        let Next::Wait(Some(until)) = agenda.next(at(250)) else { panic!("nothing to do") };
        assert_eq!(until, Duration::from_millis(300));
        assert_eq!(asked(&mut agenda, 300), Some(resting), "its deadline is the oldest");
    }

    #[test]
    fn a_device_that_rests_is_not_asked_by_its_other_turn_either() {
        let mut agenda = agenda(&[(SLOW, 1000), (SLOW, 100)]);
        let Next::Begin(due) = agenda.next(at(0)) else { panic!("both are due") };
        // Of what is due at first only the slow points are still under way.
        agenda.begin(&Due { deadline: Duration::from_millis(1000), ..due }, 3, Duration::ZERO);
        assert_eq!(asked(&mut agenda, 50), Some(SLOW));
        let Next::Begin(due) = agenda.next(at(100)) else { panic!("the fast points are due") };
        agenda.begin(&due, 1, Duration::ZERO);
        let Next::GoOn(fast) = agenda.next(at(100)) else { panic!("they go first") };
        agenda.rest(fast, Duration::from_millis(400));
        assert_eq!((asked(&mut agenda, 150), asked(&mut agenda, 400)), (None, Some(SLOW)));
    }

    #[test]
    fn an_abandoned_turn_is_not_gone_on_with() {
        let mut agenda = agenda(&[(SLOW, 1000)]);
        let Next::Begin(due) = agenda.next(at(0)) else { panic!("it is due") };
        agenda.begin(&due, 5, Duration::ZERO);
        assert!(agenda.is_busy(Duration::ZERO));
        agenda.abandon(SLOW);
        assert_eq!((asked(&mut agenda, 500), agenda.is_busy(Duration::ZERO)), (None, false));
    }
}
