//! What a line makes of bytes, without a line: the frame parsers behind a plain door, so that the fuzz targets in `fuzz/` and
//! whoever wants to try a capture reach them. Nothing here is used by a running gateway.

use super::frame;
use super::frame::Asked;
use super::frame::Next;
use super::frame::Scanner;

/// A question as it goes on the wire.
#[derive(Debug, Clone)]
pub struct Question {
    asked: Asked,
    sent: Vec<u8>,
}

impl Question {
    /// `None` when no request of this house looks like `pdu`: function, address and count are five bytes, and a mask write has seven.
    pub fn new(unit: u8, pdu: Vec<u8>) -> Option<Self> {
        let least = if *pdu.first()? == 0x16 { 7 } else { 5 };
        let sent = frame::rtu(unit, &pdu);
        (pdu.len() >= least).then(|| Self { asked: Asked::new(unit, pdu), sent })
    }

    /// The RTU frame.
    pub fn sent(&self) -> &[u8] {
        &self.sent
    }

    /// The PDU that an RTU line takes for the answer out of what comes in these pieces; `echo`: it hears itself first.
    pub fn rtu<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>, echo: Echo) -> Option<Vec<u8>> {
        let mut scanner = Scanner::new(&self.asked, &self.sent, echo == Echo::Heard);
        for piece in pieces {
            if let Some(pdu) = scanner.push(piece) {
                return Some(pdu);
            }
            // A line asks all of this while it waits.
            let _ = (scanner.is_damaged(), scanner.verdict(), scanner.missing(), scanner.is_silent());
        }
        None
    }

    /// The PDU that a Modbus TCP connection takes for the answer; `None` also where it would close.
    pub fn tcp(&self, transaction: u16, mut stream: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            match frame::take_mbap(&mut stream, transaction, &self.asked) {
                Next::Answer(pdu) => return Some(pdu),
                Next::Foreign => {}
                Next::More | Next::Broken(_) => return None,
            }
        }
    }
}

/// Whether a line hears what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// It does.
    Heard,
    /// It does not.
    None,
}

/// The sound RTU frames in bytes that nobody waits for: unit and PDU.
pub fn strays(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    frame::sound_frames(bytes).0
}
