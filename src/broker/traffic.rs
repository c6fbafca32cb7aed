//! What passes through the broker: counted since the start; of one client counted since it connected, and as rates that fade
//! when it falls silent. Pure.

use std::time::Duration;
use std::time::Instant;

use crate::status::Rates;

/// Seconds after which a rate has gone two thirds of the way to a new one: seen soon, not jumping with each message.
const FADE: f64 = 5.0;

/// Counted things, in the order of [`Rates`]: messages in and out, bytes in and out.
type Four = [u64; 4];

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// PUBLISH taken in, the gateway's own included.
    pub messages_in: u64,
    /// PUBLISH given out.
    pub messages_out: u64,
    /// Dropped for slow or absent clients.
    pub dropped: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes for clients.
    pub bytes_out: u64,
    /// Connections accepted since the start, refused ones not counted.
    pub connects: u64,
    /// Most connections there were at once.
    pub maximum: u64,
    /// Sockets opened to listeners.
    pub sockets: u64,
    /// Packets of any kind from clients.
    pub packets_in: u64,
    /// Packets of any kind to clients.
    pub packets_out: u64,
    /// Bytes of payload taken in.
    pub payload_in: u64,
    /// Bytes of payload given out.
    pub payload_out: u64,
    /// Sessions that came to the end of their time.
    pub expired: u64,
}

/// Counters and rates of one connection.
#[derive(Debug)]
pub struct Traffic {
    since: Instant,
    counts: Four,
    then: (Instant, Four),
    rates: [f64; 4],
}

impl Traffic {
    /// From now on.
    pub const fn new(now: Instant) -> Self {
        Self { since: now, counts: [0; 4], then: (now, [0; 4]), rates: [0.0; 4] }
    }

    /// It published a message.
    pub const fn published(&mut self) {
        self.counts[0] += 1;
    }

    /// It was sent a message.
    pub const fn delivered(&mut self) {
        self.counts[1] += 1;
    }

    /// Bytes came from it.
    pub const fn read(&mut self, bytes: usize) {
        self.counts[2] += bytes as u64;
    }

    /// Bytes went to it.
    pub const fn written(&mut self, bytes: usize) {
        self.counts[3] += bytes as u64;
    }

    /// To be called about once a second.
    pub fn renew(&mut self, now: Instant) {
        let (then, before) = self.then;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let weight = 1.0 - (-seconds / FADE).exp();
        for ((rate, count), before) in self.rates.iter_mut().zip(self.counts).zip(before) {
            *rate += ((count - before) as f64 / seconds - *rate) * weight;
            // So that silence is nought some day, and not a number with many zeros.
            if *rate < 0.005 {
                *rate = 0.0;
            }
        }
        self.then = (now, self.counts);
    }

    /// From its connection to the last renewal.
    pub fn age(&self) -> Duration {
        self.then.0 - self.since
    }

    /// As they stand, to two decimals.
    pub fn rates(&self) -> Rates {
        let [messages_in, messages_out, bytes_in, bytes_out] = self.rates.map(|rate| (rate * 100.0).round() / 100.0);
        Rates { messages_in, messages_out, bytes_in, bytes_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_near_to_what_passes_and_fades_to_nothing() {
        let mut now = Instant::now();
        let mut traffic = Traffic::new(now);
        for _ in 0..30 {
            now += Duration::from_secs(1);
            for _ in 0..10 {
                traffic.published();
                traffic.read(100);
            }
            traffic.delivered();
            traffic.written(50);
            traffic.renew(now);
        }
        let rates = traffic.rates();
        assert!((rates.messages_in - 10.0).abs() < 0.1 && (rates.bytes_in - 1000.0).abs() < 5.0, "{rates:?}");
        assert!((rates.messages_out - 1.0).abs() < 0.1 && (rates.bytes_out - 50.0).abs() < 0.5, "{rates:?}");
        now += Duration::from_secs(5);
        traffic.renew(now);
        assert!(traffic.rates().messages_in < 4.0, "{:?}", traffic.rates());
        now += Duration::from_secs(600);
        traffic.renew(now);
        assert_eq!(traffic.rates(), Rates::default());
    }
}
