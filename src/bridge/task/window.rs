//! The window: entries of the log into the peer's hands, its answers back to the spool. The cursor moves to just below
//! the first entry that waits; what the peer will never take is put aside and counted.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::BridgeTask;
use super::Fate;
use super::allowed;
use crate::bridge::link;
use crate::bridge::link::Fault;
use crate::bridge::link::Outcome;
use crate::bridge::mapping;
use crate::bridge::mapping::Mapped;
use crate::bridge::session::Handed;
use crate::bridge::session::Session;
use crate::bridge::session::rendered;
use crate::message::Message;
use crate::spool;
use crate::spool::Seq;
use crate::status::UpstreamStatus;
use crate::time;
use crate::topic::TopicName;

/// Topics that are told of when the peer refuses them; more of them are one and the same mistake.
const SAID_MOST: usize = 1_000;

/// What an answer was.
enum Answer {
    Done {
        took: Duration,
        is_refused: bool,
    },
    /// The peer does not take it now.
    Later(Fault),
    /// Of nothing that waits.
    None,
}

fn note_refused(status: &mut UpstreamStatus, refused: u64) {
    if refused > 0 {
        status.refused += refused;
        status.last_refused_uptime_s = Some(time::uptime().as_secs());
    }
}

impl BridgeTask {
    /// Hands over what the window takes; what can never be sent is put aside.
    pub(super) fn fill(&mut self, s: &mut Session) {
        let (mut sent, mut resent, mut refused) = (0, 0, 0);
        while s.waiting.len() < s.window
            && let Some(entry) = s.next(Instant::now())
        {
            let (seq, m) = (entry.seq, &entry.message);
            if let Some(fate) = self.answered.get(&seq) {
                // The spool has forgotten with the link that this one was refused.
                self.never.extend((*fate == Fate::Refused).then_some(seq));
                continue;
            }
            if s.waiting.contains_key(&seq) {
                continue;
            }
            let Some(mut to) = self.way(m) else {
                // A gap need not be told; an entry that was taken in under rules of before is not passed over in silence.
                if m.topic.as_str() != spool::GAP_TOPIC {
                    self.put_aside(&m.topic, "no rule sends it any more");
                    self.refuse(seq);
                    refused += 1;
                }
                continue;
            };
            to.retain = to.retain && s.peer.retain && self.newest.may_keep(&m.topic, seq);
            let (payload, properties) = rendered(m, s.standing.live && s.waited(seq));
            if self.gate.holds_back(&self.settings.name, &m.topic, &to.topic, &payload) {
                self.refuse(seq);
                refused += 1;
                continue;
            }
            let size = link::packet_size(&to.topic, &payload, properties.as_deref());
            if size > s.peer.maximum_packet as usize {
                let why = format!("{size} bytes, the peer takes {}", s.peer.maximum_packet);
                self.put_aside(&to.topic, &why);
                self.refuse(seq);
                refused += 1;
                continue;
            }
            let to = allowed(to, &s.peer);
            let qos = to.qos;
            let Some(notice) = s.link.publish(&to, payload, properties.as_deref(), Some(seq)) else {
                s.put_back(entry);
                break;
            };
            sent += 1;
            resent += u64::from(seq <= self.highest_sent);
            self.highest_sent = self.highest_sent.max(seq);
            s.handed(seq, Handed { at: Instant::now(), qos, topic: to.topic });
            s.answers.push(Box::pin(async move { (seq, notice.outcome().await) }));
        }
        let in_flight = s.waiting.len() as u64;
        self.status.send_if_modified(|status| {
            let before = (status.sent, status.refused, status.in_flight);
            status.sent += sent;
            status.resent += resent;
            note_refused(status, refused);
            status.in_flight = in_flight;
            before != (status.sent, status.refused, status.in_flight)
        });
    }

    /// Where it goes upstream, if a rule sends it.
    fn way(&self, m: &Message) -> Option<Mapped> {
        match m.topic.as_str() {
            spool::GAP_TOPIC => self.gap.clone(),
            _ => mapping::map(&self.settings.send, &m.topic, m.qos, m.retain),
        }
    }

    /// This answer and all that came with it.
    pub(super) fn answers(&mut self, s: &mut Session, seq: Seq, outcome: Outcome) -> Option<Fault> {
        let mut next = Some((seq, outcome));
        let mut fault = None;
        let (mut acknowledged, mut refused, mut took_ms) = (0, 0, Vec::new());
        while let Some((seq, outcome)) = next {
            match self.answer(s, seq, outcome) {
                Answer::Done { took, is_refused } => {
                    acknowledged += u64::from(!is_refused);
                    refused += u64::from(is_refused);
                    took_ms.push(took.as_secs_f64() * 1000.0);
                }
                Answer::Later(why) => fault = fault.or(Some(why)),
                Answer::None => {}
            }
            next = s.answers.next().now_or_never().flatten();
        }
        // Once for all of them: whoever watches is woken each time.
        self.status.send_if_modified(|status| {
            status.acknowledged += acknowledged;
            note_refused(status, refused);
            for ms in &took_ms {
                status.ack_ms += if status.ack_ms == 0.0 { *ms } else { (ms - status.ack_ms) / 16.0 };
            }
            !took_ms.is_empty()
        });
        fault
    }

    fn answer(&mut self, s: &mut Session, seq: Seq, outcome: Outcome) -> Answer {
        let refused = match outcome {
            Outcome::Acknowledged => None,
            Outcome::Refused(why) => Some(why),
            Outcome::Later(why) => return Answer::Later(Fault::Refused(why)),
            // The link's own fault follows, or the deadline: the entry stays first in line.
            Outcome::Lost => return Answer::None,
        };
        let Some(Handed { at, topic, .. }) = s.waiting.remove(&seq) else { return Answer::None };
        self.answered.insert(seq, Fate::Taken);
        s.last_answer = Instant::now();
        let took = s.last_answer - at;
        self.patience.answered(took);
        if let Some(why) = &refused {
            self.put_aside(&topic, why);
            self.refuse(seq);
        }
        Answer::Done { took, is_refused: refused.is_some() }
    }

    fn refuse(&mut self, seq: Seq) {
        self.answered.insert(seq, Fate::Refused);
        self.never.push(seq);
    }

    /// Says once a topic that the peer will never take what was to be sent; the count is in `refused`.
    fn put_aside(&mut self, topic: &TopicName, why: &str) {
        if self.said.len() < SAID_MOST && self.said.insert(topic.clone()) {
            tracing::error!(
                upstream = %self.settings.name, %topic,
                "the peer will never take this: {why}; put aside and counted, said once for this topic"
            );
        }
    }

    /// Moves the spool's cursors to just below the first entry that still waits.
    pub(super) async fn acknowledge(&mut self, s: &mut Session) {
        for seq in self.never.drain(..) {
            self.spool.refuse(&self.settings.name, seq).await;
        }
        for (lane, upto) in s.done() {
            let after = if lane == spool::Lane::Live { s.standing.newest } else { 0 };
            self.answered.retain(|seq, _| *seq <= after || *seq > upto);
            self.spool.acknowledge_on(lane, &self.settings.name, upto).await;
        }
        if s.live.is_none() && s.waiting.is_empty() && s.backlog.ready.is_empty() {
            self.newest.forget();
        }
    }

    /// Takes the answers that came before the end.
    pub(super) async fn settle(&mut self, s: &mut Session) {
        if let Some(Some((seq, outcome))) = s.answers.next().now_or_never() {
            let _ = self.answers(s, seq, outcome);
        }
        self.acknowledge(s).await;
    }
}
