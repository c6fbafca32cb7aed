//! The hostile line: every kind of trouble at random, every value compared with what the register held. Registers change
//! before each question, so that a value of another place or another moment is seen. Unpaced, for the numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bench::work::F8N1;
use crate::bench::work::device;
use crate::bench::work::line;
use crate::bench::work::serial_port;
use crate::bus;
use crate::bus::Bus;
use crate::bus::Data;
use crate::bus::ReadRequest;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;
use crate::sim;
use crate::sim::Dice;
use crate::sim::Fault;
use crate::sim::Hostility;
use crate::sim::LineOptions;
use crate::sim::Shared;
use crate::status::WireCounts;

/// Short, so that many misses fit into a minute; a late answer comes up to six times later.
const TIMEOUT: Duration = Duration::from_millis(20);
/// On each line.
const DEVICES: u8 = 3;
/// Registers asked for: few, so that blocks of the same shape are frequent.
const REGISTERS: u32 = 40;

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// Lines at once, each with luck of its own.
    pub lines: u64,
    /// Reads asked for on each.
    pub reads: u32,
    /// Share of answers in trouble.
    pub trouble: f64,
}

impl Soak {
    /// 204,800 reads, a fifth of the answers in trouble.
    pub const FULL: Self = Self { lines: 32, reads: 6_400, trouble: 0.2 };
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Reads asked for.
    pub asked: u64,
    /// Answered with what the registers held.
    pub right: u64,
    /// Answered with anything else: must be 0.
    pub wrong: u64,
    /// Not answered: silence, damage or an exception, retries included.
    pub failed: u64,
    /// Questions on the wire.
    pub requests: u64,
    /// Frames put aside.
    pub stale: u64,
    /// Trouble made, by kind.
    pub faults: BTreeMap<Fault, u64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, right, wrong, failed, requests, stale, .. } = self;
        writeln!(
            f,
            "{asked} reads, {requests} questions: {right} right, {wrong} wrong, {failed} failed; {stale} stale frames put aside"
        )?;
        let faults: Vec<String> = self.faults.iter().map(|(fault, n)| format!("{fault:?} {n}")).collect();
        write!(f, "trouble made: {}", faults.join(", "))
    }
}

/// Runs all lines at once.
pub async fn run(soak: Soak) -> io::Result<Tally> {
    let mut lines = tokio::task::JoinSet::new();
    for seed in 1..=soak.lines {
        lines.spawn(one(soak, seed));
    }
    let mut all = Tally::default();
    while let Some(done) = lines.join_next().await {
        let tally = done.map_err(io::Error::other)??;
        all.asked += tally.asked;
        all.right += tally.right;
        all.wrong += tally.wrong;
        all.failed += tally.failed;
        all.requests += tally.requests;
        all.stale += tally.stale;
        tally.faults.into_iter().for_each(|(fault, n)| *all.faults.entry(fault).or_default() += n);
    }
    Ok(all)
}

async fn one(soak: Soak, seed: u64) -> io::Result<Tally> {
    let devices: Vec<Shared> = (1..=DEVICES).map(|id| device(id).shared()).collect();
    let mut hostility = Hostility::new(soak.trouble, TIMEOUT, seed);
    hostility.latest = if seed.is_multiple_of(2) { 1.8 } else { 6.0 };
    let mut options = LineOptions::new(230_400, F8N1);
    options.paced = false;
    options.turnaround = Duration::ZERO;
    options.hostility = Some(hostility);
    let sim = sim::start_line(devices.clone(), options)?;
    let port = Port::Serial(serial_port(sim.path(), 230_400, F8N1));
    let (bus, task) = bus::new(Line { timeout: TIMEOUT, gap: Some(Duration::ZERO), ..line(port) });
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    tokio::spawn(task.run(stop));
    let mut tally = Tally::default();
    let mut dice = Dice::new(seed);
    for _ in 0..soak.reads {
        read(&bus, &devices, &mut dice, &mut tally).await;
    }
    let WireCounts { requests, stale_replies, .. } = bus.status().borrow().wire;
    (tally.requests, tally.stale, tally.faults) = (requests, stale_replies, sim.stats().faults);
    Ok(tally)
}

async fn read(bus: &Bus, devices: &[Shared], dice: &mut Dice, tally: &mut Tally) {
    let id = 1 + dice.below(u32::from(DEVICES)) as u8;
    let device = &devices[usize::from(id) - 1];
    let (start, count) = (dice.below(REGISTERS) as u16, 1 + dice.below(3) as u16 * 4);
    let asked = std::time::Instant::now();
    for address in start..start + count {
        let word = dice.below(0x1_0000) as u16;
        device.lock().unwrap_or_else(PoisonError::into_inner).set(Table::Holding, address, word, asked);
    }
    let (Some(unit), Some(range)) = (UnitId::new(id), AddressRange::new(start, count)) else { return };
    tally.asked += 1;
    let Ok(reply) = bus.read(ReadRequest { unit, table: Table::Holding, range }).await else {
        tally.failed += 1;
        return;
    };
    let device = device.lock().unwrap_or_else(PoisonError::into_inner);
    let held =
        |(address, word): (u16, &u16)| device.held(Table::Holding, address, *word, (asked, reply.arrived.into_std()));
    let is_right = match &reply.data {
        Data::Registers(words) => words.len() == usize::from(count) && (start..).zip(words).all(held),
        _ => false,
    };
    if is_right {
        tally.right += 1;
    } else {
        tally.wrong += 1;
    }
}
