//! Retained messages on their way to a client that takes them slowly, while the world goes on.

use std::collections::BTreeSet;

use super::World;
use super::disk::Disk;
use super::world::Hello;
use super::world::frame;
use super::world::publish;
use super::world::said;
use super::world::subscribe;
use crate::broker::queue::Depth;

fn acknowledge(id: u16) -> Vec<u8> {
    frame(0x40, &id.to_be_bytes())
}

#[test]
fn a_retained_value_that_was_replaced_or_cleared_meanwhile_never_comes_behind_the_newer_one() {
    let mut world = World::new(10);
    let b = world.join(Hello::v4("b"));
    for (id, topic) in [(1, "r/1"), (2, "r/2"), (3, "r/3"), (4, "r/4")] {
        world.say(b, &publish(3, id, topic, "old", false));
    }
    let a = world.join(Hello { receive_maximum: 1, ..Hello::v5("a") });
    world.say(a, &subscribe("r/#", 1, true));
    assert_eq!(world.messages(a, true), ["r/1=old"], "the window is full, the others wait");
    world.say(b, &publish(1, 0, "r/2", "new", false));
    world.say(b, &publish(1, 0, "r/3", "", false));
    let heard = world.messages(a, true);
    assert_eq!(heard, ["r/2=new", "r/3=", "r/2=new"], "QoS 0 does not wait for the window, live or retained");
    world.say(a, &acknowledge(1));
    assert_eq!(world.messages(a, true), ["r/4=old"]);
    world.say(a, &acknowledge(2));
    assert!(world.messages(a, true).is_empty());
}

#[test]
fn a_retained_value_that_expires_while_it_waits_for_the_window_is_not_sent() {
    let mut world = World::new(10);
    let b = world.join(Hello::v5("b"));
    world.say(b, &publish(3, 1, "r/1", "x", true));
    let short = [&super::text("r/2")[..], &[0, 2, 5, 0x02, 0, 0, 0, 5], b"x"].concat();
    world.say(b, &frame(0x33, &short));
    let a = world.join(Hello { receive_maximum: 1, ..Hello::v5("a") });
    world.say(a, &subscribe("r/#", 1, true));
    assert_eq!(world.messages(a, true), ["r/1=x"]);
    world.pass(6);
    world.say(a, &acknowledge(1));
    assert!(world.messages(a, true).is_empty());
}

/// What the client is given now: packet identifiers, and topics with payloads.
fn given(world: &mut World, key: usize) -> Vec<(u16, String)> {
    let frames = world.heard(key);
    let publishes = frames.iter().filter(|(first, _)| first >> 4 == 3);
    let id = |body: &[u8]| {
        let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        u16::from_be_bytes([body[at], body[at + 1]])
    };
    publishes.map(|(first, body)| (id(body), said(*first, body, true))).collect()
}

#[test]
fn a_kill_amid_retained_messages_skips_none_that_was_sent_and_not_acknowledged() {
    let (mut world, mut disk) = (World::new(1000), Disk::default());
    world.core.restore(world.now, disk.saved());
    let b = world.join(Hello::v4("b"));
    // No more than are written with the next save.
    for n in 0..250 {
        world.say(b, &publish(3, 1, &format!("r/{n}"), "x", false));
        world.heard(b);
    }
    let hello = Hello { receive_maximum: 50, ..Hello::v5("a").kept() };
    let a = world.join(hello);
    world.say(a, &subscribe("r/#", 1, true));
    let mut acknowledged = BTreeSet::new();
    let mut open = given(&mut world, a);
    for _ in 0..3 {
        world.save(&mut disk, Depth::Settled);
        for (id, what) in open {
            acknowledged.insert(what);
            world.say(a, &acknowledge(id));
        }
        open = given(&mut world, a);
        assert_eq!(open.len(), 50, "as many as the window holds");
    }
    // What is open came since the last save.
    world.save(&mut disk, Depth::Settled);
    world.restart(&disk);
    let a = world.join(hello);
    loop {
        let some = given(&mut world, a);
        if some.is_empty() {
            break;
        }
        for (id, what) in some {
            acknowledged.insert(what);
            world.say(a, &acknowledge(id));
        }
    }
    assert_eq!(acknowledged.len(), 250);
}
