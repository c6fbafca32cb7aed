//! Topic names and filters as MQTT defines them (5.0 and 3.1.1, chapter 4.7), checked once.
//! Matching one name against one filter lives here; matching one name against many is the broker's tree.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Most levels in a name or filter; deeper ones are refused so that no walk can run out of stack.
pub const MAX_LEVELS: usize = 200;
/// Longest name or filter in bytes: a two-byte length on the wire.
pub const MAX_BYTES: usize = 65_535;

/// Quality of service of a delivery (4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce,
    /// At least once: leaves after PUBACK.
    AtLeastOnce,
    /// Exactly once: leaves after PUBCOMP.
    ExactlyOnce,
}

impl From<Qos> for u8 {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        }
    }
}

impl TryFrom<u8> for Qos {
    type Error = String;

    fn try_from(n: u8) -> Result<Self, String> {
        match n {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(format!("QoS is 0, 1 or 2, not {n}")),
        }
    }
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        u8::from(*self).fmt(f)
    }
}

/// Why a text is no topic name or filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing at all.
    #[error("a topic has at least one character")]
    Empty,
    /// Over [`MAX_BYTES`].
    #[error("a topic has at most 65535 bytes, this one has {0}")]
    TooLong(usize),
    /// Over [`MAX_LEVELS`].
    #[error("a topic has at most 200 levels, this one has {0}")]
    TooDeep(usize),
    /// U+0000 is forbidden everywhere (1.5.4).
    #[error("a topic has no NUL character")]
    Nul,
    /// `+` or `#` in a name, or not alone on its level in a filter.
    #[error("`{0}` is a wildcard: in a filter it stands alone on its level, `#` last; in a name it is not allowed")]
    Wildcard(char),
}

/// Last level of the topics by which raw Modbus requests reach a line. Whoever may publish there reaches everything that hangs on it,
/// so no rule gives that by a wildcard: it has to be named.
pub const RAW: &str = "$modbus";

fn ends_raw(text: &str) -> bool {
    text.rsplit('/').next() == Some(RAW)
}

/// A topic to publish to: no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks the text; see [`TopicError`].
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        match text.chars().find(|c| matches!(c, '+' | '#')) {
            Some(c) => Err(TopicError::Wildcard(c)),
            None => Ok(Self(text)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what is published here is a raw request to a line.
    pub fn is_raw(&self) -> bool {
        ends_raw(&self.0)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A topic filter to subscribe with: `+` is one level, `#` the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// Checks the text; see [`TopicError`].
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, TopicError> {
        let text = text.into();
        check_common(&text)?;
        let last = text.split('/').count() - 1;
        for (n, level) in text.split('/').enumerate() {
            if level.contains('#') && (level != "#" || n != last) {
                return Err(TopicError::Wildcard('#'));
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::Wildcard('+'));
            }
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names raw requests in so many words.
    pub fn names_raw(&self) -> bool {
        ends_raw(&self.0)
    }

    /// Whether `name` matches (4.7.1). Root wildcards do not match names that begin with `$` (4.7.2).
    pub fn matches(&self, name: &TopicName) -> bool {
        if name.as_str().starts_with('$') && matches!(self.0.as_bytes().first(), Some(b'+' | b'#')) {
            return false;
        }
        let mut levels = name.as_str().split('/');
        for want in self.0.split('/') {
            if want == "#" {
                return true;
            }
            match levels.next() {
                Some(have) if want == "+" || want == have => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn check_common(text: &str) -> Result<(), TopicError> {
    let levels = text.split('/').count();
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > MAX_BYTES {
        Err(TopicError::TooLong(text.len()))
    } else if levels > MAX_LEVELS {
        Err(TopicError::TooDeep(levels))
    } else if text.contains('\0') {
        Err(TopicError::Nul)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, name: &str) -> bool {
        TopicFilter::new(filter).unwrap().matches(&TopicName::new(name).unwrap())
    }

    #[test]
    fn wildcards_match_as_the_standard_says() {
        for (filter, name, want) in [
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("+", "/a", false),
            ("/+", "/a", true),
            ("+/+", "/a", true),
        ] {
            assert_eq!(matches(filter, name), want, "{filter} {name}");
        }
    }

    #[test]
    fn root_wildcards_do_not_match_dollar_topics() {
        assert!(!matches("#", "$SYS/x"));
        assert!(!matches("+/x", "$SYS/x"));
        assert!(matches("$SYS/#", "$SYS/x"));
    }

    #[test]
    fn malformed_topics_are_refused() {
        for text in ["", "a/#/b", "a#", "a+/b", "x\0"] {
            assert!(TopicFilter::new(text).is_err(), "{text:?}");
        }
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard('+')));
        assert_eq!(TopicName::new("/".repeat(200)), Err(TopicError::TooDeep(201)));
    }
}
