//! The embedded broker through the control socket: its clients, the last value of topics, and a client sent away.

use serde::Deserialize;
use serde_json::json;

use crate::broker::Broker;
use crate::broker::view::MAX_TOPICS;
use crate::config;
use crate::control::Verb;
use crate::control::protocol::{Code, Fault};
use crate::control::verb::Answer;
use crate::daemon::desk::{read, stopping, to_value};
use crate::topic::{TopicFilter, TopicName};

/// What `clients` is asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Which {
    /// Only this one, closely.
    client: Option<String>,
}

/// What `topics` is asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    filter: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// All of them.
pub(super) fn verbs(broker: &Broker) -> Vec<Verb> {
    let (seeing, kicking, reading) = (broker.clone(), broker.clone(), broker.clone());
    vec![
        Verb::new("clients", move |params| {
            let broker = seeing.clone();
            Box::pin(async move { clients(&broker, read(params)?).await })
        }),
        Verb::new("clients.kick", move |params| {
            let broker = kicking.clone();
            Box::pin(async move { kick(&broker, read(params)?).await })
        }),
        Verb::new("topics", move |params| {
            let broker = reading.clone();
            Box::pin(async move { topics(&broker, read(params)?).await })
        }),
    ]
}

async fn clients(broker: &Broker, which: Which) -> Result<Answer, Fault> {
    let Some(id) = which.client else {
        return Ok(Answer::One(to_value(&broker.clients().await.ok_or_else(stopping)?)?));
    };
    match broker.client(&id).await.ok_or_else(stopping)? {
        Ok(portrait) => Ok(Answer::One(to_value(&portrait)?)),
        Err(known) => Err(unknown(&id, &known)),
    }
}

async fn kick(broker: &Broker, which: Which) -> Result<Answer, Fault> {
    let Some(id) = which.client else {
        return Err(Fault::new(Code::BadParams, "whom? wanted is {\"client\": NAME}"));
    };
    if broker.kick(&id).await {
        return Ok(Answer::One(json!({ "kicked": id })));
    }
    match broker.client(&id).await.ok_or_else(stopping)? {
        Ok(_) => Err(Fault::new(Code::Failed, format!("client `{id}` is not connected, only its session is kept"))),
        Err(known) => Err(unknown(&id, &known)),
    }
}

fn unknown(id: &str, known: &[String]) -> Fault {
    let near = config::near(id, known.iter().map(String::as_str));
    let hint = near.map_or("`trunkline clients` lists them".to_owned(), |near| format!("did you mean `{near}`?"));
    Fault::new(Code::BadParams, format!("no client `{id}`; {hint}"))
}

async fn topics(broker: &Broker, wanted: Wanted) -> Result<Answer, Fault> {
    let text = wanted.filter.unwrap_or_else(|| "#".to_owned());
    let bad = |text: &str, why: String| Fault::new(Code::BadParams, format!("`{text}`: {why}"));
    let filter = TopicFilter::new(text.as_str()).map_err(|e| bad(&text, e.to_string()))?;
    let after = wanted.after.map(|text| TopicName::new(text.as_str()).map_err(|e| bad(&text, e.to_string())));
    let seen = broker.topics(filter, after.transpose()?, wanted.limit.unwrap_or(MAX_TOPICS)).await;
    Ok(Answer::One(to_value(&seen.ok_or_else(stopping)?)?))
}
