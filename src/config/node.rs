//! The YAML as a tree whose every key and value knows its place, and the typed readers over it.
//! Scalars stay text until a reader asks, so that `no`, `010` and `5` are judged by the key they stand at.

use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use granit_parser::{Event, Parser, ScalarStyle};
use rust_decimal::Decimal;

use crate::config::report::{Problem, Report};

/// Deepest nesting; the language needs seven.
const MAX_DEPTH: usize = 32;

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) file: usize,
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<(String, At, Node)>),
}

impl Node {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, ..)| k == key).map(|(.., n)| n)
    }

    pub(super) fn entries(&self) -> &[(String, At, Node)] {
        if let Kind::Map(entries) = &self.kind { entries } else { &[] }
    }
}

/// The files read so far and what is wrong with them.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) files: Vec<(String, Rc<str>)>,
    pub(super) errors: Report,
    pub(super) warnings: Report,
    /// Texts that must not be shown, wherever a problem's line would show them.
    secrets: Vec<String>,
}

impl Reader {
    pub(super) fn parse(&mut self, name: &str, text: &str) -> Option<Node> {
        let file = self.files.len();
        self.files.push((name.to_owned(), text.into()));
        let mut events = Vec::new();
        for event in Parser::new_from_str(text) {
            match event {
                Ok((event, span)) => {
                    let at = At { file, line: span.start.line(), column: span.start.col() + 1 };
                    events.push((event, at));
                }
                Err(e) => {
                    let at = At { file, line: e.marker().line(), column: e.marker().col() + 1 };
                    match tab_from(text, at) {
                        Some(tab) => self.error(tab, "a tab", "YAML indents with blanks, never with tabs"),
                        None => self.error(at, e.info(), ""),
                    }
                    return None;
                }
            }
        }
        let mut events = events.into_iter().filter(|(e, _)| {
            matches!(
                e,
                Event::Scalar(..)
                    | Event::SequenceStart(..)
                    | Event::SequenceEnd
                    | Event::MappingStart(..)
                    | Event::MappingEnd
                    | Event::Alias(..)
                    | Event::UnresolvedAlias(..)
            )
        });
        let Some(first) = events.next() else {
            self.error(At { file, line: 1, column: 1 }, "the file is empty", "");
            return None;
        };
        let root = self.build(first, &mut events, 0);
        if let (Some(root), Some((_, at))) = (&root, events.next()) {
            self.hide_secrets(root);
            self.error(at, "a second document in one file", "write one document a file; `include` reads several files");
        }
        if let Some(root) = &root {
            self.hide_secrets(root);
        }
        root
    }

    /// Remembers what stands where a secret would, so that no excerpt repeats it.
    fn hide_secrets(&mut self, node: &Node) {
        for (key, _, value) in node.entries() {
            match &value.kind {
                Kind::Scalar { text, .. } if key == "password" && !text.is_empty() => self.secrets.push(text.clone()),
                Kind::Scalar { text, .. } => self.secrets.extend(user_info(text).map(str::to_owned)),
                _ => self.hide_secrets(value),
            }
        }
        if let Kind::List(items) = &node.kind {
            for item in items {
                self.hide_secrets(item);
            }
        }
    }

    fn build<'a>(
        &mut self,
        (event, at): (Event<'a>, At),
        rest: &mut impl Iterator<Item = (Event<'a>, At)>,
        depth: usize,
    ) -> Option<Node> {
        if depth > MAX_DEPTH {
            self.error(at, "nested too deeply", "32 levels is the limit");
            return None;
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match rest.next()? {
                        (Event::SequenceEnd, _) => break Kind::List(list),
                        item => list.push(self.build(item, rest, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.build_map(rest, depth)?,
            _ => {
                self.error(at, "anchors and aliases are not part of this language", "write the value out");
                return None;
            }
        };
        Some(Node { at, kind })
    }

    fn build_map<'a>(&mut self, rest: &mut impl Iterator<Item = (Event<'a>, At)>, depth: usize) -> Option<Kind> {
        let mut map: Vec<(String, At, Node)> = Vec::new();
        loop {
            let key = rest.next()?;
            if matches!(key.0, Event::MappingEnd) {
                return Some(Kind::Map(map));
            }
            let key = self.build(key, rest, depth + 1)?;
            let next = rest.next()?;
            let value = self.build(next, rest, depth + 1)?;
            let Kind::Scalar { text, .. } = key.kind else {
                self.error(key.at, "a key is one word", "");
                continue;
            };
            if let Some((_, first, _)) = map.iter().find(|(k, ..)| *k == text) {
                let help = format!("it stands in line {} already", first.line);
                self.error(key.at, format!("`{text}` is written twice"), help);
            } else {
                map.push((text, key.at, value));
            }
        }
    }

    pub(super) fn error(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(at, message.into(), help.into());
        self.errors.push(problem);
    }

    pub(super) fn warn(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.problem(at, message.into(), help.into());
        self.warnings.push(problem);
    }

    pub(super) fn problem(&self, at: At, message: String, help: String) -> Problem {
        let (file, text) = self.files.get(at.file).map_or(("", ""), |(n, t)| (n.as_str(), &**t));
        let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default().replace('\t', " ");
        let excerpt = self.secrets.iter().fold(line, |line, secret| line.replace(secret.as_str(), "…"));
        Problem { file: file.to_owned(), line: at.line, column: at.column, message, help, excerpt }
    }

    /// A map with none but these keys.
    pub(super) fn keys(&mut self, node: &Node, allowed: &[&str]) {
        if !matches!(node.kind, Kind::Map(_)) {
            self.error(node.at, "a map of `key: value` is wanted here", format!("keys: {}", allowed.join(", ")));
        }
        for (key, at, _) in node.entries() {
            if !allowed.contains(&key.as_str()) {
                let near = near(key, allowed.iter().copied());
                let help =
                    near.map_or_else(|| format!("known: {}", allowed.join(", ")), |n| format!("did you mean `{n}`?"));
                self.error(*at, format!("unknown key `{key}`"), help);
            }
        }
    }

    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        if let Kind::Scalar { text, .. } = &node.kind
            && !text.is_empty()
        {
            return Some(text.clone());
        }
        self.error(node.at, "a text is wanted here", "");
        None
    }

    pub(super) fn items<'a>(&mut self, node: &'a Node) -> &'a [Node] {
        match &node.kind {
            Kind::List(items) => items,
            _ => {
                self.error(node.at, "a list is wanted here", "");
                &[]
            }
        }
    }

    pub(super) fn bool(&mut self, node: &Node) -> Option<bool> {
        match &node.kind {
            Kind::Scalar { text, plain: true } if text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.error(node.at, "true or false is wanted here", "on, off, yes and no are not words for it");
                None
            }
        }
    }

    /// A whole number, decimal or 0x hex, within limits.
    pub(super) fn int(&mut self, node: &Node, low: i64, high: i64) -> Option<i64> {
        let text = self.text(node)?;
        let digits = text.trim_start_matches('-');
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
            self.error(node.at, format!("`{text}` looks octal"), "write it without leading zeros, or as 0x hex");
            return None;
        }
        let number = match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        match number {
            Some(n) if (low..=high).contains(&n) => Some(n),
            _ => {
                self.error(node.at, format!("`{text}` is not a whole number from {low} to {high}"), "");
                None
            }
        }
    }

    pub(super) fn decimal(&mut self, node: &Node) -> Option<Decimal> {
        let text = self.text(node)?;
        let number = Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text));
        if number.is_err() {
            self.error(node.at, format!("`{text}` is not a number"), "");
        }
        number.ok()
    }

    pub(super) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let text = self.text(node)?;
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let millis = match &text[split..] {
            "us" => Decimal::new(1, 3),
            "ms" => Decimal::ONE,
            "s" => Decimal::from(1_000),
            "m" => Decimal::from(60_000),
            "h" => Decimal::from(3_600_000),
            "d" => Decimal::from(86_400_000),
            unit => {
                let what = if unit.is_empty() { "has no unit" } else { "is no duration" };
                self.error(node.at, format!("`{text}` {what}"), "write it as 250ms, 5s, 15m, 12h or 7d");
                return None;
            }
        };
        let micros = Decimal::from_str(&text[..split])
            .ok()
            .and_then(|n| n.checked_mul(millis)?.checked_mul(Decimal::from(1_000)));
        let micros = micros.and_then(|n| u64::try_from(n.trunc()).ok());
        if micros.is_none() {
            self.error(node.at, format!("`{text}` is no duration"), "write it as 250ms, 5s, 15m, 12h or 7d");
        }
        micros.map(Duration::from_micros)
    }

    pub(super) fn size(&mut self, node: &Node) -> Option<u64> {
        let text = self.text(node)?;
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match &text[split..] {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let size = unit.and_then(|u: u64| text[..split].parse::<u64>().ok()?.checked_mul(u));
        if size.is_none() {
            self.error(node.at, format!("`{text}` is no size"), "write it as 256KiB, 64MiB or 2GiB");
        }
        size
    }

    pub(super) fn word<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t);
        if found.is_none() {
            let list: Vec<_> = words.iter().map(|(w, _)| *w).collect();
            let near = near(&text, list.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
            self.error(
                node.at,
                format!("`{text}` is not a word known here"),
                format!("{near}known: {}", list.join(", ")),
            );
        }
        found
    }
}

/// The tab that indents this line or the next: the parser names the line where it began to wonder.
fn tab_from(text: &str, at: At) -> Option<At> {
    let lines = text.lines().enumerate().skip(at.line.saturating_sub(1)).take(2);
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut tabs = lines.filter_map(|(n, line)| {
        let column = line[..indent(line)].find('\t')? + 1;
        Some(At { line: n + 1, column, ..at })
    });
    tabs.next()
}

/// `user:password` of a URL that carries them.
pub(super) fn user_info(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    rest.split('/').next()?.rsplit_once('@').map(|(user, _)| user)
}

/// The most similar name, where one is similar at all.
pub(crate) fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|n| (strsim::damerau_levenshtein(text, n), n))
        .filter(|(d, n)| *d <= 1 + n.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, n)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl Fn(&mut Reader, &Node)) -> String {
        let mut reader = Reader::default();
        if let Some(node) = reader.parse("t.yaml", text) {
            read(&mut reader, &node);
        }
        reader.errors.to_string()
    }

    #[test]
    fn every_unknown_key_is_reported_with_its_place_and_a_near_name() {
        let text = problems("baud: 1\nformt: 8E1\ntimout: 1s\n", |r, n| r.keys(n, &["baud", "format", "timeout"]));
        assert!(text.contains("t.yaml:2:1: unknown key `formt`") && text.contains("did you mean `format`?"), "{text}");
        assert!(text.contains("t.yaml:3:1: unknown key `timout`"), "{text}");
    }

    #[test]
    fn every_key_written_twice_is_reported() {
        let text = problems("a: 1\na: 2\nb: 1\nb: 2\n", |_, _| {});
        assert!(text.contains("t.yaml:2:1: `a` is written twice") && text.contains("t.yaml:4:1: `b`"), "{text}");
    }

    #[test]
    fn bare_durations_octal_numbers_and_yes_get_a_clear_answer() {
        let text = problems("a: 5\nb: 010\nc: yes\n", |r, n| {
            r.duration(n.get("a").unwrap());
            r.int(n.get("b").unwrap(), 0, 100);
            r.bool(n.get("c").unwrap());
        });
        assert!(text.contains("t.yaml:1:4: `5` has no unit"), "{text}");
        assert!(text.contains("t.yaml:2:4: `010` looks octal"), "{text}");
        assert!(text.contains("t.yaml:3:4: true or false"), "{text}");
    }
}
