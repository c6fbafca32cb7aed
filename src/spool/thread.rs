//! The spool's own thread and the handle to it. The thread alone owns the log and SQLite; a disk that stalls stalls
//! nobody else. Intake never waits: it is a bounded queue, and when that is full what does not fit is counted as
//! overrun. Retained messages that a broker hands out when it is subscribed to are old values: whoever feeds the
//! spool leaves them out.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Batch;
use super::Lane;
use super::Link;
use super::Seq;
use super::SpoolError;
use super::Standing;
use super::Subscriber;
use super::flash::Flash;
use super::log::Leaver;
use super::log::Log;
use super::log::PACE;
use super::log::Question;
use super::look::Slice;
use super::losses::Losses;
use crate::config::plant;
use crate::message::Message;
use crate::status::SpoolStatus;
use crate::time;

/// The log is looked after this often; with its pace an entry waits half a second for its commit, which is what a
/// `kill -9` while offline can cost at most.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(250);

/// Entries that wait for a stalled disk: 40 s of the largest site. Beyond it, overrun.
const INTAKE_MOST: usize = 200_000;
/// Commands taken before a commit gets its turn.
const COMMANDS_A_TURN: usize = 2_000;

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<SpoolStatus>,
    intake: Arc<Intake>,
}

/// What lies between callers and the thread.
#[derive(Debug, Default)]
struct Intake {
    waiting: AtomicUsize,
    overrun: AtomicU64,
}

/// The thread; joining it tells whether it ended in order.
#[derive(Debug)]
pub struct SpoolThread(JoinHandle<()>);

impl SpoolThread {
    /// Waits for its end; `Err` is its panic. Blocks: call it from `spawn_blocking` or after the runtime.
    pub fn join(self) -> std::thread::Result<()> {
        self.0.join()
    }

    /// Whether it has ended: before `close` that is a bug.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// What was thrown away by a person's will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// Whose.
    pub upstream: String,
    /// So many entries.
    pub entries: u64,
    /// So many were under way and are left to their answer.
    pub in_flight: u64,
}

#[derive(Debug)]
enum Command {
    Append(Vec<Message>),
    Batch { upstream: Arc<str>, lane: Lane, after: Option<Seq>, max: usize, reply: oneshot::Sender<Batch> },
    Acknowledge { upstream: Arc<str>, lane: Lane, upto: Seq },
    Refuse { upstream: Arc<str>, seq: Seq },
    Connected { upstream: Arc<str>, reply: oneshot::Sender<Standing> },
    Link { upstream: Arc<str>, link: Link },
    Look { after: Seq, reply: oneshot::Sender<Result<Slice, SpoolError>> },
    Renew { settings: Box<plant::Spool>, upstreams: Vec<Subscriber>, leaver: Leaver, reply: oneshot::Sender<()> },
    Clear { upstream: Option<String>, reply: oneshot::Sender<Result<Vec<Cleared>, SpoolError>> },
    Close(oneshot::Sender<()>),
}

/// Opens the log and starts its thread.
pub fn open(settings: plant::Spool, upstreams: Vec<Subscriber>) -> Result<(Spool, SpoolThread), SpoolError> {
    let path = settings.path.clone();
    let log = Log::open(settings, upstreams, time::boot_id())?.paced(PACE);
    start(log).map_err(|e| SpoolError::unusable(&path, e.to_string()))
}

/// Starts the thread that owns the log.
pub(super) fn start(log: Log) -> std::io::Result<(Spool, SpoolThread)> {
    let (commands, inbox) = mpsc::channel(INTAKE_MOST);
    let (publish, status) = watch::channel(log.status());
    let intake = Arc::new(Intake::default());
    let shared = Arc::clone(&intake);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
        let flash = Flash::new();
        let owner = Owner { log, waiters: Vec::new(), publish, intake: shared, flash, losses: Losses::default() };
        runtime.block_on(owner.run(inbox));
    })?;
    Ok((Spool { commands, status, intake }, SpoolThread(thread)))
}

impl Spool {
    /// Takes messages in. Never waits for the disk; what finds the queue full is counted as overrun.
    #[expect(clippy::unused_async, reason = "the place to wait, should intake ever have to")]
    pub async fn append(&self, messages: Vec<Message>) {
        let count = messages.len();
        let waiting = self.intake.waiting.fetch_add(count, Ordering::Relaxed);
        let room = waiting + count <= INTAKE_MOST;
        if !room || self.commands.try_send(Command::Append(messages)).is_err() {
            self.intake.waiting.fetch_sub(count, Ordering::Relaxed);
            self.intake.overrun.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// So many were lost before they could be appended.
    pub fn count_overrun(&self, lost: u64) {
        self.intake.overrun.fetch_add(lost, Ordering::Relaxed);
    }

    /// What this upstream wants after `after`; `None`: after its last acknowledgement, where every new link begins.
    /// Waits until there is something. Asking anew replaces a question that was given up.
    pub async fn next_batch(&self, upstream: &str, after: Option<Seq>, max: usize) -> Batch {
        self.next_on(Lane::Backlog, upstream, after, max).await
    }

    /// The same on a lane; the live lane begins at [`Standing::newest`].
    pub async fn next_on(&self, lane: Lane, upstream: &str, after: Option<Seq>, max: usize) -> Batch {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Batch { upstream: upstream.into(), lane, after, max, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// All entries up to here are done for this upstream.
    pub async fn acknowledge(&self, upstream: &str, upto: Seq) {
        self.acknowledge_on(Lane::Backlog, upstream, upto).await;
    }

    /// The same on a lane.
    pub async fn acknowledge_on(&self, lane: Lane, upstream: &str, upto: Seq) {
        let _ = self.commands.send(Command::Acknowledge { upstream: upstream.into(), lane, upto }).await;
    }

    /// The upstream will never take this entry: it counts as refused, not as acknowledged, when it is done. To be said
    /// before it is.
    pub async fn refuse(&self, upstream: &str, seq: Seq) {
        let _ = self.commands.send(Command::Refuse { upstream: upstream.into(), seq }).await;
    }

    /// The upstream's link is up: like [`Spool::link`], and says how the log stands.
    pub async fn connected(&self, upstream: &str) -> Standing {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Connected { upstream: upstream.into(), reply }).await;
        answer.await.unwrap_or_default()
    }

    /// How the upstream's link is; decides whether entries stay in memory.
    pub async fn link(&self, upstream: &str, link: Link) {
        let _ = self.commands.send(Command::Link { upstream: upstream.into(), link }).await;
    }

    /// What waits behind `after`; does not disturb the readers. `None` when the spool has closed.
    pub async fn look(&self, after: Seq) -> Option<Result<Slice, SpoolError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Look { after, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Throws away what waits for this upstream, or for all; `None` when the spool has closed.
    pub async fn clear(&self, upstream: Option<String>) -> Option<Result<Vec<Cleared>, SpoolError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Clear { upstream, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Other upstreams and limits from now on, in the place of those there were. The bridges of upstreams that change have
    /// ended; those of others need not know. False when the spool has closed.
    pub async fn renew(&self, settings: plant::Spool, upstreams: Vec<Subscriber>, leaver: Leaver) -> bool {
        let (reply, answer) = oneshot::channel();
        let renewal = Command::Renew { settings: Box::new(settings), upstreams, leaver, reply };
        self.commands.send(renewal).await.is_ok() && answer.await.is_ok()
    }

    /// How things stand, written every commit interval.
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.status.clone()
    }

    /// Takes what is still in the queue, commits everything, and ends the thread.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        let _ = self.commands.send(Command::Close(done)).await;
        let _ = closed.await;
    }
}

/// A question that waits for entries.
struct Waiter {
    question: Question,
    reply: oneshot::Sender<Batch>,
}

struct Owner {
    log: Log,
    waiters: Vec<Waiter>,
    publish: watch::Sender<SpoolStatus>,
    intake: Arc<Intake>,
    flash: Flash,
    losses: Losses,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut next_tick = Instant::now() + COMMIT_INTERVAL;
        let closing = loop {
            match tokio::time::timeout_at(next_tick, inbox.recv()).await {
                Ok(None) => break None,
                Ok(Some(command)) => {
                    if let Some(done) = self.turn(command, &mut inbox) {
                        break Some(done);
                    }
                }
                Err(_) => {}
            }
            if Instant::now() >= next_tick {
                self.log.tick(time::now());
                self.tell();
                next_tick = Instant::now() + COMMIT_INTERVAL;
            }
        };
        self.log.close();
        self.tell();
        // The file is closed before anybody hears that it is.
        let Self { log, publish, .. } = self;
        drop(log);
        if let Some(done) = closing {
            let _ = done.send(());
        }
        drop(publish);
    }

    /// This command and those behind it, then whoever waits for entries.
    fn turn(&mut self, command: Command, inbox: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        let mut next = Some(command);
        for _ in 0..COMMANDS_A_TURN {
            let Some(command) = next else { break };
            if let Some(done) = self.handle(command) {
                return Some(done);
            }
            next = inbox.try_recv().ok();
        }
        if let Some(command) = next
            && let Some(done) = self.handle(command)
        {
            return Some(done);
        }
        self.serve();
        None
    }

    fn handle(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        match command {
            Command::Append(messages) => {
                self.intake.waiting.fetch_sub(messages.len(), Ordering::Relaxed);
                self.log.append(messages, time::now());
            }
            Command::Batch { upstream, lane, after, max, reply } => {
                // Dropping the reply of a name that is not ours ends the question.
                if let Some(upstream) = self.log.index(&upstream) {
                    self.waiters.retain(|w| (w.question.upstream, w.question.lane) != (upstream, lane));
                    self.waiters.push(Waiter { question: Question { upstream, lane, after, max }, reply });
                }
            }
            Command::Acknowledge { upstream, lane, upto } => {
                let upstream = self.log.index(&upstream);
                match (upstream, lane) {
                    (Some(n), Lane::Backlog) => self.log.acknowledge(n, upto),
                    (Some(n), Lane::Live) => self.log.acknowledge_live(n, upto),
                    (None, _) => {}
                }
            }
            Command::Refuse { upstream, seq } => {
                if let Some(n) = self.log.index(&upstream) {
                    self.log.refuse(n, seq);
                }
            }
            Command::Connected { upstream, reply } => {
                if let Some(n) = self.log.index(&upstream) {
                    let _ = reply.send(self.log.connected(n));
                }
            }
            Command::Link { upstream, link } => {
                if let Some(n) = self.log.index(&upstream) {
                    self.log.link(n, link);
                }
            }
            Command::Look { after, reply } => {
                let _ = reply.send(self.log.look_or_say(after, time::now()));
            }
            Command::Renew { settings, upstreams, leaver, reply } => {
                let places = self.log.renew(*settings, upstreams, leaver);
                for mut waiter in std::mem::take(&mut self.waiters) {
                    if let Some(place) = places[waiter.question.upstream] {
                        waiter.question.upstream = place;
                        self.waiters.push(waiter);
                    }
                }
                self.tell();
                let _ = reply.send(());
            }
            Command::Clear { upstream, reply } => {
                let cleared = self.log.clear_named(upstream.as_deref(), time::now());
                // Whoever asked may look at the status next.
                self.tell();
                let _ = reply.send(cleared);
            }
            Command::Close(done) => return Some(done),
        }
        None
    }

    fn serve(&mut self) {
        let now = time::now();
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.reply.is_closed() {
                continue;
            }
            let batch = self.log.read(waiter.question, now);
            if batch.entries.is_empty() {
                let after = waiter.question.after.map(|a| a.max(batch.upto));
                self.waiters.push(Waiter { question: Question { after, ..waiter.question }, ..waiter });
            } else {
                let _ = waiter.reply.send(batch);
            }
        }
    }

    fn tell(&mut self) {
        let mut status = self.log.status();
        self.flash.note(&mut status);
        status.overrun = self.intake.overrun.load(Ordering::Relaxed);
        self.losses.note(&mut status);
        // Also when nothing has changed: that it is written is the sign of life the watchdog looks for.
        self.publish.send_replace(status);
    }
}
