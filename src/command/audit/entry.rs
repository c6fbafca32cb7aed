//! What stands in the trail, and how it is told: the same JSON on `$audit`, through the control socket and in the file. Plain
//! data, no I/O.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value as Json;

use crate::message::Origin;
use crate::time;

/// Place of an entry in the trail; grows.
pub type Seq = i64;

/// What made the gateway write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A command to a point or a device.
    #[default]
    Command,
    /// The gateway itself, because a commander is gone, or back.
    FailSafe,
    /// Raw access to a line.
    Raw,
    /// None: entries were lost here, its outcome says how many.
    Gap,
}

/// Who wanted it. All empty: the gateway itself, or nobody knows any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Who {
    /// Client id, of a client of the embedded broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The user whose password was right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where that client connected from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The upstream it came down from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Who asked at the gateway itself, through its control socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
}

impl Who {
    /// As the broker or the bridge knows it.
    pub fn of(origin: Option<&Origin>) -> Self {
        match origin {
            None => Self::default(),
            Some(Origin::Upstream { name, .. }) => Self { upstream: Some(name.to_string()), ..Self::default() },
            Some(Origin::Client { client_id, user, peer }) => Self {
                client: Some(client_id.to_string()),
                user: user.as_ref().map(ToString::to_string),
                peer: Some(peer.to_string()),
                ..Self::default()
            },
        }
    }

    /// Whether a person who looks for `name` means this one.
    pub fn is(&self, name: &str) -> bool {
        [&self.client, &self.user, &self.upstream, &self.local].into_iter().any(|own| own.as_deref() == Some(name))
    }
}

/// One value that was to be written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Name of the point; empty for raw access.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub point: String,
    /// In engineering units or by name, as it was asked for.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub value: Json,
    /// What that is in the device: `holding 101 = 75`. Empty when it was never worked out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub raw: String,
}

impl Asked {
    /// What is alike where the same is asked again.
    pub(in crate::command) fn essence(&self) -> (&str, String) {
        let what = if self.point.is_empty() { self.raw.clone() } else { self.value.to_string() };
        (&self.point, what)
    }
}

/// What is known of a write before its outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draft {
    /// What made the gateway write.
    pub cause: Cause,
    /// Why, where that needs words: what a fail-safe saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who wanted it.
    pub from: Who,
    /// What it was asked on; empty for what the gateway does by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// The asker's own mark: such a command is done once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Which device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit_id: Option<u8>,
    /// What was to be written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
    /// The asker's own words, where they could not be understood: the first 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl Draft {
    /// What the same command would have again; `None` where the asker gave no id.
    pub(super) fn key(&self) -> Option<String> {
        self.id.as_ref().map(|id| format!("{} {id}", self.topic))
    }

    /// Whether both ask for the same.
    pub(super) fn asks_like(&self, other: &Self) -> bool {
        self.asked.iter().map(Asked::essence).eq(other.asked.iter().map(Asked::essence))
    }
}

/// One line of the trail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// When it began, RFC 3339.
    pub time: String,
    /// What was to be done.
    #[serde(flatten)]
    pub draft: Draft,
    /// What the asker was told; `None` while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Json>,
}

impl Entry {
    /// `written`, `refused`, `failed` or `unknown`; `under way` while there is no outcome.
    pub fn result(&self) -> &str {
        let said = self.outcome.as_ref().and_then(|outcome| outcome["result"].as_str());
        said.unwrap_or("under way")
    }
}

/// An entry as it is kept: its texts, and what it is found and thrown away by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) seq: Seq,
    pub(super) rank: Rank,
    /// Wall time.
    pub(super) begun_us: i64,
    /// For how long the gateway had run, all runs together.
    pub(super) ran_us: i64,
    pub(super) key: Option<String>,
    pub(super) draft: Draft,
    pub(super) outcome: Option<String>,
}

/// Which share of the file it lives in, so that what costs nothing to send cannot push out what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// Refused, or read.
    Note = 0,
    /// Went to a device, or was about to.
    Write = 1,
    /// The same of a fail-safe, which tries again and again while its device is away.
    Own = 2,
}

impl Rank {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Note, Self::Write, Self::Own];

    pub(super) const fn of(cause: Cause) -> Self {
        match cause {
            Cause::FailSafe => Self::Own,
            Cause::Command | Cause::Raw | Cause::Gap => Self::Write,
        }
    }

    /// In eighths of the file; the rest is for the WAL and for pages that are not quite full.
    pub(super) const fn share(self) -> u64 {
        match self {
            Self::Write => 4,
            Self::Note | Self::Own => 1,
        }
    }
}

impl Row {
    pub(super) fn entry(&self) -> Entry {
        Entry {
            seq: self.seq,
            time: time::rfc3339_millis(self.begun_us),
            draft: self.draft.clone(),
            outcome: self.outcome.as_deref().map(outcome),
        }
    }
}

/// As it was told; what cannot be read any more is shown as it lies there.
pub(super) fn outcome(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_is_told_in_flat_json_and_reads_back() {
        let asked = Asked { point: "setpoint".into(), value: json!(7.5), raw: "holding 101 = 75".into() };
        let who = Who { client: Some("hmi".into()), user: Some("otto".into()), ..Who::default() };
        let draft = Draft { from: who, topic: "g/d/setpoint/set".into(), asked: vec![asked], ..Draft::default() };
        let time = "2026-11-21T01:02:03.456Z".to_owned();
        let entry = Entry { seq: 7, time, draft, outcome: Some(json!({"result": "written", "value": 7.5})) };
        let text = serde_json::to_value(&entry).unwrap();
        let want = json!({
            "seq": 7, "time": "2026-11-21T01:02:03.456Z", "cause": "command", "from": {"client": "hmi", "user": "otto"},
            "topic": "g/d/setpoint/set",
            "asked": [{"point": "setpoint", "value": 7.5, "raw": "holding 101 = 75"}],
            "outcome": {"result": "written", "value": 7.5},
        });
        assert_eq!(text, want);
        assert_eq!(serde_json::from_value::<Entry>(text).unwrap(), entry);
        assert_eq!(entry.result(), "written");
        assert!(entry.draft.from.is("otto") && entry.draft.from.is("hmi") && !entry.draft.from.is("ott"));
    }

    #[test]
    fn the_same_command_asks_for_the_same_values_of_the_same_points() {
        let asks = |value: Json, raw: &str| Draft {
            asked: vec![Asked { point: "p".into(), value, raw: raw.into() }],
            ..Draft::default()
        };
        assert!(asks(json!(7), "").asks_like(&asks(json!(7), "holding 1 = 7")));
        assert!(!asks(json!(7), "").asks_like(&asks(json!(8), "")));
    }
}
