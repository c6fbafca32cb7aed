//! Copies of answers, in transcripts: whatever repeats on a line, no value comes under another question.

use super::*;

/// Long enough for anything said before to be over, and for a copy to be no copy any more.
const LONG: Duration = Duration::from_secs(2);

/// Asks, hears and answers one register of unit 1.
async fn reads(bus: &Bus, far: &mut Far, (address, word): (u8, u16)) {
    let answer = ask(bus, holding(1, u16::from(address), 1));
    far.hears(&question(1, address, 1)).await;
    far.says(20, &words(1, &[word])).await;
    assert_eq!(data(answer).await, Ok(Data::Registers(vec![word])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_after_a_pause_is_never_taken_for_the_answer_to_another_question() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let next = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(12, &words(1, &[1])).await;
    far.says(10, &words(1, &[2])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_and_the_answer_read_in_one_go_by_a_late_reader_are_told_apart() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let next = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(30, &[words(1, &[1]), words(1, &[2])].concat()).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_place_of_a_lost_answer_is_found_out_by_asking_again() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let next = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(12, &words(1, &[1])).await;
    far.hears(&question(1, 1, 1)).await;
    far.says(20, &words(1, &[2])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn the_answer_that_a_copy_hid_does_not_answer_the_question_after_next() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let second = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(12, &words(1, &[1])).await;
    // Its own answer is late, and comes when it has been asked again.
    far.hears(&question(1, 1, 1)).await;
    far.says(20, &words(1, &[2])).await;
    assert_eq!(data(second).await, Ok(Data::Registers(vec![2])));
    let third = ask(&bus, holding(1, 2, 1));
    let echo = frame::rtu(1, &[8, 0, 0, 0, 1]);
    far.hears(&echo).await;
    far.says(10, &words(1, &[2])).await;
    far.says(10, &echo).await;
    far.hears(&question(1, 2, 1)).await;
    far.says(20, &words(1, &[3])).await;
    assert_eq!(data(third).await, Ok(Data::Registers(vec![3])));
}

#[tokio::test(start_paused = true)]
async fn registers_that_hold_the_same_are_believed_after_being_asked_twice_once() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 7)).await;
    let twin = ask(&bus, holding(1, 1, 1));
    for _ in 0..2 {
        far.hears(&question(1, 1, 1)).await;
        far.says(20, &words(1, &[7])).await;
    }
    assert_eq!(data(twin).await, Ok(Data::Registers(vec![7])));
    let before = bus.status().borrow().wire.requests;
    for _ in 0..3 {
        reads(&bus, &mut far, (0, 7)).await;
        reads(&bus, &mut far, (1, 7)).await;
    }
    let wire = bus.status().borrow().wire;
    assert_eq!((wire.requests - before, wire.stale_replies), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_register_that_stands_at_two_addresses_is_soon_believed_whatever_it_holds() {
    let (bus, mut far) = at_9600(0);
    for word in 0..12 {
        reads(&bus, &mut far, (0, word)).await;
        let twin = ask(&bus, holding(1, 1, 1));
        for _ in 0..if word < 8 { 2 } else { 1 } {
            far.hears(&question(1, 1, 1)).await;
            far.says(20, &words(1, &[word])).await;
        }
        assert_eq!(data(twin).await, Ok(Data::Registers(vec![word])));
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_line_with_still_registers_waits_for_nothing() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 7)).await;
    let spoken = Instant::now();
    let next = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    assert!(spoken.elapsed() < Duration::from_millis(5), "the gap and no more: {:?}", spoken.elapsed());
    far.says(20, &words(1, &[7])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![7])));
    assert_eq!(bus.status().borrow().wire.requests, 2);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_last_scan_that_comes_sooner_than_the_device_ever_answers_is_no_new_value() {
    let (bus, mut far) = at_9600(0);
    for word in [5, 6, 7] {
        let answer = ask(&bus, holding(1, 0, 1));
        far.hears(&question(1, 0, 1)).await;
        far.says(40, &words(1, &[word])).await;
        assert!(data(answer).await.is_ok());
    }
    let next = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(12, &words(1, &[7])).await;
    far.says(28, &words(1, &[8])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![8])));
}

#[tokio::test(start_paused = true)]
async fn on_a_line_that_repeats_itself_a_unit_is_asked_again_after_the_copy_and_others_at_once() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let other = ask(&bus, holding(2, 0, 1));
    far.hears(&question(2, 0, 1)).await;
    far.says(16, &words(1, &[1])).await;
    far.says(20, &words(2, &[9])).await;
    assert_eq!(data(other).await, Ok(Data::Registers(vec![9])));
    tokio::time::sleep(LONG).await;
    reads(&bus, &mut far, (0, 3)).await;
    let spoken = Instant::now();
    let other = ask(&bus, holding(2, 0, 1));
    far.hears(&question(2, 0, 1)).await;
    assert!(spoken.elapsed() < Duration::from_millis(5), "{:?}", spoken.elapsed());
    far.says(10, &words(2, &[10])).await;
    assert_eq!(data(other).await, Ok(Data::Registers(vec![10])));
    let spoken = Instant::now();
    let again = ask(&bus, holding(2, 0, 1));
    far.says(15, &words(2, &[10])).await;
    far.hears(&question(2, 0, 1)).await;
    assert!(
        spoken.elapsed() >= Duration::from_millis(28),
        "1.5 times the pause before the copy: {:?}",
        spoken.elapsed()
    );
    far.says(20, &words(2, &[11])).await;
    assert_eq!(data(again).await, Ok(Data::Registers(vec![11])), "the copy came into the silence");
    assert_eq!(bus.status().borrow().wire.stale_replies, 2);
}

#[tokio::test(start_paused = true)]
async fn a_copied_exception_refuses_only_its_own_question() {
    let (bus, mut far) = at_9600(0);
    let hole = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(20, &frame::rtu(1, &[0x83, 2])).await;
    assert_eq!(data(hole).await, Err(BusError::Refused(2)));
    let next = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(12, &frame::rtu(1, &[0x83, 2])).await;
    far.says(10, &words(1, &[2])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![2])));
}

#[tokio::test(start_paused = true)]
async fn a_late_exception_does_not_refuse_the_next_question() {
    let (bus, mut far) = at_9600(0);
    let hole = ask(&bus, holding(1, 0, 2));
    far.hears(&question(1, 0, 2)).await;
    assert_eq!(data(hole).await, Err(BusError::NoReply));
    let next = ask(&bus, holding(1, 10, 1));
    far.hears(&question(1, 10, 1)).await;
    far.says(12, &frame::rtu(1, &[0x83, 2])).await;
    far.says(20, &words(1, &[5])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![5])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_does_not_pay_what_is_owed() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let hurried = bus.clone();
    let unheard = tokio::spawn(async move { hurried.read_once(holding(1, 1, 1), Duration::from_millis(10)).await });
    far.hears(&question(1, 1, 1)).await;
    assert_eq!(data(unheard).await, Err(BusError::NoReply));
    let next = ask(&bus, holding(1, 2, 1));
    far.says(10, &words(1, &[1])).await;
    let echo = frame::rtu(1, &[8, 0, 0, 0, 1]);
    far.hears(&echo).await;
    far.says(10, &words(1, &[2])).await;
    far.says(10, &echo).await;
    far.hears(&question(1, 2, 1)).await;
    far.says(20, &words(1, &[3])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![3])));
}

#[tokio::test(start_paused = true)]
async fn behind_a_damaged_copy_the_answer_may_still_come_and_is_not_the_next_ones() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let damaged = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    let mut copy = words(1, &[1]);
    copy[4] ^= 0x10;
    far.says(12, &copy).await;
    assert_eq!(data(damaged).await, Err(BusError::Garbled(Garble::Crc)));
    let next = ask(&bus, holding(1, 2, 1));
    let echo = frame::rtu(1, &[8, 0, 0, 0, 1]);
    far.hears(&echo).await;
    far.says(12, &words(1, &[2])).await;
    far.says(12, &echo).await;
    far.hears(&question(1, 2, 1)).await;
    far.says(20, &words(1, &[3])).await;
    assert_eq!(data(next).await, Ok(Data::Registers(vec![3])));
}

#[tokio::test(start_paused = true)]
async fn a_deaf_devices_late_and_right_answer_read_in_one_go_are_told_apart() {
    let (bus, mut far) = at_9600(0);
    for address in 0..4 {
        let unheard = ask(&bus, holding(1, address, 1));
        let mark = address as u8;
        let instead = if address == 0 { question(1, 0, 1) } else { frame::rtu(1, &[8, 0, 0, 0, mark]) };
        far.hears(&instead).await;
        assert_eq!(data(unheard).await, Err(BusError::NoReply));
    }
    tokio::time::sleep(8 * TIMEOUT).await;
    let last = ask(&bus, holding(1, 4, 1));
    far.hears(&question(1, 4, 1)).await;
    far.says(40, &[words(1, &[0xBAD]), words(1, &[9])].concat()).await;
    assert_eq!(data(last).await, Ok(Data::Registers(vec![9])));
}

#[tokio::test(start_paused = true)]
async fn an_echo_nobody_told_us_of_is_not_taken_for_coils() {
    let (bus, mut far) = at_9600(0);
    let range = AddressRange::new(0x0305, 24).unwrap();
    let coils = ask(&bus, ReadRequest { unit: unit(1), table: Table::Coil, range });
    let asked = frame::rtu(1, &[1, 3, 5, 0, 24]);
    far.hears(&asked).await;
    far.says(12, &asked).await;
    far.says(10, &frame::rtu(1, &[1, 3, 0, 0, 1])).await;
    let Ok(Data::Bits(bits)) = data(coils).await else { panic!("no bits") };
    assert!(bits[16] && bits.iter().filter(|b| **b).count() == 1, "{bits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_port_whose_answers_come_before_the_question_could_have_left_is_found_to_have_no_wire() {
    let (bus, mut far) = at_9600(0);
    let begun = Instant::now();
    let first = ask(&bus, holding(1, 0, 1));
    far.hears(&question(1, 0, 1)).await;
    far.says(1, &words(1, &[1])).await;
    assert_eq!(data(first).await, Ok(Data::Registers(vec![1])));
    assert!(begun.elapsed() >= TIMEOUT, "something else might have come");
    let begun = Instant::now();
    for word in [2, 3] {
        let answer = ask(&bus, holding(1, 1, 1));
        far.hears(&question(1, 1, 1)).await;
        far.says(1, &words(1, &[word])).await;
        assert_eq!(data(answer).await, Ok(Data::Registers(vec![word])));
    }
    assert!(begun.elapsed() < Duration::from_millis(20), "{:?}", begun.elapsed());
    assert_eq!(bus.status().borrow().wire.stale_replies, 0);
}

#[tokio::test(start_paused = true)]
async fn an_early_copy_does_not_make_a_line_one_without_a_wire() {
    let (bus, mut far) = at_9600(0);
    reads(&bus, &mut far, (0, 1)).await;
    let lost = ask(&bus, holding(1, 1, 1));
    far.hears(&question(1, 1, 1)).await;
    far.says(2, &words(1, &[1])).await;
    assert_eq!(data(lost).await, Err(BusError::NoReply));
    let stale = bus.status().borrow().wire.stale_replies;
    assert_eq!(stale, 1);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_hears_itself_unknown_to_us_confirms_no_write_of_a_silent_device() {
    let (bus, mut far) = at_9600(0);
    let write = tell(&bus, register(1, 10, 5));
    let sent = frame::rtu(1, &[6, 0, 10, 0, 5]);
    far.hears(&sent).await;
    far.says(2, &sent).await;
    assert_eq!(data(write).await, Err(BusError::NoReply));
}

#[tokio::test(start_paused = true)]
async fn a_line_that_babbles_is_said_to_be_noisy_and_does_not_hold_anyone_for_ever() {
    let (bus, far) = at_9600(0);
    let Far { mut stream, .. } = far;
    let babble = tokio::spawn(async move {
        while stream.write_all(&[0xA5; 16]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    tokio::task::yield_now().await;
    let answer = tokio::time::timeout(Duration::from_secs(10), bus.read(holding(1, 0, 1))).await;
    assert!(matches!(answer, Ok(Err(BusError::Garbled(_)))), "{answer:?}");
    let again = tokio::time::timeout(Duration::from_secs(10), bus.read(holding(1, 0, 1))).await;
    assert_eq!(again, Ok(Err(BusError::Garbled(Garble::Noise))));
    babble.abort();
}

#[tokio::test(start_paused = true)]
async fn a_port_without_a_wire_is_found_out_even_where_each_answer_could_be_an_old_one() {
    let (bus, mut far) = at_9600(0);
    // A device that is deaf to questions that tell owes an answer, so that none of its next ones is sure.
    for mark in 0..4 {
        let unheard = ask(&bus, holding(1, u16::from(mark), 1));
        let asked = if mark == 0 { question(1, 0, 1) } else { frame::rtu(1, &[8, 0, 0, 0, mark]) };
        far.hears(&asked).await;
        assert_eq!(data(unheard).await, Err(BusError::NoReply));
    }
    for address in [4, 5, 6, 7] {
        tokio::time::sleep(8 * TIMEOUT).await;
        let answer = ask(&bus, holding(1, u16::from(address), 1));
        far.hears(&question(1, address, 1)).await;
        far.says(1, &words(1, &[9])).await;
        let wanted = if address < 7 { Err(BusError::NoReply) } else { Ok(Data::Registers(vec![9])) };
        assert_eq!(data(answer).await, wanted, "{address}");
    }
}
