//! Problems of a configuration, printed like a compiler does: place, offending line, caret, what to do.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File as named on the command line or in `include`.
    pub file: String,
    /// From 1; 0 where the problem has no line.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong, with value and limit.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The offending line.
    pub excerpt: String,
}

/// Every problem found, in order of finding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report(Vec<Problem>);

impl Report {
    /// Nothing wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// With these.
    pub fn of(problems: impl IntoIterator<Item = Problem>) -> Self {
        Self(problems.into_iter().collect())
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in &self.0 {
            if p.line == 0 {
                writeln!(f, "{}: {}", p.file, p.message)?;
            } else {
                writeln!(f, "{}:{}:{}: {}", p.file, p.line, p.column, p.message)?;
                writeln!(f, "{:>5} | {}", p.line, p.excerpt)?;
                writeln!(f, "      | {:>width$}", "^", width = p.column)?;
            }
            if !p.help.is_empty() {
                writeln!(f, "      = {}", p.help)?;
            }
        }
        Ok(())
    }
}
