//! Several writes in as few requests as their order allows. Pure: neighbours in the list that are neighbours in the device go in
//! one request (functions 15 and 16), so that a device takes them at once; what is not, goes by itself, in its place.

use std::ops::Range;

use crate::bus::WriteKind;
use crate::config::functions::Choice;
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

/// One request of a batch.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub(super) kind: WriteKind,
    /// `Said` where it is of one of its writes.
    pub(super) choice: Choice,
    /// The places of the writes it carries.
    pub(super) places: Range<usize>,
}

/// The requests, in their order.
pub(super) fn merged(kinds: &[(WriteKind, Choice)], limits: Limits) -> Vec<Part> {
    let mut requests: Vec<Part> = Vec::new();
    for (n, (kind, choice)) in kinds.iter().enumerate() {
        if let Some(last) = requests.last_mut()
            && !is_for_one(&last.kind, last.choice)
            && !is_for_one(kind, *choice)
            && let Some(both) = joined(&last.kind, kind, limits)
        {
            last.kind = both;
            last.places.end = n + 1;
            if *choice == Choice::Said {
                last.choice = Choice::Said;
            }
        } else {
            requests.push(Part { kind: kind.clone(), choice: *choice, places: n..n + 1 });
        }
    }
    requests
}

/// Whether it has to go by the function for one (5, 6), because somebody said so.
const fn is_for_one(kind: &WriteKind, choice: Choice) -> bool {
    matches!((kind, choice), (WriteKind::Coil { .. } | WriteKind::Register { .. }, Choice::Said))
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
        let merged = |kinds: &[WriteKind], limits| free(kinds, limits);
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

    fn free(kinds: &[WriteKind], limits: Limits) -> Vec<(WriteKind, Range<usize>)> {
        let kinds: Vec<_> = kinds.iter().map(|kind| (kind.clone(), Choice::Free)).collect();
        merged(&kinds, limits).into_iter().map(|part| (part.kind, part.places)).collect()
    }

    #[test]
    fn what_must_go_by_the_function_for_one_goes_alone_and_what_must_go_by_that_for_many_may_take_others_along() {
        let run = |address, values: &[u16]| WriteKind::Registers { address, values: values.to_vec() };
        let (said, open) = (Choice::Said, Choice::Free);
        let kinds = [
            (register(1, 1), open),
            (register(2, 2), said),
            (register(3, 3), said),
            (register(4, 4), open),
            (run(5, &[5]), said),
            (register(6, 6), open),
        ];
        let part = |kind, choice, places| Part { kind, choice, places };
        let want = [
            part(register(1, 1), open, 0..1),
            part(register(2, 2), said, 1..2),
            part(register(3, 3), said, 2..3),
            part(run(4, &[4, 5, 6]), said, 3..6),
        ];
        assert_eq!(merged(&kinds, MOST), want);
    }

    proptest! {
        #[test]
        fn what_is_merged_writes_the_same_in_the_same_order(addresses in prop::collection::vec(0u16..8, 1..300)) {
            let kinds: Vec<_> = addresses.iter().zip(0u16..).map(|(a, n)| register(*a, n)).collect();
            let mut written = Vec::new();
            for (kind, places) in free(&kinds, MOST) {
                let (address, values) = registers(&kind).unwrap();
                prop_assert!(values.len() <= MOST.registers && values.len() == places.len());
                written.extend((address..).zip(values));
            }
            prop_assert_eq!(written, addresses.into_iter().zip(0u16..).collect::<Vec<_>>());
        }
    }
}
