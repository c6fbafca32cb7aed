//! Modbus frames as bytes, pure: CRC, RTU and MBAP framing, and the one question that matters: "is this the answer to what
//! was asked?" RTU answers carry no address and no number, so unit, function, byte count and echoed fields must all agree;
//! a frame that is sound but not ours is put aside and counted, never taken.

use crate::bus::Garble;
use crate::bus::mei;

/// Read and write registers in one transaction (V1.1b3, 6.17).
const READ_WRITE: u8 = 23;

const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

static CRC: [u16; 256] = crc_table();

/// CRC-16/MODBUS (serial line V1.02, 6.2.2); goes on the wire low byte first.
pub(crate) fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, b| (crc >> 8) ^ CRC[usize::from((crc as u8) ^ b)])
}

/// True when the last two bytes are the CRC of the others.
pub(crate) fn is_sound(frame: &[u8]) -> bool {
    frame.len() >= 4 && crc16(&frame[..frame.len() - 2]).to_le_bytes() == frame[frame.len() - 2..]
}

/// Unit, PDU, CRC.
pub(crate) fn rtu(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(pdu.len() + 3);
    frame.push(unit);
    frame.extend_from_slice(pdu);
    frame.extend_from_slice(&crc16(&frame).to_le_bytes());
    frame
}

/// Transaction number, protocol 0, length, unit, PDU (Messaging on TCP/IP V1.0b, 3.1.3).
pub(crate) fn mbap(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(pdu.len() + 1).expect("a PDU has at most 253 bytes");
    let mut frame = Vec::with_capacity(pdu.len() + 7);
    frame.extend_from_slice(&transaction.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(unit);
    frame.extend_from_slice(pdu);
    frame
}

/// What a sound frame is to a request.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Answer,
    Exception,
    WrongFunction,
    WrongShape,
}

/// The request an answer must fit.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    unit: u8,
    pdu: Vec<u8>,
}

impl Asked {
    pub(crate) fn new(unit: u8, pdu: Vec<u8>) -> Self {
        let least = if pdu[0] == mei::FUNCTION { 4 } else { 5 };
        assert!(pdu.len() >= least, "every request of this house names an address and a count, or an object");
        Self { unit, pdu }
    }

    /// Return query data (V1.1b3, 6.8): changes nothing, and its answer is like no other.
    pub(crate) fn echo(unit: u8, mark: u16) -> Self {
        let [high, low] = mark.to_be_bytes();
        Self::new(unit, vec![8, 0, 0, high, low])
    }

    pub(crate) fn is_echo(&self) -> bool {
        self.pdu[0] == 8
    }

    /// Can be asked again, and changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.pdu[0], 1..=4 | mei::FUNCTION)
    }

    /// A write whose answer carries data: unlike an echo, it does not show which question it answers.
    pub(crate) fn is_read_write(&self) -> bool {
        self.pdu[0] == READ_WRITE
    }

    /// True when an answer to one could be taken for an answer to the other.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.answer_len(&[]) == other.answer_len(&[]) && self.known() == other.known()
    }

    /// True when this frame is an answer to it, or an exception.
    pub(crate) fn is_answered_by(&self, pdu: &[u8]) -> bool {
        pdu.len() >= 2 && matches!(self.fit(pdu), Fit::Answer | Fit::Exception)
    }

    /// Reads of the same block's beginning, the shortest first, none as long as itself.
    pub(crate) fn shorter(&self) -> impl Iterator<Item = Self> {
        let step = if self.pdu[0] <= 2 { 8 } else { 1 };
        let end = if self.pdu[0] <= 4 { self.count() } else { 0 };
        let counts = (1..end).step_by(step).filter_map(|n| u16::try_from(n).ok());
        counts.map(|n| Self::new(self.unit, [&self.pdu[..3], &n.to_be_bytes()].concat()))
    }

    pub(crate) fn unit(&self) -> u8 {
        self.unit
    }

    pub(crate) fn pdu(&self) -> &[u8] {
        &self.pdu
    }

    const fn count(&self) -> usize {
        let pdu = self.pdu.as_slice();
        u16::from_be_bytes([pdu[3], pdu[4]]) as usize
    }

    /// Length of the right answer's PDU; of one that says its own, as far as this beginning shows it.
    pub(crate) fn answer_len(&self, begun: &[u8]) -> usize {
        match self.pdu[0] {
            1 | 2 => 2 + self.count().div_ceil(8),
            3 | 4 | READ_WRITE => 2 + 2 * self.count(),
            mei::FUNCTION => mei::length(begun),
            0x16 => 7,
            _ => 5,
        }
    }

    /// The bytes of the answer's PDU that are known beforehand: function and byte count, or all that is echoed.
    fn known(&self) -> Known {
        let mut known = Known { bytes: [0; 7], len: 2 };
        if let f @ (1..=4 | READ_WRITE) = self.pdu[0] {
            known.bytes[..2].copy_from_slice(&[f, u8::try_from(self.answer_len(&[]) - 2).unwrap_or(u8::MAX)]);
            return known;
        }
        known.len = match self.pdu[0] {
            0x16 => 7,
            mei::FUNCTION => 3,
            _ => 5,
        };
        known.bytes[..known.len].copy_from_slice(&self.pdu[..known.len]);
        known
    }

    fn fit(&self, pdu: &[u8]) -> Fit {
        if pdu[0] == self.pdu[0] | 0x80 {
            return if pdu.len() == 2 { Fit::Exception } else { Fit::WrongShape };
        }
        if pdu[0] != self.pdu[0] {
            return Fit::WrongFunction;
        }
        let has_own_length = self.pdu[0] == mei::FUNCTION;
        if pdu.len() == self.answer_len(pdu)
            && pdu.starts_with(self.known().as_slice())
            && (!has_own_length || mei::answers(pdu, self.pdu[3]))
        {
            Fit::Answer
        } else {
            Fit::WrongShape
        }
    }
}

/// How an answer must begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    bytes: [u8; 7],
    len: usize,
}

impl Known {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Collects what comes in on an RTU line after a request, in any chunking.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    asked: &'a Asked,
    sent: &'a [u8],
    known: Known,
    echo: bool,
    buffer: Vec<u8>,
    mismatch: Option<Garble>,
    /// Sound frames put aside: who sent them, and their PDU.
    pub(crate) aside: Vec<(u8, Vec<u8>)>,
}

/// More than two of the longest frames: what lies further back cannot belong to an answer any more.
const KEPT: usize = 600;

impl<'a> Scanner<'a> {
    /// `echo`: our own frame is heard first, and nothing before it counts.
    pub(crate) fn new(asked: &'a Asked, sent: &'a [u8], echo: bool) -> Self {
        let known = asked.known();
        Self { asked, sent, known, echo, buffer: Vec::with_capacity(64), mismatch: None, aside: Vec::new() }
    }

    pub(crate) fn asked(&self) -> &'a Asked {
        self.asked
    }

    /// The same, before anything came.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.asked, self.sent, false)
    }

    /// What came and was neither answer nor a frame of its own.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// True when nothing at all came.
    pub(crate) fn is_silent(&self) -> bool {
        self.buffer.is_empty() && self.mismatch.is_none()
    }

    /// More bytes; the PDU of the answer (or of the exception) once it is there.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.buffer.extend_from_slice(bytes);
        self.strip_echo();
        if self.echo {
            return None;
        }
        while let Some(length) = self.foreign() {
            self.buffer.drain(..length);
        }
        let found = (0..self.buffer.len()).find_map(|at| self.answer_at(at));
        if let Some((pdu, end)) = found {
            self.buffer.drain(..end);
            return Some(pdu);
        }
        let excess = self.buffer.len().saturating_sub(KEPT);
        self.buffer.drain(..excess);
        None
    }

    fn strip_echo(&mut self) {
        // Without `echo` some still know their own request: no answer to a read of registers is eight bytes long, none to one of
        // an identification seven.
        let unasked = matches!(self.sent[1], 3 | 4 | mei::FUNCTION) && self.buffer.starts_with(self.sent);
        if (self.echo || unasked)
            && let Some(at) = self.buffer.windows(self.sent.len()).position(|w| w == self.sent)
        {
            self.buffer.drain(..at + self.sent.len());
            self.echo = false;
        }
    }

    /// The answer's PDU and its end, when a whole sound one begins here.
    fn answer_at(&self, at: usize) -> Option<(Vec<u8>, usize)> {
        let rest = &self.buffer[at..];
        if rest.len() < 5 || rest[0] != self.asked.unit {
            return None;
        }
        let length = self.length_at(at);
        let frame = rest.get(..length)?;
        if !matches!(self.asked.fit(&frame[1..length - 2]), Fit::Answer | Fit::Exception) || !is_sound(frame) {
            return None;
        }
        Some((frame[1..length - 2].to_vec(), at + length))
    }

    /// How long a frame is that begins here and is the answer or an exception, as far as can be told.
    fn length_at(&self, at: usize) -> usize {
        match self.buffer.get(at + 1) {
            Some(f) if f & 0x80 != 0 => 5,
            _ => self.asked.answer_len(self.buffer.get(at + 1..).unwrap_or_default()) + 3,
        }
    }

    /// Length of a sound frame at the front that is not the answer. Only at the front: inside other bytes a short sound
    /// frame can turn up by chance, and taking it out would tear a right answer.
    fn foreign(&mut self) -> Option<usize> {
        let growing = self.likeness() == Some(0) && self.buffer.len() < self.length_at(0);
        if (growing && self.buffer.len() > 2) || self.answer_at(0).is_some() {
            return None;
        }
        let length =
            lengths(&self.buffer).into_iter().flatten().find(|n| self.buffer.get(..*n).is_some_and(is_sound))?;
        let unit = self.buffer[0];
        if unit == self.asked.unit {
            let wrong_function = self.asked.fit(&self.buffer[1..length - 2]) == Fit::WrongFunction;
            self.mismatch = Some(if wrong_function { Garble::Function } else { Garble::Length });
        }
        self.aside.push((unit, self.buffer[1..length - 2].to_vec()));
        Some(length)
    }

    /// Where something begins that looks like the answer.
    fn likeness(&self) -> Option<usize> {
        let unit = self.asked.unit;
        (0..self.buffer.len()).find(|&at| {
            let rest = &self.buffer[at..];
            rest[0] == unit
                && rest.get(1..).is_some_and(|pdu| {
                    pdu.first().is_some_and(|f| *f == self.asked.pdu[0] | 0x80)
                        || (!pdu.is_empty() && pdu.starts_with(&self.known.as_slice()[..pdu.len().min(self.known.len)]))
                })
        })
    }

    /// True when a frame of the right looks has come whole but unsound: nothing more is to be expected.
    pub(crate) fn is_damaged(&self) -> bool {
        self.likeness().is_some_and(|at| self.verdict_at(at) == Garble::Crc)
    }

    fn verdict_at(&self, at: usize) -> Garble {
        if self.buffer.len() - at >= self.length_at(at) { Garble::Crc } else { Garble::Truncated }
    }

    /// What to say when the time is over; `None`: nothing came from this unit.
    pub(crate) fn verdict(&self) -> Option<Garble> {
        if self.buffer.is_empty() {
            return self.mismatch;
        }
        Some(match self.likeness() {
            Some(at) => self.verdict_at(at),
            None => self.mismatch.unwrap_or(Garble::Noise),
        })
    }

    /// How many more characters the answer needs, as far as can be told now.
    pub(crate) fn missing(&self) -> usize {
        let length = if self.buffer.len() < 2 { 5 } else { self.length_at(0) };
        let echo = if self.echo { self.sent.len() } else { 0 };
        (length + echo).saturating_sub(self.buffer.len())
    }
}

/// How long a frame that begins like this can be: as an answer, and as another master's request.
fn lengths(bytes: &[u8]) -> [Option<usize>; 2] {
    let Some(&[_, function, third]) = bytes.get(..3) else { return [None, None] };
    let counted = |at: usize| bytes.get(at).map(|n| at + 1 + usize::from(*n) + 2);
    match function {
        1..=4 => [Some(5 + usize::from(third)), Some(8)],
        5 | 6 | 8 => [Some(8), None],
        0x0F | 0x10 => [Some(8), counted(6)],
        0x16 => [Some(10), None],
        0x17 => [Some(5 + usize::from(third)), counted(10)],
        mei::FUNCTION => [Some(mei::length(&bytes[1..]) + 3), Some(7)],
        0x81..=0xAB => [Some(5), None],
        _ => [None, None],
    }
}

/// The sound frames in bytes nobody waits for: who sent them, and their PDU; and where the last of them ends.
pub(crate) fn sound_frames(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, usize) {
    let (mut frames, mut at, mut end) = (Vec::new(), 0, 0);
    while let Some(rest @ [unit, ..]) = bytes.get(at..) {
        let sound = lengths(rest).into_iter().flatten().find(|n| rest.get(..*n).is_some_and(is_sound));
        at += sound.unwrap_or(1);
        if let Some(length) = sound {
            frames.push((*unit, rest[1..length - 2].to_vec()));
            end = at;
        }
    }
    (frames, end)
}

/// What a Modbus TCP stream holds next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Not a whole frame yet.
    More,
    /// An answer to something else: a late reply or another unit's.
    Foreign,
    /// The PDU of the answer or of the exception.
    Answer(Vec<u8>),
    /// The stream cannot be trusted any more.
    Broken(Garble),
}

/// Takes one frame off a Modbus TCP stream. The transaction number tells a late answer from the right one.
pub(crate) fn take_mbap(buffer: &mut Vec<u8>, transaction: u16, asked: &Asked) -> Next {
    let Some(header) = buffer.get(..7) else { return Next::More };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2..4] != [0, 0] || !(3..=254).contains(&length) {
        return Next::Broken(Garble::Noise);
    }
    if buffer.len() < 6 + length {
        return Next::More;
    }
    let frame: Vec<u8> = buffer.drain(..6 + length).collect();
    if u16::from_be_bytes([frame[0], frame[1]]) != transaction || frame[6] != asked.unit {
        return Next::Foreign;
    }
    match asked.fit(&frame[7..]) {
        Fit::Answer | Fit::Exception => Next::Answer(frame[7..].to_vec()),
        Fit::WrongFunction => Next::Broken(Garble::Function),
        Fit::WrongShape => Next::Broken(Garble::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(count: u8) -> Asked {
        Asked::new(1, vec![3, 0, 10, 0, count])
    }

    /// Lives as long as the test: a scanner looks at what was asked and sent.
    fn scanner(count: u8) -> Scanner<'static> {
        let asked: &Asked = Box::leak(Box::new(asked(count)));
        Scanner::new(asked, rtu(1, asked.pdu()).leak(), false)
    }

    fn answer(count: u8, fill: u8) -> Vec<u8> {
        let mut pdu = vec![3, count * 2];
        pdu.extend(std::iter::repeat_n(fill, usize::from(count) * 2));
        pdu
    }

    #[test]
    fn the_crc_is_the_one_of_the_standard() {
        assert_eq!(rtu(1, &[3, 0, 0, 0, 10]), [1, 3, 0, 0, 0, 10, 0xC5, 0xCD]);
    }

    #[test]
    fn an_answer_of_another_length_is_put_aside_and_the_right_one_found_behind_it() {
        let mut scanner = scanner(2);
        assert_eq!(scanner.push(&rtu(1, &answer(3, 7))), None);
        assert_eq!(scanner.aside, [(1, answer(3, 7))]);
        assert_eq!(scanner.verdict(), Some(Garble::Length));
        assert_eq!(scanner.push(&rtu(1, &answer(2, 9))), Some(answer(2, 9)));
    }

    #[test]
    fn another_units_frame_is_put_aside_and_the_wait_goes_on() {
        let mut scanner = scanner(2);
        assert_eq!(scanner.push(&rtu(9, &answer(2, 7))), None);
        assert_eq!(scanner.verdict(), None, "the unit that was asked said nothing");
        assert_eq!(scanner.push(&rtu(1, &answer(2, 9))), Some(answer(2, 9)));
        assert_eq!(scanner.aside, [(9, answer(2, 7))]);
    }

    #[test]
    fn crc_error_noise_and_a_torn_frame_are_told_apart() {
        let mut frame = rtu(1, &answer(2, 9));
        frame[4] ^= 1;
        let mut damaged = scanner(2);
        assert_eq!(damaged.push(&frame), None);
        assert!(damaged.is_damaged());
        assert_eq!(damaged.verdict(), Some(Garble::Crc));
        let mut torn = scanner(2);
        assert_eq!(torn.push(&frame[..6]), None);
        assert_eq!(torn.verdict(), Some(Garble::Truncated));
        let mut noise = scanner(2);
        assert_eq!(noise.push(&[0xFF, 0xFE, 0xF0]), None);
        assert_eq!(noise.verdict(), Some(Garble::Noise));
    }

    #[test]
    fn a_write_is_confirmed_only_by_its_own_address_and_value() {
        let asked = Asked::new(1, vec![6, 0, 10, 0, 5]);
        let sent = rtu(1, asked.pdu());
        let mut scanner = Scanner::new(&asked, &sent, false);
        assert_eq!(scanner.push(&rtu(1, &[6, 0, 11, 0, 5])), None);
        assert_eq!(scanner.push(&rtu(1, &[6, 0, 10, 0, 4])), None);
        assert_eq!(scanner.push(&rtu(1, &[6, 0, 10, 0, 5])), Some(vec![6, 0, 10, 0, 5]));
    }

    #[test]
    fn local_echo_of_a_write_is_not_its_confirmation() {
        let asked = Asked::new(1, vec![6, 0, 10, 0, 5]);
        let sent = rtu(1, asked.pdu());
        let mut scanner = Scanner::new(&asked, &sent, true);
        assert_eq!(scanner.push(&sent), None);
        assert_eq!(scanner.push(&rtu(1, &[0x86, 2])), Some(vec![0x86, 2]));
    }

    #[test]
    fn an_mbap_frame_of_another_transaction_or_unit_is_foreign() {
        let asked = asked(2);
        let mut stream = mbap(6, 1, &answer(2, 1));
        stream.extend(mbap(7, 2, &answer(2, 1)));
        stream.extend(mbap(7, 1, &answer(2, 9)));
        assert_eq!(take_mbap(&mut stream, 7, &asked), Next::Foreign);
        assert_eq!(take_mbap(&mut stream, 7, &asked), Next::Foreign);
        assert_eq!(take_mbap(&mut stream, 7, &asked), Next::Answer(answer(2, 9)));
        assert_eq!(take_mbap(&mut stream, 7, &asked), Next::More);
    }

    #[test]
    fn an_mbap_header_with_an_impossible_length_breaks_the_stream() {
        for length in [0, 2, 255, 0xFFFF_u16] {
            let mut stream = mbap(7, 1, &answer(2, 9));
            stream[4..6].copy_from_slice(&length.to_be_bytes());
            assert_eq!(take_mbap(&mut stream, 7, &asked(2)), Next::Broken(Garble::Noise));
        }
    }

    proptest! {
        #[test]
        fn the_answer_is_found_behind_any_garbage_in_any_chunking(
            garbage in proptest::collection::vec(any::<u8>(), 0..80),
            cuts in proptest::collection::vec(1usize..20, 1..60),
            count in 1u8..125,
            fill in any::<u8>(),
        ) {
            let mut stream = garbage;
            stream.extend(rtu(1, &answer(count, fill)));
            let mut scanner = scanner(count);
            let mut found = None;
            let mut rest = stream.as_slice();
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() && found.is_none() {
                let (chunk, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                found = scanner.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(found, Some(answer(count, fill)));
        }

        #[test]
        fn no_bytes_whatever_make_an_answer_that_was_not_asked_for(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..300,
        ) {
            let mut scanner = scanner(4);
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            for pdu in [scanner.push(a), scanner.push(b)].into_iter().flatten() {
                prop_assert!(pdu.len() == 2 && pdu[0] == 0x83 || pdu.len() == 10 && pdu[..2] == [3, 8]);
            }
            let _ = (scanner.verdict(), scanner.missing(), scanner.is_damaged());
        }

        #[test]
        fn no_tcp_bytes_whatever_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            while let Next::Foreign | Next::Answer(_) = take_mbap(&mut bytes, 7, &asked(2)) {}
        }
    }
}
