//! How a device of a profile's model is told from another that happens to answer at its address: by what it says of itself
//! (function 43/14), by a register that holds its model, or by both. `identify` in a profile.

use std::fmt;
use std::sync::Arc;

use crate::config::plant::Wire;

/// What must be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// Objects of its identification, by their ids.
    pub objects: Vec<(u8, Expected)>,
    /// A register that holds its model.
    pub register: Option<(Arc<Wire>, Expected)>,
}

/// One of several texts, each whole or how it begins. Numbers are compared as they are written in decimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: Arc<str>,
    is_beginning: bool,
}

impl Expected {
    /// Texts as written; one that ends in `*` is a beginning.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let pattern = |text: String| match text.strip_suffix('*') {
            Some(beginning) => Pattern { text: beginning.into(), is_beginning: true },
            None => Pattern { text: text.into(), is_beginning: false },
        };
        Self(texts.into_iter().map(pattern).collect())
    }

    /// Whether this is it.
    pub fn is(&self, found: &str) -> bool {
        self.0.iter().any(|p| if p.is_beginning { found.starts_with(&*p.text) } else { found == &*p.text })
    }

    /// A text that it would be.
    pub fn example(&self) -> &str {
        self.0.first().map_or("", |pattern| &pattern.text)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Pattern { text, is_beginning }) in self.0.iter().enumerate() {
            let (or, star) = (if n > 0 { " or " } else { "" }, if *is_beginning { "*" } else { "" });
            write!(f, "{or}\"{text}{star}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_meant_whole_unless_it_ends_in_a_star() {
        let expected = Expected::new(["SDM120".to_owned(), "SDM6*".to_owned()]);
        assert!(expected.is("SDM120") && expected.is("SDM630") && expected.is("SDM6"));
        assert!(!expected.is("SDM120M") && !expected.is("sdm120") && !expected.is(""));
        assert_eq!(expected.to_string(), "\"SDM120\" or \"SDM6*\"");
    }
}
