//! Drives the library's event loop of one connection: options in, events out, and at the end what is left of a session
//! that outlives its connection.

use rumqttc as v5;
use rumqttc_v4 as v4;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Client;
use super::Event;
use super::Fault;
use super::Keeping;
use super::Outcome;
use super::Peer;
use super::Remains;
use super::Target;
use super::convert::message_v4;
use super::convert::message_v5;
use super::dial;
use super::fault::fault_v4;
use super::fault::fault_v5;
use super::of_puback;
use super::of_pubrec;
use super::options::options_v4;
use super::options::options_v5;
use super::shelf::HandedOver;
use super::shelf::ShelfV4;
use super::shelf::ShelfV5;
use super::shelf::Tracker;
use crate::spool::Seq;
use crate::topic::Qos;

/// Seconds that the peer keeps a session that outlives its connection: an outage of a day.
const SESSION: u32 = 86_400;
/// Publishes that go out with one write; one by one, the system calls would be most of the work.
const BATCH: usize = 64;
/// Room in the library's queue beyond the window, for state and subscriptions.
const SPARE: usize = 16;

/// The client to publish with, and the task that does the work.
pub(super) type Opened = (Client, JoinHandle<Option<Remains>>);

/// One connection's work for the pump.
pub(super) struct Order {
    /// Ends the socket.
    pub(super) cut: CancellationToken,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) handed: HandedOver,
    /// What the session of an earlier connection left.
    pub(super) remains: Option<Remains>,
    /// `None` for plain endpoints.
    pub(super) tls: Option<v5::TlsConfiguration>,
}

pub(super) fn open_v5(target: &Target<'_>, order: Order) -> Result<Opened, Fault> {
    let mut options = options_v5(target, order.tls.clone())?;
    let Order { cut, events, handed, remains, .. } = order;
    options.set_max_request_batch(BATCH);
    options.set_socket_connector(move |address, _| dial::severable(address, cut.clone()));
    let (session, under_way) = match remains {
        Some(Remains::V5(session, under_way)) => (Some(session), under_way),
        _ => (None, Vec::new()),
    };
    let life = if session.is_some() { Life::Carried } else { Life::New };
    let shelf = (target.session == Keeping::Session).then(|| ShelfV5::holding(session));
    if let Some(shelf) = &shelf {
        options.set_session_store(shelf.clone()).set_session_expiry_interval(Some(SESSION)).set_clean_start(false);
    }
    let capacity = usize::from(target.settings.in_flight) + SPARE;
    let built = v5::AsyncClient::builder(options).capacity(capacity).try_build();
    let (client, engine) = built.map_err(|e| Fault::Refused(e.to_string()))?;
    let tracker = Tracker::new(handed, under_way);
    let pump = PumpV5 { engine, events, shelf, life, tracker };
    Ok((Client::V5(client), tokio::spawn(pump.run())))
}

pub(super) fn open_v4(target: &Target<'_>, order: Order) -> Result<Opened, Fault> {
    let mut options = options_v4(target, order.tls.clone())?;
    let Order { cut, events, handed, remains, .. } = order;
    options.set_max_request_batch(BATCH);
    options.set_socket_connector(move |address, _| dial::severable(address, cut.clone()));
    let (session, under_way) = match remains {
        Some(Remains::V4(session, under_way)) => (Some(session), under_way),
        _ => (None, Vec::new()),
    };
    let refused = |e: &dyn std::fmt::Display| Fault::Refused(e.to_string());
    let life = if session.is_some() { Life::Carried } else { Life::New };
    let shelf = (target.session == Keeping::Session).then(|| ShelfV4::holding(session));
    if let Some(shelf) = &shelf {
        options.set_session_store(shelf.clone()).try_set_clean_session(false).map_err(|e| refused(&e))?;
    }
    let capacity = usize::from(target.settings.in_flight) + SPARE;
    let built = v4::AsyncClient::builder(options).capacity(capacity).try_build();
    let (client, engine) = built.map_err(|e| refused(&e))?;
    let tracker = Tracker::new(handed, under_way);
    let pump = PumpV4 { engine, events, shelf, life, tracker };
    Ok((Client::V4(client), tokio::spawn(pump.run())))
}

/// Whether the library's half of a session comes from an earlier connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    New,
    Carried,
}

struct PumpV5 {
    engine: v5::EventLoop,
    events: mpsc::Sender<Event>,
    shelf: Option<ShelfV5>,
    life: Life,
    tracker: Tracker,
}

impl PumpV5 {
    async fn run(mut self) -> Option<Remains> {
        let mut up = false;
        let fault = loop {
            let event = match self.engine.poll().await {
                Ok(v5::Event::Incoming(packet)) => self.incoming(packet),
                Ok(v5::Event::Outgoing(v5::Outgoing::Publish(id))) => {
                    self.tracker.sent(id);
                    None
                }
                Ok(_) => None,
                Err(v5::ConnectionError::SessionStateMismatch { .. }) if self.life == Life::New => {
                    match self.forget().await {
                        Ok(()) => None,
                        Err(e) => break fault_v5(&e, up),
                    }
                }
                Err(e) => break fault_v5(&e, up),
            };
            let Some(event) = event else { continue };
            up |= matches!(event, Event::Connected(_));
            // Who does not listen any more is about to cut the socket: the loop goes on to its own end.
            let _ = self.events.send(event).await;
        };
        // Notices are answered when the loop is gone: whoever hears of the fault finds them all resolved.
        drop(self.engine);
        let kept = self.shelf.and_then(|shelf| shelf.take(self.tracker));
        if let Some((_, _, done)) = &kept {
            for entry in done {
                let _ = self.events.send(Event::Answered(*entry, Outcome::Acknowledged)).await;
            }
        }
        let _ = self.events.send(Event::Down(fault)).await;
        kept.map(|(session, under_way, _)| Remains::V5(session, under_way))
    }

    fn incoming(&mut self, packet: v5::Packet) -> Option<Event> {
        let answered = |seq: Option<Seq>, outcome| seq.map(|seq| Event::Answered(seq, outcome));
        match packet {
            v5::Packet::ConnAck(ack) => {
                self.life = Life::Carried;
                if !ack.session_present {
                    self.tracker.forget();
                }
                Some(Event::Connected(peer_v5(&ack)))
            }
            v5::Packet::Publish(p) => message_v5(p).map(Event::Received),
            v5::Packet::PubAck(p) => answered(self.tracker.done(p.pkid), of_puback(p.reason)),
            v5::Packet::PubRec(p) => match of_pubrec(p.reason) {
                // PUBCOMP follows.
                Outcome::Acknowledged => None,
                refused => answered(self.tracker.done(p.pkid), refused),
            },
            v5::Packet::PubComp(p) => answered(self.tracker.done(p.pkid), Outcome::Acknowledged),
            _ => None,
        }
    }

    /// The peer kept a session from an earlier life of ours, with which nothing can be gone on: a connection that
    /// wants a clean one ends it. The next poll connects again.
    async fn forget(&mut self) -> Result<(), v5::ConnectionError> {
        self.engine.clean();
        self.engine.options.set_clean_start(true);
        while !matches!(self.engine.poll().await?, v5::Event::Incoming(v5::Packet::ConnAck(_))) {}
        self.engine.clean();
        self.engine.options.set_clean_start(false);
        Ok(())
    }
}

struct PumpV4 {
    engine: v4::EventLoop,
    events: mpsc::Sender<Event>,
    shelf: Option<ShelfV4>,
    life: Life,
    tracker: Tracker,
}

impl PumpV4 {
    async fn run(mut self) -> Option<Remains> {
        let mut up = false;
        let fault = loop {
            let event = match self.engine.poll().await {
                Ok(v4::Event::Incoming(v4::Packet::ConnAck(ack))) if ack.session_present && self.life == Life::New => {
                    match self.forget().await {
                        Ok(()) => None,
                        Err(e) => break fault_v4(&e, up),
                    }
                }
                Ok(v4::Event::Incoming(packet)) => self.incoming(packet),
                Ok(v4::Event::Outgoing(v4::Outgoing::Publish(id))) => {
                    self.tracker.sent(id);
                    None
                }
                Ok(_) => None,
                Err(e) => break fault_v4(&e, up),
            };
            let Some(event) = event else { continue };
            up |= matches!(event, Event::Connected(_));
            let _ = self.events.send(event).await;
        };
        drop(self.engine);
        let kept = self.shelf.and_then(|shelf| shelf.take(self.tracker));
        if let Some((_, _, done)) = &kept {
            for entry in done {
                let _ = self.events.send(Event::Answered(*entry, Outcome::Acknowledged)).await;
            }
        }
        let _ = self.events.send(Event::Down(fault)).await;
        kept.map(|(session, under_way, _)| Remains::V4(session, under_way))
    }

    fn incoming(&mut self, packet: v4::Packet) -> Option<Event> {
        let acknowledged = |seq: Option<Seq>| seq.map(|seq| Event::Answered(seq, Outcome::Acknowledged));
        match packet {
            v4::Packet::ConnAck(ack) => {
                self.life = Life::Carried;
                if !ack.session_present {
                    self.tracker.forget();
                }
                Some(Event::Connected(peer_v4(ack.session_present)))
            }
            v4::Packet::Publish(p) => message_v4(p).map(Event::Received),
            v4::Packet::PubAck(p) => acknowledged(self.tracker.done(p.pkid)),
            v4::Packet::PubComp(p) => acknowledged(self.tracker.done(p.pkid)),
            _ => None,
        }
    }

    /// As with 5; but 3.1.1 knows no session that is begun clean and kept.
    async fn forget(&mut self) -> Result<(), v4::ConnectionError> {
        self.engine.clean();
        // Refused for an empty client id alone, which `check` refuses too.
        let _ = self.engine.mqtt_options.try_set_clean_session(true);
        while !matches!(self.engine.poll().await?, v4::Event::Incoming(v4::Packet::ConnAck(_))) {}
        self.engine.clean();
        let _ = self.engine.mqtt_options.try_set_clean_session(false);
        Ok(())
    }
}

const fn peer_v4(resumed: bool) -> Peer {
    Peer {
        version: "3.1.1",
        receive_maximum: u16::MAX,
        maximum_packet: 256 << 20,
        maximum_qos: Qos::ExactlyOnce,
        retain: true,
        resumed,
    }
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
        resumed: ack.session_present,
    }
}
