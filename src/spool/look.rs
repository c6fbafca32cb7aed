//! The log as a person sees it: what waits, for whom, since when. Looked at in slices, beside the readers and without
//! moving any of them, so that a backlog of days can be shown and exported while it is being sent.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::Serialize;

use super::Seq;
use super::row;
use super::row::Taken;
use super::row::TopicLies;
use crate::message::Message;
use crate::payload;
use crate::time::rfc3339_millis;

/// Entries of a slice: some milliseconds of the spool's thread.
pub const SLICE: usize = 500;
/// Topics counted one by one; a gateway with more of them has a `#` topic for the rest.
const TOPICS_MOST: usize = 10_000;

/// One entry that waits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// Its place in the log.
    pub seq: Seq,
    /// When it was measured, or came from a client; RFC 3339.
    pub time: String,
    /// Local topic.
    pub topic: String,
    /// Set for the gateway's own values, as JSON text, so that no digit is lost; `null` where the quality is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Engineering unit, where the point has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// `good`, `stale`, `bad`; empty for messages of clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quality: String,
    /// Why the quality is not good.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Payload of a client's message or of a gap, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The same in hexadecimal, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Set for a gap: so many entries are missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<u64>,
    /// The upstreams that have not acknowledged it.
    pub upstreams: Vec<String>,
    /// As it is kept.
    pub bytes: usize,
}

/// A stretch of the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slice {
    /// What waits there, in order.
    pub entries: Vec<Waiting>,
    /// How far it goes: ask for the next one after this.
    pub upto: Seq,
    /// Whether that is the end of the log.
    pub end: bool,
}

impl Waiting {
    pub(super) fn message(seq: Seq, message: &Message, taken: Taken) -> Self {
        let mut waiting = Self {
            seq,
            time: rfc3339_millis(taken.stamp.wall_us),
            topic: message.topic.to_string(),
            ..Self::default()
        };
        match &message.own {
            Some(own) => {
                waiting.time = own.sample.taken().rfc3339();
                waiting.value = Some(payload::value_as_json(&own.sample));
                own.series.unit.as_ref().clone_into(&mut waiting.unit);
                own.sample.quality().word().clone_into(&mut waiting.quality);
                waiting.reason = own.sample.quality().reason().map(|r| r.to_string()).unwrap_or_default();
                waiting.bytes = row::encode_own(&own.sample, taken.run).len();
            }
            None => {
                waiting.set_payload(&message.payload);
                waiting.bytes = row::encode_foreign(message, taken, TopicLies::Beside).len();
            }
        }
        waiting
    }

    pub(super) fn gap(seq: Seq, message: &Message, missing: u64) -> Self {
        let mut waiting = Self { seq, topic: message.topic.to_string(), gap: Some(missing), ..Self::default() };
        waiting.bytes = message.payload.len();
        waiting.set_payload(&message.payload);
        waiting
    }

    fn set_payload(&mut self, payload: &[u8]) {
        match std::str::from_utf8(payload) {
            Ok(text) => self.payload = Some(text.to_owned()),
            Err(_) => {
                self.payload_hex = Some(payload.iter().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                }));
            }
        }
    }
}

/// What waits, summed up: what `trunkline spool show` says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Survey {
    /// By upstream.
    pub upstreams: BTreeMap<String, Backlog>,
    /// Entries by topic, whoever waits for them.
    pub topics: BTreeMap<String, u64>,
}

/// What waits for one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Entries, gaps not counted.
    pub entries: u64,
    /// As they are kept, without what the database adds.
    pub bytes: u64,
    /// When the oldest was measured, RFC 3339; empty when there is none.
    pub oldest: String,
    /// When the newest was.
    pub newest: String,
    /// Gaps that it will be told of.
    pub gaps: u64,
    /// Entries that these tell of.
    pub missing: u64,
}

impl Survey {
    /// Nothing waits for these.
    pub fn of<'a>(upstreams: impl IntoIterator<Item = &'a str>) -> Self {
        let upstreams = upstreams.into_iter().map(|name| (name.to_owned(), Backlog::default())).collect();
        Self { upstreams, topics: BTreeMap::new() }
    }

    /// Entries looked at so far.
    pub fn entries(&self) -> u64 {
        self.topics.values().sum()
    }

    /// This waits too.
    pub fn add(&mut self, waiting: &Waiting) {
        for name in &waiting.upstreams {
            let backlog = self.upstreams.entry(name.clone()).or_default();
            if let Some(missing) = waiting.gap {
                backlog.gaps += 1;
                backlog.missing += missing;
                continue;
            }
            backlog.entries += 1;
            backlog.bytes += waiting.bytes as u64;
            let before = backlog.oldest.is_empty() || waiting.time < backlog.oldest;
            if before {
                waiting.time.clone_into(&mut backlog.oldest);
            }
            if waiting.time > backlog.newest {
                waiting.time.clone_into(&mut backlog.newest);
            }
        }
        if waiting.gap.is_none() {
            let known = self.topics.len() < TOPICS_MOST || self.topics.contains_key(&waiting.topic);
            let topic = if known { waiting.topic.as_str() } else { "#" };
            match self.topics.get_mut(topic) {
                Some(count) => *count += 1,
                None => drop(self.topics.insert(topic.to_owned(), 1)),
            }
        }
    }
}
