//! The trail's own thread: it alone owns the file, and a disk that stalls stalls nobody but the write that must be recorded.
//! What comes together is committed together. While the disk refuses, entries wait in memory, bounded, and are written when it
//! is well again; a damaged file is set aside and a new one begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::command::audit::Clock;
use crate::command::audit::entry::Entry;
use crate::command::audit::entry::Rank;
use crate::command::audit::entry::Row;
use crate::command::audit::entry::Seq;
use crate::command::audit::journal::Journal;
use crate::command::audit::journal::Opened;
use crate::command::audit::lost;
use crate::command::audit::lost::Lost;
use crate::config::plant;
use crate::database;
use crate::database::FileError;
use crate::status::AuditStatus;
use crate::time;

/// How long what was refused may wait for company on its way to the disk: it is lost by a kill, and nothing else is.
const NOTES_WAIT: Duration = Duration::from_secs(5);
/// Between tries while the disk refuses and nobody writes.
const RETRY: Duration = Duration::from_secs(5);
/// How often ages are looked at.
const EXPIRE: Duration = Duration::from_secs(3600);
/// Entries that wait for a disk that refuses. Full: a refused command's goes first, then the oldest that has ended; both are
/// counted and told.
const WAITING: usize = 1000;
/// Taken together into one commit.
const A_TURN: usize = 256;

/// Why not, in words.
pub(super) type Why = Arc<str>;

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Op {
    /// A write begins, or has ended: whoever waits for it hears when it is on disk.
    Put(Row, oneshot::Sender<Result<(), Why>>),
    /// May wait.
    Note(Row),
    /// The newest with this key.
    Find(String, oneshot::Sender<Result<Option<Row>, Why>>),
    /// At most so many before that place, the newest first.
    Read(Seq, u32, oneshot::Sender<Result<Vec<Entry>, Why>>),
    /// Everything is written, the file is closed.
    Close(oneshot::Sender<()>),
    /// A disk that hangs until the other end is dropped.
    #[cfg(test)]
    Stall(oneshot::Receiver<()>),
}

/// The thread's end.
#[derive(Debug)]
pub(super) struct Owner {
    settings: plant::Audit,
    clock: Clock,
    journal: Option<Journal>,
    /// Added to the numbers the handle gives, where the file could not be read at the start.
    offset: Option<Seq>,
    /// The first number of this run.
    first: Seq,
    /// Not on disk yet, by the handle's numbers.
    unwritten: BTreeMap<Seq, Row>,
    /// When the first of them has waited long enough.
    due: Option<Instant>,
    expired: Instant,
    told: broadcast::Sender<Arc<Entry>>,
    status: Arc<watch::Sender<AuditStatus>>,
    /// Counted by the handle, told here.
    pub(super) left_out: Arc<AtomicU64>,
    pub(super) lost: Lost,
    /// Of those that are lost so many are told in the file.
    told_lost: u64,
    /// The next number, shared with the handle.
    pub(super) next: Arc<AtomicI64>,
}

impl Owner {
    /// Opens the file. A disk that cannot be used is no error: it is tried again.
    pub(super) fn open(
        settings: &plant::Audit,
        told: broadcast::Sender<Arc<Entry>>,
    ) -> Result<(Self, Clock), FileError> {
        let now = Instant::now();
        let status = Arc::new(watch::Sender::default());
        let mut owner = Self {
            settings: settings.clone(),
            clock: Clock::since(0),
            journal: None,
            offset: None,
            first: 1,
            unwritten: BTreeMap::new(),
            due: None,
            expired: now,
            told,
            lost: Lost::new(&status),
            status,
            left_out: Arc::default(),
            told_lost: 0,
            next: Arc::default(),
        };
        match Journal::open(settings) {
            Ok(opened) => {
                let last = opened.journal.last()?;
                owner.clock = Clock::since(opened.journal.ran_us);
                (owner.first, owner.offset) = (last + 1, Some(0));
                owner.take(opened)?;
            }
            Err(refused @ (FileError::Newer { .. } | FileError::InUse { .. })) => return Err(refused),
            Err(error) => owner.fault(&error.to_string().into()),
        }
        owner.tell();
        owner.next.store(owner.first, Ordering::Relaxed);
        let clock = owner.clock;
        Ok((owner, clock))
    }

    pub(super) fn status(&self) -> watch::Receiver<AuditStatus> {
        self.status.subscribe()
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Op>) {
        let closing = loop {
            let wake = self.due.unwrap_or(self.expired + EXPIRE);
            let mut turn = Turn::default();
            match tokio::time::timeout_at(wake, inbox.recv()).await {
                Ok(None) => break None,
                Ok(Some(op)) => turn.take(op),
                Err(_) => {}
            }
            while turn.taken < A_TURN
                && turn.closing.is_none()
                && let Ok(op) = inbox.try_recv()
            {
                turn.take(op);
            }
            #[cfg(test)]
            for stall in turn.stalls.drain(..) {
                let _ = stall.await;
            }
            if let Some(done) = self.serve(turn) {
                break Some(done);
            }
        };
        let _ = self.commit();
        self.tell();
        // The file is closed before anybody hears that it is.
        let Self { journal, status, .. } = self;
        drop(journal);
        if let Some(done) = closing {
            let _ = done.send(());
        }
        drop(status);
    }

    fn serve(&mut self, turn: Turn) -> Option<oneshot::Sender<()>> {
        let Turn { puts, notes, asks, closing, .. } = turn;
        let now = Instant::now();
        // Whoever looks sees what has been told.
        let must = !puts.is_empty() || !asks.is_empty() || self.due.is_some_and(|due| due <= now);
        let (rows, waiting): (Vec<Row>, Vec<_>) = puts.into_iter().unzip();
        let rows: Vec<Row> = notes.into_iter().chain(rows).collect();
        if !rows.is_empty() {
            self.due.get_or_insert(now + NOTES_WAIT);
        }
        let ended = rows.iter().filter(|row| row.outcome.is_some()).cloned().collect::<Vec<_>>();
        rows.into_iter().for_each(|row| self.keep(row));
        if must {
            let result = self.commit();
            waiting.into_iter().for_each(|done| drop(done.send(result.clone())));
        }
        for row in ended {
            // Nobody listens: then nobody misses it.
            let _ = self.told.send(Arc::new(self.placed(row).entry()));
        }
        for ask in asks {
            self.answer(ask);
        }
        if self.expired + EXPIRE <= now {
            self.expire(now);
        }
        self.tell();
        closing
    }

    /// Into the queue for the disk; what is said again of the same entry takes its place.
    fn keep(&mut self, row: Row) {
        self.unwritten.insert(row.seq, row);
        if self.unwritten.len() > WAITING {
            let first = |is: fn(&Row) -> bool| self.unwritten.iter().find(|(_, row)| is(row)).map(|(seq, _)| *seq);
            // One that is under way comes again, whole, when it ends.
            let goes = first(|row| row.rank == Rank::Note).or_else(|| first(|row| row.outcome.is_some()));
            let goes = goes.or_else(|| self.unwritten.keys().next().copied());
            goes.and_then(|seq| self.unwritten.remove(&seq));
            self.lost.count();
        }
    }

    /// Says that so many are lost.
    fn gap(&self, entries: u64) -> Row {
        let (draft, outcome) = lost::told(entries);
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (begun_us, ran_us) = (time::now().wall_us, self.clock.ran_us());
        let outcome = Some(outcome);
        self.placed(Row { seq, rank: Rank::of(draft.cause), begun_us, ran_us, key: None, draft, outcome })
    }

    fn placed(&self, row: Row) -> Row {
        Row { seq: row.seq + self.offset.unwrap_or(0), ..row }
    }

    /// All that waits, in one transaction; twice where the file had to be set aside.
    fn commit(&mut self) -> Result<(), Why> {
        for _ in 0..2 {
            if self.journal.is_none()
                && let Err(error) = self.reopen()
            {
                let why = Why::from(error.to_string());
                self.fault(&why);
                return Err(why);
            }
            let lost = self.status.borrow().lost;
            let gap = (lost > self.told_lost).then(|| self.gap(lost - self.told_lost));
            let rows = self.unwritten.values().cloned().map(|row| self.placed(row)).chain(gap.clone());
            let rows: Vec<Row> = rows.collect();
            let Some(journal) = &mut self.journal else { break };
            match journal.put(&rows) {
                Ok(()) => {
                    self.unwritten.clear();
                    self.due = None;
                    self.told_lost = lost;
                    // Nobody listens: then nobody misses it.
                    let _ = gap.map(|row| self.told.send(Arc::new(row.entry())));
                    self.well();
                    return Ok(());
                }
                Err(error) => {
                    // The next try begins with the file itself, which may be another by then.
                    self.journal = None;
                    if !matches!(error, FileError::Damaged { .. }) {
                        let why = Why::from(error.to_string());
                        self.fault(&why);
                        return Err(why);
                    }
                    self.put_aside(&error);
                }
            }
        }
        Err("the file is damaged, and so is the new one".into())
    }

    fn put_aside(&self, error: &FileError) {
        let aside = database::set_aside(&self.settings.path);
        let aside = aside.map_or_else(|e| format!("nowhere ({e})"), |aside| aside.display().to_string());
        self.said_aside(&format!("{error}; set aside as {aside}, a new trail begun; ids in it are not known any more"));
    }

    fn said_aside(&self, words: &str) {
        tracing::error!("audit: {words}");
        self.status.send_modify(|status| {
            status.set_aside = Some(words.to_owned());
            status.set_aside_uptime_s = Some(time::uptime().as_secs());
        });
    }

    fn reopen(&mut self) -> Result<(), FileError> {
        let opened = Journal::open(&self.settings)?;
        let last = opened.journal.last()?;
        self.offset.get_or_insert(last);
        self.take(opened)
    }

    fn take(&mut self, opened: Opened) -> Result<(), FileError> {
        let Opened { mut journal, set_aside } = opened;
        if let Some(aside) = set_aside {
            let (path, aside) = (self.settings.path.display(), aside.display());
            self.said_aside(&format!(
                "{path} was damaged; set aside as {aside}, a new trail begun; ids in it are not known any more"
            ));
        }
        for entry in journal.mark_cut_off(self.first + self.offset.unwrap_or(0))? {
            let (topic, begun) = (&entry.draft.topic, &entry.time);
            tracing::warn!(%topic, %begun, "a write was under way when the gateway ended; its outcome is unknown");
            let _ = self.told.send(Arc::new(entry));
        }
        journal.expire(self.clock.ran_us())?;
        journal.shrink()?;
        self.journal = Some(journal);
        Ok(())
    }

    fn answer(&self, ask: Ask) {
        let said = |error: FileError| Why::from(error.to_string());
        let unreadable = || Why::from("the file cannot be read");
        match ask {
            Ask::Find(key, done) => {
                let waits = self.unwritten.values().rev().find(|row| row.key.as_ref() == Some(&key)).cloned();
                let found = match (waits, &self.journal) {
                    (Some(row), _) => Ok(Some(row)),
                    (None, Some(j)) => j.find(&key, self.clock.ran_us()).map_err(said),
                    (None, None) => Err(unreadable()),
                };
                let _ = done.send(found);
            }
            Ask::Read(before, most, done) => {
                let read = match &self.journal {
                    Some(journal) => journal.read(before, most).map_err(said),
                    None => Err(unreadable()),
                };
                let _ = done.send(read);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        self.expired = now;
        let ran_us = self.clock.ran_us();
        if let Some(Err(error)) = self.journal.as_mut().map(|journal| journal.expire(ran_us)) {
            tracing::warn!(%error, "audit: what is too old stays for now");
        }
    }

    /// Said once; entries wait.
    fn fault(&mut self, why: &Why) {
        self.due = Some(Instant::now() + RETRY);
        if self.status.borrow().error.as_deref() != Some(why) {
            tracing::error!("audit: {why}; what is written to machines cannot be recorded");
        }
        self.status.send_modify(|status| status.error = Some(why.to_string()));
    }

    fn well(&self) {
        if self.status.borrow().error.is_some() {
            tracing::info!("audit: the trail is written again");
            self.status.send_modify(|status| status.error = None);
        }
    }

    fn tell(&self) {
        self.status.send_modify(|status| {
            status.waiting = self.unwritten.len() as u64;
            status.left_out = self.left_out.load(Ordering::Relaxed);
            if let Some(journal) = &self.journal {
                (status.entries, status.disk_bytes) = (journal.rows, journal.disk_bytes());
            }
        });
    }
}

/// A question; answered after the commit.
#[derive(Debug)]
enum Ask {
    Find(String, oneshot::Sender<Result<Option<Row>, Why>>),
    Read(Seq, u32, oneshot::Sender<Result<Vec<Entry>, Why>>),
}

/// What came together.
#[derive(Debug, Default)]
struct Turn {
    taken: usize,
    puts: Vec<(Row, oneshot::Sender<Result<(), Why>>)>,
    notes: Vec<Row>,
    asks: Vec<Ask>,
    closing: Option<oneshot::Sender<()>>,
    #[cfg(test)]
    stalls: Vec<oneshot::Receiver<()>>,
}

impl Turn {
    fn take(&mut self, op: Op) {
        self.taken += 1;
        match op {
            Op::Put(row, done) => self.puts.push((row, done)),
            Op::Note(row) => self.notes.push(row),
            Op::Find(key, done) => self.asks.push(Ask::Find(key, done)),
            Op::Read(before, most, done) => self.asks.push(Ask::Read(before, most, done)),
            Op::Close(done) => self.closing = Some(done),
            #[cfg(test)]
            Op::Stall(go_on) => self.stalls.push(go_on),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::audit::entry::Draft;

    fn row(seq: Seq) -> Row {
        let draft = Draft { topic: "g/d/p/set".into(), ..Draft::default() };
        Row { seq, rank: Rank::Write, begun_us: 0, ran_us: 0, key: None, draft, outcome: Some("{}".into()) }
    }

    #[tokio::test]
    async fn a_file_that_turns_out_damaged_in_the_middle_is_set_aside_and_what_is_new_is_in_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings = plant::Audit::in_folder(folder.path());
        let (mut owner, _) = Owner::open(&settings, broadcast::channel(9).0).unwrap();
        (1..300).for_each(|seq| owner.keep(row(seq)));
        owner.commit().unwrap();
        owner.journal.as_ref().unwrap().forget_pages();
        let mut bytes = std::fs::read(&settings.path).unwrap();
        bytes[4096..].fill(0xA5);
        std::fs::write(&settings.path, bytes).unwrap();
        owner.keep(row(300));
        assert_eq!(owner.commit(), Ok(()));
        let said = owner.status.borrow().set_aside.clone().unwrap();
        assert!(said.contains("audit.db.damaged-1") && said.contains("ids in it are not known"), "{said}");
        let entries = owner.journal.as_ref().unwrap().read(Seq::MAX, 999).unwrap();
        assert_eq!(entries.iter().map(|e| e.seq).collect::<Vec<_>>(), [300]);
    }

    #[tokio::test]
    async fn more_than_can_wait_is_lost_and_counted_refused_ones_first() {
        let folder = tempfile::tempdir().unwrap();
        let settings = plant::Audit::in_folder(folder.path());
        std::fs::create_dir(&settings.path).unwrap();
        let (mut owner, _) = Owner::open(&settings, broadcast::channel(9).0).unwrap();
        owner.keep(row(1));
        owner.keep(Row { rank: Rank::Note, ..row(2) });
        (3..=1002).for_each(|seq| owner.keep(row(seq)));
        assert!(owner.commit().is_err());
        assert_eq!(owner.unwritten.keys().copied().take(2).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((owner.unwritten.len(), owner.status.borrow().lost), (WAITING, 2));
        assert!(owner.status.borrow().last_lost_uptime_s.is_some(), "and when is known");
    }
}
