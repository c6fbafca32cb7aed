//! The trail on disk. Every method is one transaction or one read. A write stands here before its first byte, without an
//! outcome, and is given one when it is known; what has none when the file is opened was cut off, and says so from then on.
//! Ages are counted in time that the gateway ran: a clock that begins in 1970 neither loses the trail nor revives an id.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;

use crate::command::audit::entry::Entry;
use crate::command::audit::entry::Rank;
use crate::command::audit::entry::Row;
use crate::command::audit::entry::Seq;
use crate::config::plant;
use crate::database;
use crate::database::FileError;
use crate::database::Layout;

/// Layout this program writes; grows with every change of the table.
const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, rank INTEGER NOT NULL, begun_us INTEGER NOT NULL, ran_us INTEGER NOT NULL,
        key TEXT, draft TEXT NOT NULL, outcome TEXT);
    CREATE INDEX keys ON entry (key) WHERE key IS NOT NULL;
    CREATE INDEX notes ON entry (seq) WHERE rank = 0;
";

/// How long the same id is the same command, in time that the gateway runs: a broker may hand a command out again when its
/// link is back after a day. As long as is usual for such keys elsewhere.
pub(super) const REMEMBERED: Duration = Duration::from_secs(86_400);

/// What a row weighs beside its texts: numbers, index, pages that are not quite full; a quarter more than was measured.
const BESIDE: u64 = 120;
/// A share that is full gives so much of it back at once: one deletion in a thousand writes.
const GIVE_BACK: u64 = 20;

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    db: Connection,
    path: PathBuf,
    max_size: u64,
    max_age: Duration,
    /// Rows, and bytes by rank.
    pub(super) rows: u64,
    bytes: [u64; Rank::ALL.len()],
    /// For how long the gateway had run when the newest row was written.
    pub(super) ran_us: i64,
}

/// What an opened file brings along.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) journal: Journal,
    /// Where a damaged file went.
    pub(super) set_aside: Option<PathBuf>,
}

const fn layout(max_size: u64) -> Layout {
    Layout { version: VERSION, steps: |_| TABLES.to_owned(), max_size }
}

const COLUMNS: &str = "seq, rank, begun_us, ran_us, key, draft, outcome";

impl Journal {
    /// Opens or begins the file.
    pub(super) fn open(settings: &plant::Audit) -> Result<Opened, FileError> {
        let opened = database::open(&settings.path, layout(settings.max_size))?;
        let journal = Self::load(opened.connection, settings).map_err(|e| FileError::of(&settings.path, &e))?;
        Ok(Opened { journal, set_aside: opened.set_aside })
    }

    /// Opens the file of a gateway that does not run: nothing is begun, marked or set aside.
    pub(super) fn open_as_it_is(settings: &plant::Audit) -> Result<Self, FileError> {
        let db = database::open_as_it_is(&settings.path, layout(settings.max_size))?;
        Self::load(db, settings).map_err(|e| FileError::of(&settings.path, &e))
    }

    fn load(db: Connection, settings: &plant::Audit) -> rusqlite::Result<Self> {
        let weigh = |rank: Rank| {
            let sum = format!("SELECT count(*), coalesce(sum({WEIGHT}), 0) FROM entry WHERE rank = {}", rank as i64);
            db.query_row(&sum, [], |r| Ok((r.get::<_, i64>(0)?.unsigned_abs(), r.get::<_, i64>(1)?.unsigned_abs())))
        };
        let (mut rows, mut bytes) = (0, [0; Rank::ALL.len()]);
        for rank in Rank::ALL {
            let (number, weight) = weigh(rank)?;
            rows += number;
            bytes[rank as usize] = weight;
        }
        let ran_us = db.query_row("SELECT coalesce(max(ran_us), 0) FROM entry", [], |r| r.get(0))?;
        Ok(Self {
            path: settings.path.clone(),
            max_size: settings.max_size,
            max_age: settings.max_age,
            rows,
            bytes,
            ran_us,
            db,
        })
    }

    /// The highest place ever given that still stands.
    pub(super) fn last(&self) -> Result<Seq, FileError> {
        self.said(self.db.query_row("SELECT coalesce(max(seq), 0) FROM entry", [], |r| r.get(0)))
    }

    fn said<T>(&self, result: rusqlite::Result<T>) -> Result<T, FileError> {
        result.map_err(|e| FileError::of(&self.path, &e))
    }

    /// Writes of earlier runs, before that place, that have no outcome: from now on they say that nobody knows it.
    pub(super) fn mark_cut_off(&mut self, before: Seq) -> Result<Vec<Entry>, FileError> {
        let open = self.said(self.rows_of("WHERE outcome IS NULL AND seq < ?1 ORDER BY seq", [before]))?;
        let marked = open.into_iter().map(|row| Row { outcome: Some(CUT_OFF.to_owned()), ..row }).collect::<Vec<_>>();
        self.put(&marked)?;
        Ok(marked.iter().map(Row::entry).collect())
    }

    /// Writes rows, or what has become of them, and keeps the limits: one transaction. Saying the same again does no harm.
    pub(super) fn put(&mut self, rows: &[Row]) -> Result<(), FileError> {
        let done = self.try_put(rows);
        self.said(done)
    }

    fn try_put(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        let (mut count, mut bytes) = (self.rows, self.bytes);
        let transaction = self.db.transaction()?;
        for row in rows {
            let old = transaction
                .prepare_cached(&format!("SELECT {WEIGHT} FROM entry WHERE seq = ?1"))?
                .query_row([row.seq], |r| r.get::<_, i64>(0))
                .optional()?;
            let draft = serde_json::to_string(&row.draft).unwrap_or_default();
            let outcome = row.outcome.as_deref();
            transaction
                .prepare_cached(
                    "INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT DO UPDATE SET key = ?5, outcome = ?7",
                )?
                .execute(params![row.seq, row.rank as i64, row.begun_us, row.ran_us, row.key, draft, outcome])?;
            let key = row.key.as_ref().map_or(0, String::len);
            let weight = BESIDE + (draft.len() + outcome.map_or(0, str::len) + key) as u64;
            let share = &mut bytes[row.rank as usize];
            *share = (*share + weight).saturating_sub(old.unwrap_or(0).unsigned_abs());
            count += u64::from(old.is_none());
        }
        for rank in Rank::ALL {
            let share = self.max_size / 8 * rank.share();
            let over = bytes[rank as usize].saturating_sub(share);
            if over > 0 {
                let (gone, freed) = give_back(&transaction, rank, over + share / GIVE_BACK)?;
                count = count.saturating_sub(gone);
                bytes[rank as usize] = bytes[rank as usize].saturating_sub(freed);
            }
        }
        transaction.commit()?;
        (self.rows, self.bytes) = (count, bytes);
        self.ran_us = rows.iter().map(|row| row.ran_us).fold(self.ran_us, i64::max);
        Ok(())
    }

    /// Forgets what is older than `max_age`.
    pub(super) fn expire(&mut self, ran_us: i64) -> Result<(), FileError> {
        let done = self.try_expire(ran_us);
        self.said(done)
    }

    fn try_expire(&mut self, ran_us: i64) -> rusqlite::Result<()> {
        let before = ran_us.saturating_sub(micros(self.max_age));
        for rank in Rank::ALL {
            let which = "WHERE rank = ?1 AND ran_us < ?2";
            let (rows, bytes): (i64, i64) = self.db.query_row(
                &format!("SELECT count(*), coalesce(sum({WEIGHT}), 0) FROM entry {which}"),
                params![rank as i64, before],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )?;
            if rows > 0 {
                self.db.execute(&format!("DELETE FROM entry {which}"), params![rank as i64, before])?;
                self.rows = self.rows.saturating_sub(rows.unsigned_abs());
                self.bytes[rank as usize] = self.bytes[rank as usize].saturating_sub(bytes.unsigned_abs());
            }
        }
        Ok(())
    }

    /// The newest with this key that is still remembered when the gateway has run for so long.
    pub(super) fn find(&self, key: &str, ran_us: i64) -> Result<Option<Row>, FileError> {
        let since = ran_us.saturating_sub(micros(REMEMBERED));
        let which = "WHERE key = ?1 AND ran_us >= ?2 ORDER BY seq DESC LIMIT 1";
        Ok(self.said(self.rows_of(which, params![key, since]))?.into_iter().next())
    }

    /// At most so many before that place, the newest first.
    pub(super) fn read(&self, before: Seq, most: u32) -> Result<Vec<Entry>, FileError> {
        let rows = self.said(self.rows_of("WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", params![before, most]))?;
        Ok(rows.iter().map(Row::entry).collect())
    }

    /// Bytes on disk: the file and its WAL.
    pub(super) fn disk_bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        size(&self.path) + size(&database::with_suffix(&self.path, "-wal"))
    }

    /// Gives pages back where more lie free than the limits' own coming and going needs: after `max_size` was lowered.
    pub(super) fn shrink(&self) -> Result<(), FileError> {
        let (_, free) = self.said(database::used_and_free(&self.db))?;
        if free > self.max_size / 4 {
            return self.said(database::shrink(&self.db, u32::MAX >> 1));
        }
        Ok(())
    }

    /// As if the file had been read never before.
    #[cfg(test)]
    pub(super) fn forget_pages(&self) {
        self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA shrink_memory;").unwrap();
    }

    fn rows_of(&self, which: &str, given: impl rusqlite::Params) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.db.prepare_cached(&format!("SELECT {COLUMNS} FROM entry {which}"))?;
        let rows = statement.query_map(given, |r| {
            let draft: String = r.get(5)?;
            Ok(Row {
                seq: r.get(0)?,
                rank: Rank::ALL[usize::from(r.get::<_, u8>(1)?).min(Rank::ALL.len() - 1)],
                begun_us: r.get(2)?,
                ran_us: r.get(3)?,
                key: r.get(4)?,
                draft: serde_json::from_str(&draft).unwrap_or_default(),
                outcome: r.get(6)?,
            })
        })?;
        rows.collect()
    }
}

/// What a write is answered with whose end nobody saw.
const CUT_OFF: &str = r#"{"result":"unknown","reason":"the gateway ended before the outcome was known"}"#;

/// In SQL what `put` reckons in bytes.
const WEIGHT: &str = "120 + length(CAST(draft AS BLOB)) + coalesce(length(CAST(outcome AS BLOB)), 0) + coalesce(length(CAST(key AS BLOB)), 0)";

/// Deletes the oldest of a rank until so many bytes are free; how many rows and bytes that were.
fn give_back(db: &Connection, rank: Rank, wanted: u64) -> rusqlite::Result<(u64, u64)> {
    let (mut rows, mut bytes, mut upto) = (0, 0, None);
    let mut oldest = db.prepare_cached(&format!("SELECT seq, {WEIGHT} FROM entry WHERE rank = ?1 ORDER BY seq"))?;
    let mut found = oldest.query([rank as i64])?;
    while bytes < wanted {
        let Some(row) = found.next()? else { break };
        upto = Some(row.get::<_, Seq>(0)?);
        bytes += row.get::<_, i64>(1)?.unsigned_abs();
        rows += 1;
    }
    db.prepare_cached("DELETE FROM entry WHERE rank = ?1 AND seq <= ?2")?.execute(params![rank as i64, upto])?;
    Ok((rows, bytes))
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::audit::entry::Asked;
    use crate::command::audit::entry::Draft;
    use serde_json::json;

    fn settings(folder: &Path, max_size: u64) -> plant::Audit {
        plant::Audit { max_size, ..plant::Audit::in_folder(folder) }
    }

    fn journal(folder: &Path) -> Journal {
        Journal::open(&settings(folder, 1 << 20)).unwrap().journal
    }

    fn row(seq: Seq, rank: Rank, id: &str) -> Row {
        let asked = vec![Asked { point: "setpoint".into(), value: json!(seq), raw: format!("holding 1 = {seq}") }];
        let draft = Draft { topic: "g/d/setpoint/set".into(), id: Some(id.into()), asked, ..Draft::default() };
        let outcome = (rank == Rank::Note).then(|| r#"{"result":"refused"}"#.to_owned());
        Row { seq, rank, begun_us: seq, ran_us: seq * 1_000_000, key: draft.key(), draft, outcome }
    }

    fn numbers(entries: &[Entry]) -> Vec<Seq> {
        entries.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn a_write_that_was_begun_and_not_ended_is_marked_at_the_next_start_and_found_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = journal(folder.path());
        let ended = Row { outcome: Some(r#"{"result":"written","value":1}"#.into()), ..row(1, Rank::Write, "a") };
        first.put(&[row(1, Rank::Write, "a"), row(2, Rank::Write, "b")]).unwrap();
        first.put(std::slice::from_ref(&ended)).unwrap();
        drop(first);
        let (mut second, now) = (journal(folder.path()), 3_000_000);
        assert!(second.mark_cut_off(2).unwrap().is_empty());
        assert_eq!(numbers(&second.mark_cut_off(Seq::MAX).unwrap()), [2]);
        assert!(second.mark_cut_off(Seq::MAX).unwrap().is_empty(), "told once");
        assert_eq!(second.last().unwrap(), 2);
        assert_eq!(second.find("g/d/setpoint/set a", now).unwrap().unwrap(), ended);
        let unknown = second.find("g/d/setpoint/set b", now).unwrap().unwrap().entry();
        assert_eq!(unknown.result(), "unknown");
        assert_eq!(second.find("g/d/setpoint/set c", now).unwrap(), None);
        assert_eq!(second.find("g/d/setpoint/set a", now + micros(REMEMBERED)).unwrap(), None, "a day later");
    }

    #[test]
    fn a_flood_of_refused_ones_does_not_push_out_writes_and_the_file_keeps_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 512 << 10;
        let mut journal = Journal::open(&settings(folder.path(), limit)).unwrap().journal;
        for seq in 1..=100 {
            journal.put(&[row(seq, Rank::Write, "w")]).unwrap();
        }
        for batch in 0..200 {
            let rows: Vec<Row> = (0..50).map(|n| row(101 + batch * 50 + n, Rank::Note, "n")).collect();
            journal.put(&rows).unwrap();
            assert!(journal.disk_bytes() <= limit, "{} bytes", journal.disk_bytes());
        }
        let all = journal.read(Seq::MAX, u32::MAX).unwrap();
        assert_eq!(journal.rows, all.len() as u64);
        let writes = all.iter().filter(|e| e.seq <= 100).count();
        assert_eq!(writes, 100, "all of them stand");
        assert!(all.len() - writes < 400, "{} notes", all.len() - writes);
        for batch in 0..100 {
            let rows: Vec<Row> = (0..40).map(|n| row(20_000 + batch * 40 + n, Rank::Write, "x")).collect();
            journal.put(&rows).unwrap();
        }
        assert!(journal.disk_bytes() <= limit, "{} bytes", journal.disk_bytes());
        let newest = numbers(&journal.read(Seq::MAX, 3).unwrap());
        assert_eq!(newest, [23_999, 23_998, 23_997], "the oldest went");
        assert!(journal.rows > 700, "{} rows in half a megabyte", journal.rows);
    }

    #[test]
    fn what_is_older_than_its_age_goes_whatever_the_wall_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        journal.put(&[row(1, Rank::Write, "a"), row(2, Rank::Note, "b"), row(3, Rank::Write, "c")]).unwrap();
        journal.expire(2_500_000 + micros(journal.max_age)).unwrap();
        assert_eq!(numbers(&journal.read(Seq::MAX, 9).unwrap()), [3]);
        let bytes = journal.bytes;
        assert_eq!((journal.rows, bytes[0]), (1, 0));
        drop(journal);
        assert_eq!(self::journal(folder.path()).bytes, bytes, "what is reckoned is what is counted at the next start");
    }

    #[test]
    fn an_entry_is_read_back_newest_first_in_slices() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        journal.put(&(1..=5).map(|n| row(n, Rank::Write, "a")).collect::<Vec<_>>()).unwrap();
        assert_eq!(numbers(&journal.read(Seq::MAX, 2).unwrap()), [5, 4]);
        assert_eq!(numbers(&journal.read(4, 2).unwrap()), [3, 2]);
        assert_eq!(journal.read(2, 2).unwrap()[0].draft, row(1, Rank::Write, "a").draft);
    }
}
