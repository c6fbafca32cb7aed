//! Functions beside the usual ones, in transcripts: read/write in one, parts of registers with and without mask write, and
//! identifications, which say only inside how long they are, torn, late, doubled, foreign and damaged.

use super::*;
use crate::bus::mei::Category;
use crate::bus::mei::Objects;
use crate::config::functions::Choice;
use crate::config::functions::How;
use crate::config::functions::Part;
use crate::config::functions::Single;

fn written(bus: &Bus, kind: WriteKind) -> JoinHandle<Result<Reply, BusError>> {
    tell(bus, WriteRequest { unit: unit(1), kind })
}

fn frame(pdu: &[u8]) -> Vec<u8> {
    frame::rtu(1, pdu)
}

/// Bit 4 of register 9 set, its neighbours kept.
fn bit(by: How) -> WriteKind {
    WriteKind::Bits { address: 9, and: 0xFFEF, or: 0x0010, by }
}

const MASK: [u8; 7] = [22, 0, 9, 0xFF, 0xEF, 0, 0x10];

fn read_write(value: u16) -> WriteKind {
    WriteKind::ReadWrite { address: 9, values: vec![value], read: AddressRange::new(9, 1).unwrap() }
}

#[tokio::test(start_paused = true)]
async fn registers_are_written_and_read_in_one_transaction() {
    let (bus, mut far) = at_9600(0);
    let answer = written(&bus, read_write(7));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 7])).await;
    far.says(20, &frame(&[23, 2, 0, 7])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![7])));
    let refused = written(&bus, read_write(8));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 8])).await;
    far.says(20, &frame(&[0x97, 1])).await;
    assert_eq!(data(refused).await, Err(BusError::Refused(1)));
}

#[tokio::test(start_paused = true)]
async fn what_a_late_read_write_read_is_never_taken_for_what_the_next_one_reads() {
    let (bus, mut far) = at_9600(0);
    let first = written(&bus, read_write(7));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 7])).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    tokio::time::sleep(3 * TIMEOUT).await;
    let second = written(&bus, read_write(8));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 8])).await;
    far.says(20, &frame(&[23, 2, 0xBA, 0xD0])).await;
    assert_eq!(data(second).await, Ok(Data::Written), "confirmed by either, and nothing of it believed");
    let back = ask(&bus, holding(1, 9, 1));
    far.hears(&question(1, 9, 1)).await;
    far.says(20, &words(1, &[8])).await;
    assert_eq!(data(back).await, Ok(Data::Registers(vec![8])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_read_write_is_not_the_answer_to_the_next() {
    let (bus, mut far) = at_9600(0);
    let first = written(&bus, read_write(7));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 7])).await;
    far.says(20, &frame(&[23, 2, 0, 7])).await;
    assert_eq!(data(first).await, Ok(Data::Registers(vec![7])));
    let second = written(&bus, read_write(8));
    far.hears(&frame(&[23, 0, 9, 0, 1, 0, 9, 0, 1, 2, 0, 8])).await;
    far.says(16, &frame(&[23, 2, 0, 7])).await;
    far.says(12, &frame(&[23, 2, 0, 8])).await;
    assert_eq!(data(second).await, Ok(Data::Registers(vec![8])));
}

#[tokio::test(start_paused = true)]
async fn limits_of_a_read_write_are_kept_before_the_wire() {
    let (bus, _far) = at_9600(0);
    let range = |count| AddressRange::new(0, count).unwrap();
    let of = |n: usize, read| WriteKind::ReadWrite { address: 0, values: vec![0; n], read };
    let refused = |kind| async { bus.write(WriteRequest { unit: unit(1), kind }).await.unwrap_err() };
    assert_eq!(refused(of(122, range(1))).await, BusError::Refused(3));
    assert_eq!(refused(of(1, range(126))).await, BusError::Refused(3));
    let all = WriteRequest { unit: UnitId::BROADCAST, kind: of(1, range(1)) };
    assert_eq!(bus.write(all).await, Err(BusError::Refused(3)), "nobody answers what was read");
    assert_eq!(bus.status().borrow().wire.requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_register_goes_by_mask_write() {
    let (bus, mut far) = at_9600(0);
    let answer = written(&bus, bit(How::default()));
    far.hears(&frame(&MASK)).await;
    far.says(20, &frame(&MASK)).await;
    assert_eq!(data(answer).await, Ok(Data::Written));
}

#[tokio::test(start_paused = true)]
async fn without_mask_write_the_register_is_read_and_written_whole_and_nothing_comes_in_between() {
    let (bus, mut far) = at_9600(1);
    let answer = written(&bus, bit(How::default()));
    far.hears(&frame(&MASK)).await;
    let other = tell(&bus, register(2, 5, 1));
    let poll = ask(&bus, holding(2, 0, 1));
    far.says(20, &frame(&[0x96, 1])).await;
    far.hears(&question(1, 9, 1)).await;
    far.says(20, &words(1, &[0x8001])).await;
    far.hears(&frame(&[6, 0, 9, 0x80, 0x11])).await;
    far.says(20, &frame(&[6, 0, 9, 0x80, 0x11])).await;
    assert_eq!(data(answer).await, Ok(Data::Written));
    let sent = frame::rtu(2, &[6, 0, 5, 0, 1]);
    far.hears(&sent).await;
    far.says(20, &sent).await;
    assert_eq!(data(other).await, Ok(Data::Written));
    far.hears(&question(2, 0, 1)).await;
    far.says(20, &words(2, &[3])).await;
    assert!(data(poll).await.is_ok());
    // It is remembered of this unit, and of no other.
    let again = written(&bus, bit(How::default()));
    far.hears(&question(1, 9, 1)).await;
    far.says(20, &words(1, &[0x8011])).await;
    far.hears(&frame(&[6, 0, 9, 0x80, 0x11])).await;
    far.says(20, &frame(&[6, 0, 9, 0x80, 0x11])).await;
    assert_eq!(data(again).await, Ok(Data::Written));
    let elsewhere = tell(&bus, WriteRequest { unit: unit(2), kind: bit(How::default()) });
    far.hears(&frame::rtu(2, &MASK)).await;
    far.says(20, &frame::rtu(2, &MASK)).await;
    assert_eq!(data(elsewhere).await, Ok(Data::Written));
}

#[tokio::test(start_paused = true)]
async fn where_mask_write_is_said_a_device_that_refuses_it_is_not_written_by_another_function() {
    let (bus, mut far) = at_9600(0);
    for _ in 0..2 {
        let answer = written(&bus, bit(How { choice: Choice::Said, ..How::default() }));
        far.hears(&frame(&MASK)).await;
        far.says(20, &frame(&[0x96, 1])).await;
        assert_eq!(data(answer).await, Err(BusError::Refused(1)));
    }
    assert_eq!(bus.status().borrow().wire.requests, 2);
}

#[tokio::test(start_paused = true)]
async fn a_profile_may_know_that_there_is_no_mask_write_and_no_write_of_one() {
    let (bus, mut far) = at_9600(0);
    let answer = written(&bus, bit(How { single: Single::Many, part: Part::Whole, ..How::default() }));
    far.hears(&question(1, 9, 1)).await;
    far.says(20, &words(1, &[0])).await;
    far.hears(&frame(&[16, 0, 9, 0, 1, 2, 0, 0x10])).await;
    far.says(20, &frame(&[16, 0, 9, 0, 1])).await;
    assert_eq!(data(answer).await, Ok(Data::Written));
}

#[tokio::test(start_paused = true)]
async fn where_the_register_cannot_be_read_nothing_is_written() {
    let (bus, mut far) = at_9600(0);
    let answer = written(&bus, bit(How { part: Part::Whole, ..How::default() }));
    far.hears(&question(1, 9, 1)).await;
    far.says(20, &frame(&[0x83, 2])).await;
    assert_eq!(data(answer).await, Err(BusError::Refused(2)));
    assert_eq!(bus.status().borrow().wire.requests, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_another_reason_is_no_sign_that_mask_write_is_unknown() {
    let (bus, mut far) = at_9600(0);
    for _ in 0..2 {
        let answer = written(&bus, bit(How::default()));
        far.hears(&frame(&MASK)).await;
        far.says(20, &frame(&[0x96, 2])).await;
        assert_eq!(data(answer).await, Err(BusError::Refused(2)));
    }
}

// ── identification ──────────────────────────────────────────────────────────────────────────────

fn identify(bus: &Bus, id: u8, object: u8) -> JoinHandle<Result<Reply, BusError>> {
    let bus = bus.clone();
    let request = mei::IdentifyRequest { unit: unit(id), category: Category::Regular, object };
    tokio::spawn(async move { bus.identify_next(request).await })
}

/// The question for a stream of objects from this one on.
fn who(id: u8, object: u8) -> Vec<u8> {
    frame::rtu(id, &[43, 14, 2, object])
}

fn said(first: u8, values: &[&str], next: Option<u8>) -> Objects {
    let objects = (first..).zip(values).map(|(id, value)| (id, value.as_bytes().to_vec())).collect();
    Objects { conformity: 2, next, objects }
}

fn says(id: u8, objects: &Objects) -> Vec<u8> {
    frame::rtu(id, &mei::render(2, objects))
}

#[tokio::test(start_paused = true)]
async fn an_identification_is_taken_in_whatever_pieces_it_comes() {
    let acme = said(0, &["ACME", "X-1", "2.0"], None);
    let whole = says(1, &acme);
    for piece in [1, 2, 5, 7, 11, whole.len()] {
        let (bus, mut far) = at_9600(0);
        let answer = identify(&bus, 1, 0);
        far.hears(&who(1, 0)).await;
        far.says(20, &[]).await;
        for part in whole.chunks(piece) {
            far.says(1, part).await;
        }
        assert_eq!(data(answer).await, Ok(Data::Objects(acme.clone())), "in pieces of {piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_identification_over_tcp_is_taken_too() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bus = started(line(Port::Tcp(target.local_addr().unwrap().to_string()), 0));
    let answer = identify(&bus, 1, 0);
    let (mut stream, _) = target.accept().await.unwrap();
    let mut request = [0; 11];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request[6..], [1, 43, 14, 2, 0]);
    let acme = said(0, &["ACME"], Some(1));
    let number = u16::from_be_bytes([request[0], request[1]]);
    stream.write_all(&frame::mbap(number, 1, &mei::render(2, &acme))).await.unwrap();
    assert_eq!(data(answer).await, Ok(Data::Objects(acme)));
}

#[tokio::test(start_paused = true)]
async fn a_truncated_identification_is_garbled_and_not_waited_for_without_end() {
    for cut in [3, 8, 9, 12] {
        let (bus, mut far) = at_9600(0);
        let begun = Instant::now();
        let answer = identify(&bus, 1, 0);
        far.hears(&who(1, 0)).await;
        far.says(15, &says(1, &said(0, &["ACME", "X-1"], None))[..cut]).await;
        assert_eq!(data(answer).await, Err(BusError::Garbled(Garble::Truncated)), "{cut}");
        assert!(begun.elapsed() < TIMEOUT * 8, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_number_of_objects_costs_an_answer_and_no_more() {
    for (at, byte) in [(7, 0xFF), (9, 0xFF), (7, 1), (9, 0), (12, 0)] {
        let (bus, mut far) = at_9600(1);
        let acme = said(0, &["ACME", "X-1"], None);
        let mut damaged = says(1, &acme);
        damaged[at] = byte;
        let begun = Instant::now();
        let answer = identify(&bus, 1, 0);
        far.hears(&who(1, 0)).await;
        far.says(15, &damaged).await;
        let mut asked = [0; 8];
        far.stream.read_exact(&mut asked[..7]).await.unwrap();
        if asked[1] == 8 {
            // What came may have been an old answer: something that tells is asked first.
            far.stream.read_exact(&mut asked[7..]).await.unwrap();
            far.says(20, &asked).await;
            far.hears(&who(1, 0)).await;
        } else {
            assert_eq!(asked[..7], who(1, 0));
        }
        far.says(15, &says(1, &acme)).await;
        assert_eq!(data(answer).await, Ok(Data::Objects(acme)), "byte {at} made {byte}");
        assert!(begun.elapsed() < TIMEOUT * 10, "byte {at} made {byte}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_identification_is_not_the_answer_to_the_next_question() {
    let (bus, mut far) = at_9600(0);
    let first = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    let read = ask(&bus, holding(1, 5, 2));
    far.hears(&question(1, 5, 2)).await;
    far.says(15, &says(1, &said(0, &["LATE"], None))).await;
    far.says(25, &words(1, &[3, 4])).await;
    assert_eq!(data(read).await, Ok(Data::Registers(vec![3, 4])));
    assert_eq!(bus.status().borrow().wire.stale_replies, 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_miss_the_same_question_is_asked_behind_one_that_tells() {
    let (bus, mut far) = at_9600(0);
    let first = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    assert_eq!(data(first).await, Err(BusError::NoReply));
    tokio::time::sleep(10 * TIMEOUT).await;
    let second = identify(&bus, 1, 0);
    let echo = frame(&[8, 0, 0, 0, 1]);
    far.hears(&echo).await;
    far.says(20, &says(1, &said(0, &["OLD"], None))).await;
    far.says(30, &echo).await;
    far.hears(&who(1, 0)).await;
    let new = said(0, &["NEW"], None);
    far.says(20, &says(1, &new)).await;
    assert_eq!(data(second).await, Ok(Data::Objects(new)));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_repeated_is_not_taken_for_the_next_part() {
    let (bus, mut far) = at_9600(0);
    let first = said(0, &["ACME", "X-1"], Some(2));
    let answer = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    far.says(20, &says(1, &first)).await;
    assert_eq!(data(answer).await, Ok(Data::Objects(first.clone())));
    let next = identify(&bus, 1, 2);
    far.hears(&who(1, 2)).await;
    far.says(9, &says(1, &first)).await;
    let second = said(2, &["2.0"], None);
    far.says(40, &says(1, &second)).await;
    assert_eq!(data(next).await, Ok(Data::Objects(second)));
}

#[tokio::test(start_paused = true)]
async fn the_same_identification_of_two_units_is_told_apart_by_the_unit_alone() {
    let (bus, mut far) = at_9600(0);
    let acme = said(0, &["ACME"], None);
    let answer = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    far.says(20, &says(9, &said(0, &["FOREIGN"], None))).await;
    far.says(30, &says(1, &acme)).await;
    assert_eq!(data(answer).await, Ok(Data::Objects(acme.clone())));
    let other = identify(&bus, 2, 0);
    far.hears(&who(2, 0)).await;
    far.says(20, &says(1, &acme)).await;
    assert_eq!(data(other).await, Err(BusError::NoReply), "the wrong unit's is none");
}

#[tokio::test(start_paused = true)]
async fn our_own_question_heard_by_an_adapter_is_no_identification() {
    let (bus, mut far) = at_9600(0);
    let answer = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    far.says(8, &who(1, 0)).await;
    let acme = said(0, &["ACME"], None);
    far.says(20, &says(1, &acme)).await;
    assert_eq!(data(answer).await, Ok(Data::Objects(acme)));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_know_the_question_says_so_and_is_not_asked_again() {
    let (bus, mut far) = at_9600(3);
    let answer = identify(&bus, 1, 0);
    far.hears(&who(1, 0)).await;
    far.says(20, &frame(&[0xAB, 1])).await;
    assert_eq!(data(answer).await, Err(BusError::Refused(1)));
    let all = mei::IdentifyRequest { unit: UnitId::BROADCAST, category: Category::Basic, object: 0 };
    assert_eq!(bus.identify_next(all).await, Err(BusError::Refused(3)));
    assert_eq!(bus.status().borrow().wire.requests, 1);
}
