//! Text in aligned columns. Widths are counted in characters, which is right for everything this program prints.

use std::time::Duration;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a head line, two blanks between columns, no blanks at line ends. Names that others chose are among the cells: what
/// would steer the terminal is not written.
pub(super) fn render(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count());
        cells.chain([head[n].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let titles = head.iter().map(|(title, _)| (*title).to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(head) {
            let padded = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            line.push_str(&padded);
        }
        out.extend(line.trim_end().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }));
        out.push('\n');
    }
    out
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes for people: `512.0 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let exponent = (n.ilog2() / 10).min(4);
    #[expect(clippy::cast_precision_loss, reason = "one decimal place is shown")]
    let value = n as f64 / f64::from(exponent * 10).exp2();
    format!("{value:.1} {}", UNITS[exponent as usize - 1])
}

/// Seconds for people: `3 d 4 h`, `5 min 6 s`.
pub(super) fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// A short time for people: `250 ms`, `12.5 s`, then as [`seconds`].
pub(super) fn span(d: Duration) -> String {
    match d.as_millis() {
        0..10_000 => format!("{:.0} ms", d.as_secs_f64() * 1e3),
        10_000..60_000 => format!("{:.1} s", d.as_secs_f64()),
        _ => seconds(d.as_secs()),
    }
}

/// Names with commas between them, in rows of so many characters where a name is not longer than that.
pub(super) fn wrap(names: &[&str], width: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for name in names {
        match rows.last_mut().filter(|row| row.chars().count() + name.chars().count() + 2 <= width) {
            Some(row) => row.push_str(&format!(", {name}")),
            None => {
                if let Some(row) = rows.last_mut() {
                    row.push(',');
                }
                rows.push((*name).to_owned());
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["hall".to_owned(), "7".to_owned()], vec!["plc".to_owned(), "1234".to_owned()]];
        let text = render(&[("LINE", Align::Left), ("N", Align::Right)], &rows);
        assert_eq!(text, "LINE     N\nhall     7\nplc   1234\n");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!((thousands(7), thousands(1_234_567)), ("7".to_owned(), "1,234,567".to_owned()));
        assert_eq!((bytes(1023), bytes(512 * 1024 * 1024)), ("1023 B".to_owned(), "512.0 MiB".to_owned()));
        let spans = [250, 9_999, 12_500, 90_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(spans, ["250 ms", "9999 ms", "12.5 s", "1 min 30 s"]);
        assert_eq!(wrap(&["a", "b", "long"], 6), ["a, b,", "long"]);
        assert_eq!((seconds(66), seconds(90_000)), ("1 min 6 s".to_owned(), "1 d 1 h".to_owned()));
    }
}
