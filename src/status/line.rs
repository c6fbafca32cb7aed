//! Of a line: its port, its load, its devices.

use std::fmt;

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
