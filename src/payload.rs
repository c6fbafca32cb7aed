//! A sample becomes bytes. Pure, and used twice: when a value is published locally, and when the log is sent upstream.
//! A [`Series`] is the dictionary entry behind a value: everything but the reading itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sample::{Sample, Value};
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

/// The bytes of one reading in the series' format.
pub fn render(series: &Series, sample: &Sample) -> Bytes {
    match &series.format {
        Format::Json => json(series, sample),
        Format::Value => Bytes::from(sample.value().map(ToString::to_string).unwrap_or_default()),
        Format::Template(text) => template(text, series, sample),
    }
}

fn json(series: &Series, sample: &Sample) -> Bytes {
    let mut out = String::with_capacity(112);
    out.push_str("{\"value\":");
    json_value(&mut out, sample.value());
    if !series.unit.is_empty() {
        out.push_str(",\"unit\":");
        json_text(&mut out, &series.unit);
    }
    let quality = sample.quality();
    let _ = write!(out, ",\"quality\":\"{}\"", quality.word());
    if let Some(reason) = quality.reason() {
        let _ = write!(out, ",\"reason\":\"{reason}\"");
    }
    let _ = write!(out, ",\"time\":\"{}\"}}", sample.taken().rfc3339());
    Bytes::from(out)
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
    use crate::time::Stamp;

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
