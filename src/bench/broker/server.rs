//! A broker in a process of its own, ours or Mosquitto, with the same limits.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::bench::peers::Mosquitto;
use crate::bench::process;
use crate::bench::process::Gateway;
use crate::bench::process::Memory;

/// Between two looks whether Mosquitto listens, and when it is given up.
const AGAIN: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// In flight to one client at once: Mosquitto's own default is 20, which would hold it back.
const IN_FLIGHT: &str = "max_inflight_messages 100\nmax_queued_messages 1000\n";

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This program.
    Ours,
    /// Debian's.
    Mosquitto,
}

/// A running one; ends when dropped.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for WebSocket, ours only.
    pub websocket: Option<SocketAddr>,
}

#[derive(Debug)]
enum Process {
    Ours(Gateway),
    Mosquitto(Mosquitto),
}

/// The gateway as a broker and nothing else; packets are as large as the benches' largest.
pub fn configuration(access: &str) -> String {
    format!(
        "gateway: bench\nbroker:\n  listen: [{{tcp: 127.0.0.1:0}}, {{ws: 127.0.0.1:0}}]\n  \
         limits: {{clients: 2000, packet: 2MiB, queue: 1000}}\n{access}"
    )
}

impl Server {
    /// Starts one in an empty folder; `program` is the gateway.
    pub fn start(which: Which, program: &Path, folder: &Path) -> io::Result<Self> {
        match which {
            Which::Ours => Self::ours(program, folder, &configuration("")),
            Which::Mosquitto => Self::mosquitto(folder),
        }
    }

    /// Ours with a configuration of one's own.
    pub fn ours(program: &Path, folder: &Path, configuration: &str) -> io::Result<Self> {
        fs::write(folder.join("gateway.yaml"), configuration)?;
        let gateway = Gateway::start(program, folder)?;
        let wrong = |_| io::Error::other(format!("no address: {}", gateway.broker));
        let address = gateway.broker.parse().map_err(wrong)?;
        let websocket = gateway.listeners.get(1).and_then(|text| text.parse().ok());
        Ok(Self { process: Process::Ours(gateway), address, websocket })
    }

    fn mosquitto(folder: &Path) -> io::Result<Self> {
        let mosquitto = Mosquitto::spawn(folder, IN_FLIGHT)?;
        let (address, until) = (mosquitto.address(), Instant::now() + PATIENCE);
        while let Err(error) = TcpStream::connect(address) {
            if Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(AGAIN);
        }
        Ok(Self { process: Process::Mosquitto(mosquitto), address, websocket: None })
    }

    fn id(&self) -> u32 {
        match &self.process {
            Process::Ours(gateway) => gateway.id(),
            Process::Mosquitto(mosquitto) => mosquitto.id(),
        }
    }

    /// Processor time so far.
    pub fn used(&self) -> io::Result<Duration> {
        process::used(&self.id().to_string())
    }

    /// Memory now.
    pub fn memory(&self) -> io::Result<Memory> {
        process::memory(self.id())
    }

    /// Open files and sockets.
    pub fn handles(&self) -> io::Result<usize> {
        process::handles(self.id())
    }

    /// Bytes that it has given to files so far (proc(5), `io`, sockets included).
    pub fn written(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.and_then(|n| n.parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Panics so far, and whether it still runs; Mosquitto is not asked.
    pub fn is_well(&mut self) -> Result<(), String> {
        let Process::Ours(gateway) = &mut self.process else { return Ok(()) };
        if !gateway.is_running() {
            return Err("the gateway has ended".to_owned());
        }
        match gateway.panics() {
            0 => Ok(()),
            n => Err(format!("the gateway has panicked {n} times")),
        }
    }
}
