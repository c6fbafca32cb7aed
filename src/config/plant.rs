//! What is meant: the checked plant, typed, without a trace of YAML. Tasks get their parts of it by value.
//! Two plants can be compared part by part (`PartialEq`), which is what a reload does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::failsafe::FailSafe;
use crate::config::fingerprint::Fingerprint;
use crate::config::functions::Functions;
use crate::point::{DeviceId, LineId, PointId, UnitId};

mod broker;
mod keeping;
mod line;
mod point;
mod upstream;

pub use broker::{
    AccessRule, Anonymous, Broker, CertificateUser, ClientCertificates, Demand, Limits, Listener, ListenerKind,
    ListenerTls,
};
pub use keeping::{Audit, Keep, Replay, Spool, WhenFull, WhenUnwritable};
pub use line::{CharFormat, Line, Parity, Port, Rs485, SerialPort};
pub use point::{Compute, Deadband, Point, Report, Schedule, Source, When, Write};
pub use upstream::{Direction, Endpoint, Mapping, MqttVersion, Rest, RetainRule, Scheme, Tls, Upstream};

pub use crate::point::Wire;

/// Everything that runs. `LineId`, `DeviceId` and `PointId` are indices into the vectors as long as the plant is as it was
/// checked; after a reload they are only names (see [`Plant::following`]), and the methods here find what they name.
#[derive(Debug, Clone, PartialEq)]
pub struct Plant {
    /// `{gateway}` in topics.
    pub gateway: Arc<str>,
    /// RS485 trunks and TCP endpoints.
    pub lines: Vec<Line>,
    /// In order of the file; a `unit_id` range is expanded.
    pub devices: Vec<Device>,
    /// Points of one device are contiguous. Shared, because poll, publish and command keep each of them too.
    pub points: Vec<Arc<Point>>,
    /// What is written where a commander is gone; at most one a point, in order of the points.
    pub fail_safes: Vec<FailSafe>,
    /// The embedded broker.
    pub broker: Broker,
    /// By name, in order of the file.
    pub upstreams: Vec<Upstream>,
    /// Store and forward.
    pub spool: Spool,
    /// What was written to machines, and by whom.
    pub audit: Audit,
    /// How often the gateway tells about itself on `$stats`; `None`: never.
    pub stats: Option<Duration>,
    /// `/healthz`, `/metrics`; `None` when not configured.
    pub web: Option<SocketAddr>,
    /// Where databases live.
    pub state_dir: PathBuf,
}

/// One device on a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its index.
    pub id: DeviceId,
    /// `{device}` in topics.
    pub name: Arc<str>,
    /// Where it hangs.
    pub line: LineId,
    /// Its address there.
    pub unit_id: UnitId,
    /// Profile name as written, for people.
    pub profile: Option<Arc<str>>,
    /// Most registers it answers in one request, at most 125.
    pub max_registers: u16,
    /// Most bits it answers in one request, at most 2000.
    pub max_bits: u16,
    /// The functions it knows.
    pub functions: Functions,
    /// How it is told from another model; `None`: whoever answers is believed.
    pub fingerprint: Option<Arc<Fingerprint>>,
    /// `{tags.x}`.
    pub tags: BTreeMap<String, String>,
    /// Its points: indices into `Plant::points`.
    pub points: std::ops::Range<u32>,
}

/// A secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps what was read from a file, the environment or a credential.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Plant {
    /// The point's own entry.
    pub fn point(&self, id: PointId) -> &Arc<Point> {
        found(&self.points, id.0 as usize, |p| p.id == id)
    }

    /// As [`Plant::point`], of a number that may be of another plant.
    pub fn find_point(&self, id: PointId) -> Option<&Arc<Point>> {
        find(&self.points, id.0 as usize, |p| p.id == id)
    }

    /// The device's own entry.
    pub fn device(&self, id: DeviceId) -> &Device {
        found(&self.devices, id.0 as usize, |d| d.id == id)
    }

    /// The line's own entry.
    pub fn line(&self, id: LineId) -> &Line {
        found(&self.lines, usize::from(id.0), |l| l.id == id)
    }

    /// The devices that hang on a line.
    pub fn devices_on(&self, line: LineId) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |d| d.line == line)
    }

    /// A device's points.
    pub fn points_of(&self, device: DeviceId) -> &[Arc<Point>] {
        let range = &self.device(device).points;
        &self.points[range.start as usize..range.end as usize]
    }
}

/// Mostly its number is its place; only what came or stayed in a reload is searched for.
fn find<T>(all: &[T], place: usize, is_it: impl Fn(&T) -> bool) -> Option<&T> {
    all.get(place).filter(|one| is_it(one)).or_else(|| all.iter().find(|one| is_it(one)))
}

fn found<T>(all: &[T], place: usize, is_it: impl Fn(&T) -> bool) -> &T {
    find(all, place, is_it).expect("an id of this plant")
}
