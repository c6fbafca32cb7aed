//! What devices and wires do to an answer when they are not well, drawn at random from a seed, so that a failing run can be
//! run again. Pure: an answer goes in, what is put on the wire and when comes out.

use std::time::Duration;

use crate::bus::frame;

/// xorshift64*: the same seed gives the same trouble.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Any seed will do.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Below `n`; `n` is not 0.
    pub const fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as u32) % n
    }

    /// From 0 to 1.
    pub fn part(&mut self) -> f64 {
        f64::from(self.below(1 << 24)) / f64::from(1 << 24)
    }
}

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// No answer.
    Silent,
    /// The right answer, after the asker gave up.
    Late,
    /// Noise, then the right answer.
    Garbage,
    /// A flipped bit.
    Crc,
    /// Another unit's answer of the same shape, then the right one or nothing.
    WrongUnit,
    /// A sound frame with another function.
    WrongFunction,
    /// A sound frame with fewer words.
    WrongLength,
    /// The end is missing.
    Truncated,
    /// The answer twice, without a pause, as a repeater with a bad ground does.
    Doubled,
    /// The answer, and the same again after a pause, as a gateway or repeater that sends again does.
    Repeated,
    /// An exception, 1 to 6.
    Exception,
}

/// A second copy begins at most so long after the first.
const PAUSE: Duration = Duration::from_millis(8);

const ALL: [Fault; 11] = [
    Fault::Silent,
    Fault::Late,
    Fault::Garbage,
    Fault::Crc,
    Fault::WrongUnit,
    Fault::WrongFunction,
    Fault::WrongLength,
    Fault::Truncated,
    Fault::Doubled,
    Fault::Repeated,
    Fault::Exception,
];

/// How bad a line is.
#[derive(Debug, Clone)]
pub struct Hostility {
    /// Share of answers in trouble, 0 to 1.
    pub share: f64,
    /// The asker's timeout: a late answer comes between 1.05 times this and `latest` times.
    pub timeout: Duration,
    /// How late, in timeouts; 1.8 unless said otherwise.
    pub latest: f64,
    /// Which kinds; each as likely as the others.
    pub kinds: Vec<Fault>,
    /// Where the luck comes from.
    pub dice: Dice,
}

impl Hostility {
    /// All kinds.
    pub fn new(share: f64, timeout: Duration, seed: u64) -> Self {
        Self { share, timeout, latest: 1.8, kinds: ALL.to_vec(), dice: Dice::new(seed) }
    }

    /// Only these kinds.
    pub fn only(mut self, kinds: &[Fault]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// Which trouble the next answer gets, if any.
    pub fn draw(&mut self) -> Option<Fault> {
        if self.kinds.is_empty() || self.dice.part() >= self.share {
            return None;
        }
        let n = self.dice.below(u32::try_from(self.kinds.len()).expect("eleven kinds"));
        Some(self.kinds[n as usize])
    }

    /// What an RTU line carries instead of `answer`: bytes, each after a delay on top of the turnaround.
    pub fn spoil(&mut self, fault: Fault, answer: Vec<u8>) -> Vec<(Duration, Vec<u8>)> {
        let now = |bytes| vec![(Duration::ZERO, bytes)];
        let (unit, pdu) = (answer[0], answer[1..answer.len() - 2].to_vec());
        match fault {
            Fault::Silent => Vec::new(),
            Fault::Late => vec![(self.late(), answer)],
            Fault::Garbage => {
                let noise = (0..=self.dice.below(30)).map(|_| self.dice.below(256) as u8);
                now(noise.collect::<Vec<_>>().into_iter().chain(answer).collect())
            }
            Fault::Crc => {
                let at = self.dice.below(u32::try_from(answer.len()).expect("a frame is short")) as usize;
                let mut answer = answer;
                answer[at] ^= 1 << self.dice.below(8);
                now(answer)
            }
            Fault::WrongUnit => {
                let mut other = pdu;
                for byte in other.iter_mut().skip(2) {
                    *byte = byte.wrapping_add(1);
                }
                let mut bytes = frame::rtu(unit ^ 0x40, &other);
                if self.dice.below(2) == 0 {
                    bytes.extend(answer);
                }
                now(bytes)
            }
            Fault::WrongFunction => now(frame::rtu(unit, &[&[pdu[0] ^ 7], &pdu[1..]].concat())),
            Fault::WrongLength if pdu.len() > 4 && pdu[0] <= 4 => {
                now(frame::rtu(unit, &[&[pdu[0], pdu[1] - 2], &pdu[2..pdu.len() - 2]].concat()))
            }
            Fault::Truncated | Fault::WrongLength => {
                let keep = self.dice.below(u32::try_from(answer.len() - 1).expect("a frame is short")) as usize;
                now(answer[..=keep].to_vec())
            }
            Fault::Doubled => now([answer.as_slice(), answer.as_slice()].concat()),
            Fault::Repeated => {
                let again = PAUSE.mul_f64(self.dice.part());
                vec![(Duration::ZERO, answer.clone()), (again, answer)]
            }
            Fault::Exception => now(frame::rtu(unit, &[pdu[0] | 0x80, 1 + self.dice.below(6) as u8])),
        }
    }

    /// When a late answer comes.
    pub fn late(&mut self) -> Duration {
        self.timeout.mul_f64(1.05 + (self.latest - 1.05) * self.dice.part())
    }
}
