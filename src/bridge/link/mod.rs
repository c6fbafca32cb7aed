//! The only door to the MQTT client, in both versions. A link is one connection: it is made anew after every fault,
//! with a clean session, so that nothing the library keeps can ever be sent behind the spool's back. A pump task
//! drives the library's event loop, which must not be cancelled midway.

mod dial;
mod fault;
mod options;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc as v5;
use rumqttc_v4 as v4;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(super) use self::fault::Fault;
use self::fault::fault_v4;
use self::fault::fault_v5;
use self::options::options_v4;
use self::options::options_v5;
use super::mapping::Mapped;
use crate::config::plant::Endpoint;
use crate::config::plant::MqttVersion;
use crate::config::plant::Upstream;
use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Events that wait for the task; the pump waits when it is full, and with it the peer.
const EVENTS: usize = 256;
/// Room in the library's queue beyond the window, for state and subscriptions.
const SPARE: usize = 16;

/// What the peer allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// `5` or `3.1.1`.
    pub(super) version: &'static str,
    /// Unacknowledged publishes at once.
    pub(super) receive_maximum: u16,
    /// Bytes of a packet.
    pub(super) maximum_packet: u32,
    /// Highest QoS it takes.
    pub(super) maximum_qos: Qos,
    /// Whether it keeps messages.
    pub(super) retain: bool,
}

/// What happens on a link.
#[derive(Debug)]
pub(super) enum Event {
    /// CONNACK.
    Connected(Peer),
    /// A publish from upstream.
    Received(Message),
    /// The end; nothing follows.
    Down(Fault),
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer has it (QoS 0: it left).
    Acknowledged,
    /// The peer will never take it.
    Refused(String),
    /// The peer does not take it now: come back later.
    Later(String),
    /// The link went first; nobody knows.
    Lost,
}

/// Everything a connection needs.
pub(super) struct Target<'a> {
    /// The upstream's settings.
    pub(super) settings: &'a Upstream,
    /// Which of its endpoints.
    pub(super) endpoint: &'a Endpoint,
    /// Which version to speak.
    pub(super) version: MqttVersion,
    /// Topic, QoS and retain flag of the last will `offline`.
    pub(super) will: Option<&'a Mapped>,
}

enum Client {
    V5(v5::AsyncClient),
    V4(v4::AsyncClient),
}

/// Resolves when the publish has its answer.
pub(super) enum Notice {
    V5(v5::PublishNotice),
    V4(v4::PublishNotice),
}

/// One connection.
pub(super) struct Link {
    client: Client,
    events: mpsc::Receiver<Event>,
    pump: JoinHandle<()>,
    /// The file of the client certificate, and until when that is valid.
    shown: Option<(PathBuf, i64)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Link {
    /// Begins to connect; `Event::Connected` says when it is up.
    pub(super) fn open(target: &Target<'_>) -> Result<Self, Fault> {
        let (sender, events) = mpsc::channel(EVENTS);
        let capacity = usize::from(target.settings.in_flight) + SPARE;
        let tls::Told { configuration: tls, until } = tls::told(target.endpoint, target.settings)?;
        let refused = |e: &dyn std::fmt::Display| Fault::Refused(e.to_string());
        let (client, pump) = match target.version {
            MqttVersion::V5 => {
                let options = options_v5(target, tls)?;
                let built = v5::AsyncClient::builder(options).capacity(capacity).try_build();
                let (client, eventloop) = built.map_err(|e| refused(&e))?;
                (Client::V5(client), tokio::spawn(pump_v5(eventloop, sender)))
            }
            MqttVersion::V311 => {
                let options = options_v4(target, tls)?;
                let built = v4::AsyncClient::builder(options).capacity(capacity).try_build();
                let (client, eventloop) = built.map_err(|e| refused(&e))?;
                (Client::V4(client), tokio::spawn(pump_v4(eventloop, sender)))
            }
        };
        let file = target.settings.tls.client.as_ref().map(|(cert, _)| cert.clone());
        Ok(Self { client, events, pump, shown: file.zip(until) })
    }

    /// The next thing that happens. May be cancelled.
    pub(super) async fn event(&mut self) -> Event {
        let ended = || Event::Down(Fault::Broken("the client ended".to_owned()));
        self.events.recv().await.unwrap_or_else(ended)
    }

    /// Hands a message over; `None` when the library's queue is full.
    pub(super) fn publish(&self, to: &Mapped, payload: Bytes, properties: Option<&Properties>) -> Option<Notice> {
        let topic = to.topic.as_str();
        match &self.client {
            Client::V5(client) => {
                let mut options = v5::PublishOptions::new(qos_v5(to.qos)).retain(to.retain);
                if let Some(p) = properties {
                    options = options.properties(properties_v5(p));
                }
                client.try_publish_tracked(topic, payload, options).ok().map(Notice::V5)
            }
            Client::V4(client) => {
                let options = v4::PublishOptions::new(qos_v4(to.qos)).retain(to.retain);
                client.try_publish_tracked(topic, payload, options).ok().map(Notice::V4)
            }
        }
    }

    /// Asks for topics. Where the version can say so (5), what we published ourselves does not
    /// come back, and a retained message is known as one also when it comes live: retained commands are refused.
    pub(super) fn subscribe(&self, filters: &[(TopicFilter, Qos)]) {
        let asked = match &self.client {
            Client::V5(client) => client
                .try_subscribe_many(filters.iter().map(|(f, q)| {
                    v5::SubscribeFilterInput::new(f.as_str(), qos_v5(*q)).no_local(true).preserve_retain(true)
                }))
                .is_ok(),
            Client::V4(client) => client
                .try_subscribe_many(filters.iter().map(|(f, q)| v4::SubscribeFilter::new(f.to_string(), qos_v4(*q))))
                .is_ok(),
        };
        if !asked {
            tracing::error!("the client's queue was full before the first subscription: a bug");
        }
    }

    /// Says goodbye, so that the last will stays unsent, and waits at most `patience` for it to leave.
    pub(super) async fn close(mut self, patience: Duration) {
        let asked = match &self.client {
            Client::V5(client) => client.try_disconnect_with_timeout(patience / 2).is_ok(),
            Client::V4(client) => client.try_disconnect_with_timeout(patience / 2).is_ok(),
        };
        if asked {
            let gone = async { while !matches!(self.event().await, Event::Down(_)) {} };
            let _ = tokio::time::timeout(patience, gone).await;
        }
    }
}

/// Resolves when the endpoint takes TCP connections: asked now and then, from `after` on.
pub(super) async fn reachable(endpoint: Endpoint, after: Duration) {
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    loop {
        tokio::time::sleep(after).await;
        if tokio::time::timeout(Duration::from_secs(2), dial::dial(address.clone())).await.is_ok_and(|r| r.is_ok()) {
            return;
        }
    }
}

impl Notice {
    /// Waits for the answer.
    pub(super) async fn outcome(self) -> Outcome {
        match self {
            Self::V5(notice) => outcome_v5(notice.wait_async().await),
            Self::V4(notice) => match notice.wait_async().await {
                Ok(_) => Outcome::Acknowledged,
                Err(_) => Outcome::Lost,
            },
        }
    }
}

/// The library calls a publish that the peer refused a success and leaves the reason code to us.
fn outcome_v5(result: Result<v5::PublishResult, v5::PublishNoticeError>) -> Outcome {
    use v5::PublishNoticeError as E;
    use v5::PublishResult as R;
    match result {
        Ok(R::Qos1(p)) => of_puback(p.reason),
        Ok(R::Qos2PubRecRejected(p)) => of_pubrec(p.reason),
        // After PUBREC the message is the peer's, whatever PUBCOMP says about the packet id.
        Ok(R::Qos0Flushed | R::Qos2Completed(_)) | Err(E::V5PubComp(_)) => Outcome::Acknowledged,
        Err(E::V5PubAck(reason)) => of_puback(reason),
        Err(E::V5PubRec(reason)) => of_pubrec(reason),
        Err(E::RetainNotSupported) => Outcome::Refused("the peer keeps no messages".to_owned()),
        Err(_) => Outcome::Lost,
    }
}

fn of_puback(reason: v5::PubAckReason) -> Outcome {
    use v5::PubAckReason as A;
    match reason {
        // No subscriber over there right now: the peer took it all the same.
        A::Success | A::NoMatchingSubscribers => Outcome::Acknowledged,
        A::QuotaExceeded | A::PacketIdentifierInUse => Outcome::Later(format!("the peer answered {reason:?}")),
        reason => Outcome::Refused(format!("the peer answered {reason:?}")),
    }
}

fn of_pubrec(reason: v5::PubRecReason) -> Outcome {
    use v5::PubRecReason as A;
    match reason {
        A::Success | A::NoMatchingSubscribers => Outcome::Acknowledged,
        A::QuotaExceeded | A::PacketIdentifierInUse => Outcome::Later(format!("the peer answered {reason:?}")),
        reason => Outcome::Refused(format!("the peer answered {reason:?}")),
    }
}

/// An upper bound of the packet's size, to be held against the peer's maximum before it is handed over: the library
/// would reconnect over a packet that is too large, for ever.
pub(super) fn packet_size(topic: &TopicName, payload: &Bytes, properties: Option<&Properties>) -> usize {
    let properties = properties.map_or(0, |p| {
        let texts = [&p.content_type, &p.response_topic].into_iter().flatten().map(|t| t.len() + 3).sum::<usize>();
        let user = p.user.iter().map(|(k, v)| k.len() + v.len() + 5).sum::<usize>();
        texts + user + p.correlation.as_ref().map_or(0, |c| c.len() + 3) + 2 + 5
    });
    // Fixed header 5, topic length 2, packet id 2, length of the properties 4.
    topic.as_str().len() + payload.len() + properties + 13
}

async fn pump_v5(mut eventloop: v5::EventLoop, events: mpsc::Sender<Event>) {
    let mut up = false;
    let fault = loop {
        let event = match eventloop.poll().await {
            Ok(v5::Event::Incoming(v5::Packet::ConnAck(ack))) => {
                up = true;
                Event::Connected(peer_v5(&ack))
            }
            Ok(v5::Event::Incoming(v5::Packet::Publish(p))) => match message_v5(p) {
                Some(message) => Event::Received(message),
                None => continue,
            },
            Ok(_) => continue,
            Err(e) => break fault_v5(&e, up),
        };
        if events.send(event).await.is_err() {
            return;
        }
    };
    // Notices are answered when the loop is gone: whoever hears of the fault finds them all resolved.
    drop(eventloop);
    let _ = events.send(Event::Down(fault)).await;
}

async fn pump_v4(mut eventloop: v4::EventLoop, events: mpsc::Sender<Event>) {
    let mut up = false;
    let fault = loop {
        let event = match eventloop.poll().await {
            Ok(v4::Event::Incoming(v4::Packet::ConnAck(_))) => {
                up = true;
                Event::Connected(Peer {
                    version: "3.1.1",
                    receive_maximum: u16::MAX,
                    maximum_packet: 256 << 20,
                    maximum_qos: Qos::ExactlyOnce,
                    retain: true,
                })
            }
            Ok(v4::Event::Incoming(v4::Packet::Publish(p))) => match message_v4(p) {
                Some(message) => Event::Received(message),
                None => continue,
            },
            Ok(_) => continue,
            Err(e) => break fault_v4(&e, up),
        };
        if events.send(event).await.is_err() {
            return;
        }
    };
    drop(eventloop);
    let _ = events.send(Event::Down(fault)).await;
}

fn peer_v5(ack: &v5::ConnAck) -> Peer {
    let p = ack.properties.as_ref();
    let maximum_qos = p.and_then(|p| p.max_qos).and_then(|q| Qos::try_from(q).ok()).unwrap_or(Qos::ExactlyOnce);
    Peer {
        version: "5",
        receive_maximum: p.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        maximum_packet: p.and_then(|p| p.max_packet_size).unwrap_or(256 << 20),
        maximum_qos,
        retain: p.and_then(|p| p.retain_available) != Some(0),
    }
}

fn message_v5(p: v5::Publish) -> Option<Message> {
    let topic = TopicName::new(std::str::from_utf8(&p.topic).ok()?).ok()?;
    let properties = p.properties.map(|p| {
        Arc::new(Properties {
            payload_format: p.payload_format_indicator,
            expiry: p.message_expiry_interval,
            content_type: p.content_type.map(Into::into),
            response_topic: p.response_topic.map(Into::into),
            correlation: p.correlation_data,
            user: p.user_properties.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        })
    });
    let qos = Qos::try_from(p.qos as u8).ok()?;
    Some(Message { topic, payload: p.payload, qos, retain: p.retain, properties, class: Class::Normal, own: None })
}

fn message_v4(p: v4::Publish) -> Option<Message> {
    let topic = TopicName::new(std::str::from_utf8(&p.topic).ok()?).ok()?;
    let qos = Qos::try_from(p.qos as u8).ok()?;
    Some(Message {
        topic,
        payload: p.payload,
        qos,
        retain: p.retain,
        properties: None,
        class: Class::Normal,
        own: None,
    })
}

fn properties_v5(p: &Properties) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: p.payload_format,
        message_expiry_interval: p.expiry,
        response_topic: p.response_topic.as_ref().map(ToString::to_string),
        correlation_data: p.correlation.clone(),
        user_properties: p.user.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        content_type: p.content_type.as_ref().map(ToString::to_string),
        ..Default::default()
    }
}

const fn qos_v5(qos: Qos) -> v5::QoS {
    match qos {
        Qos::AtMostOnce => v5::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
    }
}

const fn qos_v4(qos: Qos) -> v4::QoS {
    match qos {
        Qos::AtMostOnce => v4::QoS::AtMostOnce,
        Qos::AtLeastOnce => v4::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v4::QoS::ExactlyOnce,
    }
}
