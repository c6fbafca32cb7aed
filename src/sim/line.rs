//! A simulated RS485 trunk: a real pty whose other end is a thread that lets each character take its time, both ways, one
//! direction at once, and lets the devices answer. It counts what a wire cannot forgive: frames without silence before
//! them, and talking at the same time. A pty refuses parity; that costs nothing here, the eleventh bit is paced.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;

use crate::bus::Timing;
use crate::bus::frame;
use crate::config::plant::CharFormat;
use crate::sim::Fault;
use crate::sim::Hostility;
use crate::sim::Shared;

/// How the simulated wire behaves.
#[derive(Debug, Clone)]
pub struct LineOptions {
    /// Bits per second.
    pub baud: u32,
    /// Bits of a character.
    pub format: CharFormat,
    /// From the end of the silence after a request to the first character of the answer.
    pub turnaround: Duration,
    /// Devices miss a request that comes without silence before it.
    pub insist: bool,
    /// The adapter hears what it sends.
    pub echo: bool,
    /// Trouble, if any.
    pub hostility: Option<Hostility>,
    /// Off: bytes pass as fast as the machine can.
    pub paced: bool,
}

impl LineOptions {
    /// A well line with a turnaround of 5 ms.
    pub const fn new(baud: u32, format: CharFormat) -> Self {
        let turnaround = Duration::from_millis(5);
        Self { baud, format, turnaround, insist: false, echo: false, hostility: None, paced: true }
    }
}

/// What a wire saw.
#[derive(Debug, Clone, Default)]
pub struct LineStats {
    /// Whole requests that reached the devices.
    pub requests: u64,
    /// Answers put on the wire, spoilt ones included.
    pub answers: u64,
    /// Frames that began before the silence was over.
    pub violations: u64,
    /// Frames that began while the other side was talking.
    pub collisions: u64,
    /// Time the wire carried characters.
    pub busy: Duration,
    /// Trouble made, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// By unit, those who do not exist included.
    pub heard: BTreeMap<u8, Heard>,
}

/// The questions one unit was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// How many.
    pub requests: u64,
    /// The longest time between two.
    pub longest_pause: Duration,
    last: Option<Instant>,
}

/// A running trunk; stops when dropped, as if the adapter had been pulled.
#[derive(Debug)]
pub struct SimLine {
    path: PathBuf,
    stats: Arc<Mutex<LineStats>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the pty and starts its thread.
pub fn start_line(devices: Vec<Shared>, options: LineOptions) -> io::Result<SimLine> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let path = PathBuf::from(OsString::from_vec(rustix::pty::ptsname(&master, Vec::new())?.into_bytes()));
    // Held open for the line's life: else the master would fail while nobody has the port open.
    let port = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let mut raw = rustix::termios::tcgetattr(&port)?;
    raw.make_raw();
    rustix::termios::tcsetattr(&port, OptionalActions::Now, &raw)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let stats = Arc::new(Mutex::new(LineStats::default()));
    let stopped = Arc::new(AtomicBool::new(false));
    let timing = if options.paced { Timing::new(options.baud, options.format, None) } else { Timing::default() };
    let wire = Wire {
        master,
        _port: port,
        devices,
        options,
        timing,
        stats: Arc::clone(&stats),
        free_at: Instant::now() - Duration::from_secs(1),
        request: Vec::new(),
        outbox: VecDeque::new(),
        sending: None,
        thinking: HashMap::new(),
    };
    let stop = Arc::clone(&stopped);
    let thread = std::thread::Builder::new().name("sim-line".to_owned()).spawn(move || wire.run(&stop))?;
    Ok(SimLine { path, stats, stopped, thread: Some(thread) })
}

impl SimLine {
    /// The port to open.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the wire saw so far.
    pub fn stats(&self) -> LineStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pulls the adapter.
    pub fn stop(self) {}
}

impl Drop for SimLine {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is a bug of the simulation; the test that used it fails anyhow.
            let _ = thread.join();
        }
    }
}

/// A frame on its way out: character `n` is there at `begun + (n + 1) characters`.
struct Sending {
    bytes: Vec<u8>,
    done: usize,
    begun: Instant,
}

struct Wire {
    master: OwnedFd,
    _port: OwnedFd,
    devices: Vec<Shared>,
    options: LineOptions,
    timing: Timing,
    stats: Arc<Mutex<LineStats>>,
    /// When the last character in either direction has passed.
    free_at: Instant,
    request: Vec<u8>,
    outbox: VecDeque<(Instant, Vec<u8>)>,
    sending: Option<Sending>,
    /// By unit, until when it thinks about a question.
    thinking: HashMap<u8, Instant>,
}

/// How long the thread sleeps at most, so that it notices that it is to stop.
const NAP: Duration = Duration::from_millis(20);

impl Wire {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.receive();
            self.transmit();
            self.wait();
        }
    }

    fn note(&self, change: impl FnOnce(&mut LineStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn wait(&self) {
        let now = Instant::now();
        let next = match (&self.sending, self.outbox.front()) {
            (Some(s), _) => {
                // At high speeds several characters a wake-up, as a UART's FIFO does, but the last one on time.
                let step = (s.done + 1).max(s.done + self.chunk()).min(s.bytes.len());
                s.begun + self.timing.of(step)
            }
            (None, Some((at, _))) => (*at).max(self.free_at),
            (None, None) => now + NAP,
        };
        let left = next.saturating_duration_since(now).min(NAP);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        // Interrupted or not, the loop looks at everything again.
        let _ = rustix::event::poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&timeout));
    }

    fn chunk(&self) -> usize {
        let character = self.timing.character.as_micros().max(1);
        usize::try_from(500 / character).unwrap_or(1).max(1)
    }

    fn receive(&mut self) {
        let mut buffer = [0; 512];
        let Ok(n) = rustix::io::read(&self.master, &mut buffer) else { return };
        let now = Instant::now();
        let mut heard = true;
        if self.request.is_empty() {
            heard = self.begin(now);
        }
        self.free_at = now.max(self.free_at) + self.timing.of(n);
        self.note(|s| s.busy += self.timing.of(n));
        if self.options.echo {
            self.outbox.push_front((now, buffer[..n].to_vec()));
        }
        if !heard {
            return;
        }
        self.request.extend_from_slice(&buffer[..n]);
        if request_len(&self.request).is_none_or(|len| self.request.len() >= len) {
            let request = std::mem::take(&mut self.request);
            self.serve(&request);
        }
    }

    /// A frame begins: was there silence? False when the devices miss it.
    fn begin(&mut self, now: Instant) -> bool {
        if self.sending.take().is_some() {
            self.note(|s| s.collisions += 1);
            return !self.options.paced;
        }
        // The host learns of the last character some microseconds after it was there.
        let tolerance = Duration::from_micros(20);
        let early = self.options.paced && now + tolerance < self.free_at + self.timing.gap;
        if early {
            self.note(|s| s.violations += 1);
        }
        !(early && self.options.insist)
    }

    fn serve(&mut self, request: &[u8]) {
        if !frame::is_sound(request) {
            return;
        }
        self.note(|s| s.requests += 1);
        let now = Instant::now();
        let (unit, pdu) = (request[0], &request[1..request.len() - 2]);
        self.heard(unit, now);
        let mut answer = None;
        for device in &self.devices {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            if unit == 0 {
                device.answer(pdu, now);
            } else if device.unit() == unit {
                answer = Some(frame::rtu(unit, &device.answer(pdu, now)));
            }
        }
        let Some(answer) = answer else { return };
        let Some(begins) = self.attention(unit) else { return };
        let at = begins + self.options.turnaround;
        let spoilt = self.spoil(answer);
        if let Some((delay, _)) = spoilt.first() {
            // What is repeated comes from the wire, while the device already listens again.
            self.thinking.insert(unit, at + *delay);
        }
        self.outbox.extend(spoilt.into_iter().map(|(delay, bytes)| (at + delay, bytes)));
        self.outbox.make_contiguous().sort_by_key(|(at, _)| *at);
        self.note(|s| s.answers += 1);
    }

    /// When a unit turns to a question: a device answers in order. Asked while it still thinks about another, it may miss
    /// the question altogether.
    fn attention(&mut self, unit: u8) -> Option<Instant> {
        let heard = self.free_at + self.timing.gap;
        let free = self.thinking.get(&unit).copied().unwrap_or(heard);
        let misses = free > heard && self.options.hostility.as_mut().is_some_and(|h| h.dice.below(2) == 0);
        (!misses).then_some(heard.max(free))
    }

    fn heard(&self, unit: u8, now: Instant) {
        self.note(|stats| {
            let heard = stats.heard.entry(unit).or_default();
            heard.requests += 1;
            let pause = heard.last.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
            heard.longest_pause = heard.longest_pause.max(pause);
        });
    }

    fn spoil(&mut self, answer: Vec<u8>) -> Vec<(Duration, Vec<u8>)> {
        if let Some(hostility) = &mut self.options.hostility
            && let Some(fault) = hostility.draw()
        {
            let spoilt = hostility.spoil(fault, answer);
            self.note(|s| *s.faults.entry(fault).or_default() += 1);
            return spoilt;
        }
        vec![(Duration::ZERO, answer)]
    }

    fn transmit(&mut self) {
        let now = Instant::now();
        if self.sending.is_none()
            && let Some((at, _)) = self.outbox.front()
            && (*at).max(self.free_at) <= now + Duration::from_micros(1)
        {
            let begun = (*at).max(self.free_at);
            let bytes = self.outbox.pop_front().map(|(_, bytes)| bytes).unwrap_or_default();
            self.free_at = begun + self.timing.of(bytes.len());
            self.note(|s| s.busy += self.timing.of(bytes.len()));
            self.sending = Some(Sending { bytes, done: 0, begun });
        }
        let character = self.timing.character.as_nanos();
        let Some(sending) = &mut self.sending else { return };
        let passed = now.saturating_duration_since(sending.begun).as_nanos();
        let due =
            passed.checked_div(character).map_or(sending.bytes.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
        let due = due.min(sending.bytes.len());
        if due > sending.done {
            // A full pty loses characters, as a full UART does.
            let _ = rustix::io::write(&self.master, &sending.bytes[sending.done..due]);
            sending.done = due;
        }
        if sending.done == sending.bytes.len() {
            self.sending = None;
        }
    }
}

/// Length of the request that begins like this; `None` while or where that cannot be told.
pub(super) fn request_len(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        1..=6 | 8 => Some(8),
        0x0F | 0x10 => Some(bytes.get(6).map_or(9, |n| 9 + usize::from(*n))),
        0x16 => Some(10),
        0x17 => Some(bytes.get(10).map_or(13, |n| 13 + usize::from(*n))),
        0x2B => Some(7),
        _ => None,
    }
}
