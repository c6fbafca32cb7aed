//! Any bytes in any pieces through the broker's decoder: never a panic, the same packets and the same end in every chunking, and
//! what was accepted is written and read back the same, in every version that was spoken.

use bytes::BytesMut;
use trunkline::bench::mqtt::write;
use trunkline::broker::packet::Fault;
use trunkline::broker::packet::Packet;
use trunkline::broker::packet::Version;
use trunkline::broker::packet::decode::Decoder;

/// Largest packet taken.
const MAX: usize = 4096;
/// An opening in each version; without one the stream has to bring its own.
const OPENINGS: [&[u8]; 4] = [
    b"",
    b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01c",
    b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c",
    b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c",
];

pub fn run(data: &[u8]) {
    let Some((how, stream)) = data.split_first() else { return };
    let stream = [OPENINGS[usize::from(how & 3)], stream].concat();
    let (packets, end, version) = decoded(&stream, stream.len().max(1));
    let in_pieces = decoded(&stream, 1 + usize::from(how >> 2));
    assert_eq!((&packets, end), (&in_pieces.0, in_pieces.1), "the pieces decide");
    for packet in &packets {
        let version = version.expect("a packet was accepted, so there was a CONNECT");
        let written = write::packet(packet, version);
        let again = read_back(&written, version);
        assert_eq!(&again, packet, "written as {written:02x?}");
        assert_eq!(write::packet(&again, version), written);
    }
}

fn decoded(stream: &[u8], piece: usize) -> (Vec<Packet>, Option<Fault>, Option<Version>) {
    let (mut decoder, mut buffer, mut packets) = (Decoder::new(MAX), BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(fault) => return (packets, Some(fault), decoder.version()),
            }
        }
        assert!(buffer.len() < MAX, "a whole packet waits, or one that is too large");
    }
    (packets, None, decoder.version())
}

fn read_back(written: &[u8], version: Version) -> Packet {
    let opening = match version {
        Version::V31 => OPENINGS[1],
        Version::V311 => OPENINGS[2],
        Version::V5 => OPENINGS[3],
    };
    let opening = if written[0] == 0x10 { b"" } else { opening };
    // What is written says its defaults in full, so it may be longer than what was read.
    let mut decoder = Decoder::new(2 * MAX);
    let mut buffer = BytesMut::from(&[opening, written].concat()[..]);
    let mut last = None;
    while let Some(packet) = decoder.next(&mut buffer).unwrap_or_else(|fault| panic!("{fault:?}: {written:02x?}")) {
        last = Some(packet);
    }
    assert!(buffer.is_empty(), "more than a packet: {written:02x?}");
    last.expect("a whole packet was written")
}
