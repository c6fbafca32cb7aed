//! Whose wish a write is. What is done about it, and in which order, does not depend on that; who is told does.

use std::sync::Arc;

use crate::command::failsafe::Look;

/// Whoever wanted it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// The one who published the message.
    Asked,
    /// The gateway itself, because a commander is gone or back: which, in words.
    FailSafe { cause: Arc<str>, look: Look },
}
