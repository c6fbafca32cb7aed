//! What the gateway tells about itself on `{gateway}/$stats/…`, once a minute as a rule: small JSON messages, QoS 0, not
//! retained. They are messages, not readings: the account of the values does not know them, and where a rule sends them
//! upstream they are handed to it and counted like any client's message.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::daemon::Group;
use crate::message::{Message, Retain};
use crate::status::{Board, Ledger, LineStatus, PublishStatus, Snapshot, UpstreamStatus};
use crate::topic::{Qos, TopicName};

/// Begins to tell; ends with the group, or by the token.
pub(super) fn start(group: &Group, every: Option<Duration>, board: &Board, broker: &Broker) -> CancellationToken {
    let token = group.stop.child_token();
    let Some(every) = every else { return token };
    let (board, inlet, stop) = (board.clone(), broker.inlet(), token.clone());
    group.tasks.spawn(async move {
        stop.run_until_cancelled(tell(every, board, inlet)).await;
    });
    token
}

async fn tell(every: Duration, board: Board, inlet: mpsc::Sender<Vec<Message>>) {
    // Not at once: in the first moment there is nothing to tell.
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A full inlet has more important things to carry: this round is left out.
        if let Err(mpsc::error::TrySendError::Closed(_)) = inlet.try_send(messages(&board.snapshot())) {
            return;
        }
    }
}

/// One round.
fn messages(now: &Snapshot) -> Vec<Message> {
    let mut told = vec![("ledger".to_owned(), values(&now.publish)), ("spool".to_owned(), spool(now))];
    told.extend(now.lines.iter().map(|l| (format!("line/{}", l.name), line(l))));
    told.extend(now.upstreams.iter().map(|u| {
        let ledger = now.spool.ledger.get(&u.name).copied().unwrap_or_default();
        (format!("upstream/{}", u.name), upstream(u, &ledger))
    }));
    let message = |(about, mut body): (String, Value)| {
        body["time"] = json!(now.time);
        // Names are one level each by the configuration.
        let topic = TopicName::new(format!("{}/$stats/{about}", now.gateway)).ok()?;
        Some(Message::plain(topic, Bytes::from(body.to_string()), Qos::AtMostOnce, Retain::No))
    };
    told.into_iter().filter_map(message).collect()
}

fn values(p: &PublishStatus) -> Value {
    json!({
        "polled": p.polled, "suppressed": p.suppressed, "published": p.published, "failed": p.failed,
        "told": p.told, "held": p.held, "adds_up": p.unaccounted() == 0,
    })
}

fn upstream(u: &UpstreamStatus, l: &Ledger) -> Value {
    json!({
        "state": u.state, "ack_ms": u.ack_ms, "sent": u.sent, "resent": u.resent,
        "handed": l.appended, "acknowledged": l.acknowledged, "in_flight": l.in_flight, "stored": l.stored,
        "evicted": l.evicted, "expired": l.expired, "damaged": l.damaged, "refused": l.refused, "cleared": l.cleared,
        "adds_up": l.unaccounted() == 0,
    })
}

fn line(l: &LineStatus) -> Value {
    json!({
        "up": l.up, "load": l.load, "missed_turns": l.missed_turns, "requests": l.wire.requests,
        "timeouts": l.wire.timeouts, "exceptions": l.wire.exceptions, "garbled": l.wire.garbled,
        "stale_replies": l.wire.stale_replies,
    })
}

fn spool(now: &Snapshot) -> Value {
    let s = &now.spool;
    json!({
        "in_memory": s.in_memory, "on_disk": s.on_disk, "disk_bytes": s.disk_bytes, "written_bytes": s.written_bytes,
        "overrun": s.overrun, "error": s.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Vec<(String, Value)> {
        let mut now =
            Snapshot { gateway: "plant".into(), time: "2026-11-21T01:02:03.456Z".into(), ..Snapshot::default() };
        now.lines.push(LineStatus { name: "hall".into(), load: 0.5, ..LineStatus::default() });
        now.upstreams.push(UpstreamStatus { name: "cloud".into(), ..UpstreamStatus::default() });
        now.publish = PublishStatus { polled: 3, suppressed: 2, published: 1, ..PublishStatus::default() };
        now.spool.ledger.insert("cloud".into(), Ledger { appended: 5, acknowledged: 4, ..Ledger::default() });
        let read = |m: &Message| (m.topic.to_string(), serde_json::from_slice(&m.payload).unwrap());
        messages(&now).iter().map(read).collect()
    }

    #[test]
    fn the_topics_are_the_documented_ones_and_say_whether_it_adds_up() {
        let told = told();
        let topics: Vec<_> = told.iter().map(|(topic, _)| topic.as_str()).collect();
        let want =
            ["plant/$stats/ledger", "plant/$stats/spool", "plant/$stats/line/hall", "plant/$stats/upstream/cloud"];
        assert_eq!(topics, want);
        assert_eq!((&told[0].1["polled"], &told[0].1["adds_up"]), (&json!(3), &json!(true)));
        assert_eq!((&told[3].1["handed"], &told[3].1["adds_up"]), (&json!(5), &json!(false)));
        assert!(told.iter().all(|(_, body)| body["time"] == "2026-11-21T01:02:03.456Z"));
    }
}
