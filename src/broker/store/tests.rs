//! The broker across restarts: a core, its database, another core. A crash is the files as they are, copied away without
//! closing anything. Injuries on purpose: a newer layout, a torn file, a disk that refuses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use proptest::prelude::*;

use super::db::Db;
use super::db::OpenError;
use super::rows;
use super::rows::Clocks;
use crate::broker::access::Access;
use crate::broker::core::Core;
use crate::broker::core::Guest;
use crate::broker::keep;
use crate::broker::keep::Saved;
use crate::broker::packet::Packet;
use crate::broker::packet::decode::Decoder;
use crate::broker::queue::Depth;
use crate::broker::queue::Item;
use crate::broker::router::Share;
use crate::broker::stored;
use crate::broker::stored::Stored;
use crate::config::plant::Anonymous;
use crate::config::plant::Limits;
use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::message::Retain;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// A broker, its clock and its database.
struct Life {
    core: Core,
    now: Instant,
    db: Db,
}

impl Life {
    fn begin(path: &Path) -> Self {
        let (db, saved) = Db::open_or_renew(path).unwrap();
        Self::with(db, saved)
    }

    fn with(db: Db, saved: Saved) -> Self {
        let now = Instant::now();
        let limits = Limits { clients: 10, packet: 4096, queue: 1000, ..Limits::default() };
        let mut core = Core::new(limits, Access::new(Anonymous::Always, Vec::new(), Vec::new()), now);
        core.restore(now, saved);
        Self { core, now, db }
    }

    /// Two ticks: what was there before both is on the disk after.
    fn window(&mut self) {
        for _ in 0..2 {
            self.now += super::WINDOW / 2;
            self.core.tick(self.now);
            if let Some(batch) = self.core.save(self.now, Depth::Settled) {
                self.db.apply(&batch).unwrap();
            }
        }
    }

    /// A 5.0 client that is kept for an hour; its number.
    fn join(&mut self, id: &str) -> usize {
        self.connect(id, 3600, None)
    }

    /// A 5.0 client with seconds of expiry and, if it has a will (retained, on its id), seconds of delay; its number.
    fn connect(&mut self, id: &str, expiry: u32, delay: Option<u32>) -> usize {
        let flags = if delay.is_some() { 0x24 } else { 0 };
        let mut body = [&b"\0\x04MQTT\x05"[..], &[flags, 0, 0, 5, 0x11], &expiry.to_be_bytes()].concat();
        let name = [&[0, id.len() as u8], id.as_bytes()].concat();
        body.extend(&name);
        if let Some(delay) = delay {
            body.extend([&[5, 0x18][..], &delay.to_be_bytes(), &name, b"\0\x04gone"].concat());
        }
        let bytes = [&[0x10, body.len() as u8], &body[..]].concat();
        let Some(Packet::Connect(connect)) = Decoder::new(4096).next(&mut BytesMut::from(&bytes[..])).unwrap() else {
            panic!("no CONNECT")
        };
        let guest = Guest::nobody("127.0.0.1:1".parse().unwrap(), self.core.limits());
        self.core.connect(self.now, *connect, guest).unwrap()
    }

    fn say(&mut self, key: usize, bytes: &[u8]) {
        let mut decoder = Decoder::new(4096);
        let hello = b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0";
        decoder.next(&mut BytesMut::from(&hello[..])).unwrap();
        let mut buffer = BytesMut::from(bytes);
        while let Some(packet) = decoder.next(&mut buffer).unwrap() {
            self.core.packet(self.now, key, packet);
        }
    }

    fn heard(&mut self, key: usize) -> Vec<u8> {
        let output = self.core.take_output(key);
        self.core.written(self.now, key);
        output.chunks.iter().flat_map(|chunk| chunk.to_vec()).collect()
    }

    fn publish(&mut self, topic: &str, payload: &str, retain: Retain) {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let message = Message::plain(TopicName::new(topic).unwrap(), payload, Qos::ExactlyOnce, retain);
        self.core.publish_local(self.now, "", vec![message]);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.core.tick(self.now);
    }

    /// A kill -9 and a new start.
    fn kill(self, path: &Path) -> (tempfile::TempDir, Self) {
        let copy = crashed(path);
        let life = Self::begin(&copy.path().join("broker.db"));
        (copy, life)
    }

    fn retained(&self, topic: &str) -> Option<Bytes> {
        self.core.retained.get(&TopicName::new(topic).unwrap()).map(|stored| stored.message.payload.clone())
    }
}

/// What a kill -9 leaves: the files as they are, nothing closed.
fn crashed(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

const SUBSCRIBE_QOS_2: &[u8] = b"\x82\x07\0\x01\0\0\x01q\x02";

#[test]
fn retained_messages_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    life.publish("a", "1", Retain::Yes);
    life.publish("b", "1", Retain::Yes);
    life.window();
    life.publish("b", "", Retain::Yes);
    life.window();
    let copy = crashed(&dir.path().join("broker.db"));
    let life = Life::begin(&copy.path().join("broker.db"));
    assert_eq!((life.retained("a"), life.retained("b")), (Some(Bytes::from_static(b"1")), None));
}

#[test]
fn a_session_with_its_queue_survives_a_kill_and_goes_on_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let key = life.join("c");
    life.say(key, SUBSCRIBE_QOS_2);
    life.publish("q", "sent", Retain::No);
    life.publish("q", "received", Retain::No);
    // The second got as far as PUBREC.
    life.say(key, b"\x50\x02\0\x02");
    life.core.gone(life.now, key);
    life.publish("q", "missed", Retain::No);
    life.window();
    let copy = crashed(&dir.path().join("broker.db"));
    let mut life = Life::begin(&copy.path().join("broker.db"));
    life.publish("q", "later", Retain::No);
    let key = life.join("c");
    let heard = life.heard(key);
    assert_eq!(heard[2], 1, "session present");
    let rest = &heard[2 + usize::from(heard[1])..];
    let again = [&b"\x3C\x0A\0\x01q\0\x01\0sent"[..], b"\x62\x02\0\x02"].concat();
    let (before, after) = rest.split_at(again.len());
    assert_eq!(before, again, "{rest:02x?}");
    // New ones have identifiers that nobody can foretell.
    let texts = [&after[..5], &after[7..19], &after[21..]];
    assert_eq!(texts, [&b"\x34\x0C\0\x01q"[..], b"\0missed\x34\x0B\0\x01q", b"\0later"], "{rest:02x?}");
    assert_ne!(&after[5..7], &after[19..21]);
}

#[test]
fn what_is_acknowledged_within_the_window_never_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let key = life.join("c");
    life.say(key, b"\x82\x07\0\x01\0\0\x01q\x01");
    life.window();
    for n in 1..=100_u16 {
        life.publish("q", "x", Retain::No);
        assert!(life.core.save(life.now, Depth::Settled).is_none());
        let [high, low] = n.to_be_bytes();
        life.say(key, &[0x40, 2, high, low]);
        assert!(life.core.save(life.now, Depth::Settled).is_none());
    }
}

#[test]
fn a_qos_2_message_sent_again_after_a_kill_is_not_delivered_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let key = life.join("p");
    life.say(key, b"\x34\x07\0\x01q\0\x09\0x");
    life.window();
    let copy = crashed(&dir.path().join("broker.db"));
    let mut life = Life::begin(&copy.path().join("broker.db"));
    let (key, reader) = (life.join("p"), life.join("r"));
    life.say(reader, SUBSCRIBE_QOS_2);
    life.heard(reader);
    life.say(key, b"\x3C\x07\0\x01q\0\x09\0x");
    assert!(life.heard(reader).is_empty());
}

#[test]
fn an_ended_session_and_a_given_back_subscription_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    let (one, two) = (life.join("one"), life.join("two"));
    for key in [one, two] {
        life.say(key, SUBSCRIBE_QOS_2);
    }
    life.window();
    life.say(one, b"\xA2\x06\0\x02\0\0\x01q");
    // Expiry 0 in DISCONNECT ends the session.
    life.say(two, b"\xE0\x07\0\x05\x11\0\0\0\0");
    life.window();
    let copy = crashed(&path);
    let mut life = Life::begin(&copy.path().join("broker.db"));
    assert!(life.core.router.is_empty());
    let two = life.join("two");
    assert_eq!(life.heard(two)[2], 0, "no session present");
}

#[test]
fn the_time_away_counts_while_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let key = life.join("c");
    life.core.gone(life.now, key);
    let batch = life.core.save(life.now, Depth::All).unwrap();
    let mut row = batch.sessions[0].row.clone().unwrap();
    row.left = Some(life.now - Duration::from_secs(4000));
    let mut batch = batch;
    batch.sessions[0].row = Some(row);
    life.db.apply(&batch).unwrap();
    let copy = crashed(&dir.path().join("broker.db"));
    let life = Life::begin(&copy.path().join("broker.db"));
    assert!(life.core.seats.is_empty(), "an hour is over");
}

#[test]
fn a_will_whose_delay_has_begun_survives_a_kill_and_comes_when_it_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    let key = life.connect("c", 3600, Some(60));
    life.window();
    life.core.gone(life.now, key);
    life.window();
    let (_copy, mut life) = life.kill(&path);
    // The wall clock of the disk counts whole seconds, and the two saves took one.
    life.pass(57);
    assert_eq!(life.retained("c"), None);
    life.pass(4);
    assert_eq!(life.retained("c").unwrap(), "gone");
}

#[test]
fn the_will_of_a_client_that_was_connected_at_a_kill_comes_after_its_delay_unless_the_client_is_back() {
    for (delay, back, wants) in [(0, false, [1, 1]), (60, false, [0, 1]), (60, true, [0, 0])] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.db");
        let mut life = Life::begin(&path);
        life.connect("c", 3600, Some(delay));
        life.window();
        let (_copy, mut life) = life.kill(&path);
        if back {
            life.connect("c", 3600, None);
        }
        for (seconds, want) in [(50, wants[0]), (20, wants[1])] {
            life.pass(seconds);
            assert_eq!(life.retained("c").iter().len(), want, "delay {delay}, back {back}, {seconds}");
        }
    }
}

#[test]
fn the_will_of_a_session_that_ended_with_its_connection_is_published_at_the_start_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    life.connect("c", 0, Some(60));
    life.window();
    let (copy, mut life) = life.kill(&path);
    assert!(life.core.seats.is_empty());
    assert_eq!(life.retained("c").unwrap(), "gone");
    life.publish("c", "", Retain::Yes);
    life.window();
    let (_copy, life) = life.kill(&copy.path().join("broker.db"));
    assert_eq!(life.retained("c"), None);
}

#[test]
fn a_will_that_was_called_off_or_published_is_not_on_the_disk_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    let (polite, dropped) = (life.connect("polite", 3600, Some(0)), life.connect("dropped", 3600, Some(0)));
    life.window();
    life.say(polite, b"\xE0\0");
    life.core.gone(life.now, dropped);
    life.publish("dropped", "", Retain::Yes);
    life.window();
    let (_copy, mut life) = life.kill(&path);
    life.pass(1);
    assert_eq!((life.retained("polite"), life.retained("dropped")), (None, None));
}

#[test]
fn a_stop_publishes_wills_without_a_delay_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    for (id, expiry, delay) in [("now", 3600, 0), ("later", 3600, 60), ("with", 0, 60)] {
        life.connect(id, expiry, Some(delay));
    }
    life.core.shut_down(life.now);
    let batch = life.core.save(life.now, Depth::All).unwrap();
    life.db.apply(&batch).unwrap();
    let (_copy, mut life) = life.kill(&path);
    assert_eq!(["now", "later", "with"].map(|id| life.retained(id).iter().len()), [1, 0, 1]);
    life.pass(61);
    assert_eq!(life.retained("later").unwrap(), "gone");
}

#[test]
fn a_file_of_the_layout_before_is_taken_over_and_read_where_it_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    life.publish("a", "1", Retain::Yes);
    life.join("c");
    life.window();
    life.db.close();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("DROP TABLE will; ALTER TABLE session DROP COLUMN replays; PRAGMA user_version = 1").unwrap();
    drop(old);
    let saved = super::db::read_only(&path);
    assert_eq!((saved.retained.len(), saved.sessions.len()), (1, 1));
    let mut life = Life::begin(&path);
    assert!(life.retained("a").is_some() && life.core.seats.len() == 1);
    life.connect("d", 0, Some(0));
    life.window();
    let (_copy, life) = life.kill(&path);
    assert!(life.retained("d").is_some());
}

#[test]
fn retained_messages_that_a_client_has_not_got_yet_come_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    // Few enough to be written at once.
    for n in 0..250 {
        life.publish(&format!("r/{n:03}"), "x", Retain::Yes);
    }
    let topics = |heard: &[u8]| -> std::collections::BTreeSet<Vec<u8>> {
        heard.windows(5).filter(|bytes| bytes.starts_with(b"r/")).map(<[u8]>::to_vec).collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    let key = life.join("c");
    life.say(key, b"\x82\x09\0\x01\0\0\x03r/#\x01");
    // A window of 100 and no answers: it gets no further.
    seen.extend(topics(&life.heard(key)));
    assert_eq!(seen.len(), 100);
    life.window();
    let (copy, mut life) = life.kill(&path);
    let key = life.join("c");
    for n in 1..=60_u16 {
        let [high, low] = n.to_be_bytes();
        life.say(key, &[0x40, 2, high, low]);
    }
    let heard = life.heard(key);
    seen.extend(topics(&heard));
    assert_eq!(seen.len(), 160, "on behind what was sent");
    life.window();
    let (_copy, mut life) = life.kill(&copy.path().join("broker.db"));
    let key = life.join("c");
    loop {
        let heard = life.heard(key);
        if heard.is_empty() {
            break;
        }
        seen.extend(topics(&heard));
        for at in heard.windows(7).enumerate().filter(|(_, b)| b.starts_with(b"r/")).map(|(at, _)| at) {
            life.say(key, &[0x40, 2, heard[at + 5], heard[at + 6]]);
        }
    }
    assert_eq!(seen.len(), 250);
    life.window();
    assert!(life.core.save(life.now, Depth::Settled).is_none(), "nothing more to tell the disk");
}

#[test]
fn a_message_grows_old_while_nothing_runs() {
    let clocks = |wall_s| Clocks { now: Instant::now(), wall_s };
    let saved = clocks(1_800_000_000);
    let mut message = Message::plain(TopicName::new("q").unwrap(), "x".into(), Qos::AtLeastOnce, Retain::Yes);
    message.properties = Some(Arc::new(Properties { expiry: Some(100), ..Properties::default() }));
    let stored = Stored { message, born: saved.now - Duration::from_secs(10) };
    let mut blob = Vec::new();
    rows::put_stored(&mut blob, &stored, saved);
    for (later, want) in
        [(30, stored::Life::Seconds(60)), (200, stored::Life::Expired), (-5000, stored::Life::Seconds(100))]
    {
        let clocks = clocks(1_800_000_000 + later);
        let back = rows::get_stored(&blob, clocks).unwrap();
        assert_eq!(back.life(clocks.now), want, "{later}");
    }
}

#[test]
fn the_last_will_and_the_group_of_an_item_read_back_as_they_were_written() {
    let clocks = Clocks { now: Instant::now(), wall_s: 1_800_000_000 };
    let message = Message::plain(TopicName::new("q").unwrap(), "x".into(), Qos::AtLeastOnce, Retain::Yes);
    let stored = Arc::new(Stored { message: message.clone(), born: clocks.now });
    for share in [None, Some(Arc::new(Share { group: "g".into(), filter: TopicFilter::new("q/#").unwrap() }))] {
        let item =
            Item { stored: Arc::clone(&stored), qos: Qos::ExactlyOnce, retain: true, identifiers: vec![7, 9], share };
        let back = rows::get_item(&rows::put_item(&item, clocks), clocks).unwrap();
        assert_eq!((back.share, back.identifiers, back.retain), (item.share, vec![7, 9], true));
    }
    assert_eq!(rows::get_stored(&rows::put_message(&message, clocks), clocks).unwrap().message, message);
}

#[test]
fn what_a_members_disk_had_goes_to_another_member_when_its_session_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    let (away, there) = (life.connect("away", 30, None), life.connect("there", 3600, None));
    for key in [away, there] {
        life.say(key, b"\x82\x10\0\x01\0\0\x0A$share/g/q\x01");
        life.core.gone(life.now, key);
    }
    for _ in 0..2 {
        life.publish("q", "x", Retain::No);
    }
    life.window();
    let (_copy, mut life) = life.kill(&path);
    life.pass(60);
    let key = life.connect("there", 3600, None);
    let heard = life.heard(key);
    assert_eq!(heard.windows(3).filter(|bytes| bytes == b"\0\x01q").count(), 2, "{heard:02x?}");
}

#[test]
fn a_newer_layout_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    Life::begin(&path).db.close();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let Err(OpenError::Foreign(why)) = Db::open_or_renew(&path) else { panic!("taken") };
    assert!(why.contains("99") && why.contains("newer"), "{why}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(matches!(super::open(dir.path()), Err(crate::broker::BrokerError::Store { .. })));
}

#[test]
fn somebody_elses_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    assert!(matches!(Db::open_or_renew(&path), Err(OpenError::Foreign(_))));
}

#[test]
fn a_damaged_file_is_set_aside_by_name_and_a_new_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    for round in 1..=4 {
        std::fs::write(&path, format!("this is no database, nor was it one the last time {round}").repeat(100))
            .unwrap();
        let mut life = Life::begin(&path);
        life.publish("a", "1", Retain::Yes);
        life.window();
        life.db.close();
        assert!(dir.path().join(format!("broker.db.damaged-{}", round.min(3))).exists());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn any_page_torn_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    for n in 0..200 {
        life.publish(&format!("a/{n}"), &"x".repeat(100), Retain::Yes);
    }
    life.window();
    life.db.close();
    let whole = std::fs::read(&path).unwrap();
    for page in 0..whole.len() / 4096 {
        let mut torn = whole.clone();
        torn[page * 4096..][..4096].fill(0xA5);
        std::fs::write(&path, &torn).unwrap();
        let mut life = Life::begin(&path);
        life.publish("b", "1", Retain::Yes);
        let batch = life.core.save(life.now, Depth::All).unwrap();
        if let Err(error) = life.db.apply(&batch) {
            assert!(super::db::is_damage(&error), "{error}");
        }
    }
}

#[test]
fn what_is_lost_is_written_again_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let key = life.join("c");
    life.say(key, SUBSCRIBE_QOS_2);
    life.publish("q", "1", Retain::Yes);
    life.window();
    let elsewhere = tempfile::tempdir().unwrap();
    life.db = Db::open_or_renew(&elsewhere.path().join("broker.db")).unwrap().0;
    life.core.lost();
    life.window();
    let copy = crashed(&elsewhere.path().join("broker.db"));
    let life = Life::begin(&copy.path().join("broker.db"));
    assert!(life.retained("q").is_some());
    assert_eq!((life.core.seats.len(), life.core.router.len()), (1, 1));
}

#[test]
fn retained_messages_that_change_often_are_written_seldom() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(&dir.path().join("broker.db"));
    let mut written = 0;
    for second in 0..120 {
        for topic in 0..1000 {
            life.publish(&format!("t/{topic}"), &second.to_string(), Retain::Yes);
        }
        life.now += Duration::from_secs(1);
        written += life.core.save(life.now, Depth::Settled).map_or(0, |batch| batch.retained.len());
    }
    let quick = keep::QUICK_BURST + 120 * keep::QUICK_REFILL;
    assert!(written <= 2000 + quick as usize, "{written}");
    assert!(written >= 2000, "{written}");
}

#[test]
fn a_disk_that_is_read_only_is_still_read_log_and_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.db");
    let mut life = Life::begin(&path);
    life.publish("a", "1", Retain::Yes);
    life.window();
    let copy = crashed(&path);
    let saved = super::db::read_only(&copy.path().join("broker.db"));
    assert_eq!(saved.retained.len(), 1);
    assert!(super::db::read_only(&copy.path().join("nothing")).retained.is_empty());
}

#[tokio::test]
async fn a_disk_that_refuses_stops_nobody_and_gets_everything_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // A file where the directory should be.
    std::fs::write(&state, "in the way").unwrap();
    let (store, saved) = super::open(&state).unwrap();
    assert!(saved.sessions.is_empty() && store.is_idle());
    assert!(store.complaint().is_some(), "who looks is told");
    std::fs::remove_file(&state).unwrap();
    let (spare, _) = Db::open_or_renew(&dir.path().join("spare.db")).unwrap();
    let mut life = Life::with(spare, saved);
    assert!(store.has_lost());
    life.core.lost();
    life.publish("a", "1", Retain::Yes);
    let mut complaint = store.complaint.clone();
    assert!(store.close(life.core.save(life.now, Depth::All)).await);
    assert_eq!(*complaint.borrow_and_update(), None);
    assert_eq!(Life::begin(&state.join("broker.db")).retained("a").unwrap(), "1");
}

fn any_stored() -> impl Strategy<Value = Stored> {
    let text = || proptest::option::of("[a-zé]{0,5}");
    let properties = (
        proptest::option::of(0_u8..2),
        proptest::option::of(0_u32..),
        text(),
        text(),
        proptest::option::of(proptest::collection::vec(0_u8.., 0..5)),
        proptest::collection::vec(("[a-z]{0,3}", "[a-z]{0,3}"), 0..3),
    );
    let properties =
        properties.prop_map(|(payload_format, expiry, content_type, response_topic, correlation, user)| Properties {
            payload_format,
            expiry,
            content_type: content_type.map(Arc::from),
            response_topic: response_topic.map(Arc::from),
            correlation: correlation.map(Bytes::from),
            user: user.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        });
    let message = ("[a-z/]{1,9}", proptest::collection::vec(0_u8.., 0..9), 0_u8..3, 0_u8..4);
    (message, proptest::option::of(properties)).prop_map(|((topic, payload, qos, bits), properties)| {
        let message = Message {
            topic: TopicName::new(topic).unwrap(),
            payload: payload.into(),
            qos: Qos::try_from(qos).unwrap(),
            retain: bits & 1 != 0,
            properties: properties.map(Arc::new),
            class: if bits & 2 != 0 { Class::Alarm } else { Class::Normal },
            own: None,
            from: None,
        };
        Stored { message, born: Instant::now() }
    })
}

proptest! {
    #[test]
    fn a_message_reads_back_as_it_was_written(stored in any_stored()) {
        let clocks = Clocks { now: stored.born, wall_s: 1_800_000_000 };
        let mut blob = Vec::new();
        rows::put_stored(&mut blob, &stored, clocks);
        prop_assert_eq!(rows::get_stored(&blob, clocks), Some(stored));
    }

    #[test]
    fn any_blob_is_read_or_refused_without_a_panic(blob in proptest::collection::vec(0_u8.., 0..60)) {
        let clocks = Clocks { now: Instant::now(), wall_s: 1_800_000_000 };
        let _ = (rows::get_stored(&blob, clocks), rows::get_item(&blob, clocks), rows::get_subscribed(&blob));
        let _ = rows::get_cursors(&blob);
    }

    #[test]
    fn a_clock_that_was_never_set_makes_nothing_old(wall_s in -10_i64..1_000_000, later in 0_i64..2_000_000_000) {
        let now = Instant::now();
        prop_assert_eq!(Clocks { now, wall_s: later }.instant_of(wall_s), now);
    }
}
