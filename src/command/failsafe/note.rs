//! What is remembered of a fail-safe over a restart: that it was in force, and what the point held before. Without it a
//! return after a restart would put nothing right, and a point that somebody has commanded meanwhile would be written again.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::time::Instant;

use crate::command::answer;
use crate::command::failsafe::guard::Guard;
use crate::sample::Value;
use crate::status::FailSafeState;

/// One point's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// `{device}/{point}`.
    pub point: String,
    /// As shown; a rule about another one has nothing to do with this note.
    pub commander: String,
    /// As it stood.
    pub state: FailSafeState,
    /// What the point held before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// Within one run of the process only.
    #[serde(skip)]
    pub(super) gone_since: Option<Instant>,
}

impl Note {
    pub(super) fn of(guard: &Guard, point: &str) -> Self {
        let standing = guard.standing();
        Self {
            point: point.to_owned(),
            commander: guard.rule.commander.to_string(),
            state: standing.state,
            before: guard.before().map(answer::value_json),
            gone_since: standing.gone_since,
        }
    }

    /// Whether there is anything in it that a restart would miss.
    pub fn matters(&self) -> bool {
        self.state != FailSafeState::Armed
    }

    /// Whether it says the same as another one to a later run.
    pub fn says_what(&self, other: &Self) -> bool {
        Self { gone_since: None, ..self.clone() } == Self { gone_since: None, ..other.clone() }
    }

    pub(super) fn before(&self) -> Option<Value> {
        match self.before.as_ref()? {
            Json::Bool(on) => Some(Value::Bool(*on)),
            Json::Number(n) => Some(Value::plain(&n.to_string())),
            Json::String(text) => Some(Value::Text(text.as_str().into())),
            _ => None,
        }
    }
}
