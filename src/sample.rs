//! What a poll yields: one value of one point, judged for quality, with the time its reply arrived.
//! An error is never a number: a bad sample has no value, only a reason.

use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;

use crate::point::PointId;
use crate::time::Stamp;

/// A decoded value in engineering units.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A coil, a discrete input or a single bit.
    Bool(bool),
    /// A signed whole number; never passes through a float.
    Int(i64),
    /// An unsigned whole number; never passes through a float.
    Uint(u64),
    /// A scaled number, exact: prints 23.2, never 23.200000000000003.
    Decimal(Decimal),
    /// A float that does not fit a decimal. Always finite: NaN and infinities are quality, not values.
    Float(f64),
    /// Text, or the name a raw number stands for.
    Text(Arc<str>),
}

impl Value {
    /// What a person wrote without quotes: a number keeps all its digits, everything else is a text (a value's name).
    pub fn plain(text: &str) -> Self {
        if let Ok(i) = text.parse::<i64>() {
            return Self::Int(i);
        }
        if let Ok(u) = text.parse::<u64>() {
            return Self::Uint(u);
        }
        let decimal = text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(text));
        decimal.map_or_else(|_| Self::Text(text.into()), Self::Decimal)
    }

    /// The value as a float, for deadbands, ranges and charts; `None` for text.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            #[expect(clippy::cast_precision_loss, reason = "charts and deadbands need no more than 53 bits")]
            Self::Int(i) => Some(*i as f64),
            #[expect(clippy::cast_precision_loss, reason = "charts and deadbands need no more than 53 bits")]
            Self::Uint(u) => Some(*u as f64),
            Self::Decimal(d) => f64::try_from(*d).ok(),
            Self::Float(f) => Some(*f),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    /// The bare form used by `payload: value`: no quotes, no unit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::Uint(u) => u.fmt(f),
            Self::Decimal(d) => d.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Text(t) => t.fmt(f),
        }
    }
}

/// Why a sample is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No reply within the timeout, retries included.
    Timeout,
    /// A reply came, but damaged (CRC, length, foreign bytes).
    Crc,
    /// The device answered with a Modbus exception code (V1.1b3, 7).
    Exception(u8),
    /// The raw words are the ones the profile calls invalid.
    NotAvailable,
    /// The value lies outside the point's `range`.
    OutOfRange,
    /// A float that is NaN or infinite.
    NotANumber,
    /// Digits that are no decimal digits in a BCD register.
    NotBcd,
    /// The device is offline; not asked this time.
    Offline,
    /// The line (port or connection) is down.
    LineDown,
    /// Somebody has paused the polling of the device.
    Paused,
    /// A value this one is computed from is bad.
    Source,
}

impl fmt::Display for Reason {
    /// The words of the payload's `reason`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout"),
            Self::Crc => f.write_str("crc"),
            Self::Exception(code) => write!(f, "exception {code}"),
            Self::NotAvailable => f.write_str("not available"),
            Self::OutOfRange => f.write_str("out of range"),
            Self::NotANumber => f.write_str("not a number"),
            Self::NotBcd => f.write_str("not bcd"),
            Self::Offline => f.write_str("offline"),
            Self::LineDown => f.write_str("line down"),
            Self::Paused => f.write_str("paused"),
            Self::Source => f.write_str("bad source"),
        }
    }
}

/// How far a sample can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Read and decoded just now.
    Good,
    /// The last good value, kept although it could not be read again.
    Stale(Reason),
    /// No value.
    Bad(Reason),
}

impl Quality {
    /// `good`, `stale` or `bad`: the word of the payload.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale(_) => "stale",
            Self::Bad(_) => "bad",
        }
    }

    /// Why not good; `None` when good.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Good => None,
            Self::Stale(r) | Self::Bad(r) => Some(r),
        }
    }
}

/// One reading of one point. `value` is `None` exactly when the quality is bad.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    point: PointId,
    value: Option<Value>,
    quality: Quality,
    taken: Stamp,
    wanted: bool,
}

impl Sample {
    /// A good value, taken when its reply arrived.
    pub const fn good(point: PointId, value: Value, taken: Stamp) -> Self {
        Self { point, value: Some(value), quality: Quality::Good, taken, wanted: false }
    }

    /// No value, and why; `taken` is when that became known.
    pub const fn bad(point: PointId, reason: Reason, taken: Stamp) -> Self {
        Self { point, value: None, quality: Quality::Bad(reason), taken, wanted: false }
    }

    /// An old value that could not be read again.
    pub const fn stale(point: PointId, value: Value, reason: Reason, taken: Stamp) -> Self {
        Self { point, value: Some(value), quality: Quality::Stale(reason), taken, wanted: false }
    }

    /// Somebody asked for it: it is told even if it says nothing new.
    #[must_use]
    pub fn wanted(self) -> Self {
        Self { wanted: true, ..self }
    }

    /// Whether somebody asked for it.
    pub const fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Which point was read.
    pub const fn point(&self) -> PointId {
        self.point
    }

    /// The value; `None` exactly when the quality is bad.
    pub const fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// How far it can be trusted.
    pub const fn quality(&self) -> Quality {
        self.quality
    }

    /// When the reply arrived.
    pub const fn taken(&self) -> Stamp {
        self.taken
    }
}
