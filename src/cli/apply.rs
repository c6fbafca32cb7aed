//! `trunkline apply`, `confirm` and `revert`: a configuration on trial. The gateway runs it; its file is put in place here,
//! with the rights of whoever confirms, and not before.

pub(super) mod place;
mod vouch;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::apply::vouch::Meant;
use crate::cli::demo::duration;
use crate::cli::reload::{ask, changed, refused, told};
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::client::ClientError;
use crate::control::protocol::MAX_REQUEST;

/// Without `--confirm` it is confirmed at once; should that not be possible, it is taken back after this.
const AT_ONCE: Duration = Duration::from_secs(30);
/// What a request holds beside the text, and what JSON adds to it at most.
const ROOM: usize = MAX_REQUEST / 2;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration that shall run in place of the one that does; includes, profiles and users stay the files they are
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Go back to the one before unless `trunkline confirm` comes within this time, e.g. 60s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    confirm: Option<Duration>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// The file that the gateway runs from, and no other; without it the gateway is believed where a configuration lies
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Socket {
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Confirm {
    /// The file that the gateway runs from, and no other; without it the gateway is believed where a configuration lies
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
}

/// What waits to be confirmed.
#[derive(Debug, Deserialize)]
struct Pending {
    file: PathBuf,
    text: String,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let socket = args.socket.clone().unwrap_or_else(control::ask_path);
    let text = match std::fs::read_to_string(&args.file) {
        Ok(text) if text.len() <= ROOM => text,
        Ok(text) => {
            return failed("apply", &format!("{} has {} bytes, at most are {ROOM}", args.file.display(), text.len()));
        }
        Err(error) => return failed("apply", &format!("{} cannot be read: {error}", args.file.display())),
    };
    let candidate = json!({ "name": args.file.display().to_string(), "text": &text });
    let done = if args.dry_run {
        compare(&socket, candidate)
    } else {
        match args.confirm {
            Some(trial) => try_out(&socket, candidate, trial),
            None => return at_once(&socket, candidate, &Meant { file: args.config.as_deref(), text: Some(&text) }),
        }
    };
    match done {
        Ok(()) => Exit::Well,
        Err(error) => refused("apply", &error),
    }
}

fn compare(socket: &Path, candidate: Value) -> Result<(), ClientError> {
    say(&told(&changed(&ask(socket, "config.compare", candidate)?)?));
    Ok(())
}

/// What is to be confirmed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Something,
    /// It lies in its place and runs already.
    Nothing,
}

fn begin(socket: &Path, mut candidate: Value, trial: Duration) -> Result<Waits, ClientError> {
    candidate["confirm_s"] = json!(trial.as_secs());
    let changed = changed(&ask(socket, "config.apply", candidate)?)?;
    say(&told(&changed));
    if changed.in_place {
        say("it runs and lies in its place already: there is nothing to confirm");
        return Ok(Waits::Nothing);
    }
    Ok(Waits::Something)
}

fn try_out(socket: &Path, candidate: Value, trial: Duration) -> Result<(), ClientError> {
    if begin(socket, candidate, trial)? == Waits::Nothing {
        return Ok(());
    }
    say(&format!(
        "it runs now; unless `trunkline confirm` comes within {} s, the configuration before runs again",
        trial.as_secs()
    ));
    Ok(())
}

fn at_once(socket: &Path, candidate: Value, meant: &Meant<'_>) -> Exit {
    match begin(socket, candidate, AT_ONCE) {
        Ok(Waits::Something) => {}
        Ok(Waits::Nothing) => return Exit::Well,
        Err(error) => return refused("apply", &error),
    }
    match confirm_at(socket, meant, "apply") {
        Ok(kept) => {
            say(&format!("it runs, and lies in its place: {}", kept.words()));
            Exit::Well
        }
        Err(why) => {
            let back = ask(socket, "config.revert", Value::Null);
            let back = back.map_or_else(
                |e| format!("it is taken back within {} s ({e})", AT_ONCE.as_secs()),
                |_| "it was taken back".to_owned(),
            );
            failed("apply", &format!("{why}; {back}"))
        }
    }
}

pub(super) fn confirm(args: &Confirm) -> Exit {
    let socket = args.socket.socket.clone().unwrap_or_else(control::ask_path);
    let meant = Meant { file: args.config.as_deref(), text: None };
    match confirm_at(&socket, &meant, "confirm") {
        Ok(kept) => {
            say(&format!("confirmed, it runs and lies in its place: {}", kept.words()));
            Exit::Well
        }
        Err(why) => failed("confirm", &why),
    }
}

/// What lies in its place.
struct Kept {
    file: PathBuf,
    before: Option<PathBuf>,
}

impl Kept {
    fn words(&self) -> String {
        let before = self.before.as_ref().map(|before| format!(" (before: {})", before.display()));
        format!("{}{}", self.file.display(), before.unwrap_or_default())
    }
}

/// Puts what is on trial in its place, then says so; `command` is what was called. The gateway is not believed: see [`vouch`].
fn confirm_at(socket: &Path, meant: &Meant<'_>, command: &str) -> Result<Kept, String> {
    let pending = ask(socket, "config.pending", Value::Null).map_err(|e| e.to_string())?;
    let Pending { file, text } = Pending::deserialize(pending).map_err(|e| e.to_string())?;
    let place = vouch::vouched(&file, &text, meant, command)?;
    let placed = place::put(&place, &text)
        .map_err(|e| format!("{} cannot be written: {e}; {}", file.display(), advice(&e, command)))?;
    let before = placed.as_ref().map(|placed| placed.before().to_owned());
    match ask(socket, "config.confirm", Value::Null) {
        Ok(_) => Ok(Kept { file, before }),
        Err(_) if was_kept(socket, &file, &text) => Ok(Kept { file, before }),
        Err(error) => Err(not_confirmed(&file, placed, &error)),
    }
}

/// What lets a file be put in its place.
fn advice(error: &io::Error, command: &str) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("call it as a user who may write there (sudo trunkline {command})")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "make it writable (sudo mount -o remount,rw and its mount point) and call this again".to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there and call this again".to_owned(),
        _ => "call this again when that is mended".to_owned(),
    }
}

/// Whose time was over when it lay in its place already is kept without a word; it runs, and waits for nothing.
fn was_kept(socket: &Path, file: &Path, text: &str) -> bool {
    let waits = ask(socket, "config.pending", Value::Null);
    let candidate = json!({ "name": file.display().to_string(), "text": text });
    let nothing = |answer: Value| answer["changes"].as_array().is_some_and(Vec::is_empty);
    matches!(waits, Err(ClientError::Refused(_))) && ask(socket, "config.compare", candidate).is_ok_and(nothing)
}

/// What is not confirmed does not stay in place: the next start would run it.
fn not_confirmed(file: &Path, placed: Option<place::Placed>, why: &ClientError) -> String {
    let file = file.display();
    match placed.map(place::Placed::take_back) {
        None => why.to_string(),
        Some(Ok(())) => format!("{why}; {file} is again what it was before"),
        Some(Err(error)) => {
            format!("{why}; {file} could not be made what it was before ({error}): put {file}.before in its place")
        }
    }
}

pub(super) fn revert(args: &Socket) -> Exit {
    let socket = args.socket.clone().unwrap_or_else(control::ask_path);
    match ask(&socket, "config.revert", Value::Null).and_then(|answer| changed(&answer)) {
        Ok(changed) => {
            say(&told(&changed));
            say("the configuration before runs again");
            Exit::Well
        }
        Err(error) => refused("revert", &error),
    }
}

fn failed(command: &str, why: &str) -> Exit {
    complain(&format!("trunkline {command}: {why}"));
    Exit::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_depends_on_why_it_cannot_be_written() {
        let said = |kind: io::ErrorKind| advice(&kind.into(), "confirm");
        assert!(said(io::ErrorKind::PermissionDenied).contains("sudo trunkline confirm"));
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("remount,rw"));
        assert!(said(io::ErrorKind::StorageFull).contains("make room"));
    }
}
