//! Words on the wire to values and back. Pure.
//! Whole numbers never pass through a float; scaled numbers are decimals; what is no number (NaN, a pattern that means "not
//! available", digits that are none) is a reason, never a value.

mod compute;
mod decimal;
mod encode;
mod words;

pub use compute::Formula;
pub use encode::{EncodeError, encode, encode_scaled};

use std::sync::Arc;

use rust_decimal::Decimal;
use rust_decimal::RoundingStrategy::MidpointAwayFromZero;

use crate::point::{BitSpan, DataType, Scale, Wire};
use crate::sample::{Reason, Value};

/// What a reply holds of one point, no more and no less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words<'a> {
    /// Of the tables `input` and `holding`.
    Registers(&'a [u16]),
    /// Of the tables `coil` and `discrete`.
    Bits(&'a [bool]),
}

/// A number as the device keeps it, before scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Raw {
    Int(i64),
    Uint(u64),
    Single(f32),
    Double(f64),
}

/// The value that these words hold. `exponent` is the present value of `scale_from`; a point that has one cannot be
/// read without it ([`Reason::Source`]). Words that are not as many as the point's range are [`Reason::Crc`].
pub fn decode(wire: &Wire, words: Words<'_>, exponent: Option<i32>) -> Result<Value, Reason> {
    let registers = match words {
        Words::Bits([bit]) => return Ok(flag(wire, *bit)),
        Words::Bits(_) => return Err(Reason::Crc),
        Words::Registers(registers) => registers,
    };
    if registers.len() != usize::from(wire.data_type.registers()) {
        return Err(Reason::Crc);
    }
    let short = registers.len() <= 4;
    let raw = if short { words::assemble(registers, wire.order) } else { 0 };
    if short && wire.invalid.contains(&raw) {
        return Err(Reason::NotAvailable);
    }
    match (wire.data_type, wire.bits) {
        (DataType::String(length), _) => Ok(text(&words::text_bytes(registers, length, wire.order))),
        (DataType::Bool, bits) => Ok(flag(wire, part(raw, bits) != 0)),
        (_, Some(bits)) => number(wire, Raw::Uint(part(raw, Some(bits))), exponent),
        (data_type, None) => number(wire, understand(data_type, raw)?, exponent),
    }
}

/// Whether a value lies within the point's `range`; text and flags always do.
pub fn judge(range: Option<&(Decimal, Decimal)>, value: &Value) -> Result<(), Reason> {
    let Some(&(low, high)) = range else { return Ok(()) };
    let inside = match value {
        Value::Bool(_) | Value::Text(_) => true,
        Value::Int(i) => (low..=high).contains(&Decimal::from(*i)),
        Value::Uint(u) => (low..=high).contains(&Decimal::from(*u)),
        Value::Decimal(d) => (low..=high).contains(d),
        Value::Float(x) => (decimal::to_f64(low)..=decimal::to_f64(high)).contains(x),
    };
    if inside { Ok(()) } else { Err(Reason::OutOfRange) }
}

/// A scale factor's value as a power of ten; `None` for what is no whole number.
pub fn exponent_of(value: &Value) -> Option<i32> {
    match value {
        Value::Int(i) => i32::try_from(*i).ok(),
        Value::Uint(u) => i32::try_from(*u).ok(),
        Value::Decimal(d) if d.is_integer() => i32::try_from(*d).ok(),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the type says which low bits count")]
fn understand(data_type: DataType, raw: u64) -> Result<Raw, Reason> {
    Ok(match data_type {
        DataType::I16 => Raw::Int(i64::from(raw as u16 as i16)),
        DataType::I32 => Raw::Int(i64::from(raw as u32 as i32)),
        DataType::I64 => Raw::Int(raw as i64),
        DataType::F32 => Raw::Single(f32::from_bits(raw as u32)),
        DataType::F64 => Raw::Double(f64::from_bits(raw)),
        DataType::Bcd16 | DataType::Bcd32 => Raw::Uint(from_bcd(raw).ok_or(Reason::NotBcd)?),
        DataType::U16 | DataType::U32 | DataType::U64 | DataType::Bool | DataType::String(_) => Raw::Uint(raw),
    })
}

fn from_bcd(raw: u64) -> Option<u64> {
    (0..16).rev().try_fold(0u64, |sum, n| {
        let digit = (raw >> (4 * n)) & 0xF;
        if digit < 10 { sum.checked_mul(10)?.checked_add(digit) } else { None }
    })
}

/// All bits, or the span's, moved down to bit 0.
fn part(raw: u64, bits: Option<BitSpan>) -> u64 {
    bits.map_or(raw, |span| (raw >> span.low) & mask(span))
}

/// As many ones as the span is wide.
const fn mask(span: BitSpan) -> u64 {
    (1 << (span.high - span.low + 1)) - 1
}

fn flag(wire: &Wire, on: bool) -> Value {
    named(wire, i64::from(on)).unwrap_or(Value::Bool(on))
}

fn named(wire: &Wire, raw: i64) -> Option<Value> {
    wire.names.get(&raw).map(|name| Value::Text(Arc::clone(name)))
}

fn number(wire: &Wire, raw: Raw, exponent: Option<i32>) -> Result<Value, Reason> {
    if !wire.names.is_empty() {
        let whole = match raw {
            Raw::Int(i) => Some(i),
            Raw::Uint(u) => i64::try_from(u).ok(),
            Raw::Single(_) | Raw::Double(_) => None,
        };
        if let Some(name) = whole.and_then(|raw| named(wire, raw)) {
            return Ok(name);
        }
    }
    if wire.scale_from.is_some() && exponent.is_none() {
        return Err(Reason::Source);
    }
    let exponent = exponent.unwrap_or(0);
    match raw {
        Raw::Int(i) if is_plain(&wire.scale, exponent) => Ok(Value::Int(i)),
        Raw::Uint(u) if is_plain(&wire.scale, exponent) => Ok(Value::Uint(u)),
        Raw::Int(i) => scaled(&wire.scale, exponent, Some(Decimal::from(i)), || decimal::to_f64(Decimal::from(i))),
        Raw::Uint(u) => scaled(&wire.scale, exponent, Some(Decimal::from(u)), || decimal::to_f64(Decimal::from(u))),
        Raw::Single(x) if !x.is_finite() => Err(Reason::NotANumber),
        Raw::Double(x) if !x.is_finite() => Err(Reason::NotANumber),
        Raw::Single(x) => scaled(&wire.scale, exponent, decimal::from_f32(x), || decimal::widen(x)),
        Raw::Double(x) => scaled(&wire.scale, exponent, decimal::from_f64(x), || x),
    }
}

fn is_plain(scale: &Scale, exponent: i32) -> bool {
    exponent == 0 && scale.decimals.is_none() && scale.factor == Decimal::ONE && scale.offset.is_zero()
}

/// raw × factor × 10^exponent + offset, in decimals where they hold it, otherwise as a float.
fn scaled(scale: &Scale, exponent: i32, raw: Option<Decimal>, rough: impl Fn() -> f64) -> Result<Value, Reason> {
    let exact = raw.and_then(|raw| {
        let factor = if exponent == 0 { scale.factor } else { scale.factor.checked_mul(decimal::ten_to(exponent)?)? };
        let product = if factor == Decimal::ONE { raw } else { exact_product(raw, factor)? };
        let sum = if scale.offset.is_zero() { product } else { product.checked_add(scale.offset)? };
        let rounded = scale.decimals.map_or(sum, |digits| sum.round_dp_with_strategy(digits, MidpointAwayFromZero));
        Some(rounded.normalize())
    });
    if let Some(value) = exact {
        return Ok(Value::Decimal(value));
    }
    let value = rough() * decimal::to_f64(scale.factor) * 10f64.powi(exponent) + decimal::to_f64(scale.offset);
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(Reason::NotANumber) }
}

/// `None` when the product would be rounded to nothing, so that a float can say more.
fn exact_product(raw: Decimal, factor: Decimal) -> Option<Decimal> {
    let product = raw.checked_mul(factor)?;
    let vanished = product.is_zero() && !raw.is_zero() && !factor.is_zero();
    if vanished { None } else { Some(product) }
}

/// Text without the padding around it; what stands behind an embedded NUL is left-over memory. Bytes that are no UTF-8 are
/// taken as Latin-1, which is what such devices mean by their degree signs.
fn text(bytes: &[u8]) -> Value {
    let padding = |b: &u8| *b == 0 || b.is_ascii_whitespace();
    let start = bytes.iter().position(|b| !padding(b)).unwrap_or(bytes.len());
    let rest = &bytes[start..];
    let rest = &rest[..rest.iter().position(|b| *b == 0).unwrap_or(rest.len())];
    let text = match std::str::from_utf8(rest) {
        Ok(text) => text.trim_end().to_owned(),
        Err(_) => rest.iter().map(|b| char::from(*b)).collect::<String>().trim_end().to_owned(),
    };
    Value::Text(text.into())
}

#[cfg(test)]
mod tests;
