//! The core as clients see it: bytes in through the decoder, bytes out, time by hand. No socket, no sleep.
//! Each trouble of the field has its case here; `model`, `shares` and `crowd` hold random lives against what the standard says in the
//! plainest way.

mod actor;
mod crowd;
mod disk;
mod model;
mod replay;
mod shares;
mod world;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use proptest::prelude::*;

use self::world::Hello;
use self::world::World;
use self::world::frame;
use self::world::publish;
use self::world::subscribe;
use self::world::text;
use super::access::Access;
use super::deliver::Local;
use super::local;
use super::packet::Packet;
use super::packet::decode::Decoder;
use crate::broker::core::Guest;
use crate::config::plant::AccessRule;
use crate::config::plant::Anonymous;
use crate::message::Message;
use crate::message::Origin;
use crate::message::Retain;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const DISCONNECT: u8 = 0xE0;

#[test]
fn a_message_reaches_who_subscribed_with_the_lower_qos() {
    for (published, subscribed, want) in [(0, 2, 0x30), (2, 0, 0x30), (2, 1, 0x32), (4, 2, 0x34), (4, 1, 0x32)] {
        let mut world = World::new(10);
        let (a, b) = (world.join(Hello::v4("a")), world.join(Hello::v5("b")));
        world.say(a, &subscribe("t/+", subscribed, false));
        world.heard(a);
        world.say(b, &publish(published, 1, "t/x", "1", true));
        assert_eq!(world.heard(a)[0].0, want, "published {published} subscribed {subscribed}");
    }
}

#[test]
fn a_message_of_qos_2_sent_twice_is_delivered_once() {
    let mut world = World::new(10);
    let (a, b) = (world.join(Hello::v4("a")), world.join(Hello::v4("b")));
    world.say(a, &subscribe("t", 0, false));
    world.heard(b);
    for _ in 0..2 {
        world.say(b, &publish(4, 7, "t", "1", false));
    }
    world.say(b, &frame(0x62, &[0, 7]));
    assert_eq!(world.heard(b), [(0x50, vec![0, 7]), (0x50, vec![0, 7]), (0x70, vec![0, 7])]);
    assert_eq!(world.messages(a, false).len(), 1);
    world.say(b, &publish(4, 7, "t", "2", false));
    assert_eq!(world.messages(a, false), ["t=2"], "after PUBREL the id is free again");
}

#[test]
fn a_takeover_keeps_the_queue_and_tells_the_old_connection() {
    let mut world = World::new(10);
    let first = world.join(Hello::v5("a").kept());
    world.say(first, &subscribe("t", 1, true));
    let b = world.join(Hello::v4("b"));
    world.say(b, &publish(2, 1, "t", "1", false));
    world.heard(first);
    let second = world.join(Hello::v5("a").kept());
    let goodbye = world.heard(first);
    assert_eq!((goodbye[0].0, goodbye[0].1[0]), (DISCONNECT, 0x8E));
    let heard = world.heard(second);
    assert_eq!(heard[0].1[0], 1, "session present");
    assert_eq!(heard[1].0, 0x3A, "what was in flight comes again, with DUP");
    world.core.gone(world.now, first);
    world.say(b, &publish(2, 2, "t", "2", false));
    assert_eq!(world.messages(second, true), ["t=2"], "the old socket's end does not touch the session");
}

#[test]
fn a_takeover_sends_the_old_will_unless_it_is_delayed_and_the_session_goes_on() {
    for (delay, clean, want) in [(0, false, 1), (5, false, 0), (5, true, 1)] {
        let mut world = World::new(10);
        let watcher = world.join(Hello::v4("w"));
        world.say(watcher, &subscribe("will", 0, false));
        let hello = Hello { will: Some(("will", delay)), ..Hello::v5("a").kept() };
        world.join(hello);
        world.join(Hello { clean, will: None, ..hello });
        assert_eq!(world.messages(watcher, false).len(), want, "delay {delay} clean {clean}");
        world.pass(10);
        assert!(world.messages(watcher, false).is_empty());
    }
}

#[test]
fn a_will_waits_for_its_delay_and_a_disconnect_discards_it() {
    let mut world = World::new(10);
    let watcher = world.join(Hello::v4("w"));
    world.say(watcher, &subscribe("will", 0, false));
    let hello = Hello { will: Some(("will", 5)), ..Hello::v5("a").kept() };
    let a = world.join(hello);
    world.core.gone(world.now, a);
    world.pass(4);
    assert!(world.messages(watcher, false).is_empty());
    world.pass(2);
    assert_eq!(world.messages(watcher, false), ["will=gone"]);
    for (goodbye, want) in [(&[0xE0, 0][..], 0), (&[0xE0, 1, 4], 1)] {
        let a = world.join(Hello { will: Some(("will", 0)), ..Hello::v5("a") });
        world.say(a, goodbye);
        world.core.gone(world.now, a);
        assert_eq!(world.messages(watcher, false).len(), want, "{goodbye:?}");
    }
}

#[test]
fn a_will_that_waits_goes_out_only_if_its_client_may_still_write_there() {
    for (write, want) in [("will", 1), ("else", 0)] {
        let mut world = World::new(10);
        let watcher = world.join(Hello::v4("w"));
        world.say(watcher, &subscribe("will", 0, false));
        let a = world.join(Hello { will: Some(("will", 5)), ..Hello::v5("a").kept() });
        world.core.gone(world.now, a);
        let filters = |text: &str| vec![TopicFilter::new(text).unwrap()];
        let rule = AccessRule { user: None, client: None, read: filters("#"), write: filters(write) };
        let access = Access::new(Anonymous::Always, Vec::new(), vec![rule]);
        let limits = world.core.limits();
        world.core.readmit(world.now, access, limits);
        world.pass(6);
        assert_eq!(world.messages(watcher, false).len(), want, "{write}");
    }
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let mut world = World::new(10);
    let a = world.join(Hello { keep_alive: 10, ..Hello::v5("a") });
    world.pass(14);
    world.say(a, &[0xC0, 0]);
    world.pass(14);
    assert!(!world.core.is_closing(a));
    world.pass(2);
    assert_eq!(world.heard(a).last().map(|(first, body)| (*first, body[0])), Some((DISCONNECT, 0x8D)));
}

#[test]
fn a_session_ends_when_it_expires_and_not_before() {
    for (seconds, present) in [(999, 1), (1001, 0)] {
        let mut world = World::new(10);
        let a = world.join(Hello::v5("a").kept());
        world.core.gone(world.now, a);
        world.pass(seconds);
        let a = world.join(Hello::v5("a").kept());
        assert_eq!(world.heard(a)[0].1[0], present, "{seconds}");
    }
}

#[test]
fn an_absent_client_gets_what_it_missed_in_order_and_the_newest_is_dropped_when_full() {
    let mut world = World::new(3);
    let a = world.join(Hello { clean: false, ..Hello::v4("a") });
    world.say(a, &subscribe("t", 1, false));
    world.say(a, &[0xE0, 0]);
    world.core.gone(world.now, a);
    let b = world.join(Hello::v4("b"));
    for n in 1..=5 {
        world.say(b, &publish(2, n, "t", &n.to_string(), false));
    }
    let a = world.join(Hello { clean: false, ..Hello::v4("a") });
    assert_eq!(world.messages(a, false), ["t=1", "t=2", "t=3"]);
    assert_eq!(world.core.status(&[]).dropped, 2);
}

#[test]
fn a_connected_client_that_does_not_acknowledge_is_closed_with_quota_exceeded_and_nobody_else_suffers() {
    let mut world = World::new(5);
    let slow = world.join(Hello { receive_maximum: 2, ..Hello::v5("slow") });
    let quick = world.join(Hello::v4("quick"));
    for (key, v5) in [(slow, true), (quick, false)] {
        world.say(key, &subscribe("t", u8::from(v5), v5));
    }
    let b = world.join(Hello::v4("b"));
    for n in 1..=20 {
        world.say(b, &publish(2, n, "t", "x", false));
    }
    let heard = world.heard(slow);
    assert_eq!(heard.iter().filter(|(first, _)| first >> 4 == 3).count(), 2, "its receive maximum holds");
    assert_eq!(heard.last().map(|(first, body)| (*first, body[0])), Some((DISCONNECT, 0x97)));
    assert_eq!(world.messages(quick, false).len(), 20);
}

#[test]
fn a_client_that_does_not_read_costs_bounded_bytes() {
    let mut world = World::new(100);
    let stuck = world.join(Hello::v4("stuck"));
    world.say(stuck, &subscribe("t", 0, false));
    let b = world.join(Hello::v4("b"));
    for _ in 0..2000 {
        world.say(b, &publish(0, 0, "t", &"x".repeat(1000), false));
    }
    let output = world.core.take_output(stuck);
    let bytes: usize = output.chunks.iter().map(Bytes::len).sum();
    assert!(bytes < super::conn::WRITE_AHEAD + 4096, "{bytes}");
    assert!(world.core.status(&[]).dropped > 1800);
}

#[test]
fn retained_messages_come_in_full_however_many() {
    for options in [0, 1] {
        let mut world = World::new(10);
        let b = world.join(Hello::v4("b"));
        for n in 0..5000 {
            world.say(b, &publish(1, 0, &format!("r/{n}"), "some value of some length to fill the outbox", false));
        }
        let a = world.join(Hello::v4("a"));
        world.say(a, &subscribe("r/#", options, false));
        let mut count = 0;
        loop {
            let frames = world.heard(a);
            let publishes: Vec<_> = frames.iter().filter(|(first, _)| first >> 4 == 3).collect();
            if publishes.is_empty() {
                break;
            }
            count += publishes.len();
            for (first, body) in publishes {
                assert_eq!(first & 1, 1, "flagged retained");
                if first & 6 != 0 {
                    world.say(a, &frame(0x40, &[body[8 - 6 + usize::from(body[1])], body[3 + usize::from(body[1])]]));
                }
            }
        }
        assert_eq!(count, 5000, "QoS {options}");
        assert!(!world.core.is_closing(a));
    }
}

#[test]
fn retained_messages_of_a_filter_that_was_given_back_do_not_come() {
    let mut world = World::new(10);
    let b = world.join(Hello::v4("b"));
    for n in 0..50 {
        world.say(b, &publish(1, 0, &format!("r/{n}"), "x", false));
        world.say(b, &publish(3, n + 1, &format!("r/{n}"), "x", false));
    }
    let a = world.join(Hello { receive_maximum: 1, ..Hello::v5("a") });
    world.say(a, &subscribe("r/#", 1, true));
    assert_eq!(world.messages(a, true).len(), 1);
    world.say(a, &frame(0xA2, &[&[0, 1, 0][..], &text("r/#")].concat()));
    world.say(a, &frame(0x40, &[0, 1]));
    assert!(world.messages(a, true).is_empty());
}

#[test]
fn retain_handling_and_retain_as_published_are_honoured() {
    let mut world = World::new(10);
    let b = world.join(Hello::v4("b"));
    world.say(b, &publish(1, 0, "r", "1", false));
    for (options, again) in [(0x00, 2), (0x10, 1), (0x20, 0)] {
        let a = world.join(Hello::v5("a"));
        world.say(a, &subscribe("r", options, true));
        world.say(a, &subscribe("r", options, true));
        assert_eq!(world.messages(a, true).len(), again, "{options:#x}");
    }
    let (plain, rap) = (world.join(Hello::v5("p")), world.join(Hello::v5("q")));
    world.say(plain, &subscribe("r", 0x20, true));
    world.say(rap, &subscribe("r", 0x28, true));
    world.say(b, &publish(1, 0, "r", "2", false));
    assert_eq!(world.heard(plain).last().unwrap().0, 0x30);
    assert_eq!(world.heard(rap).last().unwrap().0, 0x31);
}

#[test]
fn no_local_keeps_own_messages_away() {
    let mut world = World::new(10);
    let a = world.join(Hello::v5("a"));
    world.say(a, &subscribe("t", 4, true));
    world.say(a, &publish(0, 0, "t", "1", true));
    assert!(world.messages(a, true).is_empty());
}

#[test]
fn root_wildcards_do_not_see_sys_and_nobody_publishes_there() {
    let mut world = World::new(10);
    let (a, b) = (world.join(Hello::v4("a")), world.join(Hello::v5("b")));
    world.say(a, &subscribe("#", 0, false));
    world.core.publish_sys(world.now);
    assert!(world.messages(a, false).is_empty());
    world.say(a, &subscribe("$SYS/#", 0, false));
    assert_eq!(world.messages(a, false).len(), 51);
    world.heard(b);
    world.say(b, &publish(2, 1, "$SYS/broker/uptime", "x", true));
    assert_eq!(world.heard(b), [(0x40, vec![0, 1, 0x87])]);
    assert!(world.messages(a, false).is_empty());
}

#[test]
fn a_bridge_of_mosquitto_with_its_will_under_sys_comes_in_and_the_will_goes_nowhere() {
    let mut world = World::new(10);
    let watcher = world.join(Hello::v4("w"));
    world.say(watcher, &subscribe("$SYS/broker/connection/#", 0, false));
    let bridge = world.join(Hello { will: Some(("$SYS/broker/connection/x/state", 0)), ..Hello::v5("bridge") });
    world.core.gone(world.now, bridge);
    assert!(world.messages(watcher, false).is_empty());
}

#[test]
fn topic_aliases_work_both_ways_and_a_wrong_one_closes() {
    let mut world = World::new(10);
    let (a, b) = (world.join(Hello { aliases: 1, ..Hello::v5("a") }), world.join(Hello::v5("b")));
    world.say(a, &subscribe("t", 0, true));
    world.heard(a);
    world.say(b, &frame(0x30, &[&text("t")[..], &[3, 0x23, 0, 1], b"1"].concat()));
    world.say(b, &frame(0x30, &[0, 0, 3, 0x23, 0, 1, b'2']));
    let heard = world.heard(a);
    assert_eq!(heard[0].1, [&text("t")[..], &[3, 0x23, 0, 1], b"1"].concat());
    assert_eq!(heard[1].1, [0, 0, 3, 0x23, 0, 1, b'2']);
    world.say(b, &frame(0x30, &[0, 0, 3, 0x23, 0, 17, b'2']));
    assert_eq!(world.heard(b).last().map(|(first, body)| (*first, body[0])), Some((DISCONNECT, 0x94)));
}

#[test]
fn a_message_expires_in_the_queue_and_what_is_left_is_told() {
    let mut world = World::new(10);
    let a = world.join(Hello::v5("a").kept());
    world.say(a, &subscribe("t", 1, true));
    world.core.gone(world.now, a);
    let b = world.join(Hello::v5("b"));
    for (id, seconds) in [(1, 5), (2, 60)] {
        let body = [&text("t")[..], &[0, id, 5, 0x02, 0, 0, 0, seconds], b"x"].concat();
        world.say(b, &frame(0x32, &body));
    }
    world.now += Duration::from_secs(20);
    let a = world.join(Hello::v5("a").kept());
    let publishes: Vec<_> = world.heard(a).into_iter().filter(|(first, _)| first >> 4 == 3).collect();
    assert_eq!(publishes.len(), 1);
    assert_eq!(publishes[0].1[5..11], [5, 0x02, 0, 0, 0, 40]);
}

#[test]
fn malformed_and_forbidden_packets_get_their_own_reason() {
    let nul = [&text("a\0b")[..], &[0]].concat();
    let cases: [(&str, Vec<u8>, u8); 14] = [
        ("MQTT-3.3.1-4 QoS 3", vec![0x36, 4, 0, 1, b't', 0], 0x81),
        ("MQTT-3.3.1-2 DUP with QoS 0", vec![0x38, 4, 0, 1, b't', 0], 0x81),
        ("MQTT-3.3.2-2 wildcard in a topic name", frame(0x30, &[&text("a/#")[..], &[0]].concat()), 0x90),
        ("MQTT-1.5.4-2 NUL in text", frame(0x30, &nul), 0x81),
        ("MQTT-2.2.1-2 packet id 0", vec![0x32, 6, 0, 1, b't', 0, 0, 0], 0x82),
        ("MQTT-3.1.0-2 CONNECT twice", Hello::v5("a").bytes(), 0x82),
        ("MQTT-3.8.1-1 reserved flags of SUBSCRIBE", vec![0x80, 6, 0, 1, 0, 0, 1, b't'], 0x81),
        ("MQTT-3.8.3-2 SUBSCRIBE without filter", vec![0x82, 3, 0, 1, 0], 0x82),
        ("MQTT-3.8.3-4 no local on a shared subscription", subscribe("$share/g/t", 4, true), 0x82),
        ("MQTT-3.8.3-5 reserved subscription options", subscribe("t", 0x40, true), 0x81),
        ("MQTT-3.3.2-8 topic alias 0", vec![0x30, 7, 0, 1, b't', 3, 0x23, 0, 0], 0x94),
        ("2.2.2.2 a property twice", vec![0x30, 8, 0, 1, b't', 4, 1, 0, 1, 0], 0x82),
        ("2.2.2.2 a property of another packet", vec![0x30, 6, 0, 1, b't', 2, 0x19, 0], 0x81),
        ("MQTT-3.1.2-24 larger than the maximum", vec![0x30, 0xFF, 0xFF, 0x7F], 0x95),
    ];
    for (name, bytes, reason) in cases {
        let mut world = World::new(10);
        let a = world.join(Hello::v5("a"));
        world.heard(a);
        world.say(a, &bytes);
        let last = world.heard(a).last().map(|(first, body)| (*first, body[0]));
        assert_eq!(last, Some((DISCONNECT, reason)), "{name}");
    }
}

#[test]
fn invalid_filters_are_refused_one_by_one() {
    let mut world = World::new(10);
    let a = world.join(Hello::v5("a"));
    world.heard(a);
    let body = [&[0, 1, 0][..], &text("a/#/b"), &[0], &text("ok"), &[1], &text("$share//x"), &[0]].concat();
    world.say(a, &frame(0x82, &body));
    assert_eq!(world.heard(a), [(0x90, vec![0, 1, 0, 0x8F, 1, 0x8F])]);
}

#[test]
fn shared_subscribers_divide_the_messages_and_get_no_retained_ones() {
    let mut world = World::new(10);
    let (a, b, c) = (world.join(Hello::v5("a")), world.join(Hello::v5("b")), world.join(Hello::v4("c")));
    world.say(c, &publish(1, 0, "t", "old", false));
    for key in [a, b] {
        world.say(key, &subscribe("$share/g/t", 0, true));
        assert!(world.messages(key, true).is_empty());
    }
    for _ in 0..6 {
        world.say(c, &publish(0, 0, "t", "x", false));
    }
    assert_eq!((world.messages(a, true).len(), world.messages(b, true).len()), (3, 3));
}

fn own(topic: &str, payload: &str) -> Message {
    Message::plain(TopicName::new(topic).unwrap(), Bytes::from(payload.to_owned()), Qos::AtLeastOnce, Retain::Yes)
}

#[tokio::test]
async fn a_local_subscriber_gets_retained_then_live_and_not_its_own_and_counts_what_it_missed() {
    let mut world = World::new(10);
    world.core.publish_local(world.now, "", vec![own("a/1", "x"), own("a/2", "x"), own("b", "x")]);
    let (inbox, mut subscription) = local::inbox(2);
    let filters = vec![(TopicFilter::new("a/#").unwrap(), Qos::AtLeastOnce)];
    world.core.subscribe_local(world.now, Local { name: "cloud".into(), inbox, filters });
    let first = subscription.recv().await.unwrap();
    assert_eq!(first.iter().map(|m| (m.topic.as_str(), m.retain)).collect::<Vec<_>>(), [("a/1", true), ("a/2", true)]);
    world.core.publish_local(world.now, "cloud", vec![own("a/3", "mine")]);
    let live = own("a/3", "x");
    world.core.publish_local(world.now, "", vec![live.clone(), live.clone(), live.clone()]);
    let batch = subscription.recv().await.unwrap();
    assert_eq!(batch.len(), 2);
    assert_eq!(batch[0].payload.as_ptr(), live.payload.as_ptr(), "the payload is shared, not copied");
    assert_eq!(subscription.overrun(), 1);
    drop(world);
    assert!(subscription.recv().await.is_none());
}

#[tokio::test]
async fn a_local_subscriber_is_told_who_sent_what_also_by_a_last_will() {
    let mut world = World::new(10);
    let (inbox, mut subscription) = local::inbox(10);
    let filters = vec![(TopicFilter::new("#").unwrap(), Qos::AtLeastOnce)];
    world.core.subscribe_local(world.now, Local { name: "in".into(), inbox, filters });
    let guest = Guest { user: Some("otto".into()), ..Guest::nobody(([127, 0, 0, 2], 9).into(), world.core.limits()) };
    let key = world.join_as(Hello { will: Some(("w", 0)), ..Hello::v5("hmi") }, guest);
    world.say(key, &publish(0, 0, "a", "x", true));
    world.core.gone(world.now, key);
    world.core.publish_local(world.now, "", vec![own("a", "x")]);
    let got: Vec<_> = subscription.recv().await.unwrap().into_iter().map(|m| m.from).collect();
    let hmi = Origin::Client { client_id: "hmi".into(), user: Some("otto".into()), peer: ([127, 0, 0, 2], 9).into() };
    let hmi = Some(Arc::new(hmi));
    assert_eq!(got, [hmi.clone(), hmi, None]);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_are_understood_alike_and_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cut in 1_usize..50,
    ) {
        let hello = Hello::v5("a").bytes();
        let all = [&hello[..], &bytes].concat();
        let read = |pieces: &[&[u8]]| {
            let (mut decoder, mut buffer, mut seen) = (Decoder::new(4096), BytesMut::new(), Vec::new());
            for piece in pieces {
                buffer.extend_from_slice(piece);
                loop {
                    match decoder.next(&mut buffer) {
                        Ok(Some(packet)) => seen.push(Ok(packet)),
                        Ok(None) => break,
                        Err(fault) => { seen.push(Err(fault)); return seen; }
                    }
                }
            }
            seen
        };
        prop_assert_eq!(read(&[&all]), read(&all.chunks(cut).collect::<Vec<_>>()));
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    use super::packet::encode;
    let properties = crate::message::Properties {
        payload_format: Some(1),
        expiry: Some(77),
        content_type: Some("text/plain".into()),
        response_topic: Some("r/t".into()),
        correlation: Some(Bytes::from_static(b"\x00\x01")),
        user: vec![("b".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), "3".into())],
    };
    for size in [0, 10, 200, 9_000, 70_000] {
        let payload = Bytes::from(vec![7; size]);
        let mut message = Message::plain(TopicName::new("a/b").unwrap(), payload, Qos::ExactlyOnce, Retain::Yes);
        message.properties = Some(Arc::new(properties.clone()));
        let mut out = encode::Outbox::default();
        let delivery = encode::Delivery {
            message: &message,
            id: Some(300),
            qos: Qos::ExactlyOnce,
            dup: true,
            retain: true,
            identifiers: &[],
            expiry: Some(77),
            alias: encode::Alias::New(3),
        };
        let length = encode::publish(&mut out, super::packet::Version::V5, &delivery).unwrap();
        assert!(encode::at_most(&message) >= length);
        assert_eq!(out.len(), length);
        let mut bytes = BytesMut::from(&*Hello::v5("a").bytes());
        out.take().iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        let mut decoder = Decoder::new(100_000);
        decoder.next(&mut bytes).unwrap();
        let Ok(Some(Packet::Publish(back))) = decoder.next(&mut bytes) else { panic!() };
        assert_eq!(
            (back.dup, back.retain, back.qos, back.id, back.alias),
            (true, true, Qos::ExactlyOnce, Some(300), Some(3))
        );
        assert_eq!((back.topic.as_ref(), &back.payload), (Some(&message.topic), &message.payload));
        assert_eq!(back.properties, message.properties);
        let mut small = encode::Outbox::limited(Some(length as u32 - 1));
        assert_eq!(encode::publish(&mut small, super::packet::Version::V5, &delivery), None);
        assert!(small.is_empty());
    }
}
