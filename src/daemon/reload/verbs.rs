//! The configuration by the control socket: `reload`, and `config.…` for one on trial.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Candidate;
use super::Reloads;
use super::Wish;
use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::Answer;

/// What `config.compare` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    name: String,
    text: String,
}

/// What `config.apply` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Applied {
    name: String,
    text: String,
    confirm_s: u64,
}

/// All of them.
pub(in crate::daemon) fn verbs(reloads: &Reloads) -> Vec<Verb> {
    let plain = |name, wish: fn() -> Wish| method(name, reloads, move |_| Ok(wish()));
    vec![
        plain("reload", || Wish::Reload),
        method("config.compare", reloads, |params| {
            let Compared { name, text } = read(params, r#"{"name": FILE, "text": YAML}"#)?;
            Ok(Wish::Compare(Candidate { name, text }))
        }),
        method("config.apply", reloads, |params| {
            let shape = r#"{"name": FILE, "text": YAML, "confirm_s": 60}"#;
            let Applied { name, text, confirm_s } = read(params, shape)?;
            Ok(Wish::Apply(Candidate { name, text }, Duration::from_secs(confirm_s)))
        }),
        plain("config.pending", || Wish::Pending),
        plain("config.confirm", || Wish::Confirm),
        plain("config.revert", || Wish::Revert),
    ]
}

fn method(
    name: &'static str,
    reloads: &Reloads,
    wish: impl Fn(Value) -> Result<Wish, Fault> + Send + Sync + 'static,
) -> Verb {
    let reloads = reloads.clone();
    Verb::new(name, move |params| {
        let (reloads, wish) = (reloads.clone(), wish(params));
        Box::pin(async move { reloads.ask(wish?).await.map(Answer::One) })
    })
}

fn read<T: DeserializeOwned>(params: Value, shape: &str) -> Result<T, Fault> {
    T::deserialize(params).map_err(|e| Fault::new(Code::BadParams, format!("{e}; wanted is {shape}")))
}
