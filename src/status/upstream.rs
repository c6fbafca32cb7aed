//! Of what is published: the account of every point, and the links to the upstreams.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// When one was last refused, in seconds since the process began (`uptime_s`).
    #[serde(default)]
    pub last_refused_uptime_s: Option<u64>,
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
