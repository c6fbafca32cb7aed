//! What devices have taught: a [`Lesson`] is one device's, [`Lessons`] are all of them, shared by the poll tasks, which alone write
//! them, and by whoever keeps them over a restart or wants them forgotten. No files here, and no wire.
//! The trick: to forget is a wish in a mailbox that the poll task empties between two turns, so nobody changes behind its back
//! what it plans with.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::plant::{Device, Line, Point, Source};
use crate::point::{AddressRange, Table};
use crate::poll::plan::Holes;

/// Whose lesson it is. When any of it changes, another device answers there, and nothing is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Key of its line in `lines`.
    pub line: String,
    /// Its address there.
    pub unit_id: u8,
    /// `{device}` in topics.
    pub device: String,
    /// Its profile.
    pub profile: Option<String>,
}

impl Identity {
    /// A device of this line.
    pub fn of(device: &Device, line: &Line) -> Self {
        Self {
            line: line.name.to_string(),
            unit_id: device.unit_id.get(),
            device: device.name.to_string(),
            profile: device.profile.as_deref().map(str::to_owned),
        }
    }
}

/// How fast a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Smoothed turnaround.
    pub usual: Duration,
    /// Mean distance of a turnaround from it.
    pub deviation: Duration,
}

impl Pace {
    /// Not worth writing down anew: neither has moved by more than a quarter of the usual turnaround.
    fn is_near(self, other: Self) -> bool {
        let near = |a: Duration, b: Duration| a.abs_diff(b) <= self.usual / 4;
        near(self.usual, other.usual) && near(self.deviation, other.deviation)
    }
}

/// What one device has taught.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Lesson {
    holes: BTreeMap<Table, Holes>,
    pace: Option<Pace>,
}

impl Lesson {
    /// Of what its tables have refused and how fast it answers.
    pub fn new<'a>(holes: impl IntoIterator<Item = (&'a Table, &'a Holes)>, pace: Option<Pace>) -> Self {
        let holes =
            holes.into_iter().filter(|(_, holes)| !holes.is_empty()).map(|(table, holes)| (*table, holes.sure()));
        Self { holes: holes.collect(), pace }
    }

    /// What its tables have refused; tables that refuse nothing are left out.
    pub const fn holes(&self) -> &BTreeMap<Table, Holes> {
        &self.holes
    }

    /// How fast it answers.
    pub const fn pace(&self) -> Option<Pace> {
        self.pace
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.holes.is_empty() && self.pace.is_none()
    }

    /// The holes for people: `holding 4–6` cannot be read at all, `input before 20` only stands between two values that can.
    pub fn named(&self) -> Vec<String> {
        self.holes.iter().flat_map(|(table, holes)| holes.named(*table)).collect()
    }

    /// Without the holes that are nobody's any more: a hole is where a point was refused, so a point that has
    /// been corrected in the configuration since is asked for again.
    #[must_use]
    pub fn fitting<'a>(mut self, points: impl Iterator<Item = &'a Point>) -> Self {
        let wires = points.filter_map(|p| match &p.source {
            Source::Wire(wire) => Some((wire.table, wire.range)),
            Source::Compute(_) => None,
        });
        let wanted: BTreeSet<(Table, AddressRange)> = wires.collect();
        for (table, holes) in &mut self.holes {
            *holes = holes.without(|refused| !wanted.contains(&(*table, refused)));
        }
        self.holes.retain(|_, holes| !holes.is_empty());
        self
    }

    /// Whether the same is refused.
    pub fn has_holes_of(&self, other: &Self) -> bool {
        self.holes == other.holes
    }

    /// Whether it is worth writing down where `other` stands written.
    pub fn is_news_after(&self, other: &Self) -> bool {
        let moved = match (self.pace, other.pace) {
            (Some(now), Some(then)) => !then.is_near(now),
            (now, then) => now != then,
        };
        moved || !self.has_holes_of(other)
    }
}

/// A lesson as it is kept. New fields may come, so unknown ones are passed over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    /// By table: start and count of what is refused even alone, and the exception.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    refused: BTreeMap<Table, Vec<(u16, u16, u8)>>,
    /// By table: addresses that no read may reach from below.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    apart: BTreeMap<Table, Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usual_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation_us: Option<u64>,
}

impl From<Written> for Lesson {
    fn from(written: Written) -> Self {
        let mut holes: BTreeMap<Table, Holes> = BTreeMap::new();
        for (table, ranges) in written.refused {
            for (start, count, exception) in ranges {
                let Some(range) = AddressRange::new(start, count) else { continue };
                holes.entry(table).or_default().bury(range, exception);
            }
        }
        for (table, addresses) in written.apart {
            for address in addresses.into_iter().filter(|address| *address <= u32::from(u16::MAX)) {
                holes.entry(table).or_default().seam(address);
            }
        }
        let pace = written.usual_us.map(|usual| {
            let deviation = written.deviation_us.unwrap_or(usual / 2);
            Pace { usual: Duration::from_micros(usual), deviation: Duration::from_micros(deviation) }
        });
        Self { holes, pace }
    }
}

impl From<Lesson> for Written {
    fn from(lesson: Lesson) -> Self {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let refused = |holes: &Holes| holes.refused().map(|(r, code)| (r.start(), r.count(), code)).collect::<Vec<_>>();
        let apart = |holes: &Holes| holes.seams().collect::<Vec<_>>();
        let tables = lesson.holes.iter();
        Self {
            refused: tables.clone().map(|(t, h)| (*t, refused(h))).filter(|(_, all)| !all.is_empty()).collect(),
            apart: tables.map(|(t, h)| (*t, apart(h))).filter(|(_, all)| !all.is_empty()).collect(),
            usual_us: lesson.pace.map(|p| micros(p.usual)),
            deviation_us: lesson.pace.map(|p| micros(p.deviation)),
        }
    }
}

/// Lessons by the device's name.
pub type ByDevice = BTreeMap<Arc<str>, Lesson>;

/// What all devices have taught. Clones share it.
#[derive(Debug, Clone)]
pub struct Lessons {
    known: watch::Sender<ByDevice>,
    /// Devices whose holes shall be forgotten: as many as there are devices at most, so it needs no other bound.
    wishes: watch::Sender<BTreeSet<Arc<str>>>,
}

impl Default for Lessons {
    fn default() -> Self {
        Self::new(ByDevice::new())
    }
}

impl Lessons {
    /// As remembered.
    pub fn new(known: ByDevice) -> Self {
        Self { known: watch::Sender::new(known), wishes: watch::Sender::new(BTreeSet::new()) }
    }

    /// What this device has taught.
    pub fn of(&self, device: &str) -> Lesson {
        self.known.borrow().get(device).cloned().unwrap_or_default()
    }

    /// Sees every change of a hole. A change of pace alone wakes nobody: there is one with every answer.
    pub fn subscribe(&self) -> watch::Receiver<ByDevice> {
        self.known.subscribe()
    }

    /// What devices have taught by now.
    pub(crate) fn note(&self, now: impl Iterator<Item = (Arc<str>, Lesson)>) {
        self.known.send_if_modified(|known| {
            let mut turned = false;
            for (device, lesson) in now {
                let old = known.entry(device).or_default();
                turned |= !old.has_holes_of(&lesson);
                *old = lesson;
            }
            turned
        });
    }

    /// These devices are no more, or others answer under their names: what was learnt of them says nothing.
    pub fn drop_of(&self, gone: impl Fn(&str) -> bool) {
        self.known.send_if_modified(|known| {
            let before = known.len();
            known.retain(|device, _| !gone(device));
            known.len() < before
        });
        self.wishes.send_if_modified(|wishes| {
            wishes.retain(|device| !gone(device));
            false
        });
    }

    /// Wishes that this device be asked for everything again. Returns the holes known of it.
    pub fn forget(&self, device: &str) -> Vec<String> {
        self.wishes.send_modify(|wishes| {
            wishes.insert(device.into());
        });
        self.of(device).named()
    }

    /// The wishes that concern one's own devices, which are thereby off the list.
    pub(crate) fn take_wishes(&self, own: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        // Looked at before every turn, so the usual case must not disturb those who wait.
        if !self.wishes.borrow().is_empty() {
            self.wishes.send_if_modified(|wishes| {
                taken = wishes.iter().filter(|device| own(device)).cloned().collect();
                wishes.retain(|device| !own(device));
                false
            });
        }
        taken
    }

    /// Until there is a wish that concerns one's own devices.
    pub(crate) async fn wished(&self, own: impl Fn(&str) -> bool) {
        let mut seen = self.wishes.subscribe();
        // It cannot fail: one sender is here.
        let _ = seen.wait_for(|wishes| wishes.iter().any(|device| own(device))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u16, count: u16) -> AddressRange {
        AddressRange::new(start, count).unwrap()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn lesson(refused: &[(u16, u16)], apart: &[u32], usual_us: Option<u64>) -> Lesson {
        let mut holes = Holes::default();
        refused.iter().for_each(|(start, count)| _ = holes.bury(range(*start, *count), 3));
        apart.iter().for_each(|address| _ = holes.seam(*address));
        let pace =
            usual_us.map(|us| Pace { usual: Duration::from_micros(us), deviation: Duration::from_micros(us / 3) });
        Lesson::new([(&Table::Holding, &holes), (&Table::Coil, &Holes::default())], pace)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            refused in prop::collection::vec((0u16..65_000, 1u16..100), 0..9),
            apart in prop::collection::vec(1u32..65_536, 0..9),
            usual_us in prop::option::of(0u64..60_000_000),
        ) {
            let lesson = lesson(&refused, &apart, usual_us);
            let text = serde_json::to_string(&lesson).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Lesson>(&text).unwrap(), &lesson);
            prop_assert!(!lesson.is_news_after(&lesson));
        }
    }

    #[test]
    fn it_is_written_in_words_and_fields_of_later_times_are_passed_over() {
        let lesson = lesson(&[(4, 2)], &[20], Some(3_000));
        let text = r#"{"refused":{"holding":[[4,2,3]]},"apart":{"holding":[20]},"usual_us":3000,"deviation_us":1000}"#;
        assert_eq!(serde_json::to_string(&lesson).unwrap(), text);
        let later = text.replace("\"usual_us\"", r#""mood":{"today":"fine"},"usual_us""#);
        assert_eq!(serde_json::from_str::<Lesson>(&later).unwrap(), lesson);
        assert_eq!(serde_json::from_str::<Lesson>("{}").unwrap(), Lesson::default());
        let odd = r#"{"refused":{"coil":[[65535,2,2],[7,0,2]]},"apart":{"coil":[70000]}}"#;
        assert!(serde_json::from_str::<Lesson>(odd).unwrap().named().is_empty(), "addresses that cannot be");
    }

    #[test]
    fn a_hole_whose_point_was_changed_is_asked_for_again() {
        let points = |ranges: &[(u16, u16)]| {
            ranges.iter().map(|(start, count)| crate::poll::tests::held(range(*start, *count))).collect::<Vec<_>>()
        };
        let lesson = lesson(&[(4, 2), (9, 1)], &[20], None);
        assert_eq!(lesson.clone().fitting(points(&[(4, 2), (9, 1), (20, 1)]).iter()), lesson);
        let left = lesson.fitting(points(&[(4, 1), (9, 1)]).iter());
        assert_eq!(left.named(), ["holding 9", "holding before 20"]);
    }

    #[test]
    fn a_pace_is_news_only_when_it_has_moved_by_a_quarter() {
        let of = |usual, deviation| Lesson {
            pace: Some(Pace { usual: ms(usual), deviation: ms(deviation) }),
            ..Lesson::default()
        };
        assert!(!of(22, 5).is_news_after(&of(20, 3)) && !of(25, 5).is_news_after(&of(20, 5)));
        assert!(of(26, 5).is_news_after(&of(20, 5)) && of(20, 11).is_news_after(&of(20, 5)));
        assert!(of(20, 5).is_news_after(&Lesson::default()));
    }

    #[test]
    fn only_a_change_of_holes_wakes_whoever_keeps_them() {
        let lessons = Lessons::default();
        let mut kept = lessons.subscribe();
        let tell = |lesson: Lesson| lessons.note([(Arc::from("a"), lesson)].into_iter());
        tell(lesson(&[], &[], Some(5_000)));
        assert!(!kept.has_changed().unwrap());
        tell(lesson(&[(3, 1)], &[], Some(5_000)));
        assert!(kept.has_changed().unwrap());
        assert_eq!(kept.borrow_and_update()["a"].named(), ["holding 3"]);
        tell(lesson(&[(3, 1)], &[], Some(9_000)));
        assert!(!kept.has_changed().unwrap());
        assert_eq!(lessons.of("a").pace().unwrap().usual, ms(9), "but it is there for whoever looks");
    }

    #[tokio::test]
    async fn a_wish_to_forget_waits_for_the_task_whose_device_it_is() {
        let lessons = Lessons::new([(Arc::from("a"), lesson(&[(3, 1)], &[], None))].into());
        assert_eq!(lessons.forget("a"), ["holding 3"]);
        assert!(lessons.forget("b").is_empty());
        assert!(lessons.take_wishes(|device| device == "c").is_empty());
        lessons.wished(|device| device == "b").await;
        assert_eq!(lessons.take_wishes(|device| device == "b"), ["b".into()]);
        assert_eq!(lessons.take_wishes(|_| true), ["a".into()]);
        assert!(lessons.take_wishes(|_| true).is_empty());
    }
}
