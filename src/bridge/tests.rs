//! The bridge against a scripted peer: a few bytes of CONNACK and PUBACK, and the bad manners that real peers have.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::patience::Patience;
use super::task::BridgeTask;
use crate::config::plant;
use crate::config::plant::Mapping;
use crate::config::plant::RetainRule;
use crate::config::preset::Preset;
use crate::message::Message;
use crate::message::Origin;
use crate::message::Retain;
use crate::spool;
use crate::spool::Spool;
use crate::spool::Subscriber;
use crate::status::UpstreamStatus;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// How the peer behaves on one connection.
#[derive(Debug, Clone, Default)]
struct Manner {
    receive_maximum: Option<u16>,
    maximum_packet: Option<u32>,
    /// Acknowledges this many, then no more.
    acknowledges: Option<usize>,
    /// Hangs up after this many publishes.
    cut_after: Option<usize>,
    /// Says "session taken over" after the first publish.
    takes_over: bool,
    /// Hangs up on CONNECT, as a proxy does whose cloud is away.
    hangs_up: bool,
    /// Answers CONNECT of version 5 as an old broker does.
    only_3: bool,
    /// Refuses this topic with "not authorized".
    refuses: Option<&'static str>,
    /// With this reason code instead.
    reason: Option<u8>,
    /// Answers so many publishes with "quota exceeded" first.
    over_quota: usize,
    /// Takes the connection, and hangs up at once.
    drops: bool,
    /// Takes the connection, and never says another word.
    deaf: bool,
    /// Sends this publish after the subscription.
    commands: Option<(&'static str, &'static str)>,
    /// With the retain flag, as one that was kept.
    keeps_commands: bool,
}

/// What the peer saw.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Connect { version: u8, connection: usize },
    Publish { topic: String, payload: String, acknowledged: bool },
    Early,
    Disconnect,
}

struct Peer {
    port: u16,
    seen: mpsc::Receiver<Seen>,
    _stop: tokio_util::sync::DropGuard,
}

async fn peer(manners: Vec<Manner>) -> Peer {
    peer_at(0, manners).await
}

async fn peer_at(port: u16, manners: Vec<Manner>) -> Peer {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, seen) = mpsc::channel(100_000);
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let manner = manners[connection.min(manners.len() - 1)].clone();
            let _ = serve(stream, manner, &tell, connection).await;
        }
    }));
    Peer { port, seen, _stop: guard }
}

async fn packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await?;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

fn connack(manner: &Manner, version: u8) -> Vec<u8> {
    if version != 5 {
        return vec![0x20, 2, 0, 0];
    }
    let mut properties = Vec::new();
    if let Some(n) = manner.receive_maximum {
        properties.push(0x21);
        properties.extend(n.to_be_bytes());
    }
    if let Some(n) = manner.maximum_packet {
        properties.push(0x27);
        properties.extend(n.to_be_bytes());
    }
    let mut out = vec![0x20, 3 + properties.len() as u8, 0, 0, properties.len() as u8];
    out.extend(properties);
    out
}

async fn serve(mut s: TcpStream, manner: Manner, tell: &mpsc::Sender<Seen>, connection: usize) -> std::io::Result<()> {
    let (_, connect) = packet(&mut s).await?;
    let version = connect[6];
    if manner.hangs_up {
        return Ok(());
    }
    if manner.only_3 && version == 5 {
        return s.write_all(&[0x20, 2, 0, 1]).await;
    }
    let _ = tell.try_send(Seen::Connect { version, connection });
    s.write_all(&connack(&manner, version)).await?;
    if manner.drops {
        return Ok(());
    }
    let mut count = 0;
    loop {
        if manner.deaf {
            packet(&mut s).await?;
            continue;
        }
        let (first, body) = packet(&mut s).await?;
        match first >> 4 {
            3 => {
                count += 1;
                if publish(&mut s, &manner, tell, (first, &body, version, count)).await? {
                    return Ok(());
                }
            }
            8 => {
                let mut suback = vec![0x90, if version == 5 { 4 } else { 3 }, body[0], body[1]];
                suback.extend(if version == 5 { vec![0, 1] } else { vec![1] });
                s.write_all(&suback).await?;
                if let Some((topic, payload)) = manner.commands {
                    let len = 2 + topic.len() + usize::from(version == 5) + payload.len();
                    let mut out = vec![0x30 | u8::from(manner.keeps_commands), len as u8, 0, topic.len() as u8];
                    out.extend(topic.bytes());
                    out.extend(if version == 5 { &[0][..] } else { &[] });
                    out.extend(payload.bytes());
                    s.write_all(&out).await?;
                }
            }
            12 => s.write_all(&[0xd0, 0]).await?,
            14 => {
                let _ = tell.try_send(Seen::Disconnect);
                return Ok(());
            }
            _ => {}
        }
    }
}

/// True: hang up.
async fn publish(
    s: &mut TcpStream,
    manner: &Manner,
    tell: &mpsc::Sender<Seen>,
    (first, body, version, count): (u8, &[u8], u8, usize),
) -> std::io::Result<bool> {
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = String::from_utf8_lossy(&body[2..2 + len]).into_owned();
    assert_ne!(first & 6, 0, "all are QoS 1 here");
    let id = [body[2 + len], body[3 + len]];
    let rest = &body[4 + len..];
    let payload = if version == 5 { &rest[1 + usize::from(rest[0])..] } else { rest };
    let payload = String::from_utf8_lossy(payload).into_owned();
    let over_quota = count <= manner.over_quota;
    let acknowledged = manner.acknowledges.is_none_or(|n| count <= n) && !over_quota;
    let refused = manner.refuses == Some(topic.as_str());
    let _ = tell.try_send(Seen::Publish { topic, payload, acknowledged: acknowledged && !refused });
    if manner.receive_maximum == Some(1) {
        // A second publish before the answer to the first breaks the rule.
        let mut head = [0];
        let early = tokio::time::timeout(Duration::from_millis(5), s.peek(&mut head)).await;
        if early.is_ok_and(|r| r.is_ok()) && head[0] >> 4 == 3 {
            let _ = tell.try_send(Seen::Early);
        }
    }
    if manner.takes_over {
        s.write_all(&[0xe0, 2, 0x8e, 0]).await?;
        return Ok(true);
    }
    if refused {
        s.write_all(&[0x40, 4, id[0], id[1], manner.reason.unwrap_or(0x87), 0]).await?;
    } else if over_quota {
        s.write_all(&[0x40, 4, id[0], id[1], 0x97, 0]).await?;
    } else if acknowledged {
        s.write_all(&[0x40, 2, id[0], id[1]]).await?;
    }
    Ok(manner.cut_after.is_some_and(|n| count >= n))
}

struct House {
    peer: Peer,
    spool: Spool,
    status: watch::Receiver<UpstreamStatus>,
    local: mpsc::Receiver<Vec<Message>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

fn settings(port: u16) -> plant::Upstream {
    let rule = |filter: &str, strip: &str, prefix: &str| Mapping {
        filter: TopicFilter::new(filter).unwrap(),
        strip: strip.to_owned(),
        prefix: prefix.to_owned(),
        rest: plant::Rest::AsIs,
        qos: Qos::AtLeastOnce,
        retain: RetainRule::Keep,
    };
    plant::Upstream {
        name: "cloud".into(),
        preset: None,
        endpoints: vec![plant::Endpoint {
            scheme: plant::Scheme::Mqtt,
            host: "127.0.0.1".to_owned(),
            port,
            path: "/mqtt".to_owned(),
        }],
        version: plant::MqttVersion::V5,
        client_id: "g".into(),
        username: None,
        password: None,
        tls: plant::Tls::default(),
        keep_alive: Duration::from_secs(30),
        in_flight: 20,
        send: vec![rule("g/#", "g/", "up/")],
        receive: vec![rule("down/#", "down/", "g/")],
    }
}

fn open_spool(folder: &Path, max_size: u64) -> Spool {
    let settings = plant::Spool {
        path: folder.join("spool.db"),
        keep: plant::Keep::Offline,
        max_size,
        max_age: Duration::from_secs(86_400),
        when_full: plant::WhenFull::DropOldest,
        replay: plant::Replay::InOrder,
        replay_rate: None,
    };
    let filters = vec![TopicFilter::new("g/#").unwrap()];
    spool::open(settings, vec![Subscriber { name: "cloud".into(), filters }]).unwrap().0
}

async fn house(manners: Vec<Manner>, adapt: impl FnOnce(&mut BridgeTask)) -> House {
    let folder = tempfile::tempdir().unwrap();
    let spool = open_spool(folder.path(), 64 << 20);
    house_with(spool, folder, manners, adapt).await
}

async fn house_with(
    spool: Spool,
    folder: tempfile::TempDir,
    manners: Vec<Manner>,
    adapt: impl FnOnce(&mut BridgeTask),
) -> House {
    let peer = peer(manners).await;
    let (to_local, local) = mpsc::channel(16);
    let (status, mut task) = super::new(settings(peer.port), "g", spool.clone(), to_local);
    adapt(&mut task);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(task.run(cancel.clone()));
    House { peer, spool, status, local, cancel, task, _folder: folder }
}

impl House {
    async fn append(&self, range: std::ops::Range<u32>) {
        let message = |n: u32| {
            let topic = TopicName::new("g/m/v").unwrap();
            Message::plain(topic, Bytes::from(n.to_string()), Qos::AtLeastOnce, Retain::No)
        };
        self.spool.append(range.map(message).collect()).await;
    }

    async fn next(&mut self) -> Seen {
        let seen = tokio::time::timeout(Duration::from_secs(20), self.peer.seen.recv()).await;
        seen.expect("nothing seen for 20 s").unwrap()
    }

    /// Payloads of values in the order of their acknowledgement, until `count` of them; and how many came without.
    async fn acknowledged(&mut self, count: usize) -> (Vec<u32>, usize) {
        let (mut got, mut unanswered) = (Vec::new(), 0);
        while got.len() < count {
            match self.next().await {
                Seen::Publish { topic, payload, acknowledged } if topic == "up/m/v" => match acknowledged {
                    true => got.push(payload.parse().unwrap()),
                    false => unanswered += 1,
                },
                Seen::Early => panic!("more in flight than the peer's receive maximum"),
                _ => {}
            }
        }
        (got, unanswered)
    }

    async fn until(&mut self, what: impl FnMut(&UpstreamStatus) -> bool) -> UpstreamStatus {
        let seen = tokio::time::timeout(Duration::from_secs(20), self.status.wait_for(what)).await;
        seen.expect("state not reached in 20 s").unwrap().clone()
    }
}

#[tokio::test]
async fn a_link_cut_with_twenty_in_flight_loses_and_repeats_nothing() {
    // One of the acknowledged is the gateway's own `online`.
    let cut = Manner { acknowledges: Some(11), cut_after: Some(31), ..Manner::default() };
    let mut house = house(vec![cut, Manner::default()], |_| ()).await;
    house.append(0..60).await;
    let (got, unanswered) = house.acknowledged(60).await;
    assert_eq!(got, (0..60).collect::<Vec<_>>());
    assert_eq!(unanswered, 20);
    let status = house.until(|s| s.acknowledged == 60).await;
    assert_eq!((status.resent, status.connects, status.refused), (20, 2, 0));
    assert_eq!(status.last_refused_uptime_s, None);
    let mut spool = house.spool.status();
    spool.wait_for(|s| s.backlog["cloud"] == 0).await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_that_never_comes_ends_the_link() {
    let silent = Manner { acknowledges: Some(1), ..Manner::default() };
    let mut house =
        house(vec![silent, Manner::default()], |t| t.patience = Patience::short(Duration::from_millis(200))).await;
    house.append(0..5).await;
    let broken = house.until(|s| s.error.is_some()).await;
    assert!(broken.error.unwrap().contains("no acknowledgement within"));
    assert_eq!(house.acknowledged(5).await, ((0..5).collect(), 5));
}

#[tokio::test]
async fn a_receive_maximum_of_one_is_respected() {
    let mut house = house(vec![Manner { receive_maximum: Some(1), ..Manner::default() }], |_| ()).await;
    house.append(0..10).await;
    assert_eq!(house.acknowledged(10).await, ((0..10).collect(), 0));
}

#[tokio::test]
async fn a_message_too_large_for_the_peer_is_put_aside_and_the_rest_goes_on() {
    let mut house = house(vec![Manner { maximum_packet: Some(200), ..Manner::default() }], |_| ()).await;
    let topic = TopicName::new("g/big").unwrap();
    let big = Message::plain(topic, Bytes::from(vec![b'x'; 500]), Qos::AtLeastOnce, Retain::No);
    house.spool.append(vec![big]).await;
    house.append(0..3).await;
    assert_eq!(house.acknowledged(3).await, ((0..3).collect(), 0));
    let status = house.until(|s| s.acknowledged == 3).await;
    assert_eq!((status.refused, status.connects), (1, 1));
    assert!(status.last_refused_uptime_s.is_some(), "and when is known");
}

#[tokio::test]
async fn a_refused_topic_is_counted_and_not_sent_again() {
    let mut house = house(vec![Manner { refuses: Some("up/no"), ..Manner::default() }], |_| ()).await;
    let topic = TopicName::new("g/no").unwrap();
    let no = Message::plain(topic, Bytes::from_static(b"x"), Qos::AtLeastOnce, Retain::No);
    house.spool.append(vec![no]).await;
    house.append(0..3).await;
    assert_eq!(house.acknowledged(3).await.0, [0, 1, 2]);
    let status = house.until(|s| s.acknowledged == 3).await;
    assert_eq!((status.refused, status.sent), (1, 4));
    assert!(status.last_refused_uptime_s.is_some());
}

#[tokio::test]
async fn what_the_cloud_of_a_preset_would_not_take_is_put_aside_and_counted() {
    let aws = |t: &mut BridgeTask| {
        t.settings.preset = Some(Preset::Aws);
        t.gate = Gate::new(t.settings.preset);
    };
    let mut house = house(vec![Manner::default()], aws).await;
    let message = |topic: &str, size: usize| {
        Message::plain(TopicName::new(topic).unwrap(), Bytes::from(vec![b'x'; size]), Qos::AtLeastOnce, Retain::No)
    };
    house.spool.append(vec![message("g/1/2/3/4/5/6/7/8", 1), message("g/big", (128 << 10) + 1)]).await;
    house.append(0..3).await;
    assert_eq!(house.acknowledged(3).await, ((0..3).collect(), 0));
    let status = house.until(|s| s.acknowledged == 3).await;
    assert_eq!((status.refused, status.connects), (2, 1));
}

#[tokio::test]
async fn a_cloud_that_drops_above_a_rate_is_not_sent_more() {
    let aws = |t: &mut BridgeTask| {
        t.settings.preset = Some(Preset::Aws);
        t.gate = Gate::new(t.settings.preset);
    };
    let mut house = house(vec![Manner::default()], aws).await;
    let began = std::time::Instant::now();
    house.append(0..80).await;
    assert_eq!(house.acknowledged(80).await, ((0..80).collect(), 0));
    // 100 a second, of which a tenth of a second may come at once.
    assert!(began.elapsed() >= Duration::from_millis(680), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_session_taken_over_is_said_in_words() {
    let mut house = house(vec![Manner { takes_over: true, ..Manner::default() }, Manner::default()], |_| ()).await;
    let error = house.until(|s| s.error.is_some()).await.error.unwrap();
    let words = ["another client uses the client id \"g\"", "set client_id"];
    assert!(words.iter().all(|w| error.contains(w)), "{error}");
}

#[tokio::test]
async fn before_mqtt_5_a_row_of_closed_connections_is_taken_for_a_second_client_with_our_id() {
    let adapt = |task: &mut BridgeTask| {
        task.settings.version = plant::MqttVersion::V311;
        task.speak(plant::MqttVersion::V311);
    };
    let mut house = house(vec![Manner { drops: true, ..Manner::default() }], adapt).await;
    let error = house.until(|s| s.error.as_ref().is_some_and(|e| e.contains("client id"))).await.error.unwrap();
    assert!(error.contains("another client seems to use the client id \"g\""), "{error}");
    assert!(house.status.borrow().connects >= 5);
}

#[tokio::test]
async fn a_broker_that_accepts_and_drops_is_not_asked_in_a_busy_loop() {
    let mut house = house(vec![Manner { drops: true, ..Manner::default() }], |_| ()).await;
    let began = std::time::Instant::now();
    house.until(|s| s.connects == 4).await;
    // Pauses of 250, 500 and 1,000 ms, each shortened by a fifth at most.
    assert!(began.elapsed() > Duration::from_millis(1_390), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_half_open_link_is_left_by_its_keep_alive_though_nothing_is_sent() {
    let deaf = Manner { deaf: true, ..Manner::default() };
    let adapt = |task: &mut BridgeTask| {
        // Not even its own state: an idle link.
        task.settings.send.clear();
        task.settings.receive.clear();
        task.settings.keep_alive = Duration::from_secs(1);
        task.say_nothing();
    };
    let mut house = house(vec![deaf, Manner::default()], adapt).await;
    house.until(|s| s.connects == 1).await;
    let began = std::time::Instant::now();
    house.until(|s| s.error.is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    house.until(|s| s.connects == 2).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_said_in_words() {
    let adapt = |task: &mut BridgeTask| task.settings.endpoints[0].host = "cloud.invalid".to_owned();
    let mut house = house(vec![Manner::default()], adapt).await;
    let error = house.until(|s| s.error.is_some()).await.error.unwrap();
    assert!(error.contains("the name cloud.invalid cannot be resolved"), "{error}");
}

#[tokio::test]
async fn a_quota_that_is_exceeded_is_tried_again_later_and_nothing_is_lost() {
    let over = Manner { over_quota: 3, ..Manner::default() };
    let mut house = house(vec![over, Manner::default()], |_| ()).await;
    house.append(0..5).await;
    let error = house.until(|s| s.error.is_some()).await.error.unwrap();
    assert!(error.contains("QuotaExceeded"), "{error}");
    let mut got = house.acknowledged(5).await.0;
    // What was in flight beside the refused has gone ahead: that was the peer's choice.
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 3, 4]);
    assert_eq!(house.until(|s| s.acknowledged >= 5).await.refused, 0);
}

#[tokio::test]
async fn each_reason_to_refuse_for_ever_puts_the_entry_aside_and_the_rest_goes_on() {
    for reason in [0x80, 0x83, 0x87, 0x90, 0x99] {
        let manner = Manner { refuses: Some("up/no"), reason: Some(reason), ..Manner::default() };
        let mut house = house(vec![manner], |_| ()).await;
        let topic = TopicName::new("g/no").unwrap();
        let no = Message::plain(topic, Bytes::from_static(b"x"), Qos::AtLeastOnce, Retain::No);
        house.spool.append(vec![no.clone(), no]).await;
        house.append(0..3).await;
        assert_eq!(house.acknowledged(3).await.0, [0, 1, 2], "{reason:#x}");
        let status = house.until(|s| s.acknowledged == 3 && s.refused == 2).await;
        assert_eq!((status.sent, status.connects), (5, 1), "{reason:#x}");
    }
}

#[tokio::test]
async fn a_peer_that_only_knows_3_1_1_gets_it() {
    let mut house = house(vec![Manner { only_3: true, ..Manner::default() }], |_| ()).await;
    house.append(0..3).await;
    // Its refusal is too short for 5 and looks like a hang-up: three tries, then the older version.
    assert_eq!(house.next().await, Seen::Connect { version: 4, connection: 3 });
    assert_eq!(house.acknowledged(3).await.0, [0, 1, 2]);
    assert_eq!(house.until(|s| s.acknowledged == 3).await.version, "3.1.1");
}

#[tokio::test]
async fn what_comes_from_upstream_reaches_the_house_under_its_local_name() {
    let manner = Manner { commands: Some(("down/m/v/set", "5")), ..Manner::default() };
    let mut house = house(vec![manner], |_| ()).await;
    let got = tokio::time::timeout(Duration::from_secs(20), house.local.recv()).await.unwrap().unwrap();
    assert_eq!((got[0].topic.as_str(), &got[0].payload[..]), ("g/m/v/set", &b"5"[..]));
    assert_eq!(got[0].from, Some(Arc::new(Origin::Upstream { name: "cloud".into(), retain: false })));
}

#[tokio::test]
async fn a_rule_that_takes_the_retain_flag_off_does_not_hide_that_a_command_was_kept_upstream() {
    let manner = Manner { commands: Some(("down/m/v/set", "5")), keeps_commands: true, ..Manner::default() };
    let mut house = house(vec![manner], |task| task.settings.receive[0].retain = RetainRule::Never).await;
    let got = tokio::time::timeout(Duration::from_secs(20), house.local.recv()).await.unwrap().unwrap();
    assert_eq!((got[0].retain, got[0].was_retained()), (false, true));
}

#[tokio::test]
async fn a_clean_stop_says_offline_and_goodbye_and_keeps_the_backlog() {
    let mut house = house(vec![Manner::default()], |_| ()).await;
    house.append(0..3).await;
    assert_eq!(house.acknowledged(3).await.0, [0, 1, 2]);
    house.cancel.cancel();
    let offline = Seen::Publish { topic: "up/$state".to_owned(), payload: "offline".to_owned(), acknowledged: true };
    assert_eq!(house.next().await, offline);
    assert_eq!(house.next().await, Seen::Disconnect);
    tokio::time::timeout(Duration::from_secs(2), &mut house.task).await.unwrap().unwrap();
    house.append(3..5).await;
    let mut status = house.spool.status();
    status.wait_for(|s| s.backlog["cloud"] == 2).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_spoke_5_is_not_taken_for_an_old_one_when_it_hangs_up() {
    let away = Manner { hangs_up: true, ..Manner::default() };
    let cut = Manner { cut_after: Some(1), ..Manner::default() };
    let mut house = house(vec![cut, away.clone(), away.clone(), away, Manner::default()], |_| ()).await;
    house.until(|s| s.connects == 2).await;
    house.append(0..3).await;
    assert_eq!(house.acknowledged(3).await.0, [0, 1, 2]);
    let status = house.until(|s| s.acknowledged == 3).await;
    assert_eq!((status.version.as_str(), status.connects), ("5", 2));
}

#[tokio::test]
async fn the_cloud_is_told_of_what_had_to_be_dropped_before_it_gets_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open_spool(folder.path(), 512 << 10);
    let topic = TopicName::new("g/m/v").unwrap();
    let message = |n: u32| Message::plain(topic.clone(), Bytes::from(n.to_string()), Qos::AtLeastOnce, Retain::No);
    spool.append((0..50_000).map(message).collect()).await;
    let mut status = spool.status();
    let evicted = status.wait_for(|s| s.evicted > 0 && s.in_memory == 0).await.unwrap().evicted;
    let mut house = house_with(spool, folder, vec![Manner::default()], |_| ()).await;
    let (topic, payload) = loop {
        match house.next().await {
            Seen::Publish { topic, payload, .. } if topic != "up/$state" => break (topic, payload),
            _ => {}
        }
    };
    assert_eq!(topic, "up/$gap");
    assert!(payload.starts_with(&format!(r#"{{"filter":"g/m/v","count":{evicted},"first":"20"#)), "{payload}");
    assert_eq!(house.acknowledged(1).await.0, [u32::try_from(evicted).unwrap()]);
}

#[tokio::test]
async fn after_a_failover_the_first_endpoint_is_taken_again_when_it_is_back() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let adapt = |task: &mut BridgeTask| {
        let mut first = task.settings.endpoints[0].clone();
        first.port = free;
        task.settings.endpoints.insert(0, first);
        task.return_after = Duration::from_millis(50);
    };
    let mut house = house(vec![Manner::default()], adapt).await;
    house.append(0..5).await;
    assert_eq!(house.acknowledged(5).await.0, [0, 1, 2, 3, 4]);
    // The probe connects to the first and goes; the link comes after it.
    let mut first = peer_at(free, vec![Manner::default()]).await;
    std::mem::swap(&mut house.peer, &mut first);
    house.append(5..10).await;
    let mut got = Vec::new();
    while got.last() != Some(&9) {
        tokio::select! {
            seen = house.peer.seen.recv() => got.extend(value(seen.unwrap())),
            seen = first.seen.recv() => got.extend(value(seen.unwrap())),
        }
    }
    assert_eq!(got, [5, 6, 7, 8, 9]);
    let end = format!(":{free}");
    let status = house.until(|s| s.connects == 2 && s.endpoint.ends_with(&end)).await;
    assert_eq!((status.resent, status.error), (0, None));
}

fn value(seen: Seen) -> Option<u32> {
    match seen {
        Seen::Publish { topic, payload, .. } if topic == "up/m/v" => payload.parse().ok(),
        _ => None,
    }
}
