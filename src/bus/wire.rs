//! A simulated RS485 wire in memory, under tokio's paused clock, for tests: each character takes its time, a device
//! begins to answer after 3.5 characters of silence and as long as it thinks, and the wire keeps an account of its own.
//! Its arithmetic is its own too, so that it can contradict the planner's. The trick: tokio's clock knows whole
//! milliseconds only, so a fast line is watched in slow motion, with every time multiplied.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::bus;
use crate::bus::Bus;
use crate::bus::frame;
use crate::bus::link::Link;
use crate::config::plant::Line;
use crate::config::plant::Port;

/// How fast the wire is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// One character.
    pub(crate) character: Duration,
    /// By which devices know that a frame has ended.
    pub(crate) silence: Duration,
    /// Every time is so many times as long as it would be; divide what is measured.
    pub(crate) slowed: u32,
    /// Characters arrive at the host in such pieces, as from a UART's FIFO.
    pub(crate) piece: usize,
}

/// What a device says to a question (unit, PDU): the PDU, after thinking for so long beyond the silence; `None`:
/// nothing.
pub(crate) type Saying = Option<(Duration, Vec<u8>)>;

/// What the wire saw, times as the wire had them (slowed).
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// Frames of the host, and of the devices.
    pub(crate) questions: Vec<Heard>,
    pub(crate) answers: u64,
    /// Frames of the host that began before the silence was over.
    pub(crate) violations: u64,
    /// Frames that began while another was on the wire: neither is understood.
    pub(crate) collisions: u64,
    /// Time with a character on the wire.
    pub(crate) characters: Duration,
    /// Time that nobody else could have used: characters, the silence behind each frame, a device thinking.
    pub(crate) occupied: Duration,
}

/// A question as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// When its first character began.
    pub(crate) at: Instant,
    pub(crate) unit: u8,
    pub(crate) pdu: Vec<u8>,
}

/// The wire; it and the bus task on it end when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    account: Arc<Mutex<Account>>,
    _stop: DropGuard,
}

impl Wire {
    /// What it saw so far. A frame is entered when it ends.
    pub(crate) fn account(&self) -> Account {
        self.account.lock().unwrap().clone()
    }
}

impl Pace {
    /// Of a serial line in slow motion.
    pub(crate) fn slowed(line: &Line, slowed: u32) -> Self {
        let Port::Serial(port) = &line.port else { panic!("no wire behind a socket") };
        let bit_ns = 1_000_000_000_f64 / f64::from(port.baud) * f64::from(slowed);
        let of_bits = |bits: f64| Duration::from_nanos((bits * bit_ns).round() as u64);
        let character = of_bits(f64::from(port.format.bits()));
        // The standard's own words: 3.5 characters, fixed at 1.750 ms above 19200 baud.
        let silence = if port.baud > 19_200 {
            Duration::from_micros(1750) * slowed
        } else {
            of_bits(3.5 * f64::from(port.format.bits()))
        };
        Self { character, silence, slowed, piece: 1 }
    }

    fn of(self, characters: usize) -> Duration {
        self.character * u32::try_from(characters).unwrap()
    }
}

/// The same line as the host has to be told of it, for its clock runs as slowly: baud, silence and timeout. Periods of
/// points are the caller's to multiply.
pub(crate) fn slow_motion(line: &Line, slowed: u32) -> Line {
    let Port::Serial(port) = &line.port else { panic!("no wire behind a socket") };
    assert_eq!(port.baud % slowed, 0, "{} baud cannot be slowed {slowed} times", port.baud);
    let mut slow = port.clone();
    slow.baud /= slowed;
    let gap = Some(line.gap.map_or(Pace::slowed(line, slowed).silence, |gap| gap * slowed));
    Line { port: Port::Serial(slow), timeout: line.timeout * slowed, gap, ..line.clone() }
}

/// A running bus task on a wire with devices: `say` answers for all of them, with times as the wire has them (slowed).
pub(crate) fn start(line: &Line, pace: Pace, say: impl FnMut(u8, &[u8]) -> Saying + Send + 'static) -> (Bus, Wire) {
    let (near, far) = tokio::io::duplex(4096);
    let (bus, mut task) = bus::new(slow_motion(line, pace.slowed));
    task.engine.attach(Link::Memory(near));
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    let account = Arc::new(Mutex::new(Account::default()));
    let trunk = Trunk::new(far, pace, say, Arc::clone(&account));
    let stopped = stop.clone();
    tokio::spawn(async move { stopped.run_until_cancelled(trunk.run()).await });
    (bus, Wire { account, _stop: stop.drop_guard() })
}

/// What the host is saying.
struct Question {
    bytes: Vec<u8>,
    begun: Instant,
    ended: Instant,
    spoilt: bool,
}

/// What a device is going to say or is saying.
struct Answer {
    bytes: Vec<u8>,
    done: usize,
    /// From when on the device is busy with it.
    heard: Instant,
    begins: Instant,
    begun: bool,
}

struct Trunk<S> {
    stream: DuplexStream,
    pace: Pace,
    say: S,
    account: Arc<Mutex<Account>>,
    question: Question,
    /// Not yet over, the earliest first. More than one where a device was given up too early.
    answers: Vec<Answer>,
    /// Since the last character in either direction.
    quiet_since: Instant,
    occupied_until: Instant,
}

impl<S: FnMut(u8, &[u8]) -> Saying> Trunk<S> {
    fn new(stream: DuplexStream, pace: Pace, say: S, account: Arc<Mutex<Account>>) -> Self {
        let now = Instant::now();
        let question = Question { bytes: Vec::new(), begun: now, ended: now, spoilt: false };
        let quiet_since = now - pace.silence;
        Self { stream, pace, say, account, question, answers: Vec::new(), quiet_since, occupied_until: now }
    }

    async fn run(mut self) {
        let mut buffer = [0; 512];
        loop {
            let next = self.next();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.step().await,
                read = self.stream.read(&mut buffer) => match read {
                    Ok(n) if n > 0 => self.hear(&buffer[..n]),
                    _ => return,
                },
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let question = (!self.question.bytes.is_empty()).then(|| self.question.ended + self.pace.silence);
        let answer = self.answers.first().map(|a| if a.begun { self.piece_at(a) } else { a.begins });
        question.into_iter().chain(answer).min()
    }

    /// When the next piece of an answer is whole.
    fn piece_at(&self, answer: &Answer) -> Instant {
        answer.begins + self.pace.of((answer.done + self.pace.piece).min(answer.bytes.len()))
    }

    /// The host has written something; its characters begin now, or behind those it has still to send.
    fn hear(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let is_first = self.question.bytes.is_empty();
        if is_first {
            self.question = Question { bytes: Vec::new(), begun: now, ended: now, spoilt: false };
        }
        if let Some(speaking) = self.answers.first_mut().filter(|a| a.begun) {
            spoil(&mut speaking.bytes[speaking.done..]);
            self.question.spoilt = true;
            self.note(|a| a.collisions += 1);
        } else if is_first && now < self.quiet_since + self.pace.silence || !is_first && now > self.question.ended {
            // The devices take it for more of the frame before.
            self.question.spoilt = true;
            self.note(|a| a.violations += 1);
        }
        self.question.ended = self.question.ended.max(now) + self.pace.of(bytes.len());
        self.question.bytes.extend_from_slice(bytes);
        self.quiet_since = self.quiet_since.max(self.question.ended);
    }

    /// Something is due: a question has ended, an answer begins, a piece of it is whole.
    async fn step(&mut self) {
        let now = Instant::now();
        if !self.question.bytes.is_empty() && self.question.ended + self.pace.silence <= now {
            self.serve();
        }
        if self.answers.first().is_some_and(|a| !a.begun && a.begins <= now) {
            self.begin();
        }
        while self.answers.first().is_some_and(|a| a.begun && self.piece_at(a) <= now) {
            self.speak().await;
        }
    }

    fn begin(&mut self) {
        let is_asking = !self.question.bytes.is_empty();
        let answer = &mut self.answers[0];
        answer.begun = true;
        // It is there as late as the characters take, not when this clock shows it.
        self.quiet_since = self.quiet_since.max(answer.begins + self.pace.of(answer.bytes.len()));
        if is_asking {
            spoil(&mut answer.bytes);
            self.question.spoilt = true;
            self.note(|a| a.collisions += 1);
        }
    }

    async fn speak(&mut self) {
        let answer = &mut self.answers[0];
        let upto = (answer.done + self.pace.piece).min(answer.bytes.len());
        // Where the host has gone, the next read says so.
        let _ = self.stream.write_all(&answer.bytes[answer.done..upto]).await;
        answer.done = upto;
        if upto == answer.bytes.len() {
            let (heard, length) = (answer.heard, self.pace.of(upto));
            let ended = answer.begins + length;
            self.answers.remove(0);
            self.occupy(heard, ended, length);
            self.note(|a| a.answers += 1);
        }
    }

    /// The question is whole: 3.5 characters of silence have said so.
    fn serve(&mut self) {
        let bytes = std::mem::take(&mut self.question.bytes);
        let Question { begun, ended, spoilt, .. } = self.question;
        self.occupy(begun, ended, self.pace.of(bytes.len()));
        if spoilt || !frame::is_sound(&bytes) {
            return;
        }
        let (unit, pdu) = (bytes[0], &bytes[1..bytes.len() - 2]);
        self.note(|a| a.questions.push(Heard { at: begun, unit, pdu: pdu.to_vec() }));
        let Some((thinks, pdu)) = (self.say)(unit, pdu) else { return };
        if unit != 0 {
            let heard = ended + self.pace.silence;
            let bytes = frame::rtu(unit, &pdu);
            self.answers.push(Answer { bytes, done: 0, heard, begins: heard + thinks, begun: false });
            self.answers.sort_by_key(|a| (!a.begun, a.begins));
        }
    }

    /// From its beginning to the end of the silence behind it, as far as that was not occupied already.
    fn occupy(&mut self, begun: Instant, ended: Instant, characters: Duration) {
        let until = ended + self.pace.silence;
        let more = until.saturating_duration_since(begun.max(self.occupied_until));
        self.occupied_until = self.occupied_until.max(until);
        self.note(|a| {
            a.occupied += more;
            a.characters += characters;
        });
    }

    fn note(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.account.lock().unwrap());
    }
}

fn spoil(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|b| *b = !*b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{BusError, Data, ReadRequest};
    use crate::config::plant::{CharFormat, Parity, SerialPort};
    use crate::point::{AddressRange, LineId, Table, UnitId};

    const SLOWED: u32 = 50;

    fn trunk(baud: u32) -> Line {
        let format = CharFormat { data_bits: 8, parity: Parity::None, stop_bits: 1 };
        let port = SerialPort { path: "none".into(), baud, format, rs485: None, echo: false };
        let timeout = Duration::from_millis(100);
        Line {
            id: LineId(0),
            name: "w".into(),
            port: Port::Serial(port),
            timeout,
            min_timeout: timeout,
            retries: 0,
            gap: None,
            raw_access: false,
        }
    }

    fn words_of(unit: u8, count: u16) -> ReadRequest {
        let range = AddressRange::new(0, count).unwrap();
        ReadRequest { unit: UnitId::new(unit).unwrap(), table: Table::Holding, range }
    }

    /// Unit 1 thinks 5 ms, unit 2 longer than anybody waits, unit 3 is dead.
    fn say(unit: u8, pdu: &[u8]) -> Saying {
        let words = vec![7; usize::from(pdu[4]) * 2];
        let ms = match unit {
            1 => 5,
            2 => 150,
            _ => return None,
        };
        Some((Duration::from_millis(ms) * SLOWED, [&[3, words.len() as u8], words.as_slice()].concat()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_takes_what_its_characters_silences_and_the_device_take() {
        for (baud, us) in [(9_600, 8 * 1_041 + 3_646 + 5_000 + 45 * 1_041), (115_200, 8 * 87 + 1_750 + 5_000 + 45 * 87)]
        {
            let line = trunk(baud);
            let (bus, wire) = start(&line, Pace::slowed(&line, SLOWED), say);
            let reply = bus.read(words_of(1, 20)).await.unwrap();
            let account = wire.account();
            let took = (reply.arrived - account.questions[0].at) / SLOWED;
            assert!(took.as_micros().abs_diff(us) < 100, "{baud}: {took:?}, want {us} µs");
            assert_eq!(reply.data, Data::Registers(vec![0x0707; 20]));
            assert_eq!((account.questions.len(), account.answers), (1, 1));
            assert_eq!((account.violations, account.collisions), (0, 0));
            let silence = Pace::slowed(&line, 1).silence;
            let occupied = account.occupied / SLOWED;
            assert!(
                occupied.abs_diff(took + silence).as_micros() < 100,
                "{baud}: {occupied:?}, not {took:?} and a silence"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bus_keeps_the_silence_between_any_two_frames() {
        let line = trunk(19_200);
        let (bus, wire) = start(&line, Pace { piece: 14, ..Pace::slowed(&line, SLOWED) }, say);
        for n in 1..40 {
            bus.read(words_of(1, n)).await.unwrap();
        }
        let account = wire.account();
        assert_eq!((account.questions.len(), account.violations, account.collisions), (39, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_device_says_nothing_and_costs_its_question() {
        let line = trunk(9_600);
        let (bus, wire) = start(&line, Pace::slowed(&line, SLOWED), say);
        assert_eq!(bus.read(words_of(3, 1)).await, Err(BusError::NoReply));
        let account = wire.account();
        assert_eq!((account.questions.len(), account.answers), (1, 0));
        assert_eq!(account.characters, Pace::slowed(&line, SLOWED).of(8));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_talks_too_early_or_at_the_same_time_is_noticed() {
        let line = trunk(9_600);
        let pace = Pace::slowed(&line, SLOWED);
        let (mut host, far) = tokio::io::duplex(4096);
        let account = Arc::new(Mutex::new(Account::default()));
        tokio::spawn(Trunk::new(far, pace, say, Arc::clone(&account)).run());
        let question = frame::rtu(1, &[3, 0, 0, 0, 1]);
        host.write_all(&question).await.unwrap();
        tokio::time::sleep(pace.of(8) + pace.silence / 2).await;
        host.write_all(&question).await.unwrap();
        tokio::time::sleep(pace.of(8) + pace.silence * 4).await;
        let seen = account.lock().unwrap().clone();
        assert_eq!(
            (seen.violations, seen.questions.len()),
            (1, 0),
            "the second is more of the first, and that is no frame"
        );
        host.write_all(&question).await.unwrap();
        tokio::time::sleep(pace.of(8) + pace.silence + Duration::from_millis(5) * SLOWED + pace.of(3)).await;
        host.write_all(&question).await.unwrap();
        let mut answer = [0; 7];
        host.read_exact(&mut answer).await.unwrap();
        assert!(!frame::is_sound(&answer));
        assert_eq!(account.lock().unwrap().collisions, 1);
    }
}
