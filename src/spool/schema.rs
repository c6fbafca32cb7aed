//! The spool's tables, and how files of earlier layouts are brought to today's.

use crate::database::Layout;

/// Layout this program writes; grows with every change of the tables.
const VERSION: i32 = 3;

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

/// The log's database, of at most so many bytes.
pub(super) const fn layout(max_size: u64) -> Layout {
    Layout { version: VERSION, steps, max_size }
}

fn steps(from: i32) -> String {
    match from {
        0 => TABLES.to_owned(),
        1 => [FROM_1, FROM_2].concat(),
        _ => FROM_2.to_owned(),
    }
}
