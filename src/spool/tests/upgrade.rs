//! Files of earlier layouts, made by the SQL and in the bytes of their time, are opened, brought to the layout of today
//! and lose nothing.

use rusqlite::Connection;

use super::*;

/// Layout 1, as it was written.
const LAYOUT_1: &str = "
    CREATE TABLE log (seq INTEGER PRIMARY KEY AUTOINCREMENT, series INTEGER, entry BLOB NOT NULL);
    CREATE TABLE series (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, definition TEXT NOT NULL);
    CREATE TABLE cursor (upstream TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL, backlog INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE run (id INTEGER PRIMARY KEY AUTOINCREMENT, boot INTEGER NOT NULL);
    CREATE TABLE account (key TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO run (boot) VALUES (77);
";
/// What layout 2 added.
const LAYOUT_2: &str = "CREATE TABLE ledger (upstream TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;";
/// The dictionary entry of `a/own`, value 7: layouts 1 and 2 alike.
const SERIES: &str = r#"{"format":"value","unit":"","names":{},"qos":1,"retain":true,"class":"normal"}"#;

/// A client's message without properties, QoS 1, as layouts 1 and 2 kept it: run 1, both clocks small.
fn foreign_row(topic: &str, text: &str) -> Vec<u8> {
    let mut row = vec![1, 1, 2, 3, u8::try_from(topic.len()).unwrap()];
    row.extend_from_slice(topic.as_bytes());
    row.extend_from_slice(text.as_bytes());
    row
}

/// An own value: an unsigned number, good.
fn own_row(value: u8) -> Vec<u8> {
    vec![4, 1, 2, 3, value]
}

/// Entries 6 to 9, of which `all` has acknowledged the first, and numbers up to 9 given out.
fn old_file(folder: &Path, layout: i32) {
    let db = Connection::open(folder.join("spool.db")).unwrap();
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch(LAYOUT_1).unwrap();
    db.execute("INSERT INTO series (topic, definition) VALUES ('a/own', ?1)", [SERIES]).unwrap();
    let rows = [(6, None, foreign_row("a/x", "6")), (7, Some(1), own_row(7)), (8, None, foreign_row("b/x", "8"))];
    for (seq, series, row) in rows {
        db.execute("INSERT INTO log VALUES (?1, ?2, ?3)", rusqlite::params![seq, series, row]).unwrap();
    }
    db.execute("INSERT INTO log VALUES (9, 0, ?1)", [gap_row()]).unwrap();
    db.execute_batch("INSERT INTO cursor VALUES ('all', 6, 2), ('some', 5, 2); INSERT INTO account VALUES ('rows', 4)")
        .unwrap();
    if layout == 2 {
        db.execute_batch(LAYOUT_2).unwrap();
        let all = r#"{"appended":30,"acknowledged":20,"in_flight":0,"stored":0,"evicted":5,"expired":2,"damaged":1,"ahead":[[7,8]]}"#;
        let some = r#"{"appended":2,"acknowledged":0,"in_flight":0,"stored":0,"evicted":0,"expired":0,"damaged":0,"ahead":[]}"#;
        for (name, account) in [("all", all), ("some", some)] {
            db.execute("INSERT INTO ledger VALUES (?1, ?2)", [name, account]).unwrap();
        }
    }
    db.pragma_update(None, "user_version", layout).unwrap();
}

fn gap_row() -> Vec<u8> {
    br#"{"parts":[{"upstream":"some","filter":"a/#","count":3,"first_us":0,"last_us":1000}]}"#.to_vec()
}

#[test]
fn a_file_of_layout_2_keeps_its_entries_and_its_account() {
    let folder = tempfile::tempdir().unwrap();
    old_file(folder.path(), 2);
    let mut log = open(folder.path());
    let status = log.status();
    assert_eq!((status.on_disk, &status.set_aside), (4, &None));
    let want =
        Ledger { appended: 30, acknowledged: 20, stored: 2, evicted: 5, expired: 2, damaged: 1, ..Ledger::default() };
    assert_eq!(status.ledger["all"], want);
    assert_eq!(drain(&mut log, 0), ["7"], "8 went ahead before the upgrade");
    let gap = r#"{"filter":"a/#","count":3,"first":"1970-01-01T00:00:00.000Z","last":"1970-01-01T00:00:00.001Z"}"#;
    assert_eq!(drain(&mut log, 1), ["6", "7", gap]);
    append(&mut log, 50..51);
    log.close();
    drop(log);
    let mut log = open(folder.path());
    assert_eq!((drain(&mut log, 0), drain(&mut log, 1)), (numbers(50..51), numbers(50..51)));
}

#[test]
fn a_file_of_layout_1_begins_its_account_with_what_lies_there() {
    let folder = tempfile::tempdir().unwrap();
    old_file(folder.path(), 1);
    let mut log = open(folder.path());
    let want = Ledger { appended: 2, stored: 2, ..Ledger::default() };
    assert_eq!(log.status().ledger["all"], want);
    assert_eq!(drain(&mut log, 0), ["7", "8"]);
    assert_eq!(drain(&mut log, 1).len(), 3);
    assert!(adds_up(&log.status().ledger["all"]) && adds_up(&log.status().ledger["some"]));
    append(&mut log, 50..51);
    let batch = log.batch(0, None, 7, at(0));
    assert!(batch.entries[0].seq > 9, "numbers are never used twice");
}
