//! What a look shows: packets and pieces of one line, of all units or of one, each as a line of text at the wanted
//! depth or as JSON. Pure; the command line and the log both show through this.

use serde_json::Value;
use serde_json::json;

use crate::bus::trace::Depth;
use crate::bus::trace::Event;
use crate::bus::trace::Framing;
use crate::bus::trace::Item;
use crate::bus::trace::Kind;
use crate::bus::trace::Packet;
use crate::bus::trace::What;
use crate::bus::trace::Wire;
use crate::bus::trace::spaced;
use crate::time;
use crate::time::Stamp;

/// One look at one line.
#[derive(Debug)]
pub struct View {
    wire: Wire,
    unit: Option<u8>,
    asked: Option<u8>,
}

/// Something to show; each belongs to some depths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Messages and frames.
    Packet(Packet),
    /// Bytes as they were written or came.
    Piece(Event),
    /// So many events were lost to this reader.
    Lost(u64),
}

impl View {
    /// Of everything, or of what is said to and by one unit.
    pub const fn new(framing: Framing, unit: Option<u8>) -> Self {
        Self { wire: Wire::new(framing), unit, asked: None }
    }

    /// What there is to show now.
    pub fn see(&mut self, item: Item) -> Vec<Shown> {
        let event = match item {
            Item::Event(event) => event,
            Item::Lost { lost } => {
                self.wire.forget();
                return vec![Shown::Lost(lost)];
            }
        };
        let packets = self.wire.push(&event);
        let question = packets.iter().find(|packet| packet.kind == Kind::Question);
        self.asked = question.map(|packet| packet.unit).or(self.asked);
        let is_piece = matches!(event.what, What::Sent(_) | What::Heard(_) | What::Aside(_));
        // Bytes have no unit; they belong to whoever was asked last.
        let piece = (is_piece && self.is_wanted(self.asked)).then_some(Shown::Piece(event));
        let packets = packets.into_iter().filter(|packet| self.is_wanted(Some(packet.unit)));
        piece.into_iter().chain(packets.map(Shown::Packet)).collect()
    }

    fn is_wanted(&self, unit: Option<u8>) -> bool {
        self.unit.is_none_or(|wanted| unit == Some(wanted))
    }
}

impl Shown {
    /// When; what was lost has no time.
    pub const fn at(&self) -> Option<Stamp> {
        match self {
            Self::Packet(packet) => Some(packet.at),
            Self::Piece(event) => Some(event.at),
            Self::Lost(_) => None,
        }
    }

    /// One line without the time; `None` where it does not belong to this depth.
    pub fn text(&self, depth: Depth) -> Option<String> {
        match (self, depth) {
            (Self::Packet(packet), Depth::Message) => Some(packet.message()),
            (Self::Packet(packet), Depth::Frame) => Some(packet.frame()),
            (Self::Packet(packet), Depth::Bytes) if packet.kind == Kind::Missed => Some(packet.frame()),
            (Self::Piece(event), Depth::Bytes) => {
                piece(event).map(|(sign, _, bytes)| format!("{sign} {}", spaced(bytes)))
            }
            (Self::Lost(lost), _) => Some(format!("… {lost} events lost: this reader was too slow")),
            _ => None,
        }
    }

    /// The same line with the time of day before it.
    pub fn line(&self, depth: Depth) -> Option<String> {
        let text = self.text(depth)?;
        Some(self.at().map_or(text.clone(), |at| format!("{} {text}", time::clock_micros(at.wall_us))))
    }

    /// For programs: one document, at the same depths.
    pub fn json(&self, depth: Depth, line: &str) -> Option<Value> {
        // Messages and frames are one document: it has both.
        self.text(depth)?;
        Some(match self {
            Self::Packet(packet) => packet.json(line),
            Self::Piece(event) => {
                let (_, kind, bytes) = piece(event)?;
                let (time, bytes) = (time::rfc3339_micros(event.at.wall_us), spaced(bytes).replace(' ', ""));
                json!({"time": time, "line": line, "kind": kind, "bytes": bytes})
            }
            Self::Lost(lost) => json!({"line": line, "lost": lost}),
        })
    }
}

fn piece(event: &Event) -> Option<(char, &'static str, &[u8])> {
    match &event.what {
        What::Sent(bytes) => Some(('→', "sent", bytes)),
        What::Heard(bytes) => Some(('←', "heard", bytes)),
        What::Aside(bytes) => Some(('⤳', "aside", bytes)),
        What::Answered { .. } | What::Missed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::frame;

    const AT: Stamp = Stamp { mono_us: 1, wall_us: 1_795_222_923_456_789 };

    fn shown(view: &mut View, depth: Depth, whats: Vec<What>) -> Vec<String> {
        let events = whats.into_iter().map(|what| Item::Event(Event { at: AT, what }));
        events.flat_map(|item| view.see(item)).filter_map(|shown| shown.text(depth)).collect()
    }

    fn asked_and_answered(unit: u8) -> Vec<What> {
        let whole = frame::rtu(unit, &[3, 2, 0, 7]);
        vec![
            What::Sent(frame::rtu(unit, &[3, 0, 10, 0, 1])),
            What::Heard(whole[..4].to_vec()),
            What::Heard(whole[4..].to_vec()),
            What::Answered { unit, length: 4, turnaround_us: 5000 },
            What::Sent(frame::rtu(unit, &[3, 0, 11, 0, 1])),
            What::Missed { unit, why: "no reply".into() },
        ]
    }

    #[test]
    fn each_depth_shows_its_own() {
        let all = || View::new(Framing::Rtu, None);
        let bytes = shown(&mut all(), Depth::Bytes, asked_and_answered(1));
        let sent = ["→ 01 03 00 0A 00 01 A4 08", "→ 01 03 00 0B 00 01 F5 C8"];
        assert_eq!(bytes, [sent[0], "← 01 03 02 00", "← 07 F9 86", sent[1], "× unit 1 no reply"]);
        let frames = shown(&mut all(), Depth::Frame, asked_and_answered(1));
        assert_eq!(frames, [sent[0], "← 01 03 02 00 07 F9 86", sent[1], "× unit 1 no reply"]);
        let messages = shown(&mut all(), Depth::Message, asked_and_answered(1));
        assert_eq!(messages.len(), 4);
        assert!(messages[1].contains("5.0 ms  7"), "{}", messages[1]);
    }

    #[test]
    fn one_unit_can_be_looked_at_alone_at_every_depth() {
        let both = || [asked_and_answered(1), asked_and_answered(2)].concat();
        for (depth, lines) in [(Depth::Message, 4), (Depth::Frame, 4), (Depth::Bytes, 5)] {
            let only = shown(&mut View::new(Framing::Rtu, Some(2)), depth, both());
            assert_eq!(only, shown(&mut View::new(Framing::Rtu, None), depth, asked_and_answered(2)), "{depth}");
            assert_eq!(only.len(), lines);
        }
    }

    #[test]
    fn a_line_begins_with_the_time_to_the_microsecond_and_a_loss_is_said() {
        let mut view = View::new(Framing::Rtu, None);
        let missed = Item::Event(Event { at: AT, what: What::Missed { unit: 9, why: "no reply".into() } });
        let line = view.see(missed)[0].line(Depth::Message).unwrap();
        assert!(line.contains(".456789 × unit   9"), "{line}");
        let lost = view.see(Item::Lost { lost: 3 });
        assert_eq!(lost[0].json(Depth::Frame, "hall").unwrap(), json!({"line": "hall", "lost": 3}));
        assert!(lost[0].line(Depth::Frame).unwrap().starts_with("… 3 events lost"));
    }
}
