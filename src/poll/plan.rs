//! Which reads fetch the wanted values in the least wire time. Pure and exact.
//! The cost model is the line's (Modbus over serial line V1.02, 2.5.1.1): a read of n registers takes 13 + 2n characters, the
//! device's turnaround and two silences. So a gap is read along where that is cheaper than asking again.
//! The trick: once values that lie inside others are set aside, starts and ends rise together, the best grouping
//! is one of consecutive runs, and dynamic programming over their ends finds it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::bus::Timing;
use crate::config::plant::{Line, Port};
use crate::point::{AddressRange, Table};

/// Characters of a read without its data: request 8, reply 5 (address, function, count, CRC).
const FRAME_CHARACTERS: u64 = 13;
/// What a byte is worth behind a socket: little, but bridging is not free.
const SOCKET_BYTE_NS: u64 = 1_000;

/// What reads cost on one line, for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// One character on the wire, in nanoseconds.
    pub character_ns: u64,
    /// What every read costs beyond its data, in nanoseconds: frame, turnaround, silences.
    pub request_ns: u64,
}

impl Cost {
    /// The line's cost with a device whose answer begins so long after the last character of the question. That is how the
    /// bus measures it, so the silence by which the device knows that the question has ended lies inside it.
    pub fn new(line: &Line, turnaround: Duration) -> Self {
        let think = nanos(turnaround);
        match &line.port {
            Port::Serial(port) => {
                let character_ns = u64::from(port.format.bits()) * 1_000_000_000 / u64::from(port.baud.max(1));
                let silence = nanos(silence(line));
                Self { character_ns, request_ns: FRAME_CHARACTERS * character_ns + think + silence }
            }
            Port::Tcp(_) | Port::RtuOverTcp(_) => {
                Self { character_ns: SOCKET_BYTE_NS, request_ns: FRAME_CHARACTERS * SOCKET_BYTE_NS + think }
            }
        }
    }

    /// The wire time of one read.
    pub fn of(self, table: Table, count: u32) -> Duration {
        Duration::from_nanos(self.nanos(table, count))
    }

    fn nanos(self, table: Table, count: u32) -> u64 {
        let bytes = if table.is_bits() { u64::from(count.div_ceil(8)) } else { 2 * u64::from(count) };
        self.request_ns + bytes * self.character_ns
    }
}

/// The silence a line keeps between frames; none behind a socket.
pub fn silence(line: &Line) -> Duration {
    match &line.port {
        Port::Serial(port) => Timing::new(port.baud, port.format, line.gap).gap,
        Port::Tcp(_) | Port::RtuOverTcp(_) => Duration::ZERO,
    }
}

/// The time a question takes, with the silence before it.
pub fn question(line: &Line) -> Duration {
    match &line.port {
        Port::Serial(port) => Timing::new(port.baud, port.format, None).of(8) + silence(line),
        Port::Tcp(_) | Port::RtuOverTcp(_) => Duration::ZERO,
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// What a device has refused: never read, never bridged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holes {
    /// With the exception that said so.
    dead: BTreeMap<AddressRange, u8>,
    seams: BTreeSet<u32>,
    /// Known before and asked for again: to find them once more is no news.
    doubted: (BTreeSet<AddressRange>, BTreeSet<u32>),
}

impl Holes {
    /// Values here are refused even when asked for alone, with this exception. Returns whether that is news.
    pub fn bury(&mut self, range: AddressRange, exception: u8) -> bool {
        self.dead.insert(range, exception).is_none() && !self.doubted.0.contains(&range)
    }

    /// No read may hold both this address and the one before: both sides answer, together they are refused. Returns whether
    /// that is news.
    pub fn seam(&mut self, address: u32) -> bool {
        self.seams.insert(address) && !self.doubted.1.contains(&address)
    }

    /// Everything is asked for again.
    pub fn doubt(&mut self) {
        self.doubted.0.extend(std::mem::take(&mut self.dead).into_keys());
        self.doubted.1.append(&mut self.seams);
    }

    /// Without what is only doubted.
    #[must_use]
    pub fn sure(&self) -> Self {
        self.without(|_| false)
    }

    /// Without what is only doubted, and without these refused values.
    #[must_use]
    pub fn without(&self, gone: impl Fn(AddressRange) -> bool) -> Self {
        let dead =
            self.dead.iter().filter(|(refused, _)| !gone(**refused)).map(|(refused, code)| (*refused, *code)).collect();
        Self { dead, seams: self.seams.clone(), doubted: Default::default() }
    }

    /// What is refused even alone, in order, and with which exception.
    pub fn refused(&self) -> impl Iterator<Item = (AddressRange, u8)> {
        self.dead.iter().map(|(range, code)| (*range, *code))
    }

    /// Addresses that no read may reach from below, in order.
    pub fn seams(&self) -> impl Iterator<Item = u32> {
        self.seams.iter().copied()
    }

    /// Each for people: `holding 4–6` cannot be read at all, `holding before 20` lies between two values that can.
    pub fn named(&self, table: Table) -> impl Iterator<Item = String> {
        let refused = self.dead.keys().map(move |range| format!("{table} {range}"));
        refused.chain(self.seams.iter().map(move |address| format!("{table} before {address}")))
    }

    /// Whether a value can never be read.
    pub fn hides(&self, range: AddressRange) -> bool {
        self.exception(range).is_some()
    }

    /// The exception with which a value was refused that can never be read.
    pub fn exception(&self, range: AddressRange) -> Option<u8> {
        let hit = |dead: &AddressRange| u32::from(dead.start()) < range.end() && u32::from(range.start()) < dead.end();
        self.dead.iter().find(|(dead, _)| hit(dead)).map(|(_, code)| *code)
    }

    /// Nothing known.
    pub fn is_empty(&self) -> bool {
        self.dead.is_empty() && self.seams.is_empty()
    }

    fn forbids(&self, start: u32, end: u32) -> bool {
        let seam = start + 1 < end && self.seams.range(start + 1..end).next().is_some();
        seam || self.dead.keys().any(|dead| u32::from(dead.start()) < end && start < dead.end())
    }
}

/// The cheapest reads that hold every wanted value whole, in order of address; among equals the fewest.
/// Left out are only values that a hole hides and those longer than `limit`.
pub fn plan(table: Table, wanted: &[AddressRange], limit: u16, cost: Cost, holes: &Holes) -> Vec<AddressRange> {
    let limit = u32::from(limit.min(table.read_limit()));
    // Before the ones inside others are left out: those others may be the ones that cannot be read.
    let readable = |v: &AddressRange| u32::from(v.count()) <= limit && !holes.hides(*v);
    let values = outermost(&wanted.iter().copied().filter(readable).collect::<Vec<_>>());
    // Asked some thousand times a plan, and most devices refuse nothing.
    let forbids = |start, end| !holes.is_empty() && holes.forbids(start, end);
    // best[n]: least time and reads for the first n values, and where the last of these reads begins.
    let mut best: Vec<(u64, u32, usize)> = vec![(0, 0, 0)];
    for last in 0..values.len() {
        let end = values[last].end();
        let mut choice = (u64::MAX, u32::MAX, last);
        for first in (0..=last).rev() {
            let start = u32::from(values[first].start());
            if end - start > limit || (first < last && forbids(start, end)) {
                break;
            }
            let (time, reads, _) = best[first];
            choice = choice.min((time + cost.nanos(table, end - start), reads + 1, first));
        }
        best.push(choice);
    }
    let mut reads = Vec::new();
    let mut upto = values.len();
    while upto > 0 {
        let first = best[upto].2;
        reads.extend(span(&values[first..upto]));
        upto = first;
    }
    reads.reverse();
    reads
}

/// Sorted, without those that lie inside another: starts and ends rise together.
fn outermost(wanted: &[AddressRange]) -> Vec<AddressRange> {
    let mut sorted = wanted.to_vec();
    sorted.sort_by_key(|v| (v.start(), std::cmp::Reverse(v.count())));
    let mut kept: Vec<AddressRange> = Vec::with_capacity(sorted.len());
    for value in sorted {
        if kept.last().is_none_or(|last| value.end() > last.end()) {
            kept.push(value);
        }
    }
    kept
}

/// From the first's start to the last's end.
fn span(values: &[AddressRange]) -> Option<AddressRange> {
    let (first, last) = (values.first()?, values.last()?);
    AddressRange::new(first.start(), u16::try_from(last.end() - u32::from(first.start())).ok()?)
}

/// The two halves of a refused read, cut at its widest gap, the most even where several are equal; `None` when only
/// one value is in it and nothing is left to split.
pub fn halves(read: AddressRange, wanted: &[AddressRange]) -> Option<(AddressRange, AddressRange)> {
    let mut values = outermost(wanted);
    values.retain(|v| read.contains(*v));
    let uneven = |at: usize| at.abs_diff(values.len() - at);
    let gap = |at: usize| i64::from(values[at].start()) - i64::from(values[at - 1].end());
    let at = (1..values.len()).max_by_key(|at| (gap(*at), std::cmp::Reverse(uneven(*at))))?;
    Some((span(&values[..at])?, span(&values[at..])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u16, count: u16) -> AddressRange {
        AddressRange::new(start, count).unwrap()
    }

    fn serial(baud: u32, parity: crate::config::plant::Parity) -> Line {
        use crate::config::plant::{CharFormat, SerialPort};
        let format = CharFormat { data_bits: 8, parity, stop_bits: 1 };
        let port = SerialPort { path: "/dev/null".into(), baud, format, rs485: None, echo: false };
        Line {
            id: crate::point::LineId(0),
            name: "hall".into(),
            port: Port::Serial(port),
            timeout: Duration::from_millis(300),
            min_timeout: Duration::from_millis(100),
            retries: 1,
            gap: None,
            raw_access: false,
        }
    }

    fn scan(cost: Cost, wanted: &[AddressRange]) -> Duration {
        let reads = plan(Table::Holding, wanted, 125, cost, &Holes::default());
        reads.iter().map(|r| cost.of(Table::Holding, r.count().into())).sum()
    }

    /// The reference work of the wire's limit: ten devices of 20 registers in a row and 10 scattered, 5 ms turnaround.
    #[test]
    fn the_reference_scan_takes_the_least_time_known() {
        use crate::config::plant::Parity;
        let mut wanted: Vec<_> = (0..20).map(|a| range(a, 1)).collect();
        wanted.extend([100, 102, 106, 115, 146, 148, 152, 161, 192, 194].map(|a| range(a, 1)));
        for (baud, parity, want_ms) in
            [(9_600, Parity::None, 2179), (19_200, Parity::Even, 1289), (115_200, Parity::None, 392)]
        {
            let line = serial(baud, parity);
            let cost = Cost::new(&line, Duration::from_millis(5) + silence(&line));
            let scan = (scan(cost, &wanted) * 10).as_micros();
            assert!(scan.abs_diff(want_ms * 1000) < 1000, "{baud}: {scan} µs, want {want_ms} ms");
        }
    }

    #[test]
    fn a_gap_is_bridged_while_that_is_cheaper_than_asking_again() {
        let cost = Cost { character_ns: 1, request_ns: 20 };
        let none = Holes::default();
        assert_eq!(plan(Table::Input, &[range(0, 1), range(10, 1)], 125, cost, &none), [range(0, 11)]);
        assert_eq!(plan(Table::Input, &[range(0, 1), range(12, 1)], 125, cost, &none), [range(0, 1), range(12, 1)]);
    }

    #[test]
    fn a_hole_is_neither_read_nor_bridged() {
        let cost = Cost { character_ns: 1, request_ns: 1000 };
        let mut holes = Holes::default();
        holes.bury(range(5, 2), 2);
        holes.seam(20);
        let wanted = [range(0, 2), range(5, 2), range(10, 2), range(18, 2), range(20, 2)];
        let reads = plan(Table::Holding, &wanted, 125, cost, &holes);
        assert_eq!(reads, [range(0, 2), range(10, 10), range(20, 2)]);
    }

    #[test]
    fn a_hole_that_is_found_again_after_a_doubt_is_no_news() {
        let mut holes = Holes::default();
        assert!(holes.bury(range(5, 2), 2) && holes.seam(20));
        assert!(!holes.bury(range(5, 2), 2) && !holes.seam(20));
        holes.doubt();
        assert!(holes.is_empty() && !holes.hides(range(5, 2)) && holes.sure() == Holes::default());
        assert!(!holes.bury(range(5, 2), 2) && !holes.seam(20), "said before");
        assert!(holes.hides(range(5, 2)) && holes.bury(range(6, 1), 2));
        assert_eq!(holes.named(Table::Input).collect::<Vec<_>>(), ["input 5–6", "input 6", "input before 20"]);
    }

    #[test]
    fn a_refused_block_is_cut_at_its_widest_gap() {
        let wanted = [range(0, 2), range(2, 2), range(10, 2)];
        assert_eq!(halves(range(0, 12), &wanted), Some((range(0, 4), range(10, 2))));
        assert_eq!(halves(range(0, 4), &wanted), Some((range(0, 2), range(2, 2))));
        assert_eq!(halves(range(0, 2), &wanted), None);
    }

    #[test]
    fn the_end_of_the_table_does_not_overflow() {
        let cost = Cost { character_ns: 1, request_ns: 1000 };
        let reads = plan(Table::Holding, &[range(65_535, 1), range(65_530, 2)], 125, cost, &Holes::default());
        assert_eq!(reads, [range(65_530, 6)]);
    }

    /// Every way to put the values into groups, not only consecutive ones.
    fn brute(
        values: &[AddressRange],
        groups: &mut Vec<Vec<AddressRange>>,
        judge: &dyn Fn(&[AddressRange]) -> u64,
    ) -> u64 {
        let Some((value, rest)) = values.split_first() else {
            return groups.iter().fold(0, |sum, g| sum.saturating_add(judge(g)));
        };
        let mut best = u64::MAX;
        for n in 0..groups.len() {
            groups[n].push(*value);
            best = best.min(brute(rest, groups, judge));
            groups[n].pop();
        }
        groups.push(vec![*value]);
        best = best.min(brute(rest, groups, judge));
        groups.pop();
        best
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_grouping_is_cheaper_than_the_plan(
            values in prop::collection::vec((0u16..120, 1u16..5), 1..7),
            limit in 4u16..60, request_ns in 1u64..80, bits in any::<bool>(),
            dead in prop::option::of((0u16..120, 1u16..3)), seam in prop::option::of(1u32..120),
        ) {
            let table = if bits { Table::Coil } else { Table::Holding };
            let wanted: Vec<_> = values.iter().map(|(start, count)| range(*start, *count)).collect();
            let cost = Cost { character_ns: 1, request_ns };
            let mut holes = Holes::default();
            if let Some((start, count)) = dead { holes.bury(range(start, count), 2); }
            // A seam through a value would forbid what is known to answer.
            let cuts = |at: u32| wanted.iter().any(|v| u32::from(v.start()) < at && at < v.end());
            if let Some(at) = seam.filter(|at| !cuts(*at)) { holes.seam(at); }
            let reads = plan(table, &wanted, limit, cost, &holes);
            let alive: Vec<_> = wanted.iter().copied().filter(|v| !holes.hides(*v)).collect();
            for read in &reads {
                prop_assert!(read.count() <= limit);
                prop_assert!(!holes.forbids(read.start().into(), read.end()));
            }
            for value in &alive {
                prop_assert!(reads.iter().any(|read| read.contains(*value)), "{} is in no read", value);
            }
            let judge = |group: &[AddressRange]| {
                let start = group.iter().map(|v| u32::from(v.start())).min().unwrap_or(0);
                let end = group.iter().map(|v| v.end()).max().unwrap_or(0);
                let bad = end - start > u32::from(limit) || holes.forbids(start, end);
                if bad { u64::MAX } else { cost.nanos(table, end - start) }
            };
            let least = brute(&alive, &mut Vec::new(), &judge);
            let planned: u64 = reads.iter().map(|r| cost.nanos(table, r.count().into())).sum();
            prop_assert_eq!(planned, least);
        }
    }
}
