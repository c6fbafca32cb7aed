//! Packets of a client as bytes. Total: any packet that the broker's decoder can have made is written so that it reads back
//! the same (`fuzz/src/packet.rs` holds it to that).

use crate::broker::packet::Ack;
use crate::broker::packet::Code;
use crate::broker::packet::Connect;
use crate::broker::packet::Disconnect;
use crate::broker::packet::Options;
use crate::broker::packet::Packet;
use crate::broker::packet::Publish;
use crate::broker::packet::RetainHandling;
use crate::broker::packet::Subscribe;
use crate::broker::packet::Unsubscribe;
use crate::broker::packet::Version;
use crate::broker::packet::Will;
use crate::message::Properties;

/// Any packet. Whoever wrote the packet must speak the version: properties are left out before 5.0.
pub fn packet(packet: &Packet, version: Version) -> Vec<u8> {
    let v5 = version.is_v5();
    match packet {
        Packet::Connect(connect) => frame(0x10, &connect_body(connect)),
        Packet::Publish(publish) => publish_frame(publish, v5),
        Packet::PubAck(ack) => ack_frame(0x40, *ack, v5),
        Packet::PubRec(ack) => ack_frame(0x50, *ack, v5),
        Packet::PubRel(ack) => ack_frame(0x62, *ack, v5),
        Packet::PubComp(ack) => ack_frame(0x70, *ack, v5),
        Packet::Subscribe(subscribe) => frame(0x82, &subscribe_body(subscribe, v5)),
        Packet::Unsubscribe(unsubscribe) => frame(0xA2, &unsubscribe_body(unsubscribe, v5)),
        Packet::PingReq => vec![0xC0, 0],
        Packet::Disconnect(disconnect) => frame(0xE0, &disconnect_body(*disconnect, v5)),
        Packet::Auth => vec![0xF0, 0],
    }
}

/// First byte, remaining length, body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(first);
    varint(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// A PUBLISH of 3.1.1 in one go, for those who send many.
pub fn publish(to: &mut Vec<u8>, topic: &str, qos: u8, id: u16, payload: &[u8]) {
    to.push(0x30 | qos << 1);
    varint(to, 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload.len());
    text(to, topic);
    if qos > 0 {
        to.extend_from_slice(&id.to_be_bytes());
    }
    to.extend_from_slice(payload);
}

/// A CONNECT of 3.1.1 with a clean session and no keep-alive.
pub fn hello(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    text(&mut body, client_id);
    frame(0x10, &body)
}

/// A SUBSCRIBE of 3.1.1 to one filter.
pub fn subscribe(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    text(&mut body, filter);
    body.push(qos);
    frame(0x82, &body)
}

fn varint(to: &mut Vec<u8>, mut n: usize) {
    while n > 127 {
        to.push((n & 0x7F) as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

fn text(to: &mut Vec<u8>, text: &str) {
    binary(to, text.as_bytes());
}

fn binary(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Properties with their length before them; nothing before 5.0.
fn properties(to: &mut Vec<u8>, v5: bool, fill: impl FnOnce(&mut Vec<u8>)) {
    if v5 {
        let mut inner = Vec::new();
        fill(&mut inner);
        varint(to, inner.len());
        to.extend(inner);
    }
}

fn number(to: &mut Vec<u8>, id: u8, n: u32) {
    to.push(id);
    to.extend_from_slice(&n.to_be_bytes());
}

fn short(to: &mut Vec<u8>, id: u8, n: u16) {
    to.push(id);
    to.extend_from_slice(&n.to_be_bytes());
}

fn connect_body(connect: &Connect) -> Vec<u8> {
    let mut body = Vec::new();
    let (name, level) = match connect.version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    let v5 = connect.version.is_v5();
    text(&mut body, name);
    let will = connect
        .will
        .as_ref()
        .map_or(0, |will| 4 | u8::from(will.message.qos) << 3 | if will.message.retain { 0x20 } else { 0 });
    let name = if connect.username.is_some() { 0x80 } else { 0 };
    let password = if connect.password.is_some() { 0x40 } else { 0 };
    let clean = if connect.clean_start { 2 } else { 0 };
    body.extend([level, name | password | will | clean]);
    body.extend(connect.keep_alive.to_be_bytes());
    properties(&mut body, v5, |to| connect_properties(to, connect));
    text(&mut body, &connect.client_id);
    if let Some(will) = &connect.will {
        will_fields(&mut body, will, v5);
    }
    if let Some(name) = &connect.username {
        text(&mut body, name);
    }
    if let Some(password) = &connect.password {
        binary(&mut body, password);
    }
    body
}

fn connect_properties(to: &mut Vec<u8>, connect: &Connect) {
    number(to, 0x11, connect.session_expiry);
    short(to, 0x21, connect.receive_maximum);
    if let Some(most) = connect.packet_maximum {
        number(to, 0x27, most);
    }
    short(to, 0x22, connect.alias_maximum);
    to.extend([0x17, u8::from(connect.problem_information)]);
    if connect.auth_method {
        to.push(0x15);
        text(to, "m");
    }
}

fn will_fields(to: &mut Vec<u8>, will: &Will, v5: bool) {
    properties(to, v5, |to| {
        number(to, 0x18, will.delay);
        message_properties(to, will.message.properties.as_deref());
    });
    text(to, will.message.topic.as_str());
    binary(to, &will.message.payload);
}

fn message_properties(to: &mut Vec<u8>, found: Option<&Properties>) {
    let Some(found) = found else { return };
    if let Some(format) = found.payload_format {
        to.extend([0x01, format]);
    }
    if let Some(expiry) = found.expiry {
        number(to, 0x02, expiry);
    }
    for (id, value) in [(0x03, &found.content_type), (0x08, &found.response_topic)] {
        if let Some(value) = value {
            to.push(id);
            text(to, value);
        }
    }
    if let Some(bytes) = &found.correlation {
        to.push(0x09);
        binary(to, bytes);
    }
    for (name, value) in &found.user {
        to.push(0x26);
        text(to, name);
        text(to, value);
    }
}

fn publish_frame(publish: &Publish, v5: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(publish.payload.len() + 64);
    text(&mut body, publish.topic.as_ref().map_or("", |topic| topic.as_str()));
    if let Some(id) = publish.id {
        body.extend(id.to_be_bytes());
    }
    properties(&mut body, v5, |to| {
        if let Some(alias) = publish.alias {
            short(to, 0x23, alias);
        }
        message_properties(to, publish.properties.as_deref());
    });
    body.extend_from_slice(&publish.payload);
    let flags = u8::from(publish.dup) << 3 | u8::from(publish.qos) << 1 | u8::from(publish.retain);
    frame(0x30 | flags, &body)
}

fn ack_frame(first: u8, ack: Ack, v5: bool) -> Vec<u8> {
    let [high, low] = ack.id.to_be_bytes();
    if v5 && ack.code != Code::SUCCESS {
        return frame(first, &[high, low, ack.code.0]);
    }
    frame(first, &[high, low])
}

fn subscribe_body(subscribe: &Subscribe, v5: bool) -> Vec<u8> {
    let mut body = subscribe.id.to_be_bytes().to_vec();
    properties(&mut body, v5, |to| {
        if let Some(identifier) = subscribe.identifier {
            to.push(0x0B);
            varint(to, identifier as usize);
        }
    });
    for wanted in &subscribe.filters {
        text(&mut body, &wanted.text);
        body.push(options(wanted.options));
    }
    body
}

fn options(options: Options) -> u8 {
    let handling = match options.retain_handling {
        RetainHandling::Always => 0,
        RetainHandling::IfNew => 1,
        RetainHandling::Never => 2,
    };
    let (no_local, as_published) = (u8::from(options.no_local), u8::from(options.retain_as_published));
    u8::from(options.qos) | no_local << 2 | as_published << 3 | handling << 4
}

fn unsubscribe_body(unsubscribe: &Unsubscribe, v5: bool) -> Vec<u8> {
    let mut body = unsubscribe.id.to_be_bytes().to_vec();
    properties(&mut body, v5, |_| {});
    unsubscribe.filters.iter().for_each(|filter| text(&mut body, filter));
    body
}

fn disconnect_body(disconnect: Disconnect, v5: bool) -> Vec<u8> {
    let mut body = Vec::new();
    if v5 {
        body.push(disconnect.code.0);
        properties(&mut body, v5, |to| {
            if let Some(expiry) = disconnect.session_expiry {
                number(to, 0x11, expiry);
            }
        });
    }
    body
}
