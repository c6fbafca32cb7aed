//! Commands on a line that is asked for more than it can carry: the real command, poll and bus tasks on a paced wire at 9600
//! baud, in slow motion under the paused clock. The wire's own account says what went out when.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::*;
use crate::bus::wire;
use crate::bus::wire::Heard;
use crate::bus::wire::Pace;
use crate::bus::wire::Saying;
use crate::config;
use crate::config::plant::Plant;
use crate::config::plant::Schedule;
use crate::message::Message;
use crate::message::Origin;
use crate::message::Properties;
use crate::message::Retain;
use crate::poll;
use crate::status::BrokerStatus;
use crate::status::DeviceStatus;
use crate::status::FailSafeState;
use crate::status::FailSafeStatus;
use crate::status::LineStatus;
use crate::status::Recognition;
use crate::topic::Qos;
use crate::topic::TopicName;

/// tokio's paused clock knows whole milliseconds, which is less than a character then.
const SLOWED: u32 = 10;
/// How long a device thinks.
const THINKS: Duration = Duration::from_millis(5);

/// Six devices with 40 registers in a row and some beside, ten times as often as the line allows.
fn plant() -> Plant {
    plant_with("")
}

fn plant_with(more: &str) -> Plant {
    plant_where(|text| text.replace("expires: 10m}", &format!("expires: 10m}}{more}")))
}

fn plant_where(change: impl Fn(String) -> String) -> Plant {
    let row = |n| format!("      p{n}: {{holding: {n}, write: {{expires: 10m}}}}\n");
    let row: String = (0..40).map(row).collect();
    let text = format!(
        "gateway: g\nlines: {{hall: {{serial: /dev/none, baud: 9600, format: 8N1, timeout: 300ms, retries: 1}}}}\ndevices:\n  \
         - name: d{{unit_id}}\n    line: hall\n    unit_id: 1-6\n    every: 100ms\n    points:\n{row}      far: {{holding: 200}}\n"
    );
    config::load_text("t.yaml", &change(text), Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
}

/// What all devices hold, and how they answer; the silent ones do not.
fn devices(silent: &'static [u8]) -> impl FnMut(u8, &[u8]) -> Saying + Send + 'static {
    let mut held: HashMap<(u8, u16), u16> = HashMap::new();
    move |unit, pdu| {
        let word = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
        let answer = match pdu[0] {
            3 => {
                let words = (word(1)..word(1) + word(3)).map(|a| held.get(&(unit, a)).copied().unwrap_or_default());
                let data: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
                [&[3, u8::try_from(data.len()).unwrap()], data.as_slice()].concat()
            }
            6 => {
                held.insert((unit, word(1)), word(3));
                pdu.to_vec()
            }
            16 => {
                held.extend((0..word(3)).map(|n| ((unit, word(1) + n), word(6 + 2 * usize::from(n)))));
                pdu[..5].to_vec()
            }
            23 => {
                let words = pdu[10..].chunks(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
                held.extend(words.zip(0..).map(|(word_, n): (u16, u16)| ((unit, word(5) + n), word_)));
                [&[23, pdu[9]], &pdu[10..]].concat()
            }
            _ => pdu.to_vec(),
        };
        (!silent.contains(&unit)).then_some((THINKS * SLOWED, answer))
    }
}

/// The tasks at work.
struct Site {
    commands: mpsc::Sender<Vec<Message>>,
    answers: mpsc::Receiver<Vec<Message>>,
    trunk: wire::Wire,
    begun: Instant,
    /// How the fail-safes stand.
    standing: watch::Receiver<Vec<FailSafeStatus>>,
    audit: audit::Audit,
    seat: watch::Sender<Option<Desk>>,
    _floors: watch::Sender<Floor>,
    _stop: DropGuard,
    _folder: TempDir,
}

impl Site {
    fn new(silent: &'static [u8]) -> Self {
        Self::of(plant(), silent)
    }

    fn of(plant: Plant, silent: &'static [u8]) -> Self {
        let stop = CancellationToken::new();
        let (bus, trunk) = wire::start(&plant.lines[0], Pace::slowed(&plant.lines[0], SLOWED), devices(silent));
        let mut parts = poll::Parts {
            line: wire::slow_motion(&plant.lines[0], SLOWED),
            devices: plant.devices.clone(),
            points: plant.points.clone(),
            lessons: poll::learned::Lessons::default(),
        };
        for point in &mut parts.points {
            let Schedule::Every { period, .. } = &mut Arc::make_mut(point).schedule else {
                panic!("a period is configured")
            };
            *period *= SLOWED;
        }
        let (samples, mut sampled) = mpsc::channel(64);
        let (events, mut happened) = mpsc::channel(64);
        let weak = samples.downgrade();
        let (line, task) = poll::new(parts, bus.clone(), samples, events);
        let (seat, seated) = watch::channel(Some(Desk { bus, orders: task.desk(), samples: weak, line }));
        tokio::spawn(task.run(stop.clone()));
        tokio::spawn(async move { while sampled.recv().await.is_some() {} });
        tokio::spawn(async move { while happened.recv().await.is_some() {} });
        let (commands, heard) = mpsc::channel(4);
        let (outlet, answers) = mpsc::channel(64);
        let eyes = failsafe::Eyes {
            upstreams: Vec::new(),
            broker: watch::channel(BrokerStatus::default()).1,
            lines: vec![watch::channel(LineStatus::default()).1],
        };
        let (floors, floor) =
            watch::channel(Floor { desks: vec![(plant.lines[0].id, seated)], plant: Arc::new(plant), eyes });
        let links = failsafe::Links { kept: watch::Sender::default(), status: watch::Sender::default() };
        let standing = links.status.subscribe();
        let (door, guards) = failsafe::new(floor.clone(), mpsc::channel(1024).0, links);
        tokio::spawn(guards.run(stop.clone()));
        let folder = tempfile::tempdir().unwrap();
        let (audit, _) = audit::open_here(&config::plant::Audit::in_folder(folder.path()));
        let room = new(floor, heard, outlet, audit.clone()).guarded(door);
        tokio::spawn(room.run(stop.clone()));
        let (begun, stop) = (Instant::now(), stop.drop_guard());
        Self { commands, answers, trunk, begun, standing, audit, seat, _floors: floors, _stop: stop, _folder: folder }
    }

    /// All in one moment.
    async fn send(&self, all: &[(&str, Json)]) {
        let message = |(topic, payload): &(&str, Json)| {
            let topic = TopicName::new(format!("g/{topic}")).unwrap();
            Message::plain(topic, Bytes::from(payload.to_string()), Qos::AtLeastOnce, Retain::No)
        };
        self.commands.send(all.iter().map(message).collect()).await.unwrap();
    }

    async fn answer(&mut self) -> Json {
        let batch = self.answers.recv().await.unwrap();
        serde_json::from_slice(&batch[0].payload).unwrap()
    }

    async fn answers(&mut self, count: usize) -> Vec<Json> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.answer().await);
        }
        all
    }

    fn questions(&self) -> Vec<Heard> {
        self.trunk.account().questions
    }

    /// The writes of one unit that went out: function, address, words.
    fn writes(&self, unit: u8) -> Vec<(u8, u16, Vec<u16>)> {
        let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        let of = |q: &Heard| match q.pdu[0] {
            6 => Some((6, word(&q.pdu[1..]), vec![word(&q.pdu[3..])])),
            16 => Some((16, word(&q.pdu[1..]), q.pdu[6..].chunks(2).map(word).collect())),
            23 => Some((23, word(&q.pdu[5..]), q.pdu[10..].chunks(2).map(word).collect())),
            _ => None,
        };
        self.questions().iter().filter(|q| q.unit == unit).filter_map(of).collect()
    }
}

/// One command after the other, each at another moment of what passes on the wire: the longest and the mean wait for a write's
/// first byte, and the longest transaction, in real time.
async fn waits(silent: &'static [u8]) -> (Duration, Duration, Duration) {
    let mut site = Site::new(silent);
    let mut asked = Vec::new();
    // Until every device is known, and for so long that every kind of read is under way at some moment.
    tokio::time::sleep(Duration::from_secs(5) * SLOWED).await;
    for n in 0..100_u16 {
        tokio::time::sleep(Duration::from_millis(u64::from(n) * 7 + 13) * SLOWED).await;
        asked.push(Instant::now());
        site.send(&[("d3/p5/set", json!(1000 + n))]).await;
        assert_eq!(site.answer().await["result"], "written");
    }
    let account = site.trunk.account();
    let load = account.occupied.div_duration_f64(site.begun.elapsed());
    assert!(load > 0.9 && (account.violations, account.collisions) == (0, 0), "load {load:.3}");
    let starts: Vec<Instant> = account.questions.iter().map(|q| q.at).collect();
    let longest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    let mut all = Vec::new();
    for (n, asked) in (0..).zip(&asked) {
        let value = u16::to_be_bytes(1000 + n);
        let write = account.questions.iter().position(|q| q.pdu[0] == 6 && q.pdu[3..] == value).unwrap();
        let between = starts[..write].iter().filter(|at| *at > asked).count();
        assert_eq!(between, 0, "others went before the write of {value:?}");
        all.push(starts[write] - *asked);
    }
    let (worst, mean) = (*all.iter().max().unwrap(), all.iter().sum::<Duration>() / 100);
    println!(
        "load {load:.3}, {} questions, waits: worst {worst:?}, mean {mean:?}, longest transaction {longest:?}, all slowed {SLOWED} times",
        starts.len()
    );
    (worst / SLOWED, mean / SLOWED, longest / SLOWED)
}

#[tokio::test(start_paused = true)]
async fn at_9600_baud_under_full_load_a_write_waits_for_one_transaction_at_most() {
    let (worst, mean, longest) = waits(&[]).await;
    assert!(worst <= longest, "waited {worst:?}, the longest transaction takes {longest:?}");
    assert!(mean < longest * 2 / 3, "{mean:?} of {longest:?}: in the middle of one on average");
}

#[tokio::test(start_paused = true)]
async fn beside_silent_devices_a_write_waits_for_one_transaction_at_most() {
    let (worst, _, longest) = waits(&[1, 6]).await;
    assert!(worst <= longest, "waited {worst:?}, the longest transaction takes {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn writes_of_several_points_keep_their_order_and_the_latest_of_each_wins() {
    let mut site = Site::new(&[]);
    let set = |point: &'static str, value: u16| (point, json!(value));
    site.send(&[set("d1/p1/set", 1), set("d1/p2/set", 2), set("d1/p1/set", 3), set("d1/p3/set", 4)]).await;
    let answers = site.answers(4).await;
    assert_eq!(answers[0]["reason"], "replaced by a newer command before it was its turn");
    assert_eq!(answers[1..].iter().map(|a| &a["value"]).collect::<Vec<_>>(), [3, 2, 4]);
    assert_eq!(site.writes(1), [(6, 1, vec![3]), (6, 2, vec![2]), (6, 3, vec![4])]);
    // One that is under way is not replaced, and what comes meanwhile waits.
    site.send(&[set("d2/p1/set", 10)]).await;
    while site.writes(2).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    site.send(&[set("d2/p1/set", 11), set("d2/p1/set", 12)]).await;
    site.answers(3).await;
    assert_eq!(site.writes(2), [(6, 1, vec![10]), (6, 1, vec![12])]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_command_that_is_refused_has_not_thrown_out_the_older_one() {
    let mut site = Site::new(&[]);
    let gone = crate::time::rfc3339_millis(crate::time::now().wall_us - 1_000_000);
    for (unit, newer, why) in [
        (1, json!(70_000), "70000 does not fit u16"),
        (2, json!({"value": 2, "expires": gone}), "expired 1"),
        (3, json!("warm"), "warm is a text"),
    ] {
        let topic = format!("d{unit}/p1/set");
        site.send(&[(&topic, json!(5)), (&topic, newer)]).await;
        let answers = site.answers(2).await;
        let told = |result: &str| answers.iter().find(|a| a["result"] == result).unwrap_or(&Json::Null);
        assert!(told("refused")["reason"].as_str().is_some_and(|said| said.starts_with(why)), "{answers:?}");
        assert_eq!(told("written")["value"], 5, "{answers:?}");
        assert_eq!(site.writes(unit), [(6, 1, vec![5])]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_command_whose_time_runs_out_before_its_turn_leaves_it_to_the_older_one() {
    let mut site = Site::new(&[]);
    let soon = crate::time::rfc3339_millis(crate::time::now().wall_us + 200_000);
    // A line that is slow ten times over: each of these takes longer than the newer one lives.
    let first = |n: u16| (["d1/p1/set", "d1/p2/set", "d1/p3/set"][usize::from(n)], json!(n));
    site.send(&[
        first(0),
        first(1),
        first(2),
        ("d2/p1/set", json!(5)),
        ("d2/p1/set", json!({"value": 6, "expires": soon})),
    ])
    .await;
    let answers = site.answers(5).await;
    assert!(answers[3]["reason"].as_str().unwrap().starts_with("expired"), "{answers:?}");
    assert_eq!((&answers[4]["result"], &answers[4]["value"]), (&json!("written"), &json!(5)), "{answers:?}");
    assert_eq!(site.writes(2), [(6, 1, vec![5])]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_command_that_was_done_before_does_not_throw_out_the_one_that_waits() {
    let mut site = Site::new(&[]);
    let asked = |value: u16, id: &str| ("d1/p1/set", json!({"value": value, "id": id}));
    // In the trail of an earlier run, so that this one does not know it until it looks there.
    let draft = audit::Draft {
        topic: "g/d1/p1/set".into(),
        id: Some("old".into()),
        asked: vec![audit::Asked { point: "p1".into(), value: json!(7), raw: String::new() }],
        ..audit::Draft::default()
    };
    site.audit.begin(draft).await.unwrap().end(r#"{"result":"written","value":7}"#).await;
    site.send(&[asked(5, "new"), asked(7, "old")]).await;
    let answers = site.answers(2).await;
    let values: Vec<_> = answers.iter().map(|a| a["value"].as_u64()).collect();
    assert!(values.contains(&Some(7)) && values.contains(&Some(5)), "the first result, and a write: {answers:?}");
    assert_eq!(site.writes(1), [(6, 1, vec![5])]);
}

#[tokio::test(start_paused = true)]
async fn a_read_or_a_pause_whose_time_has_passed_is_refused_as_a_write_is() {
    let mut site = Site::new(&[]);
    let gone = crate::time::rfc3339_millis(crate::time::now().wall_us - 1_000_000);
    let ahead = crate::time::rfc3339_millis(crate::time::now().wall_us + 60_000_000);
    for (topic, payload) in [("d1/p1/get", json!({})), ("d1/$command", json!({"command": "pause"}))] {
        let with = |expires: &str| {
            let mut payload = payload.clone();
            payload["expires"] = json!(expires);
            (topic, payload)
        };
        site.send(&[with(&gone)]).await;
        let answer = site.answer().await;
        assert_eq!(answer["result"], "refused", "{answer}");
        assert!(answer["reason"].as_str().unwrap().starts_with("expired"), "{answer}");
        site.send(&[with(&ahead)]).await;
        let answer = site.answer().await;
        assert!(answer["result"] == "read" || answer["result"] == "done", "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_or_a_pause_that_outlives_its_message_is_refused() {
    let mut site = Site::new(&[1]);
    // Behind a device that is silent: its timeout, twice, is ten times three tenths of a second.
    let lives = |topic: &str, payload: &str| {
        let topic = TopicName::new(format!("g/{topic}")).unwrap();
        let message = Message::plain(topic, Bytes::from(payload.to_owned()), Qos::AtLeastOnce, Retain::No);
        let properties = Some(Arc::new(Properties { expiry: Some(1), ..Properties::default() }));
        Message { properties, ..message }
    };
    site.send(&[("d1/p1/set", json!(1))]).await;
    site.commands.send(vec![lives("d2/p1/get", ""), lives("d2/$command", "pause")]).await.unwrap();
    let answers = site.answers(3).await;
    assert_eq!(answers[0]["result"], "failed", "{answers:?}");
    for answer in &answers[1..] {
        assert!(answer["reason"].as_str().is_some_and(|said| said.starts_with("expired")), "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_commands_than_are_taken_at_once_are_told_so_and_may_be_asked_again() {
    let mut site = Site::new(&[]);
    let all: Vec<_> = (0..300).map(|n| ("d1/p1/get", json!({ "id": n }))).collect();
    site.send(&all).await;
    let answers = site.answers(300).await;
    let told: Vec<_> = answers.iter().filter(|a| a["reason"] == "busy: too many commands at once, try again").collect();
    assert_eq!(told.len(), 300 - 256);
    assert_eq!((&told[0]["result"], &told[0]["id"]), (&json!("refused"), &json!("256")));
    site.send(&all[299..]).await;
    assert_eq!(site.answer().await["result"], "read");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_told_to_try_again_is_done_when_it_comes_again_with_its_id() {
    let mut site = Site::new(&[]);
    let stands = |recognition| LineStatus {
        devices: vec![DeviceStatus { name: "d1".into(), recognition, ..DeviceStatus::default() }],
        ..LineStatus::default()
    };
    let (line, watched) = watch::channel(stands(Recognition::Open));
    site.seat.send_modify(|desk| desk.as_mut().unwrap().line = watched);
    let batch = json!({"writes": [{"point": "p1", "value": 5}, {"point": "p2", "value": 6}], "id": "b"});
    site.send(&[("d1/set", batch.clone())]).await;
    let answer = site.answer().await;
    assert!(answer["writes"][1]["reason"].as_str().unwrap().ends_with("try again"), "{answer}");
    line.send_replace(stands(Recognition::Right));
    site.send(&[("d1/set", batch)]).await;
    let answer = site.answer().await;
    assert_eq!((&answer["result"], &answer["id"]), (&json!("written"), &json!("b")), "{answer}");
    assert_eq!(site.writes(1), [(16, 1, vec![5, 6])]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_because_its_line_ended_may_be_asked_again_with_the_same_id() {
    let mut plant = plant();
    plant.lines[0].raw_access = true;
    let mut site = Site::of(plant.clone(), &[]);
    let (ended, task) = crate::bus::new(plant.lines[0].clone());
    drop(task);
    let mut running = ended;
    let mut swap =
        |site: &Site| site.seat.send_modify(|desk| std::mem::swap(&mut desk.as_mut().unwrap().bus, &mut running));
    let all = [
        ("d1/p1/set", json!({"value": 5, "id": "a"})),
        ("d1/set", json!({"writes": [{"point": "p2", "value": 6}, {"point": "p7", "value": 7}], "id": "b"})),
        ("d1/p2/get", json!({"id": "c"})),
    ];
    swap(&site);
    site.send(&all).await;
    for answer in site.answers(all.len()).await {
        assert_eq!(answer["result"], "refused", "{answer}");
        assert!(answer.to_string().contains("nothing was sent, try again"), "{answer}");
    }
    assert_eq!(site.writes(1), []);
    swap(&site);
    site.send(&all).await;
    let results: Vec<_> = site.answers(all.len()).await.iter().map(|a| a["result"].clone()).collect();
    assert_eq!(results, ["written", "written", "read"]);
    let raw = json!({"unit": 2, "function": 6, "address": 1, "values": [5]});
    swap(&site);
    let answer = ask_raw(&site.seat.subscribe(), &plant.lines[0], &raw, (&site.audit, "root")).await.unwrap();
    assert_eq!(answer["result"], "refused", "{answer}");
    let entries = site.audit.read(audit::Seq::MAX, 99).await.unwrap();
    assert!(entries.iter().all(|entry| entry.result() != "failed"), "{entries:?}");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_comes_again_with_another_wish_is_refused_also_where_nothing_is_written() {
    let mut plant = plant();
    plant.lines[0].raw_access = true;
    let mut site = Site::of(plant, &[]);
    let used = "the id `1` was used for another command: give each an id of its own";
    site.send(&[("d1/$command", json!({"command": "pause", "id": 1}))]).await;
    assert_eq!(site.answer().await["result"], "done");
    site.send(&[("d1/$command", json!({"command": "resume", "id": 1}))]).await;
    assert_eq!(site.answer().await["reason"], used);
    site.send(&[("d1/$command", json!({"command": "pause", "id": 1}))]).await;
    assert_eq!(site.answer().await["result"], "done", "the first again");
    let from = Some(Arc::new(Origin::Upstream { name: "cloud".into(), retain: false }));
    let raw = |payload: Json| {
        let topic = TopicName::new("g/hall/$modbus").unwrap();
        let message = Message::plain(topic, Bytes::from(payload.to_string()), Qos::AtLeastOnce, Retain::No);
        vec![Message { from: from.clone(), ..message }]
    };
    site.commands.send(raw(json!({"unit": 2, "function": 3, "address": 0, "count": 2, "id": 1}))).await.unwrap();
    assert_eq!(site.answer().await["values"], json!([0, 0]));
    site.commands.send(raw(json!({"unit": 2, "function": 3, "address": 0, "count": 3, "id": 1}))).await.unwrap();
    assert_eq!(site.answer().await["reason"], used);
}

#[tokio::test(start_paused = true)]
async fn what_a_raw_request_through_the_control_socket_cannot_be_held_to_is_refused() {
    let site = Site::new(&[]);
    let (seat, line) = (site.seat.subscribe(), plant().lines.remove(0));
    let asked = async |key: &str, value: Json| {
        let mut request = json!({"unit": 2, "function": 6, "address": 1, "values": [5]});
        request[key] = value;
        ask_raw(&seat, &line, &request, (&site.audit, "root")).await
    };
    for (key, value) in [("id", json!(1)), ("expires", json!("2000-01-01T00:00:00Z"))] {
        let why = asked(key, value).await.unwrap_err();
        assert!(why.starts_with(&format!("`{key}` is for requests by MQTT")), "{why}");
    }
    asked("address", json!(70_000)).await.unwrap_err();
    assert_eq!(site.writes(2), []);
    let entries = site.audit.read(audit::Seq::MAX, 9).await.unwrap();
    assert_eq!(entries.len(), 3, "what was refused stands in the trail: {entries:?}");
    let (draft, outcome) = (&entries[0].draft, entries[0].outcome.as_ref().unwrap());
    assert_eq!((draft.cause, draft.from.local.as_deref()), (audit::Cause::Raw, Some("root")));
    assert_eq!((draft.line.as_deref(), &outcome["result"]), (Some("hall"), &json!("refused")));
    assert!(draft.payload.as_ref().unwrap().contains("70000"), "{draft:?}");
    assert!(outcome["reason"].as_str().unwrap().contains("`address` is 70000"), "{outcome}");
    assert_eq!(asked("unit", json!(2)).await.unwrap()["result"], "written");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_was_kept_upstream_is_refused_and_taken_out_though_the_rule_took_its_flag_off() {
    let mut site = Site::new(&[]);
    let topic = TopicName::new("g/d1/p1/set").unwrap();
    let from = |retain| Some(Arc::new(Origin::Upstream { name: "cloud".into(), retain }));
    let plain = Message::plain(topic.clone(), Bytes::from_static(b"5"), Qos::AtLeastOnce, Retain::No);
    site.commands.send(vec![Message { from: from(true), ..plain.clone() }]).await.unwrap();
    let gone = site.answers.recv().await.unwrap().remove(0);
    assert_eq!((gone.topic, gone.payload.len(), gone.retain), (topic, 0, true));
    let answer = site.answer().await;
    assert_eq!(answer["result"], "refused");
    assert!(answer["reason"].as_str().unwrap().starts_with("retained commands are refused"), "{answer}");
    site.commands.send(vec![Message { from: from(false), ..plain }]).await.unwrap();
    assert_eq!(site.answer().await["result"], "written");
    assert_eq!(site.writes(1), [(6, 1, vec![5])]);
}

#[tokio::test(start_paused = true)]
async fn neighbours_of_a_batch_go_out_in_one_request_and_a_refused_batch_not_at_all() {
    let mut site = Site::new(&[]);
    let write = |point: &str, value: i64| json!({"point": point, "value": value});
    let batch = |writes: &[Json]| json!({ "writes": writes });
    let row: Vec<Json> = (10..15).map(|n| write(&format!("p{n}"), n * 100)).collect();
    let refused = [&row[..], &[write("far", 1)]].concat();
    let too_much = [&row[..], &[write("p20", 70_000)]].concat();
    for writes in [&refused, &too_much] {
        site.send(&[("d4/set", batch(writes))]).await;
        assert_eq!(site.answer().await["result"], "refused");
    }
    let far = [&row[..], &[write("p20", 7)]].concat();
    site.send(&[("d4/set", batch(&far))]).await;
    let answer = site.answer().await;
    assert_eq!(answer["result"], "written", "{answer}");
    assert_eq!(answer["writes"][4], json!({"point": "p14", "result": "written", "value": 1400}));
    assert_eq!(site.writes(4), [(16, 10, vec![1000, 1100, 1200, 1300, 1400]), (6, 20, vec![7])]);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_said_is_the_one_that_writes_also_in_a_batch_and_beside_a_read_write() {
    let plant = plant_where(|text| {
        let with = |n: u16| format!("holding: {n}, write: {{function: {}, ", if n == 15 { 16 } else { 6 });
        let text = text.replace("    every: 100ms\n", "    every: 100ms\n    functions: [3, 6, 16, 23]\n");
        (10..=12).chain([15]).fold(text, |text, n| text.replace(&format!("holding: {n}, write: {{e"), &(with(n) + "e")))
    });
    let mut site = Site::of(plant, &[]);
    let write = |n: u16| json!({"point": format!("p{n}"), "value": n});
    let writes: Vec<Json> = (10..=16).map(write).collect();
    site.send(&[("d1/set", json!({ "writes": writes }))]).await;
    let answer = site.answer().await;
    assert_eq!(answer["result"], "written", "{answer}");
    let single = |n: u16| (6, n, vec![n]);
    assert_eq!(site.writes(1), [single(10), single(11), single(12), (16, 13, vec![13, 14, 15, 16])]);
    site.send(&[("d2/p10/set", json!(1)), ("d2/p13/set", json!(2)), ("d2/p15/set", json!(3))]).await;
    site.answers(3).await;
    assert_eq!(site.writes(2), [(6, 10, vec![1]), (23, 13, vec![2]), (16, 15, vec![3])]);
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_fail_safes_that_are_due_at_once_are_written_one_after_the_other_and_leave_room_for_commands() {
    let mut site = Site::of(plant_with(", fail_safe: {value: 7, when: {client: hmi}, after: 10s}"), &[]);
    let is_done = |f: &FailSafeStatus| matches!(f.state, FailSafeState::Active | FailSafeState::Overridden);
    let mut standing = site.standing.clone();
    standing.wait_for(|all| all.iter().any(|f| f.state == FailSafeState::Writing)).await.unwrap();
    site.send(&[("d6/set", json!({"writes": [{"point": "p0", "value": 1}]}))]).await;
    let begun = Instant::now();
    let answer = site.answer().await;
    assert_eq!(answer["result"], "written", "{answer}");
    let waited = begun.elapsed() / SLOWED;
    assert!(waited < Duration::from_secs(2), "a command waits for a few of them, not for all: {waited:?}");
    let patience = Duration::from_secs(120) * SLOWED;
    let done = |all: &Vec<FailSafeStatus>| all.len() == 240 && all.iter().all(is_done);
    let all = tokio::time::timeout(patience, standing.wait_for(done)).await;
    let all = all.expect("all are written in two minutes").unwrap().clone();
    let (commanded, rest): (Vec<_>, Vec<_>) = all.iter().partition(|f| f.state == FailSafeState::Overridden);
    assert!(rest.iter().all(|f| (f.writes, f.failures) == (1, 0)), "{all:?}");
    assert_eq!(commanded.len(), 1, "what somebody commanded meanwhile stays: {commanded:?}");
    let written = |unit| site.writes(unit).into_iter().filter(|(_, _, words)| *words == [7]).count();
    assert_eq!((1..=6).map(written).sum::<usize>(), 239, "each of the others once");
    let entries = site.audit.read(audit::Seq::MAX, 999).await.unwrap();
    let own = entries.iter().filter(|e| e.draft.cause == audit::Cause::FailSafe && e.result() == "written");
    assert!(own.clone().all(|e| e.draft.why.as_deref() == Some("client hmi is gone")), "{entries:?}");
    assert_eq!((own.count(), entries.len()), (239, 240), "each stands in the trail, and the command");
}
