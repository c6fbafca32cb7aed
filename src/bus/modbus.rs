//! One transaction at a time, and the door to tokio-modbus, whose `Request` and `Response` say what is meant; its own
//! clients are not used, because they take the next frame that decodes, late or not. Here: wait for silence, drain, send
//! once, take only the answer, and remember who still owes one, because an RTU answer does not say what it answers.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_modbus::Request;
use tokio_modbus::Response;
use tokio_modbus::bytes::Bytes;

use crate::bus::Data;
use crate::bus::Garble;
use crate::bus::ReadRequest;
use crate::bus::WriteKind;
use crate::bus::WriteRequest;
use crate::bus::debt::Debts;
use crate::bus::frame;
use crate::bus::frame::Asked;
use crate::bus::frame::Next;
use crate::bus::frame::Scanner;
use crate::bus::line::Pause;
use crate::bus::line::Timing;
use crate::bus::link::Link;
use crate::bus::trace::Tap;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::point::Table;
use crate::status::WireCounts;

/// Beyond the time its characters take, an answer that has begun may be held up this long by a USB adapter's latency timer.
const SLACK: Duration = Duration::from_millis(40);
/// Devices need this long to digest a broadcast (serial line V1.02, 2.4.1: 100 to 200 ms).
const BROADCAST: Duration = Duration::from_millis(100);

/// What is to be done, in the library's words, with the number of bits that were asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) unit: u8,
    request: Request<'static>,
    bits: usize,
    wait: Option<Duration>,
}

/// An answer or an exception, and when.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Result<Data, u8>,
    pub(super) arrived: Instant,
    pub(super) turnaround: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Miss {
    NoReply,
    Garbled(Garble),
    Gone(String),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReply => f.write_str("no reply"),
            Self::Garbled(garble) => write!(f, "garbled: {garble}"),
            Self::Gone(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Miss {
    fn from(e: io::Error) -> Self {
        Self::Gone(e.to_string().to_lowercase())
    }
}

/// The exceptions a device would answer; such a request never goes on the wire.
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

impl Ask {
    /// Refused as a device would refuse it when the table's limit is passed (V1.1b3, 6.1–6.4).
    pub(super) fn read(read: ReadRequest) -> Result<Self, u8> {
        let (start, count) = (read.range.start(), read.range.count());
        if count > read.table.read_limit() || read.unit.get() == 0 {
            return Err(ILLEGAL_VALUE);
        }
        let request = match read.table {
            Table::Coil => Request::ReadCoils(start, count),
            Table::Discrete => Request::ReadDiscreteInputs(start, count),
            Table::Input => Request::ReadInputRegisters(start, count),
            Table::Holding => Request::ReadHoldingRegisters(start, count),
        };
        Ok(Self { unit: read.unit.get(), request, bits: usize::from(count), wait: None })
    }

    /// Waits at most so long for the first byte, if that is less than the line's timeout.
    pub(super) fn within(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }

    /// At most 1968 coils or 123 registers (V1.1b3, 6.11 and 6.12).
    pub(super) fn write(write: WriteRequest) -> Result<Self, u8> {
        let fits = |address: u16, len: usize, limit: usize| match len {
            0 => Err(ILLEGAL_VALUE),
            n if n > limit => Err(ILLEGAL_VALUE),
            n if usize::from(address) + n > 0x1_0000 => Err(ILLEGAL_ADDRESS),
            _ => Ok(()),
        };
        let request = match write.kind {
            WriteKind::Coil { address, on } => Request::WriteSingleCoil(address, on),
            WriteKind::Register { address, value } => Request::WriteSingleRegister(address, value),
            WriteKind::Mask { address, and, or } => Request::MaskWriteRegister(address, and, or),
            WriteKind::Coils { address, values } => {
                fits(address, values.len(), 1968)?;
                Request::WriteMultipleCoils(address, Cow::Owned(values))
            }
            WriteKind::Registers { address, values } => {
                fits(address, values.len(), 123)?;
                Request::WriteMultipleRegisters(address, Cow::Owned(values))
            }
        };
        Ok(Self { unit: write.unit.get(), request, bits: 0, wait: None })
    }

    /// The library keeps its encoder to itself; these are all the functions this house sends.
    pub(super) fn pdu(&self) -> Vec<u8> {
        let (function, address) = match &self.request {
            Request::ReadCoils(a, _) => (1, a),
            Request::ReadDiscreteInputs(a, _) => (2, a),
            Request::ReadHoldingRegisters(a, _) => (3, a),
            Request::ReadInputRegisters(a, _) => (4, a),
            Request::WriteSingleCoil(a, _) => (5, a),
            Request::WriteSingleRegister(a, _) => (6, a),
            Request::WriteMultipleCoils(a, _) => (15, a),
            Request::WriteMultipleRegisters(a, _) => (16, a),
            Request::MaskWriteRegister(a, _, _) => (22, a),
            other => unreachable!("this house never asks {other:?}"),
        };
        let mut pdu = vec![function];
        let mut word = |w: u16| pdu.extend_from_slice(&w.to_be_bytes());
        word(*address);
        match &self.request {
            Request::WriteSingleCoil(_, on) => word(if *on { 0xFF00 } else { 0 }),
            Request::WriteSingleRegister(_, w) => word(*w),
            Request::MaskWriteRegister(_, and, or) => {
                word(*and);
                word(*or);
            }
            Request::WriteMultipleCoils(_, on) => {
                word(on.len() as u16);
                pdu.push(on.len().div_ceil(8) as u8);
                pdu.extend(on.chunks(8).map(|c| c.iter().rev().fold(0, |byte, on| byte << 1 | u8::from(*on))));
            }
            Request::WriteMultipleRegisters(_, words) => {
                word(words.len() as u16);
                pdu.push(words.len() as u8 * 2);
                pdu.extend(words.iter().flat_map(|w| w.to_be_bytes()));
            }
            Request::ReadCoils(_, n)
            | Request::ReadDiscreteInputs(_, n)
            | Request::ReadHoldingRegisters(_, n)
            | Request::ReadInputRegisters(_, n) => word(*n),
            _ => {}
        }
        pdu
    }

    fn outcome(&self, pdu: Vec<u8>) -> Result<Result<Data, u8>, Miss> {
        if pdu[0] & 0x80 != 0 {
            return Ok(Err(pdu[1]));
        }
        let response = Response::try_from(Bytes::from(pdu)).map_err(|_| Miss::Garbled(Garble::Length))?;
        Ok(Ok(match response {
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) => {
                bits.truncate(self.bits);
                Data::Bits(bits)
            }
            Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => Data::Registers(words),
            _ => Data::Written,
        }))
    }
}

/// Owns the open line.
#[derive(Debug)]
pub(super) struct Engine {
    link: Option<Link>,
    is_tcp: bool,
    has_numbers: bool,
    echo: bool,
    timing: Timing,
    timeout: Duration,
    pause: Pause,
    quiet_since: Instant,
    transaction: u16,
    debts: Debts,
    wait: Duration,
    /// Told what passes.
    pub(super) tap: Tap,
    /// What happened so far.
    pub(super) counts: WireCounts,
    /// Wire time used so far.
    pub(super) busy: Duration,
    /// Of it, what brought no answer.
    pub(super) in_vain: Duration,
}

impl Engine {
    pub(super) fn new(line: &Line) -> Self {
        let (timing, echo) = match &line.port {
            Port::Serial(port) => (Timing::new(port.baud, port.format, line.gap), port.echo),
            Port::Tcp(_) | Port::RtuOverTcp(_) => (Timing::default(), false),
        };
        Self {
            link: None,
            is_tcp: !matches!(line.port, Port::Serial(_)),
            has_numbers: matches!(line.port, Port::Tcp(_)),
            echo,
            timing,
            timeout: line.timeout,
            pause: Pause::default(),
            quiet_since: Instant::now(),
            transaction: 0,
            debts: Debts::default(),
            wait: line.timeout,
            tap: Tap::new(line),
            counts: WireCounts::default(),
            busy: Duration::ZERO,
            in_vain: Duration::ZERO,
        }
    }

    /// Begins with a quiet line; debts outlive a reopened port, for the devices behind it do.
    pub(super) fn attach(&mut self, link: Link) {
        if matches!(link, Link::Serial(_)) {
            self.pause = Pause::precise();
        }
        self.link = Some(link);
        self.quiet_since = Instant::now();
        self.counts.opens += 1;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.link.is_some()
    }

    /// Asks once. The link is out of its place meanwhile, so that whatever ends this early also closes it: half a
    /// request must never lie before the next.
    pub(super) async fn transact(&mut self, ask: &Ask) -> Result<Answer, Miss> {
        let Some(mut link) = self.link.take() else { return Err(Miss::Gone("not open".to_owned())) };
        let asked = Asked::new(ask.unit, ask.pdu());
        // Somebody in a hurry gets no answer from a device that has been heard to need longer.
        let needed = self.debts.latest(ask.unit) + self.debts.latest(ask.unit) / 4;
        self.wait = ask.wait.map_or(self.timeout, |wait| wait.max(needed).min(self.timeout));
        let busy = self.busy;
        let result =
            if self.has_numbers { self.numbered(&mut link, &asked).await } else { self.rtu(&mut link, &asked).await };
        let result = result
            .and_then(|(pdu, arrived, turnaround)| Ok(Answer { outcome: ask.outcome(pdu)?, arrived, turnaround }));
        // A TCP peer that missed once may stay one answer behind for ever: only a new connection is clean.
        let stays = match &result {
            Ok(_) => true,
            Err(Miss::Gone(_)) => false,
            Err(_) => !self.is_tcp,
        };
        if stays {
            self.link = Some(link);
        }
        self.count(&result);
        if let Err(miss) = &result {
            self.tap.missed(ask.unit, miss);
        }
        if matches!(result, Err(Miss::NoReply | Miss::Garbled(_))) {
            self.in_vain += self.busy - busy;
        }
        result
    }

    const fn count(&mut self, result: &Result<Answer, Miss>) {
        let counter = match result {
            Ok(Answer { outcome: Ok(_), .. }) => &mut self.counts.replies,
            Ok(_) => &mut self.counts.exceptions,
            Err(Miss::NoReply) => &mut self.counts.timeouts,
            Err(Miss::Garbled(_)) => &mut self.counts.garbled,
            Err(Miss::Gone(_)) => return,
        };
        *counter += 1;
    }

    async fn rtu(&mut self, link: &mut Link, asked: &Asked) -> Result<(Vec<u8>, Instant, Duration), Miss> {
        self.settle(link, asked.unit()).await?;
        if self.debts.doubts(asked) && asked.is_read() {
            self.transaction = self.transaction.wrapping_add(1);
            for question in self.debts.telling(asked, self.transaction) {
                self.exchange(link, &question).await?;
                self.settle(link, asked.unit()).await?;
                if !self.debts.doubts(asked) {
                    break;
                }
            }
        }
        if self.debts.doubts(asked) && self.debts.is_resting(asked.unit(), Instant::now(), self.timeout) {
            return Err(Miss::NoReply);
        }
        self.exchange(link, asked).await
    }

    /// Asks and listens; the line has been quiet.
    async fn exchange(&mut self, link: &mut Link, asked: &Asked) -> Result<(Vec<u8>, Instant, Duration), Miss> {
        let frame = frame::rtu(asked.unit(), asked.pdu());
        let begun = Instant::now();
        let sent = begun + self.timing.of(frame.len());
        self.send(link, &frame).await?;
        self.quiet_since = sent;
        if !self.echo && link.has_wire() && sent - begun > Duration::from_micros(500) {
            // No answer can begin before the question has ended: what is there by then is somebody else's.
            self.pause.until(sent).await;
            // On a busy machine the wake-up can come so late that the answer has begun.
            if Instant::now() < sent + self.timing.gap {
                self.drain(link)?;
            }
            self.quiet_since = sent.max(self.quiet_since);
        }
        if asked.unit() == 0 {
            self.pause.until(sent + BROADCAST).await;
            self.busy += sent - begun + self.timing.gap;
            return Ok((asked.pdu()[..5].to_vec(), Instant::now(), BROADCAST));
        }
        let mut scanner = Scanner::new(asked.clone(), frame, self.echo);
        let heard = self.listen(link, &mut scanner, sent).await?;
        self.busy += Instant::now().max(sent) - begun + self.timing.gap;
        let Some(mut heard) = heard else { return Err(self.missed(asked, &scanner)) };
        if self.debts.doubts(asked) {
            heard = self.confirm(link, &mut scanner, heard).await?;
        }
        self.tap.answered(asked.unit(), heard.0.len(), heard.2);
        self.debts.answered(asked, &heard.0, heard.1);
        Ok(heard)
    }

    /// Quiet for the gap, nothing left over, and nobody's debt pending on this unit.
    async fn settle(&mut self, link: &mut Link, unit: u8) -> Result<(), Miss> {
        loop {
            let debt = self.debts.quiet_until(unit).unwrap_or(self.quiet_since);
            self.pause.until(debt.max(self.quiet_since + self.timing.gap)).await;
            if self.drain(link)? == 0 {
                return Ok(());
            }
        }
    }

    /// Puts aside what lies there; how many bytes.
    fn drain(&mut self, link: &mut Link) -> io::Result<usize> {
        let mut all = Vec::new();
        let mut buffer = [0; 512];
        while all.len() < 8 * buffer.len() {
            match link.read_now(&mut buffer)? {
                0 => break,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
        if !all.is_empty() {
            self.counts.bytes_in += all.len() as u64;
            self.quiet_since = Instant::now();
            self.tap.aside(&all);
            let frames = frame::sound_frames(&all);
            frames.iter().for_each(|_| self.tap.put_aside());
            self.counts.stale_replies += (frames.len() as u64).max(1);
            frames.into_iter().for_each(|(unit, pdu)| self.debts.heard_late(unit, &pdu, self.quiet_since));
        }
        Ok(all.len())
    }

    async fn send(&mut self, link: &mut Link, frame: &[u8]) -> Result<(), Miss> {
        self.tap.sent(frame);
        self.counts.requests += 1;
        self.counts.bytes_out += frame.len() as u64;
        let bound = self.timing.of(frame.len()) + self.timeout;
        match tokio::time::timeout(bound, link.write(frame)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Miss::Gone("takes no bytes any more".to_owned())),
        }
    }

    /// Until the answer is whole or the time is over.
    async fn listen(
        &mut self,
        link: &mut Link,
        scanner: &mut Scanner,
        sent: Instant,
    ) -> Result<Option<(Vec<u8>, Instant, Duration)>, Miss> {
        let mut buffer = [0; 512];
        let first_byte = sent + self.wait;
        let last_byte = first_byte + self.timing.of(scanner.missing()) + self.timing.of(260) + SLACK;
        let mut began = None;
        loop {
            let until = match scanner.is_silent() {
                true => first_byte,
                false if scanner.is_damaged() => (self.quiet_since + SLACK).min(last_byte),
                false => last_byte,
            };
            let Ok(read) = tokio::time::timeout_at(until, link.read(&mut buffer)).await else { return Ok(None) };
            let n = read?;
            let now = Instant::now();
            self.quiet_since = now;
            self.counts.bytes_in += n as u64;
            self.tap.heard(&buffer[..n]);
            let answer = scanner.push(&buffer[..n]);
            for (unit, pdu) in scanner.aside.drain(..) {
                self.counts.stale_replies += 1;
                self.tap.put_aside();
                self.debts.heard_late(unit, &pdu, now);
            }
            if began.is_none() && (answer.is_some() || !scanner.is_silent()) {
                began = Some((now - self.timing.of(n)).max(sent));
            }
            if let Some(pdu) = answer {
                let turnaround = began.unwrap_or(now).saturating_duration_since(sent);
                return Ok(Some((pdu, now, turnaround)));
            }
            self.doze(scanner.missing()).await;
        }
    }

    /// One wake-up for the rest of a slow frame instead of one for each character.
    async fn doze(&self, missing: usize) {
        let rest = self.timing.of(missing.saturating_sub(1));
        if rest > Duration::from_millis(2) {
            self.pause.until(self.quiet_since + rest).await;
        }
    }

    /// A unit that owed an answer, and does not understand any question that would tell, may have paid an old debt with this
    /// one. If so, the right one follows: wait for it.
    async fn confirm(
        &mut self,
        link: &mut Link,
        scanner: &mut Scanner,
        mut heard: (Vec<u8>, Instant, Duration),
    ) -> Result<(Vec<u8>, Instant, Duration), Miss> {
        let unit = scanner.unit();
        for _ in 0..self.debts.owed(unit).min(3) {
            let since = Instant::now();
            let next = self.listen(link, scanner, since).await?;
            self.busy += since.elapsed();
            match next {
                Some(next) => heard = next,
                None => break,
            }
            self.counts.stale_replies += 1;
        }
        Ok(heard)
    }

    fn missed(&mut self, asked: &Asked, scanner: &Scanner) -> Miss {
        let verdict = scanner.verdict();
        if verdict != Some(Garble::Crc) {
            self.debts.missed(asked, Instant::now(), self.timeout);
        }
        verdict.map_or(Miss::NoReply, Miss::Garbled)
    }

    async fn numbered(&mut self, link: &mut Link, asked: &Asked) -> Result<(Vec<u8>, Instant, Duration), Miss> {
        self.drain(link)?;
        self.transaction = self.transaction.wrapping_add(1);
        let begun = Instant::now();
        self.send(link, &frame::mbap(self.transaction, asked.unit(), asked.pdu())).await?;
        if asked.unit() == 0 {
            return Ok((asked.pdu()[..5].to_vec(), Instant::now(), Duration::ZERO));
        }
        let result = self.await_number(link, asked, begun).await;
        self.busy += begun.elapsed();
        result
    }

    async fn await_number(
        &mut self,
        link: &mut Link,
        asked: &Asked,
        begun: Instant,
    ) -> Result<(Vec<u8>, Instant, Duration), Miss> {
        let mut stream = Vec::with_capacity(260);
        let mut buffer = [0; 512];
        loop {
            match frame::take_mbap(&mut stream, self.transaction, asked) {
                Next::Answer(pdu) => {
                    let turnaround = begun.elapsed();
                    self.tap.answered(asked.unit(), pdu.len(), turnaround);
                    return Ok((pdu, Instant::now(), turnaround));
                }
                Next::Broken(garble) => return Err(Miss::Garbled(garble)),
                Next::Foreign => {
                    self.counts.stale_replies += 1;
                    self.tap.put_aside();
                }
                Next::More => {
                    let wait = tokio::time::timeout_at(begun + self.wait, link.read(&mut buffer));
                    let Ok(read) = wait.await else {
                        let torn = Miss::Garbled(Garble::Truncated);
                        return Err(if stream.is_empty() { Miss::NoReply } else { torn });
                    };
                    let n = read?;
                    self.counts.bytes_in += n as u64;
                    self.tap.heard(&buffer[..n]);
                    stream.extend_from_slice(&buffer[..n]);
                }
            }
        }
    }
}
