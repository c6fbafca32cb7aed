//! What a server sends, as bytes. Frames are collected in an [`Outbox`] per connection and leave in one write;
//! small payloads are copied there, large ones are shared between all who get them.

use std::collections::VecDeque;

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use super::Ack;
use super::Code;
use super::Version;
use super::properties as p;
use crate::message::Message;
use crate::topic::Qos;

/// From this size on a payload is a chunk of its own, not copied.
const SHARE_FROM: usize = 8 * 1024;

/// Bytes on their way to one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
    /// Largest packet the client takes (MQTT-3.1.2-24).
    maximum: Option<u32>,
    packets: u64,
}

impl Outbox {
    /// For a client that takes packets of at most so many bytes; larger ones are not written.
    pub fn limited(maximum: Option<u32>) -> Self {
        Self { maximum, ..Self::default() }
    }

    /// Whether the client takes packets of any size.
    pub const fn is_unlimited(&self) -> bool {
        self.maximum.is_none()
    }

    /// Whether the client takes a packet of this size.
    pub fn takes(&self, bytes: usize) -> bool {
        self.maximum.is_none_or(|maximum| bytes <= maximum as usize)
    }

    /// Bytes that wait.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Packets put in since this was last asked.
    pub const fn take_count(&mut self) -> u64 {
        std::mem::replace(&mut self.packets, 0)
    }

    /// Everything that waits, in order; the box is empty afterwards.
    pub fn take(&mut self) -> VecDeque<Bytes> {
        self.seal();
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// False when the client does not take packets so large: nothing is written, and that counts as sent (MQTT-3.1.2-25).
    fn frame(&mut self, first: u8, body: &[u8]) -> bool {
        let whole = 1 + varint_len(body.len()) + body.len();
        if !self.takes(whole) {
            return false;
        }
        self.tail.put_u8(first);
        put_varint(&mut self.tail, body.len());
        self.tail.put_slice(body);
        self.bytes += whole;
        self.packets += 1;
        true
    }

    fn payload(&mut self, payload: &Bytes) {
        if payload.len() >= SHARE_FROM {
            self.seal();
            self.chunks.push_back(payload.clone());
        } else {
            self.tail.put_slice(payload);
        }
        self.bytes += payload.len();
    }
}

/// Largest remaining length there is (2.1.4).
const LONGEST: usize = 268_435_455;

/// One delivery, apart from the message itself.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// What is delivered.
    pub message: &'a Message,
    /// Packet identifier; `None` is QoS 0.
    pub id: Option<u16>,
    /// As subscribed.
    pub qos: Qos,
    /// Sent before.
    pub dup: bool,
    /// The flag as this subscriber gets it.
    pub retain: bool,
    /// All that matched.
    pub identifiers: &'a [u32],
    /// Seconds left to live.
    pub expiry: Option<u32>,
    /// Topic alias to use.
    pub alias: Alias,
}

/// How a topic is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alias {
    /// In words.
    None,
    /// In words, and from now on by this number.
    New(u16),
    /// By this number alone.
    Known(u16),
}

/// PUBLISH. Returns its size, or `None` (and writes nothing) when it would be larger than the client takes.
pub fn publish(out: &mut Outbox, version: Version, delivery: &Delivery<'_>) -> Option<usize> {
    let message = delivery.message;
    let topic = if matches!(delivery.alias, Alias::Known(_)) { "" } else { message.topic.as_str() };
    let props = if version.is_v5() { publish_properties_len(delivery) } else { 0 };
    let id_len = if delivery.id.is_some() { 2 } else { 0 };
    let props_len = if version.is_v5() { varint_len(props) + props } else { 0 };
    let length = 2 + topic.len() + id_len + props_len + message.payload.len();
    let whole = 1 + varint_len(length) + length;
    if !out.takes(whole) || length > LONGEST {
        return None;
    }
    let flags = u8::from(delivery.dup) << 3 | u8::from(delivery.qos) << 1 | u8::from(delivery.retain);
    out.tail.reserve(whole - message.payload.len() + message.payload.len().min(SHARE_FROM));
    out.tail.put_u8(0x30 | flags);
    put_varint(&mut out.tail, length);
    put_text(&mut out.tail, topic);
    if let Some(id) = delivery.id {
        out.tail.put_u16(id);
    }
    if version.is_v5() {
        put_varint(&mut out.tail, props);
        publish_properties(&mut out.tail, delivery);
    }
    out.bytes += whole - message.payload.len();
    out.packets += 1;
    out.payload(&message.payload);
    Some(whole)
}

/// No PUBLISH of this message to one subscription is larger: header, identifier, alias, expiry and one subscription
/// identifier included.
pub fn at_most(message: &Message) -> usize {
    const AROUND: usize = 5 + 2 + 2 + 4 + 3 + 5 + 5;
    let delivery = Delivery {
        message,
        id: None,
        qos: Qos::AtMostOnce,
        dup: false,
        retain: false,
        identifiers: &[],
        expiry: None,
        alias: Alias::None,
    };
    AROUND + message.topic.as_str().len() + publish_properties_len(&delivery) + message.payload.len()
}

fn publish_properties_len(delivery: &Delivery<'_>) -> usize {
    let mut length = if delivery.alias == Alias::None { 0 } else { 3 };
    length += delivery.identifiers.iter().map(|id| 1 + varint_len(*id as usize)).sum::<usize>();
    if delivery.expiry.is_some() {
        length += 5;
    }
    let Some(props) = &delivery.message.properties else { return length };
    length += if props.payload_format.is_some() { 2 } else { 0 };
    length += props.content_type.as_ref().map_or(0, |t| 3 + t.len());
    length += props.response_topic.as_ref().map_or(0, |t| 3 + t.len());
    length += props.correlation.as_ref().map_or(0, |b| 3 + b.len());
    length + props.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
}

fn publish_properties(to: &mut BytesMut, delivery: &Delivery<'_>) {
    if let Alias::New(n) | Alias::Known(n) = delivery.alias {
        to.put_u8(p::ALIAS);
        to.put_u16(n);
    }
    for id in delivery.identifiers {
        to.put_u8(p::SUBSCRIPTION_ID);
        put_varint(to, *id as usize);
    }
    if let Some(left) = delivery.expiry {
        to.put_u8(p::EXPIRY);
        to.put_u32(left);
    }
    let Some(props) = &delivery.message.properties else { return };
    if let Some(format) = props.payload_format {
        to.put_slice(&[p::PAYLOAD_FORMAT, format]);
    }
    if let Some(text) = &props.content_type {
        to.put_u8(p::CONTENT_TYPE);
        put_text(to, text);
    }
    if let Some(text) = &props.response_topic {
        to.put_u8(p::RESPONSE_TOPIC);
        put_text(to, text);
    }
    if let Some(bytes) = &props.correlation {
        to.put_u8(p::CORRELATION);
        put_binary(to, bytes);
    }
    for (name, value) in &props.user {
        to.put_u8(p::USER);
        put_text(to, name);
        put_text(to, value);
    }
}

/// What CONNACK says beside its code.
#[derive(Debug, Clone, Default)]
pub struct ConnAck {
    /// The server knows the session.
    pub session_present: bool,
    /// The id it chose for the client.
    pub assigned_id: Option<std::sync::Arc<str>>,
    /// The keep-alive it imposes.
    pub keep_alive: Option<u16>,
    /// Unacknowledged messages it takes at once.
    pub receive_maximum: u16,
    /// Topic aliases it takes.
    pub alias_maximum: u16,
    /// Largest packet it takes.
    pub packet_maximum: u32,
}

/// CONNACK of success; false when the client does not take packets so large.
pub fn connack(out: &mut Outbox, version: Version, ack: &ConnAck) -> bool {
    let mut body = BytesMut::with_capacity(32);
    body.put_slice(&[u8::from(ack.session_present && version != Version::V31), 0]);
    if version.is_v5() {
        let mut props = BytesMut::with_capacity(32);
        props.put_u8(p::RECEIVE_MAXIMUM);
        props.put_u16(ack.receive_maximum);
        props.put_u8(p::PACKET_MAXIMUM);
        props.put_u32(ack.packet_maximum);
        props.put_u8(p::ALIAS_MAXIMUM);
        props.put_u16(ack.alias_maximum);
        if let Some(id) = &ack.assigned_id {
            props.put_u8(p::ASSIGNED_CLIENT_ID);
            put_text(&mut props, id);
        }
        if let Some(seconds) = ack.keep_alive {
            props.put_u8(p::SERVER_KEEP_ALIVE);
            props.put_u16(seconds);
        }
        put_varint(&mut body, props.len());
        body.put_slice(&props);
    }
    out.frame(0x20, &body)
}

/// CONNACK of refusal; nothing where the version has no word for it.
pub fn refuse(out: &mut Outbox, version: Version, code: Code) {
    if version.is_v5() {
        out.frame(0x20, &[0, code.0, 0]);
    } else if let Some(v3) = code.connack_v3() {
        out.frame(0x20, &[0, v3]);
    }
}

/// PUBACK (4), PUBREC (5), PUBREL (6) or PUBCOMP (7).
pub fn ack(out: &mut Outbox, version: Version, kind: u8, ack: Ack) {
    let first = kind << 4 | if kind == 6 { 2 } else { 0 };
    let [high, low] = ack.id.to_be_bytes();
    if version.is_v5() && ack.code != Code::SUCCESS {
        out.frame(first, &[high, low, ack.code.0]);
    } else {
        out.frame(first, &[high, low]);
    }
}

/// SUBACK; before 5.0 every failure is 0x80.
pub fn suback(out: &mut Outbox, version: Version, id: u16, codes: &[Code]) {
    let mut body = BytesMut::with_capacity(3 + codes.len());
    body.put_u16(id);
    if version.is_v5() {
        body.put_u8(0);
    }
    let byte = |code: &Code| if code.is_failure() && !version.is_v5() { 0x80 } else { code.0 };
    body.extend(codes.iter().map(byte));
    out.frame(0x90, &body);
}

/// UNSUBACK; before 5.0 without codes.
pub fn unsuback(out: &mut Outbox, version: Version, id: u16, codes: &[Code]) {
    let mut body = BytesMut::with_capacity(3 + codes.len());
    body.put_u16(id);
    if version.is_v5() {
        body.put_u8(0);
        body.extend(codes.iter().map(|code| code.0));
    }
    out.frame(0xB0, &body);
}

/// PINGRESP.
pub fn pingresp(out: &mut Outbox) {
    out.frame(0xD0, &[]);
}

/// DISCONNECT with its reason; nothing before 5.0. `why` is left out where the client wants no reason strings, or where that
/// would make it larger than the client takes (MQTT-3.14.2-3).
pub fn disconnect(out: &mut Outbox, version: Version, code: Code, why: Option<&str>) {
    if !version.is_v5() {
        return;
    }
    let mut body = BytesMut::with_capacity(128);
    body.put_u8(code.0);
    if let Some(why) = why {
        put_varint(&mut body, 3 + why.len());
        body.put_u8(p::REASON_STRING);
        put_text(&mut body, why);
    }
    if !out.frame(0xE0, &body) {
        out.frame(0xE0, &[code.0]);
    }
}

pub(super) const fn varint_len(n: usize) -> usize {
    match n {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

pub(super) fn put_varint(to: &mut BytesMut, mut n: usize) {
    while n > 127 {
        to.put_u8((n & 0x7F) as u8 | 0x80);
        n >>= 7;
    }
    to.put_u8(n as u8);
}

pub(super) fn put_text(to: &mut BytesMut, text: &str) {
    put_binary(to, text.as_bytes());
}

fn put_binary(to: &mut BytesMut, bytes: &[u8]) {
    // Everything written here was itself read from a two-byte length, or is ours and short.
    debug_assert!(bytes.len() <= usize::from(u16::MAX));
    to.put_u16(bytes.len() as u16);
    to.put_slice(bytes);
}
