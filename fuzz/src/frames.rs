//! Any bytes in any pieces on a Modbus line after any question: never a panic, nothing is taken for the answer that was not in the
//! bytes with a right checksum (computed here bit by bit, not by the table under test), and a right answer behind noise is found.

use trunkline::bench::mqtt::choices::Choices;
use trunkline::bus::probe;
use trunkline::bus::probe::Echo;
use trunkline::bus::probe::Question;

pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (unit, pdu) = (choices.byte(), asked(&mut choices));
    let transaction = choices.short();
    let echo = if choices.is(4) { Echo::Heard } else { Echo::None };
    let piece = 1 + choices.below(40);
    let noise = choices.rest();
    let Some(question) = Question::new(unit, pdu.clone()) else { return };
    if let Some(answer) = question.rtu(noise.chunks(piece), echo) {
        assert!(is_there(noise, unit, &answer), "{answer:02x?} was never on the line");
        assert!(answer[0] & 0x7F == pdu[0], "{answer:02x?} answers something else");
    }
    if let Some(answer) = question.tcp(transaction, noise.to_vec()) {
        assert!(answer[0] & 0x7F == pdu[0] && noise.windows(answer.len()).any(|w| w == answer));
    }
    for (unit, pdu) in probe::strays(noise) {
        assert!(is_there(noise, unit, &pdu), "{pdu:02x?} is no sound frame");
    }
    if echo == Echo::None {
        let right = sound(unit, &answer_to(&pdu));
        let line = [noise, &right].concat();
        assert!(question.rtu(line.chunks(piece), Echo::None).is_some(), "the answer behind the noise is lost");
    }
    let right = answer_to(&pdu);
    let stream = [&transaction.to_be_bytes()[..], &[0, 0], &(right.len() as u16 + 1).to_be_bytes(), &[unit], &right];
    assert_eq!(question.tcp(transaction, stream.concat()), Some(right));
}

/// A question of every kind the house asks.
fn asked(choices: &mut Choices<'_>) -> Vec<u8> {
    let [high, low] = choices.short().to_be_bytes();
    match choices.below(10) {
        n @ 0..2 => {
            let count = 1 + u16::from(choices.byte()) * 7;
            [&[1 + n as u8, high, low][..], &count.to_be_bytes()].concat()
        }
        n @ 2..4 => vec![1 + n as u8, high, low, 0, 1 + choices.byte() % 125],
        4 => vec![5, high, low, if choices.is(2) { 0xFF } else { 0 }, 0],
        5 => vec![6, high, low, choices.byte(), choices.byte()],
        6 => vec![8, 0, 0, high, low],
        7 => vec![0x0F, high, low, 0, 8, 1, choices.byte()],
        8 => vec![0x10, high, low, 0, 1, 2, choices.byte(), choices.byte()],
        _ => vec![0x16, high, low, choices.byte(), choices.byte(), choices.byte(), choices.byte()],
    }
}

fn answer_to(pdu: &[u8]) -> Vec<u8> {
    let count = usize::from(u16::from_be_bytes([pdu[3], pdu[4]]));
    let read = |bytes: usize| [&[pdu[0], bytes as u8][..], &vec![0x5A; bytes]].concat();
    match pdu[0] {
        1 | 2 => read(count.div_ceil(8)),
        3 | 4 => read(2 * count),
        0x16 => pdu.to_vec(),
        _ => pdu[..5].to_vec(),
    }
}

fn sound(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let frame = [&[unit], pdu].concat();
    let crc = crc(&frame);
    [frame, crc.to_le_bytes().to_vec()].concat()
}

fn is_there(bytes: &[u8], unit: u8, pdu: &[u8]) -> bool {
    let frame = sound(unit, pdu);
    bytes.windows(frame.len()).any(|window| window == frame)
}

fn crc(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFF_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc
}
