//! Fifty clients that do anything but behave, over TCP and WebSocket, for minutes, and beside them a publisher and two subscribers
//! who behave and must not notice: every message of QoS 1 arrives once, in order and soon. Memory, open files and the store are
//! looked at all along; what has been reached after a fifth of the time may not go on growing.

pub mod guest;
pub mod well;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use self::guest::Tally;
use self::well::Served;
use crate::bench::broker::server::Server;
use crate::bench::process::Memory;

/// The well-behaved write where nobody else may: under their own client id.
const ACCESS: &str = "  access: [{read: [\"#\"], write: [\"a/#\", \"+\", \"own/%c/#\"]}]\n";
const CONFIGURATION: &str = "gateway: bench\nbroker:\n  listen: [{tcp: 127.0.0.1:0}, {ws: 127.0.0.1:0}]\n";
/// How often memory and handles are looked at, in all.
const LOOKS: u32 = 10;
/// Growth from a fifth of the time on that is no leak: the heap's own grain, and sessions whose clients are away.
const GROWTH: f64 = 1.25;
const GRAIN: u64 = 4_000_000;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Hostile {
    /// Clients that misbehave at once.
    pub guests: u32,
    /// For how long.
    pub lasting: Duration,
}

/// The gateway at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Since the beginning.
    pub at: Duration,
    /// Resident and so on.
    pub memory: Memory,
    /// Open files and sockets.
    pub handles: usize,
    /// Bytes of the broker's store on the disk.
    pub store: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// In order of time: the first before anybody came, the last after all had gone.
    pub looks: Vec<Look>,
    /// What the well-behaved have to say.
    pub served: Served,
    /// What the others did.
    pub tally: Tally,
    /// What should not have been; nothing is what is wanted.
    pub complaints: Vec<String>,
}

impl Hostile {
    /// Runs it with `program` as the gateway; `folder` is empty and stays with what the gateway leaves.
    pub fn run(self, program: &Path, folder: &Path) -> io::Result<Outcome> {
        let mut server = Server::ours(program, folder, &format!("{CONFIGURATION}{ACCESS}"))?;
        let websocket = server.websocket.ok_or_else(|| io::Error::other("no WebSocket listener"))?;
        // One thread for all of them: the machine's other cores are the gateway's and the well-behaved's.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let mut looks = vec![look(&server, folder, begun)?];
        let well = well::start(server.address, websocket, self.lasting)?;
        let tally = guest::start(&runtime, self.guests, [server.address, websocket], &stop);
        let mut complaints = Vec::new();
        for n in 1..=LOOKS {
            let due = begun + self.lasting * n / LOOKS;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            looks.push(look(&server, folder, begun)?);
            if let Err(why) = server.is_well() {
                complaints.push(why);
                break;
            }
        }
        let served = well.finish();
        stop.cancel();
        let tally = runtime.block_on(tally)?;
        complaints.extend(server.is_well().err());
        if complaints.is_empty() {
            looks.push(look(&server, folder, begun)?);
        }
        complaints.extend(served.complaints());
        complaints.extend(grown(&looks, self.guests));
        complaints.dedup();
        Ok(Outcome { looks, served, tally, complaints })
    }
}

fn look(server: &Server, folder: &Path, begun: Instant) -> io::Result<Look> {
    let stores = ["broker.db", "broker.db-wal"].map(|name| folder.join(name));
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    let store = stores.into_iter().map(size).sum();
    Ok(Look { at: begun.elapsed(), memory: server.memory()?, handles: server.handles()?, store })
}

/// What has grown since a fifth of the time.
fn grown(looks: &[Look], guests: u32) -> Vec<String> {
    let during = looks.get(1..=LOOKS as usize).unwrap_or_default();
    let (Some(early), Some(late)) = (during.get(LOOKS as usize / 5 - 1), during.last()) else { return Vec::new() };
    let mut grown = Vec::new();
    let (before, after) = (early.memory.resident, late.memory.resident);
    if after > (before as f64 * GROWTH) as u64 + GRAIN {
        grown.push(format!("memory went on growing, from {before} to {after} bytes"));
    }
    // Guests come and go, each with a socket and perhaps one that lingers.
    if late.handles > early.handles + 2 * guests as usize {
        grown.push(format!("handles went on growing, from {} to {}", early.handles, late.handles));
    }
    grown
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "{:>6.0} s: {:6.2} MB resident ({:.2} of heap and stacks), {:3} handles, store {:.2} MB",
            self.at.as_secs_f64(),
            mb(self.memory.resident),
            mb(self.memory.anonymous),
            self.handles,
            mb(self.store)
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for look in &self.looks {
            writeln!(f, "{look}")?;
        }
        writeln!(f, "{}", self.tally)?;
        write!(f, "{}", self.served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(resident: impl Fn(u64) -> u64, handles: impl Fn(usize) -> usize) -> Vec<Look> {
        let look = |n: u32| Look {
            at: Duration::from_secs(u64::from(n)),
            memory: Memory { resident: resident(u64::from(n)), ..Memory::default() },
            handles: handles(n as usize),
            store: 0,
        };
        (0..=LOOKS).map(look).collect()
    }

    #[test]
    fn what_goes_on_growing_is_told_and_what_has_settled_is_not() {
        assert!(grown(&looks(|n| 20_000_000 + n.min(2) * 20_000_000, |_| 80), 50).is_empty());
        let leak = grown(&looks(|n| 20_000_000 + n * 10_000_000, |n| 60 + n * 20), 50);
        assert_eq!(leak.len(), 2, "{leak:?}");
    }
}
