//! What is true now, as plain structs. Each task owns the `watch::Sender` of its part; the control socket, the metrics and
//! the demo read them. Counters only grow while the process lives; durations and times say their unit in the name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One line and its devices, written by its poll task.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct LineStatus {
    /// Its key in `lines`.
    pub name: String,
    /// Path or address of the port.
    pub port: String,
    /// False while the port is gone or the connection is down.
    pub up: bool,
    /// Why it is down, in words.
    pub error: Option<String>,
    /// Share of time the wire was in use over the last ten seconds, 0–1: characters, turnaround and silence.
    pub load: f64,
    /// Counters of the wire.
    pub wire: WireCounts,
    /// Turns that began later than a whole period, by point.
    pub missed_turns: u64,
    /// Points whose period is not met now, the most stretched first.
    pub unmet: Vec<Unmet>,
    /// Devices, in order of the file.
    pub devices: Vec<DeviceStatus>,
}

/// Points of one device with one schedule that are read less often than they should be.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Unmet {
    /// `{device}` in topics.
    pub device: String,
    /// Their names.
    pub points: Vec<String>,
    /// What is configured, in milliseconds.
    pub period_ms: f64,
    /// What can be had now: the time between two readings, smoothed, in milliseconds.
    pub achievable_ms: f64,
    /// Turns that each of them has missed since the start.
    pub missed_turns: u64,
}

/// What happened on a wire since the start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct WireCounts {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Right answers.
    pub replies: u64,
    /// Modbus exceptions.
    pub exceptions: u64,
    /// No answer in time.
    pub timeouts: u64,
    /// Damaged answers: CRC, length, wrong function.
    pub garbled: u64,
    /// Late or foreign frames that were put aside.
    pub stale_replies: u64,
    /// Second and further tries.
    pub retries: u64,
    /// Times the port was opened or the connection made.
    pub opens: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
}

/// One device.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct DeviceStatus {
    /// `{device}` in topics.
    pub name: String,
    /// Its address.
    pub unit_id: u8,
    /// Whether it answers.
    pub state: DeviceState,
    /// Why it is offline, in words.
    pub reason: Option<String>,
    /// Right answers.
    pub replies: u64,
    /// Requests that failed for good, after retries.
    pub failures: u64,
    /// Time from the last byte sent to the first byte received, smoothed, in milliseconds.
    pub turnaround_ms: f64,
    /// Points configured.
    pub points: usize,
    /// Points whose last sample was bad.
    pub bad_points: usize,
    /// What it has refused and is not asked for any more, in words: `holding 4–6`.
    #[serde(default)]
    pub holes: Vec<String>,
    /// Whether it is the device its profile describes.
    #[serde(default)]
    pub recognition: Recognition,
    /// What was found and expected instead, or why it cannot be told.
    #[serde(default)]
    pub recognised: Option<String>,
}

/// Whether a device is the one its profile describes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Recognition {
    /// Nothing is expected: whoever answers is believed.
    #[default]
    Unasked,
    /// Not known yet, or not since it was away.
    Open,
    /// It is.
    Right,
    /// Another one answers: its values are bad, and it is not written to.
    Another,
    /// It cannot be told; polled all the same.
    Unknown,
}

/// Whether a device answers.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Not asked yet.
    #[default]
    Unknown,
    /// Answers.
    Online,
    /// Missed some, not enough to be offline.
    Shaky,
    /// Does not answer; probed now and then.
    Offline,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Online => "online",
            Self::Shaky => "shaky",
            Self::Offline => "offline",
        })
    }
}

/// The account of what became of every reading, in total or of one point, across restarts. Each reading is counted once:
/// `polled = suppressed + published + failed + held`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PublishStatus {
    /// Samples that came from polls.
    pub polled: u64,
    /// Had a value that was not published, because nothing had changed enough.
    pub suppressed: u64,
    /// Had a value that became a message.
    pub published: u64,
    /// Had no value (bad quality), told or not.
    pub failed: u64,
    /// Held back by `at_most` right now: will be published or replaced.
    pub held: u64,
    /// Of the failed: became a message, because a change of quality always passes.
    #[serde(default)]
    pub told: u64,
}

impl PublishStatus {
    /// Readings whose fate is not known; negative: more fates than readings. Zero when the account adds up.
    pub const fn unaccounted(&self) -> i64 {
        let fates = self.suppressed + self.published + self.failed + self.held;
        self.polled.cast_signed() - fates.cast_signed()
    }
}

/// The account of the values in full: what `trunkline ledger` shows, and what is kept across restarts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Books {
    /// All points together, those included that are not configured any more.
    pub total: PublishStatus,
    /// Each point, by name.
    pub points: Vec<PointAccount>,
}

/// What became of one point's readings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PointAccount {
    /// `{device}/{point}`.
    pub point: String,
    /// Its account.
    #[serde(flatten)]
    pub account: PublishStatus,
}

/// One upstream, written by its bridge task.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct UpstreamStatus {
    /// Its key in `upstreams`.
    pub name: String,
    /// Endpoint in use or tried last.
    pub endpoint: String,
    /// State of the link.
    pub state: LinkState,
    /// Why it is not connected, in words.
    pub error: Option<String>,
    /// `5` or `3.1.1` as agreed.
    pub version: String,
    /// Publishes handed to the link, repeats included.
    pub sent: u64,
    /// Entries the peer acknowledged.
    pub acknowledged: u64,
    /// Publishes sent again after a reconnect.
    pub resent: u64,
    /// Handed over, not acknowledged yet.
    pub in_flight: u64,
    /// Entries that could never be sent (too large, refused), put aside and counted.
    pub refused: u64,
    /// Messages that came from upstream.
    pub received: u64,
    /// Times the link was made.
    pub connects: u64,
    /// Smoothed time from publish to acknowledgement in milliseconds.
    pub ack_ms: f64,
    /// By how many entries a second the backlog shrinks; below zero it grows.
    #[serde(default)]
    pub drain_per_s: f64,
    /// Seconds until the backlog is gone, if it goes on like this.
    #[serde(default)]
    pub empty_in_s: Option<u64>,
}

/// State of an upstream's link.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Not tried yet, or waiting to try again.
    #[default]
    Waiting,
    /// Under way.
    Connecting,
    /// Up.
    Connected,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
        })
    }
}

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
    /// Refused commands that came too fast to be kept one by one.
    pub left_out: u64,
    /// Which damaged file was set aside under which name, in words, if that happened since the start.
    pub set_aside: Option<String>,
    /// Why the disk cannot be used right now, in words.
    pub error: Option<String>,
}

/// Commands on their way from the broker to the lines.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CommandsStatus {
    /// Dropped without an answer, because too many came at once.
    pub dropped: u64,
}

/// A point's fail-safe, written by the task that minds them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct FailSafeStatus {
    /// `{device}/{point}`.
    pub point: String,
    /// Whose absence counts: `upstream cloud`, `client hmi`.
    pub when: String,
    /// How it stands.
    pub state: FailSafeState,
    /// The value, as it is shown.
    pub value: String,
    /// For how many seconds the commander counts as gone.
    pub gone_s: Option<u64>,
    /// Why what is to be written is not written yet, in words.
    pub reason: Option<String>,
    /// Writes that the device has confirmed, since the start.
    pub writes: u64,
    /// Tries that it has not.
    pub failures: u64,
}

/// How a fail-safe stands.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FailSafeState {
    /// The commander is there, or not gone for long enough.
    #[default]
    Armed,
    /// The value is to be written and not confirmed yet.
    Writing,
    /// The value has been written.
    Active,
    /// The point has been commanded since; nothing more is written in this absence.
    Overridden,
    /// The commander is back and the value for that is not confirmed yet.
    Returning,
}

impl fmt::Display for FailSafeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Armed => "armed",
            Self::Writing => "writing",
            Self::Active => "active",
            Self::Overridden => "overridden",
            Self::Returning => "returning",
        })
    }
}

/// The embedded broker, written by its owner about once a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct BrokerStatus {
    /// Addresses really bound.
    pub listeners: Vec<String>,
    /// Clients connected now.
    pub clients: Vec<ClientStatus>,
    /// Sessions kept for clients that are away.
    pub sessions_away: usize,
    /// Retained messages.
    pub retained: usize,
    /// Subscriptions of all sessions.
    pub subscriptions: usize,
    /// PUBLISH packets taken in, the gateway's own included.
    pub messages_in: u64,
    /// PUBLISH packets given out.
    pub messages_out: u64,
    /// Dropped for slow or absent clients.
    pub dropped: u64,
    /// Why sessions and retained messages cannot be written right now, in words; they are kept in memory meanwhile.
    #[serde(default)]
    pub error: Option<String>,
}

/// One connected client.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ClientStatus {
    /// Client id.
    pub id: String,
    /// Remote address.
    pub address: String,
    /// `3.1`, `3.1.1` or `5`.
    pub version: String,
    /// User name, where it gave one.
    pub user: Option<String>,
    /// Keep-alive in seconds.
    pub keep_alive_s: u16,
    /// It wished for a new session.
    #[serde(default)]
    pub clean_start: bool,
    /// Seconds its session is kept after it has gone; 0: not at all, 4294967295: for ever.
    #[serde(default)]
    pub session_expiry_s: u32,
    /// Seconds since it connected.
    #[serde(default)]
    pub connected_s: u64,
    /// What passes.
    #[serde(default)]
    pub rates: Rates,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Messages waiting.
    pub queued: usize,
    /// Sent, not acknowledged.
    pub in_flight: usize,
}

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
    /// The configuration.
    #[serde(default)]
    pub config: ConfigStatus,
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
    pub panics: tokio::sync::watch::Receiver<BTreeMap<String, u64>>,
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
            panics: parts.panics.borrow().clone(),
            config: parts.config.borrow().clone(),
        }
    }
}
