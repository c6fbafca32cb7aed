//! How much of what has passed is wanted: `--last`, `--last 30s`, `--last 200`. Pure.

use std::str::FromStr;
use std::time::Duration;

use crate::bus::trace::Depth;
use crate::bus::trace::Shown;
use crate::cli::demo::duration;
use crate::time::Stamp;

/// So much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// All that is remembered.
    All,
    /// Since so long ago.
    Span(Duration),
    /// So many lines of text, at whatever depth.
    Lines(usize),
}

impl FromStr for Past {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(lines) = text.parse() {
            return Ok(Self::Lines(lines));
        }
        duration(text)
            .map(Self::Span)
            .map_err(|_| format!("`{text}` is neither a time nor a number: write 30s, 5m or 200"))
    }
}

impl Past {
    /// What of it is wanted. A capture made besides gets the same stretch.
    pub(super) fn cut(self, mut all: Vec<Shown>, now: Stamp, depth: Depth) -> Vec<Shown> {
        match self {
            Self::All => {}
            Self::Span(span) => {
                let since = now.mono_us.saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
                all.retain(|shown| shown.at().is_none_or(|at| at.mono_us >= since));
            }
            Self::Lines(wanted) => {
                let mut visible = all.iter().enumerate().rev().filter(|(_, shown)| shown.text(depth).is_some());
                let first = match wanted.checked_sub(1) {
                    None => all.len(),
                    Some(before) => visible.nth(before).map_or(0, |(at, _)| at),
                };
                all.drain(..first);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::trace::Event;
    use crate::bus::trace::What;

    fn pieces() -> Vec<Shown> {
        let at = |s: u64| Stamp { mono_us: s * 1_000_000, wall_us: 0 };
        (0..10).map(|s| Shown::Piece(Event { at: at(s), what: What::Heard(vec![s as u8]) })).collect()
    }

    #[test]
    fn the_past_is_cut_by_time_or_by_lines() {
        let cut = |past: &str, depth| {
            let past: Past = past.parse().unwrap();
            past.cut(pieces(), Stamp { mono_us: 10_000_000, wall_us: 0 }, depth).len()
        };
        assert_eq!([cut("all", Depth::Bytes), cut("3s", Depth::Bytes), cut("4", Depth::Bytes)], [10, 3, 4]);
        assert_eq!([cut("0", Depth::Bytes), cut("99", Depth::Bytes), cut("9h", Depth::Bytes)], [0, 10, 10]);
        assert_eq!(cut("4", Depth::Frame), 10, "pieces are no lines there, so nothing visible is cut away");
        assert!("soon".parse::<Past>().unwrap_err().contains("30s, 5m or 200"));
    }
}
