//! One line and whoever wants something of it. [`Bus`] is the handle, [`BusTask`] owns the port: turns, tries, reopening.
//! Writes and reads on demand go next, before any poll; a transaction in flight is never cut. Never a wrong value: what is not surely
//! the answer is put aside and counted. What the devices mean by their words is not known here.

mod ask;
mod copies;
mod debt;
mod engine;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod frame;
mod ioctl;
mod line;
mod link;
mod pause;
pub mod probe;
mod tcp;
pub mod trace;
#[cfg(test)]
pub(crate) mod wire;

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::bus::ask::Ask;
use crate::bus::engine::Answer;
use crate::bus::engine::Engine;
use crate::bus::engine::Miss;
use crate::bus::line::Serial;
use crate::bus::link::Link;
use crate::bus::trace::Tap;
use crate::bus::trace::Trace;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;
use crate::status::WireCounts;

pub use crate::bus::line::Timing;
pub use crate::bus::pause::Pause;

/// Reads that wait for their turn; a caller that finds it full waits too, which slows only that caller.
const READS: usize = 32;
/// Writes and reads on demand that wait; a person asks a few a second at most.
const URGENT: usize = 16;
/// Between tries to open a port: an adapter that is plugged in again works within five seconds.
const REOPEN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A device that says "busy" (exceptions 5 and 6) gets a moment.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A read of one block of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Whom to ask; not broadcast.
    pub unit: UnitId,
    /// Which table.
    pub table: Table,
    /// Which addresses, at most the table's limit.
    pub range: AddressRange,
}

/// A write to one device, or to all by [`UnitId::BROADCAST`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// Whom to tell.
    pub unit: UnitId,
    /// What.
    pub kind: WriteKind,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteKind {
    /// Function 5.
    Coil {
        /// Zero-based.
        address: u16,
        /// The state.
        on: bool,
    },
    /// Function 15, at most 1968.
    Coils {
        /// Zero-based.
        address: u16,
        /// The states.
        values: Vec<bool>,
    },
    /// Function 6.
    Register {
        /// Zero-based.
        address: u16,
        /// The word.
        value: u16,
    },
    /// Function 16, at most 123.
    Registers {
        /// Zero-based.
        address: u16,
        /// The words.
        values: Vec<u16>,
    },
    /// Function 22: `(old & and) | (or & !and)`.
    Mask {
        /// Zero-based.
        address: u16,
        /// Bits kept.
        and: u16,
        /// Bits set where `and` is 0.
        or: u16,
    },
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it carried.
    pub data: Data,
    /// When its last byte was here.
    pub arrived: Instant,
    /// From the last byte sent to the first byte received; on TCP from request to reply.
    pub turnaround: Duration,
}

/// What a reply carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Exactly as many words as were asked for.
    Registers(Vec<u16>),
    /// Exactly as many bits as were asked for.
    Bits(Vec<bool>),
    /// The write was confirmed, or broadcast.
    Written,
}

/// Named by what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The port or connection is down; it is being reopened.
    #[error("line down: {0}")]
    LineDown(String),
    /// The device said nothing in time, tries included.
    #[error("no reply")]
    NoReply,
    /// Something came, but not an answer.
    #[error("garbled reply: {0}")]
    Garbled(Garble),
    /// A Modbus exception; also 2 or 3 for a request over the standard's limits, which is never sent.
    #[error("refused: exception {0}")]
    Refused(u8),
    /// The task has ended.
    #[error("shut down")]
    ShutDown,
}

impl BusError {
    /// How long the unit is to be left alone before it is asked the same again; `None` where that does not help. Exceptions
    /// 1 to 3 say the request is wrong and 0x0A that no way leads there; 4, 5, 6 and 0x0B are states that pass (V1.1b3, 7).
    /// After a miss the late answer is awaited; after a wrong checksum the answer has been there.
    pub const fn heals_after(&self, timeout: Duration) -> Option<Duration> {
        match self {
            Self::NoReply | Self::Garbled(Garble::Truncated | Garble::Length | Garble::Function | Garble::Noise) => {
                Some(timeout)
            }
            Self::Garbled(Garble::Crc) => Some(Duration::ZERO),
            Self::Refused(4 | 5 | 6 | 0x0B) => Some(BUSY_PAUSE),
            Self::Refused(_) | Self::LineDown(_) | Self::ShutDown => None,
        }
    }
}

/// What was wrong with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Garble {
    /// The right looks, but the checksum is wrong.
    Crc,
    /// Began like the answer and ended early.
    Truncated,
    /// A sound frame of the right unit with another length, or for a write another address or value.
    Length,
    /// A sound frame of the right unit with another function.
    Function,
    /// Bytes that fit nothing.
    Noise,
}

impl fmt::Display for Garble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crc => "checksum",
            Self::Truncated => "cut short",
            Self::Length => "wrong length or echo",
            Self::Function => "wrong function",
            Self::Noise => "noise",
        })
    }
}

/// What is true of the line now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusStatus {
    /// Open, as far as is known.
    pub up: bool,
    /// Why not, in words.
    pub error: Option<String>,
    /// Counters since the start.
    pub wire: WireCounts,
    /// Wire time used since the start: characters, turnaround, waiting in vain and silence.
    pub busy: Duration,
    /// Of it, what brought no answer: the cost of silent devices and of damage.
    pub in_vain: Duration,
}

/// How a job waits and how often it is tried.
#[derive(Debug, Clone, Copy)]
struct Turn {
    is_read: bool,
    tries_left: u8,
}

struct Job {
    ask: Ask,
    turn: Turn,
    done: oneshot::Sender<Result<Reply, BusError>>,
}

/// The handle; clones share the line.
#[derive(Debug, Clone)]
pub struct Bus {
    urgent: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
    retries: u8,
    status: watch::Receiver<BusStatus>,
    tap: Tap,
}

/// Owns one line until it is cancelled or all handles are gone.
pub struct BusTask {
    line: Line,
    engine: Engine,
    urgent: mpsc::Receiver<Job>,
    reads: mpsc::Receiver<Job>,
    again: Option<Job>,
    status: watch::Sender<BusStatus>,
    backoff: Backoff,
    reopen_at: Instant,
    down: Option<String>,
}

/// A handle and its task; nothing is opened before the task runs.
pub fn new(line: Line) -> (Bus, BusTask) {
    let (urgent, urgent_queue) = mpsc::channel(URGENT);
    let (reads, read_queue) = mpsc::channel(READS);
    let (status, seen) = watch::channel(BusStatus::default());
    let task = BusTask {
        engine: Engine::new(&line),
        urgent: urgent_queue,
        reads: read_queue,
        again: None,
        status,
        backoff: Backoff::new(REOPEN.0, REOPEN.1),
        reopen_at: Instant::now(),
        down: None,
        line,
    };
    let tap = task.engine.tap.clone();
    (Bus { urgent, reads, retries: task.line.retries, status: seen, tap }, task)
}

impl Bus {
    /// Takes its turn behind earlier reads.
    pub async fn read(&self, request: ReadRequest) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?;
        self.ask(&self.reads, ask, Turn { is_read: true, tries_left: self.retries }).await
    }

    /// A read without further tries that waits for at most so long. A device that has been heard answering too late gets as
    /// long as that took, up to the line's timeout.
    pub async fn read_once(&self, request: ReadRequest, wait: Duration) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?.within(wait);
        self.ask(&self.reads, ask, Turn { is_read: true, tries_left: 0 }).await
    }

    /// Somebody waits for it: goes next after the transaction in flight, before all polls.
    pub async fn read_next(&self, request: ReadRequest) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?;
        self.ask(&self.urgent, ask, Turn { is_read: true, tries_left: self.retries }).await
    }

    /// Goes next after the transaction in flight.
    pub async fn write(&self, request: WriteRequest) -> Result<Reply, BusError> {
        let ask = Ask::write(request).map_err(BusError::Refused)?;
        self.ask(&self.urgent, ask, Turn { is_read: false, tries_left: self.retries }).await
    }

    /// What passes from now on, or from as far back as is remembered; a reader too slow loses the oldest and is told.
    pub fn trace(&self) -> Trace {
        self.tap.trace()
    }

    /// Counters and state, kept up after every transaction.
    pub fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.clone()
    }

    async fn ask(&self, queue: &mpsc::Sender<Job>, ask: Ask, turn: Turn) -> Result<Reply, BusError> {
        let (done, answer) = oneshot::channel();
        let job = Job { ask, turn, done };
        queue.send(job).await.map_err(|_| BusError::ShutDown)?;
        answer.await.unwrap_or(Err(BusError::ShutDown))
    }
}

enum Event {
    Stop,
    Job(Job),
    Reopen,
}

impl BusTask {
    /// Until cancelled; the transaction in flight is finished first.
    pub async fn run(mut self, cancelled: CancellationToken) {
        while !cancelled.is_cancelled() {
            if !self.engine.is_open() && Instant::now() >= self.reopen_at {
                // Connecting may take seconds, and nothing is lost by giving it up.
                cancelled.run_until_cancelled(self.open()).await;
            }
            match self.next(&cancelled).await {
                Event::Stop => break,
                Event::Reopen => {}
                Event::Job(job) => self.serve(job, &cancelled).await,
            }
        }
    }

    async fn next(&mut self, cancelled: &CancellationToken) -> Event {
        if let Ok(job) = self.urgent.try_recv() {
            return Event::Job(job);
        }
        // A poll is chosen when it can go out, so that a write which comes during the silence need not wait for it.
        tokio::select! {
            biased;
            Some(job) = self.urgent.recv() => return Event::Job(job),
            () = self.engine.quiet() => {}
        }
        if let Some(job) = self.again.take() {
            return Event::Job(job);
        }
        let is_down = self.down.is_some();
        tokio::select! {
            biased;
            () = cancelled.cancelled() => Event::Stop,
            Some(job) = self.urgent.recv() => Event::Job(job),
            read = self.reads.recv() => read.map_or(Event::Stop, Event::Job),
            () = tokio::time::sleep_until(self.reopen_at), if is_down => Event::Reopen,
        }
    }

    /// A read that is to be tried again lets waiting writes go first; a write keeps its place, for the order of writes counts.
    async fn serve(&mut self, mut job: Job, cancelled: &CancellationToken) {
        while !job.done.is_closed() && !cancelled.is_cancelled() {
            let result = self.once(&job.ask).await;
            self.tell();
            let heals = result.as_ref().err().and_then(|e| e.heals_after(self.line.timeout)).is_some();
            if job.turn.tries_left == 0 || !heals {
                // The asker may have gone meanwhile; then nobody misses the answer.
                let _ = job.done.send(result);
                return;
            }
            job.turn.tries_left -= 1;
            self.engine.counts.retries += 1;
            if let Err(BusError::Refused(_)) = result {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            if job.turn.is_read {
                self.again = Some(job);
                return;
            }
        }
    }

    async fn once(&mut self, ask: &Ask) -> Result<Reply, BusError> {
        let mut fresh = false;
        loop {
            if !self.engine.is_open() {
                if Instant::now() >= self.reopen_at {
                    self.open().await;
                    fresh = true;
                }
                if let Some(error) = &self.down {
                    return Err(BusError::LineDown(error.clone()));
                }
            }
            let result = self.engine.transact(ask).await;
            if !matches!(result, Err(Miss::Gone(_))) {
                self.backoff.reset();
            }
            match result {
                Ok(Answer { outcome: Ok(data), arrived, turnaround }) => {
                    return Ok(Reply { data, arrived, turnaround });
                }
                Ok(Answer { outcome: Err(code), .. }) => return Err(BusError::Refused(code)),
                Err(Miss::NoReply) => return Err(BusError::NoReply),
                Err(Miss::Garbled(garble)) => return Err(BusError::Garbled(garble)),
                // A peer may close an idle connection; that is no fault of the line until a fresh one breaks as well.
                Err(Miss::Gone(_)) if !fresh && !matches!(self.line.port, Port::Serial(_)) => {}
                Err(Miss::Gone(error)) => return Err(BusError::LineDown(self.went_down(error))),
            }
        }
    }

    async fn open(&mut self) {
        let opened = match &self.line.port {
            Port::Serial(port) => Serial::open(port).map(Link::Serial),
            Port::Tcp(address) | Port::RtuOverTcp(address) => tcp::connect(address).await.map(Link::Tcp),
        };
        match opened {
            Ok(link) => {
                self.engine.attach(link);
                if self.down.take().is_some() {
                    tracing::info!(line = %self.line.name, "line up again");
                }
            }
            Err(error) => {
                self.went_down(error);
            }
        }
        self.tell();
    }

    /// Said once a turn; the next try to open waits for the backoff.
    fn went_down(&mut self, error: String) -> String {
        self.reopen_at = Instant::now() + self.backoff.next();
        if self.down.as_ref() != Some(&error) {
            tracing::warn!(line = %self.line.name, %error, "line down");
        }
        self.down = Some(error.clone());
        error
    }

    fn tell(&self) {
        self.status.send_modify(|status| {
            status.up = self.down.is_none();
            status.error.clone_from(&self.down);
            status.wire = self.engine.counts;
            status.busy = self.engine.busy;
            status.in_vain = self.engine.in_vain;
        });
    }
}

#[cfg(test)]
mod tests;
