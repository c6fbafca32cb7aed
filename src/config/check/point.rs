//! One point: how it is read and what becomes of it; where its value comes from is `source.rs`. What belongs to the value
//! itself comes from the point's own entry, then from the profile's; timing, report and publishing are inherited further.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;

use crate::config::check::Checker;
use crate::config::check::rules::Layers;
use crate::config::functions::How;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::plant::Device;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::config::plant::Write;
use crate::message::Class;
use crate::payload::Format;
use crate::payload::Series;
use crate::point::PointId;
use crate::topic::Qos;
use crate::topic::RAW;
use crate::topic::TopicName;

/// The keys of a point.
pub(in crate::config) const POINT_KEYS: &[&str] = &[
    "coil",
    "discrete",
    "input",
    "holding",
    "modicon",
    "compute",
    "type",
    "order",
    "bit",
    "bits",
    "scale",
    "offset",
    "decimals",
    "scale_from",
    "values",
    "invalid",
    "range",
    "unit",
    "every",
    "schedule",
    "report",
    "write",
    "fail_safe",
    "topic",
    "payload",
    "qos",
    "retain",
    "class",
];
/// Where a point stands.
pub(super) struct Context<'a> {
    pub(super) device: &'a Device,
    pub(super) line: &'a str,
    /// The entry's `points`.
    pub(super) own: Option<&'a Node>,
    pub(super) entry: &'a Node,
    pub(super) profile: Option<&'a Node>,
    pub(super) publish: Option<&'a Node>,
}

impl Context<'_> {
    fn name_of(&self, key: &str, point: &str, gateway: &str) -> Option<String> {
        match key {
            "gateway" => Some(gateway.to_owned()),
            "device" => Some(self.device.name.to_string()),
            "point" => Some(point.to_owned()),
            "unit_id" => Some(self.device.unit_id.to_string()),
            "line" => Some(self.line.to_owned()),
            _ => self.device.tags.get(key.strip_prefix("tags.")?).cloned(),
        }
    }

    /// What the template of a payload may use.
    fn names(&self, point: &str, gateway: &str) -> BTreeMap<String, String> {
        let own = [("gateway", gateway), ("device", &*self.device.name), ("point", point)];
        let tags = self.device.tags.iter().map(|(key, value)| (format!("tags.{key}"), value.clone()));
        own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).chain(tags).collect()
    }
}

impl Checker {
    /// The point of that name, and where its topic is written; `None` where it could not be understood (and was reported).
    pub(super) fn point(
        &mut self,
        context: &Context<'_>,
        (name, id): (&str, u32),
        ids: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<(Point, At)> {
        let own = context.own.and_then(|points| points.get(name));
        let mapped = context.profile.and_then(|p| p.get("points")?.get(name));
        let defaults = context.profile.and_then(|p| p.get("defaults"));
        let at = own.or(mapped)?.at;
        for node in [own, mapped].into_iter().flatten() {
            self.reader.keys(node, POINT_KEYS);
        }
        let value = Layers(&[own, mapped, defaults]);
        let all = Layers(&[own, mapped, Some(context.entry), defaults, context.publish]);
        let source = self.source(value, (name, at), context, ids);
        let series = self.series(value, all, (name, context));
        let point = Point {
            id: PointId(id),
            device: context.device.id,
            name: self.shared.text(name),
            range: value.get("range").and_then(|n| self.range(n)).map(Box::new),
            schedule: self.schedule_of(all),
            report: {
                let report = self.report_of(all);
                self.shared.report(report)
            },
            write: value.get("write").and_then(|n| self.write(n, source.as_ref(), context.device)).map(Box::new),
            source: source?,
            series: Arc::new(series?),
        };
        if let Some(node) = value.get("fail_safe") {
            self.fail_safe(node, &point);
        }
        Some((point, all.get("topic").map_or(at, |n| n.at)))
    }

    /// What its readings are published as; `None` where there is no topic for them.
    fn series(&mut self, value: Layers<'_>, all: Layers<'_>, whose: (&str, &Context<'_>)) -> Option<Series> {
        let (name, context) = whose;
        let unit = value.get("unit").and_then(|n| self.reader.text(n)).unwrap_or_default();
        let topic = self.topic(all, name, context);
        let format = all.get("payload").and_then(|n| self.payload(n)).unwrap_or(Format::Json);
        // Half a kilobyte a point, which nobody but a template reads.
        let names = match &format {
            Format::Template(_) => context.names(name, &self.gateway),
            Format::Json | Format::Value => BTreeMap::new(),
        };
        Some(Series {
            unit: self.shared.text(&unit),
            names,
            qos: all.get("qos").and_then(|n| self.qos(n)).unwrap_or(Qos::AtLeastOnce),
            retain: all.get("retain").and_then(|n| self.reader.bool(n)).unwrap_or(true),
            class: all.get("class").and_then(|n| self.class(n)).unwrap_or_default(),
            topic: topic?,
            format,
        })
    }

    fn topic(&mut self, layers: Layers<'_>, point: &str, context: &Context<'_>) -> Option<TopicName> {
        let written = layers.get("topic");
        let pattern = match written {
            Some(node) => self.reader.text(node)?,
            None => "{gateway}/{device}/{point}".to_owned(),
        };
        let at = written.map_or(context.entry.at, |n| n.at);
        let gateway = Arc::clone(&self.gateway);
        let text = self.fill(at, &pattern, |key| context.name_of(key, point, &gateway));
        if text.starts_with('$') {
            self.reader.error(at, format!("the topic `{text}` begins with `$`"), "such topics are the broker's own");
            return None;
        }
        if let Some(verb) =
            ["set", "get", "$command", RAW].into_iter().find(|verb| text.split('/').next_back() == Some(verb))
        {
            let help = "a value told there would be taken for a command; choose another name or topic";
            self.reader.error(at, format!("the topic `{text}` ends in `{verb}`, as commands do"), help);
            return None;
        }
        TopicName::new(text).map_err(|e| self.reader.error(at, e.to_string(), "")).ok()
    }

    fn payload(&mut self, node: &Node) -> Option<Format> {
        let text = self.reader.text(node)?;
        match text.as_str() {
            "json" => Some(Format::Json),
            "value" => Some(Format::Value),
            template if template.contains('{') => Some(Format::Template(template.into())),
            _ => {
                let help = "json, value, or a template with at least {value} in it";
                self.reader.error(node.at, format!("`{text}` is no payload format"), help);
                None
            }
        }
    }

    pub(super) fn qos(&mut self, node: &Node) -> Option<Qos> {
        let qos = self.reader.int(node, 0, 2)?;
        u8::try_from(qos).ok().and_then(|n| Qos::try_from(n).ok())
    }

    fn class(&mut self, node: &Node) -> Option<Class> {
        self.reader.word(node, &[("normal", Class::Normal), ("alarm", Class::Alarm)])
    }

    fn range(&mut self, node: &Node) -> Option<(Decimal, Decimal)> {
        let items = self.reader.items(node);
        let [low, high] = items else {
            self.reader.error(node.at, "a range has two ends", "e.g. [0, 100]");
            return None;
        };
        let (low, high) = (self.reader.decimal(low)?, self.reader.decimal(high)?);
        if low > high {
            self.reader.error(node.at, format!("{low} is above {high}"), "the lower end stands first");
        }
        Some((low, high))
    }

    fn write(&mut self, node: &Node, source: Option<&Source>, device: &Device) -> Option<Write> {
        let writable = match source {
            Some(Source::Wire(wire)) => wire.table.is_writable(),
            Some(Source::Compute(_)) => false,
            None => true,
        };
        let how = How::default();
        let plain = Write { min: None, max: None, step: None, verify: true, expires: Duration::from_secs(10), how };
        let write = if matches!(node.kind, Kind::Map(_)) {
            self.reader.keys(node, &["min", "max", "step", "verify", "expires", "function"]);
            let mut number = |key| node.get(key).and_then(|n| self.reader.decimal(n));
            let (min, max, step) = (number("min"), number("max"), number("step"));
            let verify = node.get("verify").and_then(|n| self.reader.bool(n)).unwrap_or(plain.verify);
            let expires = node.get("expires").and_then(|n| self.reader.duration(n)).unwrap_or(plain.expires);
            Some(Write { min, max, step, verify, expires, how })
        } else {
            self.reader.bool(node)?.then_some(plain)
        };
        let mut write = write?;
        if !writable {
            self.reader.error(node.at, "only coils and holding registers can be written", "take `write` out");
        } else if let Some(Source::Wire(wire)) = source {
            write.how = self.how(node, wire, device.functions);
        }
        if write.min.zip(write.max).is_some_and(|(min, max)| min > max) {
            self.reader.error(node.at, "`min` is above `max`", "");
        }
        if write.step.is_some_and(|step| step <= Decimal::ZERO) {
            self.reader.error(node.at, "`step` is above zero", "");
        }
        Some(write)
    }
}
