//! The task that polls one line: asks the agenda which turn goes on, the turn what to ask, the bus for it, and hands on the
//! samples. It decides nothing itself but the order of steps. A device that is offline is not asked before a probe is
//! answered; a read to be tried again waits until its device may be asked, and the line is the others' meanwhile.

mod identify;
mod orders;
mod refit;
mod report;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Pause, ReadRequest, Reply};
use crate::config::plant::{Line, Port};
use crate::point::DeviceId;
use crate::poll::agenda::{Agenda, Begun, Next};
use crate::poll::health::{self, Change, Silence};
use crate::poll::identity::Step;
use crate::poll::learned::Lessons;
use crate::poll::member::Member;
use crate::poll::overload::Overload;
use crate::poll::plan;
use crate::poll::schedule::{Clocks, Due, Timetable};
use crate::poll::turn::{Finding, Read, Turn};
use crate::poll::{DeviceEvent, Fitter, ORDERS, Order, Parts, Refit};
use crate::sample::{Reason, Sample};
use crate::status::{DeviceState, LineStatus};
use crate::time;

/// A line that is down this long takes its devices offline; an adapter that is plugged in again comes back sooner.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// Whoever took the samples, or the bus, has ended.
struct Closed;

/// What one read came to.
enum Outcome {
    Words(Reply),
    Refused(u8),
    /// The device was silent, or the line is down: no use in asking on.
    Silent(Reason),
    Garbled,
}

/// Polls one line until cancelled.
pub struct PollTask {
    line: Line,
    members: Vec<Member>,
    agenda: Agenda<Turn>,
    bus: Bus,
    out: mpsc::Sender<Vec<Sample>>,
    events: mpsc::Sender<DeviceEvent>,
    status: watch::Sender<LineStatus>,
    /// By which the next turn is awaited.
    pause: Pause,
    origin: Instant,
    tell_at: Instant,
    busy: VecDeque<(Instant, Duration)>,
    missed_turns: u64,
    /// Second and further tries.
    retries: u64,
    overload: Overload,
    lessons: Lessons,
    orders: mpsc::Receiver<Order>,
    /// Given to whoever orders; held, so that the queue never closes.
    desk: mpsc::Sender<Order>,
    /// Other devices for this line: one at a time, the next waits.
    refits: mpsc::Receiver<Refit>,
    /// As `desk`.
    fitter: mpsc::Sender<Refit>,
    /// Since when the line is down.
    gone_since: Option<Instant>,
}

impl PollTask {
    pub(crate) fn new(
        parts: Parts,
        bus: Bus,
        out: mpsc::Sender<Vec<Sample>>,
        events: mpsc::Sender<DeviceEvent>,
    ) -> (watch::Receiver<LineStatus>, Self) {
        let origin = Instant::now();
        let clocks = Clocks { now: Duration::ZERO, wall_us: time::now().wall_us };
        let rows = parts.points.iter().map(|p| (p.device, p.id, &p.schedule));
        let table = Timetable::new(rows, clocks, jiff::tz::TimeZone::system());
        let own = |id: DeviceId| parts.points.iter().filter(|p| p.device == id).cloned().collect();
        let members = parts.devices.into_iter().map(|device| {
            let lesson = parts.lessons.of(&device.name);
            let mut member = Member::new(device.clone(), own(device.id), &parts.line);
            member.recall(&lesson);
            member
        });
        let members: Vec<Member> = members.collect();
        let (status, seen) = watch::channel(LineStatus::default());
        let line = parts.line;
        let busy = VecDeque::new();
        let (desk, orders) = mpsc::channel(ORDERS);
        let (fitter, refits) = mpsc::channel(1);
        let task = Self {
            line,
            members,
            agenda: Agenda::new(table),
            bus,
            out,
            events,
            status,
            pause: Pause::default(),
            origin,
            tell_at: origin,
            busy,
            missed_turns: 0,
            retries: 0,
            overload: Overload::default(),
            lessons: parts.lessons,
            orders,
            desk,
            refits,
            fitter,
            gone_since: None,
        };
        task.status.send_replace(task.snapshot(0.0));
        (seen, task)
    }

    /// Where orders are taken.
    pub fn desk(&self) -> mpsc::Sender<Order> {
        self.desk.clone()
    }

    /// Where other devices are taken.
    pub fn fitter(&self) -> Fitter {
        Fitter(self.fitter.clone())
    }

    /// Turns begin to the microsecond, by a clock that nobody can pause. To be called on a runtime.
    #[must_use]
    pub fn precise(mut self) -> Self {
        self.pause = Pause::precise();
        self
    }

    /// Until cancelled, or until the receiver of its samples or the bus has gone. A read that is cut here is finished by the
    /// bus: nothing on the wire is ever cut.
    pub async fn run(mut self, cancelled: CancellationToken) {
        self.origin = Instant::now() - self.clocks().now;
        tokio::select! {
            () = cancelled.cancelled() => {}
            _ = self.work() => {}
        }
        self.lessons.note(self.members.iter().map(Member::taught));
    }

    async fn work(&mut self) -> Result<(), Closed> {
        loop {
            let clocks = self.clocks();
            if Instant::now() >= self.tell_at {
                self.tell();
            }
            self.forget_as_wished();
            if let Ok(refit) = self.refits.try_recv() {
                self.refit(refit).await?;
                continue;
            }
            if let Ok(order) = self.orders.try_recv() {
                self.obey(order).await?;
                continue;
            }
            if let Some(at) = self.due_probe(clocks.now) {
                self.probe(at).await?;
                continue;
            }
            match self.agenda.next(clocks) {
                Next::Begin(due) => self.begin(&due),
                Next::GoOn(turn) => self.go_on(turn).await?,
                Next::Wait(until) => self.wait_until(until).await?,
            }
        }
    }

    /// Until the next turn, or until somebody wants something.
    async fn wait_until(&mut self, turn: Option<Duration>) -> Result<(), Closed> {
        let next = self.next_step(turn);
        let members = &self.members;
        let (mut order, mut refit) = (None, None);
        tokio::select! {
            () = self.pause.until(next) => {}
            () = self.lessons.wished(|device| orders::has(members, device)) => {}
            wanted = self.orders.recv() => order = wanted,
            wanted = self.refits.recv() => refit = wanted,
        }
        if let Some(order) = order {
            self.obey(order).await?;
        }
        match refit {
            Some(refit) => self.refit(refit).await,
            None => Ok(()),
        }
    }

    fn clocks(&self) -> Clocks {
        Clocks { now: Instant::now().saturating_duration_since(self.origin), wall_us: time::now().wall_us }
    }

    fn next_step(&self, turn: Option<Duration>) -> Instant {
        let now = self.clocks().now;
        // A probe that found no room waits for the turns that are in its way, but not for ever.
        let probes = self.members.iter().filter(|m| !m.paused).filter_map(|m| m.health.probe_at());
        let probes = probes.map(|at| if at <= now { at + health::PATIENCE } else { at });
        let next = probes.chain(turn).min().map_or(self.tell_at, |at| self.origin + at);
        next.min(self.tell_at)
    }

    /// The device whose probe is due, once it delays nobody or has waited long enough.
    fn due_probe(&self, now: Duration) -> Option<usize> {
        let due = |m: &Member| m.health.probe_at().filter(|at| *at <= now && !m.paused);
        let oldest = self.members.iter().enumerate().filter_map(|(n, m)| Some((due(m)?, n))).min()?;
        let is_live = |id| self.members.iter().any(|m| m.device.id == id && m.health.probe_at().is_none() && !m.paused);
        let next = self.agenda.table.next_of(is_live);
        let room = !self.agenda.is_busy(now) && next.is_none_or(|next| now + self.silence().probe <= next);
        (room || oldest.0 + health::PATIENCE <= now).then_some(oldest.1)
    }

    /// What one more unanswered probe costs now.
    fn silence(&self) -> Silence {
        let silent = self.members.iter().filter(|m| m.health.state() == DeviceState::Offline).count();
        let devices = u32::try_from(silent).unwrap_or(u32::MAX).max(1);
        let most = plan::question(&self.line) + self.line.timeout;
        Silence { devices, probe: most.min(Silence::affordable(devices)) }
    }

    async fn probe(&mut self, at: usize) -> Result<(), Closed> {
        let Some((table, range)) = self.members[at].probe() else {
            self.miss(at, Reason::Offline).await?;
            return Ok(());
        };
        let request = ReadRequest { unit: self.members[at].device.unit_id, table, range };
        let wait = self.silence().probe.saturating_sub(plan::question(&self.line));
        // What answered before is given the time it took then.
        let wait = wait.max(self.members[at].turnaround(&self.line) * 2);
        let bus = self.bus.clone();
        let result = self.telling(bus.read_once(request, wait)).await;
        if let Outcome::Silent(Reason::LineDown) = self.judge(at, result).await? {
            // Not the device's fault, but the next probe must still wait.
            self.miss(at, Reason::LineDown).await?;
        }
        Ok(())
    }

    fn begin(&mut self, due: &Due) {
        let Some(at) = self.members.iter().position(|m| m.device.id == due.device) else { return };
        if self.members[at].paused || self.members[at].health.state() == DeviceState::Offline {
            return;
        }
        self.missed_turns += due.missed;
        let member = &mut self.members[at];
        let planned = member.planned(&due.points, &self.line);
        let turn = Turn::new(at, member, &planned);
        self.agenda.begin(due, turn, member.quiet_until);
    }

    /// The turn's next read, or its end.
    async fn go_on(&mut self, mut begun: Begun<Turn>) -> Result<(), Closed> {
        let at = begun.work.at;
        let step = self.members[at].identity.step(self.clocks().now);
        if step != Step::Pass {
            return self.identify(begun, step).await;
        }
        let Some(read) = begun.work.next() else { return self.finish(begun.work).await };
        let request = ReadRequest { unit: self.members[at].device.unit_id, table: read.table, range: read.range };
        let bus = self.bus.clone();
        let result = self.telling(bus.read_once(request, self.wait(at, read))).await;
        if let Some(pause) = self.pause_after(&result) {
            let until = self.clocks().now + pause;
            self.members[at].quiet_until = until;
            self.agenda.quiet(begun.device, until);
            if result == Err(BusError::NoReply) {
                self.members[at].wait.missed();
            }
            if read.tries < self.line.retries {
                self.retries += 1;
                begun.work.try_again();
                self.agenda.rest(begun, until);
                return Ok(());
            }
        }
        let outcome = self.judge(at, result).await?;
        let (member, turn) = (&mut self.members[at], &mut begun.work);
        let (samples, lesson) = match outcome {
            Outcome::Words(reply) => (turn.answered(member, &reply.data, time::stamp_of(reply.arrived)), None),
            Outcome::Refused(code) => turn.refused(member, code, time::now()),
            Outcome::Garbled => (turn.failed(member, Reason::Crc, time::now()), None),
            Outcome::Silent(reason) => (turn.give_up(member, reason, time::now()), None),
        };
        self.learnt(at, lesson);
        self.send(samples).await?;
        if begun.work.next().is_none() {
            return self.finish(begun.work).await;
        }
        self.agenda.put_back(begun);
        Ok(())
    }

    /// As long as this device has been seen to need; the last chance gets all the time there is. So does every question on
    /// Modbus TCP, where a miss costs the connection.
    fn wait(&self, at: usize, read: Read) -> Duration {
        let is_last = read.tries > 0 && read.tries >= self.line.retries;
        if is_last || matches!(self.line.port, Port::Tcp(_)) { self.line.timeout } else { self.members[at].wait.now() }
    }

    /// How long to leave the device alone, where the same may be asked again.
    fn pause_after(&self, result: &Result<Reply, BusError>) -> Option<Duration> {
        let error = result.as_ref().err()?;
        let pause = error.heals_after(self.line.timeout)?;
        // A Modbus TCP connection is made anew after a miss: no late answer can come. A busy device gets its moment.
        let is_clean = matches!(self.line.port, Port::Tcp(_)) && !matches!(error, BusError::Refused(_));
        Some(if is_clean { Duration::ZERO } else { pause })
    }

    async fn finish(&mut self, turn: Turn) -> Result<(), Closed> {
        let at = turn.at;
        let (slots, is_wanted) = (turn.slots().to_vec(), turn.is_wanted());
        let (samples, lessons) = turn.finish(&mut self.members[at], time::now());
        lessons.into_iter().for_each(|lesson| self.learnt(at, Some(lesson)));
        self.send(samples).await?;
        if is_wanted {
            self.read_what_was_wished(at);
        }
        if self.members[at].health.state() == DeviceState::Offline {
            self.agenda.abandon(self.members[at].device.id);
            self.fail_the_rest(at, &slots, Reason::Offline).await?;
        }
        Ok(())
    }

    /// Said once, when it is learnt, and kept soon.
    fn learnt(&mut self, at: usize, lesson: Option<Finding>) {
        let Some(lesson) = lesson else { return };
        self.tell_at = Instant::now();
        let device = &self.members[at].device.name;
        match lesson {
            Finding::Hole(table, range) => {
                tracing::warn!(%device, %table, %range, "the device does not have this; not asked again");
            }
            Finding::Seam(table, low, high) => {
                tracing::info!(%device, %table, %low, %high, "read apart from now on");
            }
        }
    }

    /// The device has just gone offline, or is another: points that were not due say so too, once.
    async fn fail_the_rest(&mut self, at: usize, said: &[usize], reason: Reason) -> Result<(), Closed> {
        let now = time::now();
        let member = &mut self.members[at];
        let rest: Vec<_> = member.all().into_iter().filter(|slot| !said.contains(slot)).collect();
        let samples = rest.into_iter().map(|slot| member.fail(slot, reason, now)).collect();
        self.send(samples).await
    }

    async fn send(&self, samples: Vec<Sample>) -> Result<(), Closed> {
        // Full: the poll waits, and the timetable counts the turns that passes over.
        if samples.is_empty() { Ok(()) } else { self.out.send(samples).await.map_err(|_| Closed) }
    }

    /// What a read, all tries included, says about the device's health.
    async fn judge(&mut self, at: usize, result: Result<Reply, BusError>) -> Result<Outcome, Closed> {
        match result {
            Ok(reply) => {
                self.members[at].wait.answered(reply.turnaround);
                self.members[at].replies += 1;
                self.answered(at).await?;
                Ok(Outcome::Words(reply))
            }
            // A gateway on the way says that the device behind it cannot be reached (V1.1b3, 7).
            Err(BusError::Refused(code @ (0x0A | 0x0B))) => {
                self.miss(at, Reason::Exception(code)).await?;
                Ok(Outcome::Silent(Reason::Exception(code)))
            }
            Err(BusError::Refused(code)) => {
                self.members[at].failures += 1;
                self.answered(at).await?;
                Ok(Outcome::Refused(code))
            }
            Err(BusError::NoReply) => {
                self.miss(at, Reason::Timeout).await?;
                Ok(Outcome::Silent(Reason::Timeout))
            }
            Err(BusError::Garbled(_)) => {
                self.miss(at, Reason::Crc).await?;
                Ok(Outcome::Garbled)
            }
            Err(BusError::LineDown(_)) => {
                self.line_gone().await?;
                Ok(Outcome::Silent(Reason::LineDown))
            }
            // A read has no time to miss.
            Err(BusError::TooLate | BusError::NotSent | BusError::ShutDown) => Err(Closed),
        }
    }

    async fn answered(&mut self, at: usize) -> Result<(), Closed> {
        let member = &mut self.members[at];
        let was = member.health.state();
        self.gone_since = None;
        // A paused device answers whoever asks it on purpose, and stays paused. What another one answers is worth nothing.
        let cut = !member.paused && !member.identity.is_another() && std::mem::take(&mut member.cut);
        if member.health.answered() != Change::Online && !cut {
            return Ok(());
        }
        member.reason = None;
        let device = member.device.id;
        if was == DeviceState::Offline {
            tracing::info!(device = %member.device.name, "device online again");
            self.agenda.table.hurry(device);
        }
        if was == DeviceState::Offline || cut {
            member.doubt_holes();
        }
        let is_known = !self.members[at].identity.is_open();
        self.tell();
        // Before it is known who answers, nobody is told that it does.
        if is_known { self.events.send(DeviceEvent::online(device)).await.map_err(|_| Closed) } else { Ok(()) }
    }

    /// A line that stays down takes its devices with it. They are asked at every turn all the same, which costs nothing while
    /// there is no wire, so that the first answer brings each back at once.
    async fn line_gone(&mut self) -> Result<(), Closed> {
        let now = Instant::now();
        if now.duration_since(*self.gone_since.get_or_insert(now)) < GONE_AFTER {
            return Ok(());
        }
        let mut is_news = false;
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if member.cut || member.paused || member.health.state() == DeviceState::Offline {
                continue;
            }
            member.cut = true;
            member.reason = Some(Reason::LineDown);
            member.identity.doubt();
            let event = DeviceEvent::offline(member.device.id, member.reason);
            let samples =
                member.all().into_iter().map(|slot| member.fail(slot, Reason::LineDown, time::now())).collect();
            self.send(samples).await?;
            self.events.send(event).await.map_err(|_| Closed)?;
            is_news = true;
        }
        if is_news {
            self.tell();
        }
        Ok(())
    }

    async fn miss(&mut self, at: usize, reason: Reason) -> Result<(), Closed> {
        let now = self.clocks().now;
        let silence = self.silence();
        let member = &mut self.members[at];
        member.failures += 1;
        let Change::Offline(reason) = member.health.missed(now, reason, silence) else { return Ok(()) };
        let (line, unit) = (&self.line.name, member.device.unit_id);
        let see = format!("trunkline trace {line} --last 1m --unit {unit}");
        tracing::warn!(device = %member.device.name, %reason, see, "device offline");
        member.reason = Some(reason);
        member.identity.doubt();
        let event = DeviceEvent::offline(member.device.id, Some(reason));
        self.tell();
        self.events.send(event).await.map_err(|_| Closed)
    }
}
