//! How a fail-safe is told: a retained message on `{gateway}/{device}/{point}/$fail_safe`, the status, and one line of the log
//! a turn.

use bytes::Bytes;
use serde_json::json;

use crate::command::answer;
use crate::command::failsafe::guard::Guard;
use crate::command::failsafe::guard::Standing;
use crate::config::failsafe::Commander;
use crate::config::failsafe::OnReturn;
use crate::message::Message;
use crate::message::Retain;
use crate::status::FailSafeState;
use crate::status::FailSafeStatus;
use crate::time;
use crate::topic::Qos;
use crate::topic::TopicName;

/// What everybody may see.
pub(super) fn message(topic: TopicName, guard: &Guard, standing: &Standing) -> Message {
    let when = match &guard.rule.commander {
        Commander::Upstream(name) => json!({ "upstream": **name }),
        Commander::Client(id) => json!({ "client": **id }),
    };
    let body = json!({
        "state": standing.state,
        "value": answer::value_json(&guard.rule.value),
        "when": when,
        "gone_since": standing.gone_since.map(|at| time::stamp_of(at).rfc3339()),
        "reason": standing.reason,
        "time": time::now().rfc3339(),
    });
    Message::plain(topic, Bytes::from(body.to_string()), Qos::AtLeastOnce, Retain::Yes)
}

/// For the board.
pub(super) fn status(point: &str, guard: &Guard) -> FailSafeStatus {
    let standing = guard.standing();
    FailSafeStatus {
        point: point.to_owned(),
        when: guard.rule.commander.to_string(),
        state: standing.state,
        value: guard.rule.value.to_string(),
        gone_s: standing.gone_since.map(|at| at.elapsed().as_secs()),
        reason: standing.reason,
        writes: guard.counts.0,
        failures: guard.counts.1,
    }
}

/// The turn from one state to another, and why a write does not succeed: each once.
pub(super) fn log(point: &str, guard: &Guard, old: &Standing, new: &Standing) {
    use FailSafeState::{Active, Armed, Overridden, Returning, Writing};
    let (commander, value, after) = (&guard.rule.commander, &guard.rule.value, guard.rule.after);
    match (old.state, new.state) {
        (Writing, Writing) | (Returning, Returning) => {
            if let Some(reason) = new.reason.as_ref().filter(|reason| old.reason.as_ref() != Some(reason)) {
                tracing::warn!(point, reason, "fail-safe: not written yet, is tried again");
            }
        }
        (Active, Writing) => {
            tracing::warn!(point, %value, "fail-safe: the device may have lost the value, it is written again")
        }
        (_, Writing) => {
            tracing::warn!(point, %value, %commander, ?after, "fail-safe: the commander has been gone, the value is written")
        }
        (Writing, Active) => tracing::info!(point, %value, "fail-safe: written"),
        (_, Overridden) => {
            tracing::warn!(point, %commander, "fail-safe: the point has been commanded since, it is left alone until the commander returns")
        }
        (_, Returning) => {
            tracing::info!(point, %commander, "fail-safe: the commander is back, what is to follow is written")
        }
        (Writing, Armed) => {
            tracing::warn!(point, %commander, "fail-safe: the commander is back before the value could be written")
        }
        (Active, Armed) if guard.rule.on_return == OnReturn::Restore => {
            tracing::warn!(point, %commander, "fail-safe: the commander is back; what the point held before is not known, it is left as it is");
        }
        (Active, Armed) => {
            tracing::info!(point, %commander, "fail-safe: the commander is back, the value is left to it")
        }
        (Overridden, Armed) => tracing::info!(point, %commander, "fail-safe: the commander is back"),
        (Returning, Armed) => tracing::info!(point, "fail-safe: what was to follow is written"),
        _ => {}
    }
}
