//! The audit trail through the control socket: read backwards in slices, so that nobody who looks holds up a write, then, where
//! it is wanted, on with what comes.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::command::audit::Audit;
use crate::command::audit::Entry;
use crate::command::audit::Seq;
use crate::command::audit::Wanted;
use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::Answer;
use crate::control::window::Items;

/// Entries read at once: some hundred kilobytes.
const SLICE: u32 = 500;

/// `audit`: lists of entries, the newest first; with `follow` then `{"now": true}` and one entry after the other.
pub(super) fn verb(audit: &Audit) -> Verb {
    let audit = audit.clone();
    Verb::new("audit", move |params| {
        let audit = audit.clone();
        Box::pin(async move {
            let wanted = if params.is_null() { Ok(Wanted::default()) } else { Wanted::deserialize(params) };
            let wanted = wanted.map_err(|e| Fault::new(Code::BadParams, e.to_string()))?;
            Ok(Answer::Many(look(audit, wanted)))
        })
    })
}

fn look(audit: Audit, wanted: Wanted) -> Items {
    if !wanted.follow {
        return Box::pin(past(audit, wanted).map(|slice| slice.map_or_else(|why| failed(&why), |slice| json!(slice))));
    }
    // Listening begins before reading, so that nothing falls between; what was read already is not told again.
    let live = audit.listen();
    let state = Following { live, told: HashSet::new(), wanted: wanted.clone() };
    let slices = Some(Box::pin(past(audit, wanted)));
    Box::pin(stream::unfold((slices, state), |(slices, mut state)| async move {
        let Some(mut slices) = slices else {
            let next = state.next().await?;
            return Some((next, (None, state)));
        };
        match slices.next().await {
            Some(Ok(slice)) => {
                state.told.extend(slice.iter().filter(|entry| entry.outcome.is_some()).map(|entry| entry.seq));
                Some((json!(slice), (Some(slices), state)))
            }
            Some(Err(why)) => Some((failed(&why), (None, state))),
            None => Some((json!({ "now": true }), (None, state))),
        }
    }))
}

fn failed(why: &str) -> Value {
    json!({ "failed": why })
}

/// Slice by slice, each when the one before has been taken; ends with the first error.
fn past(audit: Audit, wanted: Wanted) -> impl Stream<Item = Result<Vec<Entry>, String>> + Send {
    let left = wanted.last.unwrap_or(usize::MAX);
    stream::unfold(Some((audit, wanted, left, Seq::MAX)), |state| async move {
        let (audit, wanted, mut left, before) = state?;
        if left == 0 {
            return None;
        }
        match audit.read(before, SLICE).await {
            Ok(slice) => {
                let next = slice.last()?.seq;
                let found = wanted.pick(slice, &mut left);
                Some((Ok(found), Some((audit, wanted, left, next))))
            }
            Err(why) => Some((Err(why), None)),
        }
    })
}

struct Following {
    live: Receiver<Arc<Entry>>,
    /// Read already, with an outcome.
    told: HashSet<Seq>,
    wanted: Wanted,
}

impl Following {
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.live.recv().await {
                Ok(entry) if self.wanted.takes(&entry) && !self.told.contains(&entry.seq) => {
                    return Some(json!(*entry));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Some(json!({ "lost": lost })),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
