//! One line and whoever wants something of it. [`Bus`] is the handle, [`BusTask`] owns the port: turns, tries, reopening.
//! Writes and reads on demand go next, before any poll; a transaction in flight is never cut. Never a wrong value: what is not surely
//! the answer is put aside and counted. What the devices mean by their words is not known here.

mod ask;
mod bits;
mod copies;
mod debt;
mod engine;
mod error;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod frame;
mod ioctl;
mod line;
mod link;
pub mod mei;
mod pause;
pub mod probe;
mod request;
mod tcp;
pub mod trace;
#[cfg(test)]
pub(crate) mod wire;

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::bus::ask::Ask;
use crate::bus::bits::Bits;
use crate::bus::bits::Next;
use crate::bus::engine::Answer;
use crate::bus::engine::Engine;
use crate::bus::engine::Miss;
use crate::bus::error::BUSY_PAUSE;
use crate::bus::line::Serial;
use crate::bus::link::Link;
use crate::bus::mei::IdentifyRequest;
use crate::bus::trace::Tap;
use crate::bus::trace::Trace;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::UnitId;
use crate::status::WireCounts;

pub use crate::bus::error::BusError;
pub use crate::bus::error::Garble;
pub use crate::bus::line::Timing;
pub use crate::bus::pause::Pause;
pub use crate::bus::request::Data;
pub use crate::bus::request::ReadRequest;
pub use crate::bus::request::Reply;
pub use crate::bus::request::WriteKind;
pub use crate::bus::request::WriteRequest;

/// Reads that wait for their turn; a caller that finds it full waits too, which slows only that caller.
const READS: usize = 32;
/// Writes and reads on demand that wait; a person asks a few a second at most.
const URGENT: usize = 16;
/// Between tries to open a port: an adapter that is plugged in again works within five seconds.
const REOPEN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

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
    /// Of a write of a part of a register: what may have to be asked behind it, in the same slot.
    bits: Option<Bits>,
    /// Not to be sent after this.
    by: Option<Instant>,
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
    pulse: watch::Receiver<()>,
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
    /// Why it is not open.
    down: Option<String>,
    /// As told: stays where a connection comes about and broke when it was used, until one has been of use.
    fault: Option<String>,
    broke: bool,
    /// Units that have refused mask write.
    maskless: HashSet<UnitId>,
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
        fault: None,
        broke: false,
        maskless: HashSet::new(),
        line,
    };
    let (tap, pulse) = (task.engine.tap.clone(), task.engine.pulse.subscribe());
    (Bus { urgent, reads, retries: task.line.retries, status: seen, pulse, tap }, task)
}

impl Bus {
    /// Takes its turn behind earlier reads.
    pub async fn read(&self, request: ReadRequest) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?;
        self.ask(&self.reads, ask, Turn::read(self.retries)).await
    }

    /// A read without further tries that waits for at most so long. A device that has been heard answering too late gets as
    /// long as that took, up to the line's timeout.
    pub async fn read_once(&self, request: ReadRequest, wait: Duration) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?.within(wait);
        self.ask(&self.reads, ask, Turn::read(0)).await
    }

    /// Somebody waits for it: goes next after the transaction in flight, before all polls.
    pub async fn read_next(&self, request: ReadRequest) -> Result<Reply, BusError> {
        let ask = Ask::read(request).map_err(BusError::Refused)?;
        self.ask(&self.urgent, ask, Turn::read(self.retries)).await
    }

    /// One part of a device's identification, as somebody waits for it.
    pub async fn identify_next(&self, request: IdentifyRequest) -> Result<Reply, BusError> {
        let ask = Ask::identify(request).map_err(BusError::Refused)?;
        self.ask(&self.urgent, ask, Turn::read(self.retries)).await
    }

    /// One part of a device's identification, without further tries, behind earlier reads.
    pub async fn identify_once(&self, request: IdentifyRequest) -> Result<Reply, BusError> {
        let ask = Ask::identify(request).map_err(BusError::Refused)?;
        self.ask(&self.reads, ask, Turn::read(0)).await
    }

    /// Goes next after the transaction in flight.
    pub async fn write(&self, request: WriteRequest) -> Result<Reply, BusError> {
        self.write_by(request, None).await
    }

    /// The same, but not after that moment: where the transaction in flight took too long nothing is sent
    /// ([`BusError::TooLate`]), and what was sent in time and not answered is not sent again.
    pub async fn write_by(&self, request: WriteRequest, by: Option<Instant>) -> Result<Reply, BusError> {
        let bits = Bits::of(&request);
        let ask = bits.as_ref().map_or_else(|| Ask::write(request), Bits::first).map_err(BusError::Refused)?;
        self.ask(&self.urgent, ask, Turn { is_read: false, tries_left: self.retries, bits, by }).await
    }

    /// What passes from now on, or from as far back as is remembered; a reader too slow loses the oldest and is told.
    pub fn trace(&self) -> Trace {
        self.tap.trace()
    }

    /// Counters and state, kept up after every transaction.
    pub fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.clone()
    }

    /// Changes at every step of the line's work, whoever it is for: twice in a timeout and a frame at least while it has any,
    /// and never in a driver that hangs.
    pub fn pulse(&self) -> watch::Receiver<()> {
        self.pulse.clone()
    }

    async fn ask(&self, queue: &mpsc::Sender<Job>, ask: Ask, turn: Turn) -> Result<Reply, BusError> {
        let (done, answer) = oneshot::channel();
        let job = Job { ask, turn, done };
        queue.send(job).await.map_err(|_| BusError::NotSent)?;
        answer.await.unwrap_or(Err(BusError::ShutDown))
    }
}

impl Turn {
    fn is_over(self) -> bool {
        self.by.is_some_and(|by| Instant::now() > by)
    }

    const fn read(tries_left: u8) -> Self {
        Self { is_read: true, tries_left, bits: None, by: None }
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
        self.turn_away().await;
    }

    /// Whoever still waits learns that nothing was sent.
    async fn turn_away(&mut self) {
        self.urgent.close();
        self.reads.close();
        let mut waiting = self.again.take();
        loop {
            if let Some(job) = waiting {
                let _ = job.done.send(Err(BusError::NotSent));
            }
            waiting = match self.urgent.recv().await {
                Some(job) => Some(job),
                None => self.reads.recv().await,
            };
            if waiting.is_none() {
                return;
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
        if job.turn.is_over() {
            let _ = job.done.send(Err(BusError::TooLate));
            return;
        }
        self.take_known_way(&mut job);
        // How an earlier try of a write ended, which may have been done all the same.
        let mut before = None;
        while !job.done.is_closed() && !cancelled.is_cancelled() {
            let mut result = self.once(&job.ask, job.turn.by).await;
            self.tell();
            if result == Err(BusError::TooLate) {
                result = Err(before.take().unwrap_or(BusError::TooLate));
            }
            if self.goes_on(&mut job, &result) {
                // Until now nothing has been written.
                before = None;
                if job.turn.is_over() {
                    let _ = job.done.send(Err(BusError::TooLate));
                    return;
                }
                continue;
            }
            let heals = result.as_ref().err().and_then(|e| e.heals_after(self.line.timeout)).is_some();
            if job.turn.tries_left == 0 || !heals || job.turn.is_over() {
                // The asker may have gone meanwhile; then nobody misses the answer.
                let _ = job.done.send(result);
                return;
            }
            job.turn.tries_left -= 1;
            self.engine.counts.retries += 1;
            if let Err(BusError::Refused(_)) = result {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            before = result.err();
            if job.turn.is_read {
                self.again = Some(job);
                return;
            }
        }
        // Nobody waits for it any more, or the line ends: what was tried may have been done.
        let _ = job.done.send(Err(before.unwrap_or(BusError::NotSent)));
    }

    /// A unit that has refused mask write is not asked for it again.
    fn take_known_way(&self, job: &mut Job) {
        let known = job.turn.bits.as_mut().filter(|bits| self.maskless.contains(&bits.unit));
        if let Some(ask) = known.and_then(Bits::without_mask) {
            job.ask = ask;
        }
    }

    /// Whether a write of a part of a register is not over with this answer; what is asked next has all its tries again.
    fn goes_on(&mut self, job: &mut Job, result: &Result<Reply, BusError>) -> bool {
        let Some(bits) = &mut job.turn.bits else { return false };
        job.ask = match bits.next(result) {
            Next::Over => return false,
            Next::Ask(ask) => ask,
            Next::Unknown(ask) => {
                if self.maskless.insert(bits.unit) {
                    let (line, unit) = (&self.line.name, bits.unit);
                    tracing::info!(%line, %unit, "does not know mask write (22): registers are read and written whole");
                }
                ask
            }
        };
        job.turn.tries_left = self.line.retries;
        true
    }

    async fn once(&mut self, ask: &Ask, by: Option<Instant>) -> Result<Reply, BusError> {
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
            let sent = self.engine.counts.requests;
            let result = self.engine.transact(ask, by).await;
            if !matches!(result, Err(Miss::Gone(_))) {
                self.backoff.reset();
                self.broke = false;
                self.is_well();
            }
            match result {
                Ok(Answer { outcome: Ok(data), arrived, turnaround }) => {
                    return Ok(Reply { data, arrived, turnaround });
                }
                Ok(Answer { outcome: Err(code), .. }) => return Err(BusError::Refused(code)),
                Err(Miss::NoReply) => return Err(BusError::NoReply),
                Err(Miss::Garbled(garble)) => return Err(BusError::Garbled(garble)),
                // A peer may close an idle connection; that is no fault of the line until a fresh one breaks as well.
                // A write that has left may have been done: whoever asked learns it, and decides.
                Err(Miss::Gone(error)) if !fresh && !matches!(self.line.port, Port::Serial(_)) => {
                    if self.engine.counts.requests > sent && !ask.is_read() {
                        return Err(BusError::LineDown(error));
                    }
                }
                Err(Miss::TooLate) => return Err(BusError::TooLate),
                Err(Miss::Gone(error)) => {
                    self.broke = true;
                    return Err(BusError::LineDown(self.went_down(error)));
                }
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
                self.down = None;
                if !self.broke {
                    self.is_well();
                }
            }
            Err(error) => {
                self.broke = false;
                self.went_down(error);
            }
        }
        self.tell();
    }

    fn is_well(&mut self) {
        if self.fault.take().is_some() {
            tracing::info!(line = %self.line.name, "line up again");
        }
    }

    /// Said once a turn; the next try to open waits for the backoff.
    fn went_down(&mut self, error: String) -> String {
        self.reopen_at = Instant::now() + self.backoff.next();
        if self.fault.as_ref() != Some(&error) {
            tracing::warn!(line = %self.line.name, %error, "line down");
        }
        self.down = Some(error.clone());
        self.fault = Some(error.clone());
        error
    }

    fn tell(&self) {
        self.engine.moved();
        self.status.send_modify(|status| {
            status.up = self.fault.is_none();
            status.error.clone_from(&self.fault);
            status.wire = self.engine.counts;
            status.busy = self.engine.busy;
            status.in_vain = self.engine.in_vain;
        });
    }
}

#[cfg(test)]
mod tests;
