//! Packets out of events: what the line wrote and read, put together again by whoever looks, so that the line itself
//! need not. Pure. Everything that came is in some packet: the answer, sound frames that answer nothing, and the rest
//! as damaged.

use crate::bus::frame;
use crate::bus::trace::Event;
use crate::bus::trace::Framing;
use crate::bus::trace::What;
use crate::time::Stamp;

/// Some answers' worth of noise; a line that babbles is shown in portions.
const PORTION: usize = 4096;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the gateway asked.
    Question,
    /// What was accepted as the answer, exceptions included.
    Answer,
    /// A sound frame that answers nothing: late, foreign, or of a wrong shape.
    Aside,
    /// The gateway's own question, heard by an adapter that hears itself.
    Echo,
    /// Bytes that are no sound frame.
    Damaged,
    /// No bytes: the time was over, or the line broke.
    Missed,
}

/// One frame, or what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When its last byte was here; of a question, when the first was written.
    pub at: Stamp,
    /// What it is.
    pub kind: Kind,
    /// Whose it is; of damaged and missing ones, who was asked.
    pub unit: u8,
    /// As it was on the wire, checksum or MBAP header included.
    pub bytes: Vec<u8>,
    /// Function and data of a sound frame.
    pub pdu: Vec<u8>,
    /// On Modbus TCP, the frame's own.
    pub transaction: Option<u16>,
    /// The PDU that was asked, for an answer and for what came or failed to come instead.
    pub question: Option<Vec<u8>>,
    /// For an answer the device's turnaround; for a miss the time since the question.
    pub after_us: Option<u32>,
    /// What is wrong with it, in words.
    pub why: Option<String>,
}

/// A sound frame inside bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sound {
    from: usize,
    to: usize,
    unit: u8,
    pdu: Vec<u8>,
    transaction: Option<u16>,
}

/// The question that is open or was asked last.
#[derive(Debug)]
struct Asked {
    at: Stamp,
    frame: Vec<u8>,
    sound: Sound,
    is_open: bool,
}

/// Puts the packets of one line together.
#[derive(Debug)]
pub struct Wire {
    framing: Framing,
    asked: Option<Asked>,
    buffer: Vec<u8>,
    /// Where each piece ends in the buffer, and when it came.
    ends: Vec<(usize, Stamp)>,
}

impl Wire {
    /// Of a line that frames like this.
    pub const fn new(framing: Framing) -> Self {
        Self { framing, asked: None, buffer: Vec::new(), ends: Vec::new() }
    }

    /// After a loss: what comes until the next question belongs to nothing that is known.
    pub fn forget(&mut self) {
        *self = Self::new(self.framing);
    }

    /// The packets that are whole with this event.
    pub fn push(&mut self, event: &Event) -> Vec<Packet> {
        match &event.what {
            What::Sent(frame) => self.sent(event.at, frame),
            // The look began between question and answer.
            What::Heard(_) if self.asked.is_none() => Vec::new(),
            // What was put aside may end in the next piece, or have been the answer after all, so it waits like the rest.
            What::Heard(bytes) | What::Aside(bytes) => {
                self.collect(event.at, bytes);
                if self.buffer.len() > PORTION { self.flush(None) } else { Vec::new() }
            }
            What::Answered { unit, length, turnaround_us } => {
                self.answered(*unit, usize::from(*length), *turnaround_us)
            }
            What::Missed { unit, why } => self.missed(event.at, *unit, why),
        }
    }

    fn sent(&mut self, at: Stamp, frame: &[u8]) -> Vec<Packet> {
        let mut packets = self.flush(None);
        self.asked = self.one(frame).map(|sound| Asked { at, frame: frame.to_vec(), sound, is_open: true });
        packets.extend(
            self.asked
                .as_ref()
                .map(|asked| Packet { question: None, ..sound_packet(at, Kind::Question, &asked.sound, frame) }),
        );
        packets
    }

    fn answered(&mut self, unit: u8, length: usize, turnaround_us: u32) -> Vec<Packet> {
        let Some((from, to)) = self.answer(unit, length) else { return Vec::new() };
        let rest = self.split(to);
        let frame = self.split(from);
        let mut packets = self.flush(None);
        if let (Some(asked), Some(sound)) = (&mut self.asked, one(self.framing, &frame.0)) {
            asked.is_open = false;
            packets.push(Packet {
                question: Some(asked.sound.pdu.clone()),
                after_us: Some(turnaround_us),
                ..sound_packet(frame.time(to - from - 1), Kind::Answer, &sound, &frame.0)
            });
        }
        (self.buffer, self.ends) = (rest.0, rest.1);
        packets
    }

    fn missed(&mut self, at: Stamp, unit: u8, why: &str) -> Vec<Packet> {
        let mut packets = self.flush(Some(why.strip_prefix("garbled: ").unwrap_or(why)));
        let asked = self.asked.as_mut().filter(|asked| asked.is_open && asked.sound.unit == unit);
        let since = asked.as_ref().map(|asked| at.mono_us.saturating_sub(asked.at.mono_us));
        packets.push(Packet {
            at,
            kind: Kind::Missed,
            unit,
            bytes: Vec::new(),
            pdu: Vec::new(),
            transaction: None,
            question: asked.as_ref().map(|asked| asked.sound.pdu.clone()),
            after_us: since.map(|us| u32::try_from(us).unwrap_or(u32::MAX)),
            why: Some(if since.is_some() { why.to_owned() } else { format!("{why} (was not asked)") }),
        });
        if let Some(asked) = asked {
            asked.is_open = false;
        }
        packets
    }

    fn collect(&mut self, at: Stamp, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.ends.push((self.buffer.len(), at));
    }

    /// Where the answer of this shape lies: the last one, as the line decided when it had just come.
    fn answer(&self, unit: u8, length: usize) -> Option<(usize, usize)> {
        let asked = self.asked.as_ref()?;
        let (size, begins) = match asked.sound.transaction {
            None => (length + 3, vec![unit]),
            Some(number) => {
                let [high, low] = number.to_be_bytes();
                let [long, short] = (length as u16 + 1).to_be_bytes();
                (length + 7, vec![high, low, 0, 0, long, short, unit])
            }
        };
        let is_it = |w: &[u8]| w.starts_with(&begins) && (self.framing == Framing::Tcp || frame::is_sound(w));
        self.buffer.windows(size).rposition(is_it).map(|from| (from, from + size))
    }

    /// Takes what lies behind `at` out of the buffer.
    fn split(&mut self, at: usize) -> Part {
        let behind = self.buffer.split_off(at);
        let ends = self.ends.iter().filter(|(end, _)| *end > at).map(|(end, stamp)| (end - at, *stamp)).collect();
        let before = self.ends.iter().position(|(end, _)| *end >= at);
        if let Some(last) = before {
            self.ends.truncate(last + 1);
            self.ends[last].0 = at;
        }
        Part(behind, ends)
    }

    /// What is in the buffer becomes packets, none of them an answer.
    fn flush(&mut self, why: Option<&str>) -> Vec<Packet> {
        let part = Part(std::mem::take(&mut self.buffer), std::mem::take(&mut self.ends));
        let mut packets = Vec::new();
        let mut from = 0;
        for sound in all(self.framing, &part.0) {
            packets.extend(self.damaged(&part, from, sound.from, why));
            from = sound.to;
            let bytes = &part.0[sound.from..sound.to];
            let is_echo = self.asked.as_ref().is_some_and(|asked| asked.frame == bytes);
            let kind = if is_echo { Kind::Echo } else { Kind::Aside };
            packets.push(sound_packet(part.time(sound.to - 1), kind, &sound, bytes));
        }
        packets.extend(self.damaged(&part, from, part.0.len(), why));
        packets
    }

    fn damaged(&self, part: &Part, from: usize, to: usize, why: Option<&str>) -> Option<Packet> {
        let bytes = part.0.get(from..to).filter(|bytes| !bytes.is_empty())?;
        let open = self.asked.as_ref().filter(|asked| asked.is_open);
        Some(Packet {
            at: part.time(to - 1),
            kind: Kind::Damaged,
            unit: open.map_or(bytes[0], |asked| asked.sound.unit),
            bytes: bytes.to_vec(),
            pdu: Vec::new(),
            transaction: None,
            question: open.map(|asked| asked.sound.pdu.clone()),
            after_us: None,
            why: Some(why.unwrap_or("no frame").to_owned()),
        })
    }

    fn one(&self, frame: &[u8]) -> Option<Sound> {
        one(self.framing, frame)
    }
}

/// Bytes, and where in them each piece ends, with its time.
#[derive(Debug)]
struct Part(Vec<u8>, Vec<(usize, Stamp)>);

impl Part {
    /// When the byte at `at` was here.
    fn time(&self, at: usize) -> Stamp {
        let found = self.1.iter().find(|(end, _)| *end > at).or(self.1.last());
        found.map_or(Stamp { mono_us: 0, wall_us: 0 }, |(_, stamp)| *stamp)
    }
}

fn sound_packet(at: Stamp, kind: Kind, sound: &Sound, bytes: &[u8]) -> Packet {
    Packet {
        at,
        kind,
        unit: sound.unit,
        bytes: bytes.to_vec(),
        pdu: sound.pdu.clone(),
        transaction: sound.transaction,
        question: None,
        after_us: None,
        why: None,
    }
}

/// The frame that these bytes are, whole and nothing else.
fn one(framing: Framing, bytes: &[u8]) -> Option<Sound> {
    match framing {
        Framing::Rtu => frame::is_sound(bytes).then(|| Sound {
            from: 0,
            to: bytes.len(),
            unit: bytes[0],
            pdu: bytes[1..bytes.len() - 2].to_vec(),
            transaction: None,
        }),
        Framing::Tcp => numbered(bytes, 0).filter(|sound| sound.to == bytes.len()),
    }
}

/// All sound frames in these bytes, in order.
fn all(framing: Framing, bytes: &[u8]) -> Vec<Sound> {
    let mut from = 0;
    match framing {
        Framing::Tcp => std::iter::from_fn(|| numbered(bytes, from).inspect(|sound| from = sound.to)).collect(),
        Framing::Rtu => {
            let place = |(unit, pdu): (u8, Vec<u8>)| {
                let whole = frame::rtu(unit, &pdu);
                let start = from + bytes[from..].windows(whole.len()).position(|w| w == whole)?;
                from = start + whole.len();
                Some(Sound { from: start, to: from, unit, pdu, transaction: None })
            };
            frame::sound_frames(bytes).0.into_iter().filter_map(place).collect()
        }
    }
}

/// The Modbus TCP frame that begins at `from` (Messaging on TCP/IP V1.0b, 3.1.3).
fn numbered(bytes: &[u8], from: usize) -> Option<Sound> {
    let header = bytes.get(from..from + 7)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let is_frame = header[2..4] == [0, 0] && (3..=254).contains(&length);
    let pdu = bytes.get(from + 7..from + 6 + length).filter(|_| is_frame)?.to_vec();
    let transaction = Some(u16::from_be_bytes([header[0], header[1]]));
    Some(Sound { from, to: from + 6 + length, unit: header[6], pdu, transaction })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(us: u64) -> Stamp {
        Stamp { mono_us: us, wall_us: 1_795_222_923_000_000 + us as i64 }
    }

    /// Events at 0, 1000, 2000 … µs.
    fn packets(framing: Framing, events: Vec<What>) -> Vec<Packet> {
        let mut wire = Wire::new(framing);
        let events = events.into_iter().enumerate().map(|(n, what)| Event { at: stamp(n as u64 * 1000), what });
        events.flat_map(|event| wire.push(&event)).collect()
    }

    fn kinds(packets: &[Packet]) -> Vec<(Kind, u64)> {
        packets.iter().map(|p| (p.kind, p.at.mono_us / 1000)).collect()
    }

    const QUESTION: [u8; 5] = [3, 0, 10, 0, 2];
    const ANSWER: [u8; 6] = [3, 4, 0, 7, 1, 0];

    fn answered(length: usize) -> What {
        What::Answered { unit: 1, length: length as u16, turnaround_us: 4200 }
    }

    #[test]
    fn a_question_and_its_answer_in_two_pieces() {
        let whole = frame::rtu(1, &ANSWER);
        let (a, b) = whole.split_at(3);
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let seen = packets(Framing::Rtu, vec![sent, What::Heard(a.into()), What::Heard(b.into()), answered(6)]);
        assert_eq!(kinds(&seen), [(Kind::Question, 0), (Kind::Answer, 2)], "an answer is there with its last byte");
        assert_eq!((seen[1].bytes.as_slice(), seen[1].pdu.as_slice()), (whole.as_slice(), &ANSWER[..]));
        assert_eq!((seen[1].question.as_deref(), seen[1].after_us), (Some(&QUESTION[..]), Some(4200)));
    }

    #[test]
    fn noise_a_foreign_frame_and_the_answer_in_one_piece_are_told_apart() {
        let mut heard = vec![0xFF, 0];
        heard.extend(frame::rtu(9, &[3, 2, 0, 5]));
        heard.extend(frame::rtu(1, &ANSWER));
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let next = What::Sent(frame::rtu(2, &QUESTION));
        let seen = packets(Framing::Rtu, vec![sent, What::Heard(heard), answered(6), next]);
        let wanted = [Kind::Question, Kind::Damaged, Kind::Aside, Kind::Answer, Kind::Question];
        assert_eq!(kinds(&seen).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>(), wanted);
        assert_eq!((seen[2].unit, seen[2].pdu.as_slice()), (9, &[3, 2, 0, 5][..]));
    }

    #[test]
    fn a_damaged_answer_is_shown_with_what_is_wrong_and_then_that_there_is_none() {
        let mut heard = frame::rtu(1, &ANSWER);
        heard[4] ^= 1;
        let missed = What::Missed { unit: 1, why: "garbled: checksum".into() };
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let seen = packets(Framing::Rtu, vec![sent, What::Heard(heard.clone()), missed]);
        assert_eq!(kinds(&seen), [(Kind::Question, 0), (Kind::Damaged, 1), (Kind::Missed, 2)]);
        assert_eq!((seen[1].bytes.clone(), seen[1].why.as_deref()), (heard, Some("checksum")));
        assert_eq!((seen[2].after_us, seen[2].question.as_deref()), (Some(2000), Some(&QUESTION[..])));
    }

    #[test]
    fn the_echo_of_a_write_is_not_its_answer() {
        let frame = frame::rtu(1, &[6, 0, 10, 0, 5]);
        let both = [frame.as_slice(), frame.as_slice()].concat();
        let seen = packets(Framing::Rtu, vec![What::Sent(frame), What::Heard(both), answered(5)]);
        assert_eq!(kinds(&seen), [(Kind::Question, 0), (Kind::Echo, 1), (Kind::Answer, 1)]);
    }

    #[test]
    fn what_lies_there_before_a_question_is_put_aside_whole() {
        let late = frame::rtu(1, &ANSWER);
        let (a, b) = late.split_at(4);
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let seen = packets(Framing::Rtu, vec![What::Aside(a.into()), What::Aside(b.into()), sent]);
        assert_eq!(kinds(&seen), [(Kind::Aside, 1), (Kind::Question, 2)]);
        assert_eq!(seen[0].bytes, late);
    }

    #[test]
    fn an_answer_that_came_earlier_than_it_could_is_found_all_the_same() {
        let whole = frame::rtu(1, &ANSWER);
        let (a, b) = whole.split_at(4);
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let seen = packets(Framing::Rtu, vec![sent, What::Aside(a.into()), What::Heard(b.into()), answered(6)]);
        assert_eq!(kinds(&seen), [(Kind::Question, 0), (Kind::Answer, 2)]);
    }

    #[test]
    fn on_tcp_the_transaction_number_tells_a_late_answer_from_the_right_one() {
        let mut heard = frame::mbap(6, 1, &ANSWER);
        heard.extend(frame::mbap(7, 1, &ANSWER));
        let sent = What::Sent(frame::mbap(7, 1, &QUESTION));
        let seen = packets(Framing::Tcp, vec![sent, What::Heard(heard), answered(6)]);
        assert_eq!(kinds(&seen), [(Kind::Question, 0), (Kind::Aside, 1), (Kind::Answer, 1)]);
        assert_eq!(seen.iter().map(|p| p.transaction).collect::<Vec<_>>(), [Some(7), Some(6), Some(7)]);
    }

    #[test]
    fn a_look_that_begins_between_question_and_answer_begins_with_the_next_question() {
        let sent = What::Sent(frame::rtu(1, &QUESTION));
        let late = What::Missed { unit: 3, why: "no reply".into() };
        let seen = packets(Framing::Rtu, vec![What::Heard(vec![1, 2]), answered(6), late, sent]);
        assert_eq!(kinds(&seen), [(Kind::Missed, 2), (Kind::Question, 3)]);
        assert_eq!(seen[0].why.as_deref(), Some("no reply (was not asked)"));
    }

    proptest! {
        /// Whatever comes, no byte of it is lost or invented, in order, and nothing panics.
        #[test]
        fn every_byte_that_came_is_in_one_packet(
            framing in prop_oneof![Just(Framing::Rtu), Just(Framing::Tcp)],
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..12),
            ends in 0usize..4,
            sound in 0usize..12,
        ) {
            let question = match framing {
                Framing::Rtu => frame::rtu(1, &QUESTION),
                Framing::Tcp => frame::mbap(7, 1, &QUESTION),
            };
            let mut events = vec![What::Sent(question.clone())];
            let mut came = Vec::new();
            for (n, mut piece) in pieces.into_iter().enumerate() {
                if n == sound {
                    let whole = match framing {
                        Framing::Rtu => frame::rtu(1, &ANSWER),
                        Framing::Tcp => frame::mbap(7, 1, &ANSWER),
                    };
                    piece.extend(whole);
                }
                came.extend_from_slice(&piece);
                events.push(What::Heard(piece));
            }
            match ends {
                0 => events.push(answered(6)),
                1 => events.push(What::Missed { unit: 1, why: "noise".into() }),
                _ => {}
            }
            events.push(What::Sent(question));
            let seen = packets(framing, events);
            let bytes: Vec<u8> =
                seen.iter().filter(|p| p.kind != Kind::Question).flat_map(|p| p.bytes.clone()).collect();
            prop_assert_eq!(bytes, came);
        }
    }
}
