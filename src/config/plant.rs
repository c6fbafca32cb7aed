//! What is meant: the checked plant, typed, without a trace of YAML. Tasks get their parts of it by value.
//! Two plants can be compared part by part (`PartialEq`), which is what a reload does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::failsafe::FailSafe;
use crate::config::fingerprint::Fingerprint;
use crate::config::functions::Functions;
use crate::config::preset::Preset;
use crate::point::{DeviceId, LineId, PointId, UnitId};
use crate::topic::{Qos, TopicFilter};

mod point;

pub use point::{Compute, Deadband, Point, Report, Schedule, Source, When, Write};

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

/// One trunk or endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its index.
    pub id: LineId,
    /// Its key in `lines`.
    pub name: Arc<str>,
    /// How it is reached.
    pub port: Port,
    /// Longest wait for the first byte of a reply.
    pub timeout: Duration,
    /// Shortest wait for it, however quick a device has been so far; at most `timeout`.
    pub min_timeout: Duration,
    /// More tries after a miss.
    pub retries: u8,
    /// Silence between frames; `None`: 3.5 characters, at least 1.75 ms above 19200 baud. Serial lines only.
    pub gap: Option<Duration>,
    /// Raw requests by MQTT are taken.
    pub raw_access: bool,
}

/// How a line is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Port {
    /// A serial port.
    Serial(SerialPort),
    /// Modbus TCP (MBAP), `host:port`.
    Tcp(String),
    /// RTU frames through a TCP socket, `host:port`.
    RtuOverTcp(String),
}

/// A serial port and how characters travel on it.
#[derive(Debug, Clone, PartialEq)]
pub struct SerialPort {
    /// Device file, opened by this path each time.
    pub path: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// Data bits, parity, stop bits.
    pub format: CharFormat,
    /// Kernel RS485 mode, where wanted.
    pub rs485: Option<Rs485>,
    /// The adapter hears what it sends; the echo is taken off.
    pub echo: bool,
}

/// `8E1` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CharFormat {
    /// 7 or 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl CharFormat {
    /// Bits on the wire for one character, start bit included: 10 for 8N1, 11 for 8E1.
    pub const fn bits(self) -> u8 {
        let parity = if matches!(self.parity, Parity::None) { 0 } else { 1 };
        1 + self.data_bits + parity + self.stop_bits
    }
}

impl fmt::Display for CharFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{}{parity}{}", self.data_bits, self.stop_bits)
    }
}

/// Parity of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// N
    None,
    /// E, the Modbus default
    Even,
    /// O
    Odd,
}

/// Kernel RS485 mode (TIOCSRS485).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rs485 {
    /// Between raising RTS and the first bit.
    pub delay_before_send: Duration,
    /// Between the last bit and dropping RTS.
    pub delay_after_send: Duration,
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

/// The embedded broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    /// Where it listens.
    pub listen: Vec<Listener>,
    /// Who may come in without a name.
    pub anonymous: Anonymous,
    /// File of users, where one is named.
    pub users: Option<PathBuf>,
    /// First match decides.
    pub access: Vec<AccessRule>,
    /// Bounds.
    pub limits: Limits,
}

/// One listening socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// What is spoken on it.
    pub kind: ListenerKind,
    /// Under TLS, if this is there.
    pub tls: Option<ListenerTls>,
    /// For those who come in here: what the file says for this listener, else for the broker.
    pub limits: Limits,
}

impl Listener {
    /// Plain MQTT with the usual limits.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, kind: ListenerKind::Tcp, tls: None, limits: Limits::default() }
    }

    /// How its URL begins.
    pub const fn scheme(&self) -> &'static str {
        match (&self.kind, &self.tls) {
            (ListenerKind::Tcp, None) => "mqtt",
            (ListenerKind::Tcp, Some(_)) => "mqtts",
            (ListenerKind::WebSocket { .. }, None) => "ws",
            (ListenerKind::WebSocket { .. }, Some(_)) => "wss",
        }
    }
}

/// What is spoken on a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT.
    Tcp,
    /// MQTT over WebSocket.
    WebSocket {
        /// Pages of other hosts that may connect, as a browser names them: `https://hmi.example.com`.
        origins: Vec<Arc<str>>,
    },
}

/// Who the broker is on a listener, and what its clients show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Clients are asked for a certificate, if this is there.
    pub clients: Option<ClientCertificates>,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Signed by one of these, PEM.
    pub ca: PathBuf,
    /// Whether one may come without.
    pub demand: Demand,
    /// Who comes in with one.
    pub user: CertificateUser,
}

/// `client_certificate:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Without one nobody comes in.
    Required,
    /// Who shows none logs in as elsewhere.
    Optional,
}

/// `user:` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUser {
    /// The certificate opens the door only; who it is, user name and password say.
    ByPassword,
    /// The certificate's common name is the user; no password is asked for.
    CommonName,
}

/// `anonymous:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// From 127.0.0.0/8 and ::1 only.
    Loopback,
    /// Nobody.
    Never,
    /// Anybody.
    Always,
}

/// One line of `access:`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRule {
    /// For this user only; `None`: everyone.
    pub user: Option<Arc<str>>,
    /// For this client id only, or for all that begin so where it ends in `*`; `None`: any.
    pub client: Option<Arc<str>>,
    /// May subscribe to what these cover.
    pub read: Vec<TopicFilter>,
    /// May publish to what these cover.
    pub write: Vec<TopicFilter>,
}

/// Bounds of the broker, or of those who came in through one of its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub clients: usize,
    /// Largest packet in bytes.
    pub packet: usize,
    /// Messages waiting for one client.
    pub queue: usize,
    /// Bytes waiting for one client; `None`: what `queue` small messages or four of the largest packets take.
    pub queue_bytes: Option<usize>,
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// Packets a second that one client may begin: all but acknowledgements.
    pub rate: Option<u32>,
    /// From accept to the whole CONNECT, handshakes included.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 200,
            packet: 256 * 1024,
            queue: 1000,
            queue_bytes: None,
            // More than any client known; each costs some 300 bytes.
            subscriptions: 20_000,
            rate: None,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// A remote broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its key in `upstreams`.
    pub name: Arc<str>,
    /// The cloud whose limits hold, if one is named. What it asks of the other fields is in them already.
    pub preset: Option<Preset>,
    /// The first is preferred, the others are `failover`.
    pub endpoints: Vec<Endpoint>,
    /// Which protocol version is tried first.
    pub version: MqttVersion,
    /// Client id, already filled in.
    pub client_id: Arc<str>,
    /// User name; a secret, because some clouds take their access token for one.
    pub username: Option<Secret>,
    /// Password.
    pub password: Option<Secret>,
    /// TLS settings, used by `mqtts` and `wss` endpoints.
    pub tls: Tls,
    /// Keep-alive.
    pub keep_alive: Duration,
    /// Unacknowledged messages at once.
    pub in_flight: u16,
    /// Local to upstream; first match decides.
    pub send: Vec<Mapping>,
    /// Upstream to local; first match decides.
    pub receive: Vec<Mapping>,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Transport.
    pub scheme: Scheme,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of a WebSocket endpoint, `/mqtt` by default.
    pub path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Transport of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TCP, 1883
    Mqtt,
    /// TLS, 8883
    Mqtts,
    /// WebSocket, 80
    Ws,
    /// WebSocket over TLS, 443
    Wss,
}

/// MQTT version upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// 5.0, falling back to 3.1.1 when refused.
    V5,
    /// 3.1.1 only.
    V311,
}

/// TLS of an upstream.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tls {
    /// Trusted authorities, PEM; the system's where `None`.
    pub ca: Option<PathBuf>,
    /// Own certificate chain and key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// ALPN protocols.
    pub alpn: Vec<String>,
}

/// One rule of `send` or `receive`: topic = prefix + (topic − strip), or what [`Rest`] makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Which topics, on the side they come from.
    pub filter: TopicFilter,
    /// Taken off the front; a topic that does not begin with it is left alone.
    pub strip: String,
    /// Put in front.
    pub prefix: String,
    /// What follows the prefix.
    pub rest: Rest,
    /// Most QoS it travels with.
    pub qos: Qos,
    /// What becomes of the retain flag.
    pub retain: RetainRule,
}

/// Which way a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Local to upstream.
    Send,
    /// Upstream to local.
    Receive,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Receive => "receive",
        })
    }
}

/// What becomes of the topic behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It follows as it is.
    AsIs,
    /// It follows percent-encoded, as one property of a topic (Azure IoT Hub).
    Encoded,
    /// It is left out: all topics of the rule become one, the prefix.
    LeftOut,
}

/// `retain:` of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainRule {
    /// As published.
    Keep,
    /// Always off.
    Never,
}

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
