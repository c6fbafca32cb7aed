//! What is asked of a line, and what comes back: the vocabulary of [`Bus`](crate::bus::Bus).

use std::time::Duration;

use tokio::time::Instant;

use crate::bus::mei::Objects;
use crate::config::functions::How;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;

/// A read of one block of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Whom to ask; not broadcast.
    pub unit: UnitId,
    /// Which table.
    pub table: Table,
    /// Which addresses, at most the table's limit.
    pub range: AddressRange,
}

/// A write to one device, or to all by [`UnitId::BROADCAST`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// Whom to tell.
    pub unit: UnitId,
    /// What.
    pub kind: WriteKind,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteKind {
    /// Function 5.
    Coil {
        /// Zero-based.
        address: u16,
        /// The state.
        on: bool,
    },
    /// Function 15, at most 1968.
    Coils {
        /// Zero-based.
        address: u16,
        /// The states.
        values: Vec<bool>,
    },
    /// Function 6.
    Register {
        /// Zero-based.
        address: u16,
        /// The word.
        value: u16,
    },
    /// Function 16, at most 123.
    Registers {
        /// Zero-based.
        address: u16,
        /// The words.
        values: Vec<u16>,
    },
    /// Function 22: `(old & and) | (or & !and)`.
    Mask {
        /// Zero-based.
        address: u16,
        /// Bits kept.
        and: u16,
        /// Bits set where `and` is 0.
        or: u16,
    },
    /// The same, by whichever way the device knows; the register is read and written in one slot where it does not know 22.
    Bits {
        /// Zero-based.
        address: u16,
        /// Bits kept.
        and: u16,
        /// Bits set where `and` is 0.
        or: u16,
        /// What is known of the device.
        by: How,
    },
    /// Function 23, at most 121 registers written, and then so many holding registers read. The answer may be
    /// [`Data::Written`]: what was read cannot be believed then.
    ReadWrite {
        /// Zero-based.
        address: u16,
        /// The words.
        values: Vec<u16>,
        /// What is read behind it.
        read: AddressRange,
    },
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it carried.
    pub data: Data,
    /// When its last byte was here.
    pub arrived: Instant,
    /// From the last byte sent to the first byte received; on TCP from request to reply.
    pub turnaround: Duration,
}

/// What a reply carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Exactly as many words as were asked for.
    Registers(Vec<u16>),
    /// Exactly as many bits as were asked for.
    Bits(Vec<bool>),
    /// Objects of a device's identification.
    Objects(Objects),
    /// The write was confirmed, or broadcast.
    Written,
}
