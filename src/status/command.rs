//! Of commands and fail-safes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Commands on their way from the broker to the lines.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CommandsStatus {
    /// Dropped without an answer, because too many came at once.
    pub dropped: u64,
}

/// A point's fail-safe, written by the task that minds them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct FailSafeStatus {
    /// `{device}/{point}`.
    pub point: String,
    /// Whose absence counts: `upstream cloud`, `client hmi`.
    pub when: String,
    /// How it stands.
    pub state: FailSafeState,
    /// The value, as it is shown.
    pub value: String,
    /// For how many seconds the commander counts as gone.
    pub gone_s: Option<u64>,
    /// Why what is to be written is not written yet, in words.
    pub reason: Option<String>,
    /// Writes that the device has confirmed, since the start.
    pub writes: u64,
    /// Tries that it has not.
    pub failures: u64,
}

/// How a fail-safe stands.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FailSafeState {
    /// The commander is there, or not gone for long enough.
    #[default]
    Armed,
    /// The value is to be written and not confirmed yet.
    Writing,
    /// The value has been written.
    Active,
    /// The point has been commanded since; nothing more is written in this absence.
    Overridden,
    /// The commander is back and the value for that is not confirmed yet.
    Returning,
}

impl fmt::Display for FailSafeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Armed => "armed",
            Self::Writing => "writing",
            Self::Active => "active",
            Self::Overridden => "overridden",
            Self::Returning => "returning",
        })
    }
}
