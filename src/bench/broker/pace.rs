//! How long a message takes at a steady rate: one publisher, one subscriber, 200 bytes, sent at moments that are known beforehand,
//! so that what is sent late counts as late.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bench::broker::flow::PAYLOAD;
use crate::bench::line::Spread;
use crate::bench::mqtt::peer::Peer;
use crate::bench::mqtt::write;

const TOPIC: &str = "pace";

/// Sends `rate` messages a second for `span` and says how long each was under way, from when it was due.
pub fn run(address: SocketAddr, qos: u8, rate: u32, span: Duration) -> io::Result<Spread> {
    let mut subscriber = Peer::join(address, "pace-subscriber")?;
    subscriber.subscribe(TOPIC, qos)?;
    let publisher = Peer::join(address, "pace-publisher")?;
    let count = (f64::from(rate) * span.as_secs_f64()) as u32;
    let begun = Instant::now();
    let due = move |n: u32| begun + Duration::from_secs(1) * n / rate;
    thread::scope(|scope| {
        let heard = scope.spawn(|| hear(subscriber, count, due));
        let mut sender = publisher.stream().try_clone()?;
        let acknowledged = scope.spawn(move || acknowledge(publisher, qos, count));
        let mut packet = Vec::new();
        for n in 0..count {
            thread::sleep(due(n).saturating_duration_since(Instant::now()));
            packet.clear();
            write::publish(&mut packet, TOPIC, qos, (n % 60_000) as u16 + 1, &[b'x'; PAYLOAD]);
            io::Write::write_all(&mut sender, &packet)?;
        }
        acknowledged.join().map_err(|_| io::Error::other("the publisher panicked"))??;
        heard.join().map_err(|_| io::Error::other("the subscriber panicked"))?
    })
}

fn hear(mut peer: Peer, count: u32, due: impl Fn(u32) -> Instant) -> io::Result<Spread> {
    let mut times = Vec::with_capacity(count as usize);
    while times.len() < count as usize {
        let (first, id) = peer.next(|said| (said.first, said.id))?;
        let [high, low] = id.to_be_bytes();
        if first >> 4 == 3 {
            times.push(Instant::now().saturating_duration_since(due(times.len() as u32)));
        }
        match (first >> 4, first & 6) {
            (3, 2) => peer.send(&[0x40, 2, high, low])?,
            (3, 4) => peer.send(&[0x50, 2, high, low])?,
            (6, _) => peer.send(&[0x70, 2, high, low])?,
            _ => {}
        }
    }
    Ok(Spread::of(times))
}

fn acknowledge(mut peer: Peer, qos: u8, count: u32) -> io::Result<()> {
    let mut left = if qos == 0 { 0 } else { count };
    while left > 0 {
        match peer.next(|said| (said.kind(), said.id))? {
            (5, id) => peer.send(&[0x62, 2, (id >> 8) as u8, id as u8])?,
            _ => left -= 1,
        }
    }
    Ok(())
}
