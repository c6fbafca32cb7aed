//! A part of a register is written without touching its neighbours: by mask write, or, where the device does not know that, by
//! reading the register and writing it whole. Pure: it says what is asked next; the task asks it in the same slot, so that
//! nothing this gateway sends comes in between. What the device itself changes between the two is lost: that is why mask write is
//! tried first.

use crate::bus::BusError;
use crate::bus::Data;
use crate::bus::ReadRequest;
use crate::bus::Reply;
use crate::bus::WriteKind;
use crate::bus::WriteRequest;
use crate::bus::ask::Ask;
use crate::config::functions::Choice;
use crate::config::functions::How;
use crate::config::functions::Part;
use crate::config::functions::Single;
use crate::point::AddressRange;
use crate::point::Table;
use crate::point::UnitId;

/// The exception of a device that does not know a function.
const ILLEGAL_FUNCTION: u8 = 1;

/// A write of a part of a register under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits {
    pub(super) unit: UnitId,
    address: u16,
    and: u16,
    or: u16,
    by: How,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Mask,
    Read,
    Write,
}

/// What the last answer means.
#[derive(Debug)]
pub(super) enum Next {
    /// This is asked at once.
    Ask(Ask),
    /// The same, and the device does not know mask write.
    Unknown(Ask),
    /// It is the answer.
    Over,
}

impl Bits {
    /// `None`: it is another kind of write.
    pub(super) fn of(write: &WriteRequest) -> Option<Self> {
        let WriteKind::Bits { address, and, or, by } = write.kind else { return None };
        let stage = if by.part == Part::Mask { Stage::Mask } else { Stage::Read };
        Some(Self { unit: write.unit, address, and, or, by, stage })
    }

    /// What is asked first.
    pub(super) fn first(&self) -> Result<Ask, u8> {
        if self.stage == Stage::Mask { self.write(self.mask()) } else { self.read() }
    }

    /// The device is known not to know mask write: what is asked first then, unless nothing else may write it.
    pub(super) fn without_mask(&mut self) -> Option<Ask> {
        if self.stage != Stage::Mask || self.by.choice == Choice::Said {
            return None;
        }
        self.stage = Stage::Read;
        self.read().ok()
    }

    /// After this answer.
    pub(super) fn next(&mut self, result: &Result<Reply, BusError>) -> Next {
        let ask = match (self.stage, result) {
            (Stage::Mask, Err(BusError::Refused(ILLEGAL_FUNCTION))) => self.without_mask().map(Next::Unknown),
            (Stage::Read, Ok(Reply { data: Data::Registers(words), .. })) => words.first().and_then(|old| {
                self.stage = Stage::Write;
                self.write(self.whole((old & self.and) | (self.or & !self.and))).ok().map(Next::Ask)
            }),
            _ => None,
        };
        ask.unwrap_or(Next::Over)
    }

    const fn mask(&self) -> WriteKind {
        WriteKind::Mask { address: self.address, and: self.and, or: self.or }
    }

    fn whole(&self, value: u16) -> WriteKind {
        match self.by.single {
            Single::One => WriteKind::Register { address: self.address, value },
            Single::Many => WriteKind::Registers { address: self.address, values: vec![value] },
        }
    }

    fn write(&self, kind: WriteKind) -> Result<Ask, u8> {
        Ask::write(WriteRequest { unit: self.unit, kind })
    }

    fn read(&self) -> Result<Ask, u8> {
        let range = AddressRange::new(self.address, 1).expect("one address fits");
        Ask::read(ReadRequest { unit: self.unit, table: Table::Holding, range })
    }
}
