//! The broker held to the standards, statement by statement: `*.yaml` here are conversations over real sockets, bytes in,
//! bytes out, each named by the normative statements it shows. `statements.yaml` accounts for every number of both
//! standards; `page` writes `docs/conformance.md` from both, and a test checks that it is current.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod page;
mod pattern;
mod peer;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use trunkline::broker;
use trunkline::config::plant;
use trunkline::topic::TopicFilter;

use self::stage::Stage;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Statements of 3.1.1 it shows; present: it runs with 3.1.1.
    v4: Option<Vec<String>>,
    /// The same for 5.0.
    v5: Option<Vec<String>>,
    #[serde(default)]
    server: Server,
    steps: String,
}

/// What a broker of this case has beyond the usual: everybody may come in and do everything.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Server {
    /// Names and passwords; where there are any, nobody comes in without.
    users: BTreeMap<String, String>,
    /// What everybody may publish to and subscribe to.
    write: Vec<String>,
    read: Vec<String>,
    clients: Option<usize>,
}

impl Server {
    fn settings(&self) -> plant::Broker {
        let listen = [plant::ListenerKind::Tcp, plant::ListenerKind::WebSocket { origins: Vec::new() }];
        let filters = |texts: &[String]| texts.iter().map(|text| TopicFilter::new(text.as_str()).unwrap()).collect();
        let rule =
            plant::AccessRule { user: None, client: None, read: filters(&self.read), write: filters(&self.write) };
        let ruled = !self.read.is_empty() || !self.write.is_empty();
        let clients = self.clients.unwrap_or(50);
        let limits = plant::Limits { clients, packet: 100_000, queue: 1000, ..plant::Limits::default() };
        let plain = plant::Listener::plain("127.0.0.1:0".parse().unwrap());
        let listen = listen.map(|kind| plant::Listener { kind, limits, ..plain.clone() });
        plant::Broker {
            listen: listen.to_vec(),
            anonymous: if self.users.is_empty() { plant::Anonymous::Always } else { plant::Anonymous::Never },
            users: None,
            access: ruled.then_some(rule).into_iter().collect(),
            limits,
        }
    }

    fn users(&self) -> Vec<(String, String)> {
        let hashed = |(name, password): (&String, &String)| (name.clone(), broker::hash_password(password).unwrap());
        self.users.iter().map(hashed).collect()
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

fn cases() -> Vec<Case> {
    let files = std::fs::read_dir(dir()).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    let cases = files.iter().filter(|file| !file.ends_with("statements.yaml"));
    let read = |file: &PathBuf| -> Vec<Case> {
        let text = std::fs::read_to_string(file).unwrap();
        serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    };
    cases.flat_map(read).collect()
}

async fn play(case: &Case, v5: bool) -> Result<(), String> {
    let mut stage = Stage::open(v5, case.server.settings(), case.server.users());
    let mut result = Ok(());
    for step in case.steps.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        result = stage.act(step).await.map_err(|e| format!("at `{step}`: {e}"));
        if result.is_err() {
            break;
        }
    }
    stage.close().await;
    result
}

async fn play_both(case: Case) -> Vec<String> {
    let mut failures = Vec::new();
    for (level, v5) in [(&case.v4, false), (&case.v5, true)] {
        if level.is_some()
            && let Err(why) = play(&case, v5).await
        {
            failures.push(format!("{} ({}) {why}", case.name, if v5 { "5.0" } else { "3.1.1" }));
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_table_holds() {
    // `CASE=words` plays only those whose name has the words.
    let wanted = std::env::var("CASE").unwrap_or_default();
    let mut left: Vec<Case> = cases().into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let (mut running, mut failures, count) = (tokio::task::JoinSet::new(), Vec::new(), left.len());
    // A broker each, some at a time.
    while !left.is_empty() || !running.is_empty() {
        while running.len() < 16
            && let Some(case) = left.pop()
        {
            running.spawn(play_both(case));
        }
        failures.extend(running.join_next().await.into_iter().flat_map(Result::unwrap));
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), count, failures.join("\n"));
}
