//! A client that misbehaves, again and again: noise, half a CONNECT, or a conversation of valid-looking packets with noise in
//! between, in odd pieces, read or not read, ended in any way.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bench::mqtt::choices::Choices;
use crate::bench::mqtt::packets;
use crate::bench::mqtt::websocket;
use crate::bench::mqtt::write;
use crate::broker::packet::Packet;
use crate::sim::Dice;

/// A broker that does not take bytes for so long has stopped reading from this client, which it may.
const REFUSED: Duration = Duration::from_millis(500);
/// Client ids: fewer than guests, so that they take each other over.
const NAMES: u32 = 40;

/// What all of them did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections.
    pub visits: u64,
    /// Of those, over WebSocket.
    pub over_websocket: u64,
    /// Valid-looking packets.
    pub packets: u64,
    /// Bytes, noise included.
    pub bytes: u64,
    /// Visits that ended because the broker stopped reading.
    pub unheard: u64,
    /// Visits that the broker ended.
    pub thrown_out: u64,
}

#[derive(Debug, Default)]
struct Counters {
    visits: AtomicU64,
    over_websocket: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    unheard: AtomicU64,
    thrown_out: AtomicU64,
}

impl Counters {
    fn tally(&self) -> Tally {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            visits: now(&self.visits),
            over_websocket: now(&self.over_websocket),
            packets: now(&self.packets),
            bytes: now(&self.bytes),
            unheard: now(&self.unheard),
            thrown_out: now(&self.thrown_out),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { visits, over_websocket, packets, bytes, unheard, thrown_out } = self;
        write!(
            f,
            "hostile: {visits} connections ({over_websocket} over WebSocket), {packets} valid-looking packets, {:.1} MB in all; \
             {thrown_out} thrown out, {unheard} not heard any more",
            *bytes as f64 / 1e6
        )
    }
}

/// Lets so many work until told to stop; the tally is there when the last has gone.
pub fn start(
    runtime: &Runtime,
    guests: u32,
    addresses: [SocketAddr; 2],
    stop: &CancellationToken,
) -> impl Future<Output = io::Result<Tally>> + use<> {
    let counters = Arc::new(Counters::default());
    let mut tasks = JoinSet::new();
    for seed in 0..guests {
        let (counters, stop) = (Arc::clone(&counters), stop.clone());
        let guest = async move {
            let mut dice = Dice::new(u64::from(seed) + 1);
            while !stop.is_cancelled() {
                // A visit that fails is a visit that was ended: that is what it came for.
                let _ = stop.run_until_cancelled(visit(&mut dice, addresses, &counters)).await;
            }
        };
        tasks.spawn_on(guest, runtime.handle());
    }
    async move {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(counters.tally())
    }
}

/// One connection of a guest.
struct Visit<'a> {
    writer: OwnedWriteHalf,
    websocket: bool,
    counters: &'a Counters,
}

async fn visit(dice: &mut Dice, [tcp, ws]: [SocketAddr; 2], counters: &Counters) -> io::Result<()> {
    // Not all of the machine: the others shall be served as well.
    sleep(Duration::from_millis(u64::from(dice.below(100)))).await;
    let websocket = dice.below(4) == 0;
    let stream = TcpStream::connect(if websocket { ws } else { tcp }).await?;
    counters.visits.fetch_add(1, Ordering::Relaxed);
    let (mut reader, mut writer) = stream.into_split();
    if websocket {
        counters.over_websocket.fetch_add(1, Ordering::Relaxed);
        writer.write_all(websocket::HANDSHAKE).await?;
        // Its answer comes in one piece here; whatever it is, this is no place to be particular.
        reader.read_buf(&mut Vec::with_capacity(1024)).await?;
    }
    let mut visit = Visit { writer, websocket, counters };
    match dice.below(10) {
        0 => {
            for _ in 0..dice.below(20) {
                let some = noise(dice, 4000);
                visit.say(&some).await?;
            }
        }
        1 => {
            let hello = write::hello("half");
            visit.say(&hello[..dice.below(hello.len() as u32) as usize]).await?;
            sleep(Duration::from_millis(u64::from(dice.below(3000)))).await;
        }
        2 => {
            // Below WebSocket, where there is one.
            let some = noise(dice, 60_000);
            visit.raw(&some).await?;
        }
        _ => visit.converse(dice, reader).await?,
    }
    Ok(())
}

impl Visit<'_> {
    async fn converse(&mut self, dice: &mut Dice, reader: OwnedReadHalf) -> io::Result<()> {
        // One in three never reads; its end of the socket stays open all the same.
        let reads = dice.below(3) > 0;
        let (gone, kept) = if reads { (Some(tokio::spawn(drain(reader))), None) } else { (None, Some(reader)) };
        let decisions = noise(dice, 64);
        let mut connect = packets::connect(&mut Choices::new(&decisions));
        if !connect.client_id.is_empty() {
            connect.client_id = format!("hostile-{}", dice.below(NAMES));
        }
        let version = connect.version;
        self.say(&write::packet(&Packet::Connect(Box::new(connect)), version)).await?;
        for _ in 0..dice.below(500) {
            if gone.as_ref().is_some_and(tokio::task::JoinHandle::is_finished) {
                self.counters.thrown_out.fetch_add(1, Ordering::Relaxed);
                break;
            }
            let decisions = noise(dice, 64);
            let mut bytes = write::packet(&packets::any(&mut Choices::new(&decisions), version), version);
            self.counters.packets.fetch_add(1, Ordering::Relaxed);
            match dice.below(60) {
                0 => bytes = noise(dice, 300),
                1 => {
                    let at = dice.below(bytes.len() as u32) as usize;
                    bytes[at] ^= 1 << dice.below(8);
                }
                2 => bytes = bytes.repeat(1 + dice.below(300) as usize),
                3 => sleep(Duration::from_millis(u64::from(dice.below(1000)))).await,
                _ => {}
            }
            self.say(&bytes).await?;
        }
        drop(kept);
        if let Some(gone) = gone {
            gone.abort();
        }
        Ok(())
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.websocket {
            return self.raw(&websocket::message(bytes)).await;
        }
        self.raw(bytes).await
    }

    async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Ok(written) = timeout(REFUSED, self.writer.write_all(bytes)).await else {
            self.counters.unheard.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::TimedOut.into());
        };
        self.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        written
    }
}

/// Reads and forgets until the other end closes.
async fn drain(mut reader: OwnedReadHalf) {
    let mut buffer = vec![0; 16 * 1024];
    while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
}

fn noise(dice: &mut Dice, most: u32) -> Vec<u8> {
    (0..1 + dice.below(most)).map(|_| dice.below(256) as u8).collect()
}
