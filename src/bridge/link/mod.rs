//! The only door to the MQTT client, in both versions. A link is one connection, made anew after every fault. With a
//! clean session nothing the library keeps can ever be sent behind the spool's back; where exactly once is wanted
//! (QoS 2) the session outlives the connection: [`Remains`] carries it from one link to the next, and the peer's answer
//! to CONNECT says whether it still has its half. A pump task drives the library's event loop, which must not be
//! cancelled midway.

mod convert;
mod dial;
mod fault;
mod options;
mod pump;
mod shelf;
mod tls;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc as v5;
use rumqttc_v4 as v4;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::convert::properties_v5;
use self::convert::qos_v4;
use self::convert::qos_v5;
pub(super) use self::fault::Fault;
use self::pump::Order;
use self::pump::open_v4;
use self::pump::open_v5;
use self::shelf::HandedOver;
use self::shelf::UnderWay;
use self::shelf::lock;
use super::mapping::Mapped;
use crate::config::plant::Endpoint;
use crate::config::plant::MqttVersion;
use crate::config::plant::Upstream;
use crate::message::Message;
use crate::message::Properties;
use crate::spool::Seq;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Events that wait for the task; the pump waits when it is full, and with it the peer.
const EVENTS: usize = 256;
/// The library ends within this time once its socket has.
const END: Duration = Duration::from_secs(1);

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
    /// Whether it still has its half of the session that was carried over.
    pub(super) resumed: bool,
}

/// What happens on a link.
#[derive(Debug)]
pub(super) enum Event {
    /// CONNACK.
    Connected(Peer),
    /// A publish from upstream.
    Received(Message),
    /// What became of an entry that was carried over from an earlier connection.
    Answered(Seq, Outcome),
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
    /// What becomes of the session when the connection ends.
    pub(super) session: Keeping,
}

/// What becomes of a session when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// It ends too.
    Nothing,
    /// Both sides keep it, so that what is under way at QoS 2 can be finished.
    Session,
}

/// The library's half of a session between two connections, and for which entries its packet ids stand.
pub(super) enum Remains {
    V5(v5::PersistedSession, Vec<UnderWay>),
    V4(v4::PersistedSession, Vec<UnderWay>),
}

impl Remains {
    /// The entries under way.
    pub(super) fn entries(&self) -> BTreeSet<Seq> {
        let (Self::V5(_, under_way) | Self::V4(_, under_way)) = self;
        under_way.iter().filter_map(|(_, entry)| *entry).collect()
    }
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
    pump: JoinHandle<Option<Remains>>,
    /// Where a session is kept: entries that have no packet id yet.
    handed: Option<HandedOver>,
    cut: CancellationToken,
    /// The file of the client certificate, and until when that is valid.
    shown: Option<(PathBuf, i64)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.pump.abort();
        self.cut.cancel();
    }
}

impl Link {
    /// Begins to connect; `Event::Connected` says when it is up.
    pub(super) fn open(target: &Target<'_>, remains: Option<Remains>) -> Result<Self, Fault> {
        let cut = CancellationToken::new();
        let (sender, events) = mpsc::channel(EVENTS);
        let handed = HandedOver::default();
        let tls::Told { configuration: tls, until } = tls::told(target.endpoint, target.settings)?;
        let order = Order { cut: cut.clone(), events: sender, handed: Arc::clone(&handed), remains, tls };
        let (client, pump) = match target.version {
            MqttVersion::V5 => open_v5(target, order)?,
            MqttVersion::V311 => open_v4(target, order)?,
        };
        let handed = (target.session == Keeping::Session).then_some(handed);
        let file = target.settings.tls.client.as_ref().map(|(cert, _)| cert.clone());
        Ok(Self { client, events, pump, shown: file.zip(until), handed, cut })
    }

    /// Ends the connection, without a goodbye. Gives the answers that came on its way out, and what is to be carried
    /// over to the next one.
    pub(super) async fn end(mut self) -> (Vec<(Seq, Outcome)>, Option<Remains>) {
        self.cut.cancel();
        let mut answers = Vec::new();
        let ended = async {
            while let Some(event) = self.events.recv().await {
                if let Event::Answered(seq, outcome) = event {
                    answers.push((seq, outcome));
                }
            }
            (&mut self.pump).await.ok().flatten()
        };
        let remains = tokio::time::timeout(END, ended).await.ok().flatten();
        (answers, remains)
    }

    /// The next thing that happens. May be cancelled.
    pub(super) async fn event(&mut self) -> Event {
        let ended = || Event::Down(Fault::Broken("the client ended".to_owned()));
        self.events.recv().await.unwrap_or_else(ended)
    }

    /// Hands a message over, and says which entry of the log it is; `None` when the library's queue is full.
    pub(super) fn publish(
        &self,
        to: &Mapped,
        payload: Bytes,
        properties: Option<&Properties>,
        entry: Option<Seq>,
    ) -> Option<Notice> {
        // Written down before the library can know of it, for it is another task that reads.
        let handed = self.handed.as_ref().filter(|_| to.qos != Qos::AtMostOnce);
        if let Some(handed) = handed {
            lock(handed).push_back(entry);
        }
        let notice = self.try_publish(to, payload, properties);
        if let Some(handed) = handed.filter(|_| notice.is_none()) {
            lock(handed).pop_back();
        }
        notice
    }

    fn try_publish(&self, to: &Mapped, payload: Bytes, properties: Option<&Properties>) -> Option<Notice> {
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
