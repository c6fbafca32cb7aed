//! What becomes of a point when whoever commands it has been gone for a time, as it is meant. What is done about it is the
//! command room's affair.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::point::PointId;
use crate::sample::Value;

/// `fail_safe:` of a point.
#[derive(Debug, Clone, PartialEq)]
pub struct FailSafe {
    /// Of this point, which is writable.
    pub point: PointId,
    /// Written when the commander has been gone for so long …
    pub value: Value,
    /// … as `after` says, at least a second.
    pub after: Duration,
    /// Whose absence counts.
    pub commander: Commander,
    /// What is written when it is back.
    pub on_return: OnReturn,
}

/// `when:`, whoever the point is left to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Commander {
    /// By its key in `upstreams`: gone while the link is not up.
    Upstream(Arc<str>),
    /// A local client by its id: gone while it is not connected.
    Client(Arc<str>),
}

impl fmt::Display for Commander {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(name) => write!(f, "upstream {name}"),
            Self::Client(id) => write!(f, "client {id}"),
        }
    }
}

/// `on_return:`
#[derive(Debug, Clone, PartialEq)]
pub enum OnReturn {
    /// Nothing: the commander writes what it wants.
    Keep,
    /// What the point held before.
    Restore,
    /// This.
    Value(Value),
}
