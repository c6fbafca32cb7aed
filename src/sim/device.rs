//! A simulated device: tables with holes, functions 1–6, 8, 15, 16, 22, 23 and 43/14, exceptions 1–3, and values that move as such values
//! do: a load that follows the day, a grid near 50 Hz, counters that only grow. It remembers what each register held when.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rust_decimal::Decimal;

use crate::config::plant::Device;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::config::plant::Wire;
use crate::point::DataType;
use crate::point::Table;
use crate::sample::Value;
use crate::sim::Dice;
use crate::sim::identity;

/// Engineering value to words: the inverse of decoding, as the decoder's module has it.
pub type Encode = fn(&Wire, &Value) -> Option<Vec<u16>>;

/// Shared between the wire that asks it and the test that checks it. A std lock: held for one request.
pub type Shared = Arc<Mutex<SimDevice>>;

/// Values move in these steps.
const STEP: Duration = Duration::from_millis(100);
/// A simulated day: long enough to look at, short enough for a demo.
const DAY: f64 = 600.0;
/// Changes remembered per register: at one a step, the last seven minutes.
const REMEMBERED: usize = 4096;

/// One device.
#[derive(Debug)]
pub struct SimDevice {
    unit: u8,
    cells: BTreeMap<(Table, u16), u16>,
    history: HashMap<(Table, u16), VecDeque<(Instant, u16)>>,
    moving: Vec<Moving>,
    encode: Option<Encode>,
    /// Every holding register shows the tenths of milliseconds since then, whatever was set.
    clock: Option<Instant>,
    /// What it says of itself; nothing: it does not know the question.
    objects: Vec<(u8, Vec<u8>)>,
    written: HashSet<(Table, u16)>,
    born: Instant,
    moved: Instant,
    dice: Dice,
}

/// A point that moves.
#[derive(Debug)]
struct Moving {
    wire: Wire,
    course: Course,
    limits: (f64, f64),
}

/// How a value moves.
#[derive(Debug, Clone, Copy)]
enum Course {
    /// Around `base`, following the day by `swing`, shaken by `noise`.
    Load { base: f64, swing: f64, noise: f64 },
    /// Only grows, so much a second.
    Counter { from: f64, rate: f64 },
    /// One of this many states, a new one every half minute.
    State { of: u32 },
    /// Does not move.
    Still(f64),
}

impl SimDevice {
    /// Without any register yet.
    pub fn new(unit: u8) -> Self {
        let now = Instant::now();
        Self {
            unit,
            cells: BTreeMap::new(),
            history: HashMap::new(),
            moving: Vec::new(),
            encode: None,
            clock: None,
            objects: Vec::new(),
            written: HashSet::new(),
            born: now,
            moved: now,
            dice: Dice::new(u64::from(unit)),
        }
    }

    /// Holding registers that show when they were read: the tenths of milliseconds since `begun`, the low 16 bits of it (they
    /// turn over every 6.5 s). So whoever gets a value knows how old it is without asking the gateway.
    pub fn clock(unit: u8, registers: u16, begun: Instant) -> Self {
        let mut sim = Self::new(unit).with(Table::Holding, 0, &vec![0; usize::from(registers)]);
        sim.clock = Some(begun);
        sim
    }

    /// A device of the plant: a register for each of its points, moving by unit and name. `points` are the plant's.
    pub fn of(device: &Device, points: &[Arc<Point>], encode: Encode) -> Self {
        let mut sim = Self::new(device.unit_id.get());
        sim.encode = Some(encode);
        let own = || points.iter().filter(|p| p.device == device.id);
        let exponents: HashSet<_> = own().filter_map(|p| wire_of(p)?.scale_from).collect();
        for point in own() {
            let Some(wire) = wire_of(point) else { continue };
            let limits = point.range.as_deref().map_or((f64::MIN, f64::MAX), |(low, high)| (float(*low), float(*high)));
            let still = exponents.contains(&point.id);
            let course = if still { Course::Still(0.0) } else { course_of(point, wire, device.unit_id.get()) };
            sim.moving.push(Moving { wire: wire.clone(), course, limits });
        }
        sim.move_all(Instant::now());
        sim
    }

    /// The same with these words from `start` on.
    pub fn with(mut self, table: Table, start: u16, words: &[u16]) -> Self {
        let now = Instant::now();
        for (address, word) in (start..=u16::MAX).zip(words) {
            self.set(table, address, *word, now);
        }
        self
    }

    /// The same, saying this of itself (V1.1b3, 6.21), in ascending order of ids.
    pub fn saying(mut self, objects: impl IntoIterator<Item = (u8, Vec<u8>)>) -> Self {
        self.objects = objects.into_iter().collect();
        self
    }

    /// To be shared with a wire.
    pub fn shared(self) -> Shared {
        Arc::new(Mutex::new(self))
    }

    /// Its address.
    pub const fn unit(&self) -> u8 {
        self.unit
    }

    /// What a register holds; `None`: there is none.
    pub fn get(&self, table: Table, address: u16) -> Option<u16> {
        self.cells.get(&(table, address)).copied()
    }

    /// Changes a register and remembers since when.
    pub fn set(&mut self, table: Table, address: u16, word: u16, now: Instant) {
        let word = if table.is_bits() { u16::from(word != 0) } else { word };
        if self.cells.insert((table, address), word) != Some(word) {
            let past = self.history.entry((table, address)).or_default();
            past.push_back((now, word));
            if past.len() > REMEMBERED {
                past.pop_front();
            }
        }
    }

    /// True when the register held this word at some moment between the two.
    pub fn held(&self, table: Table, address: u16, word: u16, between: (Instant, Instant)) -> bool {
        let Some(past) = self.history.get(&(table, address)) else { return false };
        let ends = past.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        past.iter()
            .zip(ends)
            .any(|((begin, held), end)| *held == word && *begin <= between.1 && end.is_none_or(|end| end >= between.0))
    }

    /// The answer's PDU, or an exception's.
    pub fn answer(&mut self, pdu: &[u8], now: Instant) -> Vec<u8> {
        if now.saturating_duration_since(self.moved) >= STEP {
            self.move_all(now);
        }
        let function = pdu.first().copied().unwrap_or(0);
        self.carry_out(pdu, now).unwrap_or_else(|code| vec![function | 0x80, code])
    }

    fn carry_out(&mut self, pdu: &[u8], now: Instant) -> Result<Vec<u8>, u8> {
        let word = |at: usize| pdu.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]])).ok_or(3);
        let function = *pdu.first().ok_or(1)?;
        match function {
            1 => self.read(function, Table::Coil, (word(1)?, word(3)?)),
            2 => self.read(function, Table::Discrete, (word(1)?, word(3)?)),
            3 => {
                let answer = self.read(function, Table::Holding, (word(1)?, word(3)?))?;
                Ok(match self.clock {
                    Some(begun) => show_time(answer, tenths(begun, now)),
                    None => answer,
                })
            }
            4 => self.read(function, Table::Input, (word(1)?, word(3)?)),
            5 if ![0, 0xFF00].contains(&word(3)?) => Err(3),
            5 => self.write(Table::Coil, word(1)?, &[word(3)?], now).map(|()| pdu[..5].to_vec()),
            6 => self.write(Table::Holding, word(1)?, &[word(3)?], now).map(|()| pdu[..5].to_vec()),
            8 if word(1)? == 0 => Ok(pdu.to_vec()),
            15 | 16 => {
                let (table, limit) = if function == 15 { (Table::Coil, 1968) } else { (Table::Holding, 123) };
                let words = values(function, pdu.get(3..).ok_or(3)?, limit)?;
                self.write(table, word(1)?, &words, now).map(|()| pdu[..5].to_vec())
            }
            22 => {
                let (address, and, or) = (word(1)?, word(3)?, word(5)?);
                let old = self.get(Table::Holding, address).ok_or(2)?;
                self.write(Table::Holding, address, &[(old & and) | (or & !and)], now).map(|()| pdu[..7].to_vec())
            }
            23 => {
                let words = values(16, pdu.get(7..).ok_or(3)?, 121)?;
                // What is to be read must be there before anything is written.
                self.read(function, Table::Holding, (word(1)?, word(3)?))?;
                self.write(Table::Holding, word(5)?, &words, now)?;
                self.read(function, Table::Holding, (word(1)?, word(3)?))
            }
            43 => identity::answer(&self.objects, pdu),
            _ => Err(1),
        }
    }

    fn read(&self, function: u8, table: Table, (start, count): (u16, u16)) -> Result<Vec<u8>, u8> {
        if count == 0 || count > table.read_limit() {
            return Err(3);
        }
        let last = start.checked_add(count - 1).ok_or(2)?;
        let words: Vec<u16> = (start..=last).map(|a| self.get(table, a).ok_or(2)).collect::<Result<_, _>>()?;
        let data: Vec<u8> = if table.is_bits() {
            words.chunks(8).map(|c| c.iter().rev().fold(0, |byte, bit| byte << 1 | *bit as u8)).collect()
        } else {
            words.iter().flat_map(|w| w.to_be_bytes()).collect()
        };
        Ok([&[function, data.len() as u8], data.as_slice()].concat())
    }

    fn write(&mut self, table: Table, start: u16, words: &[u16], now: Instant) -> Result<(), u8> {
        let last = usize::from(start) + words.len() - 1;
        if last > 0xFFFF || (start..=last as u16).any(|a| self.get(table, a).is_none()) {
            return Err(2);
        }
        for (address, word) in (start..=u16::MAX).zip(words) {
            self.written.insert((table, address));
            self.set(table, address, *word, now);
        }
        Ok(())
    }

    /// What was written by somebody stays as it was written.
    fn move_all(&mut self, now: Instant) {
        self.moved = now;
        let age = now.saturating_duration_since(self.born).as_secs_f64();
        for moving in std::mem::take(&mut self.moving) {
            let start = moving.wire.range.start();
            let words = self.words_of(&moving, age);
            for (address, word) in (start..=u16::MAX).zip(words) {
                if !self.written.contains(&(moving.wire.table, address)) {
                    self.set(moving.wire.table, address, word, now);
                }
            }
            self.moving.push(moving);
        }
    }

    fn words_of(&mut self, moving: &Moving, age: f64) -> Vec<u16> {
        let wire = &moving.wire;
        let x = moving.course.at(age, &mut self.dice).clamp(moving.limits.0, moving.limits.1);
        if let Some(span) = wire.bits {
            // Several points may share the register: each touches its own bits.
            let mask = (u16::MAX >> (15 - (span.high - span.low))) << span.low;
            let old = self.get(wire.table, wire.range.start()).unwrap_or(0);
            return vec![(old & !mask) | (((x as u16) << span.low) & mask)];
        }
        let zeros = || vec![0; usize::from(wire.range.count())];
        let Some(encode) = self.encode else { return zeros() };
        // A profile may leave less room than the course wants: then a tenth, and so on.
        let tries = [1.0, 0.1, 0.01, 0.001].map(|part| value_of(wire, x * part));
        tries.iter().find_map(|value| encode(wire, value)).unwrap_or_else(zeros)
    }
}

/// What is to be written: how many, how many bytes, the bytes.
fn values(function: u8, said: &[u8], limit: usize) -> Result<Vec<u16>, u8> {
    let [high, low, bytes, data @ ..] = said else { return Err(3) };
    let count = usize::from(u16::from_be_bytes([*high, *low]));
    let words: Vec<u16> = if function == 15 {
        data.iter().flat_map(|b| (0..8).map(move |i| u16::from(b >> i & 1))).take(count).collect()
    } else {
        data.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).take(count).collect()
    };
    let is_sound = (1..=limit).contains(&count) && words.len() == count && usize::from(*bytes) == data.len();
    if is_sound { Ok(words) } else { Err(3) }
}

/// Tenths of milliseconds between the two, the low 16 bits.
pub fn tenths(begun: Instant, now: Instant) -> u16 {
    (now.saturating_duration_since(begun).as_micros() / 100) as u16
}

fn show_time(mut answer: Vec<u8>, time: u16) -> Vec<u8> {
    answer[2..].chunks_exact_mut(2).for_each(|word| word.copy_from_slice(&time.to_be_bytes()));
    answer
}

impl Course {
    fn at(self, age: f64, dice: &mut Dice) -> f64 {
        match self {
            Self::Load { base, swing, noise } => {
                let day = age / DAY;
                // Low at night, a shoulder in the morning, the peak in the evening.
                let wave = |turns: f64| (std::f64::consts::TAU * (day * turns)).sin();
                base + swing * (0.7 * wave(1.0) + 0.3 * wave(2.0)) + noise * (dice.part() * 2.0 - 1.0)
            }
            Self::Counter { from, rate } => from + rate * age,
            Self::State { of } => f64::from((age / 30.0) as u32 % of.max(1)),
            Self::Still(x) => x,
        }
    }
}

/// By unit first, by name where the unit says little, so that a voltage looks like one.
fn course_of(point: &Point, wire: &Wire, unit: u8) -> Course {
    let own = f64::from(unit % 7);
    let load = |base: f64, swing: f64, noise: f64| Course::Load { base: base * (1.0 + own / 50.0), swing, noise };
    let counter = |rate: f64| Course::Counter { from: 1000.0 + 137.0 * f64::from(unit), rate };
    if !wire.names.is_empty() || wire.data_type == DataType::Bool || wire.bits.is_some() {
        return Course::State { of: 2 };
    }
    let name = point.name.to_lowercase();
    match &*point.series.unit {
        "V" if name.contains("dc") || name.contains("battery") => load(48.0, 3.0, 0.2),
        "V" => Course::Load { base: 230.0 + own / 10.0, swing: 3.0, noise: 0.6 },
        "A" => load(8.0, 5.0, 0.3),
        "W" | "VA" => load(2400.0, 1800.0, 60.0),
        "kW" | "kVA" => load(2.4, 1.8, 0.06),
        "var" => load(300.0, 200.0, 20.0),
        "kvar" => load(0.3, 0.2, 0.02),
        "Hz" => Course::Load { base: 50.0, swing: 0.02, noise: 0.01 },
        "kWh" | "MWh" | "m³" | "kvarh" => counter(0.01),
        "Wh" | "varh" | "l" => counter(1.0),
        "h" | "min" | "s" => counter(0.1),
        "°C" | "C" => load(22.0, 6.0, 0.2),
        "%" => load(55.0, 20.0, 1.0),
        "" if name.contains("factor") || name.starts_with("pf") => {
            Course::Load { base: 0.93, swing: 0.05, noise: 0.01 }
        }
        "" => Course::State { of: 5 },
        _ => load(50.0, 20.0, 1.0),
    }
}

fn wire_of(point: &Point) -> Option<&Wire> {
    match &point.source {
        Source::Wire(wire) => Some(wire),
        Source::Compute(_) => None,
    }
}

fn value_of(wire: &Wire, x: f64) -> Value {
    let nth = |x: f64| wire.names.values().nth(x as usize % wire.names.len().max(1));
    match wire.data_type {
        DataType::Bool => Value::Bool(x != 0.0),
        DataType::String(_) => Value::Text("SIMULATED".into()),
        _ if !wire.names.is_empty() => Value::Text(nth(x).map_or_else(|| "".into(), Arc::clone)),
        DataType::F32 | DataType::F64 => Value::Float(x),
        _ => Value::Decimal(Decimal::try_from(x).unwrap_or_default().round_dp(wire.scale.decimals.unwrap_or(6))),
    }
}

fn float(x: Decimal) -> f64 {
    f64::try_from(x).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> SimDevice {
        SimDevice::new(1).with(Table::Holding, 0, &[1, 2, 3]).with(Table::Coil, 0, &[1, 0, 1]).with(
            Table::Holding,
            5,
            &[9],
        )
    }

    #[test]
    fn a_hole_is_exception_2_and_too_much_is_exception_3() {
        let now = Instant::now();
        assert_eq!(device().answer(&[3, 0, 0, 0, 3], now), [3, 6, 0, 1, 0, 2, 0, 3]);
        assert_eq!(device().answer(&[3, 0, 0, 0, 6], now), [0x83, 2]);
        assert_eq!(device().answer(&[3, 0, 0, 0, 126], now), [0x83, 3]);
        assert_eq!(device().answer(&[3, 0xFF, 0xFF, 0, 2], now), [0x83, 2]);
        assert_eq!(device().answer(&[0x2B, 0, 0, 0, 2], now), [0xAB, 1]);
        assert_eq!(device().answer(&[1, 0, 0, 0, 3], now), [1, 1, 0b101]);
    }

    #[test]
    fn a_read_write_writes_before_it_reads_and_does_neither_where_it_cannot_do_both() {
        let (mut device, now) = (device(), Instant::now());
        assert_eq!(device.answer(&[23, 0, 0, 0, 2, 0, 1, 0, 2, 4, 0, 8, 0, 9], now), [23, 4, 0, 1, 0, 8]);
        assert_eq!(device.answer(&[23, 0, 9, 0, 1, 0, 1, 0, 1, 2, 0, 5], now), [0x97, 2]);
        assert_eq!(device.answer(&[23, 0, 0, 0, 1, 0, 1, 0, 1, 4, 0, 5], now), [0x97, 3]);
        assert_eq!(device.get(Table::Holding, 1), Some(8));
    }

    #[test]
    fn a_clock_shows_when_it_was_read() {
        let begun = Instant::now();
        let read = |after| SimDevice::clock(1, 2, begun).answer(&[3, 0, 0, 0, 2], begun + Duration::from_micros(after));
        assert_eq!(read(12_345), [3, 4, 0, 123, 0, 123]);
        assert_eq!(read(6_553_600 + 200), [3, 4, 0, 2, 0, 2]);
    }

    #[test]
    fn the_past_of_a_register_is_known() {
        let mut device = device();
        let t = |ms| Instant::now() + Duration::from_secs(1) + Duration::from_millis(ms);
        let (a, b, c) = (t(0), t(100), t(200));
        device.answer(&[6, 0, 1, 0, 7], b);
        assert!(device.held(Table::Holding, 1, 2, (a, a)));
        assert!(device.held(Table::Holding, 1, 2, (a, c)));
        assert!(device.held(Table::Holding, 1, 7, (c, c)));
        assert!(!device.held(Table::Holding, 1, 7, (a, a)));
        assert!(!device.held(Table::Holding, 1, 2, (c, c)));
    }
}
