//! What a command comes down to: a write, a read, or something else that a line is asked for, and whether that is still what was
//! meant when its turn comes.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

use crate::command::raw::Raw;
use crate::command::request::Action;
use crate::command::target::Change;
use crate::command::target::Target;
use crate::config::plant::Device;
use crate::config::plant::Line;
use crate::config::plant::Plant;
use crate::point::PointId;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    Set(Change),
    Batch(Vec<Change>),
    Get(Target),
    Act(Arc<Device>, Vec<PointId>, Action),
    /// On a line as it was then.
    Raw(Box<Line>, Raw),
}

impl Work {
    /// The same for the same wish on the same topic, within this run; what asks to write is told apart by its record.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self {
            Self::Act(_, _, action) => action.hash(&mut hasher),
            // Not its words, which leave out what is identified.
            Self::Raw(_, raw) => format!("{raw:?}").hash(&mut hasher),
            // Its topic says all of it.
            Self::Set(_) | Self::Batch(_) | Self::Get(_) => {}
        }
        hasher.finish()
    }

    /// Whether a reload, since this was asked, has left alone what it is about. A number says nothing: the second reload after one
    /// that freed it may have given it to another.
    pub(super) fn still_means_the_same(&self, plant: &Plant) -> bool {
        // What stays is the very same over reloads.
        let holds = |target: &Target| plant.points.iter().any(|point| Arc::ptr_eq(point, &target.point));
        match self {
            Self::Set(change) => holds(&change.target),
            Self::Batch(changes) => changes.iter().all(|change| holds(&change.target)),
            Self::Get(target) => holds(target),
            Self::Raw(line, _) => {
                plant.lines.iter().any(|l| l.name == line.name && l.port == line.port && l.raw_access)
            }
            // About a device by its name, whatever its points, where it was.
            Self::Act(device, ..) => {
                plant.devices.iter().any(|d| d.id == device.id && d.name == device.name && d.line == device.line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::raw;
    use crate::command::target::Whole;
    use crate::config;
    use crate::sample::Value;
    use serde_json::json;
    use std::path::Path;

    const YAML: &str = "\
gateway: g
lines: {hall: {tcp: 127.0.0.1:502, raw_access: true}, yard: {tcp: 127.0.0.1:503}}
devices:
  - {name: a, line: hall, unit_id: 1, points: {p: {holding: 4, write: true}, q: {holding: 9}}}
  - {name: b, line: hall, unit_id: 2, points: {p: {holding: 5}}}
";

    fn plant(yaml: &str) -> Plant {
        config::load_text("t.yaml", yaml, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
    }

    fn all(plant: &Plant) -> [Work; 5] {
        let whole = Whole::named(plant, "a").unwrap();
        let change = || Change { target: whole.point("p").unwrap(), value: Value::Int(1) };
        let read = json!({"unit": 1, "function": 3, "address": 0, "count": 1});
        let line = &plant.lines[0];
        let raw = raw::understand(read.as_object().unwrap(), line).unwrap();
        [
            Work::Set(change()),
            Work::Batch(vec![change()]),
            Work::Get(whole.point("q").unwrap()),
            Work::Act(Arc::clone(&whole.device), Vec::new(), Action::Pause),
            Work::Raw(Box::new(line.clone()), raw),
        ]
    }

    #[test]
    fn a_number_that_comes_back_in_a_second_reload_does_not_mean_the_same_again() {
        let asked = plant(YAML);
        let then = |old: &str, new: &str| plant(&YAML.replace(old, new));
        let hold = |now: &Plant| all(&asked).map(|work| work.still_means_the_same(now));
        let twice = |first: Plant, second: Plant| {
            let between = first.following(&asked);
            second.following(&between)
        };
        let same = twice(then("holding: 5", "holding: 6"), plant(YAML));
        assert_eq!(hold(&same), [true; 5], "what it is about was left alone");

        let now = twice(then("holding: 4", "holding: 40"), then("holding: 4", "holding: 41"));
        let id = |plant: &Plant| Whole::named(plant, "a").unwrap().point("p").unwrap().point.id;
        assert_eq!(id(&now), id(&asked), "the number is free in the first, and given again in the second");
        assert_eq!(hold(&now), [false, false, true, true, true]);
    }

    #[test]
    fn a_device_on_another_line_and_a_line_at_another_place_are_not_what_was_meant() {
        let asked = plant(YAML);
        let after = |old: &str, new: &str| {
            let now = plant(&YAML.replace(old, new)).following(&asked);
            all(&asked).map(|work| work.still_means_the_same(&now))
        };
        assert_eq!(after("a, line: hall", "a, line: yard"), [false, false, false, false, true]);
        assert_eq!(after("127.0.0.1:502", "127.0.0.1:504"), [true, true, true, true, false]);
        assert_eq!(after(", raw_access: true", ""), [true, true, true, true, false]);
    }
}
