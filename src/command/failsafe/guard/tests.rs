//! The rule as a table of who was there when, and as a property over everything that may happen.

use proptest::prelude::*;

use super::*;
use crate::config::failsafe::Commander;
use crate::point::PointId;

const AFTER: Duration = Duration::from_secs(60);
const SAFE: Value = Value::Int(0);

fn rule(on_return: OnReturn) -> FailSafe {
    let commander = Commander::Upstream("cloud".into());
    FailSafe { point: PointId(0), value: SAFE, after: AFTER, commander, on_return }
}

/// A guard under a clock that is moved by hand, before a device that does what it is told.
struct Scene {
    guard: Guard,
    now: Instant,
    begun: Instant,
    seen: Sight,
    /// What was written, with the second.
    written: Vec<(u64, Value)>,
    device: Result<Value, &'static str>,
}

impl Scene {
    fn new(on_return: OnReturn) -> Self {
        Self::after(on_return, None)
    }

    fn after(on_return: OnReturn, note: Option<&Note>) -> Self {
        let now = Instant::now();
        let guard = Guard::new(rule(on_return), note, now);
        Self { guard, now, begun: now, seen: Sight::Gone, written: Vec::new(), device: Ok(Value::Int(7)) }
    }

    fn second(&self) -> u64 {
        (self.now - self.begun).as_secs()
    }

    /// So many seconds, looked at twice in each.
    fn passes(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..2 * seconds {
            self.look();
            self.now += Duration::from_millis(500);
        }
        self.look();
        self
    }

    fn look(&mut self) {
        self.guard.see(self.seen, self.now);
        while let Some(step) = self.guard.next(self.now) {
            assert!(!(step.value == SAFE && self.seen == Sight::There), "written while the commander is there");
            let before = self.device.clone().ok().filter(|_| step.look == Look::First);
            let end = match &mut self.device {
                Ok(held) => {
                    *held = step.value.clone();
                    self.written.push((self.second(), step.value));
                    End::Written
                }
                Err(reason) => End::Failed((*reason).to_owned()),
            };
            self.guard.ended(end, before, self.now);
        }
    }

    fn is(&mut self, seen: Sight) -> &mut Self {
        self.seen = seen;
        self
    }

    fn commands(&mut self, value: i64) -> &mut Self {
        self.device = Ok(Value::Int(value));
        self.guard.commanded(Commanded::Done, self.now);
        self
    }

    fn state(&self) -> FailSafeState {
        self.guard.standing().state
    }

    #[track_caller]
    fn wrote(&self, expected: &[(u64, i64)]) {
        let expected: Vec<_> = expected.iter().map(|(at, value)| (*at, Value::Int(*value))).collect();
        assert_eq!(self.written, expected);
    }
}

#[test]
fn the_value_is_written_once_when_the_commander_has_been_gone_for_so_long() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.is(Sight::There).passes(100).is(Sight::Gone).passes(59);
    scene.wrote(&[]);
    assert_eq!(scene.state(), FailSafeState::Armed);
    scene.passes(1000).wrote(&[(160, 0)]);
    assert_eq!(scene.state(), FailSafeState::Active);
    scene.is(Sight::There).passes(6).wrote(&[(160, 0)]);
    assert_eq!(scene.state(), FailSafeState::Armed, "the value is left to the commander");
    scene.is(Sight::Gone).passes(100).wrote(&[(160, 0), (1225, 0)]);
}

#[test]
fn who_never_came_has_been_gone_since_the_start() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.passes(200).wrote(&[(60, 0)]);
}

#[test]
fn a_link_that_comes_up_for_a_moment_now_and_then_stops_no_clock() {
    let mut scene = Scene::new(OnReturn::Value(Value::Int(9)));
    scene.is(Sight::There).passes(10);
    for _ in 0..10 {
        scene.is(Sight::Gone).passes(20).is(Sight::There).passes(2);
    }
    scene.wrote(&[(70, 0)]);
    scene.is(Sight::Gone).passes(1).is(Sight::There).passes(4).wrote(&[(70, 0)]);
    scene.passes(2).wrote(&[(70, 0), (236, 9)]);
}

#[test]
fn a_link_that_is_down_for_a_moment_now_and_then_is_there() {
    let mut scene = Scene::new(OnReturn::Keep);
    for _ in 0..20 {
        scene.is(Sight::Gone).passes(10).is(Sight::There).passes(6);
    }
    scene.wrote(&[]);
}

#[test]
fn it_is_not_written_in_the_moment_in_which_the_commander_shows_itself_but_right_after_it() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.passes(58).is(Sight::There).passes(4).wrote(&[]);
    scene.is(Sight::Gone).passes(3).wrote(&[(62, 0)]);
}

#[test]
fn a_silent_device_is_tried_ever_more_rarely_and_at_once_when_it_is_back() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.device = Err("timeout");
    scene.passes(60 + 600);
    assert!((10..=18).contains(&scene.guard.counts.1), "{}", scene.guard.counts.1);
    assert_eq!(scene.guard.standing().reason.as_deref(), Some("timeout"));
    scene.guard.see_device(Sight::Gone, scene.now);
    scene.device = Ok(Value::Int(7));
    scene.guard.see_device(Sight::There, scene.now);
    scene.passes(1).wrote(&[(660, 0)]);
    assert_eq!(scene.guard.standing().reason, None);
}

#[test]
fn it_is_withdrawn_when_the_commander_returns_before_the_device_does() {
    let mut scene = Scene::new(OnReturn::Value(Value::Int(9)));
    scene.device = Err("busy");
    scene.passes(100);
    assert_eq!(scene.state(), FailSafeState::Writing);
    scene.is(Sight::There).passes(6);
    assert_eq!(scene.state(), FailSafeState::Returning, "a try may have reached the device");
    scene.device = Ok(Value::Int(7));
    scene.passes(60);
    assert_eq!(scene.written.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>(), [Value::Int(9)]);
}

#[test]
fn a_device_that_was_away_gets_the_value_again() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.passes(100);
    scene.guard.see_device(Sight::Gone, scene.now);
    scene.passes(10);
    scene.guard.see_device(Sight::There, scene.now);
    scene.passes(10).wrote(&[(60, 0), (110, 0)]);
}

#[test]
fn what_is_commanded_while_it_is_in_force_stands_until_the_next_absence() {
    let mut scene = Scene::new(OnReturn::Value(Value::Int(9)));
    scene.passes(100).commands(5).passes(500);
    scene.guard.see_device(Sight::Gone, scene.now);
    scene.guard.see_device(Sight::There, scene.now);
    scene.passes(10).wrote(&[(60, 0)]);
    assert_eq!((scene.state(), &scene.device), (FailSafeState::Overridden, &Ok(Value::Int(5))));
    scene.is(Sight::There).passes(20).wrote(&[(60, 0)]);
    assert_eq!(scene.state(), FailSafeState::Armed);
    scene.is(Sight::Gone).passes(60).wrote(&[(60, 0), (690, 0)]);
}

#[test]
fn what_is_commanded_before_the_time_is_up_does_not_stop_the_clock() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.passes(30).commands(5).passes(60).wrote(&[(60, 0)]);
}

#[test]
fn after_a_command_of_which_nobody_knows_the_end_the_value_is_written_again() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.passes(100);
    scene.device = Ok(Value::Int(5));
    scene.guard.commanded(Commanded::Unknown, scene.now);
    scene.passes(10).wrote(&[(60, 0), (101, 0)]);
}

#[test]
fn the_last_to_be_written_stands_also_where_a_command_crosses_the_value() {
    let mut scene = Scene::new(OnReturn::Keep);
    scene.now += AFTER;
    scene.guard.see(Sight::Gone, scene.now);
    let step = scene.guard.next(scene.now).unwrap();
    // The command was done first, though the value was ordered before that was known.
    scene.guard.commanded(Commanded::Done, scene.now);
    assert_eq!(scene.state(), FailSafeState::Overridden);
    assert_eq!(step.value, SAFE);
    scene.guard.ended(End::Written, None, scene.now);
    assert_eq!(scene.state(), FailSafeState::Active);
}

#[test]
fn what_the_point_held_before_is_restored() {
    let mut scene = Scene::new(OnReturn::Restore);
    scene.passes(100).is(Sight::There).passes(10).wrote(&[(60, 0), (105, 7)]);
    assert_eq!(scene.state(), FailSafeState::Armed);
    scene.device = Ok(Value::Int(8));
    scene.is(Sight::Gone).passes(100).is(Sight::There).passes(10).wrote(&[(60, 0), (105, 7), (170, 0), (215, 8)]);
}

#[test]
fn a_second_absence_during_the_return_writes_the_value_again_and_remembers_what_was_before() {
    let mut scene = Scene::new(OnReturn::Restore);
    scene.passes(100);
    scene.device = Err("timeout");
    scene.is(Sight::There).passes(10);
    assert_eq!(scene.state(), FailSafeState::Returning);
    scene.is(Sight::Gone).passes(70);
    assert_eq!(scene.state(), FailSafeState::Writing);
    scene.device = Ok(Value::Int(3));
    scene.passes(60).is(Sight::There).passes(6);
    assert_eq!(scene.device, Ok(Value::Int(7)), "{:?}", scene.written);
}

fn note_of(scene: &Scene) -> Note {
    let text = serde_json::to_string(&Note::of(&scene.guard, "d/p")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_restart_begins_a_new_absence_and_forgets_neither_what_was_before_nor_who_commanded() {
    let mut first = Scene::new(OnReturn::Restore);
    first.passes(100);
    let note = note_of(&first);
    let mut second = Scene::after(OnReturn::Restore, Some(&note));
    second.device = Ok(SAFE);
    assert_eq!(second.state(), FailSafeState::Active);
    second.passes(59).wrote(&[]);
    second.passes(10).wrote(&[(60, 0)]);
    second.is(Sight::There).passes(6);
    assert_eq!(second.device, Ok(Value::Int(7)), "as it was before the first run wrote");
    let mut third = Scene::after(OnReturn::Restore, Some(&note));
    third.is(Sight::There).passes(10).wrote(&[(5, 7)]);
    first.commands(5);
    let mut fourth = Scene::after(OnReturn::Restore, Some(&note_of(&first)));
    fourth.passes(200).wrote(&[]);
}

#[test]
fn a_write_that_a_crash_cut_off_is_done_again_unless_the_commander_is_back_and_what_follows_then_follows() {
    let returns = || OnReturn::Value(Value::Int(9));
    let mut first = Scene::new(returns());
    first.device = Err("timeout");
    first.passes(61);
    assert_eq!(first.state(), FailSafeState::Writing);
    let note = note_of(&first);
    let mut second = Scene::after(returns(), Some(&note));
    assert_eq!(second.state(), FailSafeState::Writing, "it may have been done, or not");
    second.passes(9).wrote(&[]);
    second.passes(20).wrote(&[(10, 0)]);
    second.is(Sight::There).passes(10).wrote(&[(10, 0), (34, 9)]);
    let mut third = Scene::after(returns(), Some(&note));
    third.passes(3).is(Sight::There).passes(30).wrote(&[(8, 9)]);
    // A device that is heard of in the meantime does not hurry it: the link may need its moment.
    let mut fourth = Scene::after(returns(), Some(&note));
    fourth.guard.see_device(Sight::Gone, fourth.now);
    fourth.passes(2);
    fourth.guard.see_device(Sight::There, fourth.now);
    fourth.passes(3).is(Sight::There).passes(20).wrote(&[(10, 9)]);
}

#[test]
fn what_the_point_held_before_is_noted_before_it_is_written() {
    let mut first = Scene::new(OnReturn::Restore);
    first.now += AFTER;
    let step = first.guard.next(first.now).unwrap();
    assert_eq!(step.look, Look::First);
    first.guard.looked(Value::Int(7));
    let mut second = Scene::after(OnReturn::Restore, Some(&note_of(&first)));
    second.device = Ok(SAFE);
    second.passes(20).is(Sight::There).passes(10).wrote(&[(10, 0), (25, 7)]);
}

#[test]
fn a_task_that_is_made_anew_goes_on_counting() {
    let mut first = Scene::new(OnReturn::Keep);
    first.passes(50);
    let note = Note::of(&first.guard, "d/p");
    let mut second = Scene::after(OnReturn::Keep, Some(&note));
    second.now = first.now;
    second.passes(20);
    assert_eq!(second.written.len(), 1, "50 s were over already");
}

/// What may happen in one half second.
#[derive(Debug, Clone)]
enum Op {
    Comes,
    Goes,
    Commands(i64),
    Dies,
    Lives,
    Restarts,
    Nothing(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Comes),
        2 => Just(Op::Goes),
        1 => (1i64..5).prop_map(Op::Commands),
        1 => Just(Op::Dies),
        2 => Just(Op::Lives),
        1 => Just(Op::Restarts),
        6 => (1u8..200).prop_map(Op::Nothing),
    ]
}

proptest! {
    #[test]
    fn in_the_end_the_device_holds_what_the_rule_says(ops in prop::collection::vec(op(), 0..60), returns in 0..3) {
        let on_return = [OnReturn::Keep, OnReturn::Restore, OnReturn::Value(Value::Int(9))][returns as usize].clone();
        let mut scene = Scene::new(on_return.clone());
        let mut held = Value::Int(7);
        for op in ops {
            match op {
                Op::Comes => { scene.is(Sight::There); }
                Op::Goes => { scene.is(Sight::Gone); }
                Op::Commands(value) if scene.device.is_ok() => { scene.commands(value); }
                Op::Commands(_) => {}
                Op::Dies => {
                    if let Ok(value) = scene.device.clone() { held = value; }
                    scene.device = Err("timeout");
                    scene.guard.see_device(Sight::Gone, scene.now);
                }
                Op::Lives => {
                    if scene.device.is_err() { scene.device = Ok(held.clone()); }
                    scene.guard.see_device(Sight::There, scene.now);
                }
                Op::Restarts => {
                    scene.guard = Guard::new(rule(on_return.clone()), Some(&note_of(&scene)), scene.now);
                }
                Op::Nothing(ticks) => { scene.passes(u64::from(ticks) / 2); }
            }
            scene.look();
        }
        if scene.device.is_err() { scene.device = Ok(held); }
        scene.guard.see_device(Sight::There, scene.now);
        // Gone for as long as it takes: the value, unless somebody has commanded since.
        scene.is(Sight::Gone).passes(130);
        if scene.state() == FailSafeState::Overridden {
            prop_assert_ne!(&scene.device, &Ok(SAFE));
        } else {
            prop_assert_eq!(scene.state(), FailSafeState::Active);
            prop_assert_eq!(&scene.device, &Ok(SAFE));
        }
        let was = (scene.state(), scene.guard.before().cloned());
        // And back for good: what is to follow.
        scene.is(Sight::There).passes(10);
        prop_assert_eq!(scene.state(), FailSafeState::Armed);
        match (&on_return, was) {
            (OnReturn::Value(value), (FailSafeState::Active, _)) => prop_assert_eq!(&scene.device, &Ok(value.clone())),
            (OnReturn::Restore, (FailSafeState::Active, Some(before))) => prop_assert_eq!(&scene.device, &Ok(before)),
            _ => {}
        }
        let count = scene.written.len();
        scene.passes(300);
        prop_assert_eq!(scene.written.len(), count, "nothing more while the commander is there");
    }
}
