//! A message on the road from the broker to whoever listens, the same for a local client, the gateway itself and
//! the bridge. One of the gateway's own values carries its sample beside the rendered bytes, so that the log can keep what was
//! measured instead of its rendering.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::payload::Series;
use crate::sample::Sample;
use crate::topic::{Qos, TopicName};

pub use crate::payload::Class;

/// What a PUBLISH says, apart from packet id and DUP. Cheap to clone: text and bytes are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where to.
    pub topic: TopicName,
    /// The bytes as a subscriber gets them.
    pub payload: Bytes,
    /// As published; a subscription may lower it.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// MQTT 5 properties, passed untouched; `None` when there are none (and from 3.1.1 clients).
    pub properties: Option<Arc<Properties>>,
    /// Which rank it has when a full spool must drop.
    pub class: Class,
    /// Set for the gateway's own values.
    pub own: Option<OwnValue>,
    /// Who sent it. `None`: this process, or nobody knows any more (a retained message of an earlier run).
    pub from: Option<Arc<Origin>>,
}

/// Who sent a message, as the broker or the bridge knows it; never what the message says about itself. It travels no further
/// than this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A client of the embedded broker.
    Client {
        /// Its client id.
        client_id: Arc<str>,
        /// The user whose password was right.
        user: Option<Arc<str>>,
        /// Where it connected from.
        peer: SocketAddr,
    },
    /// It came down from an upstream.
    Upstream {
        /// Which one.
        name: Arc<str>,
        /// Whether it bore the retain flag there, whatever the rule made of that.
        retain: bool,
    },
}

/// One of the gateway's own values: what was measured, and how it is rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnValue {
    /// Topic, format, unit: the dictionary entry.
    pub series: Arc<Series>,
    /// The reading.
    pub sample: Sample,
}

/// The properties of PUBLISH that travel with a message (MQTT 5.0, 3.3.2.3), in the sender's order where that matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// 1 when the payload is UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds left to live, counted down by every server on the way.
    pub expiry: Option<u32>,
    /// Kind of payload, e.g. `application/json`.
    pub content_type: Option<Arc<str>>,
    /// Where the answer is wanted.
    pub response_topic: Option<Arc<str>>,
    /// Handed back with the answer.
    pub correlation: Option<Bytes>,
    /// Name and value, as many as the sender wrote, in order.
    pub user: Vec<(Arc<str>, Arc<str>)>,
}

impl Message {
    /// A message of plain bytes without properties.
    pub const fn plain(topic: TopicName, payload: Bytes, qos: Qos, retain: Retain) -> Self {
        let retain = matches!(retain, Retain::Yes);
        Self { topic, payload, qos, retain, properties: None, class: Class::Normal, own: None, from: None }
    }

    /// Whether it is retained here, or was where it came from.
    pub fn was_retained(&self) -> bool {
        self.retain || matches!(self.from.as_deref(), Some(Origin::Upstream { retain: true, .. }))
    }
}

/// Whether a message is to be kept for later subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// Kept.
    Yes,
    /// Delivered and forgotten.
    No,
}
