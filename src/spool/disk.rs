//! The lower storey: entries in SQLite. Every method is one transaction or one read; nothing here decides anything.
//! The dictionary (series id → topic, format, unit, names) and the table of runs live beside the log and outlive the
//! configuration.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Seq;
use super::SpoolError;
use super::bench::Durability;
use super::gap::Gap;
use super::row;
use super::row::Content;
use super::row::Taken;
use super::schema;
use crate::message::Class;
use crate::payload::Format;
use crate::payload::Series;
use crate::status::Ledger;
use crate::topic::Qos;
use crate::topic::TopicName;

/// A row read back; `None` where it is not readable any more.
pub(super) type Row = (Seq, Option<(Content, Taken)>);

/// Where an upstream stands, as it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// All up to here is done.
    pub(super) acknowledged: Seq,
    /// Entries on disk it still wants.
    pub(super) backlog: u64,
    /// Its totals.
    pub(super) account: Ledger,
    /// Stretches above `acknowledged` that are done too: behind the first up to the second.
    pub(super) ahead: Vec<(Seq, Seq)>,
}

/// The part of a place that is written as text.
#[derive(Serialize, Deserialize)]
struct Account {
    #[serde(flatten)]
    account: Ledger,
    #[serde(default)]
    ahead: Vec<(Seq, Seq)>,
}

/// In the place of a series: the row is a gap.
const GAP: i64 = 0;

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

/// The open database.
#[derive(Debug)]
pub(super) struct Disk {
    db: Connection,
    path: PathBuf,
    series_ids: HashMap<Arc<Series>, i64>,
    series: HashMap<i64, Arc<Series>>,
    /// Number of this run.
    pub(super) run: u64,
    /// Rows in the log.
    pub(super) rows: u64,
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

/// The dictionary entry as text; a mirror, so that `Series` needs no serde.
#[derive(Serialize, Deserialize)]
struct Definition {
    format: Format,
    unit: Arc<str>,
    names: BTreeMap<String, String>,
    qos: Qos,
    retain: bool,
    class: Class,
}

impl Disk {
    /// Opens the file; the second part is where a damaged one went.
    pub(super) fn open(path: &Path, max_size: u64, boot: u64) -> Result<(Self, Option<PathBuf>), SpoolError> {
        let opened = schema::open(path, max_size)?;
        match Self::load(opened.connection, path, boot) {
            Ok(disk) => Ok((disk, opened.set_aside)),
            Err(e) => Err(SpoolError::of(path, &e)),
        }
    }

    fn load(db: Connection, path: &Path, boot: u64) -> rusqlite::Result<Self> {
        db.execute("INSERT INTO run (boot) VALUES (?1)", [boot.cast_signed()])?;
        let run = db.last_insert_rowid().unsigned_abs();
        let counted: Option<i64> =
            db.query_row("SELECT count FROM account WHERE key = 'rows'", [], |r| r.get(0)).optional()?;
        let rows = match counted {
            Some(n) => n,
            None => db.query_row("SELECT count(*) FROM log", [], |r| r.get(0))?,
        };
        let mut disk = Self {
            db,
            path: path.to_owned(),
            series_ids: HashMap::new(),
            series: HashMap::new(),
            run,
            rows: rows.unsigned_abs(),
            #[cfg(test)]
            stall: None,
        };
        disk.load_series()?;
        Ok(disk)
    }

    fn load_series(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare("SELECT id, topic, definition FROM series")?;
        let mut found = statement.query([])?;
        while let Some(r) = found.next()? {
            let (id, topic, definition): (i64, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
            let (Ok(topic), Ok(d)) = (TopicName::new(topic), serde_json::from_str::<Definition>(&definition)) else {
                continue;
            };
            let Definition { format, unit, names, qos, retain, class } = d;
            let series = Arc::new(Series { topic, format, unit, names, qos, retain, class });
            self.series_ids.insert(Arc::clone(&series), id);
            self.series.insert(id, series);
        }
        Ok(())
    }

    /// Where each known upstream stood: acknowledged, backlog.
    pub(super) fn cursors(&self) -> rusqlite::Result<HashMap<String, Place>> {
        let mut statement = self
            .db
            .prepare("SELECT upstream, acknowledged, backlog, account FROM cursor LEFT JOIN ledger USING (upstream)")?;
        let rows = statement.query_map([], |r| {
            let backlog = r.get::<_, i64>(2)?.unsigned_abs();
            let account = r.get::<_, Option<String>>(3)?.and_then(|text| serde_json::from_str(&text).ok());
            // Files of layout 1 have no account: it begins with what lies there.
            let new = || Account { account: Ledger { appended: backlog, ..Ledger::default() }, ahead: Vec::new() };
            let Account { account, ahead } = account.unwrap_or_else(new);
            Ok((r.get(0)?, Place { acknowledged: r.get::<_, i64>(1)?.unsigned_abs(), backlog, account, ahead }))
        })?;
        rows.collect()
    }

    /// Forgets cursors of upstreams that are not configured any more, so that they hold no space.
    pub(super) fn keep_cursors(&self, names: &[&str]) -> rusqlite::Result<()> {
        for known in self.cursors()?.into_keys().filter(|k| !names.contains(&k.as_str())) {
            self.db.execute("DELETE FROM cursor WHERE upstream = ?1", [&known])?;
            self.db.execute("DELETE FROM ledger WHERE upstream = ?1", [known])?;
        }
        Ok(())
    }

    /// The last number ever given out, rows that are gone included.
    pub(super) fn last_seq(&self) -> rusqlite::Result<Seq> {
        let last: i64 = self.db.query_row(
            "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'log'), 0),
                        coalesce((SELECT max(acknowledged) FROM cursor), 0))",
            [],
            |r| r.get(0),
        )?;
        Ok(last.unsigned_abs())
    }

    /// Writes entries and cursors, deletes what all have acknowledged: one transaction.
    pub(super) fn commit(&mut self, commit: &Commit<'_>) -> rusqlite::Result<()> {
        #[cfg(test)]
        if let Some(stall) = self.stall.take() {
            stall.begun.send(()).unwrap();
            stall.go_on.recv().unwrap();
        }
        let mut learned = Vec::new();
        let result = self.write(commit, &mut learned);
        match result {
            Ok(rows) => self.rows = rows,
            // The ids of series went with the transaction.
            Err(_) => {
                for (series, id) in learned {
                    self.series_ids.remove(&series);
                    self.series.remove(&id);
                }
            }
        }
        result.map(|_| ())
    }

    fn write(&mut self, commit: &Commit<'_>, learned: &mut Vec<(Arc<Series>, i64)>) -> rusqlite::Result<u64> {
        let tx = self.db.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT INTO log (seq, series, entry) VALUES (?1, ?2, ?3)")?;
            for (seq, content, taken) in &commit.entries {
                let (id, bytes) = match content {
                    Content::Gap(gap) => (Some(GAP), gap.encode()),
                    Content::Message(message) => match &message.own {
                        None => (None, row::encode_foreign(message, *taken)),
                        Some(own) => {
                            let id = match self.series_ids.get(&own.series) {
                                Some(id) => *id,
                                None => {
                                    let id = define(&tx, &own.series)?;
                                    self.series_ids.insert(Arc::clone(&own.series), id);
                                    self.series.insert(id, Arc::clone(&own.series));
                                    learned.push((Arc::clone(&own.series), id));
                                    id
                                }
                            };
                            (Some(id), row::encode_own(&own.sample, taken.run))
                        }
                    },
                };
                insert.execute(params![seq.cast_signed(), id, bytes])?;
            }
        }
        let mut gone = 0;
        for (after, upto) in &commit.done {
            gone += tx
                .prepare_cached("DELETE FROM log WHERE seq > ?1 AND seq <= ?2")?
                .execute([after.cast_signed(), upto.cast_signed()])? as u64;
        }
        for (name, place) in &commit.cursors {
            let (acknowledged, backlog) = (place.acknowledged.cast_signed(), place.backlog.cast_signed());
            tx.prepare_cached("INSERT OR REPLACE INTO cursor VALUES (?1, ?2, ?3)")?.execute(params![
                name,
                acknowledged,
                backlog
            ])?;
            let account = Account { account: place.account, ahead: place.ahead.clone() };
            let account = serde_json::to_string(&account).unwrap_or_default();
            tx.prepare_cached("INSERT OR REPLACE INTO ledger VALUES (?1, ?2)")?.execute(params![name, account])?;
        }
        let rows = (self.rows + commit.entries.len() as u64).saturating_sub(gone);
        count_rows(&tx, rows)?;
        tx.commit()?;
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
            let message = |(message, taken)| (Content::Message(message), taken);
            let decoded = match id {
                None => row::decode(None, bytes).map(message),
                Some(GAP) => Gap::decode(bytes).map(|gap| (Content::Gap(gap), Taken::NEVER)),
                Some(id) => self.series.get(&id).and_then(|s| row::decode(Some(s), bytes)).map(message),
            };
            rows.push((seq.unsigned_abs(), decoded));
        }
        Ok(rows)
    }

    /// Drops these rows and leaves a gap in the place of the last.
    pub(super) fn drop_rows(&mut self, seqs: &[Seq], gap: Option<(Seq, &Gap)>) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        let mut rows = self.rows;
        for seq in seqs {
            let gone = tx.prepare_cached("DELETE FROM log WHERE seq = ?1")?.execute([seq.cast_signed()])? as u64;
            rows = rows.saturating_sub(gone);
        }
        if let Some((seq, gap)) = gap {
            tx.prepare_cached("INSERT INTO log (seq, series, entry) VALUES (?1, ?2, ?3)")?.execute(params![
                seq.cast_signed(),
                GAP,
                gap.encode()
            ])?;
            rows += 1;
        }
        count_rows(&tx, rows)?;
        tx.commit()?;
        self.rows = rows;
        Ok(())
    }

    /// Bytes of pages in use, and bytes of free pages that wait to be given back.
    pub(super) fn used_and_free(&self) -> rusqlite::Result<(u64, u64)> {
        let get = |name| self.db.pragma_query_value(None, name, |r| r.get::<_, i64>(0)).map(i64::unsigned_abs);
        let (pages, free, size) = (get("page_count")?, get("freelist_count")?, get("page_size")?);
        Ok((pages.saturating_sub(free) * size, free * size))
    }

    /// Bytes on disk: the file and its WAL.
    pub(super) fn bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        size(&self.path) + size(&schema::with_suffix(&self.path, "-wal"))
    }

    /// Gives free pages back to the file system and empties the WAL.
    pub(super) fn shrink(&self, pages: u32) -> rusqlite::Result<()> {
        // Stepped to its end: with `execute` it frees a single page.
        let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
        drop(steps);
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Lets go of the file and moves it away; says where to.
    pub(super) fn set_aside(self) -> Option<PathBuf> {
        drop(self.db);
        schema::set_aside(&self.path).ok()
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

fn count_rows(db: &Connection, rows: u64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO account VALUES ('rows', ?1)")?.execute([rows.cast_signed()])?;
    Ok(())
}

fn define(db: &Connection, series: &Series) -> rusqlite::Result<i64> {
    let Series { topic, format, unit, names, qos, retain, class } = series.clone();
    let definition = Definition { format, unit, names, qos, retain, class };
    let text = serde_json::to_string(&definition).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    db.execute("INSERT INTO series (topic, definition) VALUES (?1, ?2)", params![topic.as_str(), text])?;
    Ok(db.last_insert_rowid())
}
