//! A write that is to be verified, in one transaction where the device has function 23: the standard has it write before it reads
//! (V1.1b3, 6.17), so what it reads back is what it holds now. Pure.

use crate::bus::Data;
use crate::bus::Reply;
use crate::bus::WriteKind;
use crate::command::target::Target;
use crate::config::plant::Source;
use crate::point::AddressRange;

/// Read/write multiple registers.
pub(super) const READ_WRITE: u8 = 23;
/// Most registers that it writes.
const MOST: usize = 121;

/// The same registers, written and read back; what is no write of whole registers, or of too many, stays as it is.
pub(super) fn of(kind: WriteKind) -> WriteKind {
    let (address, values) = match &kind {
        WriteKind::Register { address, value } => (*address, vec![*value]),
        WriteKind::Registers { address, values } if values.len() <= MOST => (*address, values.clone()),
        _ => return kind,
    };
    let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
    match AddressRange::new(address, count) {
        Some(read) => WriteKind::ReadWrite { address, values, read },
        None => kind,
    }
}

/// Where what is read back begins; `None`: nothing is.
pub(super) const fn start(kind: &WriteKind) -> Option<u16> {
    match kind {
        WriteKind::ReadWrite { read, .. } => Some(read.start()),
        _ => None,
    }
}

/// What of it is this point's; `None` where nothing of it can be believed.
pub(super) fn part(reply: &Reply, start: u16, target: &Target) -> Option<Reply> {
    let (Data::Registers(words), Source::Wire(wire)) = (&reply.data, &target.point.source) else { return None };
    let from = usize::from(wire.range.start().checked_sub(start)?);
    let own = words.get(from..from + usize::from(wire.range.count()))?;
    Some(Reply { data: Data::Registers(own.to_vec()), ..reply.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_registers_are_written_and_read_back_and_nothing_else() {
        let range = |start, count| AddressRange::new(start, count).unwrap();
        let one = of(WriteKind::Register { address: 7, value: 5 });
        assert_eq!(one, WriteKind::ReadWrite { address: 7, values: vec![5], read: range(7, 1) });
        let many = |n| WriteKind::Registers { address: 7, values: vec![5; n] };
        assert_eq!(of(many(121)), WriteKind::ReadWrite { address: 7, values: vec![5; 121], read: range(7, 121) });
        assert_eq!((start(&one), start(&many(2))), (Some(7), None));
        for other in [many(122), WriteKind::Coil { address: 7, on: true }] {
            assert_eq!(of(other.clone()), other);
        }
    }
}
