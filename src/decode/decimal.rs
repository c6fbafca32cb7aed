//! Floats as decimals by their shortest digits, and decimals as floats, correctly rounded.
//! The trick: Rust prints the shortest digits that read back as the same float, and those digits are what a person
//! at the device's display sees; so a single 0.1 becomes 0.1 and not 0.100000001490116.

use std::fmt::Write as _;

use rust_decimal::Decimal;

/// Text of one float on the stack: sign, 17 digits, point, `e-324`.
#[derive(Default)]
struct Digits {
    bytes: [u8; 32],
    used: usize,
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.used + s.len();
        self.bytes.get_mut(self.used..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.used = end;
        Ok(())
    }
}

impl Digits {
    /// Reads `-1.2345e-5` as −12345 · 10⁻⁹, exactly; `None` when a decimal cannot hold that without loss.
    fn decimal(&self) -> Option<Decimal> {
        let (mut mantissa, mut fraction, mut exponent) = (0i64, 0i32, 0i32);
        let (mut negative, mut behind) = (false, false);
        let text = self.bytes.get(..self.used)?;
        for (n, byte) in text.iter().enumerate() {
            match byte {
                b'-' => negative = true,
                b'.' => behind = true,
                b'0'..=b'9' => {
                    mantissa = mantissa.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
                    fraction += i32::from(behind);
                }
                b'e' => {
                    exponent = std::str::from_utf8(&text[n + 1..]).ok()?.parse().ok()?;
                    break;
                }
                _ => return None,
            }
        }
        while mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            fraction -= 1;
        }
        let mantissa = i128::from(if negative { -mantissa } else { mantissa });
        power_of_ten(mantissa, exponent - fraction)
    }
}

/// `mantissa · 10^exponent`, exactly; `None` when a decimal cannot hold it.
fn power_of_ten(mantissa: i128, exponent: i32) -> Option<Decimal> {
    if mantissa == 0 {
        return Some(Decimal::ZERO);
    }
    match u32::try_from(exponent) {
        Ok(up) => {
            let whole = 10i128.checked_pow(up)?.checked_mul(mantissa)?;
            Decimal::try_from_i128_with_scale(whole, 0).ok()
        }
        Err(_) => Decimal::try_from_i128_with_scale(mantissa, exponent.unsigned_abs()).ok(),
    }
}

/// 10 to that power; `None` beyond ±28.
pub(crate) fn ten_to(exponent: i32) -> Option<Decimal> {
    power_of_ten(1, exponent)
}

/// A single by its shortest digits; `None` outside a decimal's range.
pub(crate) fn from_f32(x: f32) -> Option<Decimal> {
    let mut digits = Digits::default();
    write!(digits, "{x:e}").ok()?;
    digits.decimal()
}

/// A double by its shortest digits; `None` outside a decimal's range.
pub(crate) fn from_f64(x: f64) -> Option<Decimal> {
    let mut digits = Digits::default();
    write!(digits, "{x:e}").ok()?;
    digits.decimal()
}

/// A double rounded to twelve significant digits: what an expression over measured values can honestly show.
pub(crate) fn from_f64_rounded(x: f64) -> Option<Decimal> {
    let mut digits = Digits::default();
    write!(digits, "{x:.11e}").ok()?;
    digits.decimal()
}

/// A single widened by its shortest digits, for those outside a decimal's range.
pub(crate) fn widen(x: f32) -> f64 {
    format!("{x:e}").parse().unwrap_or_else(|_| f64::from(x))
}

/// The nearest double.
pub(crate) fn to_f64(d: Decimal) -> f64 {
    d.to_string().parse().unwrap_or(f64::NAN)
}

/// The nearest single, rounded once.
pub(crate) fn to_f32(d: Decimal) -> f32 {
    d.to_string().parse().unwrap_or(f32::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_shows_its_shortest_digits() {
        for (x, want) in [(0.1f32, "0.1"), (230.1, "230.1"), (-0.0, "0"), (1e10, "10000000000"), (1e-5, "0.00001")] {
            assert_eq!(from_f32(x).unwrap().to_string(), want);
        }
    }

    #[test]
    fn what_a_decimal_cannot_hold_exactly_is_refused() {
        assert_eq!(from_f32(3e38), None);
        assert_eq!(from_f32(1e-30), None);
        assert_eq!(from_f64(f64::NAN), None);
        assert_eq!(ten_to(29), None);
        assert_eq!(ten_to(-28).map(|d| d.scale()), Some(28));
    }

    #[test]
    fn a_computed_value_shows_twelve_digits_at_most() {
        assert_eq!(from_f64_rounded(0.1 + 0.2).unwrap().to_string(), "0.3");
        assert_eq!(from_f64_rounded(1.0 / 3.0).unwrap().to_string(), "0.333333333333");
    }

    proptest! {
        #[test]
        fn floats_come_back_as_they_were(x in proptest::num::f32::NORMAL, y in proptest::num::f64::NORMAL) {
            if let Some(d) = from_f32(x) { prop_assert_eq!(to_f32(d), x); }
            if let Some(d) = from_f64(y) { prop_assert_eq!(to_f64(d), y); }
        }
    }
}
