//! What the broker says of itself: the status snapshot and the `$SYS/broker/…` topics under their conventional names.

use std::time::Instant;

use bytes::Bytes;

use super::core::Core;
use super::traffic::Counts;
use crate::message::Message;
use crate::message::Retain;
use crate::status::BrokerStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Minutes over which loads are averaged.
const SPANS: [u32; 3] = [1, 5, 15];

/// Averages per minute over 1, 5 and 15 minutes, as a system's load: recent minutes count more.
#[derive(Debug, Default)]
pub(super) struct Loads {
    then: Option<(Instant, Counts)>,
    averages: [[f64; 3]; 9],
}

type Counter = fn(&Counts) -> u64;

/// What loads are told of, in the order of `averages`.
const LOADS: [(&str, Counter); 9] = [
    ("messages/received", |c| c.packets_in),
    ("messages/sent", |c| c.packets_out),
    ("publish/dropped", |c| c.dropped),
    ("publish/received", |c| c.messages_in),
    ("publish/sent", |c| c.messages_out),
    ("bytes/received", |c| c.bytes_in),
    ("bytes/sent", |c| c.bytes_out),
    ("sockets", |c| c.sockets),
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

    fn facts(&self) -> Vec<(String, String)> {
        let facts = LOADS.iter().zip(&self.averages).flat_map(|((name, _), averages)| {
            let each = averages.iter().zip(SPANS);
            each.map(move |(average, span)| (format!("load/{name}/{span}min"), format!("{average:.2}")))
        });
        facts.collect()
    }
}

impl Core {
    /// Everything at this moment; `listeners` are the bound addresses.
    pub fn status(&self, listeners: &[String]) -> BrokerStatus {
        let clients = self.conns.iter().filter_map(|(_, conn)| self.client(conn));
        BrokerStatus {
            listeners: listeners.to_vec(),
            clients: clients.collect(),
            sessions_away: self.away(),
            retained: self.retained.len(),
            subscriptions: self.router.len(),
            messages_in: self.counts.messages_in,
            messages_out: self.counts.messages_out,
            dropped: self.counts.dropped,
            error: None,
        }
    }

    /// Rates as they are now; to be called about once a second.
    pub fn renew_rates(&mut self, now: Instant) {
        self.conns.iter_mut().for_each(|conn| conn.traffic.renew(now));
    }

    fn away(&self) -> usize {
        self.seats.iter().filter(|(_, seat)| seat.conn.is_none()).count()
    }

    /// Publishes the `$SYS` topics that have changed, retained.
    pub fn publish_sys(&mut self, now: Instant) {
        self.loads.renew(now, self.counts);
        for (name, value) in self.facts(now).into_iter().chain(self.loads.facts()) {
            let topic = TopicName::new(format!("$SYS/broker/{name}")).expect("the names below are topic names");
            if self.retained.get(&topic).is_some_and(|known| known.message.payload == value) {
                continue;
            }
            let message = Message::plain(topic, Bytes::from(value), Qos::AtMostOnce, Retain::Yes);
            self.route(now, None, None, message);
        }
        self.settle(now);
    }

    /// Under the names that Mosquitto gave them, because tools look for those. Two name the same thing as before they were
    /// renamed (`active`, `inactive`), and so does `messages/stored`. `heap` is missing: nobody counts it here.
    fn facts(&self, now: Instant) -> Vec<(String, String)> {
        let (away, connected) = (self.away(), self.seats.len() - self.away());
        let uptime = now.saturating_duration_since(self.started).as_secs();
        let sessions = || self.seats.iter().map(|(_, seat)| &seat.session);
        let shared: usize = sessions().map(|s| s.subscriptions().values().filter(|s| s.group.is_some()).count()).sum();
        let waiting: usize = sessions().map(|s| s.waiting() + s.in_flight()).sum();
        let bytes: usize = sessions().map(super::session::Session::bytes).sum();
        let stored = self.retained.len() + waiting;
        let counts = &self.counts;
        let facts = [
            ("version", format!("trunkline {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{uptime} seconds")),
            ("clients/connected", connected.to_string()),
            ("clients/active", connected.to_string()),
            ("clients/disconnected", away.to_string()),
            ("clients/inactive", away.to_string()),
            ("clients/total", self.seats.len().to_string()),
            ("clients/maximum", counts.maximum.to_string()),
            ("clients/expired", counts.expired.to_string()),
            ("messages/received", counts.packets_in.to_string()),
            ("messages/sent", counts.packets_out.to_string()),
            ("messages/stored", stored.to_string()),
            ("publish/messages/received", counts.messages_in.to_string()),
            ("publish/messages/sent", counts.messages_out.to_string()),
            ("publish/messages/dropped", counts.dropped.to_string()),
            ("publish/bytes/received", counts.payload_in.to_string()),
            ("publish/bytes/sent", counts.payload_out.to_string()),
            ("bytes/received", counts.bytes_in.to_string()),
            ("bytes/sent", counts.bytes_out.to_string()),
            ("retained messages/count", self.retained.len().to_string()),
            ("store/messages/count", stored.to_string()),
            ("store/messages/bytes", (self.retained.bytes() + bytes).to_string()),
            ("subscriptions/count", (self.router.len() - shared).to_string()),
            ("shared_subscriptions/count", shared.to_string()),
        ];
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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
            counts.packets_in += 100;
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
