//! A gateway in a process of its own, so that its time and memory can be told from the bench's. Started as a user starts it;
//! ready when it says so; ended by SIGTERM, or killed when the handle is dropped before.

use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;

/// A gateway that says nothing for this long after its start is not coming.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the gateway says when listeners are bound and lines run.
const READY: &str = "broker on ";

/// What the gateway logs of a thread that panics, whoever catches it.
const PANIC: &str = "panic: ";

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    /// Where its broker listens first.
    pub broker: String,
    /// Everywhere its broker listens, in order of the configuration.
    pub listeners: Vec<String>,
    panics: Arc<AtomicUsize>,
}

/// Resident memory in bytes, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub resident: u64,
    /// The most it ever was.
    pub peak: u64,
    /// Heap and stacks.
    pub anonymous: u64,
    /// Program text and other files, which may be shared.
    pub files: u64,
}

impl Gateway {
    /// Starts `program run` with the configuration `gateway.yaml` in `folder`, which is its state directory too.
    pub fn start(program: &Path, folder: &Path) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["run", "--config"])
            .arg(folder.join("gateway.yaml"))
            .arg("--socket")
            .arg(folder.join("control.sock"))
            .env("STATE_DIRECTORY", folder)
            // As the service's unit has it.
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("TRUNKLINE_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let panics = Arc::new(AtomicUsize::new(0));
        let said = child.stderr.take().map(|said| lines(said, Arc::clone(&panics)));
        let mut gateway = Self { child, broker: String::new(), listeners: Vec::new(), panics };
        let mut last = String::new();
        while let Some(line) = said.as_ref().and_then(|said| said.recv_timeout(PATIENCE).ok()) {
            if let Some((_, rest)) = line.split_once(READY) {
                let all = rest.split(';').next().unwrap_or_default();
                gateway.listeners = all.split(',').map(|one| one.trim().to_owned()).collect();
                gateway.broker = gateway.listeners.first().cloned().unwrap_or_default();
                return Ok(gateway);
            }
            last = line;
        }
        Err(io::Error::other(format!("the gateway did not come up; the last it said: {last}")))
    }

    /// Processor time used so far.
    pub fn used(&self) -> io::Result<Duration> {
        used(&self.child.id().to_string())
    }

    /// Memory now.
    pub fn memory(&self) -> io::Result<Memory> {
        memory(self.id())
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How often a thread of it has panicked since the start; a supervised one is started again and would not be missed.
    pub fn panics(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells it to stop and waits for it.
    pub fn stop(mut self) -> io::Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It has ended already, or something went wrong and nobody else will end it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process.
pub fn memory(process: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        number.map_or(0, |kib| kib * 1024)
    };
    let (resident, peak) = (bytes("VmRSS"), bytes("VmHWM"));
    Ok(Memory { resident, peak, anonymous: bytes("RssAnon"), files: bytes("RssFile") })
}

/// Open files and sockets of a process.
pub fn handles(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// Processor time of a process (its number, or `self`), user and system, from the kernel's own account (proc(5), stat 14, 15).
pub fn used(process: &str) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before it stands in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_nanos((ticks(11) + ticks(12)) * 1_000_000_000 / second.max(1)))
}

/// What a child says, line by line, read on a thread of its own so that the child never waits to be heard.
fn lines(said: std::process::ChildStderr, panics: Arc<AtomicUsize>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if line.contains(PANIC) {
                panics.fetch_add(1, Ordering::Relaxed);
            }
            // Full or gone: nobody looks any more, but the pipe must be emptied all the same.
            let _ = tell.try_send(line);
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_used_grows_with_work() {
        let before = used("self").unwrap();
        let mut sum = 0_u64;
        while used("self").unwrap() < before + Duration::from_millis(20) {
            sum = (0..100_000_u64).fold(sum, |a, b| a.wrapping_mul(31) ^ b);
        }
        assert_ne!(sum, 1);
    }

    #[test]
    fn a_program_that_is_no_gateway_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let error = Gateway::start(Path::new("/bin/sh"), folder.path()).unwrap_err();
        assert!(error.to_string().contains("run"), "a shell says that it cannot open `run`: {error}");
    }
}
