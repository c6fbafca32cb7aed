//! A client that keeps to the standard, and writes down what it was given: a QoS 1 message again counts only if it does not
//! say so by DUP, a QoS 2 message counts once. It reads when told to, and answers when told to.

use std::collections::BTreeMap;

use super::world::World;
use super::world::frame;
use super::world::text;

/// Payload, QoS, retain flag, subscription identifiers in order.
pub(super) type Copy = (u32, u8, bool, Vec<u32>);

/// A will in CONNECT.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) topic: String,
    pub(super) payload: u32,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) delay: u32,
}

/// How it connects.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) v5: bool,
    pub(super) clean: bool,
    pub(super) expiry: u32,
    pub(super) window: u16,
    pub(super) will: Option<Last>,
}

/// What it publishes.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) topic: String,
    pub(super) payload: Option<u32>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) expiry: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Actor {
    name: String,
    pub(super) key: Option<usize>,
    v5: bool,
    /// Answers not sent yet.
    owed: Vec<Vec<u8>>,
    /// QoS 1 messages without their PUBACK, QoS 2 messages without their PUBREL.
    seen: BTreeMap<u16, u32>,
    held: BTreeMap<u16, u32>,
    /// A QoS 2 message of its own that it has not released.
    half: Option<(u16, News)>,
    next_id: u16,
    pub(super) got: Vec<Copy>,
}

fn number(bytes: &[u8]) -> u32 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap_or(0)
}

impl Actor {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(super) const fn is_v5(&self) -> bool {
        self.v5
    }

    /// Connects; whether the session was there.
    pub(super) fn join(&mut self, world: &mut World, greeting: &Greeting) -> bool {
        self.lose();
        self.v5 = greeting.v5;
        let key = world.connect(&self.hello(greeting));
        self.key = Some(key);
        let mut frames = world.heard(key);
        let connack = frames.remove(0);
        assert_eq!((connack.0, connack.1[1]), (0x20, 0));
        let present = connack.1[0] == 1;
        if !present {
            self.seen.clear();
            self.held.clear();
            self.half = None;
        }
        self.note(frames);
        if let Some((id, news)) = self.half.clone() {
            world.say(key, &self.publication(&news, id, 8));
        }
        present
    }

    fn hello(&self, greeting: &Greeting) -> Vec<u8> {
        let mut body = text("MQTT");
        body.push(if self.v5 { 5 } else { 4 });
        let will = greeting.will.as_ref();
        let will_flags = will.map_or(0, |w| 4 | w.qos << 3 | u8::from(w.retain) << 5);
        body.extend([u8::from(greeting.clean) << 1 | will_flags, 0, 0]);
        if self.v5 {
            body.extend([8, 0x11]);
            body.extend(greeting.expiry.to_be_bytes());
            body.push(0x21);
            body.extend(greeting.window.to_be_bytes());
        }
        body.extend(text(&self.name));
        if let Some(will) = will {
            if self.v5 {
                body.extend([5, 0x18]);
                body.extend(will.delay.to_be_bytes());
            }
            body.extend(text(&will.topic));
            body.extend(text(&will.payload.to_string()));
        }
        frame(0x10, &body)
    }

    /// The connection is gone, and what was on it.
    pub(super) fn lose(&mut self) {
        self.key = None;
        self.owed.clear();
    }

    pub(super) fn drop(&mut self, world: &mut World) {
        if let Some(key) = self.key {
            world.core.gone(world.now, key);
        }
        self.lose();
    }

    pub(super) fn leave(&mut self, world: &mut World) {
        if let Some(key) = self.key {
            world.say(key, &[0xE0, 0]);
        }
        self.drop(world);
    }

    pub(super) fn subscribe(&self, world: &mut World, filter: &str, options: u8, identifier: Option<u8>) {
        let Some(key) = self.key else { return };
        let mut body = vec![0, 9];
        if self.v5 {
            match identifier {
                Some(identifier) => body.extend([2, 0x0B, identifier]),
                None => body.push(0),
            }
        }
        body.extend(text(filter));
        body.push(options);
        world.say(key, &frame(0x82, &body));
    }

    pub(super) fn unsubscribe(&self, world: &mut World, filter: &str) {
        let Some(key) = self.key else { return };
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        world.say(key, &frame(0xA2, &[&[0, 9], properties, &text(filter)].concat()));
    }

    /// Publishes; of QoS 2 with its PUBREL.
    pub(super) fn publish(&mut self, world: &mut World, news: &News) {
        let Some(key) = self.key else { return };
        self.next_id = self.next_id % 60_000 + 1;
        world.say(key, &self.publication(news, self.next_id, 0));
        if news.qos == 2 {
            world.say(key, &frame(0x62, &self.next_id.to_be_bytes()));
        }
    }

    /// Publishes a QoS 2 message without releasing it; false when another is half done.
    pub(super) fn begin(&mut self, world: &mut World, news: &News) -> bool {
        let Some(key) = self.key.filter(|_| self.half.is_none()) else { return false };
        self.next_id = self.next_id % 60_000 + 1;
        world.say(key, &self.publication(news, self.next_id, 0));
        self.half = Some((self.next_id, news.clone()));
        true
    }

    fn publication(&self, news: &News, id: u16, dup: u8) -> Vec<u8> {
        let mut body = text(&news.topic);
        if news.qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.v5 {
            match news.expiry {
                Some(seconds) => {
                    body.extend([5, 2]);
                    body.extend(seconds.to_be_bytes());
                }
                None => body.push(0),
            }
        }
        body.extend(news.payload.map_or(String::new(), |n| n.to_string()).bytes());
        frame(0x30 | dup | news.qos << 1 | u8::from(news.retain), &body)
    }

    /// Reads everything and answers nothing.
    pub(super) fn glance(&mut self, world: &mut World) {
        if let Some(key) = self.key {
            let frames = world.heard(key);
            self.note(frames);
        }
    }

    /// Reads and answers until nothing more comes.
    pub(super) fn drain(&mut self, world: &mut World) {
        let Some(key) = self.key else { return };
        if let Some((id, _)) = self.half.take() {
            world.say(key, &frame(0x62, &id.to_be_bytes()));
        }
        loop {
            self.glance(world);
            if self.owed.is_empty() {
                return;
            }
            for answer in std::mem::take(&mut self.owed) {
                if answer[0] == 0x40 {
                    self.seen.remove(&u16::from_be_bytes([answer[2], answer[3]]));
                }
                world.say(key, &answer);
            }
        }
    }

    fn note(&mut self, frames: Vec<(u8, Vec<u8>)>) {
        for (first, body) in frames {
            match first >> 4 {
                3 => self.note_publish(first, &body),
                6 => {
                    let id = u16::from_be_bytes([body[0], body[1]]);
                    self.held.remove(&id);
                    self.owed.push(frame(0x70, &id.to_be_bytes()));
                }
                14 => panic!("{} was closed: {body:?}", self.name),
                _ => {}
            }
        }
    }

    fn note_publish(&mut self, first: u8, body: &[u8]) {
        let mut rest = &body[2 + usize::from(u16::from_be_bytes([body[0], body[1]]))..];
        let (qos, dup) = (first >> 1 & 3, first & 8 != 0);
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut identifiers = Vec::new();
        if self.v5 {
            let (mut properties, payload) = rest[1..].split_at(usize::from(rest[0]));
            rest = payload;
            while let Some((kind, left)) = properties.split_first() {
                let size = if *kind == 0x0B { 1 } else { 4 };
                if *kind == 0x0B {
                    identifiers.push(u32::from(left[0]));
                }
                properties = &left[size..];
            }
        }
        identifiers.sort_unstable();
        let payload = number(rest);
        let known = match qos {
            0 => None,
            1 => self.seen.insert(id, payload),
            _ => self.held.insert(id, payload),
        };
        if let Some(known) = known {
            assert!(dup && known == payload, "{}: {id} is {known} and now {payload}, DUP {dup}", self.name);
        } else {
            self.got.push((payload, qos, first & 1 != 0, identifiers));
        }
        if qos > 0 {
            self.owed.push(frame(if qos == 1 { 0x40 } else { 0x50 }, &id.to_be_bytes()));
        }
    }
}
