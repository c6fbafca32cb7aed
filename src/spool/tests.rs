//! The log held against a naive model, and injured on purpose.

mod gaps;
mod look;
mod power;
mod renew;
mod upgrade;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::Lane;
use super::Link;
use super::Seq;
use super::SpoolError;
use super::Subscriber;
use super::log::Log;
use super::log::Question;
use crate::config::plant::Keep;
use crate::config::plant::Replay;
use crate::config::plant::Spool as Settings;
use crate::config::plant::WhenFull;
use crate::message::Class;
use crate::message::Message;
use crate::message::OwnValue;
use crate::message::Retain;
use crate::payload::Format;
use crate::payload::Series;
use crate::point::PointId;
use crate::sample::Sample;
use crate::sample::Value;
use crate::status::Ledger;
use crate::time::Stamp;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const DAY: Duration = Duration::from_secs(86_400);

fn settings(folder: &Path) -> Settings {
    Settings {
        path: folder.join("spool.db"),
        keep: Keep::Offline,
        max_size: 64 << 20,
        max_age: DAY,
        when_full: WhenFull::DropOldest,
        replay: Replay::InOrder,
        replay_rate: None,
    }
}

fn upstreams() -> Vec<Subscriber> {
    let filter = |text: &str| vec![TopicFilter::new(text).unwrap()];
    vec![
        Subscriber { name: "all".into(), filters: filter("#") },
        Subscriber { name: "some".into(), filters: filter("a/#") },
    ]
}

fn at(ms: u64) -> Stamp {
    Stamp { mono_us: ms * 1000, wall_us: 1_795_222_923_000_000 + i64::try_from(ms * 1000).unwrap() }
}

fn foreign(topic: &str, text: &str) -> Message {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Message::plain(TopicName::new(topic).unwrap(), payload, Qos::AtLeastOnce, Retain::No)
}

fn own(n: u64, taken: Stamp) -> Message {
    let series = Arc::new(Series {
        topic: TopicName::new("a/own").unwrap(),
        format: Format::Value,
        unit: "".into(),
        names: std::collections::BTreeMap::new(),
        qos: Qos::AtLeastOnce,
        retain: true,
        class: Class::Normal,
    });
    let sample = Sample::good(PointId(1), Value::Uint(n), taken);
    let mut message = foreign("a/own", &n.to_string());
    message.own = Some(OwnValue { series, sample });
    message
}

/// What the message says, wherever it lay.
fn says(message: &Message) -> String {
    match &message.own {
        Some(own) => own.sample.value().unwrap().to_string(),
        None => String::from_utf8(message.payload.to_vec()).unwrap(),
    }
}

fn open(folder: &Path) -> Log {
    open_run(folder, 1)
}

fn open_run(folder: &Path, boot: u64) -> Log {
    Log::open(settings(folder), upstreams(), boot).unwrap()
}

fn drain(log: &mut Log, upstream: usize) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let batch = log.batch(upstream, None, 7, at(0));
        if batch.entries.is_empty() {
            return got;
        }
        got.extend(batch.entries.iter().map(|e| says(&e.message)));
        log.acknowledge(upstream, batch.upto);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8, bool, bool),
    Read(bool, u8),
    Acknowledge(bool, u8),
    Rewind(bool),
    Link(bool, bool),
    Tick,
    Renew,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..20, any::<bool>(), any::<bool>()).prop_map(|(n, a, o)| Step::Append(n, a, o)),
        4 => (any::<bool>(), 1u8..9).prop_map(|(u, n)| Step::Read(u, n)),
        3 => (any::<bool>(), 0u8..9).prop_map(|(u, n)| Step::Acknowledge(u, n)),
        1 => any::<bool>().prop_map(Step::Rewind),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(u, up)| Step::Link(u, up)),
        3 => Just(Step::Tick),
        1 => Just(Step::Renew),
        1 => Just(Step::Reopen),
    ]
}

/// The naive log of one upstream: what it has not acknowledged, and how much of that was read.
#[derive(Default)]
struct Model {
    waiting: Vec<String>,
    read: Vec<(Seq, usize)>,
    after: Option<Seq>,
    cursor: usize,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_a_list_with_two_cursors(steps in prop::collection::vec(step(), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path());
        let mut models = [Model::default(), Model::default()];
        let (mut count, mut now) = (0u64, 0u64);
        for step in steps {
            now += 100;
            match step {
                Step::Append(n, to_a, own_value) => {
                    let messages: Vec<_> = (0..n).map(|_| {
                        count += 1;
                        models[0].waiting.push(count.to_string());
                        if to_a || own_value {
                            models[1].waiting.push(count.to_string());
                        }
                        match own_value {
                            true => own(count, at(now)),
                            false => foreign(if to_a { "a/x" } else { "b/x" }, &count.to_string()),
                        }
                    }).collect();
                    log.append(messages, at(now));
                }
                Step::Read(u, max) => {
                    let (u, model) = (usize::from(u), &mut models[usize::from(u)]);
                    let batch = log.batch(u, model.after, usize::from(max), at(now));
                    let got: Vec<_> = batch.entries.iter().map(|e| says(&e.message)).collect();
                    let rest = &model.waiting[model.cursor..];
                    prop_assert_eq!(&got, &rest[..rest.len().min(usize::from(max))]);
                    model.cursor += got.len();
                    model.read.extend(batch.entries.iter().enumerate().map(|(n, e)| (e.seq, n)));
                    model.after = Some(batch.upto);
                }
                Step::Acknowledge(u, n) => {
                    let model = &mut models[usize::from(u)];
                    let n = usize::from(n).min(model.read.len());
                    if n > 0 {
                        log.acknowledge(usize::from(u), model.read[n - 1].0);
                        model.read.drain(..n);
                        model.waiting.drain(..n);
                        model.cursor -= n;
                    }
                }
                Step::Rewind(u) => rewind(&mut models[usize::from(u)]),
                Step::Link(u, up) => {
                    log.link(usize::from(u), if up { Link::Up } else { Link::Down });
                    rewind(&mut models[usize::from(u)]);
                }
                Step::Tick => log.tick(at(now)),
                Step::Renew => renew::there_and_back(&mut log, folder.path()),
                Step::Reopen => {
                    log.close();
                    drop(log);
                    log = open(folder.path());
                    models.iter_mut().for_each(rewind);
                }
            }
            for (u, model) in models.iter().enumerate() {
                let name = &*upstreams()[u].name.clone();
                prop_assert_eq!(log.status().backlog[name], model.waiting.len() as u64);
                prop_assert!(adds_up(&log.status().ledger[name]), "{:?}", log.status().ledger);
            }
        }
        prop_assert_eq!(log.status().ledger["all"].appended, count);
        prop_assert_eq!(drain(&mut log, 0), std::mem::take(&mut models[0].waiting));
        prop_assert_eq!(drain(&mut log, 1), std::mem::take(&mut models[1].waiting));
        log.tick(at(now + 10_000));
        prop_assert_eq!(log.status().on_disk, 0);
        prop_assert_eq!(log.status().ledger["all"].acknowledged, count);
    }
}

fn rewind(model: &mut Model) {
    model.after = None;
    model.cursor = 0;
    model.read.clear();
}

fn adds_up(l: &Ledger) -> bool {
    l.unaccounted() == 0
}

/// How many entries the gaps among these tell of; the rest are values.
fn gaps(got: Vec<String>) -> (u64, Vec<String>) {
    let (gaps, values): (Vec<_>, Vec<_>) = got.into_iter().partition(|text| text.starts_with('{'));
    let count = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap()["count"].as_u64().unwrap();
    (gaps.iter().map(count).sum(), values)
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn append(log: &mut Log, range: std::ops::Range<u64>) {
    log.append(range.map(|n| own(n, at(n))).collect(), at(0));
}

#[test]
fn a_healthy_link_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.link(0, Link::Up);
    log.link(1, Link::Up);
    let before = log.status().disk_bytes;
    for n in 0..50 {
        append(&mut log, n..n + 1);
        drain(&mut log, 0);
        drain(&mut log, 1);
        log.tick(at(n));
    }
    assert_eq!((log.status().disk_bytes, log.status().in_memory), (before, 0));
}

#[test]
fn a_black_hole_is_noticed_by_its_lag_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.link(0, Link::Up);
    log.link(1, Link::Up);
    append(&mut log, 0..10);
    log.tick(at(500));
    assert_eq!(log.status().on_disk, 0);
    log.tick(at(800));
    assert_eq!(log.status().on_disk, 10);
}

#[test]
fn a_kill_loses_nothing_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..100);
    log.tick(at(0));
    append(&mut log, 100..110);
    copy_files(folder.path(), copy.path());
    let mut survivor = open(copy.path());
    assert_eq!(survivor.status().backlog["all"], 100);
    assert_eq!(drain(&mut survivor, 0), numbers(0..100));
}

#[test]
fn a_full_disk_keeps_everything_in_memory_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.disk().unwrap().limit_pages(20);
    append(&mut log, 0..20_000);
    log.tick(at(0));
    let status = log.status();
    assert!(status.error.as_ref().is_some_and(|e| e.contains("full")), "{:?}", status.error);
    assert_eq!(status.on_disk + status.in_memory, 20_000);
    log.disk().unwrap().limit_pages(1_000_000);
    log.tick(at(1));
    assert_eq!(log.status().error, None);
    assert_eq!(drain(&mut log, 0), numbers(0..20_000));
}

#[test]
fn a_torn_file_is_set_aside_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..5_000);
    log.close();
    drop(log);
    let path = folder.path().join("spool.db");
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[4096 * 8..half].fill(0x5a);
    bytes.truncate(half);
    fs::write(&path, bytes).unwrap();
    let mut log = open(folder.path());
    assert!(log.status().set_aside.unwrap().contains("spool.db.damaged-1"));
    assert!(log.status().set_aside_uptime_s.is_some());
    append(&mut log, 0..3);
    assert_eq!(drain(&mut log, 0), numbers(0..3));
}

#[test]
fn max_size_drops_the_oldest_and_alarms_last() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let folder = tempfile::tempdir().unwrap();
        let limit = 1 << 20;
        let settings = Settings { max_size: limit, when_full, ..settings(folder.path()) };
        let mut log = Log::open(settings, upstreams(), 1).unwrap();
        let mut alarm = foreign("a/alarm", "alarm");
        alarm.class = Class::Alarm;
        log.append(vec![alarm], at(0));
        for n in 0..40 {
            append(&mut log, n * 2_000..(n + 1) * 2_000);
            log.tick(at(n));
            assert!(log.status().disk_bytes <= limit + limit / 4, "{}", log.status().disk_bytes);
        }
        let status = log.status();
        assert!(status.evicted > 0);
        assert_eq!(status.appended, status.evicted + status.backlog["all"], "{when_full:?}");
        assert!(adds_up(&status.ledger["all"]) && adds_up(&status.ledger["some"]), "{:?}", status.ledger);
        let (missing, got) = gaps(drain(&mut log, 0));
        assert_eq!((missing, missing + got.len() as u64), (status.evicted, 80_001));
        assert_eq!(log.status().ledger["all"].acknowledged, got.len() as u64);
        assert_eq!(got[0], "alarm");
        assert_eq!(got.contains(&"79999".to_owned()), when_full == WhenFull::DropOldest);
        drain(&mut log, 1);
        log.tick(at(10_000));
        assert!(log.status().disk_bytes < 128 << 10, "shrinks after the drain: {}", log.status().disk_bytes);
    }
}

#[test]
fn what_an_earlier_run_left_outlives_a_wall_clock_that_is_set_years_ahead_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open_run(folder.path(), 7);
    append(&mut log, 0..5);
    log.close();
    drop(log);
    let mut log = open_run(folder.path(), 8);
    let hour = 3_600_000;
    // This run's own clock begins anew, an hour later on the wall.
    let later = |ms: u64| Stamp { mono_us: ms * 1000, ..at(hour + ms) };
    log.tick(later(0));
    for years in [1, 13, 500, -1, -30, -500] {
        let jump = years * 365 * i64::try_from(DAY.as_micros()).unwrap();
        let set = |ms| Stamp { wall_us: later(ms).wall_us + jump, ..later(ms) };
        (1000..2000).step_by(100).for_each(|ms| log.tick(set(ms)));
        assert_eq!(log.status().expired, 0, "{years} years");
    }
    log.tick(later(22 * hour));
    assert_eq!(log.status().expired, 0);
    log.tick(later(365 * 24 * hour + 24 * hour));
    assert_eq!(log.status().expired, 5, "as the earliest clock has it, which was a year back");
}

#[test]
fn old_entries_expire_by_the_monotonic_clock_whatever_the_wall_clock_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..5);
    let jumped = Stamp { mono_us: 1_000_000, wall_us: at(0).wall_us + 400 * 86_400_000_000 };
    log.tick(jumped);
    log.tick(jumped);
    assert_eq!(log.status().expired, 0);
    log.tick(Stamp { mono_us: 2 * 86_400_000_000, wall_us: 0 });
    assert_eq!((log.status().expired, log.status().backlog["all"]), (5, 0));
    assert_eq!((log.status().ledger["all"].expired, adds_up(&log.status().ledger["all"])), (5, true));
    let told = r#"{"filter":"a/own","count":5,"first":"2026-11-21T01:02:03.000Z","last":"2026-11-21T01:02:03.004Z"}"#;
    assert_eq!(drain(&mut log, 0), [told]);
    assert_eq!(drain(&mut log, 0), numbers(0..0));
}

#[test]
fn a_value_takes_at_most_48_bytes_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let empty = log.status().disk_bytes;
    append(&mut log, 0..100_000);
    log.close();
    drop(log);
    let bytes = fs::metadata(folder.path().join("spool.db")).unwrap().len();
    assert!((bytes - empty.min(bytes)) / 100_000 <= 48, "{bytes}");
}

#[test]
fn a_gap_lies_in_its_place_and_grows_instead_of_having_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_size: 1 << 20, ..settings(folder.path()) };
    let mut log = Log::open(settings, upstreams(), 1).unwrap();
    let mut alarm = foreign("a/alarm", "alarm");
    alarm.class = Class::Alarm;
    append(&mut log, 0..10);
    log.append(vec![alarm], at(0));
    for n in 0..40 {
        append(&mut log, n * 2_000..(n + 1) * 2_000);
        log.tick(at(n));
    }
    log.close();
    drop(log);
    let mut log = open(folder.path());
    let got = drain(&mut log, 0);
    assert_eq!(got[0], "alarm");
    assert!(got[1].starts_with(r#"{"filter":"a/own","count":"#), "{}", got[1]);
    let (missing, values) = gaps(got[1..].to_vec());
    assert_eq!(values, numbers(missing - 10..80_000));
}

#[test]
fn newest_values_go_first_and_the_backlog_beside_them_across_cuts_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { replay: Replay::LiveFirst, ..settings(folder.path()) };
    let only = || vec![upstreams().remove(0)];
    let mut log = Log::open(settings.clone(), only(), 1).unwrap();
    let (mut from, mut old, mut new) = (0, Vec::new(), Vec::new());
    for outage in 0..3u64 {
        append(&mut log, from..from + 100);
        log.tick(at(outage));
        let standing = log.connected(0);
        assert!(standing.live);
        append(&mut log, from + 100..from + 110);
        let question = |lane, after| Question { upstream: 0, lane, after, max: 20 };
        let live = log.read(question(Lane::Live, Some(standing.newest)), at(0));
        new.extend(live.entries.iter().map(|e| says(&e.message)));
        log.acknowledge_live(0, live.upto);
        let backlog = log.read(question(Lane::Backlog, None), at(0));
        old.extend(backlog.entries.iter().map(|e| says(&e.message)));
        log.acknowledge(0, backlog.upto);
        let ledger = log.status().ledger["all"];
        assert!(adds_up(&ledger) && log.status().in_memory == 0, "{ledger:?}");
        log.link(0, Link::Down);
        from += 110;
        if outage == 1 {
            log.close();
            drop(log);
            log = Log::open(settings.clone(), only(), 1).unwrap();
        }
    }
    assert_eq!(new, [numbers(100..110), numbers(210..220), numbers(320..330)].concat());
    old.extend(drain(&mut log, 0));
    assert_eq!(old, [numbers(0..100), numbers(110..210), numbers(220..320)].concat());
    append(&mut log, 330..333);
    assert_eq!(drain(&mut log, 0), numbers(330..333));
    assert_eq!((log.status().backlog["all"], log.status().ledger["all"].acknowledged), (0, 333));
    assert!(!log.connected(0).live, "without a backlog there is one lane");
}

#[test]
fn what_the_peer_refuses_is_not_counted_as_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    append(&mut log, 0..5);
    let batch = log.batch(0, None, 5, at(0));
    log.refuse(0, batch.entries[1].seq);
    log.refuse(0, batch.upto + 1);
    log.acknowledge(0, batch.upto);
    log.tick(at(0));
    log.close();
    drop(log);
    let ledger = open(folder.path()).status().ledger["all"];
    assert_eq!((ledger.acknowledged, ledger.refused, ledger.unaccounted()), (4, 1, 0));
}

#[test]
fn after_a_kill_the_backlog_knows_that_newer_values_went_ahead_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let settings = Settings { replay: Replay::LiveFirst, ..settings(folder.path()) };
    let only = || vec![upstreams().remove(0)];
    let mut log = Log::open(settings.clone(), only(), 1).unwrap();
    append(&mut log, 0..10);
    log.tick(at(0));
    let standing = log.connected(0);
    append(&mut log, 10..12);
    let live = Question { upstream: 0, lane: Lane::Live, after: Some(standing.newest), max: 9 };
    let live = log.read(live, at(0));
    log.acknowledge_live(0, live.upto);
    // Killed before the next commit: nothing on disk says what was acknowledged.
    copy_files(folder.path(), copy.path());
    let settings = Settings { path: copy.path().join("spool.db"), ..settings };
    let mut survivor = Log::open(settings, only(), 2).unwrap();
    assert_eq!(survivor.connected(0).ahead, standing.newest, "what waits there may be older than what is kept");
    drain(&mut survivor, 0);
    assert_eq!(survivor.connected(0).ahead, 0);
}

/// The files as a kill would leave them: WAL and all.
fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_reader_waits_for_entries_and_a_closed_spool_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, thread) = super::open(settings(folder.path()), upstreams()).unwrap();
    let reader = tokio::spawn({
        let spool = spool.clone();
        async move { spool.next_batch("all", None, 10).await }
    });
    spool.append(vec![foreign("b/x", "1")]).await;
    let batch = reader.await.unwrap();
    assert_eq!(says(&batch.entries[0].message), "1");
    spool.acknowledge("all", batch.upto).await;
    spool.append(vec![foreign("a/x", "2"), foreign("b/x", "3")]).await;
    spool.clone().close().await;
    thread.join().unwrap();
    assert!(spool.next_batch("all", None, 10).await.entries.is_empty());
    let mut log = open(folder.path());
    assert_eq!(drain(&mut log, 0), ["2", "3"]);
    assert_eq!(drain(&mut log, 1), ["2"]);
}

#[tokio::test]
async fn a_disk_that_stalls_ten_seconds_delays_no_append_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let (begun, in_commit) = std::sync::mpsc::sync_channel(1);
    let (let_go, go_on) = std::sync::mpsc::channel();
    log.disk().unwrap().stall(super::disk::Stall { begun, go_on });
    let (spool, thread) = super::thread::start(log).unwrap();
    spool.append(vec![own(0, at(0))]).await;
    in_commit.recv().unwrap();
    // Ten seconds of the largest site: 5,000 values a second, while nothing can be written or read.
    for batch in 0..1_000 {
        let values = (1 + batch * 50..=50 + batch * 50).map(|n| own(n, at(n))).collect();
        assert!(spool.append(values).now_or_never().is_some(), "append had to wait");
    }
    let_go.send(()).unwrap();
    let mut got = Vec::new();
    while got.len() < 50_001 {
        let batch = spool.next_batch("all", None, 1_000).await;
        got.extend(batch.entries.iter().map(|e| says(&e.message)));
        spool.acknowledge("all", batch.upto).await;
    }
    assert_eq!(got, numbers(0..50_001));
    spool.clone().close().await;
    thread.join().unwrap();
    assert_eq!((spool.status().borrow().overrun, spool.status().borrow().appended), (0, 50_001));
}
