//! How many values a second one core takes from words to a subscriber's bytes: decoded, judged by range and report policy,
//! rendered as JSON, kept, routed, and encoded for one client that wants everything. All of it is the gateway's own code on
//! one thread; left out are the wire and the sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::BytesMut;
use rust_decimal::Decimal;
use rustix::time::ClockId;
use tokio::sync::mpsc;

use crate::bench::work;
use crate::broker::access::Access;
use crate::broker::core::Core;
use crate::broker::core::Guest;
use crate::broker::packet::Packet;
use crate::broker::packet::decode::Decoder;
use crate::config::plant::Anonymous;
use crate::config::plant::Limits;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::config::plant::When;
use crate::decode;
use crate::decode::Words;
use crate::message::Message;
use crate::payload::Format;
use crate::point::AddressRange;
use crate::point::BitSpan;
use crate::point::DataType;
use crate::point::DeviceId;
use crate::point::PointId;
use crate::point::Scale;
use crate::point::WordOrder;
use crate::publish;
use crate::sample::Sample;
use crate::time;
use crate::topic::Qos;
use crate::topic::TopicName;

/// As many as the large site has.
const DEVICES: u32 = 50;
const POINTS: u32 = 100;
/// CONNECT of 3.1.1 with a clean session, then SUBSCRIBE to `#` with QoS 0.
const CLIENT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01b\x82\x06\0\x01\0\x01#\0";

/// What it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Values that went all the way; every one of them had changed.
    pub values: u64,
    /// Bytes for the subscriber.
    pub bytes: u64,
    /// Processor time of the thread.
    pub used: Duration,
    /// The clock on the wall, which on a busy machine is more.
    pub lasted: Duration,
    /// Of it: words to samples.
    pub decoding: Duration,
    /// Samples to messages.
    pub publishing: Duration,
    /// Messages to bytes.
    pub routing: Duration,
}

impl Outcome {
    /// Values in a second of processor time.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
        let values = self.values as f64;
        values / self.used.as_secs_f64()
    }
}

/// So many readings of every point.
pub fn run(rounds: u16) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread needs nothing that can be missing").block_on(measure(rounds))
}

async fn measure(rounds: u16) -> Outcome {
    let points = points();
    let parts = publish::Parts { gateway: "bench", devices: &[], points: &points };
    let (samples, sampled) = mpsc::channel(DEVICES as usize);
    let (_events, happened) = mpsc::channel(1);
    let (sink, mut messages) = mpsc::channel(DEVICES as usize);
    let (_account, task) = publish::new(parts, sampled, happened, sink);
    let task = tokio::spawn(task.run());
    // The gateway's own `online`.
    let _ = messages.recv().await;
    let mut broker = Listening::new();
    let mut outcome = Outcome::default();
    let (begun, used) = (Instant::now(), processor_time());
    for round in 0..rounds {
        let begun = Instant::now();
        let mut wanted = 0;
        for device in points.chunks(POINTS as usize) {
            let read = read(device, round);
            wanted += read.len();
            samples.send(read).await.expect("publish runs until the samples end");
        }
        let decoded = Instant::now();
        let mut told = Vec::with_capacity(wanted);
        while told.len() < wanted {
            told.extend(messages.recv().await.expect("publish runs until the samples end"));
        }
        let published = Instant::now();
        outcome.values += told.len() as u64;
        outcome.bytes += broker.publish(told);
        outcome.decoding += decoded - begun;
        outcome.publishing += published - decoded;
        outcome.routing += published.elapsed();
    }
    (outcome.used, outcome.lasted) = (processor_time() - used, begun.elapsed());
    drop(samples);
    drop(messages);
    // It ends because nobody listens any more.
    let _ = task.await;
    outcome
}

/// The broker's core with one client connected.
struct Listening {
    core: Core,
    client: usize,
}

impl Listening {
    fn new() -> Self {
        let now = Instant::now();
        let limits = Limits { clients: 1, packet: 64 * 1024, queue: 100, ..Limits::default() };
        let mut core = Core::new(limits, Access::new(Anonymous::Always, Vec::new(), Vec::new()), now);
        let guest = Guest::nobody(SocketAddr::from(([127, 0, 0, 1], 1)), limits);
        let (mut bytes, mut decoder) = (BytesMut::from(CLIENT), Decoder::new(limits.packet));
        let Ok(Some(Packet::Connect(connect))) = decoder.next(&mut bytes) else { unreachable!("the bytes are above") };
        let client = core.connect(now, *connect, guest).expect("anybody may come in");
        let subscribe = decoder.next(&mut bytes).ok().flatten().expect("the bytes are above");
        core.packet(now, client, subscribe);
        Self { core, client }
    }

    /// Device by device, as they come in life; the bytes written for the client.
    fn publish(&mut self, messages: Vec<Message>) -> u64 {
        let mut messages = messages.into_iter();
        let mut written = 0;
        loop {
            let some: Vec<Message> = messages.by_ref().take(POINTS as usize).collect();
            if some.is_empty() {
                return written;
            }
            let now = Instant::now();
            self.core.publish_local(now, "", some);
            written += self.core.take_output(self.client).chunks.iter().map(|c| c.len() as u64).sum::<u64>();
            self.core.written(now, self.client);
        }
    }
}

/// What a reply of the device would make of its points in this round: every value differs from the round before.
fn read(device: &[Arc<Point>], round: u16) -> Vec<Sample> {
    let taken = time::now();
    let sample = |point: &Arc<Point>| {
        let Source::Wire(wire) = &point.source else { unreachable!("all points of the bench are on the wire") };
        // The high word makes a float of some hundreds, the low word moves it.
        let words = [0x4348, round];
        let words = if wire.range.count() == 1 { &words[1..] } else { &words[..] };
        let value = decode::decode(wire, Words::Registers(words), None)
            .and_then(|value| decode::judge(point.range.as_deref(), &value).map(|()| value));
        match value {
            Ok(value) => Sample::good(point.id, value, taken),
            Err(reason) => Sample::bad(point.id, reason, taken),
        }
    };
    device.iter().map(sample).collect()
}

/// A mixture as plants have it: raw and scaled words, floats, counters of two words, states, single bits.
fn points() -> Vec<Arc<Point>> {
    let make = |id: u32| {
        let mut point = work::point(PointId(id), DeviceId(id / POINTS), 0, Duration::from_secs(1));
        let Source::Wire(wire) = &mut point.source else { unreachable!("made so") };
        let wire = Arc::make_mut(wire);
        wire.data_type = [DataType::U16, DataType::I16, DataType::F32, DataType::U32, DataType::U16][id as usize % 5];
        wire.range = AddressRange::new(0, wire.data_type.registers()).expect("at most two registers");
        match id % 10 {
            1 | 6 => wire.scale = Scale { factor: Decimal::new(1, 1), ..Scale::default() },
            3 => wire.order = WordOrder::Abcd,
            4 => wire.bits = Some(BitSpan { low: 0, high: 0 }),
            9 => wire.names = BTreeMap::from([(0, "stopped".into()), (1, "cooling".into())]),
            _ => {}
        }
        if id % 10 == 2 {
            point.range = Some(Box::new((Decimal::ZERO, Decimal::ONE_HUNDRED * Decimal::TEN)));
        }
        Arc::make_mut(&mut point.report).when = When::Change;
        let series = Arc::make_mut(&mut point.series);
        series.unit = "kWh".into();
        series.format = Format::Json;
        (series.qos, series.retain) = (Qos::AtLeastOnce, true);
        series.topic =
            TopicName::new(format!("bench/device-{}/point-{}", id / POINTS, id % POINTS)).expect("plain levels");
        Arc::new(point)
    };
    (0..DEVICES * POINTS).map(make).collect()
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_every_round_reaches_the_subscriber() {
        let outcome = run(3);
        assert_eq!(outcome.values, 3 * u64::from(DEVICES * POINTS));
        // A topic of some twenty letters and a JSON of some seventy.
        assert!(outcome.bytes > 80 * outcome.values, "{outcome:?}");
    }
}
