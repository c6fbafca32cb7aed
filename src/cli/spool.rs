//! `trunkline spool`: shows, exports or clears what waits for the cloud. Asks the running gateway; with `-c` it opens the
//! file of a gateway that does not run, and the two keep each other out.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::table::{Align, bytes, render, thousands};
use crate::cli::{ConfigFile, Exit, complain, load, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::spool::look::{Survey, Waiting};
use crate::spool::{Cleared, SpoolError, Stored, Subscriber};
use crate::status::{Ledger, Snapshot};

/// Topics shown by `show`.
const TOPICS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What waits, for whom, since when
    Show(ShowArguments),
    /// Write what waits as CSV or JSON lines; nothing is taken out
    Export(ExportArguments),
    /// Throw away what waits; the cloud is told of the gap
    Clear(ClearArguments),
}

#[derive(Debug, Args)]
struct Where {
    /// The running gateway's control socket
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration of a gateway that does not run: its file is opened
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ShowArguments {
    #[command(flatten)]
    place: Where,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExportArguments {
    #[command(flatten)]
    place: Where,
    /// Only what waits for this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Where to; without it standard output
    #[arg(value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ClearArguments {
    #[command(flatten)]
    place: Where,
    /// Only what waits for this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A head line, then a line an entry
    Csv,
    /// A JSON document a line
    Jsonl,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Asked(#[from] ClientError),
    #[error("{0}")]
    File(#[from] SpoolError),
    #[error("the gateway cannot read its log: {0}")]
    Log(String),
    #[error("{}: {source}", .path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("not asked on a terminal: say --yes where nobody can answer")]
    NobodyThere,
    #[error("nothing was thrown away")]
    No,
    /// Said already.
    #[error("the configuration is wrong")]
    Configuration,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let done = match &args.what {
        What::Show(args) => show(args),
        What::Export(args) => export(args),
        What::Clear(args) => clear(args),
    };
    match done {
        Ok(()) => Exit::Well,
        Err(Failure::Configuration) => Exit::Configuration,
        Err(why) => {
            complain(&format!("trunkline spool: {why}"));
            Exit::Failed
        }
    }
}

/// Where the log is: behind a running gateway, or in a file.
enum Log {
    Running(Client),
    File(Box<Stored>),
}

impl Log {
    fn open(place: &Where) -> Result<Self, Failure> {
        let Some(config) = &place.config else {
            let path = place.socket.clone().unwrap_or_else(control::ask_path);
            return Ok(Self::Running(Client::connect(&path)?));
        };
        let plant = load(&ConfigFile { config: config.clone() }).map_err(|_| Failure::Configuration)?.plant;
        let subscriber = |u: &crate::config::plant::Upstream| Subscriber {
            name: u.name.clone(),
            filters: u.send.iter().map(|rule| rule.filter.clone()).collect(),
        };
        let upstreams = plant.upstreams.iter().map(subscriber).collect();
        Ok(Self::File(Box::new(Stored::open(plant.spool, upstreams)?)))
    }

    /// The account of each upstream.
    fn ledger(&mut self) -> Result<Vec<(String, Ledger)>, Failure> {
        let spool = match self {
            Self::Running(client) => read::<Snapshot>(client.call("status", Value::Null)?)?.spool,
            Self::File(stored) => stored.status(),
        };
        Ok(spool.ledger.into_iter().collect())
    }

    fn survey(&mut self) -> Result<Survey, Failure> {
        let names = self.ledger()?;
        let mut survey = Survey::of(names.iter().map(|(name, _)| name.as_str()));
        match self {
            Self::Running(client) => {
                for item in client.stream("spool.show", Value::Null)? {
                    let mut item = item?;
                    failed(&item)?;
                    if let Some(sum) = item.get_mut("survey") {
                        survey = read(sum.take())?;
                    }
                }
            }
            Self::File(stored) => each(stored, |entry| {
                survey.add(&entry);
                Ok(())
            })?,
        }
        Ok(survey)
    }

    fn entries(
        &mut self,
        upstream: Option<&str>,
        mut take: impl FnMut(Waiting) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::Running(client) => {
                let params = upstream.map_or(Value::Null, |name| json!({ "upstream": name }));
                for item in client.stream("spool.export", params)? {
                    let item = item?;
                    failed(&item)?;
                    read::<Vec<Waiting>>(item)?.into_iter().try_for_each(&mut take)?;
                }
                Ok(())
            }
            Self::File(stored) => {
                if let Some(name) = upstream.filter(|name| !stored.status().ledger.contains_key(*name)) {
                    let known = stored.status().ledger.into_keys().collect::<Vec<_>>().join(", ");
                    return Err(SpoolError::NoUpstream { name: name.to_owned(), known }.into());
                }
                each(stored, |entry| {
                    let wanted = upstream.is_none_or(|name| entry.upstreams.iter().any(|u| u == name));
                    if wanted { take(entry) } else { Ok(()) }
                })
            }
        }
    }

    fn clear(&mut self, upstream: Option<&str>) -> Result<Vec<Cleared>, Failure> {
        match self {
            Self::Running(client) => {
                let params = upstream.map_or(Value::Null, |name| json!({ "upstream": name }));
                read(client.call("spool.clear", params)?)
            }
            Self::File(stored) => Ok(stored.clear(upstream)?),
        }
    }
}

fn each(stored: &Stored, mut take: impl FnMut(Waiting) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let slice = stored.look(after)?;
        slice.entries.into_iter().try_for_each(&mut take)?;
        if slice.end {
            return Ok(());
        }
        after = slice.upto;
    }
}

fn read<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")).into())
}

fn failed(item: &Value) -> Result<(), Failure> {
    match item.get("failed").and_then(Value::as_str) {
        Some(why) => Err(Failure::Log(why.to_owned())),
        None => Ok(()),
    }
}

fn show(args: &ShowArguments) -> Result<(), Failure> {
    let mut log = Log::open(&args.place)?;
    let survey = log.survey()?;
    if args.json {
        say(&serde_json::to_string_pretty(&survey).unwrap_or_default());
    } else {
        say(tables(&survey).trim_end());
    }
    Ok(())
}

fn tables(survey: &Survey) -> String {
    if survey.upstreams.is_empty() {
        return "no upstream is configured: nothing is kept\n".to_owned();
    }
    let head = [
        ("UPSTREAM", Align::Left),
        ("WAITING", Align::Right),
        ("BYTES", Align::Right),
        ("OLDEST", Align::Left),
        ("NEWEST", Align::Left),
        ("GAPS", Align::Right),
        ("MISSING", Align::Right),
    ];
    let dash = |text: &String| if text.is_empty() { "–".to_owned() } else { text.clone() };
    let rows = survey.upstreams.iter().map(|(name, b)| {
        let (oldest, newest) = (dash(&b.oldest), dash(&b.newest));
        vec![
            name.clone(),
            thousands(b.entries),
            bytes(b.bytes),
            oldest,
            newest,
            thousands(b.gaps),
            thousands(b.missing),
        ]
    });
    let mut out = render(&head, &rows.collect::<Vec<_>>());
    let mut topics: Vec<_> = survey.topics.iter().collect();
    topics.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    if !topics.is_empty() {
        let rows: Vec<_> = topics.iter().take(TOPICS).map(|(t, n)| vec![(*t).clone(), thousands(**n)]).collect();
        out.push('\n');
        out.push_str(&render(&[("TOPIC", Align::Left), ("WAITING", Align::Right)], &rows));
    }
    if topics.len() > TOPICS {
        let rest: u64 = topics[TOPICS..].iter().map(|(_, n)| **n).sum();
        out.push_str(&format!("and {} on {} more topics\n", thousands(rest), topics.len() - TOPICS));
    }
    out
}

fn export(args: &ExportArguments) -> Result<(), Failure> {
    let mut log = Log::open(&args.place)?;
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from("standard output"));
    let fail = |source| Failure::Output { path: path.clone(), source };
    let sink: Box<dyn Write> = match &args.to {
        Some(path) => Box::new(File::create(path).map_err(fail)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut out = BufWriter::new(sink);
    let written = write_all(&mut log, args, &mut out, &fail);
    match written {
        // Whoever reads the pipe has enough.
        Err(Failure::Output { source, .. }) if args.to.is_none() && source.kind() == io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        other => other,
    }
}

fn write_all(
    log: &mut Log,
    args: &ExportArguments,
    out: &mut impl Write,
    fail: &dyn Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    if args.format == Format::Csv {
        writeln!(out, "time,topic,value,unit,quality,reason,payload,upstreams").map_err(fail)?;
    }
    let line = match args.format {
        Format::Csv => csv,
        Format::Jsonl => jsonl,
    };
    log.entries(args.upstream.as_deref(), |entry| writeln!(out, "{}", line(&entry)).map_err(fail))?;
    out.flush().map_err(fail)
}

/// RFC 4180: quoted where it has to be, quotes doubled.
fn csv(entry: &Waiting) -> String {
    let field = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let value = match entry.value.as_deref() {
        None | Some("null") => String::new(),
        Some(text) => serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned()),
    };
    let payload = entry.payload.clone().or_else(|| entry.payload_hex.as_ref().map(|hex| format!("0x{hex}")));
    let fields = [
        &entry.time,
        &entry.topic,
        &value,
        &entry.unit,
        &entry.quality,
        &entry.reason,
        &payload.unwrap_or_default(),
        &entry.upstreams.join(" "),
    ];
    fields.map(|f| field(f)).join(",")
}

/// The value stands in it as a number or text of JSON, with all its digits.
fn jsonl(entry: &Waiting) -> String {
    let bare = Waiting { value: None, ..entry.clone() };
    let text = serde_json::to_string(&bare).unwrap_or_default();
    match (&entry.value, text.strip_suffix('}')) {
        (Some(value), Some(body)) => format!("{body},\"value\":{value}}}"),
        _ => text,
    }
}

fn clear(args: &ClearArguments) -> Result<(), Failure> {
    let mut log = Log::open(&args.place)?;
    if !args.yes {
        ask(&log.ledger()?, args.upstream.as_deref())?;
    }
    for cleared in log.clear(args.upstream.as_deref())? {
        let Cleared { upstream, entries, in_flight } = cleared;
        let left = match in_flight {
            0 => String::new(),
            n => format!("; {} are under way and left to their answer", thousands(n)),
        };
        say(&format!("{upstream}: {} entries thrown away{left}", thousands(entries)));
    }
    Ok(())
}

fn ask(ledgers: &[(String, Ledger)], upstream: Option<&str>) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NobodyThere);
    }
    for (name, ledger) in ledgers.iter().filter(|(name, _)| upstream.is_none_or(|u| u == name)) {
        say(&format!("{} entries wait for {name}.", thousands(ledger.stored)));
    }
    say("They will never reach it. Throw them away? Type yes:");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_err() || answer.trim() != "yes" {
        return Err(Failure::No);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Waiting {
        Waiting {
            seq: 7,
            time: "2026-11-21T01:02:03.456Z".into(),
            topic: "plant/m/v".into(),
            value: Some("9007199254740993.10".into()),
            unit: "V".into(),
            quality: "good".into(),
            upstreams: vec!["cloud".into()],
            bytes: 20,
            ..Waiting::default()
        }
    }

    #[test]
    fn a_line_of_csv_is_quoted_where_it_has_to_be_and_keeps_all_digits() {
        assert_eq!(csv(&value()), "2026-11-21T01:02:03.456Z,plant/m/v,9007199254740993.10,V,good,,,cloud");
        let text = Waiting { value: Some(r#""a \"b\", c""#.into()), ..value() };
        assert_eq!(csv(&text), r#"2026-11-21T01:02:03.456Z,plant/m/v,"a ""b"", c",V,good,,,cloud"#);
        let bytes = Waiting { payload_hex: Some("00ff".into()), topic: "x".into(), ..Waiting::default() };
        assert_eq!(csv(&bytes), ",x,,,,,0x00ff,");
    }

    #[test]
    fn a_line_of_json_holds_the_value_with_all_its_digits() {
        let line = jsonl(&value());
        assert!(line.ends_with(r#","value":9007199254740993.10}"#), "{line}");
        assert!(serde_json::from_str::<Value>(&line).is_ok());
        assert!(jsonl(&Waiting { value: Some("null".into()), ..value() }).ends_with(r#""value":null}"#));
    }

    #[test]
    fn the_tables_name_the_topics_that_wait_most() {
        let mut survey = Survey::of(["cloud", "idle"]);
        for n in 0..25 {
            for _ in 0..=n {
                survey.add(&Waiting { topic: format!("plant/m/p{n:02}"), ..value() });
            }
        }
        survey.add(&Waiting { gap: Some(12), time: String::new(), ..value() });
        let text = tables(&survey);
        for want in
            ["cloud         325", "plant/m/p24       25", "and 15 on 5 more topics", "2026-11-21T01:02:03.456Z", "12"]
        {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
    }
}
