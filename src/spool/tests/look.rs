//! A person looks and clears: nothing of it moves a reader, and what is thrown away is counted and told.

use super::super::look::Survey;
use super::super::look::Waiting;
use super::*;
use crate::database::FileError;

fn waiting(log: &Log) -> Vec<Waiting> {
    let (mut after, mut found) = (0, Vec::new());
    loop {
        let slice = log.look(after, 7, at(0)).unwrap();
        found.extend(slice.entries);
        if slice.end {
            return found;
        }
        assert!(slice.upto > after, "a look that does not move never ends");
        after = slice.upto;
    }
}

fn values(found: &[Waiting]) -> Vec<String> {
    found.iter().filter(|w| w.gap.is_none()).map(|w| w.value.clone().or(w.payload.clone()).unwrap()).collect()
}

#[test]
fn what_waits_is_seen_in_both_storeys_and_no_reader_moves() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..20);
    log.append(vec![foreign("b/x", "20")], at(20));
    log.tick(at(0));
    append(&mut log, 21..25);
    let read = log.batch(1, None, 10, at(0));
    log.acknowledge(1, read.upto);
    let before = log.status();
    let found = waiting(&log);
    assert_eq!(values(&found), numbers(0..25));
    let both = ["all".to_owned(), "some".to_owned()];
    assert_eq!(
        (&found[9].upstreams[..], &found[10].upstreams[..], &found[20].upstreams[..]),
        (&both[..1], &both[..], &both[..1])
    );
    assert_eq!((found[3].time.as_str(), found[3].quality.as_str()), ("2026-11-21T01:02:03.003Z", "good"));
    assert_eq!(log.status(), before);
    let mut survey = Survey::of(["all", "some"]);
    found.iter().for_each(|w| survey.add(w));
    assert_eq!((survey.upstreams["all"].entries, survey.upstreams["some"].entries), (25, 14));
    assert_eq!(survey.topics["a/own"], 24);
    assert_eq!(drain(&mut log, 0), numbers(0..25));
}

#[test]
fn what_is_cleared_is_counted_and_told_and_what_is_under_way_is_left_to_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..100);
    log.tick(at(0));
    log.link(0, Link::Up);
    let under_way = log.batch(0, None, 10, at(0));
    append(&mut log, 100..110);
    let cleared = log.clear_named(Some("all"), at(500)).unwrap();
    assert_eq!((cleared[0].entries, cleared[0].in_flight), (100, 10));
    let ledger = log.status().ledger["all"];
    assert_eq!((ledger.cleared, ledger.in_flight, ledger.stored, ledger.unaccounted()), (100, 10, 0, 0));
    log.acknowledge(0, under_way.upto);
    append(&mut log, 110..112);
    let told = r##"{"filter":"#","count":100,"first":"2026-11-21T01:02:03.010Z","last":"2026-11-21T01:02:03.500Z"}"##;
    assert_eq!(drain(&mut log, 0), [&[told.to_owned()][..], &numbers(110..112)].concat());
    assert_eq!(values(&waiting(&log)), numbers(0..112), "the other upstream still wants all of it");
    log.close();
    drop(log);
    let mut log = open(folder.path());
    let ledger = log.status().ledger["all"];
    assert_eq!((ledger.cleared, ledger.acknowledged, ledger.unaccounted()), (100, 12, 0));
    assert_eq!(drain(&mut log, 1), numbers(0..112));
    assert_eq!(log.clear_named(None, at(600)).unwrap().iter().map(|c| c.entries).sum::<u64>(), 0);
    let error = log.clear_named(Some("al"), at(0)).unwrap_err().to_string();
    assert_eq!(error, "no upstream `al`; there are: all, some");
}

#[test]
fn what_is_cleared_twice_is_told_once_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for from in [0, 10, 20] {
        append(&mut log, from..from + 10);
        log.tick(at(0));
        assert_eq!(log.clear_named(Some("some"), at(100)).unwrap()[0].entries, 10);
    }
    let waits = waiting(&log).into_iter().filter(|w| w.upstreams == ["some"]).collect::<Vec<_>>();
    assert_eq!(waits.iter().map(|w| w.gap).collect::<Vec<_>>(), [Some(30)]);
    assert_eq!(gaps(drain(&mut log, 1)), (30, Vec::new()));
    assert_eq!(drain(&mut log, 0), numbers(0..30));
}

#[test]
fn with_newest_first_only_the_backlog_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { replay: Replay::LiveFirst, ..settings(folder.path()) };
    let mut log = Log::open(settings, vec![upstreams().remove(0)], 1).unwrap();
    append(&mut log, 0..50);
    log.tick(at(0));
    let standing = log.connected(0);
    append(&mut log, 50..60);
    let ask = |lane, after, max| Question { upstream: 0, lane, after, max };
    let live = log.read(ask(Lane::Live, Some(standing.newest), 4), at(0));
    let old = log.read(ask(Lane::Backlog, None, 5), at(0));
    assert_eq!(log.clear_named(None, at(0)).unwrap()[0].entries, 45);
    log.acknowledge_live(0, live.upto);
    log.acknowledge(0, old.upto);
    let rest = log.read(ask(Lane::Live, Some(live.upto), 90), at(0));
    let said: Vec<_> = rest.entries.iter().map(|e| says(&e.message)).collect();
    let (missing, fresh) = gaps(said);
    assert_eq!((missing, fresh), (45, numbers(54..60)));
    log.acknowledge_live(0, rest.upto);
    assert!(log.read(ask(Lane::Backlog, Some(old.upto), 9), at(0)).entries.is_empty());
    let ledger = log.status().ledger["all"];
    assert_eq!((ledger.acknowledged, ledger.cleared, ledger.stored, ledger.unaccounted()), (15, 45, 0, 0));
}

#[test]
fn a_file_is_looked_at_only_while_no_gateway_holds_it_and_never_made() {
    let folder = tempfile::tempdir().unwrap();
    let error = super::super::Stored::open(settings(folder.path()), upstreams()).unwrap_err();
    assert!(matches!(error, SpoolError::File(FileError::Absent { .. })), "{error}");
    assert!(!folder.path().join("spool.db").exists());
    let mut log = open(folder.path());
    append(&mut log, 0..5);
    log.tick(at(0));
    let error = super::super::Stored::open(settings(folder.path()), upstreams()).unwrap_err();
    assert!(matches!(error, SpoolError::File(FileError::InUse { .. })), "{error}");
    drop(log);
    let mut stored = super::super::Stored::open(settings(folder.path()), upstreams()).unwrap();
    assert_eq!(values(&stored.look(0).unwrap().entries), numbers(0..5));
    assert_eq!(stored.clear(Some("some")).unwrap()[0].entries, 5);
    drop(stored);
    let mut log = open(folder.path());
    assert_eq!(drain(&mut log, 0), numbers(0..5));
    assert_eq!(gaps(drain(&mut log, 1)), (5, Vec::new()));
}
