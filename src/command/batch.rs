//! Several writes in as few requests as their order allows. Pure: neighbours in the list that are neighbours in the device go in
//! one request (functions 15 and 16), so that a device takes them at once; what is not, goes by itself, in its place.

use std::ops::Range;

use crate::bus::WriteKind;
use crate::config::plant::Device;

/// Most registers and coils of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    registers: usize,
    coils: usize,
}

impl Limits {
    /// The standard's (V1.1b3, 6.11, 6.12 and 6.17), or the device's where that takes less; none where it has no such function.
    pub(super) fn of(device: &Device) -> Self {
        let most = |function, most: usize| if device.functions.knows(function) { most } else { 0 };
        let registers = most(16, if device.functions.knows(23) { 121 } else { 123 });
        Self {
            registers: usize::from(device.max_registers).min(registers),
            coils: usize::from(device.max_bits).min(most(15, 1968)),
        }
    }
}

/// The requests, each with the places of the writes it carries.
pub(super) fn merged(kinds: &[WriteKind], limits: Limits) -> Vec<(WriteKind, Range<usize>)> {
    let mut requests: Vec<(WriteKind, Range<usize>)> = Vec::new();
    for (n, kind) in kinds.iter().enumerate() {
        if let Some((last, places)) = requests.last_mut()
            && let Some(both) = joined(last, kind, limits)
        {
            *last = both;
            places.end = n + 1;
        } else {
            requests.push((kind.clone(), n..n + 1));
        }
    }
    requests
}

/// Both in one request, where the second begins where the first ends.
fn joined(first: &WriteKind, second: &WriteKind, limits: Limits) -> Option<WriteKind> {
    if let (Some((address, mut words)), Some((next, more))) = (registers(first), registers(second)) {
        words.extend(more);
        let fits = follows(address, words.len(), next, more_len(second)) && words.len() <= limits.registers;
        return fits.then_some(WriteKind::Registers { address, values: words });
    }
    let ((address, mut coils), (next, more)) = (coils(first)?, coils(second)?);
    coils.extend(more);
    let fits = follows(address, coils.len(), next, more_len(second)) && coils.len() <= limits.coils;
    fits.then_some(WriteKind::Coils { address, values: coils })
}

fn follows(address: u16, both: usize, next: u16, more: usize) -> bool {
    usize::from(address) + both - more == usize::from(next)
}

fn more_len(kind: &WriteKind) -> usize {
    match kind {
        WriteKind::Registers { values, .. } => values.len(),
        WriteKind::Coils { values, .. } => values.len(),
        _ => 1,
    }
}

fn registers(kind: &WriteKind) -> Option<(u16, Vec<u16>)> {
    match kind {
        WriteKind::Register { address, value } => Some((*address, vec![*value])),
        WriteKind::Registers { address, values } => Some((*address, values.clone())),
        _ => None,
    }
}

fn coils(kind: &WriteKind) -> Option<(u16, Vec<bool>)> {
    match kind {
        WriteKind::Coil { address, on } => Some((*address, vec![*on])),
        WriteKind::Coils { address, values } => Some((*address, values.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: Limits = Limits { registers: 123, coils: 1968 };

    fn register(address: u16, value: u16) -> WriteKind {
        WriteKind::Register { address, value }
    }

    #[test]
    fn neighbours_go_in_one_request_and_the_order_is_kept() {
        let pair = WriteKind::Registers { address: 11, values: vec![2, 3] };
        let bit = WriteKind::Mask { address: 13, and: 0xFFFE, or: 1 };
        let kinds = [register(10, 1), pair, bit.clone(), register(13, 4), register(13, 5)];
        let whole = WriteKind::Registers { address: 10, values: vec![1, 2, 3] };
        assert_eq!(
            merged(&kinds, MOST),
            [(whole, 0..2), (bit, 2..3), (register(13, 4), 3..4), (register(13, 5), 4..5)]
        );
        let coils = [true, false, true].iter().zip(7..).map(|(on, address)| WriteKind::Coil { address, on: *on });
        let run = WriteKind::Coils { address: 7, values: vec![true, false, true] };
        assert_eq!(merged(&coils.collect::<Vec<_>>(), MOST), [(run, 0..3)]);
        let few = Limits { registers: 2, coils: 2 };
        let parts: Vec<_> = merged(&kinds[..2], few).into_iter().map(|(_, places)| places).collect();
        assert_eq!(parts, [0..1, 1..2], "the device takes no more at once");
    }

    proptest! {
        #[test]
        fn what_is_merged_writes_the_same_in_the_same_order(addresses in prop::collection::vec(0u16..8, 1..300)) {
            let kinds: Vec<_> = addresses.iter().zip(0u16..).map(|(a, n)| register(*a, n)).collect();
            let mut written = Vec::new();
            for (kind, places) in merged(&kinds, MOST) {
                let (address, values) = registers(&kind).unwrap();
                prop_assert!(values.len() <= MOST.registers && values.len() == places.len());
                written.extend((address..).zip(values));
            }
            prop_assert_eq!(written, addresses.into_iter().zip(0u16..).collect::<Vec<_>>());
        }
    }
}
