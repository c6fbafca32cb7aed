//! `trunkline reload`: the running gateway reads its configuration anew; what is wrong, or what has changed, is said here.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::{Exit, caution, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::control::protocol::Code;

/// A line that ends finishes what it has begun, tries and all; a large configuration takes a second to check.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// What the gateway answers to everything that changes a configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Changed {
    pub(super) changes: Vec<String>,
    #[serde(default)]
    pub(super) warnings: String,
    /// What was applied lies in its place already: nothing waits to be confirmed.
    #[serde(default)]
    pub(super) in_place: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let socket = args.socket.clone().unwrap_or_else(control::ask_path);
    match ask(&socket, "reload", Value::Null).and_then(|answer| changed(&answer)) {
        Ok(changed) => {
            say(&told(&changed));
            Exit::Well
        }
        Err(error) => refused("reload", &error),
    }
}

/// One question to the gateway.
pub(super) fn ask(socket: &std::path::Path, method: &str, params: Value) -> Result<Value, ClientError> {
    let mut client = Client::connect(socket)?;
    client.wait_for(PATIENCE)?;
    client.call(method, params)
}

pub(super) fn changed(answer: &Value) -> Result<Changed, ClientError> {
    Changed::deserialize(answer).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

/// Says warnings, and gives what has changed, a line each.
pub(super) fn told(changed: &Changed) -> String {
    if !changed.warnings.is_empty() {
        caution(changed.warnings.trim_end());
    }
    if changed.changes.is_empty() { "nothing has changed".to_owned() } else { changed.changes.join("\n") }
}

/// A configuration that is wrong is told as `check` tells it, and ends as `check` does.
pub(super) fn refused(command: &str, error: &ClientError) -> Exit {
    match error {
        ClientError::Refused(fault) if fault.code == Code::Configuration => {
            complain(&fault.message);
            complain(&format!("trunkline {command}: nothing was changed, the configuration before runs on"));
            Exit::Configuration
        }
        other => {
            complain(&format!("trunkline {command}: {other}"));
            Exit::Failed
        }
    }
}
