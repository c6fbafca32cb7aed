//! What costs how many bytes, and whether it disturbs anybody: idle clients, subscribers that never read, 100,000 retained topics,
//! payloads of 1 MB, 10,000 subscriptions of one client. Beside most scenes a publisher and a subscriber exchange 400 messages a
//! second at QoS 1, and their delays are told as well.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bench::broker::pace;
use crate::bench::broker::server;
use crate::bench::broker::server::Server;
use crate::bench::broker::versus::fresh;
use crate::bench::line::Spread;
use crate::bench::mqtt::peer::Peer;
use crate::bench::mqtt::write;

/// Publishes without an acknowledgement at most.
const WINDOW: usize = 50;
/// How long the well-behaved pair is watched where nothing else sets the time.
const WATCH: Duration = Duration::from_secs(5);
/// Messages a second of that pair.
const RATE: u32 = 400;
/// A CONNECT whose session outlives the connection.
const KEPT: &[u8] = b"\x10\x10\0\x04MQTT\x04\0\0\0\0\x04kept";

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Of what.
    pub what: String,
    /// With its unit.
    pub figure: String,
}

/// Where scenes are played.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The gateway.
    pub program: &'a Path,
    /// What it leaves is thrown away.
    pub folder: &'a Path,
}

type Scene = fn(&Stage<'_>) -> io::Result<Vec<Fact>>;

/// Name and scene.
pub const SCENES: [(&str, Scene); 5] = [
    ("idle clients", idle),
    ("stuck subscribers", stuck),
    ("retained topics", retained),
    ("large payloads", large),
    ("subscriptions", subscriptions),
];

/// Limits as they are by default.
const DEFAULT: &str = "gateway: bench\nbroker: {listen: [{tcp: 127.0.0.1:0}]}\n";

impl Stage<'_> {
    fn server(&self, configuration: &str) -> io::Result<Server> {
        Server::ours(self.program, &fresh(self.folder)?, configuration)
    }
}

fn fact(what: impl Into<String>, figure: impl Into<String>) -> Fact {
    Fact { what: what.into(), figure: figure.into() }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// Growth since `before`, of so many.
fn growth(what: &str, before: u64, after: u64, count: u64) -> Fact {
    let more = after.saturating_sub(before);
    fact(what, format!("{} more, {} bytes each", megabytes(more), more / count.max(1)))
}

fn delays(what: &str, spread: &Spread) -> Fact {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, p99, longest) = (ms(spread.median), ms(spread.p99), ms(spread.longest));
    fact(what, format!("p50 {median:.2}, p99 {p99:.2}, longest {longest:.1} ms"))
}

fn resident(server: &Server) -> io::Result<u64> {
    server.memory().map(|memory| memory.resident)
}

/// Whether everything that was sent so far has been taken in.
fn settle(peer: &mut Peer) -> io::Result<()> {
    peer.send(&[0xC0, 0])?;
    while peer.next(|said| said.kind())? != 13 {}
    Ok(())
}

/// Sends every packet with at most [`WINDOW`] unacknowledged.
fn publish_all(peer: &mut Peer, count: usize, packet: impl Fn(usize, u16) -> Vec<u8>) -> io::Result<()> {
    let (mut sent, mut done) = (0, 0);
    while done < count {
        while sent < count && sent - done < WINDOW {
            peer.send(&packet(sent, (sent % 60_000) as u16 + 1))?;
            sent += 1;
        }
        done += usize::from(peer.next(|said| said.kind())? == 4);
    }
    Ok(())
}

/// Plays `scene` while the pair exchanges messages, at least for [`WATCH`].
fn watched<T: Send>(
    address: SocketAddr,
    span: Duration,
    scene: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<(T, Spread)> {
    thread::scope(|scope| {
        let played = scope.spawn(scene);
        let spread = pace::run(address, 1, RATE, span)?;
        let played = played.join().map_err(|_| io::Error::other("the scene panicked"))??;
        Ok((played, spread))
    })
}

fn idle(stage: &Stage<'_>) -> io::Result<Vec<Fact>> {
    let server = stage.server(&server::configuration(""))?;
    let alone = resident(&server)?;
    let mut facts = vec![fact("the gateway alone", megabytes(alone))];
    let mut peers = Vec::new();
    for count in [100, 1000] {
        while peers.len() < count {
            peers.push(Peer::join(server.address, &format!("idle-{}", peers.len()))?);
        }
        facts.push(growth(&format!("{count} idle clients"), alone, resident(&server)?, count as u64));
    }
    let handles = server.handles()?;
    drop(peers);
    facts.push(fact("open files and sockets with them", handles.to_string()));
    Ok(facts)
}

fn stuck(stage: &Stage<'_>) -> io::Result<Vec<Fact>> {
    const FLOOD: usize = 10_000;
    let server = stage.server(DEFAULT)?;
    let (payload, topic) = (vec![b'x'; 10_000], "flood");
    let quiet = pace::run(server.address, 1, RATE, WATCH)?;
    let mut facts = vec![delays("the pair alone", &quiet)];
    for (what, qos) in [("reads nothing, QoS 0", 0), ("reads nothing, QoS 1", 1), ("is away, QoS 1, session kept", 2)] {
        let server = stage.server(DEFAULT)?;
        let mut publisher = Peer::join(server.address, "flood-publisher")?;
        settle(&mut publisher)?;
        let before = resident(&server)?;
        let mut subscriber = match qos {
            2 => Peer::with(crate::bench::mqtt::peer::connect(server.address)?, KEPT)?,
            _ => Peer::join(server.address, "stuck")?,
        };
        subscriber.subscribe(topic, qos.min(1))?;
        if qos == 2 {
            subscriber.send(&[0xE0, 0])?;
        }
        let scene = || {
            publish_all(&mut publisher, FLOOD, |_, id| {
                let mut packet = Vec::with_capacity(payload.len() + 20);
                write::publish(&mut packet, topic, 1, id, &payload);
                packet
            })?;
            resident(&server)
        };
        let (after, spread) = watched(server.address, WATCH, scene)?;
        let sent = megabytes((FLOOD * payload.len()) as u64);
        facts.push(growth(&format!("{sent} for one who {what}"), before, after, 1));
        facts.push(delays("  the pair meanwhile", &spread));
        drop(subscriber);
    }
    Ok(facts)
}

fn topic(n: usize) -> String {
    format!("plant/line-{}/meter-{}/value-{}", n / 10_000, n / 100, n % 100)
}

const TOPICS: usize = 100_000;
/// What the heap keeps for later is no leak as long as it does not grow from round to round.
const ROUNDS: usize = 3;

/// Publishes them all, or clears them with an empty payload.
fn retain_all(peer: &mut Peer, payload: &[u8]) -> io::Result<()> {
    let mut packets = Vec::new();
    for n in 0..TOPICS {
        let first = packets.len();
        write::publish(&mut packets, &topic(n), 0, 0, payload);
        packets[first] |= 1;
    }
    peer.send(&packets)?;
    settle(peer)
}

const VALUE: &[u8] = b"{\"value\":230.1,\"unit\":\"V\",\"quality\":\"good\",\"time\":\"2026-11-21T01:02:03.456Z\"}";

fn retained(stage: &Stage<'_>) -> io::Result<Vec<Fact>> {
    let server = stage.server(&server::configuration(""))?;
    let mut publisher = Peer::join(server.address, "publisher")?;
    settle(&mut publisher)?;
    let before = resident(&server)?;
    let fill = || {
        let begun = Instant::now();
        retain_all(&mut publisher, VALUE)?;
        Ok((begun.elapsed(), publisher))
    };
    let ((filled, mut publisher), spread) = watched(server.address, WATCH, fill)?;
    let mut facts = vec![
        fact("100,000 of them taken in within", format!("{:.2} s", filled.as_secs_f64())),
        delays("  the pair meanwhile", &spread),
        growth("100,000 retained topics", before, resident(&server)?, TOPICS as u64),
    ];
    let read = || {
        let mut reader = Peer::join(server.address, "reader")?;
        let begun = Instant::now();
        reader.subscribe("plant/#", 0)?;
        for _ in 0..TOPICS {
            reader.next(|said| said.kind())?;
        }
        Ok(begun.elapsed())
    };
    let (read, spread) = watched(server.address, WATCH, read)?;
    facts.push(fact("all of them read by a new subscriber within", format!("{:.2} s", read.as_secs_f64())));
    facts.push(delays("  the pair meanwhile", &spread));
    for round in 1..=ROUNDS {
        retain_all(&mut publisher, b"")?;
        facts.push(growth(&format!("all cleared, round {round}"), before, resident(&server)?, TOPICS as u64));
        retain_all(&mut publisher, VALUE)?;
        facts.push(growth("  and kept again", before, resident(&server)?, TOPICS as u64));
    }
    Ok(facts)
}

fn large(stage: &Stage<'_>) -> io::Result<Vec<Fact>> {
    const COUNT: usize = 50;
    const READERS: usize = 10;
    let server = stage.server(&server::configuration(""))?;
    let mut publisher = Peer::join(server.address, "publisher")?;
    settle(&mut publisher)?;
    let (before, payload) = (resident(&server)?, vec![b'x'; 1_000_000]);
    let scene = || {
        let mut readers = Vec::new();
        for n in 0..READERS {
            let mut reader = Peer::join(server.address, &format!("reader-{n}"))?;
            reader.subscribe("large", 1)?;
            readers.push(thread::spawn(move || -> io::Result<usize> {
                for _ in 0..COUNT {
                    let (id, length) = reader.next(|said| (said.id, said.rest.len()))?;
                    if length != 1_000_000 {
                        return Err(io::Error::other(format!("{length} bytes arrived of 1,000,000")));
                    }
                    reader.send(&[0x40, 2, (id >> 8) as u8, id as u8])?;
                }
                Ok(COUNT)
            }));
        }
        let begun = Instant::now();
        for n in 0..COUNT {
            let mut packet = Vec::with_capacity(payload.len() + 20);
            write::publish(&mut packet, "large", 1, n as u16 + 1, &payload);
            publisher.send(&packet)?;
            publisher.next(|said| said.kind())?;
        }
        let mut arrived = 0;
        for reader in readers {
            arrived += reader.join().map_err(|_| io::Error::other("a reader panicked"))??;
        }
        Ok((arrived, begun.elapsed()))
    };
    let ((arrived, lasted), spread) = watched(server.address, WATCH, scene)?;
    let memory = server.memory()?;
    Ok(vec![
        fact("1 MB to ten subscribers, QoS 1", format!("{:.0} MB/s delivered", arrived as f64 / lasted.as_secs_f64())),
        growth("at the most, for ten readers", before, memory.peak, READERS as u64),
        growth("afterwards", before, memory.resident, READERS as u64),
        delays("  the pair meanwhile", &spread),
    ])
}

const FILTERS: usize = 10_000;

/// SUBSCRIBE or UNSUBSCRIBE, a hundred filters a packet.
fn ask(peer: &mut Peer, first: u8, filter: impl Fn(usize) -> String) -> io::Result<()> {
    let mut packets = Vec::new();
    for start in (0..FILTERS).step_by(100) {
        let mut body = vec![0, 1];
        for n in start..start + 100 {
            let filter = filter(n);
            body.extend((filter.len() as u16).to_be_bytes());
            body.extend(filter.as_bytes());
            if first == 0x82 {
                body.push(0);
            }
        }
        packets.extend(write::frame(first, &body));
    }
    peer.send(&packets)?;
    settle(peer)
}

fn subscriptions(stage: &Stage<'_>) -> io::Result<Vec<Fact>> {
    let server = stage.server(&server::configuration(""))?;
    let mut facts = Vec::new();
    let mut client = Peer::join(server.address, "client")?;
    settle(&mut client)?;
    let before = resident(&server)?;
    let exact = |n: usize| format!("plant/line-{}/meter-{}/value-{}/set", n / 1000, n / 10, n);
    let scene = || {
        let begun = Instant::now();
        ask(&mut client, 0x82, exact)?;
        Ok((begun.elapsed(), client))
    };
    let ((lasted, mut client), spread) = watched(server.address, WATCH, scene)?;
    facts.push(fact("10,000 filters of one client taken within", format!("{:.2} s", lasted.as_secs_f64())));
    facts.push(delays("  the pair meanwhile", &spread));
    facts.push(growth("10,000 filters", before, resident(&server)?, FILTERS as u64));
    for round in 1..=ROUNDS {
        ask(&mut client, 0xA2, exact)?;
        facts.push(growth(&format!("given back, round {round}"), before, resident(&server)?, FILTERS as u64));
        ask(&mut client, 0x82, exact)?;
        facts.push(growth("  and taken again", before, resident(&server)?, FILTERS as u64));
    }
    ask(&mut client, 0xA2, exact)?;
    let mut publisher = Peer::join(server.address, "publisher")?;
    retain_all(&mut publisher, VALUE)?;
    // Each has to look through the whole tree and finds nothing.
    let scene = || {
        let begun = Instant::now();
        ask(&mut client, 0x82, |n| format!("plant/+/+/none-{n}"))?;
        Ok(begun.elapsed())
    };
    let (lasted, spread) = watched(server.address, WATCH, scene)?;
    let what = "10,000 wildcard filters beside 100,000 retained topics within";
    facts.push(fact(what, format!("{:.2} s", lasted.as_secs_f64())));
    facts.push(delays("  the pair meanwhile", &spread));
    Ok(facts)
}
