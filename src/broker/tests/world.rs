//! A broker and its clients without sockets: bytes in through the decoder, frames out, time by hand.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use bytes::BytesMut;

use super::disk::Disk;
use crate::broker::access::Access;
use crate::broker::core::Core;
use crate::broker::core::Guest;
use crate::broker::packet::Packet;
use crate::broker::packet::decode::Decoder;
use crate::broker::queue::Depth;
use crate::config::plant::Anonymous;
use crate::config::plant::Limits;

/// A broker and its clients, without sockets.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Instant,
    decoders: BTreeMap<usize, Decoder>,
}

/// How a client connects.
#[derive(Clone, Copy)]
pub(super) struct Hello<'a> {
    pub(super) id: &'a str,
    pub(super) level: u8,
    pub(super) clean: bool,
    pub(super) expiry: u32,
    pub(super) keep_alive: u16,
    pub(super) receive_maximum: u16,
    pub(super) aliases: u16,
    pub(super) will: Option<(&'a str, u32)>,
}

impl<'a> Hello<'a> {
    pub(super) fn v5(id: &'a str) -> Self {
        let (level, receive_maximum) = (5, u16::MAX);
        Self { id, level, clean: true, expiry: 0, keep_alive: 0, receive_maximum, aliases: 0, will: None }
    }

    pub(super) fn v4(id: &'a str) -> Self {
        Self { level: 4, ..Self::v5(id) }
    }

    pub(super) fn kept(self) -> Self {
        Self { clean: false, expiry: 1000, ..self }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let v5 = self.level == 5;
        let mut body = text("MQTT");
        body.push(self.level);
        body.push(u8::from(self.clean) << 1 | if self.will.is_some() { 4 } else { 0 });
        body.extend(self.keep_alive.to_be_bytes());
        if v5 {
            body.extend([11, 0x11]);
            body.extend(self.expiry.to_be_bytes());
            body.push(0x21);
            body.extend(self.receive_maximum.to_be_bytes());
            body.push(0x22);
            body.extend(self.aliases.to_be_bytes());
        }
        body.extend(text(self.id));
        if let Some((topic, delay)) = self.will {
            if v5 {
                body.extend([5, 0x18]);
                body.extend(delay.to_be_bytes());
            }
            body.extend(text(topic));
            body.extend(text("gone"));
        }
        frame(0x10, &body)
    }
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(super) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let more = left > 127;
        bytes.push((left & 0x7F) as u8 | if more { 0x80 } else { 0 });
        left >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

pub(super) fn subscribe(filter: &str, options: u8, v5: bool) -> Vec<u8> {
    let mut body = vec![0, 9];
    if v5 {
        body.push(0);
    }
    body.extend(text(filter));
    body.push(options);
    frame(0x82, &body)
}

pub(super) fn publish(flags: u8, id: u16, topic: &str, payload: &str, v5: bool) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if v5 {
        body.push(0);
    }
    body.extend(payload.as_bytes());
    frame(0x30 | flags, &body)
}

fn core(queue: usize, now: Instant) -> Core {
    let limits = Limits { clients: 5000, packet: 4096, queue, ..Limits::default() };
    Core::new(limits, Access::new(Anonymous::Always, Vec::new(), Vec::new()), now)
}

impl World {
    pub(super) fn new(queue: usize) -> Self {
        let now = Instant::now();
        Self { core: core(queue, now), now, decoders: BTreeMap::new() }
    }

    /// Connects; the CONNACK stays in the outbox.
    pub(super) fn join(&mut self, hello: Hello<'_>) -> usize {
        self.connect(&hello.bytes())
    }

    /// The same with a CONNECT as it is.
    pub(super) fn connect(&mut self, bytes: &[u8]) -> usize {
        let guest = Guest::nobody(([127, 0, 0, 1], 1).into(), self.core.limits());
        self.connect_as(bytes, guest)
    }

    /// The same as somebody.
    pub(super) fn join_as(&mut self, hello: Hello<'_>, guest: Guest) -> usize {
        self.connect_as(&hello.bytes(), guest)
    }

    fn connect_as(&mut self, bytes: &[u8], guest: Guest) -> usize {
        let mut decoder = Decoder::new(4096);
        let packet = decoder.next(&mut BytesMut::from(bytes));
        let Ok(Some(Packet::Connect(connect))) = packet else { panic!("{packet:?}") };
        let key = self.core.connect(self.now, *connect, guest).unwrap();
        self.decoders.insert(key, decoder);
        key
    }

    /// What was changed reaches the disk.
    pub(super) fn save(&mut self, disk: &mut Disk, depth: Depth) {
        if let Some(batch) = self.core.save(self.now, depth) {
            disk.apply(batch);
        }
    }

    /// Another broker with what the disk has; all connections are gone.
    pub(super) fn restart(&mut self, disk: &Disk) {
        self.core = core(1000, self.now);
        self.core.restore(self.now, disk.saved());
    }

    pub(super) fn say(&mut self, key: usize, bytes: &[u8]) {
        let mut buffer = BytesMut::from(bytes);
        loop {
            match self.decoders.get_mut(&key).unwrap().next(&mut buffer) {
                Ok(Some(packet)) => self.core.packet(self.now, key, packet),
                Ok(None) => return,
                Err(fault) => return self.core.fault(self.now, key, fault),
            }
        }
    }

    /// What was sent to the client since it was last asked: first byte and body of each packet.
    pub(super) fn heard(&mut self, key: usize) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            let output = self.core.take_output(key);
            let bytes: Vec<u8> = output.chunks.iter().flat_map(|c| c.iter().copied()).collect();
            if bytes.is_empty() {
                return frames;
            }
            self.core.written(self.now, key);
            let mut left = &bytes[..];
            while !left.is_empty() {
                let (mut length, mut n) = (0_usize, 1);
                loop {
                    length |= usize::from(left[n] & 0x7F) << (7 * (n - 1));
                    n += 1;
                    if left[n - 1] & 0x80 == 0 {
                        break;
                    }
                }
                frames.push((left[0], left[n..n + length].to_vec()));
                left = &left[n + length..];
            }
        }
    }

    /// Topic=payload of each PUBLISH heard by a client without properties in it.
    pub(super) fn messages(&mut self, key: usize, v5: bool) -> Vec<String> {
        let frames = self.heard(key);
        frames.iter().filter(|(first, _)| first >> 4 == 3).map(|(first, body)| said(*first, body, v5)).collect()
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.core.tick(self.now);
    }
}

pub(super) fn said(first: u8, body: &[u8], v5: bool) -> String {
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = std::str::from_utf8(&body[2..2 + length]).unwrap();
    let mut rest = &body[2 + length..];
    if first & 6 != 0 {
        rest = &rest[2..];
    }
    if v5 {
        rest = &rest[1 + usize::from(rest[0])..];
    }
    format!("{topic}={}", std::str::from_utf8(rest).unwrap())
}
