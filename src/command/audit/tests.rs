//! The trail as those who write see it: what is told is on disk, what the disk refuses waits or is refused, and a stall of the
//! disk costs a write its time and nobody else anything. Under a paused clock, with the file of a test's own.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use super::*;

/// Strict: what cannot be recorded is not done.
fn settings(folder: &Path) -> plant::Audit {
    plant::Audit { when_unwritable: WhenUnwritable::Refuse, ..plant::Audit::in_folder(folder) }
}

fn asks(id: Option<&str>, value: i64) -> Draft {
    let asked = vec![Asked { point: "setpoint".into(), value: json!(value), raw: String::new() }];
    Draft { topic: "g/d/setpoint/set".into(), id: id.map(Into::into), asked, ..Draft::default() }
}

const WRITTEN: &str = r#"{"result":"written","value":7}"#;

/// As a kill leaves it: the owner is gone at once, and the files are copied as they are.
async fn killed(folder: &Path, owner: tokio::task::JoinHandle<()>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    owner.abort();
    let _ = owner.await;
    copy
}

fn results(entries: &[Entry]) -> Vec<(Seq, &str)> {
    entries.iter().map(|e| (e.seq, e.result())).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_in_the_file_after_a_kill_and_what_was_begun_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, owner) = open_here(&settings(folder.path()));
    audit.begin(asks(Some("a"), 7)).await.unwrap().end(WRITTEN).await;
    let begun = audit.begin(asks(Some("b"), 8)).await.unwrap();
    audit.begin(asks(Some("c"), 9)).await.unwrap().withdraw(r#"{"result":"refused"}"#).await;
    let copy = killed(folder.path(), owner).await;
    let (audit, _owner) = open_here(&settings(copy.path()));
    assert_eq!(audit.earlier(&asks(Some("a"), 7)).await, Ok(Some(Earlier::Answered(WRITTEN.into()))));
    assert!(matches!(audit.earlier(&asks(Some("a"), 8)).await, Ok(Some(Earlier::Other(_)))), "another value");
    let at = time::rfc3339_millis(begun.row.begun_us);
    assert_eq!(audit.earlier(&asks(Some("b"), 8)).await, Ok(Some(Earlier::Unknown(at))));
    assert_eq!(audit.earlier(&asks(Some("c"), 9)).await, Ok(None), "it may be asked again");
    assert_eq!(audit.earlier(&asks(None, 7)).await, Ok(None));
    let entries = audit.read(Seq::MAX, 9).await.unwrap();
    assert_eq!(results(&entries), [(3, "refused"), (2, "unknown"), (1, "written")]);
    let told = audit.early.lock().unwrap().as_mut().unwrap().try_recv().unwrap();
    assert_eq!((told.seq, told.result()), (2, "unknown"), "what was cut off is told to the first who listens");
}

#[tokio::test(start_paused = true)]
async fn an_id_is_remembered_for_a_day_that_the_gateway_runs_however_long_it_was_off() {
    let folder = tempfile::tempdir().unwrap();
    for hours in [0, 12, 11] {
        let (audit, owner) = open_here(&settings(folder.path()));
        if hours == 0 {
            audit.begin(asks(Some("a"), 7)).await.unwrap().end(WRITTEN).await;
        }
        tokio::time::advance(Duration::from_secs(hours * 3600)).await;
        assert!(audit.earlier(&asks(Some("a"), 7)).await.unwrap().is_some(), "after {hours} hours more");
        // The running time of a run is known from its last entry.
        audit.begin(asks(None, 1)).await.unwrap().end(WRITTEN).await;
        drop(audit);
        owner.await.unwrap();
        tokio::time::advance(Duration::from_secs(30 * 86_400)).await;
    }
    let (audit, _owner) = open_here(&settings(folder.path()));
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(audit.earlier(&asks(Some("a"), 7)).await, Ok(None), "24 hours of running");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_costs_a_strict_write_five_seconds_and_nobody_else_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, _owner) = open_here(&settings(folder.path()));
    let disk = audit.stall();
    let began = Instant::now();
    audit.note(asks(None, 1), r#"{"result":"refused"}"#);
    assert_eq!(began.elapsed(), Duration::ZERO, "what is refused is told at once");
    let refused = audit.begin(asks(Some("a"), 7)).await.unwrap_err().to_string();
    assert_eq!(began.elapsed(), PATIENCE);
    assert!(refused.contains("nothing was sent") && refused.contains("not answered for 5 s"), "{refused}");
    let fail_safe = Draft { cause: Cause::FailSafe, ..asks(None, 0) };
    let writ = audit.begin(fail_safe).await.expect("a fail-safe is never held up by its record");
    writ.end(WRITTEN).await;
    assert_eq!(began.elapsed(), PATIENCE, "not for a moment");
    drop(disk);
    assert_eq!(audit.earlier(&asks(Some("a"), 7)).await, Ok(None), "nothing was done, so it may be asked again");
    let entries = audit.read(Seq::MAX, 9).await.unwrap();
    assert_eq!(results(&entries), [(3, "written"), (2, "refused"), (1, "refused")]);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_never_keeps_a_write_from_being_done_where_nothing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, _owner) = open_here(&plant::Audit::in_folder(folder.path()));
    let disk = audit.stall();
    let began = Instant::now();
    assert_eq!(audit.earlier(&asks(Some("a"), 7)).await, Ok(None));
    audit.begin(asks(Some("a"), 7)).await.unwrap().end(WRITTEN).await;
    assert_eq!(began.elapsed(), 3 * BRIEF);
    drop(disk);
    assert_eq!(results(&audit.read(Seq::MAX, 9).await.unwrap()), [(1, "written")]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_refuses_keeps_writes_from_being_done_only_where_the_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut strict = settings(folder.path());
    // A folder where the file should be: no database can be opened there.
    std::fs::create_dir(&strict.path).unwrap();
    let (audit, owner) = open_here(&strict);
    assert!(audit.status().borrow().error.is_some());
    assert!(audit.begin(asks(Some("a"), 7)).await.is_err());
    assert!(audit.earlier(&asks(Some("b"), 7)).await.is_err());
    drop(audit);
    owner.await.unwrap();
    strict.when_unwritable = WhenUnwritable::Write;
    let (audit, _owner) = open_here(&strict);
    audit.begin(asks(Some("a"), 7)).await.unwrap().end(WRITTEN).await;
    assert!(matches!(audit.earlier(&asks(Some("a"), 7)).await, Ok(Some(Earlier::Answered(_)))), "from memory");
    assert_eq!(audit.earlier(&asks(Some("b"), 7)).await, Ok(None));
    assert_eq!(audit.status().borrow().waiting, 1);
    std::fs::remove_dir(&strict.path).unwrap();
    let mut status = audit.status();
    tokio::time::timeout(Duration::from_secs(6), status.wait_for(|s| s.error.is_none())).await.unwrap().unwrap();
    assert_eq!(results(&audit.read(Seq::MAX, 9).await.unwrap()), [(1, "written")]);
    assert_eq!(status.borrow().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_appears_later_keeps_its_entries_beside_those_that_waited() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (audit, owner) = open_here(&settings(elsewhere.path()));
    audit.begin(asks(Some("old"), 1)).await.unwrap().end(WRITTEN).await;
    drop(audit);
    owner.await.unwrap();
    let writes = plant::Audit { when_unwritable: WhenUnwritable::Write, ..settings(folder.path()) };
    std::fs::create_dir(&writes.path).unwrap();
    let (audit, _owner) = open_here(&writes);
    audit.begin(asks(Some("new"), 2)).await.unwrap().end(WRITTEN).await;
    std::fs::remove_dir(&writes.path).unwrap();
    std::fs::copy(elsewhere.path().join("audit.db"), &writes.path).unwrap();
    let entries = audit.read(Seq::MAX, 9).await.unwrap();
    let ids: Vec<_> = entries.iter().map(|e| (e.seq, e.draft.id.as_deref())).collect();
    assert_eq!(ids, [(2, Some("new")), (1, Some("old"))]);
    assert!(matches!(audit.earlier(&asks(Some("old"), 1)).await, Ok(Some(Earlier::Answered(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_newer_file_is_refused_and_a_damaged_one_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = settings(folder.path()).path;
    std::fs::write(&path, "no database").unwrap();
    let (audit, owner) = open_here(&settings(folder.path()));
    assert!(audit.status().borrow().set_aside.as_deref().unwrap().contains("audit.db.damaged-1"));
    assert!(audit.status().borrow().set_aside_uptime_s.is_some());
    drop(audit);
    owner.await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let (audit, owner) = open_here(&settings(folder.path()));
    assert!(audit.status().borrow().set_aside.as_deref().unwrap().contains("audit.db.damaged-2"));
    audit.begin(asks(None, 1)).await.unwrap().end(WRITTEN).await;
    drop(audit);
    owner.await.unwrap();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = super::open(&settings(folder.path())).unwrap_err();
    assert!(matches!(error, FileError::Newer { found: 9, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn refused_ones_reach_the_disk_with_the_next_write_or_after_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, _owner) = open_here(&settings(folder.path()));
    let on_disk = || audit.status().borrow().entries;
    audit.note(asks(None, 1), r#"{"result":"refused"}"#);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((on_disk(), audit.status().borrow().waiting), (0, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(on_disk(), 1);
    audit.note(asks(None, 2), r#"{"result":"refused"}"#);
    audit.begin(asks(None, 3)).await.unwrap().end(WRITTEN).await;
    assert_eq!(on_disk(), 3);
    for _ in 0..10_000 {
        audit.note(asks(None, 2), r#"{"result":"refused"}"#);
        tokio::task::yield_now().await;
    }
    assert_eq!(audit.read(Seq::MAX, u32::MAX).await.unwrap().len(), 3 + 58, "of ten thousand at once");
    assert_eq!(audit.status().borrow().left_out, 10_000 - 58);
}

/// What stands in the trail and what it says is lost: how many entries have an outcome, and of how many it says that they have none.
fn account(entries: &[Entry]) -> (usize, u64) {
    let lost =
        |entry: &Entry| entry.outcome.as_ref().filter(|o| o["result"] == "lost").and_then(|o| o["entries"].as_u64());
    let told = entries.iter().filter(|e| e.outcome.is_some() && lost(e).is_none()).count();
    (told, entries.iter().filter_map(lost).sum())
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_while_the_disk_hangs_is_counted_at_once_and_told_when_the_trail_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, _owner) = open_here(&plant::Audit::in_folder(folder.path()));
    let disk = audit.stall();
    tokio::task::yield_now().await;
    for n in 0..200 {
        let own = Draft { cause: Cause::FailSafe, ..asks(None, n) };
        audit.begin(own).await.unwrap().end(WRITTEN).await;
    }
    for _ in 0..10 {
        audit.note(asks(None, 1), r#"{"result":"refused"}"#);
    }
    let lost = audit.status().borrow().lost;
    assert!(lost > 60, "told while the disk still hangs: {lost}");
    drop(disk);
    let mut status = audit.status();
    let entries = audit.read(Seq::MAX, 999).await.unwrap();
    assert_eq!(account(&entries), (210 - lost as usize, lost), "each stands there or is told as lost");
    let gap = entries.iter().find(|e| e.result() == "lost").unwrap();
    assert_eq!(gap.draft.cause, Cause::Gap);
    assert_eq!(status.borrow_and_update().lost, lost);
    audit.begin(asks(None, 1)).await.unwrap().end(WRITTEN).await;
    let entries = audit.read(Seq::MAX, 999).await.unwrap();
    assert_eq!(account(&entries), (211 - lost as usize, lost), "told once");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_record_finds_room_only_at_its_end_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, _owner) = open_here(&plant::Audit::in_folder(folder.path()));
    let disk = audit.stall();
    tokio::task::yield_now().await;
    let own = |n| Draft { cause: Cause::FailSafe, ..asks(None, n) };
    let mut begun = Vec::new();
    for n in 0..300 {
        begun.push(audit.begin(own(n)).await.unwrap());
    }
    drop(disk);
    for writ in begun {
        // Lets the thread make room.
        let _ = audit.read(Seq::MAX, 1).await;
        writ.end(WRITTEN).await;
    }
    let entries = audit.read(Seq::MAX, 999).await.unwrap();
    assert_eq!(account(&entries), (300, 0));
    assert_eq!(audit.status().borrow().lost, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_while_the_disk_refuses_is_told_in_the_trail_when_it_is_well_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = plant::Audit::in_folder(folder.path());
    std::fs::create_dir(&settings.path).unwrap();
    let (audit, _owner) = open_here(&settings);
    for n in 0..1100 {
        audit.begin(asks(None, n)).await.unwrap().end(WRITTEN).await;
    }
    assert_eq!(audit.status().borrow().lost, 100);
    std::fs::remove_dir(&settings.path).unwrap();
    let entries = audit.read(Seq::MAX, 9999).await.unwrap();
    assert_eq!(account(&entries), (1000, 100));
    assert!(entries[0].result() == "lost", "the newest says so: {:?}", entries[0]);
}
