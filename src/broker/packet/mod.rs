//! What travels between a client and this server: MQTT 3.1, 3.1.1 and 5.0 packets as plain structs.
//! `decode` reads what a client may send, `encode` writes what a server may send. Neither touches a socket; this
//! directory is the only place that knows bytes.

pub mod decode;
pub mod encode;
mod properties;

use std::sync::Arc;

use bytes::Bytes;

use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Protocol version a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `MQIsdp` level 3.
    V31,
    /// Level 4.
    V311,
    /// Level 5.
    V5,
}

impl Version {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    /// Whether properties and reason codes exist.
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// A reason code of MQTT 5.0 (2.4). Older versions get the nearest thing they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

#[expect(missing_docs, reason = "the names are the standard's own, 2.4")]
impl Code {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub const UNSUPPORTED_VERSION: Self = Self(0x84);
    pub const CLIENT_ID_INVALID: Self = Self(0x85);
    pub const BAD_CREDENTIALS: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_BUSY: Self = Self(0x89);
    pub const SHUTTING_DOWN: Self = Self(0x8B);
    pub const BAD_AUTH_METHOD: Self = Self(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    pub const TAKEN_OVER: Self = Self(0x8E);
    pub const FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_INVALID: Self = Self(0x90);
    pub const ID_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const ALIAS_INVALID: Self = Self(0x94);
    pub const TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE: Self = Self(0x98);
    pub const RATE_EXCEEDED: Self = Self(0x9F);
}

impl Code {
    /// 0x80 and above.
    pub const fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// The return code of CONNACK in 3.1 and 3.1.1 (3.2.2.3); `None` where the connection just closes.
    pub const fn connack_v3(self) -> Option<u8> {
        match self {
            Self::SUCCESS => Some(0),
            Self::UNSUPPORTED_VERSION => Some(1),
            Self::CLIENT_ID_INVALID => Some(2),
            Self::SERVER_BUSY | Self::QUOTA_EXCEEDED | Self::SHUTTING_DOWN | Self::RATE_EXCEEDED => Some(3),
            Self::BAD_CREDENTIALS => Some(4),
            Self::NOT_AUTHORIZED => Some(5),
            _ => None,
        }
    }
}

/// Why a peer's bytes or packets are refused: the connection ends with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What a v5 client is told.
    pub code: Code,
    /// What the log and the reason string say.
    pub why: &'static str,
}

impl Fault {
    /// Bytes that are no packet.
    pub const fn malformed(why: &'static str) -> Self {
        Self { code: Code::MALFORMED, why }
    }

    /// A packet that may not be sent so or now.
    pub const fn protocol(why: &'static str) -> Self {
        Self { code: Code::PROTOCOL_ERROR, why }
    }
}

/// What a client may send.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    /// First packet of a connection.
    Connect(Box<Connect>),
    /// A message, or a message's first step.
    Publish(Publish),
    /// QoS 1 done.
    PubAck(Ack),
    /// QoS 2, first answer.
    PubRec(Ack),
    /// QoS 2, release.
    PubRel(Ack),
    /// QoS 2 done.
    PubComp(Ack),
    /// Asks for topics.
    Subscribe(Subscribe),
    /// Gives topics back.
    Unsubscribe(Unsubscribe),
    /// I am alive.
    PingReq,
    /// Ends in good order.
    Disconnect(Disconnect),
    /// Enhanced authentication, which is not offered.
    Auth,
}

/// CONNECT (3.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    /// What the client speaks.
    pub version: Version,
    /// Clean start (clean session before 5.0).
    pub clean_start: bool,
    /// Seconds; 0 is off.
    pub keep_alive: u16,
    /// Empty: the server assigns one.
    pub client_id: String,
    /// Last will.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
    /// Seconds the session outlives the connection. Before 5.0: 0 for a clean session, else for ever.
    pub session_expiry: u32,
    /// Unacknowledged QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: u16,
    /// Largest packet the client takes.
    pub packet_maximum: Option<u32>,
    /// Topic aliases the client takes.
    pub alias_maximum: u16,
    /// Whether reason strings are welcome.
    pub problem_information: bool,
    /// Enhanced authentication was asked for.
    pub auth_method: bool,
}

/// Last will (3.1.2.5).
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    /// What to publish.
    pub message: Message,
    /// Seconds to wait before.
    pub delay: u32,
}

/// PUBLISH (3.3) as it came; a topic alias is not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// Sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// To be kept.
    pub retain: bool,
    /// Never 0; present for QoS 1 and 2.
    pub id: Option<u16>,
    /// `None` where the alias says it.
    pub topic: Option<TopicName>,
    /// Never 0.
    pub alias: Option<u16>,
    /// The bytes.
    pub payload: Bytes,
    /// The rest of the properties.
    pub properties: Option<Arc<Properties>>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Packet identifier.
    pub id: u16,
    /// Success before 5.0.
    pub code: Code,
}

/// SUBSCRIBE (3.8).
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// Packet identifier.
    pub id: u16,
    /// Subscription identifier.
    pub identifier: Option<u32>,
    /// One answer each, in order.
    pub filters: Vec<Wanted>,
}

/// One entry of SUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// As written; the key of the subscription.
    pub text: Arc<str>,
    /// `None` where the text is no valid filter.
    pub filter: Option<TopicFilter>,
    /// Share name of `$share/{name}/{filter}`.
    pub group: Option<Arc<str>>,
    /// How to deliver.
    pub options: Options,
}

/// Subscription options (3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Most QoS of a delivery.
    pub qos: Qos,
    /// Own messages are not wanted.
    pub no_local: bool,
    /// The retain flag stays as published.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent at subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Always,
    /// If the subscription is new.
    IfNew,
    /// Never.
    Never,
}

/// UNSUBSCRIBE (3.10).
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub id: u16,
    /// As written.
    pub filters: Vec<String>,
}

/// DISCONNECT (3.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// 0: without will.
    pub code: Code,
    /// A new session expiry.
    pub session_expiry: Option<u32>,
}
