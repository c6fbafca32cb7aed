//! As much as goes: pairs of a publisher and a subscriber, a topic each, 200 bytes. One thread serves all connections of the
//! generator and waits in `poll` for whoever is ready, so that no broker competes with threads that spin.
//!
//! The same for every broker: at most [`WINDOW`] messages are between a pair, so that nobody has to drop; a publisher writes
//! again when half of them have arrived, so that a broker that hands on in runs is not fed in larger runs than one that does not.

use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;

use crate::bench::mqtt::inbox::Inbox;
use crate::bench::mqtt::peer::Peer;
use crate::bench::mqtt::write;

/// Bytes of a message.
pub const PAYLOAD: usize = 200;
/// Messages between a publisher and its subscriber at most.
pub const WINDOW: u64 = 100;
/// What has not arrived so long after the end is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Each by itself, as paho, MQTT.js and Node-RED do.
    Single,
    /// All that there are with one write, as a busy bridge does.
    Runs,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Publishers, and as many subscribers.
    pub pairs: usize,
    /// Of publish and subscription.
    pub qos: u8,
    /// How the generator writes.
    pub writes: Writes,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    /// Messages delivered a second.
    pub rate: f64,
    /// Processor time of the broker a message delivered, in microseconds.
    pub cpu: f64,
    /// Sent and not delivered, of all.
    pub lost: u64,
    /// Delivered twice or out of order.
    pub wrong: u64,
    /// Processor time of the generator, of one core.
    pub own: f64,
}

/// One connection that never blocks.
struct Wire {
    stream: TcpStream,
    inbox: Inbox,
    out: Vec<u8>,
    writes: Writes,
}

impl Wire {
    fn put(&mut self, packet: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(packet);
        if self.writes == Writes::Single { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        while done < self.out.len() {
            match self.stream.write(&self.out[done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        self.out.drain(..done);
        Ok(())
    }

    /// Hands every packet that is there to `look`: type and flags, identifier, and the number in front of the payload.
    fn read(&mut self, mut look: impl FnMut(&mut Self, u8, u16, Option<u64>) -> io::Result<()>) -> io::Result<()> {
        match self.inbox.fill(&mut self.stream) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed a connection")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
        let number = |rest: &[u8]| rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        while let Some((first, id, number)) = self.inbox.next(|said| (said.first, said.id, number(said.rest)))? {
            look(self, first, id, number)?;
        }
        self.flush()
    }
}

struct Pair {
    topic: String,
    publisher: Wire,
    subscriber: Wire,
    sent: u64,
    acknowledged: u64,
    received: u64,
    wrong: u64,
}

impl Pair {
    fn join(address: SocketAddr, n: usize, load: Load) -> io::Result<Self> {
        let topic = format!("bench/{n}");
        let wire = |stream: TcpStream| -> io::Result<Wire> {
            stream.set_nonblocking(true)?;
            Ok(Wire { stream, inbox: Inbox::default(), out: Vec::new(), writes: load.writes })
        };
        // Nothing is on its way to them yet, so they can change over from a blocking life without losing bytes.
        let mut subscriber = Peer::join(address, &format!("subscriber-{n}"))?;
        subscriber.subscribe(&topic, load.qos)?;
        let subscriber = wire(subscriber.stream().try_clone()?)?;
        let publisher = wire(Peer::join(address, &format!("publisher-{n}"))?.stream().try_clone()?)?;
        Ok(Self { topic, publisher, subscriber, sent: 0, acknowledged: 0, received: 0, wrong: 0 })
    }

    fn hear(&mut self) -> io::Result<()> {
        let Self { subscriber, received, wrong, .. } = self;
        subscriber.read(|wire, first, id, number| {
            if first >> 4 == 3 {
                *wrong += u64::from(number != Some(*received));
                *received = number.map_or(*received, |number| number.max(*received)) + 1;
            }
            match (first >> 4, first & 6) {
                (3, 2) => wire.put(&answer(0x40, id)),
                (3, 4) => wire.put(&answer(0x50, id)),
                (6, _) => wire.put(&answer(0x70, id)),
                _ => Ok(()),
            }
        })
    }

    fn collect(&mut self) -> io::Result<()> {
        let Self { publisher, acknowledged, .. } = self;
        publisher.read(|wire, first, id, _| match first >> 4 {
            4 | 7 => {
                *acknowledged += 1;
                Ok(())
            }
            5 => wire.put(&answer(0x62, id)),
            _ => Ok(()),
        })
    }

    fn under_way(&self, qos: u8) -> u64 {
        self.sent - if qos == 0 { self.received } else { self.received.min(self.acknowledged) }
    }

    fn send(&mut self, qos: u8) -> io::Result<()> {
        let under_way = self.under_way(qos);
        if under_way > WINDOW / 2 {
            return Ok(());
        }
        let (mut payload, mut packet) = ([b'x'; PAYLOAD], Vec::new());
        for _ in under_way..WINDOW {
            payload[..8].copy_from_slice(&self.sent.to_be_bytes());
            packet.clear();
            write::publish(&mut packet, &self.topic, qos, (self.sent % 60_000) as u16 + 1, &payload);
            self.publisher.put(&packet)?;
            self.sent += 1;
        }
        self.publisher.flush()
    }
}

fn answer(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 2, high, low]
}

/// Runs the load for `span`, after a tenth of it to warm up; `used` tells the broker's processor time.
pub fn run(
    address: SocketAddr,
    load: Load,
    span: Duration,
    used: impl Fn() -> io::Result<Duration>,
) -> io::Result<Flow> {
    let mut pairs: Vec<Pair> = (0..load.pairs).map(|n| Pair::join(address, n, load)).collect::<io::Result<_>>()?;
    drive(&mut pairs, load.qos, Instant::now() + span / 10, Until::Time)?;
    let total = |pairs: &[Pair]| pairs.iter().map(|pair| pair.received).sum::<u64>();
    let own = || crate::bench::process::used("self");
    let (begun, before, cpu, mine) = (Instant::now(), total(&pairs), used()?, own()?);
    drive(&mut pairs, load.qos, begun + span, Until::Time)?;
    let (lasted, messages) = (begun.elapsed(), total(&pairs) - before);
    let (cpu, mine) = (used()? - cpu, own()? - mine);
    drive(&mut pairs, load.qos, Instant::now() + PATIENCE, Until::Arrived)?;
    Ok(Flow {
        rate: messages as f64 / lasted.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / messages.max(1) as f64,
        lost: pairs.iter().map(|pair| pair.sent - pair.received).sum(),
        wrong: pairs.iter().map(|pair| pair.wrong).sum(),
        own: mine.div_duration_f64(lasted),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Until {
    Time,
    Arrived,
}

fn drive(pairs: &mut [Pair], qos: u8, end: Instant, until: Until) -> io::Result<()> {
    let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while Instant::now() < end {
        if until == Until::Time {
            pairs.iter_mut().try_for_each(|pair| pair.send(qos))?;
        } else if pairs.iter().all(|pair| pair.under_way(qos) == 0) {
            return Ok(());
        }
        let mut ready: Vec<PollFd<'_>> =
            pairs.iter().flat_map(|pair| [&pair.publisher, &pair.subscriber]).map(interest).collect();
        poll(&mut ready, Some(&wait))?;
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (pair, ready) in pairs.iter_mut().zip(ready.chunks(2)) {
            if ready[0] {
                pair.publisher.flush()?;
                pair.collect()?;
            }
            if ready[1] {
                pair.hear()?;
            }
        }
    }
    Ok(())
}

fn interest(wire: &Wire) -> PollFd<'_> {
    let flags = if wire.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
    PollFd::new(&wire.stream, flags)
}
