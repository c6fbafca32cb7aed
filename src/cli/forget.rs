//! `trunkline forget DEVICE`: the running gateway asks a device again for what it has refused, because it was changed.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::control::forget::Answer;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The device's name in the configuration
    #[arg(value_name = "DEVICE", required_unless_present = "all", conflicts_with = "all")]
    device: Option<String>,
    /// All devices
    #[arg(long)]
    all: bool,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match ask(args) {
        Ok(answer) => {
            say(&text(&answer));
            Exit::Well
        }
        Err(error) => {
            complain(&format!("trunkline forget: {error}"));
            Exit::Failed
        }
    }
}

fn ask(args: &Arguments) -> Result<Answer, ClientError> {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let params = args.device.as_ref().map_or_else(|| json!({"all": true}), |device| json!({"device": device}));
    let value = Client::connect(&path)?.call("forget", params)?;
    Answer::deserialize(value).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

fn text(answer: &Answer) -> String {
    let known = answer.forgotten.iter().filter(|f| !f.holes.is_empty());
    let lines: Vec<String> = known
        .map(|f| {
            let holes = if f.holes.len() == 1 { "1 hole".to_owned() } else { format!("{} holes", f.holes.len()) };
            format!("{}: {holes} forgotten, asked for again now: {}", f.device, f.holes.join(", "))
        })
        .collect();
    match &answer.forgotten[..] {
        _ if !lines.is_empty() => lines.join("\n"),
        [one] => format!("{}: no holes were known; asked for everything now", one.device),
        all => format!("no holes were known of {} devices; asked for everything now", all.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::forget::Forgotten;

    #[test]
    fn what_was_known_is_told_in_a_line_a_device() {
        let of = |device: &str, holes: &[&str]| Forgotten {
            device: device.to_owned(),
            holes: holes.iter().map(|hole| (*hole).to_owned()).collect(),
        };
        let said = |forgotten: Vec<Forgotten>| text(&Answer { forgotten });
        let all = vec![of("a", &["holding 4–6", "input before 9"]), of("b", &[]), of("c", &["coil 1"])];
        assert_eq!(
            said(all),
            "a: 2 holes forgotten, asked for again now: holding 4–6, input before 9\n\
             c: 1 hole forgotten, asked for again now: coil 1"
        );
        assert_eq!(said(vec![of("b", &[])]), "b: no holes were known; asked for everything now");
        assert_eq!(
            said(vec![of("a", &[]), of("b", &[])]),
            "no holes were known of 2 devices; asked for everything now"
        );
    }
}
