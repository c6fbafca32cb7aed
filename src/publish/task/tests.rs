//! Samples in, messages out, under a paused clock.

use std::collections::BTreeMap;

use super::*;
use crate::config::plant::{Compute, Report, Schedule, Source, When};
use crate::message::Class;
use crate::payload::{Format, Series};
use crate::sample::{Reason, Value};
use crate::topic::Qos;

fn point(id: u32, at_most: Option<Duration>) -> Point {
    Point {
        id: PointId(id),
        device: DeviceId(4),
        name: format!("p{id}").into(),
        source: Source::Compute(Arc::new(Compute { expression: "0".into(), inputs: Vec::new() })),
        range: None,
        schedule: Schedule::Every { period: Duration::from_secs(1), align: false },
        report: Arc::new(Report { when: When::Change, deadband: None, at_least: None, at_most }),
        write: None,
        series: Arc::new(Series {
            topic: TopicName::new(format!("g/m/p{id}")).unwrap(),
            format: Format::Value,
            unit: "V".into(),
            names: BTreeMap::new(),
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::Normal,
        }),
    }
}

fn parts(at_most: Option<Duration>, count: u32) -> Parts<'static> {
    let device = Device {
        id: DeviceId(4),
        name: "m".into(),
        line: crate::point::LineId(0),
        unit_id: crate::point::UnitId::new(1).unwrap(),
        profile: None,
        max_registers: 125,
        max_bits: 2000,
        functions: Default::default(),
        fingerprint: None,
        tags: BTreeMap::new(),
        points: 0..count,
    };
    let points: Vec<Arc<Point>> = (0..count).map(|n| Arc::new(point(n, at_most))).collect();
    Parts { gateway: "g", devices: vec![device].leak(), points: points.leak() }
}

fn text(message: &Message) -> String {
    format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload))
}

fn int(id: u32, value: i64) -> Sample {
    Sample::good(PointId(id), Value::Int(value), time::now())
}

#[tokio::test(start_paused = true)]
async fn values_states_and_the_gateways_own_come_and_go_in_order() {
    let (samples, from) = mpsc::channel(4);
    let (events, device_events) = mpsc::channel(4);
    let (sink, mut out) = mpsc::channel(16);
    let (status, task) = crate::publish::new(parts(None, 1), from, device_events, sink);
    let task = tokio::spawn(task.run());
    assert_eq!(out.recv().await.unwrap().iter().map(text).collect::<Vec<_>>(), ["g/$state online"]);
    samples.send(vec![int(0, 1), int(0, 1), int(0, 2)]).await.unwrap();
    let batch = out.recv().await.unwrap();
    assert_eq!(batch.iter().map(text).collect::<Vec<_>>(), ["g/m/p0 1", "g/m/p0 2"]);
    assert!(batch[0].own.is_some());
    events.send(DeviceEvent::offline(DeviceId(4), Some(Reason::Timeout))).await.unwrap();
    let state = text(&out.recv().await.unwrap()[0]);
    assert!(state.starts_with(r#"g/m/$state {"state":"offline","reason":"timeout","time":""#), "{state}");
    drop(samples);
    assert_eq!(out.recv().await.unwrap().iter().map(text).collect::<Vec<_>>(), ["g/$state offline"]);
    task.await.unwrap();
    let account = *status.borrow();
    assert_eq!((account.polled, account.suppressed, account.published, account.held), (3, 1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_held_value_is_published_when_its_time_comes() {
    let (samples, from) = mpsc::channel(4);
    let (_events, device_events) = mpsc::channel(4);
    let (sink, mut out) = mpsc::channel(16);
    let (status, task) = crate::publish::new(parts(Some(Duration::from_secs(1)), 1), from, device_events, sink);
    tokio::spawn(task.run());
    out.recv().await.unwrap();
    let begin = time::now().mono_us;
    samples.send(vec![int(0, 1)]).await.unwrap();
    assert_eq!(text(&out.recv().await.unwrap()[0]), "g/m/p0 1");
    samples.send(vec![int(0, 2), int(0, 3)]).await.unwrap();
    assert_eq!(text(&out.recv().await.unwrap()[0]), "g/m/p0 3");
    let waited = time::now().mono_us - begin;
    assert!((999_000..1_020_000).contains(&waited), "{waited} µs");
    let account = *status.borrow();
    assert_eq!((account.polled, account.suppressed, account.published, account.held), (3, 1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn every_reading_has_one_fate_per_point_and_across_restarts() {
    let (samples, from) = mpsc::channel(4);
    let (_events, device_events) = mpsc::channel(4);
    let (sink, mut out) = mpsc::channel(16);
    let (status, task) = crate::publish::new(parts(Some(Duration::from_secs(1)), 2), from, device_events, sink);
    let before = PublishStatus { polled: 7, suppressed: 3, published: 2, failed: 1, held: 1, told: 1 };
    let earlier = |point: &str| PointAccount { point: point.to_owned(), account: before };
    let books = Books { total: before, points: vec![earlier("m/p0"), earlier("m/gone")] };
    let task = task.continuing(&books);
    let accounts = task.accounts();
    let running = tokio::spawn(task.run());
    out.recv().await.unwrap();
    let bad = |reason| Sample::bad(PointId(0), reason, time::now());
    // Published, suppressed, told, failed and not told, published; and on the other point published, then held.
    let first = vec![int(0, 1), int(0, 1), bad(Reason::Timeout), bad(Reason::Timeout), int(0, 1)];
    samples.send(first).await.unwrap();
    samples.send(vec![int(1, 1), int(1, 2)]).await.unwrap();
    out.recv().await.unwrap();
    let asked = accounts.ask().await.unwrap();
    let of = |n: usize| (asked.points[n].point.as_str(), asked.points[n].account);
    // What was held when the run before was killed was never told.
    let p0 = PublishStatus { polled: 12, suppressed: 5, published: 4, failed: 3, held: 0, told: 2 };
    let p1 = PublishStatus { polled: 2, published: 1, held: 1, ..PublishStatus::default() };
    assert_eq!([of(0), of(1)], [("m/p0", p0), ("m/p1", p1)]);
    assert!(asked.points.iter().all(|p| p.account.unaccounted() == 0));
    assert_eq!((asked.total.polled, asked.total.held, asked.total.unaccounted()), (14, 1, 0));
    drop(samples);
    while out.recv().await.is_some() {}
    let closed = running.await.unwrap();
    assert_eq!((closed.total.published, closed.total.held, closed.total.unaccounted()), (6, 0, 0));
    assert_eq!(*status.borrow(), closed.total);
    assert_eq!(accounts.ask().await, None);
}

fn plant(devices: &str) -> Arc<crate::config::Plant> {
    let yaml = format!("gateway: g\nlines: {{l: {{tcp: 127.0.0.1:502}}}}\ndevices:\n{devices}");
    let loaded = crate::config::load_text("t.yaml", &yaml, std::path::Path::new(""));
    Arc::new(loaded.unwrap_or_else(|r| panic!("{r}")).plant)
}

const TWO: &str = "  - {name: a, line: l, unit_id: 1, payload: value, points: {p: {holding: 4}, q: {holding: 5, report: {at_most: 9s}}}}
  - {name: b, line: l, unit_id: 2, payload: value, points: {p: {holding: 4}}}
";

#[tokio::test(start_paused = true)]
async fn what_goes_in_a_reload_is_told_and_cleared_and_what_changed_goes_on_with_its_account() {
    use crate::publish::{Parts, Round};
    let (samples, from) = mpsc::channel(4);
    let (events, device_events) = mpsc::channel(4);
    let (sink, mut out) = mpsc::channel(16);
    let before = plant(TWO);
    let parts = Parts { gateway: "g", devices: &before.devices, points: &before.points };
    let (status, task) = crate::publish::new(parts, from, device_events, sink);
    let (accounts, renewals) = (task.accounts(), task.renewals());
    tokio::spawn(task.run());
    samples.send(vec![int(0, 1), int(1, 1), int(1, 2), int(2, 1)]).await.unwrap();
    events.send(DeviceEvent::online(DeviceId(0))).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(out.recv().await.unwrap().iter().map(text));
    }
    assert_eq!(status.borrow().held, 1);

    // `a/p` is another register, `a/q` is no more, `b` neither, `c` is new.
    let after = plant(
        "  - {name: a, line: l, unit_id: 1, payload: value, points: {p: {holding: 9}}}\n\x20 \
         - {name: c, line: l, unit_id: 3, payload: value, points: {p: {holding: 1}}}\n",
    );
    let after = Arc::new(Arc::unwrap_or_clone(after).following(&before));
    let id = |n: usize| after.points[n].id.0;
    assert!(renewals.renew(&after, Round::Add).await);
    // The line hands over what it read before, then what it reads under the new meaning.
    samples.send(vec![int(0, 7), int(id(0), 70)]).await.unwrap();
    assert!(renewals.renew(&after, Round::Remove).await);
    samples.send(vec![int(0, 8), int(id(1), 3)]).await.unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|t| t != "g/c/p 3") {
        let batch = out.recv().await.unwrap();
        assert!(batch.iter().all(|m| m.topic.as_str() != "g/b/$state" || m.retain == m.payload.is_empty()));
        told.extend(batch.iter().map(text));
    }
    let gone = told.iter().position(|t| t.starts_with(r#"g/b/$state {"state":"offline","reason":"removed""#));
    let gone = gone.unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(told[gone + 1], "g/b/$state ");
    let rest: Vec<_> = told.iter().filter(|t| !t.contains("$state")).map(String::as_str).collect();
    assert_eq!(
        rest,
        ["g/a/p 7", "g/a/p 70", "g/a/q 2", "g/a/q ", "g/b/p ", "g/c/p 3"],
        "a reading of nobody is dropped"
    );

    let books = accounts.ask().await.unwrap();
    let names: Vec<_> = books.points.iter().map(|p| (p.point.as_str(), p.account.polled)).collect();
    assert_eq!(names, [("a/p", 3), ("c/p", 1)]);
    assert_eq!((books.total.polled, books.total.held, books.total.unaccounted()), (7, 0, 0));

    assert!(renewals.renew(&after, Round::TellAgain).await);
    let again = out.recv().await.unwrap();
    assert_eq!(text(&again[0]), "g/$state online");
    assert!(text(&again[1]).starts_with(r#"g/a/$state {"state":"online""#), "{again:?}");
    samples.send(vec![int(id(1), 3)]).await.unwrap();
    assert_eq!(text(&out.recv().await.unwrap()[0]), "g/c/p 3", "it is told again though it says nothing new");
}
