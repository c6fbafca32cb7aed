//! The numbers of lines, devices and points over a reload. A checked plant is numbered from zero; one that follows a
//! running plant takes over the numbers of what has stayed the same, so that tasks that go on need not hear of it.
//! A line and a device keep theirs by name. A point keeps its own only while it means the same: a reading taken under
//! the old meaning, still on its way, can then never be told under the new one. No number is given to another within one
//! reload.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::config::Plant;
use crate::config::plant::Device;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::point::DeviceId;
use crate::point::LineId;
use crate::point::PointId;

impl Plant {
    /// The same place with nothing there: what a start begins with.
    #[must_use]
    pub fn nothing(&self) -> Self {
        let (lines, devices, points, fail_safes, upstreams) = Default::default();
        let (gateway, broker, spool) = (self.gateway.clone(), self.broker.clone(), self.spool.clone());
        let (stats, web, state_dir, audit) = (self.stats, self.web, self.state_dir.clone(), self.audit.clone());
        Self { gateway, lines, devices, points, fail_safes, broker, upstreams, spool, audit, stats, web, state_dir }
    }

    /// This plant, as checked, with the numbers that its parts have in the running one.
    #[must_use]
    pub fn following(mut self, running: &Self) -> Self {
        let points = self.numbers_of_points(running);
        let lines = numbers(self.lines.iter().map(|l| &*l.name), running.lines.iter().map(|l| (&*l.name, l.id.0)));
        let devices =
            numbers(self.devices.iter().map(|d| &*d.name), running.devices.iter().map(|d| (&*d.name, d.id.0)));
        for (line, number) in self.lines.iter_mut().zip(&lines) {
            line.id = LineId(*number);
        }
        for (device, number) in self.devices.iter_mut().zip(&devices) {
            device.id = DeviceId(*number);
            device.line = LineId(lines[usize::from(device.line.0)]);
        }
        for rule in &mut self.fail_safes {
            rule.point = PointId(points[rule.point.0 as usize]);
        }
        let running: HashMap<PointId, &Arc<Point>> = running.points.iter().map(|p| (p.id, p)).collect();
        for (point, number) in self.points.iter_mut().zip(&points) {
            // What stays is the very same: whoever holds it need not hold two.
            if let Some(same) = running.get(&PointId(*number)) {
                *point = Arc::clone(same);
                continue;
            }
            let point = Arc::make_mut(point);
            point.id = PointId(*number);
            point.device = DeviceId(devices[point.device.0 as usize]);
            for other in refers_to_mut(point) {
                *other = PointId(points[other.0 as usize]);
            }
        }
        self
    }

    fn numbers_of_points(&self, running: &Self) -> Vec<u32> {
        let known: HashMap<&str, &Device> = running.devices.iter().map(|d| (&*d.name, d)).collect();
        let mut kept = vec![None; self.points.len()];
        for device in &self.devices {
            let Some(was) = known.get(&*device.name).filter(|was| is_same_place(self, device, running, was)) else {
                continue;
            };
            let names: HashMap<&str, &Arc<Point>> = running.points_of(was.id).iter().map(|p| (&*p.name, p)).collect();
            let own = device.points.start as usize..device.points.end as usize;
            for (point, kept) in self.points[own.clone()].iter().zip(&mut kept[own]) {
                let was = names.get(&*point.name).filter(|was| means_same(self, point, running, was));
                *kept = was.map(|was| was.id.0);
            }
        }
        let taken: HashSet<u32> = running.points.iter().map(|p| p.id.0).collect();
        let mut free = (0..).filter(|n| !taken.contains(n));
        kept.into_iter().map(|kept| kept.unwrap_or_else(|| free.next().expect("fewer points than numbers"))).collect()
    }
}

/// For each name the number it had, or one that nobody has had.
fn numbers<'a, N>(names: impl Iterator<Item = &'a str>, running: impl Iterator<Item = (&'a str, N)>) -> Vec<N>
where
    N: Copy + Eq + std::hash::Hash + Default + std::ops::AddAssign + From<u8>,
{
    let known: HashMap<&str, N> = running.collect();
    let taken: HashSet<N> = known.values().copied().collect();
    let mut next = N::default();
    let mut fresh = || {
        while taken.contains(&next) {
            next += N::from(1);
        }
        let found = next;
        next += N::from(1);
        found
    };
    names.map(|name| known.get(name).copied().unwrap_or_else(&mut fresh)).collect()
}

/// Whether readings of a device come from where they came from, under the same tags.
fn is_same_place(plant: &Plant, device: &Device, running: &Plant, was: &Device) -> bool {
    let line = plant.line(device.line).name == running.line(was.line).name;
    line && device.unit_id == was.unit_id && device.tags == was.tags
}

/// Whether a point is read, understood and told as before, and what it refers to as well.
fn means_same(plant: &Plant, point: &Point, running: &Plant, was: &Point) -> bool {
    let (others, before) = (refers_to(point), refers_to(was));
    let pairs = || others.iter().zip(&before).map(|(now, then)| (plant.point(*now), running.point(*then)));
    let alike = |(now, then): (&Arc<Point>, &Arc<Point>)| now.name == then.name && says_same(now, then);
    says_same(point, was) && others.len() == before.len() && pairs().all(alike)
}

/// Equal but for the numbers.
fn says_same(a: &Point, b: &Point) -> bool {
    let mut a = Point { id: b.id, device: b.device, ..a.clone() };
    let numbers = refers_to(b);
    if refers_to(&a).len() != numbers.len() {
        return false;
    }
    refers_to_mut(&mut a).into_iter().zip(numbers).for_each(|(own, other)| *own = other);
    a == *b
}

fn refers_to(point: &Point) -> Vec<PointId> {
    match &point.source {
        Source::Wire(wire) => wire.scale_from.into_iter().collect(),
        Source::Compute(compute) => compute.inputs.iter().map(|(_, id)| *id).collect(),
    }
}

fn refers_to_mut(point: &mut Point) -> Vec<&mut PointId> {
    match &mut point.source {
        // Most refer to nobody, and share this with others.
        Source::Wire(wire) if wire.scale_from.is_none() => Vec::new(),
        Source::Wire(wire) => Arc::make_mut(wire).scale_from.iter_mut().collect(),
        Source::Compute(compute) => Arc::make_mut(compute).inputs.iter_mut().map(|(_, id)| id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use std::path::Path;

    const YAML: &str = "\
gateway: g
lines: {hall: {tcp: 127.0.0.1:502}, yard: {tcp: 127.0.0.1:503}}
devices:
  - {name: a, line: hall, unit_id: 1, points: {p: {holding: 4}, q: {holding: 9}, twice: {compute: p * 2}}}
  - {name: b, line: yard, unit_id: 2, points: {p: {holding: 4, scale_from: f}, f: {holding: 5, type: i16}}}
";

    fn plant(yaml: &str) -> Plant {
        load_text("t.yaml", yaml, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
    }

    fn number(plant: &Plant, device: &str, point: &str) -> u32 {
        let device = plant.devices.iter().find(|d| *d.name == *device).unwrap();
        plant.points_of(device.id).iter().find(|p| *p.name == *point).unwrap().id.0
    }

    #[test]
    fn the_same_plant_again_is_equal_in_all_its_numbers() {
        let running = plant(YAML);
        assert_eq!(plant(YAML).following(&running), running);
    }

    #[test]
    fn what_stays_keeps_its_number_and_no_number_means_two_things_in_one_reload() {
        let running = plant(YAML);
        let new = "\
gateway: g
lines: {dock: {tcp: 127.0.0.1:504}, yard: {tcp: 127.0.0.1:503}}
devices:
  - {name: c, line: dock, unit_id: 1, points: {p: {holding: 4}}}
  - {name: b, line: yard, unit_id: 2, points: {r: {holding: 8}, p: {holding: 4, scale_from: f}, f: {holding: 5, type: i16}}}
";
        let now = plant(new).following(&running);
        for name in ["p", "f"] {
            assert_eq!(number(&now, "b", name), number(&running, "b", name));
        }
        let old: Vec<u32> = running.points.iter().map(|p| p.id.0).collect();
        for (device, name) in [("c", "p"), ("b", "r")] {
            assert!(!old.contains(&number(&now, device, name)), "{device}/{name}");
        }
        assert_eq!(now.lines.iter().map(|l| l.id.0).collect::<Vec<_>>(), [2, 1]);
        let b = now.devices.iter().find(|d| &*d.name == "b").unwrap();
        assert_eq!((b.id.0, b.line.0, &*now.line(b.line).name), (1, 1, "yard"));
        let Source::Wire(wire) = &now.points_of(b.id)[1].source else { panic!("computed") };
        assert_eq!(now.point(wire.scale_from.unwrap()).name, "f".into());
        assert!(now.points_of(b.id).iter().all(|p| p.device == b.id));
        let again = plant(YAML).following(&now);
        let held: Vec<u32> = now.points.iter().map(|p| p.id.0).collect();
        assert!((0..3).all(|n| !held.contains(&again.points[n].id.0)), "{held:?} {again:?}");
    }

    #[test]
    fn a_point_that_means_something_else_gets_another_number_and_so_does_what_refers_to_it() {
        let running = plant(YAML);
        let changed = |old: &str, new: &str| {
            let now = plant(&YAML.replace(old, new)).following(&running);
            let same = |d: &str, p: &str| number(&now, d, p) == number(&running, d, p);
            [("a", "p"), ("a", "q"), ("a", "twice"), ("b", "p"), ("b", "f")].map(|(d, p)| same(d, p))
        };
        assert_eq!(changed("q: {holding: 9}", "q: {holding: 9, every: 7s}"), [true, false, true, true, true]);
        assert_eq!(changed("p: {holding: 4}, q", "p: {holding: 4, scale: 2}, q"), [false, true, false, true, true]);
        assert_eq!(changed("{holding: 5, type: i16}", "{holding: 6, type: i16}"), [true, true, true, false, false]);
        assert_eq!(changed("unit_id: 1,", "unit_id: 7,"), [false, false, false, true, true], "another device");
        assert_eq!(changed("127.0.0.1:503", "127.0.0.1:505"), [true; 5], "the way there is the line's affair");
    }
}
