//! The embedded broker of the plant: where it listens, who may come in, what one client may take.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::topic::TopicFilter;

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
