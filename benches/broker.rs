//! The broker beside Mosquitto under the same load, in turn: `cargo bench --bench broker [-- SECONDS ROUNDS]`. Each runs as a
//! process of its own; CPU time is what `/proc` counts for that process, so the generator's own share does not blur it.
//! A cell is a number of pairs (publisher, subscriber, a topic each), 200 bytes, 3.1.1; what is under way between a pair
//! is bounded, so that nobody has to drop, and sent in runs, as a full pipe is. `-- wear` writes 1000 retained updates a second instead and counts the bytes.

#![allow(clippy::unwrap_used, reason = "a bench may")]

use std::io::BufRead;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use trunkline::broker;
use trunkline::config::plant;

const PAYLOAD: usize = 200;
/// Messages between a publisher and its subscriber at most.
const UNDER_WAY: u64 = 100;
/// Clock ticks a second in /proc: the same on every Linux.
const TICKS: f64 = 100.0;

fn main() {
    if let Some(dir) = std::env::var_os("BENCH_BROKER") {
        return serve(dir.into());
    }
    let numbers: Vec<f64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    if std::env::args().any(|arg| arg == "wear") {
        return wear(numbers.first().copied().unwrap_or(130.0));
    }
    let span = Duration::from_secs_f64(numbers.first().copied().unwrap_or(2.0));
    let rounds = numbers.get(1).map_or(3, |n| *n as usize);
    compare(span, rounds);
}

/// The broker as a process: says its address, ends with its standard input.
fn serve(state_dir: std::path::PathBuf) {
    let limits = plant::Limits { clients: 2000, packet: 1 << 20, queue: 1000, ..plant::Limits::default() };
    let settings = plant::Broker {
        listen: vec![plant::Listener { limits, ..plant::Listener::plain("127.0.0.1:0".parse().unwrap()) }],
        anonymous: plant::Anonymous::Loopback,
        users: None,
        access: Vec::new(),
        limits,
    };
    let broker = broker::start(settings, broker::Options { gateway: "bench".into(), state_dir, users: Vec::new() });
    let broker = broker.unwrap();
    println!("{}", broker.addresses()[0]);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

struct Server {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Server {
    fn ours() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env("BENCH_BROKER", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap(), _dir: dir }
    }

    /// `None` where it is not installed.
    fn mosquitto() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages {UNDER_WAY}\n\
             log_dest none\nuser root\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto").arg("-c").arg(&config).stderr(Stdio::null()).spawn().ok()?;
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        Some(Self { child, address, _dir: dir })
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let after = stat.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / TICKS
    }

    fn line(&self, file: &str, name: &str) -> u64 {
        let text = self.proc(file);
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One 3.1.1 connection with blocking reads.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Peer {
    fn join(address: SocketAddr, id: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self { stream, buffer: Vec::new(), start: 0 };
        let body = [b"\0\x04MQTT\x04\x02\0\0\0", &[id.len() as u8][..], id.as_bytes()].concat();
        peer.send(&frame(0x10, &body));
        assert_eq!(peer.next().unwrap().0 >> 4, 2);
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// First byte and packet identifier (0 where there is none) of the next packet.
    fn next(&mut self) -> Option<(u8, u16)> {
        loop {
            if let Some((packet, length)) = parse(&self.buffer[self.start..]) {
                self.start += length;
                return Some(packet);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(n @ 1..) => self.buffer.extend(&chunk[..n]),
                _ => return None,
            }
        }
    }

    fn has_buffered(&self) -> bool {
        parse(&self.buffer[self.start..]).is_some()
    }
}

fn parse(bytes: &[u8]) -> Option<((u8, u16), usize)> {
    let (mut length, mut head) = (0, 1);
    loop {
        let byte = *bytes.get(head)?;
        length |= usize::from(byte & 0x7F) << (7 * (head - 1));
        head += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = bytes.get(head..head + length)?;
    let at = match bytes[0] >> 4 {
        3 if bytes[0] & 6 == 0 => None,
        3 => Some(2 + usize::from(u16::from_be_bytes([body[0], body[1]]))),
        4..=7 => Some(0),
        _ => None,
    };
    Some(((bytes[0], at.map_or(0, |at| u16::from_be_bytes([body[at], body[at + 1]]))), head + length))
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut bytes, mut left) = (vec![first], body.len());
    loop {
        bytes.push((left & 0x7F) as u8 | if left > 127 { 0x80 } else { 0 });
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

fn publish(topic: &str, qos: u8, id: u16, retain: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = [&(topic.len() as u16).to_be_bytes()[..], topic.as_bytes()].concat();
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload);
    frame(0x30 | qos << 1 | retain, &body)
}

fn answer(kind: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [kind, 2, high, low]
}

/// Counts what arrives and answers it; ends when the connection is shut.
fn subscriber(mut peer: Peer, received: &AtomicU64) {
    let mut out = Vec::new();
    while let Some((first, id)) = peer.next() {
        match first >> 4 {
            3 => {
                received.fetch_add(1, Ordering::Release);
                match first & 6 {
                    2 => out.extend(answer(0x40, id)),
                    4 => out.extend(answer(0x50, id)),
                    _ => {}
                }
            }
            6 => out.extend(answer(0x70, id)),
            _ => {}
        }
        if !out.is_empty() && !peer.has_buffered() {
            if peer.stream.write_all(&out).is_err() {
                return;
            }
            out.clear();
        }
    }
}

/// Keeps at most [`UNDER_WAY`] on the way until told to stop, then waits for the rest.
fn publisher(mut peer: Peer, topic: &str, qos: u8, received: &AtomicU64, stop: &AtomicBool) {
    let payload = [b'x'; PAYLOAD];
    let (mut sent, mut done, mut id) = (0_u64, 0_u64, 0_u16);
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let arrived = received.load(Ordering::Acquire);
        let reached = if qos == 0 { arrived } else { arrived.min(done) };
        if stopping && reached >= sent {
            return;
        }
        let room = UNDER_WAY.saturating_sub(sent - reached);
        if room > 0 && !stopping {
            let mut out = Vec::new();
            for _ in 0..room {
                id = id % 60_000 + 1;
                out.extend(publish(topic, qos, id, 0, &payload));
            }
            sent += room;
            peer.send(&out);
        }
        if qos == 0 || done >= sent {
            std::thread::yield_now();
            continue;
        }
        let mut out = Vec::new();
        loop {
            match peer.next().unwrap() {
                (first, id) if first >> 4 == 5 => out.extend(answer(0x62, id)),
                _ => done += 1,
            }
            if !peer.has_buffered() {
                break;
            }
        }
        peer.send(&out);
    }
}

/// Messages a second and CPU microseconds of the server a message.
fn cell(server: &Server, pairs: usize, qos: u8, span: Duration) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    let counts: Vec<Arc<AtomicU64>> = (0..pairs).map(|_| Arc::default()).collect();
    let mut subscribers = Vec::new();
    let mut streams = Vec::new();
    let mut measured = (0.0, 0.0);
    std::thread::scope(|scope| {
        let mut publishers = Vec::new();
        for (n, count) in counts.iter().enumerate() {
            let topic = format!("bench/{n}");
            let mut peer = Peer::join(server.address, &format!("s{n}"));
            let body = [&b"\0\x01"[..], &(topic.len() as u16).to_be_bytes(), topic.as_bytes(), &[qos]].concat();
            peer.send(&frame(0x82, &body));
            peer.next().unwrap();
            streams.push(peer.stream.try_clone().unwrap());
            let seen = Arc::clone(count);
            subscribers.push(std::thread::spawn(move || subscriber(peer, &seen)));
            let peer = Peer::join(server.address, &format!("p{n}"));
            let stop = &stop;
            publishers.push(scope.spawn(move || publisher(peer, &topic, qos, count, stop)));
        }
        let total = || counts.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>() as f64;
        std::thread::sleep(span / 10);
        let (began, cpu, from) = (Instant::now(), server.cpu(), total());
        std::thread::sleep(span);
        let (messages, cpu) = (total() - from, server.cpu() - cpu);
        measured = (messages / began.elapsed().as_secs_f64(), cpu / messages * 1e6);
        stop.store(true, Ordering::Relaxed);
    });
    for stream in streams {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    subscribers.into_iter().for_each(|thread| thread.join().unwrap());
    measured
}

/// Median and 99th percentile of the way through the server in microseconds, at a steady rate.
fn latency(server: &Server, qos: u8, rate: u32, span: Duration) -> (f64, f64) {
    let mut peer = Peer::join(server.address, "reader");
    peer.send(&frame(0x82, &[&b"\0\x01\0\x01l"[..], &[qos]].concat()));
    peer.next().unwrap();
    let mut writer = Peer::join(server.address, "writer");
    let count = (f64::from(rate) * span.as_secs_f64()) as u32;
    let began = Instant::now();
    // Sent at moments that are known beforehand: what is late counts as late.
    let due = move |n: u32| began + Duration::from_secs(1) / rate * n;
    let reader = std::thread::spawn(move || {
        let mut late: Vec<f64> = Vec::new();
        while late.len() < count as usize {
            let Some((first, id)) = peer.next() else { break };
            if first >> 4 == 3 {
                late.push(Instant::now().duration_since(due(late.len() as u32)).as_secs_f64() * 1e6);
            }
            match (first >> 4, first & 6) {
                (3, 2) => peer.send(&answer(0x40, id)),
                (3, 4) => peer.send(&answer(0x50, id)),
                (6, _) => peer.send(&answer(0x70, id)),
                _ => {}
            }
        }
        late.sort_by(f64::total_cmp);
        late
    });
    let acks = writer.stream.try_clone().unwrap();
    let mut acks = Peer { stream: acks, buffer: Vec::new(), start: 0 };
    std::thread::spawn(move || {
        while let Some((first, id)) = acks.next() {
            if first >> 4 == 5 {
                acks.send(&answer(0x62, id));
            }
        }
    });
    for n in 0..count {
        std::thread::sleep(due(n).saturating_duration_since(Instant::now()));
        writer.send(&publish("l", qos, (n % 60_000) as u16 + 1, 0, &[b'x'; PAYLOAD]));
    }
    let late = reader.join().unwrap();
    let _ = writer.stream.shutdown(std::net::Shutdown::Both);
    (late[late.len() / 2], late[late.len() * 99 / 100])
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn compare(span: Duration, rounds: usize) {
    println!("| pairs | QoS | rate ours | rate Mosquitto | times | CPU µs ours | CPU µs Mosquitto | share |");
    println!("|---|---|---|---|---|---|---|---|");
    for pairs in [1, 10] {
        for qos in 0..=2 {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(cell(&Server::ours(), pairs, qos, span));
                theirs.extend(Server::mosquitto().map(|server| cell(&server, pairs, qos, span)));
            }
            let middle = |cells: &[(f64, f64)]| {
                let rates = median(cells.iter().map(|c| c.0).collect());
                (rates, median(cells.iter().map(|c| c.1).collect()))
            };
            let own = middle(&ours);
            let other = if theirs.is_empty() { (f64::NAN, f64::NAN) } else { middle(&theirs) };
            let (times, share) = (own.0 / other.0, own.1 / other.1);
            println!(
                "| {pairs} | {qos} | {:.0} | {:.0} | {times:.2} | {:.2} | {:.2} | {share:.2} |",
                own.0, other.0, own.1, other.1
            );
        }
    }
    for (name, server) in [("ours", Some(Server::ours())), ("Mosquitto", Server::mosquitto())] {
        let Some(server) = server else { continue };
        for (qos, rate) in [(0, 400), (0, 1000), (1, 400), (1, 1000), (2, 1000)] {
            let (middle, worst) = latency(&server, qos, rate, span);
            println!("\n{name}: QoS {qos} at {rate}/s, from due to arrival: p50 {middle:.0} µs, p99 {worst:.0} µs");
        }
        let idle = server.line("status", "VmRSS:");
        let peers: Vec<Peer> = (0..100).map(|n| Peer::join(server.address, &format!("idle{n}"))).collect();
        println!(
            "\n{name}: resident {idle} kB, with {} idle clients {} kB",
            peers.len(),
            server.line("status", "VmRSS:")
        );
    }
}

/// 1000 retained updates a second on 1000 topics: what reaches the files, and extrapolated to a day.
fn wear(seconds: f64) {
    let server = Server::ours();
    let mut peer = Peer::join(server.address, "meter");
    let began = Instant::now();
    let mut before = None;
    for second in 0_u32.. {
        // The first changes of each topic are quick; they are not what a day consists of.
        if second == 10 {
            before = Some((server.line("io", "wchar:"), Instant::now()));
        }
        if began.elapsed().as_secs_f64() > seconds {
            break;
        }
        for topic in 0..1000 {
            let payload =
                format!("{{\"value\":{second}.{topic},\"quality\":\"good\",\"time\":\"2026-11-21T01:02:03.456Z\"}}");
            peer.send(&publish(&format!("plant/line-1/meter-{topic}/power"), 0, 0, 1, payload.as_bytes()));
        }
        let next = began + Duration::from_secs(u64::from(second) + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let (bytes, from) = before.unwrap();
    let bytes = server.line("io", "wchar:") - bytes;
    let day = bytes as f64 / from.elapsed().as_secs_f64() * 86_400.0;
    println!("{bytes} bytes written in {:.0} s: {:.0} MB a day", from.elapsed().as_secs_f64(), day / 1e6);
}
