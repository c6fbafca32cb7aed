//! `trunkline trace LINE`: what passes on a line of the running gateway, or has passed, as text, as JSON and as a file
//! for Wireshark; and the switch that lets the gateway log it. Ends with Ctrl-C: each packet is in the file as soon as
//! it has been shown, so there is nothing to close.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::bus::trace;
use crate::bus::trace::Framing;
use crate::bus::trace::Item;
use crate::bus::trace::View;
use crate::cli::Exit;
use crate::cli::complain;
use crate::cli::demo::duration;
use crate::cli::say;
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::time::Stamp;

mod lines;
mod past;
mod screen;

use past::Past;
use screen::Screen;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The line's name in the configuration; without it the lines are listed, and which is logged
    #[arg(value_name = "LINE")]
    line: Option<String>,
    /// How closely to look
    #[arg(long, value_enum, default_value_t = Depth::Message)]
    depth: Depth,
    /// Only what is said to and by this unit
    #[arg(long, value_name = "N", requires = "line")]
    unit: Option<u8>,
    /// What has passed: all that is remembered, or the last 30s, 5m, or 200 lines; then ends
    #[arg(long, value_name = "30s|200", num_args = 0..=1, default_missing_value = "all", requires = "line")]
    last: Option<Past>,
    /// With --last: then go on with what passes
    #[arg(long, requires = "last")]
    follow: bool,
    /// Write it to this file too, for Wireshark; - is standard output, without the text
    #[arg(long, value_name = "FILE", requires = "line")]
    pcap: Option<PathBuf>,
    /// For programs: one JSON document a line
    #[arg(long)]
    json: bool,
    /// Let the gateway log what passes, so deep, for a while; this command ends at once
    #[arg(long, value_enum, value_name = "DEPTH", requires = "line")]
    #[arg(conflicts_with_all = ["last", "pcap", "unit", "depth"])]
    log: Option<Log>,
    /// With --log: for so long, at most 24h
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "log", default_value = "10m")]
    span: Duration,
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Depth {
    /// Questions and answers in words
    Message,
    /// Whole frames as bytes
    Frame,
    /// What was written and read, in the pieces in which it came
    Bytes,
}

impl From<Depth> for trace::Depth {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Message => Self::Message,
            Depth::Frame => Self::Frame,
            Depth::Bytes => Self::Bytes,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    /// Questions and answers in words
    Message,
    /// Whole frames as bytes
    Frame,
    /// What was written and read, in the pieces in which it came
    Bytes,
    /// No more
    Off,
}

/// What the daemon sends: how to read what follows; where the past ends; and what passed.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Sent {
    Head { line: String, framing: Framing },
    Now { now: Stamp },
    Item(Item),
}

/// Why it ended.
#[derive(Debug, thiserror::Error)]
enum TraceError {
    #[error(transparent)]
    Asked(#[from] ClientError),
    #[error("{}: {source}; choose another file with --pcap", .path.display())]
    Capture { path: PathBuf, source: io::Error },
}

pub(super) fn run(args: &Arguments) -> Exit {
    let done = match (&args.line, args.log) {
        (None, _) => list(args),
        (Some(line), Some(log)) => order(args, line, log),
        (Some(line), None) => follow(args, line),
    };
    match done {
        Ok(()) => Exit::Well,
        Err(error) => {
            complain(&format!("trunkline trace: {error}"));
            Exit::Failed
        }
    }
}

fn connect(args: &Arguments) -> Result<Client, ClientError> {
    Client::connect(&args.socket.clone().unwrap_or_else(control::ask_path))
}

fn list(args: &Arguments) -> Result<(), TraceError> {
    let lines = connect(args)?.call("trace.lines", Value::Null)?;
    let text = if args.json { lines.to_string() } else { lines::table(&read::<Vec<lines::Line>>(&lines)?) };
    say(text.trim_end());
    Ok(())
}

fn order(args: &Arguments, line: &str, log: Log) -> Result<(), TraceError> {
    let depth = log.to_possible_value().expect("no variant is hidden").get_name().to_owned();
    let params = json!({"line": line, "depth": depth, "for_s": args.span.as_secs()});
    let stands = connect(args)?.call("trace.log", params)?;
    say(&if args.json { stands.to_string() } else { lines::logged(&read(&stands)?) });
    Ok(())
}

fn follow(args: &Arguments, line: &str) -> Result<(), TraceError> {
    let mut client = connect(args)?;
    let follows = args.last.is_none() || args.follow;
    if follows {
        // A line may be silent for hours.
        client.wait_for_ever()?;
    }
    let params = json!({"line": line, "last": args.last.is_some(), "follow": follows});
    let mut sent = client.stream("trace", params)?.map(|item| read::<Sent>(&item?));
    let (line, framing) = match sent.next().transpose()? {
        Some(Sent::Head { line, framing }) => (line, framing),
        _ => return Err(ClientError::Garbled("it does not begin with how to read it".to_owned()).into()),
    };
    let mut view = View::new(framing, args.unit);
    let Some(mut screen) = Screen::open(args, line, framing)? else { return Ok(()) };
    let mut past = args.last.map(|past| (past, Vec::new()));
    for item in sent {
        match (item?, &mut past) {
            (Sent::Head { .. }, _) => {}
            (Sent::Now { now }, _) => {
                let Some((wanted, kept)) = past.take() else { continue };
                for shown in wanted.cut(kept, now, args.depth.into()) {
                    if !screen.show(&shown)? {
                        return Ok(());
                    }
                }
            }
            (Sent::Item(item), Some((_, kept))) => kept.extend(view.see(item)),
            (Sent::Item(item), None) => {
                for shown in view.see(item) {
                    if !screen.show(&shown)? {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

fn read<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<T, ClientError> {
    T::deserialize(value).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    #[test]
    fn the_options_are_told_apart() {
        assert_eq!(parse("trace").unwrap().line, None);
        assert_eq!(parse("trace hall --last").unwrap().last, Some(Past::All));
        assert_eq!(parse("trace hall --last 200").unwrap().last, Some(Past::Lines(200)));
        let args = parse("trace hall --last 30s --follow --unit 9 --pcap -").unwrap();
        assert_eq!((args.last, args.follow, args.unit), (Some(Past::Span(Duration::from_secs(30))), true, Some(9)));
        let args = parse("trace hall --log frame --for 5m").unwrap();
        assert_eq!((args.log, args.span), (Some(Log::Frame), Duration::from_secs(300)));
        assert_eq!(parse("trace hall --log off").unwrap().span, Duration::from_secs(600));
        for wrong in ["trace --last", "trace hall --follow", "trace hall --log loud", "trace hall --last soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("trace hall --log frame --last").is_err());
    }

    #[test]
    fn what_the_daemon_sends_is_told_apart() {
        let sent = |value| read::<Sent>(&value);
        assert!(matches!(sent(json!({"line": "hall", "framing": "rtu"})), Ok(Sent::Head { .. })));
        assert!(matches!(sent(json!({"now": {"mono_us": 1, "wall_us": 2}})), Ok(Sent::Now { .. })));
        assert!(matches!(sent(json!({"lost": 3})), Ok(Sent::Item(Item::Lost { lost: 3 }))));
        let event = json!({"at": {"mono_us": 1, "wall_us": 2}, "sent": "0103"});
        assert!(matches!(sent(event), Ok(Sent::Item(Item::Event(_)))));
        assert!(sent(json!({"dance": 3})).is_err());
    }
}
