//! The broker's memory on disk: `broker.db` in the state directory, written by a thread of its own, at most one batch on its
//! way. The broker never waits for it: while the disk is full, read-only or gone, changes stay in memory, are tried again
//! and that is said once. A kill -9 costs at most [`WINDOW`] (and what `keep` says of retained messages that change
//! often); a power cut what came since the last [`SYNC`], as commits are not forced to the medium one by one.

mod db;
mod rows;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::watch;

use self::db::Db;
use self::db::OpenError;
use super::BrokerError;
use super::keep::Batch;
use super::keep::Saved;

/// Longest time a message waits to be written: two ticks of the broker, one for it to settle and one to be saved.
#[cfg(test)]
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// How often what was written is forced to the medium.
const SYNC: Duration = Duration::from_secs(10);
/// Between tries while the disk refuses, growing.
const RETRY: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
/// How long the last batch may take when the broker stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// The broker's end.
#[derive(Debug)]
pub(super) struct Store {
    batches: mpsc::SyncSender<Batch>,
    /// Batches handed over and not written yet: 0 or 1, while stopping 2.
    waiting: Arc<AtomicUsize>,
    /// The disk has nothing, or what it had was set aside.
    lost: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    /// Why the disk takes nothing.
    complaint: watch::Receiver<Option<String>>,
    ended: oneshot::Receiver<()>,
    thread: std::thread::Thread,
}

/// Opens or creates the database and reads it. A disk that cannot be used is no error: memory has to do for now.
pub(super) fn open(state_dir: &Path) -> Result<(Store, Saved), BrokerError> {
    let path = state_dir.join("broker.db");
    let complaint = watch::Sender::new(None);
    let (db, saved) = match Db::open_or_renew(&path) {
        Ok(opened) => (Some(opened.0), opened.1),
        Err(OpenError::Foreign(why)) => return Err(BrokerError::Store { path, why }),
        Err(OpenError::Damaged(why) | OpenError::Disk(why)) => {
            tracing::error!(path = %path.display(), %why, "sessions and retained messages are kept in memory only, for now");
            complaint.send_replace(Some(why));
            (None, db::read_only(&path))
        }
    };
    let (batches, work) = mpsc::sync_channel(2);
    let (waiting, lost, stopping) = <(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let (ending, ended) = oneshot::channel();
    // Then the first batch is to be a whole one.
    lost.store(db.is_none(), Ordering::Release);
    let complained = complaint.subscribe();
    let writer = Writer {
        path,
        in_step: db.is_some(),
        instance: db.as_ref().map(Db::instance),
        db,
        work,
        waiting: Arc::clone(&waiting),
        lost: Arc::clone(&lost),
        stopping: Arc::clone(&stopping),
        complaint,
        unsynced: None,
    };
    let spawned = std::thread::Builder::new().name("broker-store".into()).spawn(move || {
        writer.run();
        drop(ending);
    });
    let thread = spawned.map_err(|e| BrokerError::Thread(e.to_string()))?.thread().clone();
    Ok((Store { batches, waiting, lost, stopping, complaint: complained, ended, thread }, saved))
}

impl Store {
    /// Whether a batch may be handed over now. Not so: changes gather in the core, which is bounded.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Whether everything must be written anew; true once.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    /// Why the disk takes nothing right now, in words.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.borrow().clone()
    }

    /// Hands a batch over. Only when idle.
    pub(super) fn write(&self, batch: Batch) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.batches.try_send(batch).is_err() {
            // The thread has died, which is a bug that its panic has told; or the rule above was broken.
            tracing::error!("the broker's store takes no batch");
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The last batch; false when the disk did not take everything in time.
    pub(super) async fn close(self, last: Option<Batch>) -> bool {
        if let Some(batch) = last {
            self.write(batch);
        }
        let Self { batches, waiting, stopping, ended, thread, .. } = self;
        drop(batches);
        stopping.store(true, Ordering::Release);
        thread.unpark();
        let _ = tokio::time::timeout(FAREWELL, ended).await;
        waiting.load(Ordering::Acquire) == 0
    }
}

/// The thread's end.
struct Writer {
    path: PathBuf,
    db: Option<Db>,
    /// Which file was open last.
    instance: Option<i64>,
    /// What the memory takes as written is in that file.
    in_step: bool,
    work: mpsc::Receiver<Batch>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    /// Why the disk takes nothing: said already.
    complaint: watch::Sender<Option<String>>,
    /// Since when something is written and not forced to the medium.
    unsynced: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.work.recv_timeout(SYNC) {
                Ok(batch) => {
                    self.write(&batch);
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            self.sync();
        }
        if let Some(db) = self.db {
            db.close();
        }
    }

    /// Until it is written, or the broker stops and the disk still refuses.
    fn write(&mut self, batch: &Batch) {
        let mut tries = 0;
        while let Err(error) = self.try_write(batch) {
            // The memory was told to send everything anew; this batch is part of that.
            if self.db.is_some() && !self.in_step {
                self.lost.store(true, Ordering::Release);
                return;
            }
            let is_news = self.complaint.send_replace(Some(error.clone())).is_none();
            if is_news {
                tracing::error!(path = %self.path.display(), %error, "sessions and retained messages cannot be written; they are kept in memory and tried again");
            }
            if self.stopping.load(Ordering::Acquire) {
                self.waiting.fetch_add(1, Ordering::AcqRel);
                return;
            }
            std::thread::park_timeout(RETRY[tries.min(RETRY.len() - 1)]);
            tries += 1;
        }
        if self.complaint.send_replace(None).is_some() {
            tracing::info!(path = %self.path.display(), "sessions and retained messages are written again");
        }
        self.unsynced.get_or_insert_with(Instant::now);
    }

    fn try_write(&mut self, batch: &Batch) -> Result<(), String> {
        if self.db.is_none() {
            self.reopen();
        }
        let Some(db) = &mut self.db else { return Err("the file cannot be opened".to_owned()) };
        if !self.in_step && !batch.whole {
            return Err("a new file, which knows nothing of what was written before".to_owned());
        }
        match db.apply(batch) {
            Ok(()) => {
                self.in_step = true;
                Ok(())
            }
            Err(error) if db::is_damage(&error) => {
                self.db = None;
                db::set_aside(&self.path, &error.to_string());
                self.reopen();
                Err(error.to_string())
            }
            Err(error) => {
                // The next try begins with the file itself, which may be another by then.
                self.db = None;
                Err(error.to_string())
            }
        }
    }

    /// Another file than before knows nothing of what the memory thinks is written.
    fn reopen(&mut self) {
        let Ok((db, _)) = Db::open_or_renew(&self.path) else { return };
        if self.instance.replace(db.instance()) != Some(db.instance()) {
            self.in_step = false;
        }
        self.db = Some(db);
    }

    fn sync(&mut self) {
        let due = self.unsynced.is_some_and(|since| since.elapsed() >= SYNC);
        if let (true, Some(db)) = (due, &self.db) {
            self.unsynced = None;
            if let Err(error) = db.checkpoint() {
                tracing::debug!(%error, "checkpoint of the broker's store");
            }
        }
    }
}

#[cfg(test)]
mod tests;
