//! One client that may do anything, and the account of what it was sent: which identifiers are open, which answers are due.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::BytesMut;
use trunkline::bench::mqtt::read;
use trunkline::bench::mqtt::read::Front;
use trunkline::broker::conn::STALL;
use trunkline::broker::core::Core;
use trunkline::broker::packet::Packet;
use trunkline::broker::packet::Version;
use trunkline::broker::packet::decode::Decoder;

pub struct Guest {
    key: usize,
    decoder: Decoder,
    buffer: BytesMut,
    version: Version,
    /// How many messages it takes at once.
    most: usize,
    open: BTreeSet<u16>,
}

impl Guest {
    pub fn new(key: usize, decoder: Decoder, version: Version, most: u16) -> Self {
        let most = usize::from(most);
        Self { key, decoder, buffer: BytesMut::new(), version, most, open: BTreeSet::new() }
    }

    pub fn key(&self) -> usize {
        self.key
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn say(&mut self, core: &mut Core, now: Instant, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while !core.is_closing(self.key) {
            match self.decoder.next(&mut self.buffer) {
                Ok(Some(packet)) => {
                    // What it acknowledges may be used again, whether it meant it or not.
                    match &packet {
                        Packet::PubAck(ack) | Packet::PubComp(ack) => self.open.remove(&ack.id),
                        Packet::PubRec(ack) if ack.code.is_failure() => self.open.remove(&ack.id),
                        _ => false,
                    };
                    core.packet(now, self.key, packet);
                }
                Ok(None) => return,
                Err(fault) => return core.fault(now, self.key, fault),
            }
        }
        self.buffer.clear();
    }

    /// Reads all that is there; what a good client would answer.
    pub fn hear(&mut self, core: &mut Core, now: Instant, packet: usize) -> Vec<u8> {
        let output = core.take_output(self.key);
        let heard: Vec<u8> = output.chunks.into_iter().flatten().collect();
        assert!(heard.len() <= STALL + 4 * packet, "{} bytes waited for one client", heard.len());
        core.written(now, self.key);
        let (mut rest, mut answers) = (&heard[..], Vec::new());
        while !rest.is_empty() {
            let Front::Packet(said, length) = read::front(rest) else { panic!("no packet: {rest:02x?}") };
            assert!(length <= 8 * packet, "{length} bytes in one packet");
            let [high, low] = said.id.to_be_bytes();
            match (said.kind(), said.qos()) {
                (3, 1 | 2) => {
                    let again = said.first & 8 != 0;
                    assert!(self.open.insert(said.id) || again, "identifier {} is in use", said.id);
                    answers.extend([if said.qos() == 1 { 0x40 } else { 0x50 }, 2, high, low]);
                }
                (6, _) => {
                    // Of an earlier connection, perhaps; or word that nothing is known of what it acknowledges.
                    if rest[..length].get(4) != Some(&0x92) {
                        self.open.insert(said.id);
                    }
                    answers.extend([0x70, 2, high, low]);
                }
                _ => {}
            }
            assert!(self.open.len() <= self.most.min(100) + 100, "more in flight than it takes");
            rest = &rest[length..];
        }
        answers
    }
}
