//! Valid-looking packets out of decisions: names, topics and identifiers are few, so that clients meet, take each other over, and
//! acknowledge what is really in flight.

use std::sync::Arc;

use bytes::Bytes;

use crate::bench::mqtt::choices::Choices;
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
use crate::broker::packet::Wanted;
use crate::broker::packet::Will;
use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Client ids; the empty one asks for an assigned one.
pub const NAMES: [&str; 4] = ["", "a", "b", "c"];
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "b", "ä/a/x", "well/x", "$SYS/x", "a//"];
const FILTERS: [&str; 14] = [
    "a",
    "a/b",
    "+",
    "#",
    "a/#",
    "+/b",
    "a/+/c",
    "well/x",
    "$SYS/#",
    "a/+#",
    "$share/g/a/#",
    "$share/h/#",
    "$share//a",
    "+/+/#",
];

/// A topic name; some may not be written to by everyone.
pub fn topic(choices: &mut Choices<'_>) -> TopicName {
    TopicName::new(choices.one_of(&TOPICS)).expect("a topic name")
}

/// One under which only such packets are published.
pub fn open_topic(choices: &mut Choices<'_>) -> TopicName {
    TopicName::new(choices.one_of(&TOPICS[..5])).expect("a topic name")
}

fn qos(choices: &mut Choices<'_>) -> Qos {
    Qos::try_from(choices.below(3) as u8).expect("below 3")
}

fn seconds(choices: &mut Choices<'_>) -> u32 {
    choices.one_of(&[0, 1, 5, 60, 3600, u32::MAX])
}

/// A CONNECT with every field it may have.
pub fn connect(choices: &mut Choices<'_>) -> Connect {
    let version = choices.one_of(&[Version::V5, Version::V311, Version::V31]);
    let clean_start = choices.is(2);
    Connect {
        version,
        clean_start,
        keep_alive: choices.one_of(&[0, 1, 10, 5000]),
        client_id: choices.one_of(&NAMES).to_owned(),
        will: choices.is(3).then(|| will(choices)),
        username: choices.is(4).then(|| choices.one_of(&["u", "v"]).to_owned()),
        password: None,
        session_expiry: seconds(choices),
        receive_maximum: choices.one_of(&[1, 2, 20, u16::MAX]),
        packet_maximum: choices.is(3).then(|| 1 + u32::from(choices.short()) % 300),
        alias_maximum: choices.one_of(&[0, 1, 100]),
        problem_information: choices.is(2),
        auth_method: choices.is(20),
    }
}

fn will(choices: &mut Choices<'_>) -> Will {
    Will { message: message(choices), delay: seconds(choices) }
}

fn message(choices: &mut Choices<'_>) -> Message {
    let (topic, qos, retain) = (topic(choices), qos(choices), choices.is(2));
    let payload = payload(choices);
    Message {
        topic,
        payload,
        qos,
        retain,
        properties: properties(choices),
        class: Class::Normal,
        own: None,
        from: None,
    }
}

fn payload(choices: &mut Choices<'_>) -> Bytes {
    Bytes::from(vec![b'p'; choices.one_of(&[0, 1, 1, 200, 200, 200, 3000, 20_000])])
}

fn properties(choices: &mut Choices<'_>) -> Option<Arc<Properties>> {
    if !choices.is(4) {
        return None;
    }
    let text = |one: bool| one.then(|| Arc::from("text"));
    let (expiry, seconds) = (choices.is(2), seconds(choices));
    Some(Arc::new(Properties {
        payload_format: choices.is(2).then_some(1),
        expiry: expiry.then_some(seconds),
        content_type: text(choices.is(3)),
        response_topic: text(choices.is(3)),
        correlation: choices.is(3).then(|| Bytes::copy_from_slice(choices.some())),
        user: vec![("k".into(), "v".into()); choices.below(4)],
    }))
}

/// Any other packet.
pub fn any(choices: &mut Choices<'_>, version: Version) -> Packet {
    match choices.below(12) {
        0..4 => Packet::Publish(publish(choices, version)),
        4 | 5 => Packet::Subscribe(subscribe(choices)),
        6 => Packet::Unsubscribe(Unsubscribe { id: id(choices), filters: vec![choices.one_of(&FILTERS).to_owned()] }),
        7 => Packet::PubAck(ack(choices)),
        8 => Packet::PubRec(ack(choices)),
        9 => choices.one_of(&[Packet::PubRel as fn(Ack) -> Packet, Packet::PubComp])(ack(choices)),
        10 => Packet::PingReq,
        _ => {
            let code = Code(choices.one_of(&[0, 4, 0x81, 0x99]));
            let session_expiry = choices.is(2).then(|| seconds(choices));
            Packet::Disconnect(Disconnect { code, session_expiry })
        }
    }
}

/// The first ones are what the broker begins with.
fn id(choices: &mut Choices<'_>) -> u16 {
    1 + u16::from(choices.byte())
}

fn ack(choices: &mut Choices<'_>) -> Ack {
    Ack { id: id(choices), code: Code(choices.one_of(&[0, 0, 0, 0x10, 0x80, 0x92])) }
}

fn publish(choices: &mut Choices<'_>, version: Version) -> Publish {
    let qos = qos(choices);
    let alias = (version.is_v5() && choices.is(4)).then(|| choices.one_of(&[1, 2, 16, 17]));
    let named = alias.is_none() || choices.is(2);
    Publish {
        dup: qos != Qos::AtMostOnce && choices.is(2),
        qos,
        retain: choices.is(3),
        id: (qos != Qos::AtMostOnce).then(|| id(choices)),
        topic: named.then(|| topic(choices)),
        alias,
        payload: payload(choices),
        properties: properties(choices),
    }
}

fn subscribe(choices: &mut Choices<'_>) -> Subscribe {
    let id = id(choices);
    let identifier = choices.is(2).then(|| 1 + u32::from(choices.byte()));
    let wanted = |choices: &mut Choices<'_>| {
        let options = Options {
            qos: qos(choices),
            no_local: choices.is(4),
            retain_as_published: choices.is(2),
            retain_handling: choices.one_of(&[RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never]),
        };
        Wanted { text: choices.one_of(&FILTERS).into(), filter: None, group: None, options }
    };
    let filters = (0..1 + choices.below(4)).map(|_| wanted(choices)).collect();
    Subscribe { id, identifier, filters }
}
