//! Those who behave: a publisher of a hundred messages a second at QoS 1, and two subscribers, one of them over WebSocket. What
//! they notice of the others is what is told.

use std::fmt;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::bench::line::Spread;
use crate::bench::mqtt::peer;
use crate::bench::mqtt::peer::Peer;
use crate::bench::mqtt::websocket::WebSocket;
use crate::bench::mqtt::write;

/// Client id of the publisher; only this client may write under it.
const PUBLISHER: &str = "well-behaved";
const TOPIC: &str = "own/well-behaved/x";
/// Messages a second.
const RATE: u32 = 100;
/// One that takes longer is a failure of its own, on a machine that has anything left.
const SOON: Duration = Duration::from_secs(5);
/// Says that nothing more comes.
const LAST: u64 = u64::MAX;

/// All three at work.
#[derive(Debug)]
pub struct Well {
    publisher: JoinHandle<io::Result<u64>>,
    subscribers: Vec<(&'static str, JoinHandle<io::Result<Heard>>)>,
}

/// What one subscriber heard.
#[derive(Debug, Default)]
struct Heard {
    times: Vec<Duration>,
    lost: u64,
    wrong: u64,
}

/// One subscriber's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Over what it is connected.
    pub over: &'static str,
    /// How long messages took.
    pub spread: Spread,
    /// Never arrived.
    pub lost: u64,
    /// Twice or out of order.
    pub wrong: u64,
}

/// What all of them noticed.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Acknowledged by the broker.
    pub published: u64,
    /// Each subscriber.
    pub accounts: Vec<Account>,
    /// Connections that broke.
    pub broken: Vec<String>,
}

/// Connects them and lets them work for so long.
pub fn start(tcp: SocketAddr, websocket: SocketAddr, lasting: Duration) -> io::Result<Well> {
    let begun = Instant::now();
    let first = subscribed(Peer::join(tcp, "well-tcp")?)?;
    let second = subscribed(Peer::over(WebSocket::over(peer::connect(websocket)?)?, "well-websocket")?)?;
    let publisher = Peer::join(tcp, PUBLISHER)?;
    let subscribers = vec![
        ("TCP", thread::spawn(move || hear(first, begun))),
        ("WebSocket", thread::spawn(move || hear(second, begun))),
    ];
    Ok(Well { publisher: thread::spawn(move || publish(publisher, begun, lasting)), subscribers })
}

fn subscribed<S: Read + Write>(mut peer: Peer<S>) -> io::Result<Peer<S>> {
    peer.subscribe(TOPIC, 1)?;
    Ok(peer)
}

fn publish(mut peer: Peer, begun: Instant, lasting: Duration) -> io::Result<u64> {
    let count = (lasting.as_secs_f64() * f64::from(RATE)) as u64;
    for n in 0..=count {
        let due = begun + Duration::from_secs(1) * u32::try_from(n).unwrap_or(u32::MAX) / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let number = if n == count { LAST } else { n };
        let sent = begun.elapsed().as_nanos() as u64;
        let payload = [number.to_be_bytes(), sent.to_be_bytes()].concat();
        let mut packet = Vec::new();
        write::publish(&mut packet, TOPIC, 1, (n % 60_000) as u16 + 1, &payload);
        peer.send(&packet)?;
        while peer.next(|said| said.kind())? != 4 {}
    }
    Ok(count)
}

fn hear<S: Read + Write>(mut peer: Peer<S>, begun: Instant) -> io::Result<Heard> {
    let (mut heard, mut expected) = (Heard::default(), 0);
    loop {
        let (id, number, sent) = peer.next(|said| {
            let number =
                |at: usize| said.rest.get(at..).and_then(|rest| rest.first_chunk()).map(|n| u64::from_be_bytes(*n));
            (said.id, number(0).unwrap_or(0), number(8).unwrap_or(0))
        })?;
        peer.send(&[0x40, 2, (id >> 8) as u8, id as u8])?;
        if number == LAST {
            return Ok(heard);
        }
        heard.times.push(begun.elapsed().saturating_sub(Duration::from_nanos(sent)));
        heard.wrong += u64::from(number < expected);
        heard.lost += number.saturating_sub(expected);
        expected = expected.max(number + 1);
    }
}

impl Well {
    /// Waits until the last message has arrived everywhere, or somebody's connection has broken.
    pub fn finish(self) -> Served {
        let mut served = Served::default();
        let ended = |who: &str, why: String| format!("{who} of the well-behaved: {why}");
        match self.publisher.join() {
            Ok(Ok(count)) => served.published = count,
            Ok(Err(error)) => served.broken.push(ended("publisher", error.to_string())),
            Err(_) => served.broken.push(ended("publisher", "it panicked".to_owned())),
        }
        for (over, subscriber) in self.subscribers {
            match subscriber.join() {
                Ok(Ok(Heard { times, lost, wrong })) => {
                    // What is missing behind the last one that came.
                    let lost = lost.max(served.published.saturating_sub(times.len() as u64));
                    served.accounts.push(Account { over, spread: Spread::of(times), lost, wrong });
                }
                Ok(Err(error)) => served.broken.push(ended(over, error.to_string())),
                Err(_) => served.broken.push(ended(over, "it panicked".to_owned())),
            }
        }
        served
    }
}

impl Served {
    /// What should not have been.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = self.broken.clone();
        for Account { over, spread, lost, wrong } in &self.accounts {
            if lost + wrong > 0 {
                found.push(format!("over {over}: {lost} lost, {wrong} twice or out of order"));
            }
            if spread.longest > SOON {
                found.push(format!("over {over}: one message took {:.1} s", spread.longest.as_secs_f64()));
            }
        }
        found
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "well-behaved: {} messages of QoS 1 published and acknowledged", self.published)?;
        for Account { over, spread, lost, wrong } in &self.accounts {
            let Spread { count, median, p99, longest, .. } = *spread;
            let (median, p99, longest) = (ms(median), ms(p99), ms(longest));
            write!(
                f,
                "\nover {over}: {count} arrived, {lost} lost, {wrong} twice or out of order; \
                 p50 {median:.2}, p99 {p99:.2}, longest {longest:.1} ms"
            )?;
        }
        Ok(())
    }
}
