//! A sample becomes bytes. Pure, and used twice: when a value is published locally, and when the log is sent upstream.
//! A [`Series`] is the dictionary entry behind a value: everything but the reading itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sample::{Sample, Value};
use crate::time::Stamp;
use crate::topic::{Qos, TopicName};

/// What stays the same from one reading of a point to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Series {
    /// Local topic.
    pub topic: TopicName,
    /// How a reading is rendered.
    pub format: Format,
    /// Engineering unit, empty where the point has none.
    pub unit: Arc<str>,
    /// Names a template may use: `{gateway}`, `{device}`, `{point}`, `{tags.x}` without braces as keys.
    pub names: BTreeMap<String, String>,
    /// Quality of service it is published with.
    pub qos: Qos,
    /// Whether the broker keeps the last one.
    pub retain: bool,
    /// Rank in a full spool.
    pub class: Class,
}

/// The payload formats of `payload:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"value":230.1,"unit":"V","quality":"good","time":"…"}`
    Json,
    /// The bare value; empty when the quality is bad.
    Value,
    /// Text with `{value}`, `{unit}`, `{quality}`, `{reason}`, `{time}`, `{time_ms}` (since 1970), `{gateway}`, `{device}`,
    /// `{point}`, `{tags.x}`.
    Template(Arc<str>),
}

/// What leaves a full spool last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Telemetry.
    #[default]
    Normal,
    /// Leaves last.
    Alarm,
}

/// The bytes of one reading in the series' format. Whoever renders many keeps a [`Pen`].
pub fn render(series: &Series, sample: &Sample) -> Bytes {
    Pen::default().render(series, sample)
}

/// The value alone as JSON text; `null` where there is none.
pub fn value_as_json(sample: &Sample) -> String {
    let mut out = String::new();
    json_value(&mut out, sample.value());
    out
}

/// What readings are written with, one after the other: paper that is used again, and the time as it was written last, for
/// all values of a reply were taken at the same moment.
#[derive(Debug, Default)]
pub struct Pen {
    paper: String,
    time: String,
    time_of: Option<i64>,
}

impl Pen {
    /// The bytes of one reading in the series' format, in an allocation of exactly their size: the broker keeps the last of
    /// each topic.
    pub fn render(&mut self, series: &Series, sample: &Sample) -> Bytes {
        self.paper.clear();
        match &series.format {
            Format::Json => self.json(series, sample),
            Format::Value => {
                if let Some(value) = sample.value() {
                    let _ = write!(self.paper, "{value}");
                }
            }
            Format::Template(text) => return template(text, series, sample),
        }
        Bytes::copy_from_slice(self.paper.as_bytes())
    }

    fn json(&mut self, series: &Series, sample: &Sample) {
        self.set_time(sample.taken());
        let out = &mut self.paper;
        out.push_str("{\"value\":");
        json_value(out, sample.value());
        if !series.unit.is_empty() {
            out.push_str(",\"unit\":");
            json_text(out, &series.unit);
        }
        let quality = sample.quality();
        out.push_str(",\"quality\":\"");
        out.push_str(quality.word());
        if let Some(reason) = quality.reason() {
            let _ = write!(out, "\",\"reason\":\"{reason}");
        }
        out.push_str("\",\"time\":\"");
        out.push_str(&self.time);
        out.push_str("\"}");
    }

    fn set_time(&mut self, taken: Stamp) {
        if self.time_of != Some(taken.wall_us) {
            self.time_of = Some(taken.wall_us);
            self.time = taken.rfc3339();
        }
    }
}

fn json_value(out: &mut String, value: Option<&Value>) {
    match value {
        None => out.push_str("null"),
        Some(Value::Text(text)) => json_text(out, text),
        Some(number) => {
            let _ = write!(out, "{number}");
        }
    }
}

fn json_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn template(text: &str, series: &Series, sample: &Sample) -> Bytes {
    let quality = sample.quality();
    let filled = fill(text, |name| match name {
        "value" => Some(sample.value().map(ToString::to_string).unwrap_or_default()),
        "unit" => Some(series.unit.to_string()),
        "quality" => Some(quality.word().to_owned()),
        "reason" => Some(quality.reason().map(|r| r.to_string()).unwrap_or_default()),
        "time" => Some(sample.taken().rfc3339()),
        "time_ms" => Some(sample.taken().wall_us.div_euclid(1000).to_string()),
        other => series.names.get(other).cloned(),
    });
    Bytes::from(filled)
}

/// Replaces every `{name}` that `lookup` knows; leaves the others, and lone braces, as they are.
pub fn fill(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let after = &rest[open + 1..];
        let known = after.find('}').and_then(|close| lookup(&after[..close]).map(|value| (close, value)));
        if let Some((close, value)) = known {
            out.push_str(&value);
            rest = &after[close + 1..];
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::PointId;
    use crate::sample::Reason;

    const TAKEN: Stamp = Stamp { mono_us: 0, wall_us: 1_795_222_923_456_000 };

    fn series(format: Format) -> Series {
        Series {
            topic: TopicName::new("g/d/p").unwrap(),
            format,
            unit: "V".into(),
            names: BTreeMap::from([("device".to_owned(), "d".to_owned())]),
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::Normal,
        }
    }

    #[test]
    fn json_carries_value_unit_quality_and_its_own_time() {
        let sample = Sample::good(PointId(0), Value::Decimal("230.1".parse().unwrap()), TAKEN);
        let bytes = render(&series(Format::Json), &sample);
        assert_eq!(bytes, r#"{"value":230.1,"unit":"V","quality":"good","time":"2026-11-21T01:02:03.456Z"}"#);
    }

    #[test]
    fn one_pen_writes_each_reading_with_its_own_value_and_time() {
        let mut pen = Pen::default();
        let later = Stamp { wall_us: TAKEN.wall_us + 1_000, ..TAKEN };
        for (format, taken) in
            [(Format::Json, TAKEN), (Format::Value, TAKEN), (Format::Json, TAKEN), (Format::Json, later)]
        {
            for value in [Value::Bool(false), Value::Int(-7), Value::Text("a long enough name".into())] {
                let (series, sample) = (series(format.clone()), Sample::good(PointId(0), value, taken));
                assert_eq!(pen.render(&series, &sample), render(&series, &sample));
            }
        }
    }

    #[test]
    fn an_error_is_never_a_number() {
        let sample = Sample::bad(PointId(0), Reason::Exception(2), TAKEN);
        let bytes = render(&series(Format::Json), &sample);
        let want =
            r#"{"value":null,"unit":"V","quality":"bad","reason":"exception 2","time":"2026-11-21T01:02:03.456Z"}"#;
        assert_eq!(bytes, want);
        assert_eq!(render(&series(Format::Value), &sample), "");
    }

    #[test]
    fn text_is_escaped() {
        let sample = Sample::good(PointId(0), Value::Text("a\"\\\n\u{1}°".into()), TAKEN);
        let text = String::from_utf8(render(&series(Format::Json), &sample).to_vec()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["value"], "a\"\\\n\u{1}°");
    }

    #[test]
    fn a_template_can_be_json_with_the_time_in_milliseconds() {
        let sample = Sample::good(PointId(0), Value::Int(3), TAKEN);
        let text = r#"{"{device}":[{"ts":{time_ms},"values":{"v":{value}}}]}"#;
        let bytes = render(&series(Format::Template(text.into())), &sample);
        assert_eq!(bytes, r#"{"d":[{"ts":1795222923456,"values":{"v":3}}]}"#);
    }

    #[test]
    fn a_template_leaves_unknown_names_alone() {
        let sample = Sample::good(PointId(0), Value::Int(-3), TAKEN);
        let bytes = render(&series(Format::Template("{device}={value}{unit} {nope} {".into())), &sample);
        assert_eq!(bytes, "d=-3V {nope} {");
    }
}
