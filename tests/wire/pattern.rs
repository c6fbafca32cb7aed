//! The language of bytes: `PUB1r [ "t" u16:7 {} 'x' ]` is a retained PUBLISH of QoS 1. Numbers are hex bytes, names are packet
//! types, `[ … ]` is what its length stands before, `"text"` a text with its length, `'text'` without; `u8:`, `u16:`, `u32:` numbers
//! (`u16*3:7` three of them), `text:N` a text of N letters; `{}` an empty property list, which 3.1.1 does not have; `4/x`, `5/x`: x with
//! that version only. In what is expected `.` is any byte and `..` any end.

/// Bytes to send or to expect; `None` is any byte, `open` allows any end.
#[derive(Default)]
pub(crate) struct Pattern {
    pub(crate) bytes: Vec<Option<u8>>,
    pub(crate) open: bool,
}

impl Pattern {
    pub(crate) fn read(text: &str, v5: bool) -> Self {
        Tokens { rest: text, v5 }.pattern()
    }

    /// For sending: every byte is known.
    pub(crate) fn known(self) -> Vec<u8> {
        self.bytes.into_iter().map(|byte| byte.expect("`.` is for what is expected")).collect()
    }

    pub(crate) fn fits(&self, got: &[u8]) -> bool {
        let long = if self.open { got.len() >= self.bytes.len() } else { got.len() == self.bytes.len() };
        long && self.bytes.iter().zip(got).all(|(want, got)| want.is_none_or(|want| want == *got))
    }
}

struct Tokens<'a> {
    rest: &'a str,
    v5: bool,
}

impl Tokens<'_> {
    fn pattern(&mut self) -> Pattern {
        let mut out = Pattern::default();
        while let Some(token) = self.token() {
            if token == "]" {
                break;
            }
            self.one(&token, &mut out);
        }
        out
    }

    /// The next word; a quoted text is one word.
    fn token(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let end = match first {
            '"' | '\'' => 2 + self.rest[1..].find(first).expect("the quote is closed"),
            _ => self.rest.find(' ').unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token.to_owned())
    }

    fn one(&mut self, token: &str, out: &mut Pattern) {
        if let Some((version, token)) = token.split_once('/').filter(|(v, _)| *v == "5" || *v == "4") {
            if (version == "5") == self.v5 {
                self.one(token, out);
            }
            return;
        }
        match token {
            "[" => self.framed(out),
            "{}" if self.v5 => put(out, &[0]),
            "{}" => {}
            ".." => out.open = true,
            "." => out.bytes.push(None),
            _ => put(out, &plain(token).unwrap_or_else(|| panic!("{token}?"))),
        }
    }

    fn framed(&mut self, out: &mut Pattern) {
        let inner = self.pattern();
        let mut length = inner.bytes.len();
        out.open |= inner.open;
        loop {
            let more = if length > 127 { 0x80 } else { 0 };
            // What ends openly has any length.
            out.bytes.push((!inner.open).then_some((length & 0x7F) as u8 | more));
            length >>= 7;
            if length == 0 || inner.open {
                break;
            }
        }
        out.bytes.extend(inner.bytes);
    }
}

fn put(out: &mut Pattern, bytes: &[u8]) {
    out.bytes.extend(bytes.iter().copied().map(Some));
}

fn sized(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

fn plain(token: &str) -> Option<Vec<u8>> {
    if let Some(text) = token.strip_prefix('"') {
        return Some(sized(text.trim_end_matches('"').as_bytes()));
    }
    if let Some(text) = token.strip_prefix('\'') {
        return Some(text.trim_end_matches('\'').as_bytes().to_vec());
    }
    let Some((kind, number)) = token.split_once(':') else { return first_byte(token).map(|byte| vec![byte]) };
    let (kind, times) = kind.split_once('*').map_or((kind, 1), |(kind, n)| (kind, n.parse().unwrap()));
    let number: u32 = number.parse().ok()?;
    let bytes = number.to_be_bytes();
    Some(match kind {
        "u8" => bytes[3..].repeat(times),
        "u16" => bytes[2..].repeat(times),
        "u32" => bytes.repeat(times),
        "text" => sized(&vec![b'x'; number as usize]),
        _ => return None,
    })
}

fn first_byte(token: &str) -> Option<u8> {
    if let Some(publish) = token.strip_prefix("PUB").filter(|p| p.starts_with(['0', '1', '2', '3'])) {
        let qos = publish.as_bytes()[0] - b'0';
        let flag = |c: char, bit: u8| if publish.contains(c) { bit } else { 0 };
        return Some(0x30 | qos << 1 | flag('d', 8) | flag('r', 1));
    }
    Some(match token {
        "CONNECT" => 0x10,
        "CONNACK" => 0x20,
        "PUBACK" => 0x40,
        "PUBREC" => 0x50,
        "PUBREL" => 0x62,
        "PUBCOMP" => 0x70,
        "SUBSCRIBE" => 0x82,
        "SUBACK" => 0x90,
        "UNSUBSCRIBE" => 0xA2,
        "UNSUBACK" => 0xB0,
        "PINGREQ" => 0xC0,
        "PINGRESP" => 0xD0,
        "DISCONNECT" => 0xE0,
        "AUTH" => 0xF0,
        hex => u8::from_str_radix(hex, 16).ok()?,
    })
}
