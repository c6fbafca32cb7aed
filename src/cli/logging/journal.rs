//! Log lines for systemd's journal, by its native protocol, so that each has its priority and its fields: `journalctl -p err`
//! and `journalctl TRUNKLINE_LINE=hall` find it. MESSAGE is the whole line as it stands on standard error, fields included,
//! because that is all that `journalctl` shows by itself. A journal that is away is gone around by standard error, and one that
//! hangs holds up nobody: lines are then left out and counted. Not `tracing-journald`: its MESSAGE leaves the fields out, so that
//! "device offline" would not say which, and what it cannot send it drops in silence.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Layer};

/// Where systemd takes native entries.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// A journal that is busy empties its queue in less; one that hangs must not hold up the lines for longer.
const PATIENCE: Duration = Duration::from_millis(100);
/// Of each value; the system takes some 200 KiB at once, and the longest known field is a list of problems.
const VALUE_BYTES: usize = 32 * 1024;
/// Of all fields together, with room for the line itself below what the system takes at once.
const ENTRY_BYTES: usize = 96 * 1024;

/// The number that systemd knows a level by, as in syslog.
pub(super) const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Sends each event to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Lines that a hanging journal did not take and that were not told yet.
    lost: AtomicU64,
}

impl Journal {
    /// Fails where nobody listens at `path`, or where this user may not write there.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        // An entry without a field is thrown away by the journal, but shows whether it can be had.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.to_owned(), lost: AtomicU64::new(0) })
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            self.socket
                .send_to(&told(Level::WARN, &format!("{lost} log lines left out: the journal hung")), &self.path)?;
            let _ = self.socket.set_nonblocking(false);
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        self.socket.send_to(entry, &self.path).map(|_| ())
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = String::new();
        let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
        let mut entry = told(*event.metadata().level(), &text);
        put_place(&mut entry, event.metadata());
        event.record(&mut Fields(&mut entry));
        match self.send(&entry) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                // Until it has room again nobody waits for it.
                let _ = self.socket.set_nonblocking(true);
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            // It is being restarted: systemd itself holds the other end of standard error.
            Err(_) => {
                let _ = Prefixed(*event.metadata().level()).write_all(format!("{text}\n").as_bytes());
            }
        }
    }
}

/// An entry with what every one has.
fn told(level: Level, text: &str) -> Vec<u8> {
    let mut entry = Vec::with_capacity(512);
    put(&mut entry, "PRIORITY", &priority(level));
    put(&mut entry, "SYSLOG_IDENTIFIER", &"trunkline");
    put(&mut entry, "MESSAGE", &text);
    entry
}

fn put_place(entry: &mut Vec<u8>, metadata: &Metadata<'_>) {
    put(entry, "TRUNKLINE_MODULE", &metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(entry, "CODE_FILE", &file);
        put(entry, "CODE_LINE", &line);
    }
}

/// A field with its length before it, so that it may hold line ends (systemd.io/JOURNAL_NATIVE_PROTOCOL).
fn put(entry: &mut Vec<u8>, name: &str, value: &dyn fmt::Display) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    let length = entry.len();
    entry.extend_from_slice(&[0; 8]);
    let begin = entry.len();
    let _ = write!(entry, "{value}");
    if entry.len() > begin + VALUE_BYTES {
        // Not within a character: what is no UTF-8, `journalctl` shows as "blob data".
        let is_within = |at: &usize| entry[*at] & 0xC0 == 0x80;
        let end = (begin..=begin + VALUE_BYTES).rev().find(|at| !is_within(at)).unwrap_or(begin);
        entry.truncate(end);
        entry.extend_from_slice(" …".as_bytes());
    }
    let bytes = (entry.len() - begin) as u64;
    entry[length..begin].copy_from_slice(&bytes.to_le_bytes());
    entry.push(b'\n');
}

/// An event's fields, each under its name with `TRUNKLINE_` before it.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: &dyn fmt::Display) {
        // The message has its place already.
        if field.name() == "message" || self.0.len() > ENTRY_BYTES {
            return;
        }
        let mut name = String::from("TRUNKLINE_");
        let plain = field.name().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        let _ = plain.map(|c| if c == '.' { '_' } else { c.to_ascii_uppercase() }).try_for_each(|c| name.write_char(c));
        put(self.0, &name, value);
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format_args!("{value:?}"));
    }
}

/// Standard error where its reader is a journal that takes no native entries: each line begins with its priority (sd-daemon(3)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefixed(pub(super) Level);

impl Write for Prefixed {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&prefixed(self.0, text))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In one piece, so that no other thread's line comes between.
fn prefixed(level: Level, text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let _ = write!(lines, "<{}>", priority(level));
        lines.extend_from_slice(line);
    }
    lines
}

/// Makes a [`Prefixed`] of each event's level.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByLevel;

impl MakeWriter<'_> for ByLevel {
    type Writer = Prefixed;

    fn make_writer(&self) -> Prefixed {
        Prefixed(Level::INFO)
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Prefixed {
        Prefixed(*metadata.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use tracing_subscriber::layer::SubscriberExt;

    /// Where the journal would be: a real socket, read by the test.
    struct Fake {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Fake {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("socket")).unwrap();
            Self { socket, folder }
        }

        fn journal(&self) -> Journal {
            let journal = Journal::at(&self.folder.path().join("socket")).unwrap();
            assert!(self.entry().is_empty(), "an entry that the journal throws away");
            journal
        }

        /// The next entry, taken apart as the protocol says.
        fn entry(&self) -> BTreeMap<String, String> {
            let mut bytes = vec![0; 256 * 1024];
            let n = self.socket.recv(&mut bytes).unwrap();
            let (mut rest, mut fields) = (&bytes[..n], BTreeMap::new());
            while !rest.is_empty() {
                let name = rest.iter().position(|b| *b == b'\n').unwrap();
                let length = usize::try_from(u64::from_le_bytes(rest[name + 1..name + 9].try_into().unwrap())).unwrap();
                let value = &rest[name + 9..name + 9 + length];
                fields.insert(
                    String::from_utf8(rest[..name].to_vec()).unwrap(),
                    String::from_utf8_lossy(value).into_owned(),
                );
                assert_eq!(rest[name + 9 + length], b'\n');
                rest = &rest[name + 10 + length..];
            }
            fields
        }
    }

    fn logged(journal: Journal, events: impl FnOnce()) {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), events);
    }

    #[test]
    fn an_entry_has_its_priority_its_fields_and_a_message_that_says_it_all() {
        let fake = Fake::new();
        logged(fake.journal(), || {
            tracing::error!(line = "hall", device = %"meter-3", tries = 3, rtu.unit = 7, "device offline\nsince noon");
        });
        let entry = fake.entry();
        let of = |name: &str| entry.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(of("PRIORITY"), "3");
        assert_eq!(of("SYSLOG_IDENTIFIER"), "trunkline");
        assert_eq!(of("MESSAGE"), "device offline\nsince noon line=\"hall\" device=meter-3 tries=3 rtu.unit=7");
        assert_eq!((of("TRUNKLINE_LINE"), of("TRUNKLINE_DEVICE"), of("TRUNKLINE_TRIES")), ("hall", "meter-3", "3"));
        assert_eq!(of("TRUNKLINE_RTU_UNIT"), "7");
        assert!(of("CODE_FILE").ends_with("journal.rs") && of("CODE_LINE").parse::<u32>().is_ok(), "{entry:?}");
    }

    #[test]
    fn each_level_has_the_priority_that_journalctl_asks_for() {
        let fake = Fake::new();
        logged(fake.journal(), || {
            tracing::error!("a");
            tracing::warn!("b");
            tracing::info!("c");
            tracing::debug!("d");
        });
        let seen: Vec<String> = (0..4).map(|_| fake.entry()["PRIORITY"].clone()).collect();
        assert_eq!(seen, ["3", "4", "6", "7"]);
    }

    #[test]
    fn a_line_of_any_length_arrives_cut() {
        let fake = Fake::new();
        let long = "ä".repeat(200_000);
        let odd = format!("!{long}");
        logged(fake.journal(), || {
            tracing::warn!(a = long, b = odd, c = long, d = long, "problems");
        });
        let entry = fake.entry();
        assert!(entry.values().all(|value| !value.contains('\u{FFFD}')), "cut within a character");
        assert!(entry["MESSAGE"].starts_with("problems") && entry["MESSAGE"].ends_with(" …"));
        assert!(entry["TRUNKLINE_A"].ends_with(" …"));
    }

    #[test]
    fn a_journal_that_hangs_holds_up_nobody_and_what_was_left_out_is_counted() {
        let fake = Fake::new();
        const FLOOD: usize = 5000;
        let journal = fake.journal();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..FLOOD {
                tracing::info!(n, "a line");
            }
            let mut taken = 0;
            fake.socket.set_nonblocking(true).unwrap();
            while fake.socket.recv(&mut [0; 1024]).is_ok() {
                taken += 1;
            }
            fake.socket.set_nonblocking(false).unwrap();
            assert!(taken > 0 && taken < FLOOD, "{taken}");
            tracing::info!("again");
            let told = fake.entry();
            assert_eq!(told["PRIORITY"], "4");
            assert_eq!(told["MESSAGE"], format!("{} log lines left out: the journal hung", FLOOD - taken));
            assert_eq!(fake.entry()["MESSAGE"], "again");
            tracing::info!("and on");
            assert_eq!(fake.entry()["MESSAGE"], "and on", "said once");
        });
    }

    #[test]
    fn where_nobody_listens_there_is_no_journal() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::at(&folder.path().join("socket")).is_err());
    }

    #[test]
    fn standard_error_has_the_priority_before_each_line() {
        assert_eq!(prefixed(Level::ERROR, b"panic\nthere\n"), b"<3>panic\n<3>there\n");
        assert_eq!(prefixed(Level::INFO, b"up"), b"<6>up");
    }
}
