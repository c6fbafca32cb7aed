//! What each listener allows, and listeners that come and go, over real sockets.

use super::*;

use std::net::TcpListener;
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
async fn readmission_is_told_in_counts_and_refused_where_a_hash_is_none() {
    let hash = hash_password("secret").unwrap();
    let users = || vec![("hmi".to_owned(), hash.clone())];
    let settings = || settings("127.0.0.1:0", plant::Anonymous::Loopback);
    let broker = super::super::start(settings(), options(users())).unwrap();
    let (mut client, code) = join(broker.addresses()[0], &hello("c", b"\0\x03hmi\0\x06secret")).await;
    assert_eq!(code[1], 0);
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

/// Listens there and nowhere else from now on.
async fn listen(broker: &Broker, addresses: &[&str]) -> Result<(), BrokerError> {
    let listen = addresses.iter().map(|address| plant::Listener::plain(address.parse().unwrap())).collect();
    take(broker, listen).await
}

async fn take(broker: &Broker, listen: Vec<plant::Listener>) -> Result<(), BrokerError> {
    let settings = plant::Broker { listen, ..settings("127.0.0.1:0", plant::Anonymous::Loopback) };
    broker.readmit(&settings, Vec::new()).await.map(|_| ())
}

#[tokio::test]
async fn listeners_come_and_go_while_clients_of_the_others_stay() {
    let broker = broker();
    let first = broker.addresses()[0];
    let (mut stays, _) = join(first, &hello("stays", &[])).await;
    let second = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    listen(&broker, &["127.0.0.1:0", &second]).await.unwrap();
    assert_eq!(broker.addresses(), [first, second.parse().unwrap()]);
    let (mut goes, _) = join(second.parse().unwrap(), &hello("goes", &[])).await;
    listen(&broker, &["127.0.0.1:0"]).await.unwrap();
    assert_eq!(packet(&mut goes).await.unwrap().1[0], 0x98, "it hears why");
    assert!(TcpStream::connect(&second).await.is_err(), "nobody listens there");
    stays.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut stays).await.unwrap().0, 0xD0, "it was not disturbed");
    broker.stop().await;
}

#[tokio::test]
async fn a_listener_moves_to_all_interfaces_of_its_port_and_keeps_its_clients() {
    let broker = broker();
    let port = broker.addresses()[0].port();
    // As if the port had been configured: only then do both want the same one.
    listen(&broker, &["127.0.0.1:0"]).await.unwrap();
    let (mut client, _) = join(broker.addresses()[0], &hello("c", &[])).await;
    listen(&broker, &[&format!("0.0.0.0:{port}")]).await.unwrap();
    client.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut client).await.unwrap().0, 0xD0);
    let (_other, code) = join(format!("127.0.0.1:{port}").parse().unwrap(), &hello("d", &[])).await;
    assert_eq!(code, [0, 0]);
    broker.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_changes_nothing() {
    let broker = broker();
    let before = broker.addresses();
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = squatter.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let error = listen(&broker, &[free, &taken]).await.unwrap_err();
    assert!(error.to_string().contains(&taken) && error.to_string().contains("another program"), "{error}");
    assert_eq!(broker.addresses(), before);
    let tls = plant::ListenerTls { cert: "/none.pem".into(), key: "/none.pem".into(), clients: None };
    let secret = plant::Listener { tls: Some(tls), ..plant::Listener::plain(free.parse().unwrap()) };
    let error = take(&broker, vec![secret]).await.unwrap_err();
    assert!(error.to_string().contains("/none.pem"), "{error}");
    join(before[0], &hello("c", &[])).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_listener_that_made_room_in_vain_comes_back_and_still_counts_its_clients() {
    let broker = with(vec![plant::Limits { clients: 1, ..limits() }]);
    let address = broker.addresses()[0];
    let (mut stays, _) = join(address, &hello("stays", &[])).await;
    // The second is free as long as the first is not there, so it is bound; then the first cannot be.
    let (all, other) = (format!("0.0.0.0:{}", address.port()), format!("127.0.0.2:{}", address.port()));
    let error = listen(&broker, &[&all, &other]).await.unwrap_err();
    assert!(error.to_string().contains(&all), "{error}");
    assert_eq!(broker.addresses(), [address]);
    assert_eq!(refused(address, "another").await, 0x97, "one client may come in there, and it is in");
    stays.write_all(b"\xC0\0").await.unwrap();
    assert_eq!(packet(&mut stays).await.unwrap().0, 0xD0);
    broker.stop().await;
}
