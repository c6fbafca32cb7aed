//! The task that polls one line: takes what the timetable says, asks for it in the planner's reads, and hands on samples.
//! It decides nothing itself but the order of steps; every due point ends a turn with exactly one sample, unless its device
//! is offline: then it gets one, and is not asked again before a probe is answered.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Data, ReadRequest, Reply};
use crate::config::plant::{Line, Port};
use crate::point::{AddressRange, DeviceId, Table};
use crate::poll::health::{self, Silence, Turn};
use crate::poll::member::{Member, Slot};
use crate::poll::plan::{self, Cost};
use crate::poll::schedule::{Clocks, Due, Timetable};
use crate::poll::{DeviceEvent, Parts};
use crate::sample::{Reason, Sample};
use crate::status::{DeviceState, LineStatus};
use crate::time;

const TABLES: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];
/// How often the status is told, and over how long the load is taken.
const TELL_EVERY: Duration = Duration::from_secs(1);
const LOAD_OVER: Duration = Duration::from_secs(10);
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

/// One read of a member's table.
#[derive(Clone, Copy)]
struct Block {
    at: usize,
    table: Table,
    read: AddressRange,
}

/// What has been read so far in a turn, and what has not.
struct Round {
    open: Vec<Slot>,
    answered: HashSet<Slot>,
    /// Reads whose points wait for a scale factor.
    waiting: Vec<(Slot, AddressRange, Data, Instant)>,
    splits: Vec<(AddressRange, AddressRange)>,
}

/// Polls one line until cancelled.
pub struct PollTask {
    line: Line,
    members: Vec<Member>,
    table: Timetable,
    bus: Bus,
    out: mpsc::Sender<Vec<Sample>>,
    events: mpsc::Sender<DeviceEvent>,
    status: watch::Sender<LineStatus>,
    origin: Instant,
    tell_at: Instant,
    busy: VecDeque<(Instant, Duration)>,
    missed_turns: u64,
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
        let members: Vec<Member> = parts.devices.into_iter().map(|d| (own(d.id), d)).map(member).collect();
        let (status, seen) = watch::channel(LineStatus::default());
        let line = parts.line;
        let busy = VecDeque::new();
        let task = Self {
            line,
            members,
            table,
            bus,
            out,
            events,
            status,
            origin,
            tell_at: origin,
            busy,
            missed_turns: 0,
            gone_since: None,
        };
        task.status.send_replace(task.snapshot(0.0));
        (seen, task)
    }

    /// Until cancelled, or until the receiver of its samples or the bus has gone. A read that is cut here is finished by the
    /// bus: nothing on the wire is ever cut.
    pub async fn run(mut self, cancelled: CancellationToken) {
        self.origin = Instant::now() - self.clocks().now;
        tokio::select! {
            () = cancelled.cancelled() => {}
            _ = self.work() => {}
        }
    }

    async fn work(&mut self) -> Result<(), Closed> {
        loop {
            let clocks = self.clocks();
            if Instant::now() >= self.tell_at {
                self.tell();
            }
            if let Some(at) = self.due_probe(clocks.now) {
                self.probe(at).await?;
            } else if let Some(due) = self.table.take(clocks) {
                self.turn(&due).await?;
            } else {
                tokio::time::sleep_until(self.next_step()).await;
            }
        }
    }

    fn clocks(&self) -> Clocks {
        Clocks { now: Instant::now().saturating_duration_since(self.origin), wall_us: time::now().wall_us }
    }

    fn next_step(&self) -> Instant {
        let now = self.clocks().now;
        // A probe that found no room waits for the turns that are in its way, but not for ever.
        let probes = self.members.iter().filter_map(|m| m.health.probe_at());
        let probes = probes.map(|at| if at <= now { at + health::PATIENCE } else { at });
        let next = probes.chain(self.table.next()).min().map_or(self.tell_at, |at| self.origin + at);
        next.min(self.tell_at)
    }

    /// The device whose probe is due, once it delays nobody or has waited long enough.
    fn due_probe(&self, now: Duration) -> Option<usize> {
        let due = |m: &Member| m.health.probe_at().filter(|at| *at <= now);
        let oldest = self.members.iter().enumerate().filter_map(|(n, m)| Some((due(m)?, n))).min()?;
        let is_live = |id| self.members.iter().any(|m| m.device.id == id && m.health.probe_at().is_none());
        let room = self.table.next_of(is_live).is_none_or(|next| now + self.silence().probe <= next);
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
        let result = self.bus.probe(request, wait).await;
        if let Outcome::Silent(Reason::LineDown) = self.judge(at, result).await? {
            // Not the device's fault, but the next probe must still wait.
            self.miss(at, Reason::LineDown).await?;
        }
        Ok(())
    }

    async fn turn(&mut self, due: &Due) -> Result<(), Closed> {
        let Some(at) = self.members.iter().position(|m| m.device.id == due.device) else { return Ok(()) };
        if self.members[at].health.state() == DeviceState::Offline {
            return Ok(());
        }
        self.missed_turns += due.missed;
        let slots = self.members[at].slots(&due.points);
        let open = slots.iter().copied().filter(|s| self.members[at].wire(*s).is_some()).collect();
        let mut round = Round { open, answered: HashSet::new(), waiting: Vec::new(), splits: Vec::new() };
        for table in TABLES {
            if let Some(reason) = self.read_table(at, table, &mut round).await? {
                self.fail_open(at, &mut round, reason).await?;
                break;
            }
        }
        self.finish(at, &slots, round).await?;
        if self.members[at].health.state() == DeviceState::Offline {
            self.fail_the_rest(at, &slots).await?;
        }
        Ok(())
    }

    /// All reads of one table. Returns why the turn has to end, where it has to.
    async fn read_table(&mut self, at: usize, table: Table, round: &mut Round) -> Result<Option<Reason>, Closed> {
        let member = &self.members[at];
        let wanted = member.wanted(table, &round.open);
        if wanted.is_empty() {
            return Ok(None);
        }
        let cost = Cost::new(&self.line, member.turnaround(&self.line));
        let mut reads = plan::plan(table, &wanted, member.limit(table), cost, &member.holes(table));
        reads.reverse();
        round.splits.clear();
        while let Some(read) = reads.pop() {
            let block = Block { at, table, read };
            match self.ask(at, table, read).await? {
                Outcome::Words(reply) => self.take(block, reply, round).await?,
                Outcome::Silent(reason) => return Ok(Some(reason)),
                Outcome::Garbled => self.fail_read(block, round, Reason::Crc).await?,
                Outcome::Refused(code) => {
                    let split = if matches!(code, 2 | 3) { plan::halves(read, &wanted) } else { None };
                    if let Some((low, high)) = split {
                        round.splits.push((low, high));
                        reads.extend([high, low]);
                    } else {
                        if matches!(code, 2 | 3) {
                            self.learn_hole(at, table, read);
                        }
                        self.fail_read(block, round, Reason::Exception(code)).await?;
                    }
                }
            }
        }
        self.learn_seams(at, table, round, &wanted);
        Ok(None)
    }

    fn learn_hole(&mut self, at: usize, table: Table, range: AddressRange) {
        let member = &mut self.members[at];
        if member.holes_mut(table).bury(range) {
            tracing::warn!(device = %member.device.name, %table, %range, "the device does not have this; not asked again");
        }
    }

    /// Where both halves answered and the whole did not, nothing may reach across again.
    fn learn_seams(&mut self, at: usize, table: Table, round: &Round, wanted: &[AddressRange]) {
        let member = &mut self.members[at];
        let good: HashSet<AddressRange> = round
            .answered
            .iter()
            .filter_map(|s| member.wire(*s))
            .filter(|w| w.table == table)
            .map(|w| w.range)
            .collect();
        let whole = |half: AddressRange| wanted.iter().filter(|w| half.contains(**w)).all(|w| good.contains(w));
        for (low, high) in &round.splits {
            if whole(*low) && whole(*high) && member.holes_mut(table).seam(u32::from(high.start())) {
                tracing::info!(device = %member.device.name, %table, %low, %high, "read apart from now on");
            }
        }
    }

    /// Samples of every open point that lies in this reply.
    async fn take(&mut self, block: Block, reply: Reply, round: &mut Round) -> Result<(), Closed> {
        let Block { at, table, read } = block;
        let taken = time::stamp_of(reply.arrived);
        let member = &mut self.members[at];
        let mut samples = Vec::new();
        for slot in take_from(member, table, read, &mut round.open) {
            round.answered.insert(slot);
            if member.waits_for_others(slot) {
                round.waiting.push((slot, read, reply.data.clone(), reply.arrived));
            } else {
                samples.push(member.read(slot, read, &reply.data, taken));
            }
        }
        self.send(samples).await
    }

    async fn fail_read(&mut self, block: Block, round: &mut Round, reason: Reason) -> Result<(), Closed> {
        let Block { at, table, read } = block;
        let now = time::now();
        let member = &mut self.members[at];
        let slots = take_from(member, table, read, &mut round.open);
        let samples = slots.into_iter().map(|slot| member.fail(slot, reason, now)).collect();
        self.send(samples).await
    }

    async fn fail_open(&mut self, at: usize, round: &mut Round, reason: Reason) -> Result<(), Closed> {
        let now = time::now();
        let member = &mut self.members[at];
        let samples = round.open.drain(..).map(|slot| member.fail(slot, reason, now)).collect();
        self.send(samples).await
    }

    /// What waited for scale factors, what holes hide, and what is computed, in this order.
    async fn finish(&mut self, at: usize, slots: &[Slot], round: Round) -> Result<(), Closed> {
        let now = time::now();
        let member = &mut self.members[at];
        let mut samples = Vec::new();
        for (slot, read, data, arrived) in &round.waiting {
            samples.push(member.read(*slot, *read, data, time::stamp_of(*arrived)));
        }
        samples.extend(round.open.iter().map(|slot| member.refused(*slot, now)));
        for slot in slots.iter().copied() {
            if member.wire(slot).is_none() {
                samples.push(member.compute(slot, now));
            }
        }
        self.send(samples).await
    }

    /// The device has just gone offline: points that were not due say so too, once.
    async fn fail_the_rest(&mut self, at: usize, said: &[Slot]) -> Result<(), Closed> {
        let now = time::now();
        let member = &mut self.members[at];
        let rest: Vec<Slot> = member.all().into_iter().filter(|slot| !said.contains(slot)).collect();
        let samples = rest.into_iter().map(|slot| member.fail(slot, Reason::Offline, now)).collect();
        self.send(samples).await
    }

    async fn send(&self, samples: Vec<Sample>) -> Result<(), Closed> {
        // Full: the poll waits, and the timetable counts the turns that passes over.
        if samples.is_empty() { Ok(()) } else { self.out.send(samples).await.map_err(|_| Closed) }
    }

    /// One read, and what it says about the device's health.
    async fn ask(&mut self, at: usize, table: Table, range: AddressRange) -> Result<Outcome, Closed> {
        let request = ReadRequest { unit: self.members[at].device.unit_id, table, range };
        let result = self.bus.read(request).await;
        self.judge(at, result).await
    }

    async fn judge(&mut self, at: usize, result: Result<Reply, BusError>) -> Result<Outcome, Closed> {
        match result {
            Ok(reply) => {
                self.members[at].thought_for(reply.turnaround);
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
            Err(BusError::ShutDown) => Err(Closed),
        }
    }

    async fn answered(&mut self, at: usize) -> Result<(), Closed> {
        let member = &mut self.members[at];
        let was = member.health.state();
        self.gone_since = None;
        let cut = std::mem::take(&mut member.cut);
        if member.health.answered() != Turn::Online && !cut {
            return Ok(());
        }
        member.reason = None;
        let device = member.device.id;
        if was == DeviceState::Offline {
            tracing::info!(device = %member.device.name, "device online again");
            member.forget_holes();
            self.table.hurry(device);
        }
        self.tell();
        self.events.send(DeviceEvent { device, online: true, reason: None }).await.map_err(|_| Closed)
    }

    /// A line that stays down takes its devices with it. They are asked at every turn all the same, which costs nothing while
    /// there is no wire, so that the first answer brings each back at once.
    async fn line_gone(&mut self) -> Result<(), Closed> {
        let now = Instant::now();
        if now.duration_since(*self.gone_since.get_or_insert(now)) < GONE_AFTER {
            return Ok(());
        }
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if member.cut || member.health.state() == DeviceState::Offline {
                continue;
            }
            member.cut = true;
            member.reason = Some(Reason::LineDown);
            let event = DeviceEvent { device: member.device.id, online: false, reason: member.reason };
            self.events.send(event).await.map_err(|_| Closed)?;
        }
        Ok(())
    }

    async fn miss(&mut self, at: usize, reason: Reason) -> Result<(), Closed> {
        let now = self.clocks().now;
        let silence = self.silence();
        let member = &mut self.members[at];
        member.failures += 1;
        let Turn::Offline(reason) = member.health.missed(now, reason, silence) else { return Ok(()) };
        let (line, unit) = (&self.line.name, member.device.unit_id);
        let see = format!("trunkline trace {line} --last 1m --unit {unit}");
        tracing::warn!(device = %member.device.name, %reason, see, "device offline");
        member.reason = Some(reason);
        let event = DeviceEvent { device: member.device.id, online: false, reason: Some(reason) };
        self.tell();
        self.events.send(event).await.map_err(|_| Closed)
    }

    fn tell(&mut self) {
        let now = Instant::now();
        self.tell_at = now + TELL_EVERY;
        let busy = self.bus.status().borrow().busy;
        self.busy.push_back((now, busy));
        while self.busy.len() > 2 && self.busy.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LOAD_OVER) {
            self.busy.pop_front();
        }
        let load = self.busy.front().map_or(0.0, |(at, was)| share(busy.saturating_sub(*was), now.duration_since(*at)));
        self.status.send_replace(self.snapshot(load));
    }

    fn snapshot(&self, load: f64) -> LineStatus {
        let bus = self.bus.status();
        let bus = bus.borrow();
        LineStatus {
            name: self.line.name.to_string(),
            port: match &self.line.port {
                Port::Serial(port) => port.path.display().to_string(),
                Port::Tcp(address) | Port::RtuOverTcp(address) => address.clone(),
            },
            up: bus.up,
            error: bus.error.clone(),
            load,
            wire: bus.wire,
            missed_turns: self.missed_turns,
            devices: self.members.iter().map(Member::status).collect(),
        }
    }
}

fn member((points, device): (Vec<crate::config::plant::Point>, crate::config::plant::Device)) -> Member {
    Member::new(device, points)
}

fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { (part.as_secs_f64() / whole.as_secs_f64()).min(1.0) }
}

/// Takes the open points that lie in a read out of the list.
fn take_from(member: &Member, table: Table, read: AddressRange, open: &mut Vec<Slot>) -> Vec<Slot> {
    let inside = |slot: &Slot| member.wire(*slot).is_some_and(|w| w.table == table && read.contains(w.range));
    let (taken, left) = open.iter().partition(|slot| inside(slot));
    *open = left;
    taken
}
