//! The vocabulary of the plant: what a register is, where a point lies, who owns it.
//! Numbers become types here, at the edge, so that nothing behind it has to check again.
//! No I/O, no policy: only what a value *is*.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde::Serialize;

/// Index of a line (RS485 trunk or TCP endpoint) in the plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LineId(pub u16);

/// Index of a device in the plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DeviceId(pub u32);

/// Index of a point in the plant; points of one device are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PointId(pub u32);

/// Address of a device on its line (Modbus Application Protocol V1.1b3, 4.2).
///
/// 1–247 on serial lines; 248–255 are reserved there but common behind Modbus TCP. 0 is broadcast
/// and never the address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UnitId(u8);

impl UnitId {
    /// Every device of the line at once; nobody answers.
    pub const BROADCAST: Self = Self(0);

    /// A device's own address; `None` for 0, which is broadcast.
    pub const fn new(id: u8) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The address as it goes on the wire.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The four tables of the Modbus data model (V1.1b3, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Single bits, read and write: functions 1, 5, 15.
    Coil,
    /// Single bits, read only: function 2.
    Discrete,
    /// 16-bit words, read only: function 4.
    Input,
    /// 16-bit words, read and write: functions 3, 6, 16, 22, 23.
    Holding,
}

impl Table {
    /// True for coils and discrete inputs.
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// True where the standard has a function that writes.
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }

    /// Most items the standard allows in one read (V1.1b3, 6.1–6.4): 2000 bits, 125 registers.
    pub const fn read_limit(self) -> u16 {
        if self.is_bits() { 2000 } else { 125 }
    }

    /// The word used in YAML, logs and errors.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A run of at least one address that does not leave the table's 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AddressRange {
    start: u16,
    count: u16,
}

impl AddressRange {
    /// `None` when `count` is zero or the last address would pass 65535 (pitfall: `address + count` overflows u16).
    pub const fn new(start: u16, count: u16) -> Option<Self> {
        if count == 0 || start as u32 + count as u32 > 0x1_0000 { None } else { Some(Self { start, count }) }
    }

    /// First address, zero-based as on the wire.
    pub const fn start(self) -> u16 {
        self.start
    }

    /// How many addresses; at least 1.
    pub const fn count(self) -> u16 {
        self.count
    }

    /// One past the last address; up to 65536, hence u32.
    pub const fn end(self) -> u32 {
        self.start as u32 + self.count as u32
    }

    /// True when `other` lies wholly inside.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 1 { write!(f, "{}", self.start) } else { write!(f, "{}–{}", self.start, self.end() - 1) }
    }
}

/// How the raw words of a point are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// One bit: a coil, a discrete input, or a register that is zero or not.
    Bool,
    /// Two's complement, one register.
    I16,
    /// Unsigned, one register.
    U16,
    /// Two's complement, two registers.
    I32,
    /// Unsigned, two registers.
    U32,
    /// Two's complement, four registers.
    I64,
    /// Unsigned, four registers.
    U64,
    /// IEEE 754 single, two registers.
    F32,
    /// IEEE 754 double, four registers.
    F64,
    /// Four decimal digits, one register.
    Bcd16,
    /// Eight decimal digits, two registers.
    Bcd32,
    /// Text of at most that many bytes, two to a register, padded with NUL or blanks.
    String(u16),
}

impl DataType {
    /// Registers the value occupies; 1 for a bit of a bit table.
    pub const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::I16 | Self::U16 | Self::Bcd16 => 1,
            Self::I32 | Self::U32 | Self::F32 | Self::Bcd32 => 2,
            Self::I64 | Self::U64 | Self::F64 => 4,
            Self::String(bytes) => bytes.div_ceil(2),
        }
    }

    /// True for the types whose value is a number that can be scaled.
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::Bool | Self::String(_))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Bool => "bool",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bcd16 => "bcd16",
            Self::Bcd32 => "bcd32",
            Self::String(n) => return write!(f, "string({n})"),
        };
        f.write_str(word)
    }
}

/// The order in which a value's bytes lie in the registers, `a` being the most significant.
///
/// For 64 bits the same rule is extended: words reversed (`cdab`), bytes of each word swapped (`badc`), or both (`dcba`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WordOrder {
    /// Most significant word first, most significant byte first: what the standard suggests.
    #[default]
    Abcd,
    /// Least significant word first.
    Cdab,
    /// Bytes of each word swapped.
    Badc,
    /// Least significant byte first throughout.
    Dcba,
}

/// Part of a register: bits `low..=high`, 0 the least significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct BitSpan {
    /// Lowest bit, 0–15.
    pub low: u8,
    /// Highest bit, `low`–15.
    pub high: u8,
}

/// value = raw × scale + offset, rounded to `decimals` where given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scale {
    /// Factor; 1 where none is written.
    pub factor: Decimal,
    /// Added after the factor; 0 where none is written.
    pub offset: Decimal,
    /// Digits kept behind the decimal point.
    pub decimals: Option<u32>,
}

impl Default for Scale {
    fn default() -> Self {
        Self { factor: Decimal::ONE, offset: Decimal::ZERO, decimals: None }
    }
}

/// A value on the wire and how to read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wire {
    /// Which table.
    pub table: Table,
    /// Which addresses; never split across requests.
    pub range: AddressRange,
    /// How the words are understood.
    pub data_type: DataType,
    /// How the words lie.
    pub order: WordOrder,
    /// A part of one register only.
    pub bits: Option<BitSpan>,
    /// To engineering units.
    pub scale: Scale,
    /// Multiply by ten to this point's value (SunSpec scale factors); a point of the same device.
    pub scale_from: Option<PointId>,
    /// Names for raw numbers; empty where none.
    pub names: BTreeMap<i64, Arc<str>>,
    /// Raw patterns that mean "not available", as unsigned numbers over all the value's bits in `abcd` order.
    pub invalid: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_passes_the_last_address() {
        assert_eq!(AddressRange::new(65_535, 1).map(AddressRange::end), Some(65_536));
        assert_eq!(AddressRange::new(65_535, 2), None);
        assert_eq!(AddressRange::new(0, 0), None);
    }

    #[test]
    fn broadcast_is_nobodys_address() {
        assert_eq!(UnitId::new(0), None);
        assert_eq!(UnitId::new(247).map(UnitId::get), Some(247));
    }
}
