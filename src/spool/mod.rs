//! Store and forward: one ordered log for the gateway, one cursor for each upstream. The bridge sees append, next
//! batch, acknowledge. Where an entry lies (in memory while every link is up and close behind, in SQLite as soon as
//! one is not) is the spool's own affair, so that nobody else has an ordering problem to solve. An entry leaves only
//! when every upstream that wants it has acknowledged it, or by a limit, counted.

pub mod bench;
mod dictionary;
mod disk;
mod flash;
mod gap;
mod log;
pub mod look;
mod losses;
mod row;
mod schema;
mod stored;
#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::sync::Arc;

use crate::database::FileError;
use crate::message::Message;
use crate::topic::TopicFilter;

pub use self::gap::GAP_TOPIC;
pub use self::log::Leaver;
pub use self::stored::Stored;
pub use self::thread::COMMIT_INTERVAL;
pub use self::thread::Cleared;
pub use self::thread::Spool;
pub use self::thread::SpoolThread;
pub use self::thread::open;

/// Place of an entry in the log; grows, never used twice within a run.
pub type Seq = u64;

/// An upstream that reads the log.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Its key in `upstreams`; names its cursor on disk.
    pub name: Arc<str>,
    /// The local topics it wants; others are skipped for it.
    pub filters: Vec<TopicFilter>,
}

impl Subscriber {
    fn wants(&self, message: &Message) -> bool {
        self.filters.iter().any(|f| f.matches(&message.topic))
    }
}

/// One message of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// What to send; `payload` is empty where `own` is set and it came from disk: render it.
    pub message: Message,
}

/// A stretch of the log as one upstream sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// In order. Empty only when the spool has closed.
    pub entries: Vec<Entry>,
    /// How far the log was looked through: ask for the next batch after this, acknowledge this when all entries are
    /// done.
    pub upto: Seq,
}

/// State of the link of an upstream, as the bridge knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Connected: entries may wait in memory.
    Up,
    /// Not connected: entries go to disk.
    Down,
}

/// Which of an upstream's two readers: with `live-first` the newest entries go beside the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Oldest first; everything, where newest entries do not go first.
    Backlog,
    /// What came since the link is up.
    Live,
}

/// How the log stood for an upstream when its link came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The newest entry: what lies at or below it waited for the link.
    pub newest: Seq,
    /// Whether entries behind `newest` are to be read on the live lane, beside the backlog.
    pub live: bool,
    /// Entries up to here were sent past an older backlog before, in parts; zero: none.
    pub ahead: Seq,
    /// Messages a second of what waited; `None`: as fast as acknowledged.
    pub replay_rate: Option<u32>,
}

/// Why there is no spool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not one of the configured.
    #[error("no upstream `{name}`; there are: {known}")]
    NoUpstream {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// More upstreams than bits.
    #[error("at most 64 upstreams, these are {0}")]
    TooMany(usize),
}

impl SpoolError {
    fn of(path: &Path, error: &rusqlite::Error) -> Self {
        Self::File(FileError::of(path, error))
    }

    fn unusable(path: &Path, why: String) -> Self {
        Self::File(FileError::Unusable { path: path.to_owned(), why })
    }
}
