//! What the broker says of itself: the status snapshot and the `$SYS/broker/…` topics under their conventional names.

use std::time::Instant;

use bytes::Bytes;

use super::core::Core;
use super::core::Counts;
use crate::message::Message;
use crate::message::Retain;
use crate::status::BrokerStatus;
use crate::status::ClientStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Minutes over which loads are averaged.
const SPANS: [u32; 3] = [1, 5, 15];

/// Averages per minute over 1, 5 and 15 minutes, as a system's load: recent minutes count more.
#[derive(Debug, Default)]
pub(super) struct Loads {
    then: Option<(Instant, Counts)>,
    averages: [[f64; 3]; 5],
}

type Counter = fn(&Counts) -> u64;

/// What loads are told of, in the order of `averages`.
const LOADS: [(&str, Counter); 5] = [
    ("messages/received", |c| c.messages_in),
    ("messages/sent", |c| c.messages_out),
    ("bytes/received", |c| c.bytes_in),
    ("bytes/sent", |c| c.bytes_out),
    ("connections", |c| c.connects),
];

impl Loads {
    fn renew(&mut self, now: Instant, counts: Counts) {
        let Some((then, before)) = self.then.replace((now, counts)) else { return };
        let minutes = now.saturating_duration_since(then).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((_, count), averages) in LOADS.iter().zip(&mut self.averages) {
            let rate = count(&counts).saturating_sub(count(&before)) as f64 / minutes;
            for (average, span) in averages.iter_mut().zip(SPANS) {
                *average += (rate - *average) * (1.0 - (-minutes / f64::from(span)).exp());
            }
        }
    }

    fn facts(&self) -> impl Iterator<Item = (String, String)> {
        LOADS.iter().zip(&self.averages).flat_map(|((name, _), averages)| {
            let each = averages.iter().zip(SPANS);
            each.map(move |(average, span)| (format!("load/{name}/{span}min"), format!("{average:.2}")))
        })
    }
}

impl Core {
    /// Everything at this moment; `listeners` are the bound addresses.
    pub fn status(&self, listeners: &[String]) -> BrokerStatus {
        let clients = self.conns.iter().filter_map(|(_, conn)| {
            let seat = self.seats.get(conn.session?)?;
            Some(ClientStatus {
                id: conn.client_id.to_string(),
                address: conn.guest.peer.to_string(),
                version: conn.version.name().to_owned(),
                user: conn.guest.user.as_deref().map(str::to_owned),
                keep_alive_s: conn.keep_alive,
                clean_start: conn.clean_start,
                session_expiry_s: conn.session_expiry,
                connected_s: conn.traffic.age().as_secs(),
                rates: conn.traffic.rates(),
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

    /// Rates as they are now; to be called about once a second.
    pub fn renew_rates(&mut self, now: Instant) {
        self.conns.iter_mut().for_each(|conn| conn.traffic.renew(now));
    }

    fn away(&self) -> usize {
        self.seats.iter().filter(|(_, seat)| seat.conn.is_none()).count()
    }

    /// Publishes the `$SYS` topics, retained.
    pub fn publish_sys(&mut self, now: Instant) {
        let (away, connected) = (self.away(), self.seats.len() - self.away());
        let uptime = now.saturating_duration_since(self.started).as_secs();
        self.loads.renew(now, self.counts);
        let facts = [
            ("version", format!("trunkline {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{uptime} seconds")),
            ("clients/connected", connected.to_string()),
            ("clients/disconnected", away.to_string()),
            ("clients/total", self.seats.len().to_string()),
            ("messages/received", self.counts.messages_in.to_string()),
            ("messages/sent", self.counts.messages_out.to_string()),
            ("bytes/received", self.counts.bytes_in.to_string()),
            ("bytes/sent", self.counts.bytes_out.to_string()),
            ("publish/messages/dropped", self.counts.dropped.to_string()),
            ("retained messages/count", self.retained.len().to_string()),
            ("store/messages/bytes", self.retained.bytes().to_string()),
            ("subscriptions/count", self.router.len().to_string()),
        ];
        let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value));
        let facts: Vec<_> = facts.chain(self.loads.facts()).collect();
        for (name, value) in facts {
            let topic = TopicName::new(format!("$SYS/broker/{name}")).expect("the names above are topic names");
            let message = Message::plain(topic, Bytes::from(value), Qos::AtMostOnce, Retain::Yes);
            self.route(now, None, None, message);
        }
        self.settle(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_comes_near_to_a_steady_rate_and_fades() {
        let (mut loads, mut now, mut counts) = (Loads::default(), Instant::now(), Counts::default());
        loads.renew(now, counts);
        for _ in 0..60 {
            now += std::time::Duration::from_secs(10);
            counts.messages_in += 100;
            loads.renew(now, counts);
        }
        let [one, five, fifteen] = loads.averages[0];
        assert!((one - 600.0).abs() < 1.0 && five < one && fifteen < five && fifteen > 100.0, "{one} {five} {fifteen}");
        for _ in 0..60 {
            now += std::time::Duration::from_secs(10);
            loads.renew(now, counts);
        }
        assert!(loads.averages[0][0] < 1.0 && loads.averages[0][2] > 100.0);
    }
}
