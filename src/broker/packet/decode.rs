//! Bytes of a client to packets. Sans I/O: give it a buffer, it takes whole packets off the front.
//! The length is checked against the limit before anything is stored; a small payload is copied out, so that it does
//! not keep the read buffer alive; a large one shares it.

use std::sync::Arc;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;

use super::Ack;
use super::Code;
use super::Connect;
use super::Disconnect;
use super::Fault;
use super::Options;
use super::Packet;
use super::Publish;
use super::RetainHandling;
use super::Subscribe;
use super::Unsubscribe;
use super::Version;
use super::Wanted;
use super::Will;
use super::properties as p;
use super::properties::List;
use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// From this size on a payload shares the read buffer, which was grown for it.
const SHARE_FROM: usize = 16 * 1024;

/// Decodes one connection's bytes; learns the version from CONNECT.
#[derive(Debug)]
pub struct Decoder {
    version: Option<Version>,
    max: usize,
}

impl Decoder {
    /// For a new connection; `max` is the largest packet taken, in bytes, header included.
    pub const fn new(max: usize) -> Self {
        Self { version: None, max }
    }

    /// What the client said it speaks, as far as it got.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next whole packet off the front; `None` when more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, Fault> {
        let Some((head, length, first)) = header(buffer)? else { return Ok(None) };
        // 3.1.1 asks for the shortest form of its senders, 5.0 of the bytes themselves (MQTT-1.5.5-1).
        if head > 2 && length >> (7 * (head - 2)) == 0 && self.version.is_some_and(Version::is_v5) {
            return Err(Fault::malformed("remaining length in more bytes than it needs"));
        }
        if head + length > self.max {
            return Err(Fault { code: Code::TOO_LARGE, why: "packet larger than the limit" });
        }
        if buffer.len() < head + length {
            buffer.reserve(head + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(head);
        if first >> 4 == 3 {
            let body = buffer.split_to(length);
            return Ok(Some(Packet::Publish(self.publish(first, body)?)));
        }
        let packet = self.body(first, &buffer[..length]);
        buffer.advance(length);
        packet.map(Some)
    }

    fn body(&mut self, first: u8, body: &[u8]) -> Result<Packet, Fault> {
        let mut r = Reader(body);
        let (kind, flags) = (first >> 4, first & 0x0F);
        // 3.1 had DUP in several packets, and asked nobody to look at the other flags.
        let strict = self.version != Some(Version::V31);
        if strict && flags != if matches!(kind, 6 | 8 | 10) { 2 } else { 0 } {
            return Err(Fault::malformed("reserved flags of the fixed header"));
        }
        if kind == 1 {
            let connect = if self.version.is_none() {
                connect(&mut r, &mut self.version)?
            } else {
                return Err(Fault::protocol("CONNECT twice"));
            };
            r.end()?;
            return Ok(Packet::Connect(Box::new(connect)));
        }
        let version = self.version.ok_or(Fault::protocol("the first packet is not CONNECT"))?;
        let packet = match kind {
            4 => Packet::PubAck(ack(&mut r, version, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])?),
            5 => Packet::PubRec(ack(&mut r, version, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])?),
            6 => Packet::PubRel(ack(&mut r, version, &[0x00, 0x92])?),
            7 => Packet::PubComp(ack(&mut r, version, &[0x00, 0x92])?),
            8 => Packet::Subscribe(subscribe(&mut r, version)?),
            10 => Packet::Unsubscribe(unsubscribe(&mut r, version)?),
            12 => Packet::PingReq,
            14 => Packet::Disconnect(disconnect(&mut r, version)?),
            15 if version.is_v5() => return Ok(Packet::Auth),
            2 | 9 | 11 | 13 => return Err(Fault::protocol("a packet only a server sends")),
            _ => return Err(Fault::malformed("reserved packet type")),
        };
        r.end()?;
        Ok(packet)
    }

    fn publish(&self, first: u8, mut body: BytesMut) -> Result<Publish, Fault> {
        let version = self.version.ok_or(Fault::protocol("the first packet is not CONNECT"))?;
        let qos = Qos::try_from((first >> 1) & 3).map_err(|_| Fault::malformed("QoS 3"))?;
        let dup = first & 8 != 0;
        if dup && qos == Qos::AtMostOnce {
            return Err(Fault::malformed("DUP with QoS 0"));
        }
        let mut r = Reader(&body);
        let topic = r.text()?;
        let topic = if topic.is_empty() && version.is_v5() { None } else { Some(topic_name(topic)?) };
        let id = if qos == Qos::AtMostOnce { None } else { Some(r.id()?) };
        let (alias, properties) = if version.is_v5() { publish_properties(&mut r)? } else { (None, None) };
        if topic.is_none() && alias.is_none() {
            return Err(Fault::protocol("neither topic nor alias"));
        }
        let rest = r.0.len();
        let payload =
            if rest >= SHARE_FROM { body.split_off(body.len() - rest).freeze() } else { Bytes::copy_from_slice(r.0) };
        Ok(Publish { dup, qos, retain: first & 1 != 0, id, topic, alias, payload, properties })
    }
}

/// Length of the fixed header, remaining length, first byte.
fn header(buffer: &[u8]) -> Result<Option<(usize, usize, u8)>, Fault> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let mut length = 0;
    for n in 0..4 {
        let Some(&byte) = buffer.get(1 + n) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + n, length, first)));
        }
    }
    Err(Fault::malformed("remaining length of more than four bytes"))
}

fn topic_name(text: &str) -> Result<TopicName, Fault> {
    TopicName::new(text).map_err(|_| Fault { code: Code::TOPIC_INVALID, why: "not a topic name" })
}

fn connect(r: &mut Reader<'_>, learned: &mut Option<Version>) -> Result<Connect, Fault> {
    let version = match (r.text()?, r.u8()? & 0x7F) {
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        ("MQIsdp", 3) => Version::V31,
        ("MQTT" | "MQIsdp", level) => {
            // So that the refusal has the form such a client is likely to read.
            *learned = Some(if level > 5 { Version::V5 } else { Version::V311 });
            return Err(Fault { code: Code::UNSUPPORTED_VERSION, why: "protocol level not supported" });
        }
        _ => return Err(Fault::malformed("not the MQTT protocol")),
    };
    *learned = Some(version);
    let flags = r.u8()?;
    if flags & 1 != 0 {
        return Err(Fault::malformed("reserved connect flag"));
    }
    let keep_alive = r.u16()?;
    let props = if version.is_v5() { List::read(r, p::OF_CONNECT)? } else { List::default() };
    let client_id = r.text()?.to_owned();
    let will = will(r, flags, version)?;
    let (has_name, has_password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if has_password && !has_name && !version.is_v5() {
        return Err(Fault::malformed("password without user name"));
    }
    let username = if has_name { Some(r.text()?.to_owned()) } else { None };
    let password = if has_password { Some(Bytes::copy_from_slice(r.binary()?)) } else { None };
    if props.binary(p::AUTH_DATA).is_some() && props.text(p::AUTH_METHOD).is_none() {
        return Err(Fault::protocol("authentication data without method"));
    }
    let clean_start = flags & 2 != 0;
    let session_expiry = match version {
        Version::V5 => props.number(p::SESSION_EXPIRY).unwrap_or(0),
        _ if clean_start => 0,
        _ => u32::MAX,
    };
    Ok(Connect {
        version,
        clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        session_expiry,
        receive_maximum: short(&props, p::RECEIVE_MAXIMUM).unwrap_or(u16::MAX),
        packet_maximum: props.number(p::PACKET_MAXIMUM),
        alias_maximum: short(&props, p::ALIAS_MAXIMUM).unwrap_or(0),
        problem_information: props.number(p::PROBLEM_INFORMATION) != Some(0),
        auth_method: props.text(p::AUTH_METHOD).is_some(),
    })
}

fn short(props: &List, id: u8) -> Option<u16> {
    props.number(id).and_then(|n| u16::try_from(n).ok())
}

fn will(r: &mut Reader<'_>, flags: u8, version: Version) -> Result<Option<Will>, Fault> {
    let qos = Qos::try_from((flags >> 3) & 3).map_err(|_| Fault::malformed("will QoS 3"))?;
    let retain = flags & 0x20 != 0;
    if flags & 4 == 0 {
        return if qos == Qos::AtMostOnce && !retain {
            Ok(None)
        } else {
            Err(Fault::malformed("will QoS or retain without a will"))
        };
    }
    let props = if version.is_v5() { List::read(r, p::OF_WILL)? } else { List::default() };
    let topic = topic_name(r.text()?)?;
    let payload = Bytes::copy_from_slice(r.binary()?);
    let delay = props.number(p::WILL_DELAY).unwrap_or(0);
    let properties = message_properties(&props)?;
    let message = Message { topic, payload, qos, retain, properties, class: Class::Normal, own: None, from: None };
    Ok(Some(Will { message, delay }))
}

type PublishProperties = (Option<u16>, Option<Arc<Properties>>);

fn publish_properties(r: &mut Reader<'_>) -> Result<PublishProperties, Fault> {
    let props = List::read(r, p::OF_PUBLISH)?;
    // The packet has this property, but only on its way to a client (MQTT-3.3.4-6).
    if props.number(p::SUBSCRIPTION_ID).is_some() {
        return Err(Fault::protocol("subscription identifiers are the server's to send"));
    }
    let alias = short(&props, p::ALIAS);
    if alias == Some(0) {
        return Err(Fault { code: Code::ALIAS_INVALID, why: "topic alias 0" });
    }
    Ok((alias, message_properties(&props)?))
}

fn message_properties(props: &List) -> Result<Option<Arc<Properties>>, Fault> {
    if props.is_empty() {
        return Ok(None);
    }
    let response_topic = props.text(p::RESPONSE_TOPIC);
    if response_topic.as_ref().is_some_and(|t| TopicName::new(Arc::clone(t)).is_err()) {
        return Err(Fault::protocol("response topic is not a topic name"));
    }
    let found = Properties {
        payload_format: props.number(p::PAYLOAD_FORMAT).and_then(|n| u8::try_from(n).ok()),
        expiry: props.number(p::EXPIRY),
        content_type: props.text(p::CONTENT_TYPE),
        response_topic,
        correlation: props.binary(p::CORRELATION),
        user: props.user(),
    };
    Ok(if found == Properties::default() { None } else { Some(Arc::new(found)) })
}

fn ack(r: &mut Reader<'_>, version: Version, codes: &[u8]) -> Result<Ack, Fault> {
    let id = r.id()?;
    if !version.is_v5() || r.is_empty() {
        return Ok(Ack { id, code: Code::SUCCESS });
    }
    let code = r.u8()?;
    if !codes.contains(&code) {
        return Err(Fault::malformed("a reason code that this packet does not have"));
    }
    if !r.is_empty() {
        List::read(r, p::OF_ACK)?;
    }
    Ok(Ack { id, code: Code(code) })
}

fn subscribe(r: &mut Reader<'_>, version: Version) -> Result<Subscribe, Fault> {
    let id = r.id()?;
    let props = if version.is_v5() { List::read(r, p::OF_SUBSCRIBE)? } else { List::default() };
    let mut filters = Vec::new();
    while !r.is_empty() {
        let text = r.text()?;
        let options = options(r.u8()?, version)?;
        filters.push(wanted(text, options)?);
    }
    if filters.is_empty() {
        return Err(Fault::protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { id, identifier: props.number(p::SUBSCRIPTION_ID), filters })
}

fn options(byte: u8, version: Version) -> Result<Options, Fault> {
    if byte & if version.is_v5() { 0xC0 } else { 0xFC } != 0 {
        return Err(Fault::malformed("reserved bits of the subscription options"));
    }
    let qos = Qos::try_from(byte & 3).map_err(|_| Fault::malformed("subscription with QoS 3"))?;
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(Fault::protocol("retain handling 3")),
    };
    Ok(Options { qos, no_local: byte & 4 != 0, retain_as_published: byte & 8 != 0, retain_handling })
}

fn wanted(text: &str, options: Options) -> Result<Wanted, Fault> {
    let (group, filter) = match text.strip_prefix("$share/") {
        Some(rest) => match rest.split_once('/') {
            Some((name, filter)) if !name.is_empty() && !name.contains(['+', '#']) => (Some(name.into()), Some(filter)),
            _ => (None, None),
        },
        None => (None, Some(text)),
    };
    if group.is_some() && options.no_local {
        return Err(Fault::protocol("no local on a shared subscription"));
    }
    Ok(Wanted { text: text.into(), filter: filter.and_then(|f| TopicFilter::new(f).ok()), group, options })
}

fn unsubscribe(r: &mut Reader<'_>, version: Version) -> Result<Unsubscribe, Fault> {
    let id = r.id()?;
    if version.is_v5() {
        List::read(r, p::OF_UNSUBSCRIBE)?;
    }
    let mut filters = Vec::new();
    while !r.is_empty() {
        filters.push(r.text()?.to_owned());
    }
    if filters.is_empty() {
        return Err(Fault::protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Unsubscribe { id, filters })
}

fn disconnect(r: &mut Reader<'_>, version: Version) -> Result<Disconnect, Fault> {
    if !version.is_v5() || r.is_empty() {
        return Ok(Disconnect { code: Code::SUCCESS, session_expiry: None });
    }
    let code = Code(r.u8()?);
    let known = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    if !known.contains(&code.0) {
        return Err(Fault::malformed("a reason code that this packet does not have"));
    }
    let props = if r.is_empty() { List::default() } else { List::read(r, p::OF_DISCONNECT)? };
    Ok(Disconnect { code, session_expiry: props.number(p::SESSION_EXPIRY) })
}

/// Walks a packet's body; every step may find it too short.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<(), Fault> {
        if self.is_empty() { Ok(()) } else { Err(Fault::malformed("bytes after the end of the packet")) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::malformed("packet too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn sub(&mut self, count: usize) -> Result<Self, Fault> {
        self.take(count).map(Reader)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    fn id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for n in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * n);
            if byte & 0x80 == 0 {
                // MQTT-1.5.5-1; only 5.0 has these inside of packets.
                let longer = n > 0 && byte == 0;
                return if longer {
                    Err(Fault::malformed("an integer in more bytes than it needs"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Fault::malformed("variable byte integer of more than four bytes"))
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Fault::malformed("text is not UTF-8"))?;
        if text.contains('\0') { Err(Fault::malformed("text holds a NUL")) } else { Ok(text) }
    }
}
