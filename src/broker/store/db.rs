//! The database itself: open, read all, write a batch. A newer layout or somebody else's file is refused and not touched;
//! a damaged one is set aside under another name and a new one begun.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::OpenFlags;
use rusqlite::Transaction;
use rusqlite::params;

use super::super::keep::Batch;
use super::super::keep::Row;
use super::super::keep::Saved;
use super::super::keep::SavedSession;
use super::super::keep::SessionChanges;
use super::super::packet::Will;
use super::super::queue::Entry;
use super::super::session::Restored;
use super::super::session::Subscribed;
use super::rows;
use super::rows::Clocks;

/// Layout of the tables and of the blobs in them.
const SCHEMA: i64 = 2;
/// "TrlB": tells our file from others.
const APPLICATION: i64 = 0x5472_6C42;
/// Files set aside before the last one is overwritten.
const ASIDE: u32 = 3;

/// What came with layout 2; layout 1 had everything else.
const LAYOUT_2: &str = "
    CREATE TABLE will (session INTEGER PRIMARY KEY, delay INTEGER NOT NULL, message BLOB NOT NULL);
    ALTER TABLE session ADD COLUMN replays BLOB NOT NULL DEFAULT x'';
";

const TABLES: &str = "
    CREATE TABLE instance (id INTEGER NOT NULL);
    CREATE TABLE retained (topic TEXT PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE session (number INTEGER PRIMARY KEY, client_id TEXT NOT NULL, user TEXT, expiry INTEGER NOT NULL,
        left_s INTEGER, received BLOB NOT NULL DEFAULT x'');
    CREATE TABLE subscription (session INTEGER, text TEXT, subscribed BLOB NOT NULL, PRIMARY KEY (session, text))
        WITHOUT ROWID;
    CREATE TABLE entry (session INTEGER, seq INTEGER, packet_id INTEGER, item BLOB, PRIMARY KEY (session, seq))
        WITHOUT ROWID;
";

/// Why there is no database.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Not to be touched.
    Foreign(String),
    /// To be set aside.
    Damaged(String),
    /// To be tried again.
    Disk(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            _ if is_damage(&error) => Self::Damaged(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Foreign("another process has it open; only one gateway may use a state directory".to_owned())
            }
            _ => Self::Disk(error.to_string()),
        }
    }
}

/// Whether the file's content is at fault.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        // A table or column that is not there, of the right version: somebody or something broke it.
        || matches!(error.sqlite_error_code(), Some(ErrorCode::Unknown))
        || matches!(error, rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..))
}

/// An open database.
#[derive(Debug)]
pub(super) struct Db {
    connection: Connection,
    instance: i64,
}

impl Db {
    /// Opens, reads; sets a damaged file aside and begins anew.
    pub(super) fn open_or_renew(path: &Path) -> Result<(Self, Saved), OpenError> {
        match Self::open(path) {
            Err(OpenError::Damaged(why)) => {
                set_aside(path, &why);
                Self::open(path)
            }
            other => other,
        }
    }

    fn open(path: &Path) -> Result<(Self, Saved), OpenError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| OpenError::Disk(e.to_string()))?;
        }
        // Opening for writing may change the file (a log is played back): first look whose it is.
        let fresh = std::fs::metadata(path).map_or(true, |m| m.len() == 0);
        if !fresh {
            check_owner(&Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)?;
        }
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        // Nobody else reads it: no shared memory file, which some file systems lack.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", 4 * 1024 * 1024)?;
        match layout(&connection)? {
            0 => create(&mut connection)?,
            1 => upgrade(&mut connection)?,
            _ => {}
        }
        let instance = connection.query_row("SELECT id FROM instance", [], |row| row.get(0))?;
        let saved = load(&connection)?;
        Ok((Self { connection, instance }, saved))
    }

    /// A random number given at birth.
    pub(super) const fn instance(&self) -> i64 {
        self.instance
    }

    /// All of the batch or nothing.
    pub(super) fn apply(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let clocks = Clocks::read();
        let transaction = self.connection.transaction()?;
        if batch.whole {
            transaction.execute_batch(
                "DELETE FROM retained; DELETE FROM session; DELETE FROM subscription; DELETE FROM entry;
                 DELETE FROM will;",
            )?;
        }
        for number in &batch.ended {
            for delete in [
                "DELETE FROM session WHERE number = ?1",
                "DELETE FROM subscription WHERE session = ?1",
                "DELETE FROM entry WHERE session = ?1",
                "DELETE FROM will WHERE session = ?1",
            ] {
                transaction.prepare_cached(delete)?.execute([number.cast_signed()])?;
            }
        }
        for session in &batch.sessions {
            write_session(&transaction, session, clocks)?;
        }
        write_wills(&transaction, batch, clocks)?;
        write_retained(&transaction, batch, clocks)?;
        transaction.commit()
    }

    /// Brings what is written to the medium.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    /// In good order: the log is folded into the file.
    pub(super) fn close(self) {
        if let Err((_, error)) = self.connection.close() {
            tracing::debug!(%error, "closing the broker's store");
        }
    }
}

fn layout(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn check_owner(connection: &Connection) -> Result<(), OpenError> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, layout(connection)?) {
        // Created and killed before the tables came.
        (0, 0) if tables == 0 => Ok(()),
        (APPLICATION, 1..=SCHEMA) => Ok(()),
        (APPLICATION, newer) if newer > SCHEMA => Err(OpenError::Foreign(format!(
            "it has layout {newer}, this version knows {SCHEMA}; a newer Trunkline wrote it: install that one again, or \
             move the file away"
        ))),
        _ => Err(OpenError::Foreign("it is another program's database; move it away".to_owned())),
    }
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(LAYOUT_2)?;
    let id = getrandom::u64().unwrap_or_else(|_| crate::time::now().wall_us.cast_unsigned());
    transaction.execute("INSERT INTO instance VALUES (?1)", [id.cast_signed()])?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(LAYOUT_2)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

fn write_session(transaction: &Transaction<'_>, session: &SessionChanges, clocks: Clocks) -> rusqlite::Result<()> {
    let (number, changes) = (session.number.cast_signed(), &session.changes);
    if let Some(row) = &session.row {
        let left = row.left.map(|at| clocks.wall_of(at));
        transaction
            .prepare_cached(
                "INSERT INTO session (number, client_id, user, expiry, left_s) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET user = ?3, expiry = ?4, left_s = ?5",
            )?
            .execute(params![number, &*row.client_id, row.user.as_deref(), row.expiry, left])?;
    }
    if let Some(received) = &changes.received {
        let ids: Vec<u8> = received.iter().flat_map(|id| id.to_be_bytes()).collect();
        transaction
            .prepare_cached("UPDATE session SET received = ?2 WHERE number = ?1")?
            .execute(params![number, ids])?;
    }
    if let Some(cursors) = &changes.replays {
        transaction
            .prepare_cached("UPDATE session SET replays = ?2 WHERE number = ?1")?
            .execute(params![number, rows::put_cursors(cursors)])?;
    }
    for (text, subscribed) in &changes.subscriptions {
        match subscribed {
            Some(subscribed) => transaction
                .prepare_cached("INSERT OR REPLACE INTO subscription VALUES (?1, ?2, ?3)")?
                .execute(params![number, &**text, rows::put_subscribed(subscribed)])?,
            None => transaction
                .prepare_cached("DELETE FROM subscription WHERE session = ?1 AND text = ?2")?
                .execute(params![number, &**text])?,
        };
    }
    for seq in &changes.gone {
        let mut delete = transaction.prepare_cached("DELETE FROM entry WHERE session = ?1 AND seq = ?2")?;
        delete.execute(params![number, seq.cast_signed()])?;
    }
    for entry in &changes.put {
        let item = entry.item.as_ref().map(|item| rows::put_item(item, clocks));
        transaction.prepare_cached("INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            number,
            entry.seq.cast_signed(),
            entry.id,
            item
        ])?;
    }
    Ok(())
}

fn write_wills(transaction: &Transaction<'_>, batch: &Batch, clocks: Clocks) -> rusqlite::Result<()> {
    for (number, will) in &batch.wills {
        let number = number.cast_signed();
        let Some(will) = will else {
            transaction.prepare_cached("DELETE FROM will WHERE session = ?1")?.execute([number])?;
            continue;
        };
        let message = rows::put_message(&will.message, clocks);
        transaction
            .prepare_cached("INSERT OR REPLACE INTO will VALUES (?1, ?2, ?3)")?
            .execute(params![number, will.delay, message])?;
    }
    Ok(())
}

fn write_retained(transaction: &Transaction<'_>, batch: &Batch, clocks: Clocks) -> rusqlite::Result<()> {
    let mut blob = Vec::new();
    for (topic, stored) in &batch.retained {
        let Some(stored) = stored else {
            transaction.prepare_cached("DELETE FROM retained WHERE topic = ?1")?.execute([topic.as_str()])?;
            continue;
        };
        blob.clear();
        rows::put_stored(&mut blob, stored, clocks);
        transaction
            .prepare_cached("INSERT OR REPLACE INTO retained VALUES (?1, ?2)")?
            .execute(params![topic.as_str(), blob])?;
    }
    Ok(())
}

/// What can be read of a file on a disk that cannot be written: from a copy elsewhere, as its log must be played back; where
/// there is no room for one, without the log.
pub(super) fn read_only(path: &Path) -> Saved {
    let uri = format!("file:{}?immutable=1", path.display().to_string().replace('%', "%25").replace('?', "%3f"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let read = |connection: rusqlite::Result<Connection>| -> Result<Saved, OpenError> {
        let connection = connection?;
        check_owner(&connection)?;
        Ok(load(&connection)?)
    };
    let copied = copy(path);
    let saved = copied.as_ref().ok_or_else(|| OpenError::Disk("no copy".to_owned()));
    let saved = saved.and_then(|dir| read(Connection::open(dir.join("copy"))));
    if let Some(dir) = copied {
        let _ = std::fs::remove_dir_all(dir);
    }
    saved.or_else(|_| read(Connection::open_with_flags(&uri, flags))).unwrap_or_default()
}

/// The file and its log in a new directory that nobody else can read.
fn copy(path: &Path) -> Option<PathBuf> {
    let dir = std::env::temp_dir().join(format!("trunkline-{:016x}", getrandom::u64().ok()?));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).ok()?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let copied = std::fs::copy(path, dir.join("copy")).is_ok()
        && (!Path::new(&log).exists() || std::fs::copy(&log, dir.join("copy-wal")).is_ok());
    if !copied {
        let _ = std::fs::remove_dir_all(&dir);
    }
    copied.then_some(dir)
}

fn load(connection: &Connection) -> rusqlite::Result<Saved> {
    let clocks = Clocks::read();
    let mut damaged = 0_usize;
    let mut saved = Saved::default();
    let mut select = connection.prepare("SELECT message FROM retained")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        match rows::get_stored(row.get_ref(0)?.as_blob().unwrap_or_default(), clocks) {
            Some(stored) => saved.retained.push(Arc::new(stored)),
            None => damaged += 1,
        }
    }
    let mut entries = load_entries(connection, clocks, &mut damaged)?;
    let mut subscriptions = load_subscriptions(connection, &mut damaged)?;
    let mut wills = load_wills(connection, clocks, &mut damaged)?;
    // A file of layout 1 on a disk that cannot be written is read as it is.
    let replays = if layout(connection)? < 2 { "x''" } else { "replays" };
    let select = format!("SELECT number, client_id, user, expiry, left_s, received, {replays} FROM session");
    let mut select = connection.prepare(&select)?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let number: i64 = row.get(0)?;
        let left = row.get::<_, Option<i64>>(4)?.map(|wall_s| clocks.instant_of(wall_s));
        let ids: Vec<u8> = row.get(5)?;
        saved.sessions.push(SavedSession {
            number: number.cast_unsigned(),
            row: Row { client_id: row.get(1)?, user: row.get(2)?, expiry: row.get(3)?, left },
            restored: Restored {
                entries: entries.remove(&number).unwrap_or_default(),
                subscriptions: subscriptions.remove(&number).unwrap_or_default(),
                received: ids.chunks_exact(2).map(|id| u16::from_be_bytes([id[0], id[1]])).collect(),
                replays: rows::get_cursors(row.get_ref(6)?.as_blob().unwrap_or_default()),
            },
            will: wills.remove(&number),
        });
    }
    saved.orphans = wills.into_iter().map(|(number, will)| (number.cast_unsigned(), will)).collect();
    saved.orphans.sort_by_key(|(number, _)| *number);
    if damaged > 0 {
        tracing::warn!(rows = damaged, "rows of the broker's store cannot be read and are left out");
    }
    Ok(saved)
}

fn load_entries(
    connection: &Connection,
    clocks: Clocks,
    damaged: &mut usize,
) -> rusqlite::Result<HashMap<i64, Vec<Entry>>> {
    let mut all: HashMap<i64, Vec<Entry>> = HashMap::new();
    let mut select = connection.prepare("SELECT session, seq, packet_id, item FROM entry ORDER BY session, seq")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let (seq, id) = (row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?);
        let item = match row.get_ref(3)?.as_blob_or_null() {
            Ok(Some(blob)) => match rows::get_item(blob, clocks) {
                Some(item) => Some(item),
                None => {
                    *damaged += 1;
                    continue;
                }
            },
            _ => None,
        };
        all.entry(row.get(0)?).or_default().push(Entry { seq, id, item });
    }
    Ok(all)
}

fn load_wills(connection: &Connection, clocks: Clocks, damaged: &mut usize) -> rusqlite::Result<HashMap<i64, Will>> {
    let mut all = HashMap::new();
    if layout(connection)? < 2 {
        return Ok(all);
    }
    let mut select = connection.prepare("SELECT session, delay, message FROM will")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        match rows::get_stored(row.get_ref(2)?.as_blob().unwrap_or_default(), clocks) {
            Some(stored) => {
                let will = Will { message: stored.message, delay: row.get(1)? };
                all.insert(row.get(0)?, will);
            }
            None => *damaged += 1,
        }
    }
    Ok(all)
}

type Subscriptions = HashMap<i64, Vec<(Arc<str>, Subscribed)>>;

fn load_subscriptions(connection: &Connection, damaged: &mut usize) -> rusqlite::Result<Subscriptions> {
    let mut all = Subscriptions::new();
    let mut select = connection.prepare("SELECT session, text, subscribed FROM subscription")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        match rows::get_subscribed(row.get_ref(2)?.as_blob().unwrap_or_default()) {
            Some(subscribed) => all.entry(row.get(0)?).or_default().push((row.get(1)?, subscribed)),
            None => *damaged += 1,
        }
    }
    Ok(all)
}

/// Renames the file and its log; the first free of a few names, else the last of them is overwritten.
pub(super) fn set_aside(path: &Path, why: &str) {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let free = (1..ASIDE).find(|n| !with(&format!(".damaged-{n}")).exists()).unwrap_or(ASIDE);
    let aside = with(&format!(".damaged-{free}"));
    let renamed = std::fs::rename(path, &aside);
    for log in ["-wal", "-shm"] {
        let _ = std::fs::rename(with(log), with(&format!(".damaged-{free}{log}")));
    }
    match renamed {
        Ok(()) => tracing::error!(
            aside = %aside.display(), %why,
            "the broker's store is damaged: it was set aside and a new one begun; sessions and retained messages in it are lost"
        ),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, %why, "the broker's store is damaged and cannot be set aside")
        }
    }
}
