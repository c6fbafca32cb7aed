//! Properties of MQTT 5.0 packets (2.2.2): read as a list, checked against what the packet allows and for repeats.

use std::sync::Arc;

use bytes::Bytes;

use super::Fault;
use super::decode::Reader;

pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
pub(super) const EXPIRY: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION: u8 = 0x09;
pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTH_METHOD: u8 = 0x15;
pub(super) const AUTH_DATA: u8 = 0x16;
pub(super) const PROBLEM_INFORMATION: u8 = 0x17;
pub(super) const WILL_DELAY: u8 = 0x18;
pub(super) const RESPONSE_INFORMATION: u8 = 0x19;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const ALIAS: u8 = 0x23;
pub(super) const USER: u8 = 0x26;
pub(super) const PACKET_MAXIMUM: u8 = 0x27;

pub(super) const OF_CONNECT: &[u8] = &[
    SESSION_EXPIRY,
    AUTH_METHOD,
    AUTH_DATA,
    PROBLEM_INFORMATION,
    RESPONSE_INFORMATION,
    RECEIVE_MAXIMUM,
    ALIAS_MAXIMUM,
    USER,
    PACKET_MAXIMUM,
];
pub(super) const OF_WILL: &[u8] =
    &[PAYLOAD_FORMAT, EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, WILL_DELAY, USER];
pub(super) const OF_PUBLISH: &[u8] =
    &[PAYLOAD_FORMAT, EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, SUBSCRIPTION_ID, ALIAS, USER];
pub(super) const OF_ACK: &[u8] = &[REASON_STRING, USER];
pub(super) const OF_SUBSCRIBE: &[u8] = &[SUBSCRIPTION_ID, USER];
pub(super) const OF_UNSUBSCRIBE: &[u8] = &[USER];
pub(super) const OF_DISCONNECT: &[u8] = &[SESSION_EXPIRY, REASON_STRING, USER];

/// One property's value.
#[derive(Debug)]
enum Field {
    Number(u32),
    Text(Arc<str>),
    Binary(Bytes),
    Pair(Arc<str>, Arc<str>),
}

/// The properties of one packet; few, so a list is searched.
#[derive(Debug, Default)]
pub(super) struct List(Vec<(u8, Field)>);

impl List {
    /// Reads a property length and as many properties. `allowed` are the ones of this packet.
    pub(super) fn read(from: &mut Reader<'_>, allowed: &[u8]) -> Result<Self, Fault> {
        let length = from.varint()? as usize;
        let mut list = Self::default();
        let mut inner = from.sub(length)?;
        while !inner.is_empty() {
            let id = inner.varint()?;
            let id = u8::try_from(id).map_err(|_| Fault::malformed("unknown property"))?;
            if !allowed.contains(&id) {
                return Err(Fault::malformed("a property that this packet does not have"));
            }
            if id != USER && list.0.iter().any(|(seen, _)| *seen == id) {
                return Err(Fault::protocol("a property twice"));
            }
            let field = read_field(&mut inner, id)?;
            list.0.push((id, field));
        }
        Ok(list)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn number(&self, id: u8) -> Option<u32> {
        self.0.iter().find_map(|(have, field)| match field {
            Field::Number(n) if *have == id => Some(*n),
            _ => None,
        })
    }

    pub(super) fn text(&self, id: u8) -> Option<Arc<str>> {
        self.0.iter().find_map(|(have, field)| match field {
            Field::Text(t) if *have == id => Some(Arc::clone(t)),
            _ => None,
        })
    }

    pub(super) fn binary(&self, id: u8) -> Option<Bytes> {
        self.0.iter().find_map(|(have, field)| match field {
            Field::Binary(b) if *have == id => Some(b.clone()),
            _ => None,
        })
    }

    pub(super) fn user(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let pairs = self.0.iter().filter_map(|(_, field)| match field {
            Field::Pair(name, value) => Some((Arc::clone(name), Arc::clone(value))),
            _ => None,
        });
        pairs.collect()
    }
}

fn read_field(from: &mut Reader<'_>, id: u8) -> Result<Field, Fault> {
    Ok(match id {
        PAYLOAD_FORMAT | PROBLEM_INFORMATION | RESPONSE_INFORMATION => {
            let n = from.u8()?;
            if n > 1 {
                return Err(Fault::protocol("a flag property that is neither 0 nor 1"));
            }
            Field::Number(u32::from(n))
        }
        EXPIRY | SESSION_EXPIRY | WILL_DELAY => Field::Number(from.u32()?),
        PACKET_MAXIMUM => Field::Number(not_zero(from.u32()?)?),
        RECEIVE_MAXIMUM => Field::Number(not_zero(u32::from(from.u16()?))?),
        ALIAS_MAXIMUM | ALIAS => Field::Number(u32::from(from.u16()?)),
        SUBSCRIPTION_ID => Field::Number(not_zero(from.varint()?)?),
        CONTENT_TYPE | AUTH_METHOD | REASON_STRING | RESPONSE_TOPIC => Field::Text(from.text()?.into()),
        CORRELATION | AUTH_DATA => Field::Binary(Bytes::copy_from_slice(from.binary()?)),
        USER => Field::Pair(from.text()?.into(), from.text()?.into()),
        _ => return Err(Fault::malformed("unknown property")),
    })
}

fn not_zero(n: u32) -> Result<u32, Fault> {
    if n == 0 { Err(Fault::protocol("a property that may not be 0")) } else { Ok(n) }
}
