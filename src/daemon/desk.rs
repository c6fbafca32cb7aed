//! What can be asked through the control socket beside the status: the ledger by point, and the spool's backlog, which is
//! read in slices, so that nobody who looks holds up the drain.

use futures_util::stream;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::Answer;
use crate::control::window::Items;
use crate::publish::Accounts;
use crate::spool::Spool;
use crate::spool::SpoolError;
use crate::spool::look::{Slice, Survey};

/// Slices of the log between two signs of life while it is summed up.
const SLICES_A_SIGN: usize = 50;

/// What `spool.*` is asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    /// Only this upstream.
    upstream: Option<String>,
}

/// All of them.
pub(super) fn verbs(accounts: &Accounts, spool: &Spool) -> Vec<Verb> {
    let (accounts, showing, exporting, clearing) = (accounts.clone(), spool.clone(), spool.clone(), spool.clone());
    vec![
        Verb::new("ledger", move |_| {
            let accounts = accounts.clone();
            Box::pin(async move {
                let books = accounts.ask().await.ok_or_else(stopping)?;
                Ok(Answer::One(to_value(&books)?))
            })
        }),
        Verb::new("spool.show", move |_| {
            let spool = showing.clone();
            Box::pin(async move { Ok(Answer::Many(survey(spool))) })
        }),
        Verb::new("spool.export", move |params| {
            let spool = exporting.clone();
            Box::pin(async move {
                let wanted: Wanted = read(params)?;
                known(&spool, wanted.upstream.as_deref())?;
                Ok(Answer::Many(export(spool, wanted)))
            })
        }),
        Verb::new("spool.clear", move |params| {
            let spool = clearing.clone();
            Box::pin(async move {
                let wanted: Wanted = read(params)?;
                let cleared = spool.clear(wanted.upstream).await.ok_or_else(stopping)?;
                let cleared = cleared.map_err(|e| Fault::new(Code::BadParams, e.to_string()))?;
                Ok(Answer::One(to_value(&cleared)?))
            })
        }),
    ]
}

pub(super) fn stopping() -> Fault {
    Fault::new(Code::ShuttingDown, "the gateway is stopping")
}

pub(super) fn to_value(what: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(what).map_err(|e| Fault::new(Code::Failed, e.to_string()))
}

pub(super) fn read<T: DeserializeOwned + Default>(params: Value) -> Result<T, Fault> {
    if params.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(params).map_err(|e| Fault::new(Code::BadParams, e.to_string()))
}

fn known(spool: &Spool, upstream: Option<&str>) -> Result<(), Fault> {
    let Some(name) = upstream else { return Ok(()) };
    let status = spool.status();
    let status = status.borrow();
    if status.ledger.contains_key(name) {
        return Ok(());
    }
    let known = status.ledger.keys().cloned().collect::<Vec<_>>().join(", ");
    Err(Fault::new(Code::BadParams, SpoolError::NoUpstream { name: name.to_owned(), known }.to_string()))
}

/// Slice by slice, each when the one before has been taken.
fn slices(spool: Spool) -> impl futures_util::Stream<Item = Result<Slice, String>> + Send {
    stream::unfold((spool, Some(0)), |(spool, after)| async move {
        match spool.look(after?).await? {
            Ok(slice) => {
                let next = (!slice.end).then_some(slice.upto);
                Some((Ok(slice), (spool, next)))
            }
            Err(error) => Some((Err(error.to_string()), (spool, None))),
        }
    })
}

/// Each item is a list of entries.
fn export(spool: Spool, wanted: Wanted) -> Items {
    use futures_util::StreamExt;
    Box::pin(slices(spool).map(move |slice| match slice {
        Ok(mut slice) => {
            if let Some(name) = &wanted.upstream {
                slice.entries.retain(|e| e.upstreams.contains(name));
            }
            serde_json::to_value(&slice.entries).unwrap_or_default()
        }
        Err(why) => json!({ "failed": why }),
    }))
}

/// Signs of life, and at the end the sum.
fn survey(spool: Spool) -> Items {
    use futures_util::StreamExt;
    let names: Vec<String> = spool.status().borrow().ledger.keys().cloned().collect();
    let sum = Survey::of(names.iter().map(String::as_str));
    Box::pin(stream::unfold(Some((Box::pin(slices(spool)), sum)), |state| async move {
        let (mut slices, mut sum) = state?;
        for _ in 0..SLICES_A_SIGN {
            match slices.next().await {
                Some(Ok(slice)) => slice.entries.iter().for_each(|e| sum.add(e)),
                Some(Err(why)) => return Some((json!({ "failed": why }), None)),
                None => return Some((json!({ "survey": sum }), None)),
            }
        }
        Some((json!({ "looked": sum.entries() }), Some((slices, sum))))
    }))
}
