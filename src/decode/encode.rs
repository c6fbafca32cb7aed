//! The inverse of decoding, for writes and for simulated devices: a value in engineering units, a name, or a text
//! becomes words. What does not fit is refused with the value and the limit; nothing is clipped.

use rust_decimal::Decimal;
use rust_decimal::RoundingStrategy::MidpointAwayFromZero;

use crate::decode::{decimal, mask, words};
use crate::point::DataType;
use crate::point::Wire;
use crate::sample::Value;

/// Why a value cannot be put into words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Outside what the type or the bits can hold, in engineering units.
    #[error("{value} does not fit {data_type}: it holds {min} to {max}")]
    OutOfRange {
        /// What was to be written.
        value: String,
        /// Where.
        data_type: DataType,
        /// Least value, before scaling.
        min: String,
        /// Greatest value, before scaling.
        max: String,
    },
    /// None of the point's names.
    #[error("`{value}` is none of {names}")]
    UnknownName {
        /// What was to be written.
        value: String,
        /// The names there are.
        names: String,
    },
    /// A text where a number is wanted, or the other way round.
    #[error("{value} is {found}, {data_type} wants {wanted}")]
    WrongKind {
        /// What was to be written.
        value: String,
        /// What it is.
        found: &'static str,
        /// Where.
        data_type: DataType,
        /// What would do.
        wanted: &'static str,
    },
    /// More bytes than the registers hold.
    #[error("the text has {length} bytes, {limit} is the limit")]
    TooLong {
        /// In UTF-8.
        length: usize,
        /// Of `string(N)`.
        limit: u16,
    },
    /// The words would say "not available" to whoever reads them.
    #[error("{value} would be written as {raw:#x}, which means \"not available\"")]
    Reserved {
        /// What was to be written.
        value: String,
        /// The pattern.
        raw: u64,
    },
    /// The scale factor it depends on is not known yet, or is zero.
    #[error("{value} cannot be scaled: the scale factor is zero or not known")]
    NoScale {
        /// What was to be written.
        value: String,
    },
}

/// The words that decode to this value; for a coil or discrete input one word, 0 or 1. Where the point is a part of a
/// register (`bit`, `bits`) only those bits are set: the caller must keep the others. A number between two raw steps goes
/// to the nearest. A point with `scale_from` needs [`encode_scaled`].
pub fn encode(wire: &Wire, value: &Value) -> Result<Vec<u16>, EncodeError> {
    encode_scaled(wire, value, None)
}

/// As [`encode`], with the present value of `scale_from`.
pub fn encode_scaled(wire: &Wire, value: &Value, exponent: Option<i32>) -> Result<Vec<u16>, EncodeError> {
    if let DataType::String(limit) = wire.data_type {
        return text(wire, value, limit);
    }
    let raw = match named(wire, value)? {
        Some(raw) => whole(wire, value, i128::from(raw))?,
        None if wire.table.is_bits() || wire.data_type == DataType::Bool => flag(wire, value)?,
        None => number(wire, value, exponent)?,
    };
    let placed = wire.bits.map_or(raw, |span| raw << span.low);
    if wire.invalid.contains(&placed) {
        return Err(EncodeError::Reserved { value: value.to_string(), raw: placed });
    }
    Ok(words::spread(placed, wire.data_type.registers(), wire.order))
}

fn text(wire: &Wire, value: &Value, limit: u16) -> Result<Vec<u16>, EncodeError> {
    let Value::Text(text) = value else { return Err(wrong_kind(wire, value, "a text")) };
    if text.len() > usize::from(limit) {
        return Err(EncodeError::TooLong { length: text.len(), limit });
    }
    Ok(words::text_words(text.as_bytes(), wire.data_type.registers(), wire.order))
}

/// The raw number a name stands for; `None` where the value is no name.
fn named(wire: &Wire, value: &Value) -> Result<Option<i64>, EncodeError> {
    let Value::Text(text) = value else { return Ok(None) };
    if wire.names.is_empty() {
        return Err(wrong_kind(wire, value, if wire.data_type.is_number() { "a number" } else { "true or false" }));
    }
    match wire.names.iter().find(|(_, name)| *name == text) {
        Some((raw, _)) => Ok(Some(*raw)),
        None => {
            let names: Vec<&str> = wire.names.values().map(AsRef::as_ref).collect();
            Err(EncodeError::UnknownName { value: text.to_string(), names: names.join(", ") })
        }
    }
}

fn flag(wire: &Wire, value: &Value) -> Result<u64, EncodeError> {
    match value {
        Value::Bool(on) => Ok(u64::from(*on)),
        Value::Int(0) | Value::Uint(0) => Ok(0),
        Value::Int(1) | Value::Uint(1) => Ok(1),
        Value::Decimal(d) if d.is_zero() => Ok(0),
        Value::Decimal(d) if *d == Decimal::ONE => Ok(1),
        _ => Err(wrong_kind(wire, value, "true or false")),
    }
}

fn number(wire: &Wire, value: &Value, exponent: Option<i32>) -> Result<u64, EncodeError> {
    let no_scale = || EncodeError::NoScale { value: value.to_string() };
    if wire.scale_from.is_some() && exponent.is_none() {
        return Err(no_scale());
    }
    let ten = decimal::ten_to(exponent.unwrap_or(0)).ok_or_else(no_scale)?;
    let factor = wire.scale.factor.checked_mul(ten).ok_or_else(no_scale)?;
    let plain = factor == Decimal::ONE && wire.scale.offset.is_zero();
    let exact = match value {
        Value::Bool(on) => Some(Decimal::from(u8::from(*on))),
        Value::Int(i) => Some(Decimal::from(*i)),
        Value::Uint(u) => Some(Decimal::from(*u)),
        Value::Decimal(d) => Some(*d),
        Value::Float(x) => decimal::from_f64(*x),
        Value::Text(_) => return Err(wrong_kind(wire, value, "a number")),
    };
    if factor.is_zero() {
        return Err(no_scale());
    }
    let raw = if plain { exact } else { exact.and_then(|d| d.checked_sub(wire.scale.offset)?.checked_div(factor)) };
    match (wire.data_type, wire.bits) {
        (DataType::F32, None) => single(wire, value, raw, factor),
        (DataType::F64, None) => double(wire, value, raw, factor),
        _ => {
            let whole_raw = raw.map(|d| d.round_dp_with_strategy(0, MidpointAwayFromZero).trunc().mantissa());
            whole(wire, value, whole_raw.ok_or_else(|| out_of_range(wire, value))?)
        }
    }
}

/// The raw number as a float where decimals do not reach.
fn rough(wire: &Wire, value: &Value, factor: Decimal) -> f64 {
    (value.as_f64().unwrap_or(f64::NAN) - decimal::to_f64(wire.scale.offset)) / decimal::to_f64(factor)
}

fn single(wire: &Wire, value: &Value, raw: Option<Decimal>, factor: Decimal) -> Result<u64, EncodeError> {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be finite below")]
    let x = raw.map_or_else(|| rough(wire, value, factor) as f32, decimal::to_f32);
    if x.is_finite() { Ok(u64::from(x.to_bits())) } else { Err(out_of_range(wire, value)) }
}

fn double(wire: &Wire, value: &Value, raw: Option<Decimal>, factor: Decimal) -> Result<u64, EncodeError> {
    let x = raw.map_or_else(|| rough(wire, value, factor), decimal::to_f64);
    if x.is_finite() { Ok(x.to_bits()) } else { Err(out_of_range(wire, value)) }
}

/// A whole raw number as the type's bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "two's complement, checked against limits")]
fn whole(wire: &Wire, value: &Value, raw: i128) -> Result<u64, EncodeError> {
    let (min, max) = limits(wire);
    if raw < min || raw > max {
        return Err(out_of_range(wire, value));
    }
    Ok(match wire.data_type {
        DataType::Bcd16 | DataType::Bcd32 if wire.bits.is_none() => to_bcd(raw as u64),
        DataType::F32 => u64::from((raw as f32).to_bits()),
        DataType::F64 => (raw as f64).to_bits(),
        data_type => (raw as u64) & (u64::MAX >> (64 - 16 * u32::from(data_type.registers().clamp(1, 4)))),
    })
}

fn to_bcd(raw: u64) -> u64 {
    (0..8).fold(0, |bcd, n| bcd | ((raw / 10u64.pow(n) % 10) << (4 * n)))
}

fn limits(wire: &Wire) -> (i128, i128) {
    if let Some(span) = wire.bits {
        return (0, i128::from(mask(span)));
    }
    match wire.data_type {
        DataType::I16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::I64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::U16 => (0, u16::MAX.into()),
        DataType::U32 => (0, u32::MAX.into()),
        DataType::U64 => (0, u64::MAX.into()),
        DataType::Bcd16 => (0, 9_999),
        DataType::Bcd32 => (0, 99_999_999),
        DataType::Bool => (0, 1),
        DataType::F32 | DataType::F64 => (-(1 << 24), 1 << 24),
        DataType::String(_) => (0, 0),
    }
}

fn out_of_range(wire: &Wire, value: &Value) -> EncodeError {
    let (min, max) = match wire.data_type {
        DataType::F32 => (f32::MIN.to_string(), f32::MAX.to_string()),
        DataType::F64 => (f64::MIN.to_string(), f64::MAX.to_string()),
        _ => {
            let (min, max) = limits(wire);
            (min.to_string(), max.to_string())
        }
    };
    EncodeError::OutOfRange { value: value.to_string(), data_type: wire.data_type, min, max }
}

fn wrong_kind(wire: &Wire, value: &Value, wanted: &'static str) -> EncodeError {
    let found = match value {
        Value::Bool(_) => "true or false",
        Value::Text(_) => "a text",
        Value::Int(_) | Value::Uint(_) | Value::Decimal(_) | Value::Float(_) => "a number",
    };
    EncodeError::WrongKind { value: value.to_string(), found, data_type: wire.data_type, wanted }
}
