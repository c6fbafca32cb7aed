//! The lower storey: entries in SQLite. Every method is one transaction or one read; nothing here decides anything.
//! The table of runs lives beside the log, like the dictionary, and outlives the configuration.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Seq;
use super::SpoolError;
use super::dictionary::Dictionary;
use super::dictionary::GAP;
use super::dictionary::Learned;
use super::gap::Gap;
use super::row::Content;
use super::row::Taken;
use super::schema;
use crate::database;
use crate::status::Ledger;

/// How hard a commit is pressed onto the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As the daemon runs: a commit survives a power cut.
    Full,
    /// For comparison: SQLite's NORMAL.
    Normal,
}

/// A row read back; `None` where it is not readable any more.
pub(super) type Row = (Seq, Option<(Content, Taken)>);

/// Where an upstream stands, as it is written: in the same transaction as the rows it speaks of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    /// All up to here is done.
    pub(super) acknowledged: Seq,
    /// Entries on disk it still wants.
    pub(super) backlog: u64,
    /// Its totals.
    pub(super) account: Ledger,
    /// Stretches above `acknowledged` that are done too: behind the first up to the second.
    pub(super) ahead: Vec<(Seq, Seq)>,
    /// Newer values than those up to here may have been sent.
    pub(super) overtaken: Seq,
}

/// What one commit writes.
#[derive(Debug, Default)]
pub(super) struct Commit<'a> {
    /// New entries, in order.
    pub(super) entries: Vec<(Seq, &'a Content, Taken)>,
    /// Where each upstream stands.
    pub(super) cursors: Vec<(&'a str, Place)>,
    /// Rows behind the first up to the second are acknowledged by all.
    pub(super) done: Vec<(Seq, Seq)>,
}

/// What leaves without acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Leaving<'a> {
    /// These rows go.
    pub(super) gone: Vec<Seq>,
    /// These hold this gap from now on.
    pub(super) gaps: Vec<(Seq, &'a Gap)>,
    /// Where each upstream stands afterwards.
    pub(super) cursors: Vec<(&'a str, Place)>,
}

/// Most rows deleted in one transaction: a backlog of days that is cleared must not stall the thread.
const DELETE_AT_ONCE: i64 = 50_000;
/// Key of an upstream's place in the book, its name behind it.
const UPSTREAM: &str = "upstream/";

/// The open database.
#[derive(Debug)]
pub(super) struct Disk {
    db: Connection,
    path: PathBuf,
    dictionary: Dictionary,
    /// Number of this run.
    pub(super) run: u64,
    /// Rows in the log.
    pub(super) rows: u64,
    /// Whether rows that are done for all are still to be deleted.
    pub(super) litter: bool,
    #[cfg(test)]
    stall: Option<Stall>,
}

/// A disk that hangs in its next commit, until the test lets it go.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Stall {
    /// Told when the commit has begun.
    pub(super) begun: std::sync::mpsc::SyncSender<()>,
    /// The commit goes on when this has been said.
    pub(super) go_on: std::sync::mpsc::Receiver<()>,
}

impl Disk {
    /// Opens the file; the second part is where a damaged one went.
    pub(super) fn open(path: &Path, max_size: u64, boot: u64) -> Result<(Self, Option<PathBuf>), SpoolError> {
        let opened = database::open(path, schema::layout(max_size))?;
        let begin = |db: Connection| {
            db.execute("INSERT INTO run (boot) VALUES (?1)", [boot.cast_signed()])?;
            let run = db.last_insert_rowid().unsigned_abs();
            Self::load(db, path, run)
        };
        match begin(opened.connection) {
            Ok(disk) => Ok((disk, opened.set_aside)),
            Err(e) => Err(SpoolError::of(path, &e)),
        }
    }

    /// Opens the file of a gateway that does not run: nothing is begun, nothing set aside.
    pub(super) fn open_as_it_is(path: &Path, max_size: u64) -> Result<Self, SpoolError> {
        let db = database::open_as_it_is(path, schema::layout(max_size))?;
        Self::load(db, path, 0).map_err(|e| SpoolError::of(path, &e))
    }

    fn load(db: Connection, path: &Path, run: u64) -> rusqlite::Result<Self> {
        let rows = match number(&db, "rows")? {
            Some(n) => n,
            None => db.query_row("SELECT count(*) FROM log", [], |r| r.get(0))?,
        };
        Ok(Self {
            dictionary: Dictionary::load(&db)?,
            db,
            path: path.to_owned(),
            run,
            rows: rows.unsigned_abs(),
            litter: true,
            #[cfg(test)]
            stall: None,
        })
    }

    /// Where each known upstream stood.
    pub(super) fn cursors(&self) -> rusqlite::Result<HashMap<String, Place>> {
        let mut statement = self.db.prepare("SELECT key, value FROM book WHERE key LIKE 'upstream/%'")?;
        let rows = statement.query_map([], |r| {
            let (key, place): (String, String) = (r.get(0)?, r.get(1)?);
            Ok((key[UPSTREAM.len()..].to_owned(), serde_json::from_str(&place).unwrap_or_default()))
        })?;
        rows.collect()
    }

    /// Forgets cursors of upstreams that are not configured any more, so that they hold no space.
    pub(super) fn keep_cursors(&self, names: &[&str]) -> rusqlite::Result<()> {
        for known in self.cursors()?.into_keys().filter(|k| !names.contains(&k.as_str())) {
            self.db.execute("DELETE FROM book WHERE key = ?1", [format!("{UPSTREAM}{known}")])?;
        }
        Ok(())
    }

    /// The last number ever given out, rows that are gone included.
    pub(super) fn last_seq(&self) -> rusqlite::Result<Seq> {
        let written = number(&self.db, "last")?.unwrap_or(0);
        let newest: i64 = self.db.query_row("SELECT coalesce(max(seq), 0) FROM log", [], |r| r.get(0))?;
        let acknowledged = self.cursors()?.values().map(|p| p.acknowledged).max().unwrap_or(0);
        Ok(written.max(newest).unsigned_abs().max(acknowledged))
    }

    /// Writes entries and cursors, deletes what all have acknowledged: one transaction.
    pub(super) fn commit(&mut self, commit: &Commit<'_>) -> rusqlite::Result<()> {
        #[cfg(test)]
        if let Some(stall) = self.stall.take() {
            stall.begun.send(()).unwrap();
            stall.go_on.recv().unwrap();
        }
        let mut learned = Learned::default();
        let result = self.write(commit, &mut learned);
        match result {
            Ok(rows) => self.rows = rows,
            // The new words went with the transaction.
            Err(_) => self.dictionary.unlearn(learned),
        }
        result.map(|_| ())
    }

    fn write(&mut self, commit: &Commit<'_>, learned: &mut Learned) -> rusqlite::Result<u64> {
        let tx = self.db.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO log (seq, series, entry) VALUES (?1, ?2, ?3)")?;
            for (seq, content, taken) in &commit.entries {
                let (id, bytes) = self.dictionary.encode(&tx, (content, *taken), learned)?;
                insert.execute(params![seq.cast_signed(), id, bytes])?;
            }
        }
        let (mut gone, mut litter) = (0, false);
        for (after, upto) in &commit.done {
            let (deleted, more) = delete(&tx, *after, *upto)?;
            gone += deleted;
            litter |= more;
        }
        note_places(&tx, &commit.cursors)?;
        if let Some((last, ..)) = commit.entries.last() {
            note(&tx, "last", &last.to_string())?;
        }
        let rows = (self.rows + commit.entries.len() as u64).saturating_sub(gone);
        note(&tx, "rows", &rows.to_string())?;
        tx.commit()?;
        self.litter = litter;
        Ok(rows)
    }

    /// At most `max` rows after `after`, in order.
    pub(super) fn read(&self, after: Seq, max: usize) -> rusqlite::Result<Vec<Row>> {
        let mut statement =
            self.db.prepare_cached("SELECT seq, series, entry FROM log WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        let limit = i64::try_from(max).unwrap_or(i64::MAX);
        let mut found = statement.query(params![after.cast_signed(), limit])?;
        let mut rows = Vec::with_capacity(max.min(4096));
        while let Some(r) = found.next()? {
            let (seq, id): (i64, Option<i64>) = (r.get(0)?, r.get(1)?);
            let bytes = r.get_ref(2)?.as_blob().unwrap_or_default();
            let decoded = self.dictionary.decode(id, bytes);
            rows.push((seq.unsigned_abs(), decoded));
        }
        Ok(rows)
    }

    /// The gaps behind the first up to the second; they have an index of their own, so that no backlog is read for them.
    pub(super) fn gaps(&self, after: Seq, upto: Seq) -> rusqlite::Result<Vec<(Seq, Gap)>> {
        let mut statement =
            self.db.prepare_cached("SELECT seq, entry FROM log WHERE series = 0 AND seq > ?1 AND seq <= ?2")?;
        let mut found = statement.query([after.cast_signed(), upto.cast_signed()])?;
        let mut gaps = Vec::new();
        while let Some(r) = found.next()? {
            let seq: i64 = r.get(0)?;
            gaps.extend(Gap::decode(r.get_ref(1)?.as_blob().unwrap_or_default()).map(|gap| (seq.unsigned_abs(), gap)));
        }
        Ok(gaps)
    }

    /// Drops rows, puts gaps in their place, and writes the books with it: one transaction.
    pub(super) fn leave(&mut self, leaving: &Leaving<'_>) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        let mut rows = self.rows;
        for seq in &leaving.gone {
            let gone = tx.prepare_cached("DELETE FROM log WHERE seq = ?1")?.execute([seq.cast_signed()])? as u64;
            rows = rows.saturating_sub(gone);
        }
        for (seq, gap) in &leaving.gaps {
            let known = tx
                .prepare_cached("UPDATE log SET entry = ?2 WHERE seq = ?1")?
                .execute(params![seq.cast_signed(), gap.encode()])?;
            if known == 0 {
                tx.prepare_cached("INSERT INTO log (seq, series, entry) VALUES (?1, ?2, ?3)")?.execute(params![
                    seq.cast_signed(),
                    GAP,
                    gap.encode()
                ])?;
                rows += 1;
            }
        }
        note_places(&tx, &leaving.cursors)?;
        note(&tx, "rows", &rows.to_string())?;
        tx.commit()?;
        self.rows = rows;
        Ok(())
    }

    /// Bytes of pages in use, and bytes of free pages that wait to be given back.
    pub(super) fn used_and_free(&self) -> rusqlite::Result<(u64, u64)> {
        database::used_and_free(&self.db)
    }

    /// Bytes on disk: the file and its WAL.
    pub(super) fn bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        size(&self.path) + size(&database::with_suffix(&self.path, "-wal"))
    }

    /// Gives free pages back to the file system and empties the WAL.
    pub(super) fn shrink(&self, pages: u32) -> rusqlite::Result<()> {
        database::shrink(&self.db, pages)
    }

    /// Lets go of the file and moves it away; says where to.
    pub(super) fn set_aside(self) -> Option<PathBuf> {
        drop(self.db);
        database::set_aside(&self.path).ok()
    }

    /// For measurements: how hard commits are pressed onto the disk.
    pub(super) fn durability(&self, durability: Durability) -> rusqlite::Result<()> {
        let word = match durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        };
        self.db.pragma_update(None, "synchronous", word)
    }

    #[cfg(test)]
    pub(super) fn stall(&mut self, stall: Stall) {
        self.stall = Some(stall);
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }
}

fn number(db: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let text: Option<String> = db.query_row("SELECT value FROM book WHERE key = ?1", [key], |r| r.get(0)).optional()?;
    Ok(text.and_then(|t| t.parse().ok()))
}

fn note(db: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO book VALUES (?1, ?2)")?.execute([key, value])?;
    Ok(())
}

fn note_places(db: &Connection, places: &[(&str, Place)]) -> rusqlite::Result<()> {
    for (name, place) in places {
        let text = serde_json::to_string(place).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        note(db, &format!("{UPSTREAM}{name}"), &text)?;
    }
    Ok(())
}

/// Deletes a stretch, a bounded number of rows at once: how many went, and whether there are more.
fn delete(db: &Connection, after: Seq, upto: Seq) -> rusqlite::Result<(u64, bool)> {
    let (after, upto) = (after.cast_signed(), upto.cast_signed());
    let end: Option<i64> = db
        .prepare_cached("SELECT seq FROM log WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT 1 OFFSET ?3")?
        .query_row([after, upto, DELETE_AT_ONCE - 1], |r| r.get(0))
        .optional()?;
    let gone = db
        .prepare_cached("DELETE FROM log WHERE seq > ?1 AND seq <= ?2")?
        .execute([after, end.unwrap_or(upto)])? as u64;
    Ok((gone, end.is_some()))
}
