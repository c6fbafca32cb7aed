//! What a command is about: a point of a device, found by its names, and the desk of its line, where things are done.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::bus::Bus;
use crate::config::plant::Device;
use crate::config::plant::Plant;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::point::PointId;
use crate::poll::Order;
use crate::sample::Sample;
use crate::sample::Value;
use crate::status::LineStatus;
use crate::status::Recognition;

/// What a command needs of a line: its bus, its poll task's ear, and where samples go.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Writes and reads on demand go next there.
    pub bus: Bus,
    /// Taken between two reads.
    pub orders: mpsc::Sender<Order>,
    /// What is read on demand is published like anything that was polled. Weak: at the stop publish ends when the lines have
    /// let go of it, and a desk may be held for longer.
    pub samples: mpsc::WeakSender<Vec<Sample>>,
    /// How its devices stand.
    pub line: watch::Receiver<LineStatus>,
}

impl Desk {
    /// Who answers at this device's address, where something is expected of it; `Unasked` where not.
    pub(super) fn recognition(&self, device: &Device) -> (Recognition, Option<String>) {
        recognition(&self.line.borrow(), device)
    }
}

/// The line may not have heard yet of what a reload has just brought: whom it has not asked at that address is open.
fn recognition(line: &LineStatus, device: &Device) -> (Recognition, Option<String>) {
    let known = line.devices.iter().find(|status| *status.name == *device.name);
    let known = known.filter(|status| device.fingerprint.is_none() || status.unit_id == device.unit_id.get());
    match known.map(|status| (status.recognition, status.recognised.clone())).unwrap_or_default() {
        (Recognition::Unasked, _) if device.fingerprint.is_some() => (Recognition::Open, None),
        said => said,
    }
}

/// A line's desk as it stands now; `None` while the line is being made anew.
pub type Seat = watch::Receiver<Option<Desk>>;

/// A point that can be named in a topic, with what a write needs.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) device: Arc<Device>,
    pub(super) point: Arc<Point>,
    pub(super) scale_from: Option<Arc<Point>>,
}

/// One point and what shall be in it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) target: Target,
    pub(super) value: Value,
}

/// A device and its points, looked up by their names each time: commands are rare, and an index over all points of a large
/// site would cost a megabyte for ever.
pub(super) struct Whole<'a> {
    plant: &'a Plant,
    pub(super) device: Arc<Device>,
}

impl<'a> Whole<'a> {
    /// The device of that point, and the point.
    pub(super) fn around(plant: &'a Plant, point: PointId) -> Option<(Self, Target)> {
        let point = plant.find_point(point)?;
        let whole = Self::named(plant, &plant.device(point.device).name)?;
        let target = whole.point(&point.name)?;
        Some((whole, target))
    }

    pub(super) fn named(plant: &'a Plant, name: &str) -> Option<Self> {
        let device = plant.devices.iter().find(|d| *d.name == *name)?;
        Some(Self { plant, device: Arc::new(device.clone()) })
    }

    pub(super) fn points(&self) -> impl Iterator<Item = &'a Arc<Point>> {
        let id = self.device.id;
        self.plant.points.iter().filter(move |p| p.device == id)
    }

    pub(super) fn point(&self, name: &str) -> Option<Target> {
        let point = self.points().find(|p| *p.name == *name)?;
        let scale_from = match &point.source {
            Source::Wire(wire) => wire.scale_from.map(|id| Arc::clone(self.plant.point(id))),
            Source::Compute(_) => None,
        };
        Some(Target { device: Arc::clone(&self.device), point: Arc::clone(point), scale_from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config;
    use crate::config::fingerprint::Fingerprint;
    use crate::status::DeviceStatus;

    #[test]
    fn a_device_that_the_line_has_not_yet_been_told_to_identify_is_not_identified() {
        let text = "gateway: g\nlines: {hall: {tcp: '127.0.0.1:1'}}\n\
                    devices: [{name: d, line: hall, unit_id: 3, every: 1s, points: {p: {holding: 0}}}]\n";
        let plant = config::load_text("t.yaml", text, std::path::Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant;
        let plain = plant.devices[0].clone();
        let fingerprint = Fingerprint { objects: Vec::new(), register: None };
        let expected = Device { fingerprint: Some(Arc::new(fingerprint)), ..plain.clone() };
        let told = |name: &str, unit_id, recognition| {
            let status = DeviceStatus { name: name.to_owned(), unit_id, recognition, ..DeviceStatus::default() };
            LineStatus { devices: vec![status], ..LineStatus::default() }
        };
        for (line, with, without) in [
            (told("d", 3, Recognition::Right), Recognition::Right, Recognition::Right),
            (told("d", 3, Recognition::Another), Recognition::Another, Recognition::Another),
            (told("d", 3, Recognition::Unasked), Recognition::Open, Recognition::Unasked),
            (told("d", 4, Recognition::Right), Recognition::Open, Recognition::Right),
            (told("e", 3, Recognition::Right), Recognition::Open, Recognition::Unasked),
        ] {
            assert_eq!(recognition(&line, &expected).0, with, "{line:?}");
            assert_eq!(recognition(&line, &plain).0, without, "{line:?}");
        }
    }
}
