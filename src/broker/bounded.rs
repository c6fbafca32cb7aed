//! What one client can make the broker keep, case by case: each was a way to make memory grow without limit, or could have
//! become one. The connection's task runs over a pipe in memory under a paused clock, so "it waits" needs no waiting.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::access::Access;
use super::client;
use super::core::Core;
use super::core::Guest;
use super::deliver::Local;
use super::hub::Hub;
use super::keep::Saved;
use super::local;
use super::packet::Options;
use super::packet::Packet;
use super::packet::decode::Decoder;
use super::queue::Bounds;
use super::queue::Depth;
use super::retained::Retained;
use super::router::Router;
use super::router::Subscriber;
use super::router::Subscription;
use super::session::Session;
use super::session::Subscribed;
use super::stored::Stored;
use super::tls::Certified;
use crate::config::plant::Anonymous;
use crate::config::plant::Limits;
use crate::message::Message;
use crate::message::Properties;
use crate::message::Retain;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// With a paused clock this is over as soon as nobody can go on.
const IDLE: Duration = Duration::from_secs(1);

fn core() -> Core {
    let access = Access::new(Anonymous::Always, Vec::new(), Vec::new());
    Core::new(Limits { clients: 10, packet: 4096, queue: 100, ..Limits::default() }, access, Instant::now())
}

/// A client that has just been let in.
async fn join(hub: &Rc<Hub>) -> DuplexStream {
    let (mut near, far) = tokio::io::duplex(1024);
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let limits = hub.with(|core, _| core.limits());
    let until = tokio::time::Instant::now() + IDLE;
    let arrival = client::Arrival { peer, door: 0, limits, until, certified: Certified::No };
    tokio::task::spawn_local(client::serve(far, arrival, Rc::clone(hub)));
    near.write_all(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c").await.unwrap();
    let mut answer = [0; 4];
    near.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    near
}

/// How many bytes of `packet` again and again are taken before the broker stops reading.
async fn taken(client: &mut DuplexStream, packet: &[u8], enough: usize) -> usize {
    let chunk = packet.repeat(1024 / packet.len());
    let mut taken = 0;
    while taken < enough {
        match timeout(IDLE, client.write_all(&chunk)).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        taken += chunk.len();
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_and_never_reads_the_answers_is_not_read_any_more() {
    let work = async {
        for packet in [&b"\xC0\0"[..], b"\x32\x05\0\x01t\0\x01"] {
            let hub = Hub::new(core());
            let mut client = join(&hub).await;
            let enough = 16 * 1024 * 1024;
            let taken = taken(&mut client, packet, enough).await;
            assert!(taken > 512 * 1024, "it is heard for a while: {taken}");
            assert!(taken < 4 * 1024 * 1024, "{taken} bytes of {packet:02x?} were answered into memory");
        }
    };
    LocalSet::new().run_until(work).await;
}

fn subscribe(session: &mut Session, text: &str) {
    let filter = TopicFilter::new(text).unwrap();
    session.subscribe(text.into(), Subscribed { filter, group: None, identifier: None, options: Options::default() });
}

fn told(session: &mut Session) -> Vec<(Arc<str>, bool)> {
    let mut told = session.changes(Depth::All).subscriptions;
    told.sort_by(|a, b| a.0.cmp(&b.0));
    told.into_iter().map(|(text, subscribed)| (text, subscribed.is_some())).collect()
}

#[test]
fn what_is_subscribed_and_given_back_between_two_saves_leaves_no_trace() {
    // A client that waits for each answer on a topic of its own does this all day, and a clean session is never saved.
    let mut session = Session::new(Bounds { messages: 10, bytes: 1000 });
    for n in 0..1000 {
        subscribe(&mut session, &format!("answers/{n}"));
        session.unsubscribe(&format!("answers/{n}"));
    }
    assert_eq!(told(&mut session), []);
}

#[test]
fn what_the_disk_had_is_told_when_it_goes_and_when_it_comes_back() {
    let mut session = Session::new(Bounds { messages: 10, bytes: 1000 });
    for text in ["a", "b", "c"] {
        subscribe(&mut session, text);
    }
    let all = |is| ["a", "b", "c"].map(|text| (text.into(), is)).to_vec();
    assert_eq!(told(&mut session), all(true));
    for text in ["a", "b", "c"] {
        session.unsubscribe(text);
    }
    subscribe(&mut session, "a");
    subscribe(&mut session, "b");
    session.unsubscribe("b");
    assert_eq!(told(&mut session), [("a".into(), true), ("b".into(), false), ("c".into(), false)]);
}

/// `expiry` in seconds; 0 is for ever.
fn retained(topic: &str, payload: &'static str, born: Instant, expiry: u32) -> Arc<Stored> {
    let topic = TopicName::new(topic).unwrap();
    let mut message = Message::plain(topic, Bytes::from_static(payload.as_bytes()), Qos::AtMostOnce, Retain::Yes);
    let expiry = (expiry > 0).then_some(expiry);
    message.properties = expiry.map(|_| Arc::new(Properties { expiry, ..Properties::default() }));
    Arc::new(Stored { message, born })
}

#[test]
fn retained_topics_of_many_levels_count_for_what_they_cost() {
    // 400 bytes on the wire, some 130 kB in the tree.
    let mut kept = Retained::default();
    let deep = "/a".repeat(198);
    let now = Instant::now();
    let taken = (0..10_000).take_while(|n| kept.set(&retained(&format!("{n}{deep}"), "x", now, 0))).count();
    assert!((100..1000).contains(&taken), "{taken} of them were kept");
    assert!(kept.set(&retained(&format!("0{deep}"), "y", now, 0)), "one that is kept already finds its place");
    assert_eq!(kept.len(), taken);
}

#[test]
fn a_hundred_thousand_small_values_find_room() {
    let (mut kept, now) = (Retained::default(), Instant::now());
    let topics = (0..100_000).map(|n| format!("plant/line-{}/meter-{}/value-{}", n / 10_000, n / 100, n % 100));
    for topic in topics {
        assert!(kept.set(&retained(&topic, "{\"value\":230.1,\"quality\":\"good\"}", now, 0)));
    }
    assert_eq!(kept.len(), 100_000);
}

proptest! {
    #[test]
    fn what_was_retained_and_has_gone_costs_nothing_any_more(
        topics in proptest::collection::vec(("[abc](/[abc]?){0,3}", 0_u32..3), 1..60),
    ) {
        let (mut kept, now) = (Retained::default(), Instant::now());
        for (topic, expiry) in &topics {
            kept.set(&retained(topic, "x", now, *expiry));
        }
        kept.sweep(now + Duration::from_secs(1));
        for (topic, _) in topics.iter().skip(topics.len() / 2).chain(&topics) {
            kept.set(&retained(topic, "", now, 0));
        }
        prop_assert_eq!((kept.len(), kept.bytes()), (0, 0));
    }
}

#[test]
fn long_names_kept_and_cleared_are_not_remembered_for_the_disk_without_limit() {
    let (mut core, now) = (core(), Instant::now());
    core.restore(now, Saved::default());
    let long = "x".repeat(60_000);
    let publish = |core: &mut Core, n: usize, payload: &'static str| {
        let message = retained(&format!("{n}/{long}"), payload, now, 0).message.clone();
        core.publish_local(now, "", [message]);
    };
    for n in 0..1000 {
        publish(&mut core, n, "x");
        publish(&mut core, n, "");
    }
    let batch = core.save(now, Depth::All).unwrap();
    assert!(batch.whole, "60 MB of names were worth less than writing all that is kept");
    assert!(batch.retained.len() < 300, "{} names are remembered", batch.retained.len());
    for n in 0..1000 {
        publish(&mut core, n, "");
    }
    assert!(core.save(now, Depth::All).is_none(), "clearing what is not there changes nothing");
}

/// Packets of one client without a socket; what it is told.
fn converse(core: &mut Core, bytes: &[u8]) -> Vec<u8> {
    let key = join_core(core, bytes);
    core.take_output(key).chunks.into_iter().flatten().collect()
}

/// Packets of one client without a socket; its connection.
fn join_core(core: &mut Core, bytes: &[u8]) -> usize {
    let (mut decoder, mut buffer, now) = (Decoder::new(1 << 20), BytesMut::from(bytes), Instant::now());
    let mut key = None;
    while let Some(packet) = decoder.next(&mut buffer).unwrap() {
        match (packet, key) {
            (Packet::Connect(connect), None) => {
                let guest = Guest::nobody("127.0.0.1:1".parse().unwrap(), core.limits());
                key = Some(core.connect(now, *connect, guest).unwrap());
            }
            (packet, key) => core.packet(now, key.unwrap(), packet),
        }
    }
    key.unwrap()
}

#[test]
fn filters_of_many_levels_count_for_what_they_cost_and_are_refused_when_the_tree_is_full() {
    let mut core = core();
    let mut said = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c".to_vec();
    for n in 0..2000 {
        let filter = format!("{n:04}{}", "/a".repeat(199));
        let body = [&[0, 1][..], &(filter.len() as u16).to_be_bytes(), filter.as_bytes(), &[0]].concat();
        said.extend([0x82, (body.len() & 0x7F) as u8 | 0x80, (body.len() >> 7) as u8]);
        said.extend(body);
    }
    let told = converse(&mut core, &said);
    let refused = told[4..].chunks(5).filter(|suback| suback[4] == 0x80).count();
    assert!((1000..1990).contains(&refused), "{refused} of 2000 filters of 140 kB each were refused");
}

proptest! {
    #[test]
    fn filters_that_were_given_back_cost_nothing_any_more(
        filters in proptest::collection::vec(("[ab+](/[ab+]?){0,3}(/#)?", proptest::option::of("[gh]"), 0_usize..2), 1..40),
    ) {
        let mut router = Router::default();
        let valid = filters.iter().filter_map(|(text, group, who)| {
            Some((TopicFilter::new(text.as_str()).ok()?, group.as_deref().map(Arc::from), Subscriber::Session(*who)))
        });
        for (filter, group, who) in valid.clone() {
            router.insert(&filter, group.as_ref(), Subscription { who, options: Options::default(), identifier: None });
        }
        for (filter, group, who) in valid {
            router.remove(&filter, group.as_ref(), who);
        }
        prop_assert_eq!((router.len(), router.bytes()), (0, 0));
    }
}

#[test]
fn what_waits_for_all_who_are_away_together_is_bounded() {
    let access = Access::new(Anonymous::Always, Vec::new(), Vec::new());
    let mut core =
        Core::new(Limits { clients: 100, packet: 1 << 20, queue: 1000, ..Limits::default() }, access, Instant::now());
    let now = Instant::now();
    for n in b'A'..b'A' + 40 {
        // 3.1.1, kept session, subscribes to everything at QoS 1, and leaves.
        let said = [&b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01"[..], &[n], b"\x82\x06\0\x01\0\x01#\x01\xE0\0"].concat();
        converse(&mut core, &said);
    }
    let payload = Bytes::from(vec![b'x'; 40_000]);
    let publish = |core: &mut Core, count: usize| {
        let topic = TopicName::new("t").unwrap();
        let message = Message::plain(topic, payload.clone(), Qos::AtLeastOnce, Retain::No);
        core.publish_local(now, "", vec![message; count]);
        core.tick(now);
        core.away_bytes
    };
    let full = publish(&mut core, 90);
    assert!((60 << 20..66 << 20).contains(&full), "40 queues of 3.6 MB would be 144 MB: {full}");
    assert_eq!(publish(&mut core, 90), full, "no more is taken");
    let back = converse(&mut core, b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01a");
    assert_eq!(back[..4], [0x20, 2, 1, 0], "the session is there");
    core.tick(now);
    assert!(core.away_bytes < full, "what waits for one who is back is its own affair");
}

#[tokio::test]
async fn the_payload_of_an_own_value_is_never_copied_on_its_way_to_whoever_keeps_it() {
    let mut core = Core::new(
        Limits { clients: 10, packet: 1 << 20, queue: 100, ..Limits::default() },
        core().access().clone(),
        Instant::now(),
    );
    let now = Instant::now();
    let mut boxes = Vec::new();
    for name in ["cloud", "web", "command"] {
        let (inbox, subscription) = local::inbox(10);
        let filters = vec![(TopicFilter::new("#").unwrap(), Qos::AtLeastOnce)];
        core.subscribe_local(now, Local { name: name.into(), inbox, filters });
        boxes.push(subscription);
    }
    for n in [b'a', b'b'] {
        let said = [&b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01"[..], &[n], b"\x82\x06\0\x01\0\x01#\x01\xE0\0"].concat();
        converse(&mut core, &said);
    }
    let message = |bytes: usize| {
        let (topic, payload) = (TopicName::new("plant/meter/power").unwrap(), Bytes::from(vec![b'x'; bytes]));
        Message::plain(topic, payload, Qos::AtLeastOnce, Retain::Yes)
    };
    let small = message(200);
    let place = small.payload.as_ptr();
    core.publish_local(now, "", [small]);
    for subscription in &mut boxes {
        assert_eq!(subscription.recv().await.unwrap()[0].payload.as_ptr(), place, "a part of this process");
    }
    let kept = core.retained.get(&TopicName::new("plant/meter/power").unwrap()).unwrap();
    assert_eq!(kept.message.payload.as_ptr(), place, "the retained message");
    for seat in core.seats.iter_mut().map(|seat| &mut seat.session) {
        let waiting = seat.changes(Depth::All).put;
        let payload = waiting[0].item.as_ref().map(|item| item.stored.message.payload.as_ptr());
        assert_eq!(payload, Some(place), "the queue of a client that is away");
    }
    // To a client that is there a small payload is copied once, into what its socket gets; a large one goes there as it is.
    let key = join_core(&mut core, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c\x82\x06\0\x01\0\x01#\0");
    core.take_output(key);
    let large = message(10_000);
    let place = large.payload.as_ptr();
    core.publish_local(now, "", [large]);
    let chunks = core.take_output(key).chunks;
    assert!(chunks.iter().any(|chunk| chunk.as_ptr() == place), "what a socket is given");
}

#[test]
fn filters_that_have_to_look_through_all_retained_topics_do_so_turn_by_turn() {
    let (mut core, now) = (core(), Instant::now());
    let topics = (0..20_000).map(|n| format!("p/{}/{n}", n / 100));
    let messages: Vec<Message> = topics.map(|topic| retained(&topic, "x", now, 0).message.clone()).collect();
    core.publish_local(now, "", messages);
    // Nothing fits the first, the last topic of all the second.
    let said =
        [&b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c"[..], b"\x82\x1A\0\x01\0\x09p/+/+/x/y\0\0\x09+/199/+/#\0"].concat();
    let key = join_core(&mut core, &said);
    let mut turns = 1;
    while core.search_on(now, key) {
        turns += 1;
    }
    assert!((3..10).contains(&turns), "20,200 levels twice in {turns} turns");
    let heard: usize = core.take_output(key).chunks.iter().map(Bytes::len).sum();
    assert_eq!(heard, 4 + 6 + 100 * (4 + "p/199/19999x".len()), "CONNACK, SUBACK and the hundred of the second filter");
}
