//! `trunkline trace LINE`: what passes on a line of the running gateway, as text and as a file for Wireshark. Ends with Ctrl-C:
//! each record is in the file as soon as it has been shown, so there is nothing to close.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bus::trace::{self, Pcap, Traced};
use crate::cli::{Exit, complain};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::time;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The line's name in the configuration
    #[arg(value_name = "LINE")]
    line: String,
    /// How closely to look
    #[arg(long, value_enum, default_value_t = Depth::Message)]
    depth: Depth,
    /// Write what passes to this file too, for Wireshark (as Modbus TCP, also for a serial line)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
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

/// What the daemon sends.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Item {
    Passed(Traced),
    /// So many were lost because this side was too slow.
    Lost {
        lost: u64,
    },
}

/// Why it ended.
#[derive(Debug, thiserror::Error)]
enum TraceError {
    #[error(transparent)]
    Asked(#[from] ClientError),
    #[error("{}: {source}; choose another file with --pcap", .path.display())]
    Capture { path: PathBuf, source: io::Error },
}

/// The file that Wireshark opens.
struct Capture {
    file: File,
    path: PathBuf,
    pcap: Pcap,
}

pub(super) fn run(args: &Arguments) -> Exit {
    match follow(args) {
        Ok(()) => Exit::Well,
        Err(error) => {
            complain(&format!("trunkline trace: {error}"));
            Exit::Failed
        }
    }
}

fn follow(args: &Arguments) -> Result<(), TraceError> {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    let mut client = Client::connect(&path)?;
    // A line may be silent for hours.
    client.wait_for_ever()?;
    let mut capture = args.pcap.clone().map(Capture::create).transpose()?;
    for item in client.stream("trace", json!({ "line": args.line }))? {
        let item = read(&item?)?;
        if let (Some(capture), Item::Passed(traced)) = (&mut capture, &item) {
            capture.write(traced)?;
        }
        let Some(text) = show(&item, args.depth) else { continue };
        // The reader of a pipe has gone.
        if writeln!(io::stdout().lock(), "{text}").is_err() {
            break;
        }
    }
    Ok(())
}

fn read(item: &Value) -> Result<Item, ClientError> {
    Item::deserialize(item).map_err(|e| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

fn show(item: &Item, depth: Depth) -> Option<String> {
    let depth = match depth {
        Depth::Message => trace::Depth::Message,
        Depth::Frame => trace::Depth::Frame,
        Depth::Bytes => trace::Depth::Bytes,
    };
    match item {
        Item::Passed(traced) => Some(format!("{} {}", time::clock_micros(traced.at.wall_us), traced.show(depth)?)),
        Item::Lost { lost } => Some(format!("… {lost} lost: too much for this terminal")),
    }
}

impl Capture {
    fn create(path: PathBuf) -> Result<Self, TraceError> {
        match File::create(&path).and_then(|mut file| file.write_all(&Pcap::header()).map(|()| file)) {
            Ok(file) => Ok(Self { file, path, pcap: Pcap::default() }),
            Err(source) => Err(TraceError::Capture { path, source }),
        }
    }

    fn write(&mut self, traced: &Traced) -> Result<(), TraceError> {
        let record = self.pcap.record(traced);
        self.file.write_all(&record).map_err(|source| TraceError::Capture { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::trace::{Passed, Way};
    use crate::time::Stamp;

    #[test]
    fn what_passed_survives_the_socket() {
        let at = Stamp { mono_us: 1, wall_us: 1_795_222_923_456_789 };
        let all = [Passed::Frame(1, vec![3, 0, 10, 0, 2]), Passed::Piece(vec![1]), Passed::Nothing("no answer".into())];
        for what in all {
            let sent = Traced { at, way: Way::Out, what };
            let item = read(&serde_json::to_value(&sent).unwrap()).unwrap();
            assert!(matches!(&item, Item::Passed(t) if *t == sent), "{item:?}");
        }
        assert!(matches!(read(&json!({"lost": 3})).unwrap(), Item::Lost { lost: 3 }));
        assert!(read(&json!({"dance": 3})).is_err());
    }

    #[test]
    fn a_line_of_text_begins_with_the_time_to_the_microsecond() {
        let at = Stamp { mono_us: 1, wall_us: 1_795_222_923_456_789 };
        let item = Item::Passed(Traced { at, way: Way::Out, what: Passed::Frame(1, vec![3, 0, 10, 0, 2]) });
        let text = show(&item, Depth::Message).unwrap();
        assert!(text.contains(".456789 → 1 read holding registers 10 count 2"), "{text}");
        assert_eq!(show(&item, Depth::Bytes), None);
    }
}
