//! `trunkline audit`: who wrote what to which machine, and what came of it. Asks the running gateway; with `-c` it opens the
//! file of a gateway that does not run, and the two keep each other out.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::demo::duration;
use crate::cli::table::{Align, render};
use crate::cli::{ConfigFile, Exit, complain, load, say};
use crate::command::audit::{Asked, Cause, Entry, Seq, Stored, Wanted};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::database::FileError;
use crate::time;

/// Shown where nothing else is asked for.
const LAST: usize = 20;
/// Entries of a file read at once.
const SLICE: u32 = 500;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The newest so many; 20 unless --since is given
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Begun so long ago or later (90s, 5m, 2h), or at this time or later (2026-11-21T06:00:00Z, 2026-11-21 07:00)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Only of this device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Only of this client id, user or upstream
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Go on with what comes
    #[arg(long, conflicts_with = "config")]
    follow: bool,
    /// For programs: one JSON document a line
    #[arg(long)]
    json: bool,
    /// The running gateway's control socket
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration of a gateway that does not run: its file is opened
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// RFC 3339 in UTC with milliseconds, as entries are stamped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Since(String);

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Asked(#[from] ClientError),
    #[error("{0}")]
    File(#[from] FileError),
    #[error("the trail cannot be read: {0}")]
    Trail(String),
    /// Said already.
    #[error("the configuration is wrong")]
    Configuration,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let done = match &args.config {
        Some(config) => stored(args, config),
        None => asked(args),
    };
    match done {
        Ok(()) => Exit::Well,
        Err(Failure::Configuration) => Exit::Configuration,
        Err(error) => {
            complain(&format!("trunkline audit: {error}"));
            Exit::Failed
        }
    }
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        Wanted {
            last: self.last.or_else(|| self.since.is_none().then_some(LAST)),
            since: self.since.clone().map(|Since(text)| text),
            device: self.device.clone(),
            who: self.who.clone(),
            follow: self.follow,
        }
    }

    /// The newest come first, a person reads downwards.
    fn show(&self, mut entries: Vec<Entry>) {
        entries.reverse();
        match self.json {
            true => entries.iter().for_each(|entry| say(&line_of_json(entry))),
            false if entries.is_empty() => say("nothing was written, and nothing refused"),
            false => say(table(&entries).trim_end()),
        }
    }

    fn show_next(&self, entry: &Entry) {
        say(&if self.json { line_of_json(entry) } else { cells(entry).join("  ") });
    }
}

fn stored(args: &Arguments, config: &std::path::Path) -> Result<(), Failure> {
    let plant = load(&ConfigFile { config: config.to_owned() }).map_err(|_| Failure::Configuration)?.plant;
    let stored = Stored::open(&plant.audit)?;
    let wanted = args.wanted();
    let (mut left, mut before, mut found) = (wanted.last.unwrap_or(usize::MAX), Seq::MAX, Vec::new());
    while left > 0 {
        let slice = stored.read(before, SLICE).map_err(Failure::Trail)?;
        let Some(last) = slice.last() else { break };
        before = last.seq;
        found.extend(wanted.pick(slice, &mut left));
    }
    args.show(found);
    Ok(())
}

/// What the daemon sends: lists, the newest first; where the past ends; what comes; what was missed; why it breaks off.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Sent {
    Past(Vec<Entry>),
    Now { now: bool },
    Lost { lost: u64 },
    Failed { failed: String },
    Next(Box<Entry>),
}

fn asked(args: &Arguments) -> Result<(), Failure> {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let mut client = Client::connect(&path)?;
    if args.follow {
        client.wait_for_ever()?;
    }
    let params = serde_json::to_value(args.wanted()).unwrap_or(Value::Null);
    let mut found = Vec::new();
    let mut is_shown = false;
    for item in client.stream("audit", params)? {
        match Sent::deserialize(item?) {
            Ok(Sent::Past(slice)) => found.extend(slice),
            Ok(Sent::Now { now }) => {
                args.show(std::mem::take(&mut found));
                is_shown = now;
            }
            Ok(Sent::Next(entry)) => args.show_next(&entry),
            Ok(Sent::Lost { lost }) => complain(&format!("{lost} entries came too fast to be shown")),
            Ok(Sent::Failed { failed }) => return Err(Failure::Trail(failed)),
            Err(e) => return Err(ClientError::Garbled(format!("{e}; is the daemon of another version?")).into()),
        }
    }
    if !is_shown {
        args.show(found);
    }
    Ok(())
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(span) = duration(text) {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        return Ok(Since(time::rfc3339_millis(time::now().wall_us.saturating_sub(span))));
    }
    let local = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::system()).ok();
    let at = text.parse::<jiff::Timestamp>().ok().or_else(|| local().map(|zoned| zoned.timestamp()));
    let at = at.ok_or_else(|| format!("`{text}` is no time: write 2h, 2026-11-21T06:00:00Z or 2026-11-21 07:00"))?;
    Ok(Since(time::rfc3339_millis(at.as_microsecond())))
}

fn line_of_json(entry: &Entry) -> String {
    serde_json::to_string(entry).unwrap_or_default()
}

fn table(entries: &[Entry]) -> String {
    let head = ["TIME", "WHO", "WHERE", "ASKED", "RESULT", "TOOK", "ID"].map(|title| (title, Align::Left));
    render(&head, &entries.iter().map(cells).collect::<Vec<_>>())
}

fn cells(entry: &Entry) -> Vec<String> {
    let dash = |text: Option<&str>| text.unwrap_or("–").to_owned();
    vec![
        entry.time.clone(),
        who(entry),
        dash(entry.draft.device.as_deref().or(entry.draft.line.as_deref())),
        what(entry),
        result(entry),
        dash(entry.outcome.as_ref().and_then(|o| o["duration_ms"].as_u64()).map(|ms| format!("{ms} ms")).as_deref()),
        dash(entry.draft.id.as_deref()),
    ]
}

fn who(entry: &Entry) -> String {
    let from = &entry.draft.from;
    match (&from.client, &from.user, &from.upstream, entry.draft.cause) {
        (Some(client), Some(user), ..) => format!("{client} ({user})"),
        (Some(client), None, ..) => client.clone(),
        (None, _, Some(upstream), _) => format!("upstream {upstream}"),
        (None, _, None, Cause::FailSafe) => "fail-safe".to_owned(),
        (None, _, None, _) => from.local.clone().unwrap_or_else(|| "–".to_owned()),
    }
}

/// `setpoint = 7.5, mode = cooling`; what could not be understood as it came.
fn what(entry: &Entry) -> String {
    let bare = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let one = |asked: &Asked| match asked.point.as_str() {
        "" => asked.raw.clone(),
        point => format!("{point} = {}", bare(&asked.value)),
    };
    let asked = entry.draft.asked.iter().map(one).collect::<Vec<_>>().join(", ");
    let text = match &entry.draft.payload {
        Some(payload) => format!("{} {payload:?}", entry.draft.topic),
        None => asked,
    };
    if entry.draft.cause == Cause::Raw { format!("raw {text}") } else { text }
}

/// `written 7.5`, `refused: why`; of a batch what went wrong.
fn result(entry: &Entry) -> String {
    let word = entry.result().to_owned();
    let Some(outcome) = &entry.outcome else { return word };
    let parts = outcome["writes"].as_array().into_iter().flatten();
    let reasons = parts.filter_map(|part| Some(format!("{}: {}", part["point"].as_str()?, part["reason"].as_str()?)));
    let reasons: Vec<String> = outcome["reason"].as_str().map(str::to_owned).into_iter().chain(reasons).collect();
    let said = match (&outcome["value"], reasons.is_empty()) {
        (Value::Null, true) => word,
        (value, true) => format!("{word} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        (_, false) => format!("{word}: {}", reasons.join("; ")),
    };
    entry.draft.why.as_ref().map_or(said.clone(), |why| format!("{said} ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::audit::{Draft, Who};
    use serde_json::json;

    fn entry(draft: Draft, outcome: Value) -> Entry {
        Entry { seq: 1, time: "2026-11-21T01:02:03.456Z".into(), draft, outcome: Some(outcome) }
    }

    fn asked(point: &str, value: Value) -> Asked {
        Asked { point: point.into(), value, raw: "holding 1 = 2".into() }
    }

    #[test]
    fn a_person_reads_who_asked_for_what_and_what_came_of_it() {
        let hmi = Who { client: Some("hmi".into()), user: Some("otto".into()), ..Who::default() };
        let one = Draft {
            from: hmi,
            device: Some("chiller".into()),
            asked: vec![asked("setpoint", json!(7.5))],
            id: Some("a7".into()),
            ..Draft::default()
        };
        let cloud = Draft {
            from: Who { upstream: Some("cloud".into()), ..Who::default() },
            asked: vec![asked("mode", json!("cooling")), asked("pump", json!(true))],
            ..Draft::default()
        };
        let unread = Draft { topic: "g/d/p/set".into(), payload: Some("{\"valve\"".into()), ..Draft::default() };
        let own = Draft { cause: Cause::FailSafe, asked: vec![asked("pump", json!(false))], ..Draft::default() };
        let raw = Draft { cause: Cause::Raw, asked: vec![asked("", Value::Null)], ..Draft::default() };
        let batch = json!({"result": "refused", "writes": [{"point": "mode", "reason": "no such name"}]});
        let text = table(&[
            entry(one, json!({"result": "written", "value": 7.5, "duration_ms": 41})),
            entry(cloud, batch),
            entry(unread, json!({"result": "refused", "reason": "the payload is no value"})),
            entry(own, json!({"result": "written"})),
            entry(raw, json!({"result": "failed", "reason": "timeout"})),
        ]);
        for want in [
            "hmi (otto)",
            "chiller  setpoint = 7.5",
            "written 7.5",
            "41 ms  a7",
            "upstream cloud",
            "mode = cooling, pump = true",
            "refused: mode: no such name",
            r#"g/d/p/set "{\"valve\"""#,
            "refused: the payload is no value",
            "fail-safe",
            "raw holding 1 = 2",
            "failed: timeout",
        ] {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
    }

    #[test]
    fn a_time_is_a_span_or_a_moment() {
        assert_eq!(since("2026-11-21T06:00:00Z"), Ok(Since("2026-11-21T06:00:00.000Z".into())));
        let Since(ago) = since("2h").unwrap();
        let now = time::now().wall_us;
        assert!(ago < time::rfc3339_millis(now - 7_199_000_000) && ago > time::rfc3339_millis(now - 7_205_000_000));
        assert!(since("2026-11-21 07:00").is_ok());
        assert!(since("yesterday").unwrap_err().contains("no time"));
    }
}
