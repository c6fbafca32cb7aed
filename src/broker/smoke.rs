//! The broker with its thread, over real sockets: what the core's own tests cannot see. Waits for events, never sleeps.

mod doors;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Broker;
use super::BrokerError;
use super::Options;
use super::hash_password;
use crate::config::plant;
use crate::message::Message;
use crate::message::Retain;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const PATIENCE: Duration = Duration::from_secs(10);

fn settings(address: &str, anonymous: plant::Anonymous) -> plant::Broker {
    let address = address.parse().unwrap();
    let limits = plant::Limits { clients: 10, packet: 65_536, queue: 100, ..plant::Limits::default() };
    plant::Broker {
        listen: vec![plant::Listener { limits, ..plant::Listener::plain(address) }],
        anonymous,
        users: None,
        access: Vec::new(),
        limits,
    }
}

fn options(users: Vec<(String, String)>) -> Options {
    // A directory that nobody can make: the broker works without a disk.
    Options { gateway: "test".into(), state_dir: "/dev/null/nowhere".into(), users }
}

fn broker() -> Broker {
    super::start(settings("127.0.0.1:0", plant::Anonymous::Loopback), options(Vec::new())).unwrap()
}

fn hello(id: &str, credentials: &[u8]) -> Vec<u8> {
    let flags = if credentials.is_empty() { 2 } else { 0xC2 };
    let body = [&b"\0\x04MQTT\x05"[..], &[flags, 0, 0, 0, 0, id.len() as u8], id.as_bytes(), credentials].concat();
    [&[0x10, body.len() as u8], &body[..]].concat()
}

async fn join(address: SocketAddr, hello: &[u8]) -> (TcpStream, [u8; 2]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let (first, body) = packet(&mut stream).await.unwrap();
    assert_eq!(first, 0x20);
    (stream, [body[0], body[1]])
}

async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let head = [stream.read_u8().await.ok()?, stream.read_u8().await.ok()?];
        let mut body = vec![0; usize::from(head[1])];
        stream.read_exact(&mut body).await.ok()?;
        Some((head[0], body))
    };
    timeout(PATIENCE, read).await.unwrap()
}

fn message(topic: &str, payload: &'static str, retain: Retain) -> Message {
    Message::plain(TopicName::new(topic).unwrap(), Bytes::from_static(payload.as_bytes()), Qos::AtLeastOnce, retain)
}

#[tokio::test]
async fn a_message_goes_from_the_gateway_to_a_client_and_back() {
    let broker = broker();
    let filters = vec![(TopicFilter::new("#").unwrap(), Qos::ExactlyOnce)];
    let mut all = broker.subscribe("all", filters, 100).await;
    broker.inlet().send(vec![message("g/a", "1", Retain::Yes)]).await.unwrap();
    assert_eq!(timeout(PATIENCE, all.recv()).await.unwrap().unwrap()[0].payload, "1");
    let (mut client, code) = join(broker.addresses()[0], &hello("c", &[])).await;
    assert_eq!(code, [0, 0]);
    client.write_all(b"\x82\x09\0\x01\0\0\x03g/a\0").await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0x90);
    assert_eq!(packet(&mut client).await.unwrap(), (0x31, b"\0\x03g/a\x001".to_vec()));
    client.write_all(b"\x30\x07\0\x03c/a\x002").await.unwrap();
    let back = timeout(PATIENCE, all.recv()).await.unwrap().unwrap();
    assert_eq!((back[0].topic.as_str(), &back[0].payload[..]), ("c/a", &b"2"[..]));
    broker.stop().await;
    assert_eq!(packet(&mut client).await.unwrap().1[0], 0x8B, "the client hears why");
    assert!(all.recv().await.is_none());
}

#[tokio::test]
async fn what_came_through_a_named_inlet_does_not_return_to_that_name() {
    let broker = broker();
    let filters = || vec![(TopicFilter::new("#").unwrap(), Qos::AtLeastOnce)];
    let (mut cloud, mut other) =
        (broker.subscribe("cloud", filters(), 10).await, broker.subscribe("other", filters(), 10).await);
    let inlet = broker.inlet_as("cloud").await;
    inlet.send(vec![message("x", "mine", Retain::No)]).await.unwrap();
    assert_eq!(timeout(PATIENCE, other.recv()).await.unwrap().unwrap()[0].payload, "mine");
    broker.inlet().send(vec![message("x", "yours", Retain::No)]).await.unwrap();
    assert_eq!(timeout(PATIENCE, cloud.recv()).await.unwrap().unwrap()[0].payload, "yours");
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_and_sessions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { state_dir: dir.path().to_owned(), ..options(Vec::new()) };
    let settings = || settings("127.0.0.1:0", plant::Anonymous::Loopback);
    // 3.1.1, no clean session: kept for ever.
    let hello = b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01c";
    let broker = super::start(settings(), options()).unwrap();
    let (mut client, _) = join(broker.addresses()[0], hello).await;
    client.write_all(b"\x82\x06\0\x01\0\x01q\x01").await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0x90);
    drop(client);
    let mut status = broker.status();
    timeout(PATIENCE, status.wait_for(|s| s.sessions_away == 1)).await.unwrap().unwrap();
    broker.inlet().send(vec![message("q", "kept", Retain::Yes)]).await.unwrap();
    broker.stop().await;

    let broker = super::start(settings(), options()).unwrap();
    let (mut client, code) = join(broker.addresses()[0], hello).await;
    assert_eq!(code, [1, 0], "session present");
    let (first, body) = packet(&mut client).await.unwrap();
    assert_eq!((first, &body[..3], &body[5..]), (0x32, &b"\0\x01q"[..], &b"kept"[..]));
    let filters = vec![(TopicFilter::new("q").unwrap(), Qos::AtLeastOnce)];
    let mut all = broker.subscribe("all", filters, 10).await;
    assert!(timeout(PATIENCE, all.recv()).await.unwrap().unwrap()[0].retain);
    let refused = super::start(settings(), options());
    assert!(matches!(refused, Err(BrokerError::Store { .. })), "one gateway a directory");
    broker.stop().await;
}

#[tokio::test]
async fn a_stop_tells_this_process_the_wills_of_those_who_were_there() {
    let broker = broker();
    let filters = vec![(TopicFilter::new("w").unwrap(), Qos::AtLeastOnce)];
    let mut all = broker.subscribe("all", filters, 10).await;
    let hello = b"\x10\x18\0\x04MQTT\x05\x06\0\0\0\0\x01c\0\0\x01w\0\x04gone";
    let (mut client, _) = join(broker.addresses()[0], hello).await;
    broker.stop().await;
    assert_eq!(timeout(PATIENCE, all.recv()).await.unwrap().unwrap()[0].payload, "gone");
    assert_eq!(packet(&mut client).await.unwrap().1[0], 0x8B);
}

#[tokio::test]
async fn a_client_that_is_kicked_hears_why() {
    let broker = broker();
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    assert!(!broker.kick("somebody else").await);
    assert!(broker.kick("c").await);
    let (first, body) = packet(&mut client).await.unwrap();
    assert_eq!((first, body[0]), (0xE0, 0x98));
    assert!(packet(&mut client).await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn what_was_handed_over_before_the_stop_still_goes_out() {
    let broker = broker();
    let filters = vec![(TopicFilter::new("#").unwrap(), Qos::AtLeastOnce)];
    let mut all = broker.subscribe("all", filters, 1000).await;
    let inlet = broker.inlet();
    for _ in 0..200 {
        inlet.send(vec![message("g/$state", "offline", Retain::Yes)]).await.unwrap();
    }
    broker.stop().await;
    let mut count = 0;
    while let Some(batch) = all.recv().await {
        count += batch.len();
    }
    assert_eq!(count, 200);
}

/// Subscribes to everything with this QoS, and reads until the last of the burst; acknowledges where that is due.
async fn hear(broker: &Broker, qos: u8, last: usize) -> Vec<usize> {
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    client.write_all(&[&b"\x82\x07\0\x01\0\0\x01#"[..], &[qos]].concat()).await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0x90);
    let payload = "x".repeat(100).leak();
    let burst = (0..=last).map(|n| message(&format!("{n:05}"), payload, Retain::Yes)).collect();
    broker.inlet().send(burst).await.unwrap();
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        let Some((first, body)) = packet(&mut client).await else { break };
        if first >> 4 == 3 {
            heard.push(std::str::from_utf8(&body[2..7]).unwrap().parse().unwrap());
        }
        if first & 6 != 0 {
            client.write_all(&[0x40, 2, body[7], body[8]]).await.unwrap();
        }
    }
    heard
}

#[tokio::test]
async fn clients_that_read_lose_nothing_of_a_large_site_polled_all_at_once() {
    for qos in [0, 1] {
        let broker = broker();
        // Fifty times what may wait for one client.
        assert!(hear(&broker, qos, 4_999).await.iter().copied().eq(0..5_000), "QoS {qos}");
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_never_acknowledges_delays_a_burst_by_the_budget_and_is_closed() {
    let broker = broker();
    let (mut stuck, _) = join(broker.addresses()[0], &hello("stuck", &[])).await;
    stuck.write_all(b"\x82\x07\0\x01\0\0\x01#\x01").await.unwrap();
    assert_eq!(packet(&mut stuck).await.unwrap().0, 0x90);
    assert_eq!(hear(&broker, 0, 999).await.len(), 1_000);
    loop {
        let (first, body) = packet(&mut stuck).await.unwrap();
        if first == 0xE0 {
            assert_eq!(body[0], 0x97, "quota exceeded");
            break;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn only_the_right_password_comes_in() {
    let users = vec![("hmi".to_owned(), hash_password("secret").unwrap())];
    let broker = super::start(settings("127.0.0.1:0", plant::Anonymous::Never), options(users)).unwrap();
    let address = broker.addresses()[0];
    for (credentials, want) in
        [(&b"\0\x03hmi\0\x06secret"[..], 0), (b"\0\x03hmi\0\x05wrong", 0x86), (b"\0\x02xx\0\x01y", 0x86), (b"", 0x87)]
    {
        let (_stream, code) = join(address, &hello("c", credentials)).await;
        assert_eq!(code[1], want);
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let broker = broker();
    let taken = broker.addresses()[0];
    let refused = super::start(settings(&taken.to_string(), plant::Anonymous::Always), options(Vec::new()));
    let Err(error @ BrokerError::Bind { .. }) = refused else { panic!("bound twice") };
    let text = error.to_string();
    assert!(text.contains(&taken.to_string()) && text.contains("broker.listen"), "{text}");
    broker.stop().await;
}

#[tokio::test]
async fn the_reason_of_a_disconnect_arrives_although_more_was_sent() {
    let broker = broker();
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    // A second CONNECT, with more bytes behind it that nobody will read.
    client.write_all(&[&hello("c", &[])[..], &[0; 30_000]].concat()).await.unwrap();
    let (first, body) = packet(&mut client).await.unwrap();
    assert_eq!((first, body[0]), (0xE0, 0x82));
    broker.stop().await;
}

#[tokio::test]
async fn a_subscriber_that_never_reads_disturbs_nobody() {
    let broker = broker();
    let address = broker.addresses()[0];
    let (mut stuck, _) = join(address, &hello("stuck", &[])).await;
    let (mut quick, _) = join(address, &hello("quick", &[])).await;
    for client in [&mut stuck, &mut quick] {
        client.write_all(b"\x82\x07\0\x01\0\0\x01t\0").await.unwrap();
        assert_eq!(packet(client).await.unwrap().0, 0x90);
    }
    let (mut publisher, _) = join(address, &hello("p", &[])).await;
    let body = [&b"\0\x01t\0"[..], &[b'x'; 100]].concat();
    let frame = [&[0x30, body.len() as u8], &body[..]].concat();
    for _ in 0..500 {
        publisher.write_all(&frame.repeat(200)).await.unwrap();
        let mut some = vec![0; frame.len() * 200];
        timeout(PATIENCE, quick.read_exact(&mut some)).await.unwrap().unwrap();
    }
    let mut status = broker.status();
    timeout(PATIENCE, status.wait_for(|s| s.dropped > 0)).await.unwrap().unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn other_filters_of_a_subscription_miss_nothing_and_give_nothing_twice() {
    let broker = broker();
    let filter = |text: &str| (TopicFilter::new(text).unwrap(), Qos::AtLeastOnce);
    let mut inbox = broker.subscribe("up", vec![filter("a/#"), filter("b/#")], 100).await;
    let inlet = broker.inlet();
    let send = |topic: &'static str, text| inlet.send(vec![message(topic, text, Retain::Yes)]);
    send("a/x", "1").await.unwrap();
    send("c/x", "2").await.unwrap();
    let mut seen = Vec::new();
    let mut until = async |inbox: &mut super::LocalSubscription, last: &str| {
        while seen.last().is_none_or(|text: &String| text != last) {
            let batch = timeout(PATIENCE, inbox.recv()).await.unwrap().unwrap();
            seen.extend(batch.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()));
        }
        seen.clone()
    };
    until(&mut inbox, "1").await;
    assert!(broker.refilter("up", vec![filter("b/#"), filter("c/#")]).await);
    assert!(!broker.refilter("nobody", Vec::new()).await);
    for (topic, text) in [("a/x", "3"), ("b/x", "4"), ("c/x", "5")] {
        send(topic, text).await.unwrap();
    }
    assert_eq!(until(&mut inbox, "5").await, ["1", "4", "5"], "what was retained is old, and not given");
    broker.stop().await;
}
