//! A remote broker of the plant: where it is, who the gateway is there, which topics go which way.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plant::Secret;
use crate::config::preset::Preset;
use crate::topic::Qos;
use crate::topic::TopicFilter;

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
