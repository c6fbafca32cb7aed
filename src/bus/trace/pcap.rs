//! A capture that Wireshark opens as Modbus without any setting (pcapng, microseconds). RTU frames are exported PDUs
//! for its dissector `mbrtu`, real checksum included; Modbus TCP is real MBAP in made-up IPv4 and TCP. A comment says
//! what Wireshark cannot know: what was put aside, what is damaged. Why so: docs/decisions/0016.

use crate::bus::trace::Framing;
use crate::bus::trace::Kind;
use crate::bus::trace::Packet;

/// Link types of the registry at tcpdump.org: "Wireshark upper PDU" and "raw IPv4".
const UPPER_PDU: u16 = 252;
const IPV4: u16 = 228;
/// Block types of pcapng.
const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Options of pcapng: the same number is a comment, or by block a name or flags.
const COMMENT: u16 = 1;
const NAME: u16 = 2;
const FLAGS: u16 = 2;
const APPLICATION: u16 = 4;
/// Flags of a packet: its direction, and that its checksum is wrong.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
const CRC_ERROR: u32 = 1 << 24;
/// The gateway and whoever is on the line: what Wireshark shows as source and destination.
const GATEWAY: [u8; 4] = [10, 0, 0, 1];
const DEVICES: [u8; 4] = [10, 0, 0, 2];
/// The made-up connection of a TCP line; each one that was closed makes way for the next port.
const FIRST_PORT: u16 = 50_000;
const MODBUS_PORT: u16 = 502;

/// Makes the file's bytes, packet by packet.
#[derive(Debug)]
pub struct Pcap {
    framing: Framing,
    port: u16,
    sent: [u32; 2],
}

impl Pcap {
    /// Of a line that frames like this.
    pub const fn new(framing: Framing) -> Self {
        Self { framing, port: FIRST_PORT, sent: [0; 2] }
    }

    /// The beginning of the file; the interface is called like the line.
    pub fn header(&self, line: &str) -> Vec<u8> {
        let mut section = 0x1A2B_3C4D_u32.to_le_bytes().to_vec();
        // Version 1.0, length not known beforehand.
        section.extend([1, 0, 0, 0]);
        section.extend((-1_i64).to_le_bytes());
        let program = concat!("trunkline ", env!("CARGO_PKG_VERSION"));
        section.extend(options(&[(APPLICATION, program.as_bytes())]));
        let link = if self.framing == Framing::Rtu { UPPER_PDU } else { IPV4 };
        let mut interface = link.to_le_bytes().to_vec();
        // Reserved, and no limit to a packet's length.
        interface.extend([0; 6]);
        interface.extend(options(&[(NAME, line.as_bytes())]));
        [block(SECTION, &section), block(INTERFACE, &interface)].concat()
    }

    /// A packet's block; empty for what has no bytes.
    pub fn record(&mut self, packet: &Packet) -> Vec<u8> {
        if packet.kind == Kind::Missed {
            // The gateway closes a TCP connection that failed it, and Wireshark must not look for the next frame's
            // beginning in half a frame of the last.
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            self.sent = [0; 2];
        }
        if packet.bytes.is_empty() {
            return Vec::new();
        }
        let is_ours = packet.kind == Kind::Question;
        let data = match self.framing {
            Framing::Rtu => exported(is_ours, &packet.bytes),
            Framing::Tcp => self.segment(is_ours, &packet.bytes),
        };
        let time = packet.at.wall_us.unsigned_abs();
        let length = data.len() as u32;
        // Interface 0, the time's high and low half, captured and original length.
        let head = [0, (time >> 32) as u32, time as u32, length, length];
        let mut body: Vec<u8> = head.iter().flat_map(|w| w.to_le_bytes()).collect();
        pad(&mut body, &data);
        let direction = if is_ours { OUTBOUND } else { INBOUND };
        let damage = if packet.kind == Kind::Damaged { CRC_ERROR } else { 0 };
        let flags = (direction | damage).to_le_bytes();
        let comment = packet.comment();
        let comment = comment.as_ref().map(|text| (COMMENT, text.as_bytes()));
        body.extend(options(&comment.into_iter().chain([(FLAGS, &flags[..])]).collect::<Vec<_>>()));
        block(PACKET, &body)
    }

    /// IPv4 and TCP around it.
    fn segment(&mut self, is_ours: bool, payload: &[u8]) -> Vec<u8> {
        let side = usize::from(!is_ours);
        let (from, to) = if is_ours { (GATEWAY, DEVICES) } else { (DEVICES, GATEWAY) };
        let ports = if is_ours { [self.port, MODBUS_PORT] } else { [MODBUS_PORT, self.port] };
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

/// Tags before the bytes say which dissector reads them and who speaks (Wireshark's `exported_pdu_tlvs.h`).
fn exported(is_ours: bool, bytes: &[u8]) -> Vec<u8> {
    let (from, to) = if is_ours { (GATEWAY, DEVICES) } else { (DEVICES, GATEWAY) };
    let tags: [(u16, &[u8]); 4] = [(12, b"mbrtu\0\0\0"), (20, &from), (21, &to), (0, b"")];
    let mut all = Vec::with_capacity(40 + bytes.len());
    for (tag, value) in tags {
        all.extend(tag.to_be_bytes());
        all.extend((value.len() as u16).to_be_bytes());
        all.extend(value);
    }
    all.extend(bytes);
    all
}

/// Type, length, body, and the length once more for reading backwards.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}

fn options(all: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (code, value) in all {
        bytes.extend(code.to_le_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        pad(&mut bytes, value);
    }
    // The end of the options.
    bytes.extend([0; 4]);
    bytes
}

/// Everything in pcapng is filled up to four bytes.
fn pad(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::frame;
    use crate::time::Stamp;

    fn packet(kind: Kind, bytes: Vec<u8>) -> Packet {
        Packet {
            at: Stamp { mono_us: 0, wall_us: 1_795_222_923_456_789 },
            kind,
            unit: 1,
            pdu: Vec::new(),
            bytes,
            transaction: None,
            question: None,
            after_us: None,
            why: Some("checksum".to_owned()),
        }
    }

    /// Type, body and, where it is told, the packet's data.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |b: &[u8]| u32::from_le_bytes(b[..4].try_into().unwrap());
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = word(&bytes[4..]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(&bytes[length - 4..]) as usize, length);
            all.push((word(bytes), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        all
    }

    #[test]
    fn an_rtu_frame_is_exported_whole_to_the_dissector_of_modbus_rtu() {
        let mut pcap = Pcap::new(Framing::Rtu);
        let header = blocks(&pcap.header("hall"));
        assert_eq!(header.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION, INTERFACE]);
        assert_eq!(header[1].1, *b"\xFC\0\0\0\0\0\0\0\x02\0\x04\0hall\0\0\0\0");
        let bytes = frame::rtu(1, &[3, 0, 10, 0, 2]);
        let (kind, body) = blocks(&pcap.record(&packet(Kind::Damaged, bytes.clone()))).remove(0);
        let time = 1_795_222_923_456_789_u64;
        assert_eq!(kind, PACKET);
        assert_eq!(body[4..8], ((time >> 32) as u32).to_le_bytes());
        assert_eq!(body[8..12], (time as u32).to_le_bytes());
        let data =
            [b"\0\x0C\0\x08mbrtu\0\0\0\0\x14\0\x04\x0A\0\0\x02\0\x15\0\x04\x0A\0\0\x01\0\0\0\0", &bytes[..]].concat();
        assert_eq!(body[12..16], (data.len() as u32).to_le_bytes());
        assert_eq!(body[20..20 + data.len()], data);
        let rest = &body[20 + data.len()..];
        assert!(rest.starts_with(b"\x01\0\x11\0damaged: checksum\0\0\0"), "{rest:?}");
        assert!(rest.ends_with(b"\x02\0\x04\0\x01\0\0\x01\0\0\0\0"), "inbound, checksum wrong: {rest:?}");
    }

    #[test]
    fn a_tcp_line_is_one_connection_until_it_fails() {
        let mut pcap = Pcap::new(Framing::Tcp);
        let question = frame::mbap(7, 1, &[3, 0, 10, 0, 2]);
        let answer = frame::mbap(7, 1, &[3, 4, 0, 7, 1, 0]);
        let mut data = |kind: Kind, bytes: &[u8]| {
            let body = blocks(&pcap.record(&packet(kind, bytes.to_vec()))).pop().map(|(_, body)| body)?;
            let length = u32::from_le_bytes(body[12..16].try_into().unwrap()) as usize;
            Some(body[20..20 + length].to_vec())
        };
        let first = data(Kind::Question, &question).unwrap();
        assert_eq!(first[40..], question);
        assert_eq!(first[20..24], [0xC3, 0x50, 0x01, 0xF6], "from port 50000 to 502");
        assert_eq!(first[24..28], [0, 0, 0, 1]);
        let second = data(Kind::Answer, &answer).unwrap();
        assert_eq!((&second[20..24], &second[28..32]), (&[0x01, 0xF6, 0xC3, 0x50][..], &[0, 0, 0, 13][..]));
        let sum: u32 = second[..20].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xFFFF) + (sum >> 16), 0xFFFF, "the header's checksum is right");
        assert_eq!(data(Kind::Missed, &[]), None);
        assert_eq!(data(Kind::Question, &question).unwrap()[20..28], [0xC3, 0x51, 0x01, 0xF6, 0, 0, 0, 1]);
    }
}
