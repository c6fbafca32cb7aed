//! A message as a row's blob and back: flags, age, topic, properties, payload. Written and read by this file alone; its
//! layout is part of the schema's version. What cannot be read is `None`, never a panic.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;

use super::super::packet::Options;
use super::super::packet::RetainHandling;
use super::super::queue::Item;
use super::super::replay::Cursor;
use super::super::router::Share;
use super::super::session::Subscribed;
use super::super::stored::Stored;
use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const RETAIN: u8 = 0x04;
const ALARM: u8 = 0x08;
const PROPERTIES: u8 = 0x10;
/// In an item: the shared group it came through stands before the message. Layout 1 never has it.
const SHARE: u8 = 0x20;

/// Wall clocks before this (2020-01-01) were never set: ages measured with them mean nothing.
const SANE_S: i64 = 1_577_836_800;

/// Both clocks at the moment of a save or a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    /// Monotonic.
    pub(super) now: Instant,
    /// Seconds since 1970, as far as the machine knows.
    pub(super) wall_s: i64,
}

impl Clocks {
    pub(super) fn read() -> Self {
        Self { now: Instant::now(), wall_s: crate::time::now().wall_us.div_euclid(1_000_000) }
    }

    /// A moment of this process as seconds since 1970.
    pub(super) fn wall_of(self, at: Instant) -> i64 {
        self.wall_s - i64::try_from(self.now.saturating_duration_since(at).as_secs()).unwrap_or(0)
    }

    /// The other way. A clock that was not set, or went back, makes it "just now": rather kept too long than lost.
    pub(super) fn instant_of(self, wall_s: i64) -> Instant {
        let age = if wall_s < SANE_S { 0 } else { u64::try_from(self.wall_s - wall_s).unwrap_or(0) };
        self.now.checked_sub(Duration::from_secs(age)).unwrap_or(self.now)
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    // Everything here came from a two-byte length.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    to.put_u16(length);
    to.put_slice(&bytes[..usize::from(length)]);
}

fn get_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(from.try_get_u16().ok()?);
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

fn get_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(get_bytes(from)?).ok()
}

fn put_optional(to: &mut Vec<u8>, bytes: Option<&[u8]>) {
    to.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(to, bytes);
    }
}

fn get_optional<'a>(from: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    if from.try_get_u8().ok()? == 0 { Some(None) } else { get_bytes(from).map(Some) }
}

/// A message that has not come in yet.
pub(super) fn put_message(message: &Message, clocks: Clocks) -> Vec<u8> {
    let mut to = Vec::with_capacity(64 + message.payload.len());
    put_stored(&mut to, &Stored { message: message.clone(), born: clocks.now }, clocks);
    to
}

/// A message with the moment it came in.
pub(super) fn put_stored(to: &mut Vec<u8>, stored: &Stored, clocks: Clocks) {
    let message = &stored.message;
    let mut flags = u8::from(message.qos);
    for (flag, is) in
        [(RETAIN, message.retain), (ALARM, message.class == Class::Alarm), (PROPERTIES, message.properties.is_some())]
    {
        flags |= if is { flag } else { 0 };
    }
    to.put_u8(flags);
    to.put_i64(clocks.wall_of(stored.born));
    put_bytes(to, message.topic.as_str().as_bytes());
    if let Some(properties) = &message.properties {
        put_properties(to, properties);
    }
    to.put_slice(&message.payload);
}

fn put_properties(to: &mut Vec<u8>, properties: &Properties) {
    to.put_u8(properties.payload_format.map_or(0xFF, |n| n));
    to.put_u8(u8::from(properties.expiry.is_some()));
    to.put_u32(properties.expiry.unwrap_or(0));
    put_optional(to, properties.content_type.as_ref().map(|t| t.as_bytes()));
    put_optional(to, properties.response_topic.as_ref().map(|t| t.as_bytes()));
    put_optional(to, properties.correlation.as_deref());
    to.put_u32(u32::try_from(properties.user.len()).unwrap_or(u32::MAX));
    for (name, value) in &properties.user {
        put_bytes(to, name.as_bytes());
        put_bytes(to, value.as_bytes());
    }
}

/// The inverse of [`put_stored`]. What was the gateway's own comes back as a plain message.
pub(super) fn get_stored(mut from: &[u8], clocks: Clocks) -> Option<Stored> {
    let flags = from.try_get_u8().ok()?;
    let born = clocks.instant_of(from.try_get_i64().ok()?);
    let topic = TopicName::new(get_text(&mut from)?).ok()?;
    let properties = if flags & PROPERTIES != 0 { Some(Arc::new(get_properties(&mut from)?)) } else { None };
    let message = Message {
        topic,
        payload: Bytes::copy_from_slice(from),
        qos: Qos::try_from(flags & 3).ok()?,
        retain: flags & RETAIN != 0,
        properties,
        class: if flags & ALARM != 0 { Class::Alarm } else { Class::Normal },
        own: None,
        from: None,
    };
    Some(Stored { message, born })
}

fn get_properties(from: &mut &[u8]) -> Option<Properties> {
    let text = |bytes: Option<&[u8]>| -> Option<Option<Arc<str>>> {
        match bytes {
            None => Some(None),
            Some(bytes) => std::str::from_utf8(bytes).ok().map(|t| Some(t.into())),
        }
    };
    let payload_format = Some(from.try_get_u8().ok()?).filter(|n| *n <= 1);
    let has_expiry = from.try_get_u8().ok()? != 0;
    let expiry = Some(from.try_get_u32().ok()?).filter(|_| has_expiry);
    let content_type = text(get_optional(from)?)?;
    let response_topic = text(get_optional(from)?)?;
    let correlation = get_optional(from)?.map(Bytes::copy_from_slice);
    let count = from.try_get_u32().ok()?;
    let mut user = Vec::new();
    for _ in 0..count {
        user.push((get_text(from)?.into(), get_text(from)?.into()));
    }
    Some(Properties { payload_format, expiry, content_type, response_topic, correlation, user })
}

/// A message for one session.
pub(super) fn put_item(item: &Item, clocks: Clocks) -> Vec<u8> {
    let mut to = Vec::with_capacity(64 + item.stored.message.payload.len());
    let share = if item.share.is_some() { SHARE } else { 0 };
    to.put_u8(u8::from(item.qos) | if item.retain { RETAIN } else { 0 } | share);
    if let Some(share) = &item.share {
        put_bytes(&mut to, share.group.as_bytes());
        put_bytes(&mut to, share.filter.as_str().as_bytes());
    }
    to.put_u16(u16::try_from(item.identifiers.len()).unwrap_or(u16::MAX));
    for identifier in item.identifiers.iter().take(usize::from(u16::MAX)) {
        to.put_u32(*identifier);
    }
    put_stored(&mut to, &item.stored, clocks);
    to
}

/// The inverse of [`put_item`].
pub(super) fn get_item(mut from: &[u8], clocks: Clocks) -> Option<Item> {
    let flags = from.try_get_u8().ok()?;
    let share = if flags & SHARE == 0 {
        None
    } else {
        let group = get_text(&mut from)?.into();
        let filter = TopicFilter::new(get_text(&mut from)?).ok()?;
        Some(Arc::new(Share { group, filter }))
    };
    let count = from.try_get_u16().ok()?;
    let mut identifiers = Vec::new();
    for _ in 0..count {
        identifiers.push(from.try_get_u32().ok()?);
    }
    let stored = Arc::new(get_stored(from, clocks)?);
    Some(Item { stored, qos: Qos::try_from(flags & 3).ok()?, retain: flags & RETAIN != 0, identifiers, share })
}

/// A subscription.
pub(super) fn put_subscribed(subscribed: &Subscribed) -> Vec<u8> {
    let Subscribed { filter, group, identifier, options } = subscribed;
    let mut to = Vec::with_capacity(16 + filter.as_str().len());
    let handling = match options.retain_handling {
        RetainHandling::Always => 0,
        RetainHandling::IfNew => 0x10,
        RetainHandling::Never => 0x20,
    };
    let (local, published) = (u8::from(options.no_local) << 2, u8::from(options.retain_as_published) << 3);
    to.put_u8(u8::from(options.qos) | local | published | handling);
    to.put_u32(identifier.unwrap_or(0));
    put_optional(&mut to, group.as_ref().map(|g| g.as_bytes()));
    put_bytes(&mut to, filter.as_str().as_bytes());
    to
}

/// The inverse of [`put_subscribed`].
pub(super) fn get_subscribed(mut from: &[u8]) -> Option<Subscribed> {
    let flags = from.try_get_u8().ok()?;
    let identifier = Some(from.try_get_u32().ok()?).filter(|n| *n != 0);
    let group = match get_optional(&mut from)? {
        None => None,
        Some(bytes) => Some(std::str::from_utf8(bytes).ok()?.into()),
    };
    let filter = TopicFilter::new(get_text(&mut from)?).ok()?;
    let retain_handling = match flags >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return None,
    };
    let qos = Qos::try_from(flags & 3).ok()?;
    let options = Options { qos, no_local: flags & 4 != 0, retain_as_published: flags & 8 != 0, retain_handling };
    Some(Subscribed { filter, group, identifier, options })
}

/// How far replays have got.
pub(super) fn put_cursors(cursors: &[Cursor]) -> Vec<u8> {
    let mut to = Vec::new();
    for Cursor { filter, sent } in cursors {
        put_bytes(&mut to, filter.as_str().as_bytes());
        put_optional(&mut to, sent.as_ref().map(|topic| topic.as_str().as_bytes()));
    }
    to
}

/// The inverse of [`put_cursors`]; what cannot be read is left out.
pub(super) fn get_cursors(mut from: &[u8]) -> Vec<Cursor> {
    let mut cursors = Vec::new();
    while let Some(cursor) = get_cursor(&mut from) {
        cursors.push(cursor);
    }
    cursors
}

fn get_cursor(from: &mut &[u8]) -> Option<Cursor> {
    let filter = TopicFilter::new(get_text(from)?).ok()?;
    let sent = match get_optional(from)? {
        None => None,
        Some(bytes) => Some(TopicName::new(std::str::from_utf8(bytes).ok()?).ok()?),
    };
    Some(Cursor { filter, sent })
}
