//! What retained messages wear the flash by: 1000 updates a second on 1000 topics, from a client, and what the gateway gives to
//! its files meanwhile.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bench::broker::server::Server;
use crate::bench::broker::server::Which;
use crate::bench::mqtt::peer::Peer;
use crate::bench::mqtt::write;

/// Updated every second.
const TOPICS: u32 = 1000;
/// The first changes of each topic are written quickly; they are not what a day consists of.
const QUICK: u32 = 10;

/// Flag of the first byte.
const RETAIN: u8 = 1;

/// Runs it for so many seconds behind the first ten; bytes a day.
pub fn run(program: &Path, folder: &Path, seconds: u32) -> io::Result<f64> {
    let server = Server::start(Which::Ours, program, folder)?;
    let mut peer = Peer::join(server.address, "meter")?;
    let begun = Instant::now();
    let mut before = (0, begun);
    for second in 0..QUICK + seconds.max(1) {
        if second == QUICK {
            before = (server.written()?, Instant::now());
        }
        let mut packets = Vec::new();
        for topic in 0..TOPICS {
            let payload =
                format!("{{\"value\":{second}.{topic},\"quality\":\"good\",\"time\":\"2026-11-21T01:02:03.456Z\"}}");
            let first = packets.len();
            write::publish(&mut packets, &format!("plant/line-1/meter-{topic}/power"), 0, 0, payload.as_bytes());
            packets[first] |= RETAIN;
        }
        peer.send(&packets)?;
        let next = begun + Duration::from_secs(u64::from(second) + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let bytes = server.written()? - before.0;
    Ok(bytes as f64 / before.1.elapsed().as_secs_f64() * 86_400.0)
}
