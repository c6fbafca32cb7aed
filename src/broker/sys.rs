//! What the broker says of itself: the status snapshot and the `$SYS/broker/…` topics under their conventional names.

use std::time::Instant;

use bytes::Bytes;

use super::core::Core;
use crate::message::Message;
use crate::message::Retain;
use crate::status::BrokerStatus;
use crate::status::ClientStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

impl Core {
    /// Everything at this moment; `listeners` are the bound addresses.
    pub fn status(&self, listeners: &[String]) -> BrokerStatus {
        let clients = self.conns.iter().filter_map(|(_, conn)| {
            let seat = self.seats.get(conn.session?)?;
            Some(ClientStatus {
                id: conn.client_id.to_string(),
                address: conn.peer.to_string(),
                version: conn.version.name().to_owned(),
                user: conn.user.as_deref().map(str::to_owned),
                keep_alive_s: conn.keep_alive,
                subscriptions: seat.session.subscriptions().len(),
                queued: seat.session.waiting(),
                in_flight: seat.session.in_flight(),
            })
        });
        BrokerStatus {
            listeners: listeners.to_vec(),
            clients: clients.collect(),
            sessions_away: self.away(),
            retained: self.retained.len(),
            subscriptions: self.router.len(),
            messages_in: self.counts.messages_in,
            messages_out: self.counts.messages_out,
            dropped: self.counts.dropped,
        }
    }

    fn away(&self) -> usize {
        self.seats.iter().filter(|(_, seat)| seat.conn.is_none()).count()
    }

    /// Publishes the `$SYS` topics, retained.
    pub fn publish_sys(&mut self, now: Instant) {
        let (away, connected) = (self.away(), self.seats.len() - self.away());
        let uptime = now.saturating_duration_since(self.started).as_secs();
        let facts = [
            ("version", format!("trunkline {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{uptime} seconds")),
            ("clients/connected", connected.to_string()),
            ("clients/disconnected", away.to_string()),
            ("clients/total", self.seats.len().to_string()),
            ("messages/received", self.counts.messages_in.to_string()),
            ("messages/sent", self.counts.messages_out.to_string()),
            ("publish/messages/dropped", self.counts.dropped.to_string()),
            ("retained messages/count", self.retained.len().to_string()),
            ("subscriptions/count", self.router.len().to_string()),
        ];
        for (name, value) in facts {
            let topic = TopicName::new(format!("$SYS/broker/{name}")).expect("the names above are topic names");
            let message = Message::plain(topic, Bytes::from(value), Qos::AtMostOnce, Retain::Yes);
            self.route(now, None, None, message);
        }
        self.settle(now);
    }
}
