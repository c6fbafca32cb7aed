//! What passes on a line, for people: at three depths (messages in words, frames, bytes as they came in pieces), and as a
//! pcap file. The frames are wrapped as Modbus TCP in it, transaction numbers counted, because Wireshark opens that without
//! any setting, and RTU captures only after some. Nothing is made while nobody looks.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::bus::frame;
use crate::time;
use crate::time::Stamp;

/// Kept for whoever reads slowly; then the oldest are lost and the reader is told how many.
const KEPT: usize = 512;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Questions and answers in words.
    Message,
    /// Whole frames as bytes.
    Frame,
    /// What was written and read, in the pieces in which it came.
    Bytes,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To the devices.
    Out,
    /// From them.
    In,
    /// From them, but no answer to what was asked: put aside.
    Aside,
}

/// Something passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// When, to the microsecond.
    pub at: Stamp,
    /// Which way.
    pub way: Way,
    /// What.
    pub what: Passed,
}

/// What passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// A piece of bytes, sound or not.
    Piece(Vec<u8>),
    /// A sound frame: its unit and PDU.
    Frame(u8, Vec<u8>),
    /// The time was over, or what came was damaged.
    Nothing(String),
}

/// Where the line tells what passes. The channel has all its places from the start, 40 kB, so it is made for the first who
/// looks: most lines of a large site are never looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Tap(Arc<OnceLock<broadcast::Sender<Traced>>>);

impl Tap {
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Traced> {
        self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    pub(super) fn tell(&self, way: Way, what: impl FnOnce() -> Passed) {
        if let Some(readers) = self.0.get().filter(|readers| readers.receiver_count() > 0) {
            // The last reader may have gone in this moment; then nobody misses it.
            let _ = readers.send(Traced { at: time::now(), way, what: what() });
        }
    }

    pub(super) fn piece(&self, way: Way, bytes: &[u8]) {
        self.tell(way, || Passed::Piece(bytes.to_vec()));
    }

    pub(super) fn frame(&self, way: Way, unit: u8, pdu: &[u8]) {
        self.tell(way, || Passed::Frame(unit, pdu.to_vec()));
    }
}

impl Traced {
    /// A line of text without the time; `None` where it does not belong to this depth.
    pub fn show(&self, depth: Depth) -> Option<String> {
        let arrow = match self.way {
            Way::Out => "→",
            Way::In => "←",
            Way::Aside => "⤳",
        };
        let text = match (&self.what, depth) {
            (Passed::Piece(bytes), Depth::Bytes) => hex(bytes),
            (Passed::Frame(unit, pdu), Depth::Frame) => hex(&frame::rtu(*unit, pdu)),
            (Passed::Frame(unit, pdu), Depth::Message) => format!("{unit} {}", words(self.way, pdu)),
            (Passed::Nothing(why), _) => why.clone(),
            _ => return None,
        };
        Some(format!("{arrow} {text}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 3), |mut text, byte| {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{byte:02X}").expect("writing to a string does not fail");
        text
    })
}

/// What a PDU says.
fn words(way: Way, pdu: &[u8]) -> String {
    let [function, rest @ ..] = pdu else { return "nothing".to_owned() };
    let name = match function & 0x7F {
        1 => "read coils",
        2 => "read discrete inputs",
        3 => "read holding registers",
        4 => "read input registers",
        5 => "write coil",
        6 => "write register",
        8 => "echo",
        15 => "write coils",
        16 => "write registers",
        22 => "mask register",
        _ => "function",
    };
    let word = |at: usize| rest.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]));
    match (function, way) {
        (0x80.., _) => format!("{name}: exception {}", rest.first().copied().unwrap_or(0)),
        (1..=4, Way::Out) => format!("{name} {} count {}", word(0), word(2)),
        (1 | 2, _) => format!("{name}: {}", hex(rest.get(1..).unwrap_or_default())),
        (3 | 4, _) => {
            let values = rest.get(1..).unwrap_or_default().chunks_exact(2);
            let values: Vec<String> = values.map(|w| u16::from_be_bytes([w[0], w[1]]).to_string()).collect();
            format!("{name}: {}", values.join(" "))
        }
        (5 | 6, _) => format!("{name} {} = {}", word(0), word(2)),
        (15 | 16, _) => format!("{name} {} count {}", word(0), word(2)),
        _ => format!("{name} {}", hex(rest)),
    }
}

/// Writes a pcap file: the header first, then a record for each frame.
#[derive(Debug, Default)]
pub struct Pcap {
    transaction: u16,
    sent: [u32; 2],
}

impl Pcap {
    /// The beginning of the file: microseconds, raw IPv4 (LINKTYPE 228).
    pub fn header() -> Vec<u8> {
        let words: [u32; 6] = [0xA1B2_C3D4, 0x0004_0002, 0, 0, 0xFFFF, 228];
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// A record; empty for what is no whole frame.
    pub fn record(&mut self, traced: &Traced) -> Vec<u8> {
        let Passed::Frame(unit, pdu) = &traced.what else { return Vec::new() };
        if traced.way == Way::Out {
            self.transaction = self.transaction.wrapping_add(1);
        }
        // What is put aside answers nothing that Wireshark could know of: a number of its own.
        let number = if traced.way == Way::Aside { 0 } else { self.transaction };
        let packet = self.packet(traced.way, &frame::mbap(number, *unit, pdu));
        let wall = traced.at.wall_us.unsigned_abs();
        let length = packet.len() as u32;
        let head = [(wall / 1_000_000) as u32, (wall % 1_000_000) as u32, length, length];
        head.iter().flat_map(|w| w.to_le_bytes()).chain(packet).collect()
    }

    /// IPv4 and TCP around it: 10.0.0.1 asks, 10.0.0.2 answers on port 502.
    fn packet(&mut self, way: Way, payload: &[u8]) -> Vec<u8> {
        let side = usize::from(way != Way::Out);
        let (host, device) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (from, to) = if side == 0 { (host, device) } else { (device, host) };
        let ports: [u16; 2] = if side == 0 { [50_000, 502] } else { [502, 50_000] };
        let (seq, ack) = (self.sent[side].wrapping_add(1), self.sent[1 - side].wrapping_add(1));
        self.sent[side] = self.sent[side].wrapping_add(payload.len() as u32);
        let total = (40 + payload.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        ip.extend(from.iter().chain(&to));
        let sum: u32 = ip.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let check = !((sum & 0xFFFF) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        ip.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
        ip.extend([seq, ack].iter().flat_map(|n| n.to_be_bytes()));
        // Header of five words, PSH and ACK, a full window; checksum left out, as network cards do.
        ip.extend([0x50, 0x18, 0xFF, 0xFF, 0, 0, 0, 0]);
        ip.extend_from_slice(payload);
        ip
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Frame => "frame",
            Self::Bytes => "bytes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(way: Way, pdu: &[u8]) -> Traced {
        Traced { at: Stamp { mono_us: 0, wall_us: 1_795_222_923_456_789 }, way, what: Passed::Frame(1, pdu.to_vec()) }
    }

    #[test]
    fn each_depth_shows_its_own() {
        let question = traced(Way::Out, &[3, 0, 10, 0, 2]);
        assert_eq!(question.show(Depth::Message).unwrap(), "→ 1 read holding registers 10 count 2");
        assert_eq!(question.show(Depth::Frame).unwrap(), "→ 01 03 00 0A 00 02 E4 09");
        assert_eq!(question.show(Depth::Bytes), None);
        let answer = traced(Way::In, &[3, 4, 0, 7, 1, 0]);
        assert_eq!(answer.show(Depth::Message).unwrap(), "← 1 read holding registers: 7 256");
        assert_eq!(
            traced(Way::In, &[0x83, 2]).show(Depth::Message).unwrap(),
            "← 1 read holding registers: exception 2"
        );
    }

    #[test]
    fn any_pdu_can_be_shown() {
        for pdu in [&[][..], &[3], &[3, 1], &[0x83], &[16, 0], &[99, 1, 2]] {
            for way in [Way::Out, Way::In, Way::Aside] {
                assert!(traced(way, pdu).show(Depth::Message).is_some());
            }
        }
    }

    /// Read by tshark where there is one; the bytes are checked here anyhow.
    #[test]
    fn a_capture_is_modbus_to_wireshark() {
        let mut pcap = Pcap::default();
        let mut file = Pcap::header();
        file.extend(pcap.record(&traced(Way::Out, &[3, 0, 10, 0, 2])));
        file.extend(pcap.record(&traced(Way::In, &[3, 4, 0, 7, 1, 0])));
        assert_eq!(file.len(), 24 + 16 + 40 + 12 + 16 + 40 + 13);
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("line.pcap");
        std::fs::write(&path, file).unwrap();
        let fields = ["-T", "fields", "-e", "modbus.func_code", "-e", "modbus.regval_uint16"];
        let shown = std::process::Command::new("tshark").arg("-r").arg(&path).args(fields).output();
        let Ok(shown) = shown else { return };
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(text, "3\t\n3\t7,256\n", "{}", String::from_utf8_lossy(&shown.stderr));
    }
}
