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

/// What is left of a text that is cut can still be told from others.
const SHORTEST: usize = 8;
/// What stands between the two parts of a line that is broken.
const FOLDED: &str = "\n      ";

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

/// As [`render`], in at most so many columns of the screen: first those columns of the table go that are named in `spare`, in that
/// order, as far as needed; then the widest column of text is cut. True: something is missing.
pub(super) fn fit(
    head: &[(&str, Align)],
    rows: &[Vec<String>],
    spare: &[&str],
    width: Option<usize>,
) -> (String, bool) {
    let (mut head, mut rows) = (head.to_vec(), rows.to_vec());
    let mut spare = spare.iter();
    let mut is_short = false;
    loop {
        let text = render(&head, &rows);
        let over = width.and_then(|most| widest(&text).checked_sub(most)).filter(|over| *over > 0);
        let Some(over) = over else { return (text, is_short) };
        is_short = true;
        if let Some(at) = spare.next().map(|name| head.iter().position(|(title, _)| title == name)) {
            if let Some(at) = at {
                head.remove(at);
                rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        } else if !cut(&head, &mut rows, over) {
            return (text, is_short);
        }
    }
}

/// Takes so many characters off the cells of the widest column of text; false where that would leave nothing worth reading.
fn cut(head: &[(&str, Align)], rows: &mut [Vec<String>], over: usize) -> bool {
    let texts = head.iter().enumerate().filter(|(_, (_, align))| *align == Align::Left).map(|(n, _)| n);
    let wide = |n: usize| rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count()).max().unwrap_or(0);
    let Some((at, width)) = texts.map(|n| (n, wide(n))).max_by_key(|(_, width)| *width) else { return false };
    let most = width.saturating_sub(over).max(SHORTEST);
    if most >= width {
        return false;
    }
    for cell in rows.iter_mut().filter_map(|r| r.get_mut(at)).filter(|c| c.chars().count() > most) {
        *cell = cell.chars().take(most - 1).chain(['…']).collect();
    }
    true
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// Text whose lines are broken between words where they would be longer than that; what follows is indented.
pub(super) fn fold(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut used = 0;
        for (n, word) in line.split(' ').enumerate() {
            let length = word.chars().count();
            if n > 0 && used + 1 + length > width {
                out.push_str(FOLDED);
                used = FOLDED.len() - 1;
            } else if n > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += length;
        }
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
    fn a_narrow_table_loses_what_can_be_spared_and_then_the_ends_of_words() {
        let head = [("LINE", Align::Left), ("N", Align::Right), ("STATE", Align::Left)];
        let rows = vec![vec!["hall".to_owned(), "7".to_owned(), "offline: no reply at all".to_owned()]];
        let (text, is_short) = fit(&head, &rows, &["N"], Some(40));
        assert!(!is_short && text.contains(" 7 "), "{text}");
        let (text, is_short) = fit(&head, &rows, &["N"], Some(31));
        assert_eq!((text.as_str(), is_short), ("LINE  STATE\nhall  offline: no reply at all\n", true));
        assert_eq!(fit(&head, &rows, &["N"], Some(20)).0, "LINE  STATE\nhall  offline: no r…\n");
        assert_eq!(fit(&head, &rows, &["N"], Some(5)).0, "LINE  STATE\nhall  offline…\n", "as narrow as it gets");
        assert_eq!(fit(&head, &rows, &["N"], None).0, render(&head, &rows));
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        assert_eq!(fold("ALARM: a line\nshort\n", 10), "ALARM: a\n      line\nshort\n");
        assert_eq!(fold("an-endless-word", 5), "an-endless-word\n");
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
