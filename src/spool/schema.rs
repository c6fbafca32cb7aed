//! The one door to SQLite: opens a database with the pragmas that hold on flash, or says why not. A file of a newer
//! version is refused untouched; a damaged one is set aside under a name that is said, and a new one begun, so that
//! start-up never needs a human hand.

use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use super::SpoolError;

/// Layout this program writes; grows with every change of the tables.
pub(super) const VERSION: i32 = 3;

/// Files up to this size are checked through when opened (0.2 s); larger ones are healed when damage shows.
const CHECK_UP_TO: u64 = 64 << 20;

/// The log gives its own numbers and remembers the last one itself (`last` in the book), because a plain key would be used
/// again after the log was emptied. All accounts lie in one small table, so that a commit of few rows touches few pages.
const TABLES: &str = "
    CREATE TABLE log (seq INTEGER PRIMARY KEY, series INTEGER, entry BLOB NOT NULL);
    CREATE TABLE series (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, definition TEXT NOT NULL);
    CREATE TABLE run (id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL);
    CREATE TABLE book (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE INDEX gaps ON log (seq) WHERE series = 0;
";

/// From layout 1, which kept no account of the upstreams.
const FROM_1: &str = "
    CREATE TABLE ledger (upstream TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;
";

/// From layout 2: three tables of accounts become one. What is not accounted for begins with what lies there.
const FROM_2: &str = "
    CREATE TABLE book (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO book SELECT 'rows', count FROM account WHERE key = 'rows';
    INSERT INTO book SELECT 'last', seq FROM sqlite_sequence WHERE name = 'log';
    INSERT INTO book SELECT 'upstream/' || upstream, json_object(
            'acknowledged', acknowledged,
            'backlog', backlog,
            'account', json(coalesce(account, json_object('appended', backlog))),
            'ahead', json(coalesce(json_extract(account, '$.ahead'), '[]')))
        FROM cursor LEFT JOIN ledger USING (upstream);
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE INDEX gaps ON log (seq) WHERE series = 0;
    DROP TABLE cursor;
    DROP TABLE ledger;
    DROP TABLE account;
";

/// An open database, and what had to be set aside for it.
#[derive(Debug)]
pub(super) struct Opened {
    /// The only connection.
    pub(super) connection: Connection,
    /// Where the damaged file went, if there was one.
    pub(super) set_aside: Option<PathBuf>,
}

/// Opens or begins the database at `path`.
pub(super) fn open(path: &Path, max_size: u64) -> Result<Opened, SpoolError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| SpoolError::Folder { path: folder.to_owned(), why: e.to_string() })?;
    }
    let damaged = match header(path) {
        Ok(Header::Absent) => false,
        Ok(Header::Version(found)) if found > VERSION => return Err(newer(path, found)),
        Ok(Header::Version(_)) => false,
        Ok(Header::Foreign) => true,
        Err(e) => return Err(SpoolError::Unusable { path: path.to_owned(), why: e.to_string() }),
    };
    if !damaged {
        match try_open(path, max_size) {
            Err(SpoolError::Damaged { .. }) => {}
            other => return other.map(|connection| Opened { connection, set_aside: None }),
        }
    }
    let aside = set_aside(path).map_err(|e| SpoolError::Unusable { path: path.to_owned(), why: e.to_string() })?;
    Ok(Opened { connection: try_open(path, max_size)?, set_aside: Some(aside) })
}

/// Opens what is there, for a person to look at: a damaged file is refused, not set aside, and none is begun.
pub(super) fn open_as_it_is(path: &Path, max_size: u64) -> Result<Connection, SpoolError> {
    match header(path) {
        Ok(Header::Absent) => Err(SpoolError::Absent { path: path.to_owned() }),
        Ok(Header::Version(found)) if found > VERSION => Err(newer(path, found)),
        Ok(Header::Version(_)) => try_open(path, max_size),
        Ok(Header::Foreign) => Err(SpoolError::Damaged { path: path.to_owned(), why: "it is no database".to_owned() }),
        Err(e) => Err(SpoolError::Unusable { path: path.to_owned(), why: e.to_string() }),
    }
}

/// Moves the file and its companions away under a name that does not exist yet.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = (1u32..)
        .map(|n| with_suffix(path, &format!(".damaged-{n}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| with_suffix(path, ".damaged"));
    fs::rename(path, &aside)?;
    for companion in ["-wal", "-shm"] {
        match fs::rename(with_suffix(path, companion), with_suffix(&aside, companion)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(aside)
}

/// The path with something behind its last character.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn newer(path: &Path, found: i32) -> SpoolError {
    SpoolError::Newer { path: path.to_owned(), found, known: VERSION }
}

fn try_open(path: &Path, max_size: u64) -> Result<Connection, SpoolError> {
    let run = || -> rusqlite::Result<Result<Connection, SpoolError>> {
        let db = Connection::open(path)?;
        // Nobody else has business here: whoever holds the file is another daemon.
        db.busy_timeout(Duration::from_millis(200))?;
        // Exclusive: two daemons on one log would both send it. It also spares the shared-memory file.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Ok(Err(newer(path, version)));
        }
        let size = fs::metadata(path).map_or(0, |m| m.len());
        if version != 0 && size <= CHECK_UP_TO {
            let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                return Ok(Err(SpoolError::Damaged { path: path.to_owned(), why: verdict }));
            }
        }
        prepare(&db, version, max_size)?;
        Ok(Ok(db))
    };
    run().unwrap_or_else(|e| Err(SpoolError::of(path, &e)))
}

fn prepare(db: &Connection, version: i32, max_size: u64) -> rusqlite::Result<()> {
    if version == 0 {
        // Before the first table, or it has no effect and the file never shrinks.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit survives a power cut. Commits are grouped, so this is a few syncs a second, and none on a
    // healthy link.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", wal_pages(max_size))?;
    db.pragma_update(None, "journal_size_limit", wal_pages(max_size) * 4096)?;
    db.pragma_update(None, "cache_size", -2048)?;
    let steps = match version {
        0 => TABLES.to_owned(),
        1 => [FROM_1, FROM_2].concat(),
        2 => FROM_2.to_owned(),
        _ => return Ok(()),
    };
    db.execute_batch(&format!("BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))
}

/// The WAL counts towards `max_size`: at most a sixteenth of it, 4 MB at most.
fn wal_pages(max_size: u64) -> i64 {
    i64::try_from(max_size / 4096 / 16).unwrap_or(i64::MAX).clamp(16, 1000)
}

enum Header {
    Absent,
    Version(i32),
    Foreign,
}

/// Reads the version without SQLite, which would already touch the file.
fn header(path: &Path) -> io::Result<Header> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Header::Absent),
        Err(e) => return Err(e),
    };
    let mut head = Vec::with_capacity(100);
    (&mut file).take(100).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(Header::Absent);
    }
    match (head.starts_with(b"SQLite format 3\0"), head.get(60..64)) {
        (true, Some(bytes)) => Ok(Header::Version(i32::from_be_bytes(bytes.try_into().unwrap_or_default()))),
        _ => Ok(Header::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_file_is_refused_and_left_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        drop(open(&path, 1 << 20).unwrap());
        let db = Connection::open(&path).unwrap();
        db.pragma_update(None, "user_version", VERSION + 1).unwrap();
        db.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap_or_default();
        db.close().unwrap();
        let before = fs::read(&path).unwrap();
        let error = open(&path, 1 << 20).unwrap_err();
        assert_eq!(error, newer(&path, VERSION + 1));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_set_aside_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        fs::write(&path, "not a database at all").unwrap();
        let opened = open(&path, 1 << 20).unwrap();
        let aside = opened.set_aside.unwrap();
        assert_eq!(fs::read(aside).unwrap(), b"not a database at all");
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        let first = open(&path, 1 << 20).unwrap();
        first.connection.execute("INSERT INTO run (boot) VALUES (1)", []).unwrap();
        assert!(matches!(open(&path, 1 << 20), Err(SpoolError::InUse { .. })));
    }
}
