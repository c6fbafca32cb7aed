//! What the queue of one client keeps to: order, bounds, and what the disk is told.

use bytes::Bytes;

use super::*;
use crate::message::Message;
use crate::message::Retain;
use crate::topic::TopicName;

fn item(text: &'static str) -> Item {
    let topic = TopicName::new("t").unwrap();
    let message = Message::plain(topic, Bytes::from_static(text.as_bytes()), Qos::AtLeastOnce, Retain::No);
    let stored = Arc::new(Stored { message, born: Instant::now() });
    Item { stored, qos: Qos::AtLeastOnce, retain: false, identifiers: Vec::new(), share: None }
}

fn queue() -> Queue {
    Queue::new(Bounds { messages: 3, bytes: 10_000 })
}

fn sent(queue: &mut Queue) -> Vec<(u16, bool)> {
    let steps = std::iter::from_fn(|| queue.next(Instant::now()));
    steps
        .map(|step| match step {
            Step::Publish { id, dup, .. } => (id.unwrap(), dup),
            Step::Release(id) => (id, true),
        })
        .collect()
}

#[test]
fn packet_ids_are_never_zero_nor_reused_in_flight() {
    let mut queue = queue();
    queue.next_id = u16::MAX - 1;
    queue.push(Instant::now(), item("a"));
    queue.push(Instant::now(), item("b"));
    assert_eq!(sent(&mut queue), [(u16::MAX, false), (1, false)]);
    queue.next_id = u16::MAX - 1;
    queue.push(Instant::now(), item("c"));
    assert_eq!(sent(&mut queue), [(2, false)]);
}

#[test]
fn the_window_holds_back_and_an_ack_lets_the_next_go() {
    let mut queue = queue();
    queue.resume(2);
    for text in ["a", "b", "c"] {
        assert_eq!(queue.push(Instant::now(), item(text)), Room::Taken);
    }
    assert_eq!(queue.push(Instant::now(), item("d")), Room::Full);
    assert_eq!(sent(&mut queue).len(), 2);
    queue.forget(1);
    assert_eq!(sent(&mut queue), [(3, false)]);
    for id in [2, 3] {
        queue.forget(id);
    }
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn a_new_connection_sends_again_in_order_with_dup() {
    let mut queue = queue();
    queue.resume(10);
    for text in ["a", "b", "c"] {
        queue.push(Instant::now(), item(text));
    }
    sent(&mut queue);
    queue.forget(2);
    queue.resume(1);
    queue.push(Instant::now(), item("d"));
    assert_eq!(sent(&mut queue), [(1, true)], "a smaller window of the new connection holds");
    queue.forget(1);
    assert_eq!(sent(&mut queue), [(3, true)]);
    queue.forget(3);
    assert_eq!(sent(&mut queue), [(4, false)]);
}

#[test]
fn who_does_not_say_how_much_it_takes_gets_nineteen_of_qos_2_at_once_also_when_they_come_again() {
    let twice = || Item { qos: Qos::ExactlyOnce, ..item("x") };
    let now = Instant::now();
    let mut queue = Queue::new(Bounds { messages: 200, bytes: 100_000 });
    queue.resume(50);
    (0..50).for_each(|_| assert_eq!(queue.push(now, twice()), Room::Taken));
    assert_eq!(sent(&mut queue).len(), 50, "it said fifty");
    queue.resume(UNSAID);
    queue.push(now, item("behind"));
    assert_eq!(sent(&mut queue).len(), 19);
    assert_eq!(queue.received(1), Told::Known, "PUBREC; the client counts it until PUBREL");
    assert_eq!(sent(&mut queue), []);
    queue.completed(1);
    assert_eq!(sent(&mut queue), [(20, true)]);
    let mut quick = Queue::new(Bounds { messages: 200, bytes: 100_000 });
    quick.resume(UNSAID);
    (0..150).for_each(|_| assert_eq!(quick.push(now, item("x")), Room::Taken));
    assert_eq!(sent(&mut quick).len(), 100, "QoS 1 is acknowledged at once");
}

#[test]
fn a_released_message_is_released_again_and_not_published_again() {
    let mut queue = queue();
    queue.push(Instant::now(), Item { qos: Qos::ExactlyOnce, ..item("a") });
    sent(&mut queue);
    assert_eq!(queue.received(9), Told::Unknown);
    assert_eq!((queue.completed(1), queue.acknowledged(1)), (Told::OutOfTurn, Told::OutOfTurn));
    assert_eq!(queue.received(1), Told::Known);
    queue.resume(10);
    assert!(matches!(queue.next(Instant::now()), Some(Step::Release(1))));
    assert_eq!(queue.acknowledged(1), Told::OutOfTurn);
    assert_eq!(queue.completed(1), Told::Known);
    assert_eq!((queue.in_flight(), queue.bytes()), (0, 0));
}

#[test]
fn an_answer_of_the_other_qos_is_out_of_turn() {
    let mut queue = queue();
    queue.push(Instant::now(), item("a"));
    sent(&mut queue);
    for told in [queue.received(1), queue.completed(1), queue.refused(1)] {
        assert_eq!(told, Told::OutOfTurn);
    }
    assert_eq!((queue.acknowledged(1), queue.acknowledged(1)), (Told::Known, Told::Unknown));
}

#[test]
fn what_expired_makes_room_and_what_was_sent_stays() {
    let mut queue = queue();
    queue.resume(1);
    let now = Instant::now();
    let properties = Some(Arc::new(crate::message::Properties { expiry: Some(5), ..Default::default() }));
    let Item { stored, .. } = item("a");
    let message = Message { properties, ..stored.message.clone() };
    let stored = Arc::new(Stored { message, born: now });
    let short = Item { stored, ..item("a") };
    queue.push(now, short.clone());
    assert!(queue.next(now).is_some());
    for _ in 0..3 {
        assert_eq!(queue.push(now, short.clone()), Room::Taken);
    }
    assert_eq!(queue.push(now, item("b")), Room::Full);
    let later = now + std::time::Duration::from_secs(6);
    assert_eq!(queue.push(later, item("b")), Room::Taken);
    assert_eq!((queue.waiting(), queue.in_flight()), (1, 1));
    queue.resume(2);
    assert!(matches!(queue.next(later), Some(Step::Publish { id: Some(1), dup: true, .. })));
}

#[test]
fn the_queue_is_bounded_in_bytes_but_takes_one_that_is_larger_alone() {
    let mut queue = Queue::new(Bounds { messages: 100, bytes: 10 });
    assert_eq!(queue.push(Instant::now(), item("a")), Room::Taken);
    assert_eq!(queue.push(Instant::now(), item("b")), Room::Full);
}
