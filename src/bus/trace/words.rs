//! What a packet says, taken apart as the application protocol does (V1.1b3, 6): for text, for programs, and for the
//! comments in a capture. Pure. Addresses are zero-based, as on the wire; words are decimal.

use serde_json::Value;
use serde_json::json;

use crate::bus::mei;
use crate::bus::trace::Kind;
use crate::bus::trace::Packet;
use crate::bus::trace::spaced;
use crate::time;

/// What the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    None,
    Registers(Vec<u16>),
    Bits(Vec<bool>),
    Mask(u16, u16),
    /// Where and what a read/write wrote.
    Both((u16, u16), Vec<u16>),
    Objects(Vec<(u8, Vec<u8>)>),
    Exception(u8),
    Other(Vec<u8>),
}

/// A packet taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    function: u8,
    range: Option<(u16, u16)>,
    data: Data,
}

fn word(pdu: &[u8], at: usize) -> Option<u16> {
    pdu.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]))
}

fn registers(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect()
}

/// Lowest bit first (V1.1b3, 6.1).
fn bits(bytes: &[u8], count: usize) -> Vec<bool> {
    bytes.iter().flat_map(|byte| (0..8).map(move |n| byte >> n & 1 == 1)).take(count).collect()
}

/// Address and count, as a request names them; a confirmed write repeats them.
fn range(pdu: &[u8]) -> Option<(u16, u16)> {
    match pdu.first()? {
        1..=4 | 15 | 16 | 23 => Some((word(pdu, 1)?, word(pdu, 3)?)),
        5 | 6 | 22 => Some((word(pdu, 1)?, 1)),
        _ => None,
    }
}

fn requested(pdu: &[u8]) -> Data {
    let rest = |from: usize| pdu.get(from..).unwrap_or_default();
    match pdu[0] {
        1..=4 => Data::None,
        15 => Data::Bits(bits(rest(6), usize::from(word(pdu, 3).unwrap_or(0)))),
        16 => Data::Registers(registers(rest(6))),
        23 => match word(pdu, 5).zip(word(pdu, 7)) {
            Some(to) => Data::Both(to, registers(rest(10))),
            None => Data::Other(rest(1).to_vec()),
        },
        _ => repeated(pdu),
    }
}

/// Writes of one thing are confirmed by the same words.
fn repeated(pdu: &[u8]) -> Data {
    let data = match pdu[0] {
        5 => word(pdu, 3).map(|w| Data::Bits(vec![w != 0])),
        6 => word(pdu, 3).map(|w| Data::Registers(vec![w])),
        22 => word(pdu, 3).zip(word(pdu, 5)).map(|(and, or)| Data::Mask(and, or)),
        _ => None,
    };
    data.unwrap_or_else(|| Data::Other(pdu[1..].to_vec()))
}

fn answered(pdu: &[u8], asked: Option<(u16, u16)>) -> Data {
    let rest = pdu.get(2..).unwrap_or_default();
    match pdu[0] {
        0x80.. => Data::Exception(pdu.get(1).copied().unwrap_or(0)),
        1 | 2 => Data::Bits(bits(rest, asked.map_or(usize::MAX, |(_, count)| usize::from(count)))),
        3 | 4 | 23 => Data::Registers(registers(rest)),
        mei::FUNCTION => match mei::parse(pdu) {
            Some(said) => Data::Objects(said.objects),
            None => Data::Other(pdu[1..].to_vec()),
        },
        15 | 16 => Data::None,
        _ => repeated(pdu),
    }
}

impl Said {
    /// `None` where there is neither a frame nor a question it belongs to.
    fn of(packet: &Packet) -> Option<Self> {
        let asked = packet.question.as_deref();
        let pdu = packet.pdu.as_slice();
        let Some(first) = pdu.first() else {
            let asked = asked?;
            return Some(Self { function: asked[0], range: range(asked), data: Data::None });
        };
        let function = first & 0x7F;
        // Of frames put aside some are another master's questions; a read's answer says its own length.
        let is_read_answer = pdu.get(1).is_some_and(|n| usize::from(*n) + 2 == pdu.len());
        let is_question = match packet.kind {
            Kind::Question | Kind::Echo => true,
            Kind::Aside => matches!(first, 1..=4) && pdu.len() == 5 && !is_read_answer,
            _ => false,
        };
        if is_question {
            return Some(Self { function, range: range(pdu), data: requested(pdu) });
        }
        let asked = asked.filter(|asked| asked[0] == function).and_then(range);
        let own = if matches!(first, 1..=4 | 23 | 0x80..) { None } else { range(pdu) };
        Some(Self { function, range: asked.or(own), data: answered(pdu, asked) })
    }

    fn name(&self) -> String {
        match self.function {
            1 => "read coils",
            2 => "read discrete inputs",
            3 => "read holding registers",
            4 => "read input registers",
            5 => "write coil",
            6 => "write register",
            8 => "return query data",
            15 => "write coils",
            16 => "write registers",
            22 => "mask write register",
            23 => "read/write registers",
            mei::FUNCTION => "read identification",
            other => return format!("function {other}"),
        }
        .to_owned()
    }

    /// `10-11 (2)`.
    fn place(&self) -> String {
        self.range.map(span).unwrap_or_default()
    }
}

fn span((first, count): (u16, u16)) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{} ({count})", u32::from(first) + u32::from(count) - 1),
    }
}

impl Data {
    fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Registers(words) => joined(words),
            Self::Bits(bits) => joined(&bits.iter().map(|on| u8::from(*on)).collect::<Vec<_>>()),
            Self::Mask(and, or) => format!("and 0x{and:04X} or 0x{or:04X}"),
            Self::Both(to, words) => format!("writes {}: {}", span(*to), joined(words)),
            Self::Objects(objects) => objects.iter().map(object).collect::<Vec<_>>().join(", "),
            Self::Exception(code) => format!("exception {code}: {}", exception(*code)),
            Self::Other(bytes) => spaced(bytes),
        }
    }
}

/// `vendor "ACME"`; what is no text is shown as bytes.
fn object((id, value): &(u8, Vec<u8>)) -> String {
    let name = mei::name(*id).map_or_else(|| format!("object {id}"), str::to_owned);
    format!("{name} {}", mei::text(value).map_or_else(|| spaced(value), |text| format!("\"{text}\"")))
}

fn joined(numbers: &[impl ToString]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What the standard calls an exception (V1.1b3, 7).
pub const fn exception(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge, still working",
        6 => "server device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond",
        _ => "not in the standard",
    }
}

const fn sign(kind: Kind) -> char {
    match kind {
        Kind::Question => '→',
        Kind::Answer => '←',
        Kind::Aside => '⤳',
        Kind::Echo => '↺',
        Kind::Damaged => '!',
        Kind::Missed => '×',
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Question => "question",
        Kind::Answer => "answer",
        Kind::Aside => "aside",
        Kind::Echo => "echo",
        Kind::Damaged => "damaged",
        Kind::Missed => "missed",
    }
}

impl Packet {
    /// One line in words, in columns: who, what, where, how long it took, the data.
    pub fn message(&self) -> String {
        let said = Said::of(self);
        let (name, place) = said.as_ref().map(|s| (s.name(), s.place())).unwrap_or_default();
        let took = self.after_us.map(|us| format!("{:.1} ms", f64::from(us) / 1e3)).unwrap_or_default();
        let line = format!("{} unit {:>3}  {name:<22}  {place:<14}  {took:>9}  ", sign(self.kind), self.unit);
        (line + &self.tail()).trim_end().to_owned()
    }

    /// One line of bytes; of what has none, why.
    pub fn frame(&self) -> String {
        match &self.why {
            None => format!("{} {}", sign(self.kind), spaced(&self.bytes)),
            Some(why) if self.bytes.is_empty() => format!("{} unit {} {why}", sign(self.kind), self.unit),
            Some(why) => format!("{} {}  ({why})", sign(self.kind), spaced(&self.bytes)),
        }
    }

    /// What a capture should say of it where Wireshark by itself says nothing or something else.
    pub(super) fn comment(&self) -> Option<String> {
        let words = || {
            let said = Said::of(self)?;
            Some([said.name(), said.place(), said.data.text()].join(" ").replace("  ", " ").trim_end().to_owned())
        };
        match self.kind {
            Kind::Question | Kind::Answer if self.is_told_by_wireshark() => None,
            Kind::Question | Kind::Answer => Some(format!("{}: {}", kind_name(self.kind), words()?)),
            Kind::Aside => Some("put aside: answers nothing that was asked".to_owned()),
            Kind::Echo => Some("echo of the question".to_owned()),
            Kind::Damaged => Some(format!("damaged: {}", self.why.as_deref().unwrap_or_default())),
            Kind::Missed => None,
        }
    }

    /// Of an RTU frame Wireshark guesses by its length whether it is a question, cannot where both are of one length,
    /// and is wrong about reads of bits at 768 to 1023 (`classify_mbrtu_packet`).
    fn is_told_by_wireshark(&self) -> bool {
        let address = self.pdu.get(1).copied().unwrap_or(0);
        self.transaction.is_some()
            || match self.pdu.first() {
                Some(1 | 2) => self.kind == Kind::Answer || address != 3,
                Some(3 | 4 | 15 | 16 | 0x80..) => true,
                _ => false,
            }
    }

    fn tail(&self) -> String {
        let data = Said::of(self).map(|said| said.data);
        let text = data.as_ref().map(Data::text).unwrap_or_default();
        match self.kind {
            Kind::Answer if data == Some(Data::None) => "written".to_owned(),
            Kind::Question | Kind::Answer => text,
            Kind::Aside => format!("put aside: {text}"),
            Kind::Echo => "echo".to_owned(),
            Kind::Damaged => format!("damaged ({}): {}", self.why.as_deref().unwrap_or_default(), spaced(&self.bytes)),
            Kind::Missed => self.why.clone().unwrap_or_default(),
        }
    }

    /// For programs; what does not apply is left out.
    pub fn json(&self, line: &str) -> Value {
        let time = time::rfc3339_micros(self.at.wall_us);
        let mut all = json!({"time": time, "line": line, "kind": kind_name(self.kind), "unit": self.unit});
        let mut put = |key: &str, value: Value| all[key] = value;
        if let Some(number) = self.transaction {
            put("transaction", json!(number));
        }
        if let Some(said) = Said::of(self) {
            put("function", json!(said.function));
            put("name", json!(said.name()));
            if let Some((address, count)) = said.range {
                put("address", json!(address));
                put("count", json!(count));
            }
            match said.data {
                Data::Registers(words) => put("registers", json!(words)),
                Data::Bits(bits) => put("bits", json!(bits)),
                Data::Mask(and, or) => put("mask", json!({"and": and, "or": or})),
                Data::Both((address, count), words) => {
                    put("write_address", json!(address));
                    put("write_count", json!(count));
                    put("registers", json!(words));
                }
                Data::Objects(objects) => put("objects", mei::json(&objects)),
                Data::Exception(code) => put("exception", json!({"code": code, "text": exception(code)})),
                Data::None | Data::Other(_) => {}
            }
        }
        if let Some(us) = self.after_us {
            put("after_us", json!(us));
        }
        if let Some(why) = &self.why {
            put("why", json!(why));
        }
        if !self.bytes.is_empty() {
            put("bytes", json!(spaced(&self.bytes).replace(' ', "")));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::frame;
    use crate::time::Stamp;
    use proptest::prelude::*;

    fn packet(kind: Kind, pdu: &[u8]) -> Packet {
        Packet {
            at: Stamp { mono_us: 0, wall_us: 1_795_222_923_456_789 },
            kind,
            unit: 1,
            bytes: frame::rtu(1, pdu),
            pdu: pdu.to_vec(),
            transaction: None,
            question: None,
            after_us: None,
            why: None,
        }
    }

    fn answer(question: &[u8], pdu: &[u8]) -> Packet {
        Packet { question: Some(question.to_vec()), after_us: Some(4200), ..packet(Kind::Answer, pdu) }
    }

    fn missed(question: Option<&[u8]>) -> Packet {
        Packet {
            question: question.map(<[u8]>::to_vec),
            bytes: Vec::new(),
            pdu: Vec::new(),
            after_us: Some(300_456),
            why: Some("no reply".to_owned()),
            ..packet(Kind::Missed, &[3])
        }
    }

    #[test]
    fn messages_stand_in_columns() {
        let read = [3, 0, 10, 0, 2];
        let table = [
            (packet(Kind::Question, &read), "→ unit   1  read holding registers  10-11 (2)"),
            (
                answer(&read, &[3, 4, 0, 7, 1, 0]),
                "← unit   1  read holding registers  10-11 (2)          4.2 ms  7 256",
            ),
            (
                answer(&read, &[0x83, 2]),
                "← unit   1  read holding registers  10-11 (2)          4.2 ms  exception 2: illegal data address",
            ),
            (missed(Some(&read)), "× unit   1  read holding registers  10-11 (2)        300.5 ms  no reply"),
            (
                packet(Kind::Aside, &[3, 2, 0, 5]),
                "⤳ unit   1  read holding registers                             put aside: 5",
            ),
        ];
        for (packet, text) in table {
            assert_eq!(packet.message(), text);
        }
    }

    #[test]
    fn each_function_says_where_and_what() {
        let table: [(&[u8], &[u8], &str, &str); 9] = [
            (
                &[1, 0, 3, 0, 10],
                &[1, 2, 0b101, 0b10],
                "read coils 3-12 (10)",
                "read coils 3-12 (10) 1 0 1 0 0 0 0 0 0 1",
            ),
            (&[4, 0, 9, 0, 1], &[4, 2, 0xFF, 0xFF], "read input registers 9", "read input registers 9 65535"),
            (&[5, 0, 9, 0xFF, 0], &[5, 0, 9, 0xFF, 0], "write coil 9 1", "write coil 9 1"),
            (&[6, 0, 9, 0, 5], &[6, 0, 9, 0, 5], "write register 9 5", "write register 9 5"),
            (
                &[16, 0, 9, 0, 2, 4, 0, 1, 0, 2],
                &[16, 0, 9, 0, 2],
                "write registers 9-10 (2) 1 2",
                "write registers 9-10 (2) written",
            ),
            (
                &[22, 0, 9, 0, 0xF2, 0, 0x25],
                &[22, 0, 9, 0, 0xF2, 0, 0x25],
                "mask write register 9 and 0x00F2 or 0x0025",
                "mask write register 9 and 0x00F2 or 0x0025",
            ),
            (
                &[23, 0, 3, 0, 2, 0, 9, 0, 1, 2, 0, 7],
                &[23, 4, 0, 5, 0, 6],
                "read/write registers 3-4 (2) writes 9: 7",
                "read/write registers 3-4 (2) 5 6",
            ),
            (
                &[43, 14, 1, 0],
                &[43, 14, 1, 1, 0, 0, 2, 0, 3, b'A', b'B', b'C', 0x80, 2, 0, 0xFF],
                "read identification 0E 01 00",
                "read identification vendor \"ABC\", object 128 00 FF",
            ),
            (&[8, 0, 0, 0, 5], &[8, 0, 0, 0, 5], "return query data 00 00 00 05", "return query data 00 00 00 05"),
        ];
        for (asked, said, question, wanted) in table {
            assert_eq!(plain(&packet(Kind::Question, asked)), format!("→ unit 1 {question}"));
            assert_eq!(plain(&answer(asked, said)).replace("4.2 ms ", ""), format!("← unit 1 {wanted}"));
        }
    }

    /// Without the columns.
    fn plain(packet: &Packet) -> String {
        packet.message().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_capture_is_commented_only_where_wireshark_cannot_tell() {
        let read = [3, 0, 10, 0, 2];
        for packet in [packet(Kind::Question, &read), answer(&read, &[3, 4, 0, 7, 1, 0]), answer(&read, &[0x83, 2])] {
            assert_eq!(packet.comment(), None);
        }
        let write = [6, 0, 9, 0, 5];
        assert_eq!(packet(Kind::Question, &write).comment().unwrap(), "question: write register 9 5");
        assert_eq!(answer(&write, &write).comment().unwrap(), "answer: write register 9 5");
        assert_eq!(Packet { transaction: Some(7), ..answer(&write, &write) }.comment(), None);
        let coils = packet(Kind::Question, &[1, 3, 0, 0, 1]);
        assert_eq!(coils.comment().unwrap(), "question: read coils 768");
        assert!(packet(Kind::Aside, &read).comment().unwrap().starts_with("put aside"));
    }

    #[test]
    fn programs_get_the_same_as_people() {
        let value = answer(&[3, 0, 10, 0, 2], &[3, 4, 0, 7, 1, 0]).json("hall");
        let wanted = json!({
            "time": "2026-11-21T01:02:03.456789Z", "line": "hall", "kind": "answer", "unit": 1, "function": 3,
            "name": "read holding registers", "address": 10, "count": 2, "registers": [7, 256], "after_us": 4200,
            "bytes": "010304000701004A62",
        });
        assert_eq!(value, wanted);
        let value = missed(None).json("hall");
        assert_eq!((value["kind"].as_str(), value["why"].as_str()), (Some("missed"), Some("no reply")));
        assert_eq!((value.get("function"), value.get("bytes")), (None, None));
    }

    proptest! {
        #[test]
        fn any_pdu_can_be_said(
            pdu in proptest::collection::vec(any::<u8>(), 1..20),
            question in proptest::option::of(proptest::collection::vec(any::<u8>(), 5..12)),
        ) {
            for kind in [Kind::Question, Kind::Answer, Kind::Aside, Kind::Echo, Kind::Damaged] {
                let packet = Packet { question: question.clone(), ..packet(kind, &pdu) };
                prop_assert!(!packet.message().is_empty() && !packet.frame().is_empty());
                prop_assert!(packet.json("hall").is_object());
                let _ = packet.comment();
            }
        }
    }
}
