//! Arithmetic over named values, as `compute:` has it: `+ - * / ^`, parentheses, a few functions and constants, and the names
//! of other points. Pure; it knows nothing of points or quality.
//! A text becomes steps for a stack once, and is run a thousand times. What binds: a sign first, then `^`, then `* /`, then
//! `+ -`, and what binds alike goes from the left; so -2^2 is 4, as in a spreadsheet.

use std::f64::consts;

/// Parentheses and signs in one another; a person writes three.
const DEEPEST: usize = 100;

type One = fn(f64) -> f64;
type Two = fn(f64, f64) -> f64;
type Rank = &'static [(char, Two)];

/// An expression, parsed.
#[derive(Debug, Clone)]
pub struct Expression {
    names: Vec<String>,
    /// In the order in which they are done.
    steps: Vec<Step>,
}

/// What happens on the stack.
#[derive(Debug, Clone, Copy)]
enum Step {
    Number(f64),
    /// The value of the name with this place.
    Name(usize),
    /// Turns the top.
    One(One),
    /// Takes the top two, leaves one.
    Two(Two),
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It stops in the middle.
    #[error("it ends where a number or a name is missing")]
    Ends,
    /// Something else belongs there.
    #[error("`{0}` is not expected there")]
    Unexpected(String),
    /// A parenthesis or brace without its other half.
    #[error("a `{0}` is missing")]
    Open(char),
    /// A word with a parenthesis behind it that is none of the functions.
    #[error("there is no function `{0}`; there are {list}", list = known_functions())]
    NoFunction(String),
    /// As many arguments as it does not take.
    #[error("`{name}` takes {wanted}, not {given}")]
    Arguments {
        /// Of the function.
        name: String,
        /// In words.
        wanted: &'static str,
        /// How many stand there.
        given: usize,
    },
    /// Nobody could read it.
    #[error("more than {DEEPEST} parentheses or signs stand in one another")]
    Deep,
}

/// Functions of one number.
const ONE: &[(&str, One)] = &[
    ("abs", f64::abs),
    ("acos", f64::acos),
    ("acosh", f64::acosh),
    ("asin", f64::asin),
    ("asinh", f64::asinh),
    ("atan", f64::atan),
    ("atanh", f64::atanh),
    ("cbrt", f64::cbrt),
    ("ceil", f64::ceil),
    ("cos", f64::cos),
    ("cosh", f64::cosh),
    ("exp", f64::exp),
    ("floor", f64::floor),
    ("fract", f64::fract),
    ("ln", f64::ln),
    ("log", f64::ln),
    ("log10", f64::log10),
    ("log2", f64::log2),
    ("round", f64::round),
    ("signum", f64::signum),
    ("sin", f64::sin),
    ("sinh", f64::sinh),
    ("sqrt", f64::sqrt),
    ("tan", f64::tan),
    ("tanh", f64::tanh),
    ("trunc", f64::trunc),
];
/// Functions of two numbers; the first two also of more.
const TWO: &[(&str, Two)] = &[("min", least), ("max", greatest), ("atan2", f64::atan2)];
const CONSTANTS: &[(&str, f64)] = &[
    ("PI", consts::PI),
    ("π", consts::PI),
    ("E", consts::E),
    ("e", consts::E),
    ("TAU", consts::TAU),
    ("τ", consts::TAU),
];
/// The operators of each rank, the loosest first.
const RANKS: &[Rank] =
    &[&[('+', |a, b| a + b), ('-', |a, b| a - b)], &[('*', |a, b| a * b), ('/', |a, b| a / b)], &[('^', f64::powf)]];

/// What is no number stays none, unlike with [`f64::min`].
const fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

const fn greatest(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn known_functions() -> String {
    let names: Vec<&str> = ONE.iter().map(|(n, _)| *n).chain(TWO.iter().map(|(n, _)| *n)).collect();
    names.join(", ")
}

impl Expression {
    /// Understands a text.
    ///
    /// # Errors
    /// Every [`ExpressionError`].
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut parser = Parser { rest: text, depth: 0, names: Vec::new(), steps: Vec::new() };
        parser.chain(RANKS)?;
        match parser.peek() {
            None => Ok(Self { names: parser.names, steps: parser.steps }),
            Some(')') => Err(ExpressionError::Open('(')),
            Some(_) => Err(parser.unexpected()),
        }
    }

    /// The names it uses, each once, in the order in which [`Expression::eval`] wants their values.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The result; `None` where a value is missing.
    pub fn eval(&self, values: &[f64]) -> Option<f64> {
        let mut stack = Vec::with_capacity(8);
        for step in &self.steps {
            let top = match step {
                Step::Number(x) => *x,
                Step::Name(place) => *values.get(*place)?,
                Step::One(f) => f(stack.pop()?),
                Step::Two(f) => {
                    let second = stack.pop()?;
                    f(stack.pop()?, second)
                }
            };
            stack.push(top);
        }
        stack.pop()
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
    names: Vec<String>,
    steps: Vec<Step>,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    /// So many bytes from the front.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    fn unexpected(&self) -> ExpressionError {
        match self.rest.split_whitespace().next() {
            None => ExpressionError::Ends,
            Some(word) => ExpressionError::Unexpected(word.to_owned()),
        }
    }

    /// Operators of the first rank between operands of the next.
    fn chain(&mut self, ranks: &[Rank]) -> Result<(), ExpressionError> {
        let Some((rank, next)) = ranks.split_first() else { return self.signed() };
        self.chain(next)?;
        while let Some((_, operator)) = rank.iter().find(|(sign, _)| self.takes(*sign)) {
            self.chain(next)?;
            self.steps.push(Step::Two(*operator));
        }
        Ok(())
    }

    fn signed(&mut self) -> Result<(), ExpressionError> {
        self.deeper(|parser| {
            if parser.takes('-') {
                parser.signed()?;
                parser.steps.push(Step::One(|x| -x));
                return Ok(());
            }
            if parser.takes('+') { parser.signed() } else { parser.operand() }
        })
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Result<(), ExpressionError>) -> Result<(), ExpressionError> {
        self.depth += 1;
        let done = if self.depth > DEEPEST { Err(ExpressionError::Deep) } else { parse(self) };
        self.depth -= 1;
        done
    }

    fn operand(&mut self) -> Result<(), ExpressionError> {
        match self.peek() {
            Some('(') => {
                self.takes('(');
                self.chain(RANKS)?;
                self.closed(')')
            }
            Some('{') => {
                let end = self.rest.find('}').ok_or(ExpressionError::Open('}'))?;
                let name = &self.take(end + 1)[1..end];
                self.name(name);
                Ok(())
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => self.word(),
            _ => Err(self.unexpected()),
        }
    }

    fn closed(&mut self, wanted: char) -> Result<(), ExpressionError> {
        match self.peek() {
            Some(c) if c == wanted => Ok(_ = self.takes(wanted)),
            Some(_) => Err(self.unexpected()),
            None => Err(ExpressionError::Open(wanted)),
        }
    }

    fn number(&mut self) -> Result<(), ExpressionError> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = digits(self.rest);
        if self.rest[end..].starts_with('.') {
            end += 1 + digits(&self.rest[end + 1..]);
        }
        // 1e-3, but not the `e` of a word behind it.
        if let Some(power) = self.rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(power.starts_with(['-', '+']));
            let count = digits(&power[sign..]);
            end += if count > 0 { 1 + sign + count } else { 0 };
        }
        let number = self.rest[..end].parse().map_err(|_| self.unexpected())?;
        self.take(end);
        self.steps.push(Step::Number(number));
        Ok(())
    }

    /// A constant, a function, or the name of a value.
    fn word(&mut self) -> Result<(), ExpressionError> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let word = self.take(end);
        if self.peek() == Some('(') {
            return self.call(word);
        }
        match CONSTANTS.iter().find(|(name, _)| *name == word) {
            Some((_, number)) => self.steps.push(Step::Number(*number)),
            None => self.name(word),
        }
        Ok(())
    }

    fn name(&mut self, name: &str) {
        let known = self.names.iter().position(|n| n == name);
        let place = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        self.steps.push(Step::Name(place));
    }

    fn call(&mut self, name: &str) -> Result<(), ExpressionError> {
        let one = ONE.iter().find(|(known, _)| *known == name);
        let two = TWO.iter().find(|(known, _)| *known == name);
        let step = match (one, two) {
            (Some((_, f)), _) => Step::One(*f),
            (_, Some((_, f))) => Step::Two(*f),
            _ => return Err(ExpressionError::NoFunction(name.to_owned())),
        };
        self.takes('(');
        let mut given = 0;
        loop {
            self.chain(RANKS)?;
            given += 1;
            if given > 1 && matches!(step, Step::Two(_)) {
                self.steps.push(step);
            }
            if !self.takes(',') {
                break;
            }
        }
        self.closed(')')?;
        let (wanted, fits) = match (step, name) {
            (Step::Two(_), "atan2") => ("two arguments", given == 2),
            (Step::Two(_), _) => ("two arguments or more", given >= 2),
            _ => ("one argument", given == 1),
        };
        if !fits {
            return Err(ExpressionError::Arguments { name: name.to_owned(), wanted, given });
        }
        if let Step::One(_) = step {
            self.steps.push(step);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn eval(text: &str) -> f64 {
        Expression::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).eval(&[]).unwrap()
    }

    #[test]
    fn what_binds_goes_first_and_the_rest_from_the_left() {
        for (text, result) in [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("100 / 10 * 2", 20.0),
            ("2 ^ 3 ^ 2", 64.0),
            ("-2 ^ 2", 4.0),
            ("2 * -3", -6.0),
            ("--+4", 4.0),
            (".5 + 2. + 1.5e1", 17.5),
            ("2e3", 2000.0),
            ("max(1, 7, 3) - min(2, -1)", 8.0),
            ("sqrt(16) + abs(-2)", 6.0),
            ("atan2(0, 1) + log10(1000) + ln(e)", 4.0),
            ("round(2 * PI - τ)", 0.0),
        ] {
            assert!((eval(text) - result).abs() < 1e-12, "{text} = {}", eval(text));
        }
    }

    #[test]
    fn names_stand_once_in_their_order_and_braces_hold_any_name() {
        let e = Expression::parse("{power-l1} + power_2 * {power-l1} - {e}").unwrap();
        assert_eq!(e.names(), ["power-l1", "power_2", "e"]);
        assert_eq!(e.eval(&[1.0, 2.0, 3.0]), Some(0.0));
        assert_eq!(e.eval(&[1.0, 2.0]), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "it ends where a number or a name is missing"),
            ("a +", "it ends where a number or a name is missing"),
            ("a +* (", "`*` is not expected there"),
            ("(a + b", "a `)` is missing"),
            ("a + b)", "a `(` is missing"),
            ("{a", "a `}` is missing"),
            ("a b", "`b` is not expected there"),
            ("1.2.3", "`.3` is not expected there"),
            (".", "`.` is not expected there"),
            ("2 § 3", "`§` is not expected there"),
            ("sqrt(1, 2)", "`sqrt` takes one argument, not 2"),
            ("min(1)", "`min` takes two arguments or more, not 1"),
            ("atan2(1, 2, 3)", "`atan2` takes two arguments, not 3"),
            ("abs()", "`)` is not expected there"),
        ] {
            assert_eq!(Expression::parse(text).unwrap_err().to_string(), why, "{text}");
        }
        assert!(Expression::parse("sine(1)").unwrap_err().to_string().contains("there are abs, acos"));
        for deep in ["(".repeat(5_000), "-".repeat(5_000), "abs(".repeat(5_000)] {
            assert_eq!(Expression::parse(&deep).unwrap_err(), ExpressionError::Deep);
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for text in ["min(0/0, 1)", "min(1, 0/0)", "max(0/0, 1)", "max(1, 0/0)", "sqrt(-1)"] {
            assert!(eval(text).is_nan(), "{text}");
        }
    }

    /// An expression as a tree, which needs no rule about what binds.
    #[derive(Debug, Clone)]
    enum Tree {
        Number(u16),
        Name(usize),
        Minus(Box<Tree>),
        Call(usize, Box<Tree>),
        Both(usize, usize, Box<(Tree, Tree)>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![any::<u16>().prop_map(Tree::Number), (0..3_usize).prop_map(Tree::Name)];
        leaf.prop_recursive(6, 40, 2, |inner| {
            let ranked = prop_oneof![(Just(0), 0..2_usize), (Just(1), 0..2_usize), (Just(2), 0..1_usize)];
            prop_oneof![
                inner.clone().prop_map(|t| Tree::Minus(t.into())),
                (0..ONE.len(), inner.clone()).prop_map(|(f, t)| Tree::Call(f, t.into())),
                (ranked, inner.clone(), inner).prop_map(|((rank, n), a, b)| Tree::Both(rank, n, (a, b).into())),
            ]
        })
    }

    impl Tree {
        fn rank(&self) -> usize {
            if let Self::Both(rank, ..) = self { *rank } else { RANKS.len() }
        }

        /// With parentheses only where they are needed.
        fn text(&self) -> String {
            let within = |tree: &Self, rank: usize| {
                if tree.rank() < rank { format!("({})", tree.text()) } else { tree.text() }
            };
            match self {
                Self::Number(n) => n.to_string(),
                Self::Name(n) => format!("x{n}"),
                Self::Minus(t) => format!("-{}", within(t, RANKS.len())),
                Self::Call(f, t) => format!("{}({})", ONE[*f].0, t.text()),
                Self::Both(rank, n, both) => {
                    format!("{} {} {}", within(&both.0, *rank), RANKS[*rank][*n].0, within(&both.1, rank + 1))
                }
            }
        }

        fn value(&self, x: &[f64; 3]) -> f64 {
            match self {
                Self::Number(n) => f64::from(*n),
                Self::Name(n) => x[*n],
                Self::Minus(t) => -t.value(x),
                Self::Call(f, t) => ONE[*f].1(t.value(x)),
                Self::Both(rank, n, both) => RANKS[*rank][*n].1(both.0.value(x), both.1.value(x)),
            }
        }
    }

    proptest! {
        #[test]
        fn a_text_is_worth_what_its_tree_is_worth(tree in tree(), x in prop::array::uniform3(-100.0..100.0_f64)) {
            let text = tree.text();
            let parsed = Expression::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let values: Vec<f64> = parsed.names().iter().map(|name| x[name[1..].parse::<usize>().unwrap()]).collect();
            let (got, want) = (parsed.eval(&values).unwrap(), tree.value(&x));
            prop_assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{text}: {got}, not {want}");
        }

        #[test]
        fn no_text_at_all_makes_the_parser_panic(text in "[ -~πé{}()+*/^.,e0-9-]{0,40}") {
            if let Ok(parsed) = Expression::parse(&text) {
                let _ = parsed.eval(&vec![1.0; parsed.names().len()]);
            }
        }
    }
}
