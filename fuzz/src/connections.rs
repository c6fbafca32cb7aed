//! Whole connections against the broker's core, without sockets: up to four clients that connect, say valid-looking and random
//! things, answer or do not, stop reading, go, come back, while time passes and the disk is told. What must hold: no panic; what is
//! written to a client is packets, with identifiers that are free; what waits for a client stays bounded; and a publisher
//! and a subscriber beside them, who behave, are served at every step.

mod guest;

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use trunkline::bench::mqtt::choices::Choices;
use trunkline::bench::mqtt::packets;
use trunkline::bench::mqtt::read;
use trunkline::bench::mqtt::write;
use trunkline::broker::access::Access;
use trunkline::broker::access::Proof;
use trunkline::broker::core::Core;
use trunkline::broker::core::Guest as Peer;
use trunkline::broker::keep::Saved;
use trunkline::broker::packet::Packet;
use trunkline::broker::packet::decode::Decoder;
use trunkline::broker::queue::Depth;
use trunkline::config::plant::AccessRule;
use trunkline::config::plant::Anonymous;
use trunkline::config::plant::Limits;
use trunkline::message::Message;
use trunkline::message::Retain;
use trunkline::topic::Qos;
use trunkline::topic::TopicFilter;

use self::guest::Guest;

/// Small, so that every bound is met.
const LIMITS: Limits = Limits {
    clients: 5,
    packet: 4096,
    queue: 20,
    queue_bytes: None,
    subscriptions: 20_000,
    rate: None,
    connect_timeout: Duration::from_secs(10),
};
/// Clients that misbehave.
const GUESTS: usize = 4;
/// Whose publisher and subscriber behave.
const WELL: [&str; 2] = ["well-publisher", "well-subscriber"];

struct World {
    core: Core,
    now: Instant,
    guests: [Option<Guest>; GUESTS],
    well: [usize; 2],
    sent: u32,
}

pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new();
    while !choices.is_done() {
        world.step(&mut choices);
        world.sweep();
        world.serve_the_well_behaved();
    }
}

/// Everybody may read everything, and write where the well-behaved do not.
fn access() -> Access {
    let filters = |texts: &[&str]| texts.iter().map(|text| TopicFilter::new(*text).expect("a filter")).collect();
    let rule = |user: Option<&str>, write: &[&str]| AccessRule {
        user: user.map(Into::into),
        client: None,
        read: filters(&["#"]),
        write: filters(write),
    };
    Access::new(
        Anonymous::Always,
        Vec::new(),
        vec![rule(Some("well"), &["well/#"]), rule(None, &["a/#", "+", "ä/%c/#"])],
    )
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut core = Core::new(LIMITS, access(), now);
        core.restore(now, Saved::default());
        let well = WELL.map(|name| {
            let mut buffer = BytesMut::from(&write::hello(name)[..]);
            let Ok(Some(Packet::Connect(connect))) = Decoder::new(LIMITS.packet).next(&mut buffer) else {
                panic!("no CONNECT");
            };
            core.connect(now, *connect, at_home(Some("well"))).expect("there is room for two")
        });
        let mut world = Self { core, now, guests: Default::default(), well, sent: 0 };
        world.well_says(1, &write::subscribe(1, "well/+", 1));
        assert_eq!(world.well_hears(0), b"\x20\x02\0\0");
        assert_eq!(world.well_hears(1), b"\x20\x02\0\0\x90\x03\0\x01\x01");
        world
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let at = choices.below(GUESTS);
        match choices.below(12) {
            0 | 1 => {
                let connect = packets::connect(choices);
                let version = connect.version;
                self.join(at, &write::packet(&Packet::Connect(Box::new(connect)), version));
            }
            2 => self.join(at, choices.some()),
            3..7 => {
                let Some(version) = self.guests[at].as_ref().map(Guest::version) else { return };
                let packet = packets::any(choices, version);
                self.say(at, &write::packet(&packet, version));
            }
            7 => self.say(at, choices.some()),
            8 => {
                let (core, now) = (&mut self.core, self.now);
                let Some(guest) = &mut self.guests[at] else { return };
                let answers = guest.hear(core, now, LIMITS.packet);
                if choices.is(2) {
                    self.say(at, &answers);
                }
            }
            9 => self.go(at),
            10 => {
                self.now += Duration::from_millis(u64::from(choices.short()) * 50);
                self.core.tick(self.now);
            }
            _ => self.act_inside(choices),
        }
    }

    /// What the rest of the process does.
    fn act_inside(&mut self, choices: &mut Choices<'_>) {
        match choices.below(5) {
            0 => {
                let depth = if choices.is(2) { Depth::All } else { Depth::Settled };
                let _ = self.core.save(self.now, depth);
            }
            1 => drop(self.core.kick(self.now, choices.one_of(&packets::NAMES))),
            2 => self.core.publish_sys(self.now),
            3 => drop(self.core.readmit(self.now, access(), LIMITS)),
            _ => {
                let message = Message::plain(
                    packets::open_topic(choices),
                    Bytes::from(vec![b'x'; usize::from(choices.short()) % 8192]),
                    Qos::try_from(choices.below(3) as u8).expect("below 3"),
                    if choices.is(2) { Retain::Yes } else { Retain::No },
                );
                let count = 1 + choices.below(64);
                self.core.publish_local(self.now, "inside", vec![message; count]);
            }
        }
    }

    fn join(&mut self, at: usize, bytes: &[u8]) {
        self.go(at);
        let (mut decoder, mut buffer) = (Decoder::new(LIMITS.packet), BytesMut::from(bytes));
        let Ok(Some(Packet::Connect(connect))) = decoder.next(&mut buffer) else { return };
        if WELL.contains(&connect.client_id.as_str()) {
            return;
        }
        let (version, most) = (connect.version, connect.receive_maximum);
        let user = connect.username.clone().filter(|name| name != "well");
        let Ok(key) = self.core.connect(self.now, *connect, at_home(user.as_deref())) else { return };
        self.guests[at] = Some(Guest::new(key, decoder, version, most));
        self.say(at, &buffer);
    }

    fn say(&mut self, at: usize, bytes: &[u8]) {
        let Some(guest) = &mut self.guests[at] else { return };
        // Its task would not read it now.
        if !self.core.is_stalled(guest.key()) {
            guest.say(&mut self.core, self.now, bytes);
        }
    }

    fn go(&mut self, at: usize) {
        if let Some(guest) = self.guests[at].take() {
            self.core.gone(self.now, guest.key());
        }
    }

    /// Connections that are closed read what is left for them and go, as their tasks would do.
    fn sweep(&mut self) {
        for at in 0..GUESTS {
            let Some(guest) = self.guests[at].as_mut().filter(|guest| self.core.is_closing(guest.key())) else {
                continue;
            };
            guest.hear(&mut self.core, self.now, LIMITS.packet);
            self.go(at);
        }
        self.core.take_woken(&mut Vec::new());
        for client in self.core.status(&[]).clients {
            assert!(client.queued <= LIMITS.queue + 200 && client.in_flight <= 100, "{client:?}");
        }
    }

    fn serve_the_well_behaved(&mut self) {
        self.sent += 1;
        let mut publish = Vec::new();
        let id = (self.sent % 60_000) as u16 + 1;
        write::publish(&mut publish, "well/x", 1, id, &self.sent.to_be_bytes());
        self.well_says(0, &publish);
        let [high, low] = id.to_be_bytes();
        assert_eq!(self.well_hears(0), [0x40, 2, high, low], "the publisher's acknowledgement");
        let heard = self.well_hears(1);
        let read::Front::Packet(said, length) = read::front(&heard) else { panic!("{heard:02x?}") };
        assert!(
            length == heard.len() && said.rest == self.sent.to_be_bytes(),
            "exactly what was published: {said:02x?}"
        );
        self.well_says(1, &[&[0x40, 2], &said.id.to_be_bytes()[..]].concat());
    }

    fn well_says(&mut self, which: usize, bytes: &[u8]) {
        let mut decoder = Decoder::new(LIMITS.packet);
        let mut buffer = BytesMut::from(&[&write::hello("x")[..], bytes].concat()[..]);
        let _ = decoder.next(&mut buffer);
        while let Ok(Some(packet)) = decoder.next(&mut buffer) {
            self.core.packet(self.now, self.well[which], packet);
        }
    }

    fn well_hears(&mut self, which: usize) -> Vec<u8> {
        let output = self.core.take_output(self.well[which]);
        assert!(!output.closing, "{} was closed", WELL[which]);
        self.core.written(self.now, self.well[which]);
        output.chunks.into_iter().flatten().collect()
    }
}

fn at_home(user: Option<&str>) -> Peer {
    // Named ones show a certificate, so that new users do not shut them out.
    let proof = if user.is_some() { Proof::Certificate } else { Proof::Nothing };
    Peer { user: user.map(Into::into), proof, ..Peer::nobody(([127, 0, 0, 1], 1).into(), LIMITS) }
}
