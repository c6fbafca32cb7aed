//! What each listener allows, over real sockets.

use super::*;

use std::time::Instant;

fn with(listeners: Vec<plant::Limits>) -> Broker {
    let listen = listeners
        .into_iter()
        .map(|limits| plant::Listener { limits, ..plant::Listener::plain("127.0.0.1:0".parse().unwrap()) });
    let settings = plant::Broker { listen: listen.collect(), ..settings("127.0.0.1:0", plant::Anonymous::Loopback) };
    super::super::start(settings, options(Vec::new())).unwrap()
}

fn limits() -> plant::Limits {
    plant::Limits::default()
}

async fn refused(address: SocketAddr, id: &str) -> u8 {
    join(address, &hello(id, &[])).await.1[1]
}

#[tokio::test]
async fn a_listener_takes_as_many_clients_as_it_says_and_the_other_goes_on() {
    let broker = with(vec![plant::Limits { clients: 2, ..limits() }, limits()]);
    let (small, large) = (broker.addresses()[0], broker.addresses()[1]);
    let (mut first, _) = join(small, &hello("a", &[])).await;
    let (_second, _) = join(small, &hello("b", &[])).await;
    assert_eq!(refused(small, "c").await, 0x97);
    let (_third, code) = join(large, &hello("c", &[])).await;
    assert_eq!(code[1], 0);
    let (_again, code) = join(small, &hello("b", &[])).await;
    assert_eq!(code[1], 0, "a client that returns takes its own place");
    first.write_all(b"\xE0\0").await.unwrap();
    assert!(packet(&mut first).await.is_none());
    let (_now, code) = join(small, &hello("d", &[])).await;
    assert_eq!(code[1], 0, "who leaves makes room");
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_over_the_listeners_limit_ends_the_connection_and_the_limit_is_told() {
    let broker = with(vec![plant::Limits { packet: 2000, ..limits() }, limits()]);
    for (address, want) in broker.addresses().into_iter().zip([Some(0x95), None]) {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&hello("c", &[])).await.unwrap();
        let (_, connack) = packet(&mut client).await.unwrap();
        let told = connack.windows(5).any(|w| w == b"\x27\0\0\x07\xD0");
        assert_eq!(told, want.is_some(), "maximum packet size in CONNACK");
        let body = [&b"\0\x01t\0"[..], &[b'x'; 3000]].concat();
        client.write_all(&[&[0x30, 0xBC, 0x17], &body[..], b"\xC0\0"].concat()).await.unwrap();
        let (first, body) = packet(&mut client).await.unwrap();
        assert_eq!((first == 0xE0).then(|| body[0]), want);
    }
    broker.stop().await;
}

#[tokio::test]
async fn one_subscription_too_many_is_refused_and_the_client_stays() {
    let broker = with(vec![plant::Limits { subscriptions: 2, ..limits() }]);
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    for (filter, want) in [(b'a', 0), (b'b', 0), (b'c', 0x97), (b'a', 0)] {
        client.write_all(&[0x82, 7, 0, 1, 0, 0, 1, filter, 0]).await.unwrap();
        assert_eq!(packet(&mut client).await.unwrap().1.last(), Some(&want), "{}", char::from(filter));
    }
    broker.stop().await;
}

#[tokio::test]
async fn who_says_nothing_is_let_go_when_the_connect_timeout_is_over() {
    let broker = with(vec![plant::Limits { connect_timeout: Duration::from_millis(50), ..limits() }]);
    for beginning in [&b""[..], b"\x10", &hello("c", &[])[..9]] {
        let mut client = TcpStream::connect(broker.addresses()[0]).await.unwrap();
        client.write_all(beginning).await.unwrap();
        assert!(packet(&mut client).await.is_none());
    }
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    client.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0xD0);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_over_its_rate_is_read_slower_loses_nothing_and_disturbs_nobody() {
    let broker = with(vec![plant::Limits { rate: Some(100), ..limits() }, limits()]);
    let mut all = broker.subscribe("all", vec![(TopicFilter::new("t").unwrap(), Qos::AtLeastOnce)], 1000).await;
    let (mut fast, _) = join(broker.addresses()[0], &hello("fast", &[])).await;
    let (mut other, _) = join(broker.addresses()[1], &hello("other", &[])).await;
    let begun = Instant::now();
    let burst: Vec<u8> = (0..150_u8).flat_map(|n| [0x30, 5, 0, 1, b't', 0, n]).collect();
    fast.write_all(&burst).await.unwrap();
    other.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut other).await.unwrap().0, 0xD0);
    assert!(begun.elapsed() < Duration::from_millis(400), "the other waited {:?}", begun.elapsed());
    let mut heard = Vec::new();
    while heard.len() < 150 {
        heard.extend(timeout(PATIENCE, all.recv()).await.unwrap().unwrap().into_iter().map(|m| m.payload[0]));
    }
    assert!(heard.into_iter().eq(0..150));
    // The first hundred at once, fifty more at a hundred a second.
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
    broker.stop().await;
}

#[tokio::test]
async fn readmission_is_told_in_counts_and_refused_where_an_address_moved() {
    let hash = hash_password("secret").unwrap();
    let users = || vec![("hmi".to_owned(), hash.clone())];
    let settings = || settings("127.0.0.1:0", plant::Anonymous::Loopback);
    let broker = super::super::start(settings(), options(users())).unwrap();
    let (mut client, code) = join(broker.addresses()[0], &hello("c", b"\0\x03hmi\0\x06secret")).await;
    assert_eq!(code[1], 0);
    let moved = plant::Broker { listen: Vec::new(), ..settings() };
    assert_eq!(broker.readmit(&moved, users()).await, Err(BrokerError::Moved));
    let bad = vec![("hmi".to_owned(), "secret".to_owned())];
    assert_eq!(broker.readmit(&settings(), bad).await, Err(BrokerError::User("hmi".into())));
    assert_eq!(broker.readmit(&settings(), users()).await.unwrap().staying, 1);
    client.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0xD0, "nothing happened to it");
    assert_eq!(broker.readmit(&settings(), Vec::new()).await.unwrap().without_login, 1);
    let (first, body) = packet(&mut client).await.unwrap();
    assert_eq!((first, body[0]), (0xE0, 0x87));
    broker.stop().await;
}

#[tokio::test]
async fn new_limits_hold_for_who_connects_from_now_on() {
    let settings = |clients: usize| {
        let plain = plant::Listener::plain("127.0.0.1:0".parse().unwrap());
        let listener = plant::Listener { limits: plant::Limits { clients, ..limits() }, ..plain };
        plant::Broker { listen: vec![listener], ..settings("127.0.0.1:0", plant::Anonymous::Loopback) }
    };
    let broker = super::super::start(settings(10), options(Vec::new())).unwrap();
    let address = broker.addresses()[0];
    let (mut first, _) = join(address, &hello("a", &[])).await;
    let (_second, _) = join(address, &hello("b", &[])).await;
    assert_eq!(broker.readmit(&settings(2), Vec::new()).await.unwrap().staying, 2);
    assert_eq!(refused(address, "c").await, 0x97);
    first.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut first).await.unwrap().0, 0xD0);
    broker.readmit(&settings(10), Vec::new()).await.unwrap();
    let (_third, code) = join(address, &hello("c", &[])).await;
    assert_eq!(code[1], 0);
    broker.stop().await;
}
