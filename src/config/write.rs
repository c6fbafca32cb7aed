//! Whether a value may be written to a point: its limits, its steps, its names, what its registers hold. Pure. The checker
//! asks it of every value that stands in the file, the command room of every command: one judge for both.

use rust_decimal::Decimal;

use crate::config::plant::Wire;
use crate::config::plant::Write;
use crate::decode;
use crate::decode::EncodeError;
use crate::sample::Value;

/// Why a value may not be written. The text says the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Under `min` or over `max`.
    #[error("{value} is outside {min} to {max}")]
    OutOfRange {
        /// What was asked.
        value: String,
        /// `min`, or `…`.
        min: String,
        /// `max`, or `…`.
        max: String,
    },
    /// Not on the grid.
    #[error("{value} is not a whole number of steps of {step} from {from}")]
    OffStep {
        /// What was asked.
        value: String,
        /// `step`.
        step: String,
        /// `min`, or 0.
        from: String,
    },
    /// It does not fit the registers.
    #[error("{0}")]
    Encode(#[from] EncodeError),
}

/// The words to write. `exponent` as in [`crate::decode::decode`].
///
/// # Errors
/// Every [`Unfit`].
pub fn judge(wire: &Wire, write: &Write, value: &Value, exponent: Option<i32>) -> Result<Vec<u16>, Unfit> {
    limits(write, value)?;
    Ok(decode::encode_scaled(wire, value, exponent)?)
}

/// What can be judged without knowing the scale factor of the moment.
///
/// # Errors
/// [`Unfit::OutOfRange`], [`Unfit::OffStep`].
pub fn limits(write: &Write, value: &Value) -> Result<(), Unfit> {
    let number = match value {
        Value::Int(i) => Some(Decimal::from(*i)),
        Value::Uint(u) => Some(Decimal::from(*u)),
        Value::Decimal(d) => Some(*d),
        Value::Float(x) => Decimal::try_from(*x).ok(),
        // It is written as that, and so it is judged as that.
        Value::Bool(on) => Some(Decimal::from(u8::from(*on))),
        Value::Text(_) => None,
    };
    let Some(number) = number else { return Ok(()) };
    within(write, number)?;
    on_step(write, number)
}

fn within(write: &Write, number: Decimal) -> Result<(), Unfit> {
    if write.min.is_none_or(|min| number >= min) && write.max.is_none_or(|max| number <= max) {
        return Ok(());
    }
    let say = |limit: Option<Decimal>| limit.map_or_else(|| "…".to_owned(), |l| l.to_string());
    Err(Unfit::OutOfRange { value: number.to_string(), min: say(write.min), max: say(write.max) })
}

fn on_step(write: &Write, number: Decimal) -> Result<(), Unfit> {
    let Some(step) = write.step else { return Ok(()) };
    let from = write.min.unwrap_or(Decimal::ZERO);
    // What is too far away to be told from `from` in 28 digits is on no step either.
    let rest = number.checked_sub(from).and_then(|way| way.checked_rem(step));
    if rest.is_some_and(|rest| rest.is_zero()) {
        return Ok(());
    }
    Err(Unfit::OffStep { value: number.to_string(), step: step.to_string(), from: from.to_string() })
}
