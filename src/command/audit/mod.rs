//! The audit trail of everything that was to be written to a machine: who, from where, what, when, and what came of it.
//! Whoever writes calls [`Audit::begin`] before the first byte and [`Writ::end`] when the outcome is known, both of which wait
//! for the disk; whoever refuses calls [`Audit::note`], which does not. The trail is also the memory for ids: a command that
//! stands in it is not done again, also not after a restart.

mod entry;
mod flood;
mod journal;
mod look;
mod lost;
mod owner;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;

pub use self::entry::Asked;
pub use self::entry::Cause;
pub use self::entry::Draft;
pub use self::entry::Entry;
pub use self::entry::Seq;
pub use self::entry::Who;
pub use self::look::Wanted;

use self::entry::Rank;
use self::entry::Row;
use self::flood::Flood;
use self::flood::Judged;
use self::journal::Journal;
use self::lost::Lost;
use self::owner::Op;
use self::owner::Owner;
use self::owner::Why;
use crate::command::Outlet;
use crate::config::plant;
use crate::config::plant::WhenUnwritable;
use crate::database::FileError;
use crate::message::Message;
use crate::message::Retain;
use crate::status::AuditStatus;
use crate::time;
use crate::topic::Qos;
use crate::topic::TopicName;

/// How long a write waits for the disk that it must stand on. SD cards stall for seconds; a person who waits longer has given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where it is done all the same: most stalls are shorter, and before a write are at most two such waits, so that it
/// is far from expiring (10 s).
const BRIEF: Duration = Duration::from_secs(1);
/// What waits for the thread. Full: a write waits as long as for the disk; what finds no room then is lost, counted and told.
const OPS: usize = 256;
/// Entries that a listener may be behind before it misses some.
const BEHIND: usize = 256;

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    ops: mpsc::Sender<Op>,
    next: Arc<AtomicI64>,
    clock: Clock,
    when_unwritable: WhenUnwritable,
    /// Held for a moment.
    flood: Arc<Mutex<Flood>>,
    told: broadcast::Sender<Arc<Entry>>,
    /// What was told before anybody could listen; for the first who does.
    early: Arc<Mutex<Option<broadcast::Receiver<Arc<Entry>>>>>,
    status: watch::Receiver<AuditStatus>,
    /// Refused ones that were counted and not kept.
    left_out: Arc<AtomicU64>,
    /// What found no room on its way to the thread.
    lost: Lost,
    /// Taken by the one who joins.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// For how long the gateway has run, all runs together; a lower bound, as the last quiet hours of a run are not written down.
#[derive(Debug, Clone, Copy)]
struct Clock {
    before_us: i64,
    began_us: u64,
}

impl Clock {
    fn since(before_us: i64) -> Self {
        Self { before_us, began_us: time::mono_us() }
    }

    fn ran_us(self) -> i64 {
        let own = time::mono_us().saturating_sub(self.began_us);
        self.before_us.saturating_add(i64::try_from(own).unwrap_or(i64::MAX))
    }
}

/// A write cannot be recorded, and so it is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing was sent: the audit trail cannot be written ({0}); `audit: {{when_unwritable: write}}` writes without it"
)]
pub struct Unrecorded(String);

/// What stands in the trail of a command with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// It was done, or refused, and this was the answer.
    Answered(String),
    /// It was begun at that time, and nobody knows what came of it.
    Unknown(String),
    /// The id was used at that time for something else.
    Other(String),
}

/// Opens the trail and starts its thread. A disk that cannot be used is no error; a file of a newer version, or of another
/// process, is.
pub fn open(settings: &plant::Audit) -> Result<Audit, FileError> {
    let (audit, owner, inbox) = assemble(settings)?;
    let fail = |e: std::io::Error| FileError::Unusable { path: settings.path.clone(), why: e.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(fail)?;
    let thread = std::thread::Builder::new().name("audit".to_owned());
    let thread = thread.spawn(move || runtime.block_on(owner.run(inbox))).map_err(fail)?;
    *audit.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(audit)
}

/// The same in this runtime, under its clock.
#[cfg(test)]
pub(super) fn open_here(settings: &plant::Audit) -> (Audit, tokio::task::JoinHandle<()>) {
    let (audit, owner, inbox) = assemble(settings).expect("the folder is a test's own");
    (audit, tokio::spawn(owner.run(inbox)))
}

fn assemble(settings: &plant::Audit) -> Result<(Audit, Owner, mpsc::Receiver<Op>), FileError> {
    let (told, early) = broadcast::channel(BEHIND);
    let (owner, clock) = Owner::open(settings, told.clone())?;
    let (ops, inbox) = mpsc::channel(OPS);
    let audit = Audit {
        ops,
        next: Arc::clone(&owner.next),
        clock,
        when_unwritable: settings.when_unwritable,
        flood: Arc::new(Mutex::new(Flood::new(Instant::now()))),
        told,
        early: Arc::new(Mutex::new(Some(early))),
        status: owner.status(),
        left_out: Arc::clone(&owner.left_out),
        lost: owner.lost.clone(),
        thread: Arc::default(),
    };
    Ok((audit, owner, inbox))
}

impl Audit {
    /// **What writes to a machine calls this before its first byte**, and [`Writ::end`] when it knows what came of it. Returns
    /// when the entry is on disk.
    ///
    /// # Errors
    /// With `when_unwritable: refuse` [`Unrecorded`] when the disk refuses or does not answer in five seconds: then nothing may
    /// be sent, and the trail says so. Otherwise never, after a second at most, and for a fail-safe at once: the entry waits in
    /// memory.
    pub async fn begin(&self, draft: Draft) -> Result<Writ, Unrecorded> {
        let goes_on = draft.cause == Cause::FailSafe || self.when_unwritable == WhenUnwritable::Write;
        let key = draft.key();
        let row = self.row(Rank::of(draft.cause), draft, key);
        let (is_on_its_way, done) = self.put(row.clone()).await;
        let mut writ = Writ { audit: self.clone(), row, is_told: is_on_its_way };
        match done {
            Err(why) if !goes_on => {
                let refused = Unrecorded(why.to_string());
                let outcome = serde_json::json!({"result": "refused", "reason": refused.to_string()}).to_string();
                // Not done, so its id is free. Behind the entry itself, should that still find its way to the disk.
                let row = Row { key: None, outcome: Some(outcome), ..writ.row.clone() };
                writ.is_told = self.ops.try_send(Op::Note(row)).is_ok();
                Err(refused)
            }
            Ok(()) | Err(_) => Ok(writ),
        }
    }

    /// Puts down what was refused, or only read. Does not wait, and a flood is not kept one by one.
    pub fn note(&self, draft: Draft, outcome: &str) {
        self.keep_note(draft, None, outcome);
    }

    /// The same, and the id is remembered with this answer.
    pub fn note_answer(&self, draft: Draft, outcome: &str) {
        let key = draft.key();
        self.keep_note(draft, key, outcome);
    }

    fn keep_note(&self, mut draft: Draft, key: Option<String>, outcome: &str) {
        let judged = self.flood.lock().unwrap_or_else(PoisonError::into_inner).judge(Instant::now());
        let left_out = match judged {
            Judged::Kept { left_out } => left_out,
            Judged::Counted => return self.count_left_out(),
        };
        if left_out > 0 {
            draft.why = Some(format!("{left_out} refused ones before this were not kept one by one"));
        }
        let row = Row { outcome: Some(outcome.to_owned()), ..self.row(Rank::Note, draft, key) };
        if self.ops.try_send(Op::Note(row)).is_err() {
            self.lost.count();
        }
    }

    /// What became of the same command earlier, in this run or before; `None`: it is new, or it has no id.
    ///
    /// # Errors
    /// [`Unrecorded`] when the trail cannot be read; `None` instead with `when_unwritable: write`.
    pub async fn earlier(&self, draft: &Draft) -> Result<Option<Earlier>, Unrecorded> {
        let Some(key) = draft.key() else { return Ok(None) };
        let (done, found) = oneshot::channel();
        match self.ask(Op::Find(key, done), found, self.patience(draft.cause)).await {
            Ok(Some(row)) => Ok(Some(Earlier::of(&row, draft))),
            Ok(None) => Ok(None),
            Err(_) if self.when_unwritable == WhenUnwritable::Write => Ok(None),
            Err(why) => Err(Unrecorded(why.to_string())),
        }
    }

    /// At most so many entries before that place, the newest first.
    pub async fn read(&self, before: Seq, most: u32) -> Result<Vec<Entry>, String> {
        let (done, found) = oneshot::channel();
        self.ask(Op::Read(before, most, done), found, PATIENCE).await.map_err(|why| why.to_string())
    }

    /// Entries from now on, each when its outcome is known.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.told.subscribe()
    }

    /// Tells each entry on `{gateway}/$audit`, those included that were cut off by the end of the last run, until nobody
    /// takes it. Whoever is behind misses some; the file has them.
    pub async fn announce(&self, gateway: &str, outlet: &Outlet) {
        let Ok(topic) = TopicName::new(format!("{gateway}/$audit")) else { return };
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut entries = early.unwrap_or_else(|| self.listen());
        loop {
            let payload = match entries.recv().await {
                Ok(entry) => serde_json::to_string(&*entry).unwrap_or_default(),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "audit: entries came faster than they could be told on $audit");
                    continue;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let message = Message::plain(topic.clone(), Bytes::from(payload), Qos::AtLeastOnce, Retain::No);
            if outlet.send(vec![message]).await.is_err() {
                return;
            }
        }
    }

    /// How things stand.
    pub fn status(&self) -> watch::Receiver<AuditStatus> {
        self.status.clone()
    }

    /// Writes what waits, closes the file, and ends the thread.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.ops.send(Op::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// The disk hangs from now on, until the other end is dropped.
    #[cfg(test)]
    pub(super) fn stall(&self) -> oneshot::Sender<()> {
        let (go_on, stalled) = oneshot::channel();
        let _ = self.ops.try_send(Op::Stall(stalled));
        go_on
    }

    fn count_left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    fn row(&self, rank: Rank, draft: Draft, key: Option<String>) -> Row {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (begun_us, ran_us) = (time::now().wall_us, self.clock.ran_us());
        Row { seq, rank, begun_us, ran_us, key, draft, outcome: None }
    }

    /// A fail-safe is not held up by its record: nobody else may be left to do it.
    const fn patience(&self, cause: Cause) -> Duration {
        match (cause, self.when_unwritable) {
            (Cause::FailSafe, _) => Duration::ZERO,
            (_, WhenUnwritable::Write) => BRIEF,
            (_, WhenUnwritable::Refuse) => PATIENCE,
        }
    }

    /// Whether it is on its way to the disk, and whether it has come there.
    async fn put(&self, row: Row) -> (bool, Result<(), Why>) {
        let (done, recorded) = oneshot::channel();
        let patience = self.patience(row.draft.cause);
        let until = Instant::now() + patience;
        let Ok(Ok(place)) = timeout_at(until, self.ops.reserve()).await else {
            return (false, Err(late(patience)));
        };
        place.send(Op::Put(row, done));
        let answer = timeout_at(until, recorded).await;
        (true, answer.unwrap_or_else(|_| Ok(Err(late(patience)))).unwrap_or_else(|_| Err(ended())))
    }

    async fn ask<T>(&self, op: Op, answer: oneshot::Receiver<Result<T, Why>>, patience: Duration) -> Result<T, Why> {
        let asked = async {
            self.ops.send(op).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        timeout(patience, asked).await.unwrap_or_else(|_| Err(late(patience)))
    }
}

fn ended() -> Why {
    Why::from("its thread has ended")
}

fn late(patience: Duration) -> Why {
    Why::from(format!("its disk has not answered for {} s", patience.as_secs()))
}

impl Earlier {
    fn of(row: &Row, again: &Draft) -> Self {
        let begun = time::rfc3339_millis(row.begun_us);
        match &row.outcome {
            _ if !row.draft.asks_like(again) => Self::Other(begun),
            Some(outcome) if row.entry().result() != "unknown" => Self::Answered(outcome.clone()),
            _ => Self::Unknown(begun),
        }
    }
}

/// A write that stands in the trail and has no outcome yet. Dropped without one, it stays so: nobody knows.
#[must_use = "a write whose end is not told is shown as unknown"]
#[derive(Debug)]
pub struct Writ {
    audit: Audit,
    row: Row,
    /// What there is to say of it is on its way to the disk. Where it is let go without, it is lost.
    is_told: bool,
}

impl Writ {
    /// What came of it, as JSON with `result` (`written`, `failed`, `refused`). Returns when that is on disk; when the disk does
    /// not answer for as long as [`Audit::begin`] waits, it waits in memory, and the asker is told all the same.
    pub async fn end(mut self, outcome: &str) {
        self.put(Row { outcome: Some(outcome.to_owned()), ..self.row.clone() }).await;
    }

    /// It was not done, and may be asked again with the same id.
    pub async fn withdraw(mut self, outcome: &str) {
        self.put(Row { outcome: Some(outcome.to_owned()), key: None, ..self.row.clone() }).await;
    }

    async fn put(&mut self, row: Row) {
        let is_waited_for = !self.audit.patience(row.draft.cause).is_zero();
        // Cut off while it waits for room, it is not told either.
        self.is_told = false;
        let (is_on_its_way, done) = self.audit.put(row).await;
        self.is_told = is_on_its_way;
        if let Err(why) = done
            && is_waited_for
        {
            tracing::warn!(%why, topic = self.row.draft.topic, "audit: an outcome is told that is not on disk yet");
        }
    }
}

impl Drop for Writ {
    fn drop(&mut self) {
        if !self.is_told {
            self.audit.lost.count();
        }
    }
}

/// The trail of a gateway that does not run, looked at by a person. Opening it keeps the gateway out until it is dropped.
#[derive(Debug)]
pub struct Stored(Journal);

impl Stored {
    /// Opens the file of these settings; refused while a gateway runs on it.
    pub fn open(settings: &plant::Audit) -> Result<Self, FileError> {
        Ok(Self(Journal::open_as_it_is(settings)?))
    }

    /// As [`Audit::read`].
    pub fn read(&self, before: Seq, most: u32) -> Result<Vec<Entry>, String> {
        self.0.read(before, most).map_err(|e| e.to_string())
    }
}
