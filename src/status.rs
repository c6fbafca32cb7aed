//! What is true now, as plain structs. Each task owns the `watch::Sender` of its part; the control socket, the metrics and
//! the demo read them. Counters only grow while the process lives; durations and times say their unit in the name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod broker;
mod command;
mod disk;
mod line;
mod upstream;

pub use self::broker::{BrokerStatus, ClientStatus};
pub use self::command::{CommandsStatus, FailSafeState, FailSafeStatus};
pub use self::disk::{AuditStatus, Ledger, SpoolStatus};
pub use self::line::{DeviceState, DeviceStatus, LineStatus, Recognition, Unmet, WireCounts};
pub use self::upstream::{Books, LinkState, PointAccount, PublishStatus, UpstreamStatus};

/// The configuration: what became of it last. Also told, retained, on `{gateway}/$config`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ConfigStatus {
    /// The file the gateway was started with; empty where there is none.
    pub file: String,
    /// What happened last.
    pub outcome: ConfigOutcome,
    /// When, RFC 3339.
    pub time: String,
    /// What changed, a line each, at most some; empty when nothing did.
    pub changes: Vec<String>,
    /// Why nothing did, with file, line and column where there are any.
    pub problems: Vec<String>,
    /// Until when the applied configuration waits to be confirmed, in seconds since the process began (`uptime_s`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_by_uptime_s: Option<u64>,
}

/// What became of a configuration.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ConfigOutcome {
    /// The gateway began with it.
    #[default]
    Started,
    /// It was reloaded, and is in force.
    Reloaded,
    /// What should have been taken was refused; the one before is in force.
    Refused,
    /// It is in force until it is confirmed, or its time is over.
    Pending,
    /// It was applied, and confirmed.
    Confirmed,
    /// It was applied and not confirmed; the one before is in force.
    Reverted,
}

/// What passes between the broker and a client each second, as averages that fade within seconds; in: from the client.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq)]
pub struct Rates {
    /// PUBLISH packets from it.
    pub messages_in: f64,
    /// PUBLISH packets to it.
    pub messages_out: f64,
    /// Bytes from it.
    pub bytes_in: f64,
    /// Bytes to it.
    pub bytes_out: f64,
}

/// Everything at one moment: what `trunkline status --json` prints.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Snapshot {
    /// Layout of this document; grows when a field changes its meaning.
    pub schema: u32,
    /// `{gateway}` in topics.
    pub gateway: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since the process began.
    pub uptime_s: u64,
    /// Wall clock, RFC 3339.
    pub time: String,
    /// Lines.
    pub lines: Vec<LineStatus>,
    /// The account.
    pub publish: PublishStatus,
    /// Upstreams.
    pub upstreams: Vec<UpstreamStatus>,
    /// Store and forward.
    pub spool: SpoolStatus,
    /// The audit trail.
    #[serde(default)]
    pub audit: AuditStatus,
    /// The broker.
    pub broker: BrokerStatus,
    /// Commands.
    #[serde(default)]
    pub commands: CommandsStatus,
    /// Fail-safes, in order of the points.
    #[serde(default)]
    pub fail_safes: Vec<FailSafeStatus>,
    /// Panics of supervised tasks, by task name: each is a bug.
    pub panics: BTreeMap<String, u64>,
    /// When each of them last panicked, in seconds since the process began (`uptime_s`).
    #[serde(default)]
    pub last_panic_uptime_s: BTreeMap<String, u64>,
    /// The configuration.
    #[serde(default)]
    pub config: ConfigStatus,
}

/// What is known of a task that panicked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Panicked {
    /// How often since the start.
    pub count: u64,
    /// When last, in seconds since the process began.
    pub last_uptime_s: u64,
}

/// Reads everybody's part. Cheap to clone; all clones see it when parts come and go in a reload.
#[derive(Debug, Clone)]
pub struct Board {
    parts: Arc<tokio::sync::watch::Sender<Parts>>,
}

/// The receiving ends, handed over by the daemon when it has built all tasks.
#[derive(Debug)]
pub struct Parts {
    /// `{gateway}` in topics.
    pub gateway: String,
    /// One a line.
    pub lines: Vec<tokio::sync::watch::Receiver<LineStatus>>,
    /// The account.
    pub publish: tokio::sync::watch::Receiver<PublishStatus>,
    /// One an upstream.
    pub upstreams: Vec<tokio::sync::watch::Receiver<UpstreamStatus>>,
    /// Store and forward.
    pub spool: tokio::sync::watch::Receiver<SpoolStatus>,
    /// The audit trail.
    pub audit: tokio::sync::watch::Receiver<AuditStatus>,
    /// The broker.
    pub broker: tokio::sync::watch::Receiver<BrokerStatus>,
    /// Commands.
    pub commands: tokio::sync::watch::Receiver<CommandsStatus>,
    /// Fail-safes.
    pub fail_safes: tokio::sync::watch::Receiver<Vec<FailSafeStatus>>,
    /// Panics by task name.
    pub panics: tokio::sync::watch::Receiver<BTreeMap<String, Panicked>>,
    /// The configuration.
    pub config: tokio::sync::watch::Receiver<ConfigStatus>,
}

impl Board {
    /// Takes the receiving ends.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(tokio::sync::watch::Sender::new(parts)) }
    }

    /// Other parts from now on.
    pub fn relist(&self, change: impl FnOnce(&mut Parts)) {
        self.parts.send_modify(change);
    }

    /// Everything as it stands now.
    pub fn snapshot(&self) -> Snapshot {
        let parts = self.parts.borrow();
        Snapshot {
            schema: 1,
            gateway: parts.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: crate::time::uptime().as_secs(),
            time: crate::time::now().rfc3339(),
            lines: parts.lines.iter().map(|l| l.borrow().clone()).collect(),
            publish: *parts.publish.borrow(),
            upstreams: parts.upstreams.iter().map(|u| u.borrow().clone()).collect(),
            spool: parts.spool.borrow().clone(),
            audit: parts.audit.borrow().clone(),
            broker: parts.broker.borrow().clone(),
            commands: *parts.commands.borrow(),
            fail_safes: parts.fail_safes.borrow().clone(),
            panics: parts.panics.borrow().iter().map(|(task, p)| (task.clone(), p.count)).collect(),
            last_panic_uptime_s: parts.panics.borrow().iter().map(|(t, p)| (t.clone(), p.last_uptime_s)).collect(),
            config: parts.config.borrow().clone(),
        }
    }
}
