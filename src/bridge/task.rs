//! The bridge of one upstream: reads the log in order, keeps a window of publishes in the peer's hands, acknowledges
//! to the spool. The spool's cursor moves to just below the first entry that waits; an answer that came out of order
//! is remembered, so that a reconnect sends again only what was never answered.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::link;
use super::link::Event;
use super::link::Fault;
use super::link::Link;
use super::link::Outcome;
use super::link::Peer;
use super::link::Target;
use super::mapping;
use super::mapping::Mapped;
use super::patience::Patience;
use super::session::FirstIsBack;
use super::session::Lane;
use super::session::Newest;
use super::session::Pace;
use super::session::Reading;
use super::session::Session;
use super::session::rendered;
use crate::backoff::Backoff;
use crate::config::plant::MqttVersion;
use crate::config::plant::Upstream;
use crate::message::Message;
use crate::spool;
use crate::spool::Batch;
use crate::spool::Seq;
use crate::spool::Spool;
use crate::status::LinkState;
use crate::status::UpstreamStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

/// Pauses between tries: the link's return is noticed within two seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(1500));
/// Pauses after a peer's no: it will not change its mind soon, and may ban who asks too often.
const PAUSE_REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A link that held this long begins with the shortest pause again.
const STABLE: Duration = Duration::from_secs(10);
/// On another endpoint than the first, the first is asked for this often; longer each time it did not hold.
const RETURN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Entries read from the log at once.
const READ: usize = 500;
/// A clean stop takes no longer.
const GOODBYE: Duration = Duration::from_secs(1);

/// Makes the task of an upstream. `gateway` names the state topic, `to_local` takes what comes from upstream.
pub fn new(
    settings: Upstream,
    gateway: &str,
    spool: Spool,
    to_local: mpsc::Sender<Vec<Message>>,
) -> (watch::Receiver<UpstreamStatus>, BridgeTask) {
    let endpoint = settings.endpoints.first().map(ToString::to_string).unwrap_or_default();
    let status = UpstreamStatus { name: settings.name.to_string(), endpoint, ..UpstreamStatus::default() };
    let (status, watched) = watch::channel(status);
    let state = TopicName::new(format!("{gateway}/$state")).ok();
    let mut gate = Gate::new(settings.preset);
    let state = state.and_then(|t| {
        let to = mapping::map(&settings.send, &t, Qos::AtLeastOnce, true)?;
        (!gate.holds_back(&settings.name, &t, &to.topic, b"online")).then_some(to)
    });
    let gap = TopicName::new(format!("{gateway}/{}", spool::GAP_TOPIC)).ok();
    let gap = gap.and_then(|t| mapping::map(&settings.send, &t, Qos::AtLeastOnce, false));
    if gap.is_none() {
        tracing::info!(upstream = %settings.name, "no rule sends {gateway}/$gap: gaps will not be told");
    }
    let version = settings.version;
    let task = BridgeTask {
        settings,
        spool,
        to_local,
        status,
        state,
        gap,
        gate,
        version,
        spoke_5: false,
        hang_ups: 0,
        patience: Patience::default(),
        answered: BTreeSet::new(),
        highest_sent: 0,
        newest: Newest::default(),
        return_after: RETURN.0,
    };
    (watched, task)
}

/// Owns the link of one upstream.
#[derive(Debug)]
pub struct BridgeTask {
    pub(super) settings: Upstream,
    spool: Spool,
    to_local: mpsc::Sender<Vec<Message>>,
    status: watch::Sender<UpstreamStatus>,
    /// Where `online` and `offline` go upstream, if a rule sends them.
    state: Option<Mapped>,
    /// Where gaps are told, if a rule sends them.
    gap: Option<Mapped>,
    /// What the cloud of a preset would not take.
    pub(super) gate: Gate,
    version: MqttVersion,
    spoke_5: bool,
    hang_ups: u32,
    pub(super) patience: Patience,
    /// Answered above the spool's cursor.
    answered: BTreeSet<Seq>,
    highest_sent: Seq,
    newest: Newest,
    pub(super) return_after: Duration,
}

enum Happened {
    Stop,
    Link(Event),
    Answer(Seq, Outcome),
    Read(spool::Lane, Batch),
    Overdue,
    Pace,
    FirstIsBack,
}

enum Ended {
    Stopped,
    /// The first endpoint is there again, or the certificate was renewed, and nothing is on the way.
    Return,
    Fault(Fault),
}

impl BridgeTask {
    /// Keeps the link up until cancelled, then says goodbye within a second.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut soon = Backoff::new(PAUSE.0, PAUSE.1);
        let mut later = Backoff::new(PAUSE_REFUSED.0, PAUSE_REFUSED.1);
        let mut endpoint = 0;
        while !cancel.is_cancelled() {
            let (up, ended) = self.connection(endpoint, &cancel).await;
            self.spool.link(&self.settings.name, spool::Link::Down).await;
            let fault = match ended {
                Ended::Stopped => break,
                // There is nothing to return to from the first endpoint.
                Ended::Return if endpoint == 0 => {
                    tracing::info!(upstream = %self.settings.name, "the client certificate was renewed: once more with it");
                    continue;
                }
                Ended::Return => {
                    tracing::info!(upstream = %self.settings.name, "the first endpoint is there again: back to it");
                    self.return_after = (self.return_after * 2).min(RETURN.1);
                    endpoint = 0;
                    continue;
                }
                Ended::Fault(fault) => fault,
            };
            let name = &self.settings.name;
            // The turn, not the state: an outage of a day is one line, unless the reason changes.
            let is_news = self.status.borrow().error.as_deref() != Some(fault.words());
            if up.is_some() || is_news {
                tracing::warn!(upstream = %name, endpoint = %self.settings.endpoints[endpoint], "{}", fault.words());
            }
            self.status.send_modify(|s| {
                s.state = LinkState::Waiting;
                s.error = Some(fault.words().to_owned());
                s.in_flight = 0;
            });
            let held = up.is_some_and(|at| at.elapsed() >= STABLE);
            if held {
                soon.reset();
                later.reset();
                if endpoint == 0 {
                    self.return_after = RETURN.0;
                }
            }
            // The list is gone through from the front; after a link that was up it begins with the first again.
            endpoint = if up.is_some() { 0 } else { (endpoint + 1) % self.settings.endpoints.len() };
            let pause = match fault {
                ref fault if up.is_none() && self.other_version(fault) => Duration::ZERO,
                Fault::Refused(_) => later.next(),
                _ if endpoint > 0 => Duration::ZERO,
                _ => soon.next(),
            };
            let _ = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        self.status.send_modify(|s| s.state = LinkState::Waiting);
    }

    /// 5 falls back to 3.1.1; when that fails too, the next round begins with 5 again. True: try at once.
    fn other_version(&mut self, fault: &Fault) -> bool {
        match fault {
            Fault::Version(_) => {}
            // Who spoke 5 once is not old, only away; who never did gets three tries.
            Fault::HungUp(_) if self.version == MqttVersion::V5 => {
                self.hang_ups += 1;
                if self.spoke_5 || !self.hang_ups.is_multiple_of(3) {
                    return false;
                }
            }
            Fault::HungUp(_) => {}
            Fault::Refused(_) | Fault::Broken(_) => return false,
        }
        let fell_back = self.settings.version == MqttVersion::V5 && self.version == MqttVersion::V5;
        self.version = if fell_back { MqttVersion::V311 } else { self.settings.version };
        fell_back
    }

    /// One connection from CONNECT to its end; the first part is when it was up.
    async fn connection(&mut self, endpoint: usize, cancel: &CancellationToken) -> (Option<Instant>, Ended) {
        let first = self.settings.endpoints.first().filter(|_| endpoint > 0).cloned();
        let Some(endpoint) = self.settings.endpoints.get(endpoint).cloned() else {
            return (None, Ended::Fault(Fault::Refused("no endpoint is configured".to_owned())));
        };
        self.status.send_modify(|s| {
            s.state = LinkState::Connecting;
            s.endpoint = endpoint.to_string();
        });
        let target =
            Target { settings: &self.settings, endpoint: &endpoint, version: self.version, will: self.state.as_ref() };
        let mut link = match Link::open(&target) {
            Ok(link) => link,
            Err(fault) => return (None, Ended::Fault(fault)),
        };
        let began = Instant::now();
        let patience = self.patience.connect();
        let peer = loop {
            let event = tokio::time::timeout_at(began + patience, link.event());
            let fault = match cancel.run_until_cancelled(event).await {
                None => return (None, Ended::Stopped),
                Some(Ok(Event::Connected(peer))) => break peer,
                Some(Ok(Event::Received(_))) => continue,
                Some(Ok(Event::Down(fault))) => fault,
                Some(Err(_)) => Fault::Broken(format!("no answer to CONNECT within {} s", patience.as_secs_f32())),
            };
            self.patience.failed();
            return (None, Ended::Fault(fault));
        };
        let up = Instant::now();
        self.patience.connected(up - began);
        let mut session = self.begin(link, peer).await;
        session.first = Some(Box::pin(session.link.better(first, self.return_after)) as FirstIsBack);
        let ended = self.serve(&mut session, cancel).await;
        self.settle(&mut session).await;
        if matches!(ended, Ended::Stopped | Ended::Return) {
            self.goodbye(session).await;
        }
        (Some(up), ended)
    }

    async fn begin(&mut self, link: Link, peer: Peer) -> Session {
        tracing::info!(upstream = %self.settings.name, version = peer.version, "connected");
        self.spoke_5 |= self.version == MqttVersion::V5;
        self.status.send_modify(|s| {
            s.state = LinkState::Connected;
            s.error = None;
            s.version = peer.version.to_owned();
            s.connects += 1;
        });
        let standing = self.spool.connected(&self.settings.name).await;
        self.newest.distrust(standing.ahead);
        if !self.settings.receive.is_empty() {
            let wanted: Vec<_> = self.settings.receive.iter().map(|m| (m.filter.clone(), m.qos)).collect();
            link.subscribe(&wanted);
        }
        if let Some(state) = &self.state {
            let _ = link.publish(&allowed(state.clone(), &peer), Bytes::from_static(b"online"), None);
        }
        let window = usize::from(self.settings.in_flight.min(peer.receive_maximum).max(1));
        let mut session = Session::new(link, peer, window, standing);
        session.most = Pace::new(self.settings.preset.and_then(|p| p.facts().rate));
        session
    }

    async fn serve(&mut self, s: &mut Session, cancel: &CancellationToken) -> Ended {
        loop {
            // On the way back to the first endpoint nothing new is begun, so that nothing is sent twice.
            if !s.returning {
                self.fill(s);
            }
            self.acknowledge(s).await;
            if s.returning && s.waiting.is_empty() {
                return Ended::Return;
            }
            for lane in std::iter::once(&mut s.backlog).chain(&mut s.live) {
                if lane.ready.is_empty() && lane.reading.is_none() {
                    lane.reading = Some(self.read(lane.lane, lane.read_to));
                }
            }
            let silence = self.patience.silence(self.status.borrow().ack_ms);
            let overdue = s.overdue(silence);
            let pace = s.held_until();
            let happened = tokio::select! {
                () = cancel.cancelled() => Happened::Stop,
                Some((seq, outcome)) = s.answers.next() => Happened::Answer(seq, outcome),
                event = s.link.event() => Happened::Link(event),
                batch = read(s.live.as_mut()) => Happened::Read(spool::Lane::Live, batch),
                batch = read(Some(&mut s.backlog)) => Happened::Read(spool::Lane::Backlog, batch),
                () = until(overdue) => Happened::Overdue,
                () = until(pace), if !s.returning => Happened::Pace,
                () = back(&mut s.first) => Happened::FirstIsBack,
            };
            match happened {
                Happened::Stop => return Ended::Stopped,
                Happened::Link(Event::Down(fault)) => return Ended::Fault(fault),
                Happened::Link(Event::Connected(_)) | Happened::Pace => {}
                Happened::Link(Event::Received(message)) => self.received(message).await,
                Happened::FirstIsBack => {
                    s.first = None;
                    s.returning = true;
                }
                Happened::Overdue => {
                    self.patience.was_silent();
                    let waited = s.last_answer.elapsed().max(silence).as_secs_f32();
                    return Ended::Fault(Fault::Broken(format!("no acknowledgement within {waited:.1} s")));
                }
                Happened::Answer(seq, outcome) => {
                    if let Some(fault) = self.answers(s, seq, outcome) {
                        return Ended::Fault(fault);
                    }
                }
                Happened::Read(lane, batch) => {
                    let Some(lane) = (match lane {
                        spool::Lane::Backlog => Some(&mut s.backlog),
                        spool::Lane::Live => s.live.as_mut(),
                    }) else {
                        continue;
                    };
                    lane.reading = None;
                    if batch.entries.is_empty() {
                        return Ended::Fault(Fault::Broken("the spool has closed".to_owned()));
                    }
                    lane.read_to = Some(batch.upto);
                    lane.ready.extend(batch.entries);
                }
            }
        }
    }

    fn read(&self, lane: spool::Lane, after: Option<Seq>) -> Reading {
        let (spool, name) = (self.spool.clone(), Arc::clone(&self.settings.name));
        Box::pin(async move { spool.next_on(lane, &name, after, READ).await })
    }

    /// Hands over what the window takes; what can never be sent is put aside.
    fn fill(&mut self, s: &mut Session) {
        let (mut sent, mut resent, mut refused) = (0, 0, 0);
        while s.waiting.len() < s.window
            && let Some(entry) = s.next(Instant::now())
        {
            let (seq, m) = (entry.seq, &entry.message);
            if self.answered.remove(&seq) {
                continue;
            }
            let Some(mut to) = self.way(m) else { continue };
            to.retain = to.retain && s.peer.retain && self.newest.may_keep(&m.topic, seq);
            let (payload, properties) = rendered(m, s.standing.live && s.waited(seq));
            if self.gate.holds_back(&self.settings.name, &m.topic, &to.topic, &payload) {
                refused += 1;
                continue;
            }
            let size = link::packet_size(&to.topic, &payload, properties.as_deref());
            if size > s.peer.maximum_packet as usize {
                let most = s.peer.maximum_packet;
                let name = &self.settings.name;
                tracing::warn!(upstream = %name, topic = %to.topic, size, most, "too large for the peer: put aside");
                refused += 1;
                continue;
            }
            let Some(notice) = s.link.publish(&allowed(to, &s.peer), payload, properties.as_deref()) else {
                s.put_back(entry);
                break;
            };
            sent += 1;
            resent += u64::from(seq <= self.highest_sent);
            self.highest_sent = self.highest_sent.max(seq);
            s.handed(seq, Instant::now());
            s.answers.push(Box::pin(async move { (seq, notice.outcome().await) }));
        }
        let in_flight = s.waiting.len() as u64;
        self.status.send_if_modified(|status| {
            let before = (status.sent, status.refused, status.in_flight);
            status.sent += sent;
            status.resent += resent;
            status.refused += refused;
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
    fn answers(&mut self, s: &mut Session, seq: Seq, outcome: Outcome) -> Option<Fault> {
        let mut next = Some((seq, outcome));
        let mut fault = None;
        while let Some((seq, outcome)) = next {
            fault = fault.or(self.answer(s, seq, outcome));
            next = s.answers.next().now_or_never().flatten();
        }
        fault
    }

    fn answer(&mut self, s: &mut Session, seq: Seq, outcome: Outcome) -> Option<Fault> {
        let refused = match outcome {
            Outcome::Acknowledged => None,
            Outcome::Refused(why) => Some(why),
            Outcome::Later(why) => return Some(Fault::Refused(why)),
            // The link's own fault follows, or the deadline: the entry stays first in line.
            Outcome::Lost => return None,
        };
        let at = s.waiting.remove(&seq)?;
        self.answered.insert(seq);
        s.last_answer = Instant::now();
        self.patience.answered(at.elapsed());
        let took_ms = at.elapsed().as_secs_f64() * 1000.0;
        if let Some(why) = &refused {
            tracing::warn!(upstream = %self.settings.name, seq, "refused and put aside: {why}");
        }
        self.status.send_modify(|status| {
            status.acknowledged += u64::from(refused.is_none());
            status.refused += u64::from(refused.is_some());
            status.ack_ms += if status.ack_ms == 0.0 { took_ms } else { (took_ms - status.ack_ms) / 16.0 };
        });
        None
    }

    /// Moves the spool's cursors to just below the first entry that still waits.
    async fn acknowledge(&mut self, s: &mut Session) {
        for (lane, upto) in s.done() {
            let after = if lane == spool::Lane::Live { s.standing.newest } else { 0 };
            self.answered.retain(|seq| *seq <= after || *seq > upto);
            self.spool.acknowledge_on(lane, &self.settings.name, upto).await;
        }
        if s.live.is_none() && s.waiting.is_empty() && s.backlog.ready.is_empty() {
            self.newest.forget();
        }
    }

    /// Takes the answers that came before the end.
    async fn settle(&mut self, s: &mut Session) {
        while let Some(Some((seq, outcome))) = s.answers.next().now_or_never() {
            let _ = self.answer(s, seq, outcome);
        }
        self.acknowledge(s).await;
    }

    async fn received(&self, message: Message) {
        let Some(to) = mapping::map(&self.settings.receive, &message.topic, message.qos, message.retain) else {
            return;
        };
        self.status.send_modify(|s| s.received += 1);
        let message = Message { topic: to.topic, qos: to.qos, retain: to.retain, ..message };
        // A full inlet holds the peer back instead of dropping a command.
        let _ = self.to_local.send(vec![message]).await;
    }

    async fn goodbye(&mut self, mut s: Session) {
        let end = Instant::now() + GOODBYE;
        if let Some(state) = &self.state {
            let offline = s.link.publish(&allowed(state.clone(), &s.peer), Bytes::from_static(b"offline"), None);
            if let Some(notice) = offline {
                let _ = tokio::time::timeout(GOODBYE / 2, notice.outcome()).await;
            }
        }
        self.settle(&mut s).await;
        let Session { link, answers, .. } = s;
        drop(answers);
        link.close(end.saturating_duration_since(Instant::now())).await;
    }
}

/// What the peer takes: it may know no QoS 2, or keep nothing.
fn allowed(to: Mapped, peer: &Peer) -> Mapped {
    Mapped { qos: to.qos.min(peer.maximum_qos), retain: to.retain && peer.retain, ..to }
}

async fn read(lane: Option<&mut Lane>) -> Batch {
    match lane.and_then(|lane| lane.reading.as_mut()) {
        Some(batch) => batch.await,
        None => pending().await,
    }
}

async fn back(first: &mut Option<FirstIsBack>) {
    match first {
        Some(first) => first.await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
