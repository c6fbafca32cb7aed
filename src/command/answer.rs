//! What the asker is told: a JSON object on `…/result`, and on the response topic where one was given (MQTT 5, 4.10).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;
use serde_json::json;
use tokio::time::Instant;

use crate::command::Outlet;
use crate::message::Message;
use crate::message::Properties;
use crate::message::Retain;
use crate::sample::Reason;
use crate::sample::Value;
use crate::topic::Qos;
use crate::topic::TopicName;

/// What became of a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// Confirmed by the device; with the value read back where `verify` asks for it.
    Written { verified: Option<Value> },
    /// Read on demand.
    Read(Result<Value, Reason>),
    /// Done, and there is nothing more to say.
    Done,
    /// Not done.
    Refused(String),
    /// Not done, but worth asking again.
    Later(String),
    /// Tried; the device did not confirm, or shows another value.
    Failed(String),
    /// Confirmed by the device, which shows this all the same.
    Differs(Value),
    /// It was begun in an earlier run, nobody knows what came of it, and it is not done again.
    Unknown(String),
    /// What came of a raw request, in a word and in full.
    Raw { word: &'static str, body: Json },
    /// Several writes, by the names of their points.
    Batch(Vec<(Arc<str>, Self)>),
}

impl Outcome {
    /// Of a batch the worst of its parts: what failed, then what was refused.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Written { .. } => "written",
            Self::Read(Ok(_)) => "read",
            Self::Done => "done",
            Self::Refused(_) | Self::Later(_) => "refused",
            Self::Failed(_) | Self::Differs(_) | Self::Read(Err(_)) => "failed",
            Self::Unknown(_) => "unknown",
            Self::Raw { word, .. } => word,
            Self::Batch(parts) => {
                let words: Vec<&str> = parts.iter().map(|(_, part)| part.word()).collect();
                ["failed", "refused"].into_iter().find(|word| words.contains(word)).unwrap_or("written")
            }
        }
    }

    /// Whether nothing was sent.
    pub(super) const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Later(_))
    }

    /// Whether nothing was done and the asker is told to try again; of a batch, where that holds of each part.
    pub(super) fn is_later(&self) -> bool {
        match self {
            Self::Later(_) => true,
            Self::Batch(parts) => !parts.is_empty() && parts.iter().all(|(_, part)| part.is_later()),
            _ => false,
        }
    }

    /// Why it did not become what was asked for, in words; of a batch each part has its own, a raw request's is in its body.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Self::Written { .. } | Self::Read(Ok(_)) | Self::Done | Self::Raw { .. } | Self::Batch(_) => None,
            Self::Read(Err(reason)) => Some(reason.to_string()),
            Self::Refused(reason) | Self::Later(reason) | Self::Failed(reason) | Self::Unknown(reason) => {
                Some(reason.clone())
            }
            Self::Differs(value) => Some(format!("verify: the device shows {value}")),
        }
    }

    pub(super) fn body(&self) -> Json {
        let mut body = json!({ "result": self.word() });
        if let Self::Written { verified: Some(value) } | Self::Read(Ok(value)) | Self::Differs(value) = self {
            body["value"] = value_json(value);
        }
        if let Some(reason) = self.reason() {
            body["reason"] = json!(reason);
        }
        if let Self::Raw { body: told, .. } = self {
            for (key, value) in told.as_object().into_iter().flatten() {
                body[key] = value.clone();
            }
        }
        if let Self::Batch(parts) = self {
            let part = |(point, outcome): &(Arc<str>, Self)| {
                let mut part = outcome.body();
                part["point"] = json!(&**point);
                part
            };
            body["writes"] = parts.iter().map(part).collect();
        }
        body
    }
}

/// The payload of the answer.
pub(super) fn payload(outcome: &Outcome, id: Option<&str>, came: Instant) -> Arc<str> {
    let mut body = outcome.body();
    if let Some(id) = id {
        body["id"] = json!(id);
    }
    body["duration_ms"] = json!(u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX));
    body["time"] = json!(crate::time::now().rfc3339());
    body.to_string().into()
}

/// Says it to whoever asked.
pub(super) async fn tell(answers: &Outlet, asked: &Message, payload: &str) {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let properties = asked.properties.as_deref();
    let wanted = properties.and_then(|p| p.response_topic.clone());
    let own = format!("{}/result", asked.topic);
    let topics = wanted.into_iter().map(|t| t.to_string()).chain([own]);
    let correlation = properties.and_then(|p| p.correlation.clone());
    let batch: Vec<_> = topics
        .filter_map(|topic| TopicName::new(topic).ok())
        .map(|topic| {
            let mut message = Message::plain(topic, payload.clone(), Qos::AtLeastOnce, Retain::No);
            message.properties = correlation
                .clone()
                .map(|correlation| Arc::new(Properties { correlation: Some(correlation), ..Properties::default() }));
            message
        })
        .collect();
    if answers.send(batch).await.is_err() {
        tracing::debug!("broker gone, answer not delivered");
    }
}

pub(super) fn value_json(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(&**text),
        Value::Bool(on) => json!(on),
        number => serde_json::from_str(&number.to_string()).unwrap_or_else(|_| json!(number.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_good_as_its_worst_part() {
        let part = |outcome: Outcome| ("p".into(), outcome);
        let written = || part(Outcome::Written { verified: Some(Value::Int(3)) });
        assert_eq!(Outcome::Batch(vec![written(), written()]).word(), "written");
        let refused = part(Outcome::Refused("no".into()));
        assert_eq!(Outcome::Batch(vec![written(), refused.clone()]).word(), "refused");
        let all = Outcome::Batch(vec![refused, part(Outcome::Failed("timeout".into())), written()]);
        assert_eq!(all.word(), "failed");
        let want = json!({"result": "written", "value": 3, "point": "p"});
        assert_eq!(all.body()["writes"][2], want);
    }
}
