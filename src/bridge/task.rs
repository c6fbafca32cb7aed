//! The bridge of one upstream: reads the log in order, keeps a window of publishes in the peer's hands, acknowledges
//! to the spool. The spool's cursor moves to just below the first entry that waits; an answer that came out of order
//! is remembered, so that a reconnect sends again only what was never answered.

mod report;
mod window;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
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
use super::link::Event;
use super::link::Fault;
use super::link::Keeping;
use super::link::Link;
use super::link::Outcome;
use super::link::Peer;
use super::link::Remains;
use super::link::Target;
use super::mapping;
use super::mapping::Mapped;
use super::patience::Patience;
use super::retry::Retry;
use super::retry::STABLE;
use super::session::FirstIsBack;
use super::session::Handed;
use super::session::Lane;
use super::session::Newest;
use super::session::Pace;
use super::session::Reading;
use super::session::Session;
use crate::config::plant::MqttVersion;
use crate::config::plant::Upstream;
use crate::message::Message;
use crate::message::Origin;
use crate::spool;
use crate::spool::Batch;
use crate::spool::Seq;
use crate::spool::Spool;
use crate::status::LinkState;
use crate::status::UpstreamStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

/// On another endpoint than the first, the first is asked for this often; longer each time it did not hold.
const RETURN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Entries read from the log at once.
const READ: usize = 500;
/// Fewer than this left: the next ones are asked for, so that the link does not wait for the disk.
const READ_AHEAD: usize = READ / 2;
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
    let exactly_once = settings.send.iter().any(|rule| rule.qos == Qos::ExactlyOnce);
    let keeping = if exactly_once { Keeping::Session } else { Keeping::Nothing };
    let task = BridgeTask {
        settings,
        spool,
        to_local,
        status,
        state,
        gap,
        gate,
        version,
        spoke_5: BTreeSet::new(),
        hang_ups: 0,
        patience: Patience::default(),
        answered: BTreeMap::new(),
        said: HashSet::new(),
        never: Vec::new(),
        highest_sent: 0,
        newest: Newest::default(),
        keeping,
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
    /// Endpoints that spoke MQTT 5 once: these are not old, only away.
    spoke_5: BTreeSet<usize>,
    hang_ups: u32,
    pub(super) patience: Patience,
    /// Done with above the spool's cursor, and how: remembered until the cursor has passed, however often the link breaks.
    answered: BTreeMap<Seq, Fate>,
    /// Topics of which was said that the peer does not take them.
    said: HashSet<TopicName>,
    /// Entries that the peer will never take, to be told to the spool with the next acknowledgement.
    never: Vec<Seq>,
    highest_sent: Seq,
    newest: Newest,
    /// Whether a session outlives its connection.
    keeping: Keeping,
    pub(super) return_after: Duration,
}

/// What became of an entry that the spool still counts as under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    /// The peer will never take it.
    Refused,
}

/// What is carried from one connection to the next, where the session outlives both.
#[derive(Default)]
struct Between {
    /// The client library's half.
    remains: Option<Remains>,
    /// Ours: the entries that wait for their answer.
    carried: BTreeMap<Seq, Handed>,
}

enum Happened {
    Stop,
    Link(Event),
    Answer(Seq, Outcome),
    Read(spool::Lane, Batch),
    Overdue,
    Pace,
    Look,
    FirstIsBack,
}

enum Ended {
    Stopped,
    /// The first endpoint is there again, or the certificate was renewed, and nothing is on the way.
    Return,
    Fault(Fault),
}

impl BridgeTask {
    #[cfg(test)]
    pub(super) const fn speak(&mut self, version: MqttVersion) {
        self.version = version;
    }

    #[cfg(test)]
    pub(super) fn say_nothing(&mut self) {
        self.state = None;
    }

    /// Keeps the link up until cancelled, then says goodbye within a second.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut retry = Retry::new();
        let mut endpoint = 0;
        let mut between = Between::default();
        while !cancel.is_cancelled() {
            let (up, ended) = self.connection(endpoint, &mut between, &cancel).await;
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
            let lived = up.map(|at| at.elapsed());
            retry.ended(&fault, lived);
            self.tell(&fault, endpoint, lived.is_some(), retry.is_quarrel());
            if endpoint == 0 && lived.is_some_and(|lived| lived >= STABLE) {
                self.return_after = RETURN.0;
            }
            if up.is_none() && self.other_version(endpoint, &fault) {
                continue;
            }
            // The list is gone through from the front; after a link that was up it begins with the first again.
            endpoint = if up.is_some() { 0 } else { (endpoint + 1) % self.settings.endpoints.len() };
            let is_no = matches!(fault, Fault::Refused(_) | Fault::TakenOver);
            let pause = if endpoint > 0 && !is_no { Duration::ZERO } else { retry.pause(&fault) };
            let _ = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        self.status.send_modify(|s| s.state = LinkState::Waiting);
    }

    /// 5 falls back to 3.1.1; when that fails too, the next round begins with 5 again. True: try at once.
    fn other_version(&mut self, endpoint: usize, fault: &Fault) -> bool {
        match fault {
            Fault::Version(_) => {}
            // Who never spoke 5 gets three tries.
            Fault::HungUp(_) if self.version == MqttVersion::V5 => {
                self.hang_ups += 1;
                if self.spoke_5.contains(&endpoint) || !self.hang_ups.is_multiple_of(3) {
                    return false;
                }
            }
            Fault::HungUp(_) => {}
            Fault::Refused(_) | Fault::TakenOver => return false,
            // Nobody was there to be too old for anything.
            Fault::Closed(_) | Fault::Broken(_) => {
                self.version = self.settings.version;
                return false;
            }
        }
        let fell_back = self.settings.version == MqttVersion::V5 && self.version == MqttVersion::V5;
        self.version = if fell_back { MqttVersion::V311 } else { self.settings.version };
        fell_back
    }

    /// One connection from CONNECT to its end; the first part is when it was up.
    async fn connection(
        &mut self,
        number: usize,
        between: &mut Between,
        cancel: &CancellationToken,
    ) -> (Option<Instant>, Ended) {
        let first = self.settings.endpoints.first().filter(|_| number > 0).cloned();
        let Some(endpoint) = self.settings.endpoints.get(number).cloned() else {
            return (None, Ended::Fault(Fault::Refused("no endpoint is configured".to_owned())));
        };
        self.status.send_modify(|s| {
            s.state = LinkState::Connecting;
            s.endpoint = endpoint.to_string();
        });
        let remains = between.remains.take();
        let has_session = remains.is_some();
        let target = Target {
            settings: &self.settings,
            endpoint: &endpoint,
            version: self.version,
            will: self.state.as_ref(),
            session: self.keeping,
        };
        let mut link = match Link::open(&target, remains) {
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
                Some(Ok(Event::Received(_) | Event::Answered(..))) => continue,
                Some(Ok(Event::Down(fault))) => fault,
                Some(Err(_)) => Fault::Broken(format!("no answer to CONNECT within {} s", patience.as_secs_f32())),
            };
            self.patience.failed();
            // One that never was up has nothing to be carried over.
            between.remains = if has_session { link.end().await.1 } else { None };
            return (None, Ended::Fault(fault));
        };
        let up = Instant::now();
        self.patience.connected(up - began);
        if self.version == MqttVersion::V5 {
            self.spoke_5.insert(number);
        }
        let mut session = self.begin(link, peer, std::mem::take(&mut between.carried)).await;
        session.first = Some(Box::pin(session.link.better(first, self.return_after)) as FirstIsBack);
        let ended = self.serve(&mut session, cancel).await;
        self.settle(&mut session).await;
        match ended {
            Ended::Stopped | Ended::Return => self.goodbye(session).await,
            Ended::Fault(_) if self.keeping == Keeping::Session => {
                *between = self.carry(session).await;
            }
            Ended::Fault(_) => {}
        }
        (Some(up), ended)
    }

    /// Ends the connection and keeps what is under way for the next one.
    async fn carry(&mut self, session: Session) -> Between {
        let Session { link, waiting, mut answers, .. } = session;
        let (late, remains) = link.end().await;
        // The library may have heard of something on its way out.
        let noticed = std::iter::from_fn(|| answers.next().now_or_never().flatten());
        let all = late.into_iter().chain(noticed).filter(|(_, outcome)| *outcome == Outcome::Acknowledged);
        self.answered.extend(all.map(|(seq, _)| (seq, Fate::Taken)));
        let under_way = remains.as_ref().map(Remains::entries).unwrap_or_default();
        let carried =
            waiting.into_iter().filter(|(seq, _)| under_way.contains(seq) && !self.answered.contains_key(seq));
        Between { carried: carried.collect(), remains }
    }

    async fn begin(&mut self, link: Link, peer: Peer, carried: BTreeMap<Seq, Handed>) -> Session {
        tracing::info!(upstream = %self.settings.name, version = peer.version, "connected");
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
            let _ = link.publish(&allowed(state.clone(), &peer), Bytes::from_static(b"online"), None, None);
        }
        let window = usize::from(self.settings.in_flight.min(peer.receive_maximum).max(1));
        let resumed = peer.resumed;
        let mut session = Session::new(link, peer, window, standing);
        session.most = Pace::new(self.settings.preset.and_then(|p| p.facts().rate));
        if resumed {
            let again = session.adopt(carried, Instant::now());
            self.status.send_modify(|s| s.resent += again);
        }
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
                if lane.ready.len() < READ_AHEAD && lane.reading.is_none() {
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
                _ = s.looks.tick() => Happened::Look,
                () = back(&mut s.first) => Happened::FirstIsBack,
            };
            match happened {
                Happened::Stop => return Ended::Stopped,
                Happened::Look => self.look(s),
                Happened::Link(Event::Down(fault)) => return Ended::Fault(fault),
                Happened::Link(Event::Connected(_)) | Happened::Pace => {}
                Happened::Link(Event::Received(message)) => self.received(message).await,
                Happened::Link(Event::Answered(seq, outcome)) => {
                    if let Some(fault) = self.answers(s, seq, outcome) {
                        return Ended::Fault(fault);
                    }
                }
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

    async fn received(&self, message: Message) {
        let Some(to) = mapping::map_in(&self.settings.receive, &message.topic, message.qos, message.retain) else {
            return;
        };
        self.status.send_modify(|s| s.received += 1);
        // A rule may take the flag off; a command that was kept up there is refused all the same.
        let from = Origin::Upstream { name: Arc::clone(&self.settings.name), retain: message.retain };
        let from = Some(Arc::new(from));
        let message = Message { topic: to.topic, qos: to.qos, retain: to.retain, from, ..message };
        // A full inlet holds the peer back instead of dropping a command.
        let _ = self.to_local.send(vec![message]).await;
    }

    async fn goodbye(&mut self, mut s: Session) {
        let end = Instant::now() + GOODBYE;
        if let Some(state) = &self.state {
            let offline = s.link.publish(&allowed(state.clone(), &s.peer), Bytes::from_static(b"offline"), None, None);
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
