//! rumqttc, the client library of most Rust programs, as a client of the embedded broker in both versions of the protocol.
//! The same cases twice, because the library is two crates of one shape.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use trunkline::broker;
use trunkline::broker::Broker;
use trunkline::config::plant;

const PATIENCE: Duration = Duration::from_secs(20);

fn start(state: &tempfile::TempDir) -> (Broker, SocketAddr) {
    let limits = plant::Limits::default();
    let settings = plant::Broker {
        listen: vec![plant::Listener::plain("127.0.0.1:0".parse().unwrap())],
        anonymous: plant::Anonymous::Loopback,
        users: None,
        access: Vec::new(),
        limits,
    };
    let options = broker::Options { gateway: "test".into(), state_dir: state.path().to_owned(), users: Vec::new() };
    let broker = broker::start(settings, options).unwrap();
    let address = broker.addresses()[0];
    (broker, address)
}

/// Who comes back: with a new session, or with the one it left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    New,
    Kept,
}

macro_rules! cases {
    ($version:ident, $rumqttc:ident, $resume:expr) => {
        mod $version {
            use super::*;

            use tokio::sync::mpsc;
            use $rumqttc::AsyncClient;
            use $rumqttc::Event;
            use $rumqttc::MqttOptions;
            use $rumqttc::Packet;
            use $rumqttc::Publish;
            use $rumqttc::PublishOptions;
            use $rumqttc::QoS;

            const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

            /// A client with its event loop on a task. Cut off, it waits until it is called back.
            struct Peer {
                client: AsyncClient,
                packets: mpsc::Receiver<Packet>,
                back: Arc<Notify>,
            }

            impl Peer {
                async fn join(address: SocketAddr, id: &str, session: Session) -> Self {
                    let broker = $rumqttc::Broker::tcp(address.ip().to_string(), address.port());
                    let mut options = MqttOptions::new(id, broker);
                    let resume: fn(&mut MqttOptions) = $resume;
                    if session == Session::Kept {
                        resume(&mut options);
                    }
                    let (client, mut events) = AsyncClient::builder(options).capacity(100).try_build().unwrap();
                    let (tell, packets) = mpsc::channel(10_000);
                    let back = Arc::new(Notify::new());
                    let called = Arc::clone(&back);
                    tokio::spawn(async move {
                        loop {
                            match events.poll().await {
                                Ok(Event::Incoming(packet)) => {
                                    if tell.send(packet).await.is_err() {
                                        return;
                                    }
                                }
                                Ok(_) => {}
                                Err(_) => called.notified().await,
                            }
                        }
                    });
                    let mut peer = Self { client, packets, back };
                    peer.until(|packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
                    peer
                }

                async fn until<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
                    loop {
                        let packet = tokio::time::timeout(PATIENCE, self.packets.recv()).await.unwrap().unwrap();
                        if let Some(found) = wanted(packet) {
                            return found;
                        }
                    }
                }

                async fn subscribe(&mut self, filter: &str, qos: QoS) {
                    self.client.subscribe(filter, qos).await.unwrap();
                    self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
                }

                async fn next(&mut self) -> Publish {
                    self.until(|packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None }).await
                }

                async fn say(&self, topic: &str, payload: &str, options: PublishOptions) {
                    self.client.publish(topic, payload.to_owned(), options).await.unwrap();
                }
            }

            #[tokio::test]
            async fn messages_pass_at_every_qos_in_order() {
                let state = tempfile::tempdir().unwrap();
                let (broker, address) = start(&state);
                let mut listener = Peer::join(address, "listener", Session::New).await;
                listener.subscribe("t/#", QoS::ExactlyOnce).await;
                let speaker = Peer::join(address, "speaker", Session::New).await;
                for qos in EVERY_QOS {
                    for n in 0..200 {
                        speaker.say("t/n", &n.to_string(), PublishOptions::new(qos)).await;
                    }
                    for n in 0..200 {
                        let publish = listener.next().await;
                        assert_eq!((publish.qos, &publish.payload[..]), (qos, n.to_string().as_bytes()));
                    }
                }
                broker.stop().await;
            }

            #[tokio::test]
            async fn a_retained_value_waits_for_who_comes_later() {
                let state = tempfile::tempdir().unwrap();
                let (broker, address) = start(&state);
                let mut speaker = Peer::join(address, "speaker", Session::New).await;
                speaker.say("kept", "19", PublishOptions::new(QoS::AtLeastOnce).retained()).await;
                speaker.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
                let mut listener = Peer::join(address, "listener", Session::New).await;
                listener.client.subscribe("kept", QoS::AtLeastOnce).await.unwrap();
                let publish = listener.next().await;
                assert!(publish.retain && publish.payload == "19");
                broker.stop().await;
            }

            #[tokio::test]
            async fn a_session_keeps_what_came_while_its_client_was_away() {
                let state = tempfile::tempdir().unwrap();
                let (broker, address) = start(&state);
                let mut listener = Peer::join(address, "listener", Session::Kept).await;
                listener.subscribe("t", QoS::ExactlyOnce).await;
                assert!(broker.kick("listener").await);
                let mut status = broker.status();
                let away = status.wait_for(|status| status.sessions_away == 1);
                tokio::time::timeout(PATIENCE, away).await.unwrap().unwrap();
                let speaker = Peer::join(address, "speaker", Session::New).await;
                for n in 0..100 {
                    let qos = EVERY_QOS[1 + n % 2];
                    speaker.say("t", &n.to_string(), PublishOptions::new(qos)).await;
                }
                listener.back.notify_one();
                for n in 0..100 {
                    assert_eq!(listener.next().await.payload, n.to_string());
                }
                broker.stop().await;
            }
        }
    };
}

cases!(v4, rumqttc_v4, |options| {
    options.set_clean_session(false);
});
cases!(v5, rumqttc, |options| {
    options.set_session_expiry_interval(Some(3600));
    options.set_session_mode(rumqttc::SessionMode::Persistent);
});
