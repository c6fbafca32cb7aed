//! The command line's side of the control socket. Blocking, because a command has nothing else to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::control::protocol::{Fault, MAX_REPLY, Reply, Request, VERSION};

/// A daemon that does not answer for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there.
    #[error(
        "no trunkline answers at {} ({source}); is it running (systemctl status trunkline)? Another place is named with --socket",
        .path.display()
    )]
    NotRunning {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There, but not for this user.
    #[error("no permission to ask {}: {advice}", .path.display())]
    Forbidden {
        /// Where.
        path: PathBuf,
        /// What to do.
        advice: String,
    },
    /// There, connected, and silent.
    #[error("the daemon does not answer within {} s: it hangs, or this machine has no time for it; see its log", .0.as_secs())]
    Silent(Duration),
    /// The connection broke.
    #[error("the daemon's answer broke off: {0}")]
    Broken(#[from] io::Error),
    /// Not our protocol.
    #[error("the answer is not one of a trunkline daemon: {0}")]
    Garbled(String),
    /// Refused by the daemon.
    #[error("{0}")]
    Refused(#[from] Fault),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    lines: BufReader<UnixStream>,
    next_id: u64,
}

impl Client {
    /// Connects; does not ask anything yet.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden { path: path.to_owned(), advice: advice(path) },
            _ => ClientError::NotRunning { path: path.to_owned(), source },
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { lines: BufReader::new(stream), next_id: 1 })
    }

    /// A question that takes longer to answer than most.
    pub fn wait_for(&mut self, patience: Duration) -> Result<(), ClientError> {
        Ok(self.lines.get_ref().set_read_timeout(Some(patience))?)
    }

    /// For streams that may be silent for long: a stuck daemon is then told from a quiet one by nobody.
    pub fn wait_for_ever(&mut self) -> Result<(), ClientError> {
        Ok(self.lines.get_ref().set_read_timeout(None)?)
    }

    /// One question, one answer.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.ask(method, params)?;
        match self.reply()? {
            Reply::Result { result, .. } => Ok(result),
            Reply::Error { error, .. } => Err(error.into()),
            other => Err(ClientError::Garbled(format!("a stream where one answer was due: {other:?}"))),
        }
    }

    /// One question, answers until the daemon or the caller ends: `Ok(None)` is the end.
    pub fn stream(&mut self, method: &str, params: Value) -> Result<Stream<'_>, ClientError> {
        self.ask(method, params)?;
        Ok(Stream { client: self })
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<(), ClientError> {
        let request = Request { v: VERSION, id: self.next_id, method: method.to_owned(), params };
        self.next_id += 1;
        let mut line = serde_json::to_string(&request).map_err(|e| ClientError::Garbled(e.to_string()))?;
        line.push('\n');
        Ok(self.lines.get_mut().write_all(line.as_bytes())?)
    }

    fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = String::new();
        let limit = u64::try_from(MAX_REPLY).unwrap_or(u64::MAX);
        let read = self.lines.by_ref().take(limit).read_line(&mut line).map_err(|e| self.why(e))?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection").into());
        }
        serde_json::from_str(&line).map_err(|e| ClientError::Garbled(e.to_string()))
    }

    /// The system calls it "temporarily unavailable" when the time is over.
    fn why(&self, error: io::Error) -> ClientError {
        let patience = self.lines.get_ref().read_timeout().ok().flatten();
        match (error.kind(), patience) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(patience)) => ClientError::Silent(patience),
            _ => ClientError::Broken(error),
        }
    }
}

/// What lets this user ask. A daemon that root began by hand has root's group, which nobody should join.
fn advice(path: &Path) -> String {
    match group_of(path) {
        None => "be root (sudo)".to_owned(),
        Some(group) => format!("be root, or join its group (sudo usermod -aG {group} $USER, then log in again)"),
    }
}

/// The answers to a streaming question.
#[derive(Debug)]
pub struct Stream<'a> {
    client: &'a mut Client,
}

impl Iterator for Stream<'_> {
    type Item = Result<Value, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.client.reply() {
            Ok(Reply::Item { item, .. }) => Some(Ok(item)),
            Ok(Reply::End { .. }) => None,
            Ok(Reply::Error { error, .. }) => Some(Err(error.into())),
            Ok(other) => Some(Err(ClientError::Garbled(format!("no item: {other:?}")))),
            Err(error) => Some(Err(error)),
        }
    }
}

/// The group's name if it can be found, else its number; `None` where it is root's.
fn group_of(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(path) else { return Some("trunkline".to_owned()) };
    if meta.gid() == 0 {
        return None;
    }
    let gid = meta.gid().to_string();
    let table = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    Some(named.unwrap_or(gid))
}
