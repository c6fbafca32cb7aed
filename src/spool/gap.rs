//! What stands in the log where entries had to leave without being sent: for each upstream that wanted them how many,
//! under which topic filter, from when to when. The upstream receives it in its place in the order, so that a hole in
//! its data is a known hole. Gaps that touch become one.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use crate::message::Class;
use crate::message::Message;
use crate::message::Retain;
use crate::time::rfc3339_millis;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Topic of a gap in the log; the bridge puts the gateway's name in front.
pub const GAP_TOPIC: &str = "$gap";

/// A hole in the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Gap {
    parts: Vec<Part>,
}

/// The hole as one upstream sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    upstream: Arc<str>,
    filter: String,
    count: u64,
    first_us: i64,
    last_us: i64,
}

impl Gap {
    /// An entry that this upstream wanted has left.
    pub(super) fn add(&mut self, upstream: &Arc<str>, topic: &TopicName, wall_us: i64) {
        let (upstream, filter) = (Arc::clone(upstream), topic.as_str().to_owned());
        self.join(Part { upstream, filter, count: 1, first_us: wall_us, last_us: wall_us });
    }

    /// So many entries of this upstream have left, all under this filter.
    pub(super) fn of(upstream: &Arc<str>, filter: String, (count, first_us, last_us): (u64, i64, i64)) -> Self {
        Self { parts: vec![Part { upstream: Arc::clone(upstream), filter, count, first_us, last_us }] }
    }

    /// The gap behind this one has become part of it.
    pub(super) fn merge(&mut self, other: Self) {
        other.parts.into_iter().for_each(|part| self.join(part));
    }

    /// Whether nobody misses anything.
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Who misses something.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().map(|p| &p.upstream)
    }

    /// How many entries this upstream misses.
    pub(super) fn missing(&self, upstream: &str) -> u64 {
        self.parts.iter().filter(|p| &*p.upstream == upstream).map(|p| p.count).sum()
    }

    /// Takes out what these upstreams miss.
    pub(super) fn take(&mut self, of: impl Fn(&Arc<str>) -> bool) -> Self {
        let (taken, kept) = std::mem::take(&mut self.parts).into_iter().partition(|p| of(&p.upstream));
        self.parts = kept;
        Self { parts: taken }
    }

    fn join(&mut self, new: Part) {
        let Some(old) = self.parts.iter_mut().find(|p| p.upstream == new.upstream) else {
            return self.parts.push(new);
        };
        old.count += new.count;
        old.first_us = old.first_us.min(new.first_us);
        old.last_us = old.last_us.max(new.last_us);
        if old.filter != new.filter {
            old.filter = cover(&old.filter, &new.filter);
        }
    }

    /// What the upstream is told: `{"filter":"plant/#","count":12,"first":"…","last":"…"}`, in local topic names.
    pub(super) fn message(&self, upstream: &str) -> Option<Message> {
        let part = self.parts.iter().find(|p| &*p.upstream == upstream)?;
        let mut text = String::new();
        let filter = serde_json::Value::from(part.filter.as_str());
        let (first, last) = (rfc3339_millis(part.first_us), rfc3339_millis(part.last_us));
        let _ = write!(text, r#"{{"filter":{filter},"count":{},"first":"{first}","last":"{last}"}}"#, part.count);
        let topic = TopicName::new(GAP_TOPIC).ok()?;
        let mut message = Message::plain(topic, Bytes::from(text), Qos::AtLeastOnce, Retain::No);
        message.class = Class::Alarm;
        Some(message)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The narrowest filter of the form `a/b/#` that covers both.
fn cover(a: &str, b: &str) -> String {
    let levels = |text: &'_ str| text.trim_end_matches("/#").split('/').map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (levels(a), levels(b));
    let mut common: Vec<String> = a.into_iter().zip(b).take_while(|(a, b)| a == b && a != "#").map(|p| p.0).collect();
    common.push("#".to_owned());
    common.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_says_what_is_missing_from_when_to_when() {
        let (cloud, topic) = (Arc::from("cloud"), |t: &str| TopicName::new(t).unwrap());
        let mut gap = Gap::default();
        gap.add(&cloud, &topic("plant/m/v"), 1_795_222_923_456_000);
        gap.add(&cloud, &topic("plant/m/v"), 1_795_222_920_000_000);
        let text = |gap: &Gap| String::from_utf8(gap.message("cloud").unwrap().payload.to_vec()).unwrap();
        let want =
            r#"{"filter":"plant/m/v","count":2,"first":"2026-11-21T01:02:00.000Z","last":"2026-11-21T01:02:03.456Z"}"#;
        assert_eq!(text(&gap), want);
        let mut other = Gap::default();
        other.add(&cloud, &topic("plant/n"), 1_795_222_923_456_000);
        gap.merge(other);
        assert!(text(&gap).starts_with(r##"{"filter":"plant/#","count":3,"##));
        assert_eq!(gap.message("elsewhere"), None);
        assert_eq!(Gap::decode(&gap.encode()), Some(gap));
    }

    #[test]
    fn filters_widen_to_what_covers_both() {
        for (a, b, want) in [
            ("a/b", "a/b/c", "a/b/#"),
            ("a/b/#", "a/c", "a/#"),
            ("a", "b", "#"),
            ("#", "a/b", "#"),
            ("a/#", "a", "a/#"),
        ] {
            assert_eq!(cover(a, b), want, "{a} {b}");
        }
    }
}
