//! `devices`: each entry is one device, or as many as its `unit_id` names; points come from profile and entry, by name.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::check::Checker;
use crate::config::check::point::Context;
use crate::config::check::rules::Layers;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::node::near;
use crate::config::plant::Device;
use crate::config::plant::Line;
use crate::config::plant::Point;
use crate::config::plant::Port;
use crate::config::profile;
use crate::point::DeviceId;
use crate::point::LineId;
use crate::point::UnitId;

/// Besides these a device may have the inherited keys of a point.
pub(in crate::config) const DEVICE_KEYS: &[&str] = &[
    "name",
    "line",
    "unit_id",
    "profile",
    "tags",
    "points",
    "without",
    "limits",
    "functions",
    "every",
    "schedule",
    "report",
    "topic",
    "payload",
    "qos",
    "retain",
    "class",
];
/// What `publish` says for every point.
pub(in crate::config) const PUBLISH_KEYS: &[&str] =
    &["topic", "payload", "qos", "retain", "report", "every", "schedule"];
const LIMIT_KEYS: &[&str] = &["registers", "bits"];

/// Names and addresses given so far, and where.
#[derive(Default)]
struct Taken {
    names: HashMap<String, At>,
    units: HashMap<(LineId, UnitId), (String, At)>,
    topics: HashMap<String, At>,
}

/// What all devices of one entry share.
struct Entry<'a> {
    node: &'a Node,
    line: &'a Line,
    profile: Option<(Arc<str>, Rc<Node>)>,
    tags: BTreeMap<String, String>,
    publish: Option<&'a Node>,
}

impl Checker {
    pub(super) fn devices(
        &mut self,
        roots: &[Node],
        lines: &[Line],
        publish: Option<&Node>,
    ) -> (Vec<Device>, Vec<Arc<Point>>) {
        if let Some(publish) = publish {
            self.reader.keys(publish, PUBLISH_KEYS);
        }
        let mut plant = (Vec::new(), Vec::new());
        let mut taken = Taken::default();
        for section in roots.iter().filter_map(|root| root.get("devices")) {
            for node in self.reader.items(section) {
                self.entry(node, lines, publish, (&mut plant, &mut taken));
            }
        }
        plant
    }

    fn entry(
        &mut self,
        node: &Node,
        lines: &[Line],
        publish: Option<&Node>,
        (plant, taken): (&mut (Vec<Device>, Vec<Arc<Point>>), &mut Taken),
    ) {
        self.reader.keys(node, DEVICE_KEYS);
        let profile = node.get("profile").and_then(|n| {
            let name = self.reader.text(n)?;
            Some((Arc::from(name.as_str()), profile::find(self, &name, n.at)?))
        });
        let line = self.wanted(node, "line").and_then(|n| {
            let name = self.reader.text(n)?;
            self.line_named(lines, &name, n.at)
        });
        let units = self.wanted(node, "unit_id").map(|n| (n.at, self.unit_ids(n))).unwrap_or((node.at, Vec::new()));
        let name = self.wanted(node, "name").and_then(|n| Some((n.at, self.reader.text(n)?)));
        let tags = self.tags(node);
        // A line that is missing is reported; the points are judged all the same, on a line that stands in for it.
        let stand_in = Line {
            id: LineId(u16::MAX),
            name: "".into(),
            port: Port::Tcp(String::new()),
            timeout: std::time::Duration::ZERO,
            min_timeout: std::time::Duration::ZERO,
            retries: 0,
            gap: None,
            raw_access: false,
        };
        let entry = Entry { node, line: line.unwrap_or(&stand_in), profile, tags, publish };
        self.judge_serial(&entry);
        let units = if units.1.is_empty() { (units.0, vec![UnitId::BROADCAST]) } else { units };
        for unit in units.1 {
            let Some((at, pattern)) = &name else { continue };
            let lookup = |key: &str| match key {
                "unit_id" => Some(unit.to_string()),
                "line" => Some(entry.line.name.to_string()),
                "gateway" => Some(self.gateway.to_string()),
                _ => None,
            };
            let filled = crate::payload::fill(pattern, lookup);
            self.give_name(*at, &filled, pattern, taken);
            if line.is_some() && unit != UnitId::BROADCAST {
                self.give_unit((entry.line, unit), &filled, units.0, taken);
            }
            self.device(&entry, (&filled, unit), plant, taken);
        }
    }

    fn wanted<'a>(&mut self, node: &'a Node, key: &str) -> Option<&'a Node> {
        let found = node.get(key);
        if found.is_none() {
            self.reader.error(
                node.at,
                format!("this device has no `{key}`"),
                "a device has name, line, unit_id and points or a profile",
            );
        }
        found
    }

    fn give_name(&mut self, at: At, name: &str, pattern: &str, taken: &mut Taken) {
        if !self.name(at, name) {
            return;
        }
        if let Some(first) = taken.names.insert(name.to_owned(), at) {
            let help = if first == at && !pattern.contains("{unit_id}") {
                "name them by their address: `meter-{unit_id}`".to_owned()
            } else {
                format!("the first stands in line {}; choose another name", first.line)
            };
            self.reader.error(at, format!("two devices have the name `{name}`"), help);
        }
    }

    fn give_unit(&mut self, (line, unit): (&Line, UnitId), name: &str, at: At, taken: &mut Taken) {
        if unit.get() > 247 && !matches!(line.port, Port::Tcp(_)) {
            let help = "248 to 255 are reserved by the standard; addresses are 1 to 247";
            self.reader.error(at, format!("unit id {unit} cannot stand on a serial line"), help);
        }
        if let Some((other, first)) = taken.units.insert((line.id, unit), (name.to_owned(), at)) {
            let message = format!("unit id {unit} on line `{}` is `{other}` already (line {})", line.name, first.line);
            self.reader.error(at, message, "two devices with one address answer at once; change it in one of them");
        }
    }

    fn unit_ids(&mut self, node: &Node) -> Vec<UnitId> {
        let Some(text) = self.reader.text(node) else { return Vec::new() };
        let mut ids = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let range = low.trim().parse::<u8>().ok().zip(high.trim().parse::<u8>().ok());
            match range {
                Some((0, _)) => {
                    let help = "0 is broadcast, nobody answers it; unit ids are 1 to 247";
                    self.reader.error(node.at, format!("`{part}`: unit id 0 is broadcast"), help);
                }
                Some((low, high)) if low <= high => ids.extend((low..=high).filter_map(UnitId::new)),
                _ => {
                    let help = "write 7, or 1-20, or 1-20, 25; unit ids are 1 to 247 (to 255 on TCP)";
                    self.reader.error(node.at, format!("`{part}` is no unit id"), help);
                }
            }
        }
        let mut seen = Vec::new();
        for id in ids {
            if seen.contains(&id) {
                self.reader.error(node.at, format!("unit id {id} stands here twice"), "");
            } else {
                seen.push(id);
            }
        }
        seen
    }

    fn tags(&mut self, node: &Node) -> BTreeMap<String, String> {
        let Some(tags) = node.get("tags") else { return BTreeMap::new() };
        let entries = tags.entries().iter();
        entries.filter_map(|(key, _, value)| Some((key.clone(), self.reader.text(value)?))).collect()
    }

    /// A line that differs from the factory setting is probably not meant, but devices can be set.
    fn judge_serial(&mut self, entry: &Entry<'_>) {
        let (Some((name, profile)), Port::Serial(port)) = (&entry.profile, &entry.line.port) else { return };
        let Some(serial) = profile.get("serial") else { return };
        self.reader.keys(serial, &["baud", "format"]);
        let baud = serial.get("baud").and_then(|n| self.reader.int(n, 50, 4_000_000));
        let format = serial.get("format").and_then(|n| self.format(n));
        if baud.is_some_and(|b| b != i64::from(port.baud)) || format.is_some_and(|f| f != port.format) {
            let factory = [baud.map(|b| b.to_string()), format.map(|f| f.to_string())];
            let factory = factory.into_iter().flatten().collect::<Vec<_>>().join(" ");
            let message = format!(
                "{name} leaves its factory with {factory}, line `{}` runs at {} {}",
                entry.line.name, port.baud, port.format
            );
            let at = entry.node.get("profile").map_or(entry.node.at, |n| n.at);
            self.reader.warn(at, message, "right if the device has been set so");
        }
    }

    fn limits(&mut self, entry: &Entry<'_>) -> (u16, u16) {
        let own = entry.node.get("limits");
        let profile = entry.profile.as_ref().and_then(|(_, p)| p.get("limits"));
        for node in [own, profile].into_iter().flatten() {
            self.reader.keys(node, LIMIT_KEYS);
        }
        let layers = [own, profile];
        let mut limit = |key, most: u16| {
            let node = Layers(&layers).get(key);
            node.and_then(|n| self.reader.int(n, 1, i64::from(most)))
                .and_then(|n| u16::try_from(n).ok())
                .unwrap_or(most)
        };
        (limit("registers", 125), limit("bits", 2000))
    }

    fn device(
        &mut self,
        entry: &Entry<'_>,
        (name, unit): (&str, UnitId),
        plant: &mut (Vec<Device>, Vec<Arc<Point>>),
        taken: &mut Taken,
    ) {
        let (devices, points) = plant;
        let id = DeviceId(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        let first = u32::try_from(points.len()).unwrap_or(u32::MAX);
        let (max_registers, max_bits) = self.limits(entry);
        let functions = self.functions(Layers(&[Some(entry.node), entry.profile.as_ref().map(|(_, p)| &**p)]));
        let device = Device {
            id,
            name: name.into(),
            line: entry.line.id,
            unit_id: unit,
            profile: entry.profile.as_ref().map(|(name, _)| Arc::clone(name)),
            max_registers,
            max_bits,
            functions,
            tags: entry.tags.clone(),
            points: first..first,
        };
        let profile = entry.profile.as_ref().map(|(_, node)| &**node);
        let context = Context {
            device: &device,
            line: &entry.line.name,
            own: entry.node.get("points"),
            entry: entry.node,
            profile,
            publish: entry.publish,
        };
        let names = self.point_names(&context);
        let mut own: Vec<(Point, At)> = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let id = first + u32::try_from(n).unwrap_or(0);
            let ids =
                |other: &str| names.iter().position(|n| n == other).map(|n| first + u32::try_from(n).unwrap_or(0));
            own.extend(self.point(&context, (name, id), &ids));
        }
        // A profile that was not found is reported already.
        let lost = profile.is_none() && entry.node.get("profile").is_some();
        if names.is_empty() && !lost {
            self.reader.error(
                entry.node.at,
                format!("device `{name}` has no points"),
                "name a `profile` or write `points`",
            );
        }
        for (point, at) in &own {
            if let Some(first) = taken.topics.insert(point.series.topic.to_string(), *at) {
                let help =
                    format!("the first stands in line {}; put {{device}} and {{point}} into the topic", first.line);
                self.reader.error(*at, format!("two points have the topic `{}`", point.series.topic), help);
            }
        }
        points.extend(own.into_iter().map(|(point, _)| Arc::new(point)));
        let last = u32::try_from(points.len()).unwrap_or(u32::MAX);
        devices.push(Device { points: first..last, ..device });
    }

    /// The profile's points without those taken out, then the entry's own.
    fn point_names(&mut self, context: &Context<'_>) -> Vec<String> {
        let mapped = context.profile.and_then(|p| p.get("points"));
        let mut names: Vec<String> = mapped.iter().flat_map(|p| p.entries()).map(|(n, ..)| n.clone()).collect();
        if let Some(without) = context.entry.get("without") {
            for node in self.reader.items(without) {
                let Some(name) = self.reader.text(node) else { continue };
                if names.contains(&name) {
                    names.retain(|n| *n != name);
                } else {
                    let near = near(&name, names.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
                    let message = format!("the profile has no point `{name}` to leave out");
                    self.reader.error(node.at, message, near.unwrap_or_default());
                }
            }
        }
        for (name, at, _) in context.own.map(Node::entries).unwrap_or_default() {
            self.name(*at, name);
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}
