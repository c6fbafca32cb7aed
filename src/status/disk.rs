//! Of what is kept on disk: the log of the upstreams, its ledger, the audit trail.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Store and forward, written by the spool's thread.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct SpoolStatus {
    /// Entries taken in.
    pub appended: u64,
    /// Entries that wait in memory.
    pub in_memory: u64,
    /// Entries that wait on disk.
    pub on_disk: u64,
    /// Bytes on disk, WAL included.
    pub disk_bytes: u64,
    /// Bytes given to the disk since the start, journal and checkpoints included, as the kernel counts them.
    #[serde(default)]
    pub written_bytes: u64,
    /// Of these: in the last `written_recently_s`.
    #[serde(default)]
    pub written_recently_bytes: u64,
    /// Seconds over which `written_recently_bytes` were written: a day, or since the start.
    #[serde(default)]
    pub written_recently_s: u64,
    /// Entries dropped because the spool was full.
    pub evicted: u64,
    /// Entries dropped because they were too old.
    pub expired: u64,
    /// Entries lost before they reached the log (intake overrun), counted, never silent.
    pub overrun: u64,
    /// Entries lost with a damaged file, as far as that can be known.
    #[serde(default)]
    pub damaged: u64,
    /// Seconds since an entry was last lost (evicted, expired, overrun or damaged), if that happened since the start.
    #[serde(default)]
    pub last_loss_s: Option<u64>,
    /// Which damaged file was set aside under which name, in words, if that happened since the start.
    #[serde(default)]
    pub set_aside: Option<String>,
    /// When that happened, in seconds since the process began (`uptime_s`).
    #[serde(default)]
    pub set_aside_uptime_s: Option<u64>,
    /// Why the disk cannot be used right now, in words.
    pub error: Option<String>,
    /// Per upstream: entries not acknowledged yet.
    pub backlog: BTreeMap<String, u64>,
    /// Per upstream: what became of every entry, since the file was begun.
    #[serde(default)]
    pub ledger: BTreeMap<String, Ledger>,
}

/// What became of every entry that was handed to an upstream, across restarts. Each is counted once:
/// `appended = acknowledged + in_flight + stored + evicted + expired + damaged + refused + cleared`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Ledger {
    /// Entries it wants that were taken in: handed to it.
    pub appended: u64,
    /// The peer has them.
    pub acknowledged: u64,
    /// Given to the bridge, not answered yet.
    pub in_flight: u64,
    /// Waiting in memory or on disk.
    pub stored: u64,
    /// Dropped because the spool was full.
    pub evicted: u64,
    /// Dropped because they were too old.
    pub expired: u64,
    /// Lost with a damaged file.
    pub damaged: u64,
    /// The peer will never take them: too large, or refused for good.
    pub refused: u64,
    /// Thrown away by `trunkline spool clear`.
    pub cleared: u64,
}

impl Ledger {
    /// Entries whose fate is not known; negative: more fates than entries. Zero when the account adds up.
    pub const fn unaccounted(&self) -> i64 {
        let waiting = self.in_flight + self.stored;
        let lost = self.evicted + self.expired + self.damaged + self.refused + self.cleared;
        self.appended.cast_signed() - (self.acknowledged + waiting + lost).cast_signed()
    }
}

/// The audit trail, written by its thread when something changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct AuditStatus {
    /// Entries on disk.
    pub entries: u64,
    /// Bytes on disk, WAL included.
    pub disk_bytes: u64,
    /// Entries that wait in memory for a disk that cannot be written.
    pub waiting: u64,
    /// Entries, or their outcomes, that were lost because too many waited.
    pub lost: u64,
    /// When one was last lost, in seconds since the process began (`uptime_s`).
    pub last_lost_uptime_s: Option<u64>,
    /// Refused commands that came too fast to be kept one by one.
    pub left_out: u64,
    /// Which damaged file was set aside under which name, in words, if that happened since the start.
    pub set_aside: Option<String>,
    /// When that happened, in seconds since the process began (`uptime_s`).
    pub set_aside_uptime_s: Option<u64>,
    /// Why the disk cannot be used right now, in words.
    pub error: Option<String>,
}
