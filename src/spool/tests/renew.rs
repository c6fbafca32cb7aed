//! Other upstreams while the log goes on, as a reload brings them: no place is lost, and nothing that was taken in.

use super::super::log::Leaver;
use super::*;

fn subscriber(name: &str, filter: &str) -> Subscriber {
    Subscriber { name: name.into(), filters: vec![TopicFilter::new(filter).unwrap()] }
}

/// Others come before and between, and go again: whoever stays must not notice.
pub(super) fn there_and_back(log: &mut Log, folder: &Path) {
    let [all, some] = <[_; 2]>::try_from(upstreams()).unwrap();
    let other = subscriber("other", "zzz");
    let places = log.renew(settings(folder), vec![other.clone(), some.clone(), all.clone()], Leaver::Dropped);
    assert_eq!(places, [Some(2), Some(1)]);
    assert_eq!(
        log.renew(settings(folder), vec![all.clone(), other, some.clone()], Leaver::Dropped),
        [Some(1), Some(2), Some(0)]
    );
    assert_eq!(log.renew(settings(folder), vec![all, some], Leaver::Dropped), [Some(0), None, Some(1)]);
}

fn renew(log: &mut Log, folder: &Path, upstreams: &[(&str, &str)], leaver: Leaver) {
    let upstreams = upstreams.iter().map(|(name, filter)| subscriber(name, filter)).collect();
    log.renew(settings(folder), upstreams, leaver);
}

/// In both storeys: what was taken in under the old rules is given out under the new ones, and only what is new is judged by
/// them.
#[test]
fn another_filter_loses_no_entry_that_waits() {
    for on_disk in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        log.append(vec![foreign("a/x", "1"), foreign("b/x", "2")], at(0));
        if on_disk {
            log.close();
        }
        renew(&mut log, folder.path(), &[("all", "b/#"), ("some", "a/#")], Leaver::Dropped);
        log.append(vec![foreign("a/x", "3"), foreign("b/x", "4")], at(1));
        if on_disk {
            log.close();
        }
        assert_eq!(drain(&mut log, 0), ["1", "2", "4"], "on disk: {on_disk}");
        assert_eq!(drain(&mut log, 1), ["1", "3"]);
        let ledger = &log.status().ledger["all"];
        assert_eq!((ledger.appended, ledger.acknowledged, ledger.unaccounted()), (3, 3, 0));
    }
}

#[test]
fn a_new_upstream_begins_at_the_end_and_one_that_is_gone_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..5);
    log.close();
    renew(&mut log, folder.path(), &[("new", "#"), ("some", "a/#")], Leaver::Dropped);
    assert!(drain(&mut log, 0).is_empty());
    append(&mut log, 5..8);
    assert_eq!(drain(&mut log, 0), numbers(5..8));
    assert_eq!(drain(&mut log, 1), numbers(0..8));
    log.tick(at(1000));
    assert_eq!(log.status().on_disk, 0, "nobody holds them any more");
    drop(log);
    let mut log = open(folder.path());
    assert!(drain(&mut log, 0).is_empty(), "`all` is a new upstream again");
}

/// A configuration on trial does without an upstream; when it is taken back, or the trial ends with a crash, nothing is
/// missing.
#[test]
fn an_upstream_that_may_come_back_misses_nothing_meanwhile() {
    for crashed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        append(&mut log, 0..5);
        renew(&mut log, folder.path(), &[("some", "a/#")], Leaver::Kept);
        append(&mut log, 5..8);
        assert_eq!(drain(&mut log, 0), numbers(0..8));
        if crashed {
            log.tick(at(1000));
            drop(log);
            log = open(folder.path());
        } else {
            renew(&mut log, folder.path(), &[("all", "#"), ("some", "a/#")], Leaver::Dropped);
        }
        append(&mut log, 8..9);
        assert_eq!(drain(&mut log, 0), numbers(0..9), "crashed: {crashed}");
        assert_eq!(log.status().ledger["all"].unaccounted(), 0);
    }
}

#[tokio::test]
async fn a_reader_that_waits_is_served_after_others_came_and_went() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, thread) = super::super::thread::start(open(folder.path())).unwrap();
    let mut waiting = Box::pin(spool.next_batch("some", None, 9));
    assert!(waiting.as_mut().now_or_never().is_none());
    // The question has been asked when this has been answered.
    spool.look(0).await.unwrap().unwrap();
    let upstreams = vec![subscriber("other", "zzz"), subscriber("some", "a/#")];
    assert!(spool.renew(settings(folder.path()), upstreams, Leaver::Dropped).await);
    spool.append(vec![foreign("a/x", "1")]).await;
    assert_eq!(waiting.await.entries.iter().map(|e| says(&e.message)).collect::<Vec<_>>(), ["1"]);
    spool.close().await;
    thread.join().unwrap();
}
