//! The one way to open a SQLite file: with the pragmas that hold on flash, or with a word on why not. A file of a newer
//! version is refused untouched; a damaged one is set aside under a name that is said, and a new one begun, so that start-up
//! never needs a human hand. What lies in the tables is known by their owners alone.

use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::ErrorCode;

/// Files up to this size are checked through when opened (0.2 s); larger ones are healed when damage shows.
const CHECK_UP_TO: u64 = 64 << 20;

/// What its owner says of a database.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Layout this program writes; grows with every change of the tables.
    pub version: i32,
    /// The statements that bring a file of an earlier layout to this one; 0 is an empty file.
    pub steps: fn(i32) -> String,
    /// Bytes it may have on disk, the WAL included.
    pub max_size: u64,
}

/// An open database, and what had to be set aside for it.
#[derive(Debug)]
pub struct Opened {
    /// The only connection.
    pub connection: Connection,
    /// Where the damaged file went, if there was one.
    pub set_aside: Option<PathBuf>,
}

/// Why there is no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The folder cannot be made.
    #[error("folder {path} cannot be made: {why}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Written by a later version of this program.
    #[error(
        "{path} has layout {found}, this version knows up to {known}; it is left untouched: \
         install the newer version, or move the file away to begin a new one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i32,
        /// The latest layout known.
        known: i32,
    },
    /// Nothing to look at.
    #[error("{path} does not exist: this gateway has never kept anything there")]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("{path} is in use by another process: does another trunkline run?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not readable as a database.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// Anything else: permission, read-only, full.
    #[error("{path} cannot be used: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
}

impl FileError {
    /// What an error of SQLite means for the file.
    pub fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, why: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { path },
            _ => Self::unusable(&path, error),
        }
    }

    /// SQLite calls a file that belongs to somebody else a "disk I/O error".
    fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Self {
        let all = ["", "-wal", "-shm"].map(|suffix| with_suffix(path, suffix));
        let refused = |file: &&PathBuf| {
            let wanted = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
            rustix::fs::access(*file, wanted) == Err(rustix::io::Errno::ACCESS)
        };
        let why = match (all.iter().find(refused), path.parent()) {
            (Some(file), Some(folder)) => format!(
                "this user may not read and write {}; give it to whom its folder belongs: sudo chown --reference={} {}*",
                file.display(),
                folder.display(),
                path.display()
            ),
            _ => error.to_string(),
        };
        Self::Unusable { path: path.to_owned(), why }
    }
}

/// Opens or begins the database at `path`.
pub fn open(path: &Path, layout: Layout) -> Result<Opened, FileError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| FileError::Folder { path: folder.to_owned(), why: e.to_string() })?;
    }
    let damaged = match header(path) {
        Ok(Header::Version(found)) if found > layout.version => return Err(newer(path, found, layout)),
        Ok(Header::Absent | Header::Version(_)) => false,
        Ok(Header::Foreign) => true,
        Err(e) => return Err(FileError::unusable(path, &e)),
    };
    if !damaged {
        match try_open(path, layout) {
            Err(FileError::Damaged { .. }) => {}
            other => return other.map(|connection| Opened { connection, set_aside: None }),
        }
    }
    let aside = set_aside(path).map_err(|e| FileError::unusable(path, &e))?;
    Ok(Opened { connection: try_open(path, layout)?, set_aside: Some(aside) })
}

/// Opens what is there, for a person to look at: a damaged file is refused, not set aside, and none is begun.
pub fn open_as_it_is(path: &Path, layout: Layout) -> Result<Connection, FileError> {
    match header(path) {
        Ok(Header::Absent) => Err(FileError::Absent { path: path.to_owned() }),
        Ok(Header::Version(found)) if found > layout.version => Err(newer(path, found, layout)),
        Ok(Header::Version(_)) => try_open(path, layout),
        Ok(Header::Foreign) => Err(FileError::Damaged { path: path.to_owned(), why: "it is no database".to_owned() }),
        Err(e) => Err(FileError::unusable(path, &e)),
    }
}

/// Moves the file and its companions away under a name that does not exist yet.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
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
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Gives free pages back to the file system, at most so many, and empties the WAL.
pub fn shrink(db: &Connection, pages: u32) -> rusqlite::Result<()> {
    // Stepped to its end: with `execute` it frees a single page.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = statement.query([])?;
    while steps.next()?.is_some() {}
    drop(steps);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Bytes of pages in use, and bytes of free pages that wait to be given back.
pub fn used_and_free(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let get = |name| db.pragma_query_value(None, name, |r| r.get::<_, i64>(0)).map(i64::unsigned_abs);
    let (pages, free, size) = (get("page_count")?, get("freelist_count")?, get("page_size")?);
    Ok((pages.saturating_sub(free) * size, free * size))
}

fn newer(path: &Path, found: i32, layout: Layout) -> FileError {
    FileError::Newer { path: path.to_owned(), found, known: layout.version }
}

fn try_open(path: &Path, layout: Layout) -> Result<Connection, FileError> {
    let run = || -> rusqlite::Result<Result<Connection, FileError>> {
        let db = Connection::open(path)?;
        // Nobody else has business here: whoever holds the file is another daemon.
        db.busy_timeout(Duration::from_millis(200))?;
        // Exclusive: two daemons on one file would undo each other. It also spares the shared-memory file.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > layout.version {
            return Ok(Err(newer(path, version, layout)));
        }
        let size = fs::metadata(path).map_or(0, |m| m.len());
        if version != 0 && size <= CHECK_UP_TO {
            let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                return Ok(Err(FileError::Damaged { path: path.to_owned(), why: verdict }));
            }
        }
        prepare(&db, version, layout)?;
        Ok(Ok(db))
    };
    run().unwrap_or_else(|e| Err(FileError::of(path, &e)))
}

fn prepare(db: &Connection, version: i32, layout: Layout) -> rusqlite::Result<()> {
    if version == 0 {
        // Before the first table, or it has no effect and the file never shrinks.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit survives a power cut. Owners group their commits, so this is a few syncs a second at most.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", wal_pages(layout.max_size))?;
    db.pragma_update(None, "journal_size_limit", wal_pages(layout.max_size) * 4096)?;
    db.pragma_update(None, "cache_size", -2048)?;
    if version == layout.version {
        return Ok(());
    }
    let (steps, version) = ((layout.steps)(version), layout.version);
    db.execute_batch(&format!("BEGIN; {steps} PRAGMA user_version = {version}; COMMIT;"))
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

    const LAYOUT: Layout =
        Layout { version: 3, steps: |_| "CREATE TABLE run (boot INTEGER);".to_owned(), max_size: 1 << 20 };

    #[test]
    fn a_newer_file_is_refused_and_left_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        drop(open(&path, LAYOUT).unwrap());
        let db = Connection::open(&path).unwrap();
        db.pragma_update(None, "user_version", LAYOUT.version + 1).unwrap();
        db.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap_or_default();
        db.close().unwrap();
        let before = fs::read(&path).unwrap();
        let error = open(&path, LAYOUT).unwrap_err();
        assert_eq!(error, newer(&path, LAYOUT.version + 1, LAYOUT));
        assert!(error.to_string().contains("left untouched"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_set_aside_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        fs::write(&path, "not a database at all").unwrap();
        let opened = open(&path, LAYOUT).unwrap();
        let aside = opened.set_aside.unwrap();
        assert_eq!(fs::read(aside).unwrap(), b"not a database at all");
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool.db");
        let first = open(&path, LAYOUT).unwrap();
        first.connection.execute("INSERT INTO run (boot) VALUES (1)", []).unwrap();
        assert!(matches!(open(&path, LAYOUT), Err(FileError::InUse { .. })));
    }
}
