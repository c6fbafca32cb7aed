//! Where a look goes: text or JSON to standard output, and packets to a capture. A reader of standard output who has
//! gone ends the look quietly, for that is how a pipe into Wireshark ends.

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::bus::trace::Depth;
use crate::bus::trace::Framing;
use crate::bus::trace::Pcap;
use crate::bus::trace::Shown;
use crate::cli::trace::Arguments;
use crate::cli::trace::TraceError;

/// Everything that is written.
pub(super) struct Screen {
    line: String,
    depth: Depth,
    text: Text,
    capture: Option<Capture>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    People,
    Programs,
    /// Standard output is the capture.
    None,
}

struct Capture {
    to: Box<dyn Write>,
    path: PathBuf,
    pcap: Pcap,
}

impl Screen {
    /// Begins the capture, if there is to be one; `None` when nobody reads it any more.
    pub(super) fn open(args: &Arguments, line: String, framing: Framing) -> Result<Option<Self>, TraceError> {
        let is_piped = args.pcap.as_deref() == Some(Path::new("-"));
        let text = match (is_piped, args.json) {
            (true, _) => Text::None,
            (false, true) => Text::Programs,
            (false, false) => Text::People,
        };
        let mut screen = Self { line, depth: args.depth.into(), text, capture: None };
        if let Some(path) = &args.pcap {
            let to: Box<dyn Write> = if is_piped {
                Box::new(io::stdout())
            } else {
                let file = File::create(path);
                Box::new(file.map_err(|source| TraceError::Capture { path: path.clone(), source })?)
            };
            let pcap = Pcap::new(framing);
            let header = pcap.header(&screen.line);
            let mut capture = Capture { to, path: path.clone(), pcap };
            if !capture.write(&header)? {
                return Ok(None);
            }
            screen.capture = Some(capture);
        }
        Ok(Some(screen))
    }

    /// False when nobody reads any more.
    pub(super) fn show(&mut self, shown: &Shown) -> Result<bool, TraceError> {
        if let (Some(capture), Shown::Packet(packet)) = (&mut self.capture, shown) {
            let record = capture.pcap.record(packet);
            if !capture.write(&record)? {
                return Ok(false);
            }
        }
        let text = match self.text {
            Text::None => None,
            Text::People => shown.line(self.depth),
            Text::Programs => shown.json(self.depth, &self.line).map(|value| value.to_string()),
        };
        Ok(text.is_none_or(|text| writeln!(io::stdout().lock(), "{text}").is_ok()))
    }
}

impl Capture {
    /// At once, for whoever looks on; false when the other end of the pipe has gone.
    fn write(&mut self, bytes: &[u8]) -> Result<bool, TraceError> {
        match self.to.write_all(bytes).and_then(|()| self.to.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(source) => Err(TraceError::Capture { path: self.path.clone(), source }),
        }
    }
}
