//! One entry as bytes. One of the gateway's own values is what was measured (some 20 bytes, its series is a number
//! beside it); a foreign message is kept whole. Numbers are LEB128, signed ones zigzagged, so that small things stay
//! small on flash. Pure: encode and decode are each other's inverse, and decoding refuses what it does not know
//! instead of guessing.

use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;

use super::gap::Gap;
use crate::message::Class;
use crate::message::Message;
use crate::message::OwnValue;
use crate::message::Properties;
use crate::payload::Series;
use crate::point::PointId;
use crate::sample::Quality;
use crate::sample::Reason;
use crate::sample::Sample;
use crate::sample::Value;
use crate::time::Stamp;
use crate::topic::Qos;
use crate::topic::TopicName;

/// The point of a value read back: indices do not outlive the configuration, the series says all that rendering needs.
const FORGOTTEN: PointId = PointId(u32::MAX);

/// When an entry came, and in which run of the process: monotonic stamps of different runs are not comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Number of the run in the table of runs.
    pub(super) run: u64,
    /// Both clocks.
    pub(super) stamp: Stamp,
}

impl Taken {
    /// A gap says itself from when to when.
    pub(super) const NEVER: Self = Self { run: u64::MAX, stamp: Stamp { mono_us: u64::MAX, wall_us: 0 } };
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// A message to send.
    Message(Message),
    /// A hole to tell of.
    Gap(Gap),
}

/// The bytes of an own value; its series is stored beside them.
pub(super) fn encode_own(sample: &Sample, run: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    let (kind, quality) = (value_kind(sample.value()), sample.quality());
    let word = match quality {
        Quality::Good => 0,
        Quality::Stale(_) => 1,
        Quality::Bad(_) => 2,
    };
    out.push(kind | word << 3);
    if let Some(reason) = quality.reason() {
        put_reason(&mut out, reason);
    }
    put_taken(&mut out, Taken { run, stamp: sample.taken() });
    match sample.value() {
        None | Some(Value::Bool(_)) => {}
        Some(Value::Int(i)) => put(&mut out, zigzag(i128::from(*i))),
        Some(Value::Uint(u)) => put(&mut out, u128::from(*u)),
        Some(Value::Decimal(d)) => {
            out.push(u8::try_from(d.scale()).unwrap_or(u8::MAX));
            put(&mut out, zigzag(d.mantissa()));
        }
        Some(Value::Float(x)) => out.extend_from_slice(&x.to_le_bytes()),
        Some(Value::Text(text)) => out.extend_from_slice(text.as_bytes()),
    }
    out
}

/// Where the topic of somebody else's message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicLies {
    /// In the dictionary; its number stands beside the row.
    Beside,
    /// In the row: there were too many for the dictionary.
    Within,
}

/// The bytes of somebody else's message.
pub(super) fn encode_foreign(message: &Message, taken: Taken, topic: TopicLies) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.topic.as_str().len() + message.payload.len() + 32);
    let class = u8::from(message.class == Class::Alarm);
    let properties = u8::from(message.properties.is_some());
    out.push(u8::from(message.qos) | u8::from(message.retain) << 2 | class << 3 | properties << 4);
    put_taken(&mut out, taken);
    if topic == TopicLies::Within {
        put_bytes(&mut out, message.topic.as_str().as_bytes());
    }
    if let Some(properties) = &message.properties {
        put_properties(&mut out, properties);
    }
    out.extend_from_slice(&message.payload);
    out
}

/// The message and its time; an own value comes without payload, which is rendered when it is sent.
pub(super) fn decode(series: Option<&Arc<Series>>, bytes: &[u8]) -> Option<(Message, Taken)> {
    let mut rest = Rest(bytes);
    match series {
        Some(series) => decode_own(series, &mut rest),
        None => decode_foreign(None, &mut rest),
    }
}

/// Somebody else's message whose topic lies beside it.
pub(super) fn decode_under(topic: &TopicName, bytes: &[u8]) -> Option<(Message, Taken)> {
    decode_foreign(Some(topic), &mut Rest(bytes))
}

fn decode_own(series: &Arc<Series>, rest: &mut Rest<'_>) -> Option<(Message, Taken)> {
    let head = rest.byte()?;
    let word = head >> 3;
    let reason = if word == 0 { None } else { Some(rest.reason()?) };
    let taken = rest.taken()?;
    let value = rest.value(head & 7)?;
    let sample = match (word, reason, value) {
        (0, None, Some(value)) => Sample::good(FORGOTTEN, value, taken.stamp),
        (1, Some(reason), Some(value)) => Sample::stale(FORGOTTEN, value, reason, taken.stamp),
        (2, Some(reason), None) => Sample::bad(FORGOTTEN, reason, taken.stamp),
        _ => return None,
    };
    let message = Message {
        topic: series.topic.clone(),
        payload: Bytes::new(),
        qos: series.qos,
        retain: series.retain,
        properties: None,
        class: series.class,
        own: Some(OwnValue { series: Arc::clone(series), sample }),
        from: None,
    };
    Some((message, taken))
}

fn decode_foreign(topic: Option<&TopicName>, rest: &mut Rest<'_>) -> Option<(Message, Taken)> {
    let head = rest.byte()?;
    let taken = rest.taken()?;
    let topic = match topic {
        Some(topic) => topic.clone(),
        None => TopicName::new(rest.text()?).ok()?,
    };
    let properties = if head & 16 == 0 { None } else { Some(Arc::new(rest.properties()?)) };
    let message = Message {
        topic,
        payload: Bytes::copy_from_slice(rest.0),
        qos: Qos::try_from(head & 3).ok()?,
        retain: head & 4 != 0,
        properties,
        class: if head & 8 == 0 { Class::Normal } else { Class::Alarm },
        own: None,
        from: None,
    };
    Some((message, taken))
}

fn value_kind(value: Option<&Value>) -> u8 {
    match value {
        None => 0,
        Some(Value::Bool(false)) => 1,
        Some(Value::Bool(true)) => 2,
        Some(Value::Int(_)) => 3,
        Some(Value::Uint(_)) => 4,
        Some(Value::Decimal(_)) => 5,
        Some(Value::Float(_)) => 6,
        Some(Value::Text(_)) => 7,
    }
}

fn put_reason(out: &mut Vec<u8>, reason: Reason) {
    let code = match reason {
        Reason::Timeout => 0,
        Reason::Crc => 1,
        Reason::Exception(_) => 2,
        Reason::NotAvailable => 3,
        Reason::OutOfRange => 4,
        Reason::NotANumber => 5,
        Reason::NotBcd => 6,
        Reason::Offline => 7,
        Reason::LineDown => 8,
        Reason::Source => 9,
        Reason::Paused => 10,
    };
    out.push(code);
    if let Reason::Exception(exception) = reason {
        out.push(exception);
    }
}

fn put_taken(out: &mut Vec<u8>, taken: Taken) {
    put(out, u128::from(taken.run));
    put(out, zigzag(i128::from(taken.stamp.wall_us)));
    put(out, u128::from(taken.stamp.mono_us));
}

fn put_properties(out: &mut Vec<u8>, p: &Properties) {
    let mask = u8::from(p.payload_format.is_some())
        | u8::from(p.expiry.is_some()) << 1
        | u8::from(p.content_type.is_some()) << 2
        | u8::from(p.response_topic.is_some()) << 3
        | u8::from(p.correlation.is_some()) << 4;
    out.push(mask);
    out.extend(p.payload_format);
    if let Some(expiry) = p.expiry {
        put(out, u128::from(expiry));
    }
    for text in [&p.content_type, &p.response_topic].into_iter().flatten() {
        put_bytes(out, text.as_bytes());
    }
    if let Some(correlation) = &p.correlation {
        put_bytes(out, correlation);
    }
    put(out, p.user.len() as u128);
    for (name, value) in &p.user {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, mut n: u128) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

const fn zigzag(n: i128) -> u128 {
    ((n << 1) ^ (n >> 127)).cast_unsigned()
}

const fn unzigzag(n: u128) -> i128 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u128> {
        let mut n = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            n |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Arc::from)
    }

    fn taken(&mut self) -> Option<Taken> {
        let run = u64::try_from(self.number()?).ok()?;
        let wall_us = i64::try_from(unzigzag(self.number()?)).ok()?;
        let mono_us = u64::try_from(self.number()?).ok()?;
        Some(Taken { run, stamp: Stamp { mono_us, wall_us } })
    }

    fn reason(&mut self) -> Option<Reason> {
        Some(match self.byte()? {
            0 => Reason::Timeout,
            1 => Reason::Crc,
            2 => Reason::Exception(self.byte()?),
            3 => Reason::NotAvailable,
            4 => Reason::OutOfRange,
            5 => Reason::NotANumber,
            6 => Reason::NotBcd,
            7 => Reason::Offline,
            8 => Reason::LineDown,
            9 => Reason::Source,
            10 => Reason::Paused,
            _ => return None,
        })
    }

    fn value(&mut self, kind: u8) -> Option<Option<Value>> {
        Some(Some(match kind {
            0 => return Some(None),
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(i64::try_from(unzigzag(self.number()?)).ok()?),
            4 => Value::Uint(u64::try_from(self.number()?).ok()?),
            5 => {
                let scale = u32::from(self.byte()?);
                Value::Decimal(Decimal::try_from_i128_with_scale(unzigzag(self.number()?), scale).ok()?)
            }
            6 => Value::Float(f64::from_le_bytes(self.0.try_into().ok()?)),
            _ => Value::Text(std::str::from_utf8(self.0).ok()?.into()),
        }))
    }

    fn properties(&mut self) -> Option<Properties> {
        let mask = self.byte()?;
        let payload_format = if mask & 1 == 0 { None } else { Some(self.byte()?) };
        let expiry = if mask & 2 == 0 { None } else { Some(u32::try_from(self.number()?).ok()?) };
        let content_type = if mask & 4 == 0 { None } else { Some(self.text()?) };
        let response_topic = if mask & 8 == 0 { None } else { Some(self.text()?) };
        let correlation = if mask & 16 == 0 { None } else { Some(Bytes::copy_from_slice(self.bytes()?)) };
        let mut user = Vec::new();
        for _ in 0..self.number()? {
            user.push((self.text()?, self.text()?));
        }
        Some(Properties { payload_format, expiry, content_type, response_topic, correlation, user })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::message::Retain;
    use crate::payload::Format;

    fn series() -> Arc<Series> {
        Arc::new(Series {
            topic: TopicName::new("g/d/p").unwrap(),
            format: Format::Json,
            unit: "V".into(),
            names: BTreeMap::new(),
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::Normal,
        })
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::Uint),
            (any::<i64>(), 0u32..20).prop_map(|(m, s)| Value::Decimal(Decimal::new(m, s))),
            (-1e300..1e300f64).prop_map(Value::Float),
            ".*".prop_map(|t| Value::Text(t.into())),
        ]
    }

    proptest! {
        #[test]
        fn an_own_value_comes_back_as_it_was(value in any_value(), wall: i64, mono: u64, run: u64) {
            let stamp = Stamp { mono_us: mono, wall_us: wall };
            for sample in [
                Sample::good(FORGOTTEN, value.clone(), stamp),
                Sample::stale(FORGOTTEN, value.clone(), Reason::Exception(7), stamp),
                Sample::bad(FORGOTTEN, Reason::Source, stamp),
                Sample::bad(FORGOTTEN, Reason::Paused, stamp),
            ] {
                let (message, taken) = decode(Some(&series()), &encode_own(&sample, run)).unwrap();
                prop_assert_eq!(taken, Taken { run, stamp });
                prop_assert_eq!(message.own.unwrap().sample, sample);
            }
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_but_never_a_panic(bytes: Vec<u8>) {
            let _ = decode(None, &bytes);
            let _ = decode_under(&TopicName::new("a").unwrap(), &bytes);
            let _ = decode(Some(&series()), &bytes);
        }
    }

    #[test]
    fn a_foreign_message_comes_back_with_its_properties() {
        let topic = TopicName::new("a/b").unwrap();
        let mut message = Message::plain(topic, Bytes::from_static(b"x\0y"), Qos::ExactlyOnce, Retain::Yes);
        message.class = Class::Alarm;
        message.properties = Some(Arc::new(Properties {
            payload_format: Some(1),
            expiry: Some(3600),
            content_type: Some("text/plain".into()),
            response_topic: Some("r".into()),
            correlation: Some(Bytes::from_static(b"\x01")),
            user: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
        }));
        let taken = Taken { run: 3, stamp: Stamp { mono_us: 5, wall_us: -1 } };
        assert_eq!(decode(None, &encode_foreign(&message, taken, TopicLies::Within)), Some((message.clone(), taken)));
        let beside = encode_foreign(&message, taken, TopicLies::Beside);
        assert_eq!(decode_under(&message.topic, &beside), Some((message, taken)));
    }

    #[test]
    fn a_measured_value_takes_some_twenty_bytes() {
        let stamp = Stamp { mono_us: 86_400_000_000, wall_us: 1_795_222_923_456_000 };
        let sample = Sample::good(FORGOTTEN, Value::Decimal("230.1".parse().unwrap()), stamp);
        assert!(encode_own(&sample, 9).len() <= 20);
    }
}
