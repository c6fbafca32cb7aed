//! What the plant keeps on disk: values for the cloud while it is away, and the trail of what was written to machines.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Store and forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// Database file.
    pub path: PathBuf,
    /// When entries go to disk.
    pub keep: Keep,
    /// Bytes on disk.
    pub max_size: u64,
    /// Older entries are dropped.
    pub max_age: Duration,
    /// What a full spool drops.
    pub when_full: WhenFull,
    /// What goes first after an outage.
    pub replay: Replay,
    /// Messages per second of backlog; `None`: as fast as acknowledged.
    pub replay_rate: Option<u32>,
}

/// `keep:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Memory while the link is up, SQLite as soon as it is not.
    Offline,
    /// Always SQLite.
    Always,
}

/// `when_full:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest entries leave, alarms last.
    DropOldest,
    /// New entries are refused.
    DropNewest,
}

/// `replay:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Oldest first.
    InOrder,
    /// Newest values at once, the backlog beside them.
    LiveFirst,
}

/// The audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Database file.
    pub path: PathBuf,
    /// Bytes on disk.
    pub max_size: u64,
    /// Older entries are dropped; counted in time that the gateway runs, as no other clock can be trusted.
    pub max_age: Duration,
    /// What becomes of a write that cannot be recorded.
    pub when_unwritable: WhenUnwritable,
}

impl Audit {
    /// What holds where nothing is said.
    pub fn in_folder(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("audit.db"),
            max_size: 16 << 20,
            max_age: Duration::from_secs(365 * 86_400),
            when_unwritable: WhenUnwritable::Write,
        }
    }
}

/// `when_unwritable:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnwritable {
    /// It is not done.
    Refuse,
    /// It is done; the trail is made good when the disk is well again.
    Write,
}
