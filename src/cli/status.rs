//! `trunkline status`: asks the running gateway how it stands. What it shows is made in [`tables`]; whether that is good news,
//! which the exit status says too, in [`health`](crate::web::health).

mod tables;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::status::tables::Room;
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::status::Snapshot;
use crate::web::health::{Health, judge};

/// How often a gateway that went away is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// For programs: one JSON document (with --watch one a line)
    #[arg(long)]
    json: bool,
    /// Again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Everything, also where the terminal has no room for it
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let told = if args.watch { watch(args, &path) } else { look(args, &path) };
    told.unwrap_or_else(|error| {
        complain(&format!("trunkline status: {error}"));
        Exit::Down
    })
}

/// As checks for monitoring have it: 0 well, 1 worth knowing, 2 somebody must come.
fn exit_by(health: &Health) -> Exit {
    match (health.is_well(), health.notes.is_empty()) {
        (true, true) => Exit::Well,
        (true, false) => Exit::Failed,
        (false, _) => Exit::Down,
    }
}

fn look(args: &Arguments, path: &Path) -> Result<Exit, ClientError> {
    let value = Client::connect(path)?.call("status", Value::Null)?;
    let now = snapshot(&value)?;
    let health = judge(&now);
    let text = match args.json {
        true => serde_json::to_string_pretty(&judged(value, &health)).unwrap_or_default(),
        false => tables::page(&now, if args.all { Room { rows: None, ..room() } } else { room() }),
    };
    say(text.trim_end());
    Ok(exit_by(&health))
}

/// Where the gateway is restarted meanwhile, a person who looks on sees it come back; a program is told that it has gone.
fn watch(args: &Arguments, path: &Path) -> Result<Exit, ClientError> {
    let in_place = io::stdout().is_terminal() && !args.json;
    let mut client = Client::connect(path)?;
    loop {
        let gone = match follow(args, &mut client, in_place) {
            Ok(()) if in_place => "it was stopped".to_owned(),
            Ok(()) => return Ok(Exit::Well),
            Err(error) if in_place => error.to_string(),
            Err(error) => return Err(error),
        };
        client = loop {
            if let Ok(client) = Client::connect(path) {
                break client;
            }
            if !draw(&format!("the gateway does not answer: {gone}\nit is looked for every second; Ctrl-C ends\n")) {
                return Ok(Exit::Well);
            }
            std::thread::sleep(LOOK_AGAIN);
        };
    }
}

/// Until either end has gone; an error where the gateway's end went without a word.
fn follow(args: &Arguments, client: &mut Client, in_place: bool) -> Result<(), ClientError> {
    for value in client.stream("status.watch", Value::Null)? {
        let value = value?;
        let now = snapshot(&value)?;
        let goes_on = match (args.json, in_place) {
            (true, _) => print(&judged(value, &judge(&now)).to_string()),
            (false, true) => draw(&tables::page(&now, room())),
            (false, false) => print(&tables::page(&now, Room::default())),
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// False when nobody reads any more.
fn print(text: &str) -> bool {
    writeln!(io::stdout().lock(), "{text}").is_ok()
}

/// Over what was drawn before: home, then each line cleared to its end, which does not flicker as clearing the screen would. No
/// more lines than there are: the first would be gone.
fn draw(text: &str) -> bool {
    let rows = room().rows.unwrap_or(usize::MAX);
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    if lines.len() >= rows {
        lines.truncate(rows.saturating_sub(2));
        lines.push("… this terminal is too low for the rest: `trunkline status` without --watch has it");
    }
    let body: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
    let mut out = io::stdout().lock();
    write!(out, "\x1b[H{body}\x1b[J").and_then(|()| out.flush()).is_ok()
}

/// The terminal's; nothing where there is none. A serial console does not know its size: most have 80 columns.
fn room() -> Room {
    if !io::stdout().is_terminal() {
        return Room::default();
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row));
    let known = |n: u16| (n > 0).then_some(usize::from(n));
    Room { columns: Some(known(size.0).unwrap_or(80)), rows: known(size.1) }
}

fn snapshot(value: &Value) -> Result<Snapshot, ClientError> {
    serde::Deserialize::deserialize(value)
        .map_err(|e: serde_json::Error| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

/// What the gateway said, and what that means. The words are those of the exit status.
fn judged(mut value: Value, health: &Health) -> Value {
    let state = match exit_by(health) {
        Exit::Well => "well",
        Exit::Failed => "degraded",
        _ => "down",
    };
    value["health"] = json!({ "state": state, "problems": health.reasons, "notes": health.notes });
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ClientStatus, DeviceStatus, FailSafeStatus, Ledger, LineStatus, Unmet, UpstreamStatus};
    use crate::status::{ConfigOutcome, DeviceState, FailSafeState, LinkState, Recognition};
    use crate::web::health::{Kind, News};

    #[test]
    fn the_exit_status_is_for_monitoring_and_the_worst_comes_first() {
        let line = |up| LineStatus { name: "hall".into(), up, ..LineStatus::default() };
        let cloud = UpstreamStatus { name: "cloud".into(), ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line(true)], ..Snapshot::default() };
        assert_eq!(exit_by(&judge(&now)), Exit::Well);
        now.upstreams.push(cloud);
        assert_eq!(exit_by(&judge(&now)), Exit::Failed, "a cloud that is away");
        now.lines.push(line(false));
        assert_eq!(exit_by(&judge(&now)), Exit::Down, "a port that is gone");
        let text = tables::page(&now, Room::default());
        let first: Vec<&str> = text.lines().skip(2).take(2).collect();
        assert!(first[0].starts_with("ALARM: line hall ") && first[1].starts_with("note: upstream cloud "), "{text}");
    }

    #[test]
    fn programs_are_told_what_the_exit_status_says_and_why() {
        let mut now = Snapshot { lines: vec![LineStatus::default()], ..Snapshot::default() };
        let told = |now: &Snapshot| judged(serde_json::to_value(now).unwrap(), &judge(now))["health"].clone();
        assert_eq!(told(&now)["state"], "down");
        assert_eq!(told(&now)["problems"][0]["kind"], "line");
        now.lines[0].up = true;
        assert_eq!(told(&now), json!({"state": "well", "problems": [], "notes": []}));
        now.upstreams.push(UpstreamStatus::default());
        assert_eq!((&told(&now)["state"], &told(&now)["notes"][0]["kind"]), (&json!("degraded"), &json!("upstream")));
    }

    /// One of everything that can be there.
    fn everything() -> Value {
        let (devices, unmet) = (vec![DeviceStatus::default()], vec![Unmet::default()]);
        let mut now = Snapshot {
            lines: vec![LineStatus { devices, unmet, ..LineStatus::default() }],
            upstreams: vec![UpstreamStatus::default()],
            fail_safes: vec![FailSafeStatus::default()],
            ..Snapshot::default()
        };
        now.broker.clients.push(ClientStatus::default());
        now.spool.ledger.insert("cloud".into(), Ledger::default());
        now.spool.backlog.insert("cloud".into(), 1);
        now.panics.insert("hall".into(), 1);
        now.last_panic_uptime_s.insert("hall".into(), 1);
        now.config.confirm_by_uptime_s = Some(1);
        let news = || vec![News { kind: Kind::Line, text: String::new() }];
        judged(serde_json::to_value(now).unwrap(), &Health { reasons: news(), notes: news() })
    }

    /// What does not fit, by place; a field that is not described is what this looks for.
    fn misfits(at: &str, value: &Value, rule: &Value, schema: &Value, out: &mut Vec<String>) {
        let rule = match rule["$ref"].as_str() {
            Some(to) => schema.pointer(to.trim_start_matches('#')).unwrap_or(&Value::Null),
            None => rule,
        };
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let fits = match (&rule["type"], rule["enum"].as_array()) {
            (_, Some(words)) => words.contains(value),
            (Value::String(one), None) => one == is,
            (Value::Array(several), None) => several.contains(&json!(is)),
            _ => false,
        };
        if !fits {
            out.push(format!("{at}: {value} against {rule}"));
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            misfits(&format!("{at}/{n}"), item, &rule["items"], schema, out);
        }
        let (fields, known) = (value.as_object(), rule["properties"].as_object());
        for (name, inner) in fields.into_iter().flatten() {
            let place = format!("{at}/{name}");
            let inner_rule = known.and_then(|known| known.get(name)).unwrap_or(&rule["additionalProperties"]);
            misfits(&place, inner, inner_rule, schema, out);
        }
        for (name, described) in known.into_iter().flatten() {
            if !value.as_object().is_some_and(|fields| fields.contains_key(name)) {
                out.push(format!("{at}/{name} is described and not there"));
            }
            if described["description"].as_str().is_none_or(str::is_empty) {
                out.push(format!("{at}/{name} has no description"));
            }
        }
    }

    #[test]
    fn every_field_that_is_printed_is_described_in_the_schema_and_none_beside() {
        let schema: Value = serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
        let mut out = Vec::new();
        misfits("", &everything(), &schema, &schema, &mut out);
        assert!(out.is_empty(), "{}", out.join("\n"));
        let mut other = everything();
        (other["lines"][0]["devices"][0]["mood"], other["lines"][0]["up"]) = (json!(1), json!("yes"));
        misfits("", &other, &schema, &schema, &mut out);
        let said = out.iter().filter(|o| o.starts_with("/lines/0/devices/0/mood:") || o.starts_with("/lines/0/up:"));
        assert_eq!((said.count(), out.len()), (2, 2), "what does not fit is seen: {out:?}");
    }

    /// All words of an enum, as serde names them to whoever brings another.
    fn words<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let error = serde_json::from_value::<T>(json!("")).unwrap_err().to_string();
        // unknown variant ``, expected one of `a`, `b`
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_word_of_every_enum_stands_in_the_schema_and_none_beside() {
        let schema: Value = serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
        let enums = [
            ("/$defs/DeviceState", words::<DeviceState>()),
            ("/$defs/Recognition", words::<Recognition>()),
            ("/$defs/LinkState", words::<LinkState>()),
            ("/$defs/FailSafeState", words::<FailSafeState>()),
            ("/$defs/ConfigOutcome", words::<ConfigOutcome>()),
            ("/$defs/News/properties/kind", words::<Kind>()),
            ("/$defs/Health/properties/state", ["well", "degraded", "down"].map(str::to_owned).to_vec()),
        ];
        for (place, words) in &enums {
            assert!(words.len() > 1, "{place}: {words:?}");
            assert_eq!(schema.pointer(place).unwrap()["enum"], json!(words), "{place}");
        }
        let described = include_str!("../../docs/status.schema.json").matches("\"enum\":").count();
        assert_eq!(described, enums.len(), "an enum of the schema is not compared here");
    }
}
