//! `compute:` expressions: a number out of the values of other points.
//! They run over doubles, because they hold divisions and roots anyway; the result is shown with at most twelve significant
//! digits, so that 0.1 + 0.2 is 0.3.

use crate::decode::decimal;
use crate::formula::{Expression, ExpressionError};
use crate::sample::{Reason, Value};

/// An expression, parsed once.
#[derive(Debug, Clone)]
pub struct Formula {
    /// On the heap, because every point has room for one and few have any.
    parsed: Box<Expression>,
}

impl Formula {
    /// Parses what was written.
    pub fn new(text: &str) -> Result<Self, ExpressionError> {
        Ok(Self { parsed: Box::new(Expression::parse(text)?) })
    }

    /// The names it uses, in the order [`Formula::eval`] wants their values.
    pub fn names(&self) -> &[String] {
        self.parsed.names()
    }

    /// The result. [`Reason::Source`] where a value is missing, [`Reason::NotANumber`] for a division by zero and the like.
    pub fn eval(&self, values: &[f64]) -> Result<Value, Reason> {
        let x = self.parsed.eval(values).ok_or(Reason::Source)?;
        if !x.is_finite() {
            return Err(Reason::NotANumber);
        }
        Ok(decimal::from_f64_rounded(x).map_or(Value::Float(x), Value::Decimal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_prints_like_a_person_would_write_it() {
        let sum = Formula::new("a + b * 2").unwrap();
        assert_eq!(sum.names(), ["a", "b"]);
        assert_eq!(sum.eval(&[0.1, 0.1]).unwrap().to_string(), "0.3");
    }

    #[test]
    fn a_point_without_a_formula_pays_nothing_for_it() {
        assert_eq!(size_of::<Option<Formula>>(), size_of::<usize>());
    }

    #[test]
    fn what_is_no_number_is_a_reason() {
        let ratio = Formula::new("a / b").unwrap();
        assert_eq!(ratio.eval(&[1.0, 0.0]), Err(Reason::NotANumber));
        assert_eq!(ratio.eval(&[1.0]), Err(Reason::Source));
        assert!(Formula::new("a +* (").is_err());
    }
}
