//! Why a write is done. Neither how it is done nor its turn depends on that; who is told of its end does.

use std::sync::Arc;

use crate::command::failsafe::Look;
use crate::command::failsafe::Ticket;

/// Why.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cause {
    /// Somebody has published a message.
    Asked,
    /// A commander is gone or back: which, in words.
    FailSafe { who: Arc<str>, look: Look, ticket: Ticket },
}
