//! One connection's work: what was read from the log and not yet handed over, what was handed over and not yet
//! answered, on one lane or two; and what keeps a backlog from doing harm: its pace, its
//! mark, and that an older value never replaces a newer one that the peer keeps.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use super::estimate::Estimate;
use super::link::Link;
use super::link::Outcome;
use super::link::Peer;
use super::patience::Patience;
use crate::message::Message;
use crate::message::Properties;
use crate::payload;
use crate::payload::Format;
use crate::spool;
use crate::spool::Batch;
use crate::spool::Entry;
use crate::spool::Seq;
use crate::spool::Standing;
use crate::topic::Qos;
use crate::topic::TopicName;

/// A question to the spool under way.
pub(super) type Reading = Pin<Box<dyn Future<Output = Batch> + Send>>;
/// Answers of the peer that are still to come.
pub(super) type Answers = FuturesUnordered<Pin<Box<dyn Future<Output = (Seq, Outcome)> + Send>>>;

/// Resolves when the first endpoint is reachable again, or this connection's certificate was renewed.
pub(super) type FirstIsBack = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Topics whose newest value is remembered; beyond it late values lose their retain flag untested.
const TOPICS_MOST: usize = 100_000;
/// What a pace may make up for after it was held up.
const BURST: Duration = Duration::from_millis(100);

/// One reader of the log.
pub(super) struct Lane {
    pub(super) lane: spool::Lane,
    /// Read, not handed over.
    pub(super) ready: VecDeque<Entry>,
    /// How far the log was read.
    pub(super) read_to: Option<Seq>,
    pub(super) reading: Option<Reading>,
    acknowledged: Seq,
}

impl Lane {
    fn new(lane: spool::Lane, read_to: Option<Seq>) -> Self {
        Self { lane, ready: VecDeque::new(), read_to, reading: None, acknowledged: 0 }
    }
}

/// When and how a publish was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    pub(super) at: Instant,
    pub(super) qos: Qos,
    pub(super) topic: TopicName,
}

/// One connection's work.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) peer: Peer,
    pub(super) window: usize,
    /// How the log stood when the link came up.
    pub(super) standing: Standing,
    pub(super) backlog: Lane,
    /// With `live-first`, while there was a backlog when the link came up.
    pub(super) live: Option<Lane>,
    pub(super) pace: Pace,
    /// What the cloud takes in a second, backlog or not.
    pub(super) most: Pace,
    /// Handed over, not answered.
    pub(super) waiting: BTreeMap<Seq, Handed>,
    /// The same in order of time; entries that were answered are skipped when it is looked at.
    by_age: VecDeque<(Instant, Seq)>,
    /// When the last answer came, or the first publish that has none was handed over.
    pub(super) last_answer: Instant,
    pub(super) answers: Answers,
    /// What this connection is left for; `None` once it has resolved.
    pub(super) first: Option<FirstIsBack>,
    /// When the backlog will be gone, looked at once a second.
    pub(super) estimate: Estimate,
    pub(super) looks: Interval,
    /// It is to be left: nothing new is begun here.
    pub(super) returning: bool,
}

impl Session {
    pub(super) fn new(link: Link, peer: Peer, window: usize, standing: Standing) -> Self {
        let live = standing.live.then(|| Lane::new(spool::Lane::Live, Some(standing.newest)));
        Self {
            link,
            peer,
            window,
            standing,
            backlog: Lane::new(spool::Lane::Backlog, None),
            live,
            pace: Pace::new(standing.replay_rate),
            most: Pace::new(None),
            waiting: BTreeMap::new(),
            by_age: VecDeque::new(),
            last_answer: Instant::now(),
            answers: FuturesUnordered::new(),
            first: None,
            estimate: Estimate::default(),
            looks: seconds(),
            returning: false,
        }
    }

    /// A publish was handed over.
    pub(super) fn handed(&mut self, seq: Seq, handed: Handed) {
        if self.waiting.is_empty() {
            self.last_answer = handed.at;
        }
        self.by_age.push_back((handed.at, seq));
        self.waiting.insert(seq, handed);
    }

    /// Both sides go on with the session of an earlier connection: what was under way there is finished here. Gives how
    /// many of these the peer may get twice, because they are not of QoS 2.
    pub(super) fn adopt(&mut self, carried: BTreeMap<Seq, Handed>, now: Instant) -> u64 {
        let twice = carried.values().filter(|h| h.qos != Qos::ExactlyOnce).count();
        for (seq, handed) in carried {
            self.handed(seq, Handed { at: now, ..handed });
        }
        twice as u64
    }

    /// When the longest wait has to end; `None` while nothing waits.
    pub(super) fn overdue(&mut self, silence: Duration) -> Option<Instant> {
        while self.by_age.front().is_some_and(|(at, seq)| self.waiting.get(seq).is_none_or(|h| h.at != *at)) {
            self.by_age.pop_front();
        }
        let (oldest, _) = self.by_age.front()?;
        Some((*oldest + Patience::answer()).min(self.last_answer + silence))
    }

    /// Whether the entry waited for the link.
    pub(super) const fn waited(&self, seq: Seq) -> bool {
        seq <= self.standing.newest
    }

    /// The entry to hand over next, if its pace lets it: newest first where there are two lanes.
    pub(super) fn next(&mut self, now: Instant) -> Option<Entry> {
        let entry = if self.most.lets(now) { self.next_of_lanes(now) } else { None };
        if entry.is_some() {
            self.most.take(now);
        }
        entry
    }

    fn next_of_lanes(&mut self, now: Instant) -> Option<Entry> {
        if let Some(entry) = self.live.as_mut().and_then(|live| live.ready.pop_front()) {
            return Some(entry);
        }
        let waited = self.backlog.ready.front().is_some_and(|e| e.seq <= self.standing.newest);
        if waited && !self.pace.take(now) {
            return None;
        }
        self.backlog.ready.pop_front()
    }

    /// It could not be handed over after all.
    pub(super) fn put_back(&mut self, entry: Entry) {
        match &mut self.live {
            Some(live) if entry.seq > self.standing.newest => live.ready.push_front(entry),
            _ => self.backlog.ready.push_front(entry),
        }
    }

    /// When the pace lets the next one go; `None` when nothing waits for that.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let (backlog, live) = (&self.backlog.ready, self.live.as_ref().map(|live| &live.ready));
        let held = !backlog.is_empty() && live.is_none_or(VecDeque::is_empty);
        let pace = held.then(|| self.pace.next()).flatten();
        let most = if held || live.is_some_and(|live| !live.is_empty()) { self.most.next() } else { None };
        // `None` is less than any moment: both have to be waited for.
        if self.waiting.len() < self.window { pace.max(most) } else { None }
    }

    /// How far each lane has come since it was asked last: all up to there is done.
    pub(super) fn done(&mut self) -> Vec<(spool::Lane, Seq)> {
        let split = if self.live.is_some() { self.standing.newest } else { Seq::MAX };
        let lanes = [Some((&mut self.backlog, 0..=split)), self.live.as_mut().map(|l| (l, split + 1..=Seq::MAX))];
        let mut done = Vec::new();
        for (lane, range) in lanes.into_iter().flatten() {
            // What was carried over waits although the log was not read up to there yet.
            let Some(read_to) = lane.read_to else { continue };
            let waiting = self.waiting.range(range).next().map(|(seq, _)| *seq);
            let ready = lane.ready.front().map(|e| e.seq);
            let first = [waiting, ready].into_iter().flatten().min();
            let upto = first.map_or(read_to, |seq| read_to.min(seq - 1));
            if upto > lane.acknowledged && (lane.lane == spool::Lane::Backlog || upto > split) {
                lane.acknowledged = upto;
                done.push((lane.lane, upto));
            }
        }
        done
    }
}

fn seconds() -> Interval {
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// So many messages a second of what waited.
pub(super) struct Pace {
    each: Option<Duration>,
    next: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u32>) -> Self {
        let each = rate.and_then(|rate| Duration::from_secs(1).checked_div(rate));
        Self { each, next: Instant::now() }
    }

    fn lets(&self, now: Instant) -> bool {
        self.each.is_none() || self.next <= now
    }

    fn take(&mut self, now: Instant) -> bool {
        let Some(each) = self.each else { return true };
        if !self.lets(now) {
            return false;
        }
        self.next = self.next.max(now.checked_sub(BURST).unwrap_or(now)) + each;
        true
    }

    fn next(&self) -> Option<Instant> {
        self.each.map(|_| self.next)
    }
}

/// The newest value of each topic that was sent to be kept.
#[derive(Debug, Default)]
pub(super) struct Newest {
    sent: HashMap<TopicName, Seq>,
    /// Up to here newer values may have been sent before the process began.
    unknown_upto: Seq,
}

impl Newest {
    /// Newer values than those up to here may have been sent in an earlier life.
    pub(super) fn distrust(&mut self, upto: Seq) {
        if self.sent.is_empty() {
            self.unknown_upto = self.unknown_upto.max(upto);
        }
    }

    /// Whether a value may be kept by the peer: not when a newer one was sent.
    pub(super) fn may_keep(&mut self, topic: &TopicName, seq: Seq) -> bool {
        let full = self.sent.len() >= TOPICS_MOST;
        match self.sent.get_mut(topic) {
            Some(newest) if *newest > seq => false,
            Some(newest) => {
                *newest = seq;
                true
            }
            None if seq <= self.unknown_upto || full => false,
            None => {
                self.sent.insert(topic.clone(), seq);
                true
            }
        }
    }

    /// Nothing older is left to send.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.unknown_upto = 0;
    }
}

/// What is sent: own values are rendered now. What waited while newer values went ahead says so, in a property and,
/// where the gateway writes JSON itself, in the payload.
pub(super) fn rendered(m: &Message, late: bool) -> (Bytes, Option<Arc<Properties>>) {
    let mut payload = match &m.own {
        Some(own) => payload::render(&own.series, &own.sample),
        None => m.payload.clone(),
    };
    if !late {
        return (payload, m.properties.clone());
    }
    let json = m.own.as_ref().is_some_and(|own| own.series.format == Format::Json);
    if let Some(body) = payload.strip_suffix(b"}").filter(|_| json) {
        payload = [body, br#","late":true}"#].concat().into();
    }
    let mut properties = m.properties.as_deref().cloned().unwrap_or_default();
    properties.user.push(("late".into(), "true".into()));
    (payload, Some(Arc::new(properties)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_value_never_replaces_a_newer_one() {
        let (a, b) = (TopicName::new("a").unwrap(), TopicName::new("b").unwrap());
        let mut newest = Newest::default();
        newest.distrust(3);
        assert!(!newest.may_keep(&b, 2), "who knows what was sent before the restart");
        assert!(newest.may_keep(&a, 10));
        assert!(!newest.may_keep(&a, 5));
        assert!(newest.may_keep(&a, 10), "the same once more is no older value");
        assert!(newest.may_keep(&b, 5));
        newest.forget();
        assert!(newest.may_keep(&a, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_without_bursts() {
        let mut pace = Pace::new(Some(100));
        let end = Instant::now() + Duration::from_secs(1);
        let mut count = 0;
        while Instant::now() < end {
            match pace.take(Instant::now()) {
                true => count += 1,
                false => tokio::time::sleep_until(pace.next().unwrap()).await,
            }
        }
        assert_eq!(count, 100);
        tokio::time::advance(Duration::from_secs(60)).await;
        let burst = (0..1_000).filter(|_| pace.take(Instant::now())).count();
        assert!(burst <= 12, "{burst}");
    }
}
