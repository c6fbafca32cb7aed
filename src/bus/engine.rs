//! One transaction at a time on the open line: asked once, answered, missed or gone; counted, and shown to who watches. What
//! is not finished closes the line, for half a request must never lie before the next. Modbus TCP numbers its transactions
//! and is done here; where answers carry no number, `rtu` finds out what they answer.

mod rtu;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::Data;
use crate::bus::Garble;
use crate::bus::ask::Ask;
use crate::bus::copies::Copies;
use crate::bus::debt::Debts;
use crate::bus::frame;
use crate::bus::frame::Asked;
use crate::bus::frame::Next;
use crate::bus::line::Timing;
use crate::bus::link::Link;
use crate::bus::pause::Pause;
use crate::bus::trace::Tap;
use crate::config::plant::Line;
use crate::config::plant::Port;
use crate::status::WireCounts;

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
    /// Its time was over before the first byte: nothing was sent.
    TooLate,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReply => f.write_str("no reply"),
            Self::Garbled(garble) => write!(f, "garbled: {garble}"),
            Self::Gone(why) => f.write_str(why),
            Self::TooLate => f.write_str("too late"),
        }
    }
}

impl From<io::Error> for Miss {
    fn from(e: io::Error) -> Self {
        Self::Gone(e.to_string().to_lowercase())
    }
}

/// The PDU of an answer or of an exception, taken off the wire.
#[derive(Debug)]
struct Heard {
    pdu: Vec<u8>,
    at: Instant,
    turnaround: Duration,
    /// Nothing else could have brought it.
    is_sure: bool,
}

/// Owns the open line.
#[derive(Debug)]
pub(super) struct Engine {
    name: Arc<str>,
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
    copies: Copies,
    wait: Duration,
    /// What is asked now is not to be sent after this.
    by: Option<Instant>,
    /// Bytes behind an answer, not looked at yet.
    leftover: Vec<u8>,
    /// A question takes its time to leave. Not so behind a pseudo terminal, and the port does not say.
    has_wire: bool,
    early_alone: u8,
    /// Told what passes.
    pub(super) tap: Tap,
    /// Written at every step: what is sent, each wait that begins or ends. None is longer than a timeout.
    pub(super) pulse: watch::Sender<()>,
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
            name: line.name.clone(),
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
            copies: Copies::default(),
            wait: line.timeout,
            by: None,
            leftover: Vec::new(),
            has_wire: true,
            early_alone: 0,
            tap: Tap::new(line),
            pulse: watch::Sender::new(()),
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
        self.leftover.clear();
        (self.has_wire, self.early_alone) = (true, 0);
        self.counts.opens += 1;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.link.is_some()
    }

    /// Until the silence behind the last frame is over; what is heard meanwhile is for the next transaction to judge.
    pub(super) async fn quiet(&self) {
        self.pause.until(self.quiet_since + self.timing.gap).await;
    }

    /// Asks once. The link is out of its place meanwhile, so that whatever ends this early also closes it.
    /// Nothing is sent after `by`: waiting for silence may take long.
    pub(super) async fn transact(&mut self, ask: &Ask, by: Option<Instant>) -> Result<Answer, Miss> {
        let Some(mut link) = self.link.take() else { return Err(Miss::Gone("not open".to_owned())) };
        let asked = Asked::new(ask.unit, ask.pdu());
        // Somebody in a hurry gets no answer from a device that has been heard to need longer.
        let needed = self.debts.latest(ask.unit) + self.debts.latest(ask.unit) / 4;
        self.wait = ask.wait.map_or(self.timeout, |wait| wait.max(needed).min(self.timeout));
        self.by = by;
        let busy = self.busy;
        let result =
            if self.has_numbers { self.numbered(&mut link, &asked).await } else { self.rtu(&mut link, &asked).await };
        let result = result.and_then(|Heard { pdu, at, turnaround, is_sure }| {
            let outcome = ask.outcome(pdu).map_err(Miss::Garbled)?;
            // What is doubtful still confirms a write, but its data may be another answer's.
            let is_believed = is_sure || !asked.is_read_write();
            let outcome = if is_believed { outcome } else { outcome.map(|_| Data::Written) };
            Ok(Answer { outcome, arrived: at, turnaround })
        });
        // A TCP peer that missed once may stay one answer behind for ever: only a new connection is clean.
        let stays = match &result {
            Ok(_) | Err(Miss::TooLate) => true,
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
            Err(Miss::Gone(_) | Miss::TooLate) => return,
        };
        *counter += 1;
    }

    pub(super) fn moved(&self) {
        self.pulse.send_replace(());
    }

    async fn send(&mut self, link: &mut Link, frame: &[u8]) -> Result<(), Miss> {
        if self.by.is_some_and(|by| Instant::now() > by) {
            return Err(Miss::TooLate);
        }
        self.tap.sent(frame);
        self.counts.requests += 1;
        self.counts.bytes_out += frame.len() as u64;
        let bound = self.timing.of(frame.len()) + self.timeout;
        let written = tokio::time::timeout(bound, link.write(frame)).await;
        self.moved();
        match written {
            Ok(written) => Ok(written?),
            Err(_) => Err(Miss::Gone("takes no bytes any more".to_owned())),
        }
    }

    async fn numbered(&mut self, link: &mut Link, asked: &Asked) -> Result<Heard, Miss> {
        let mut aside = Vec::new();
        self.pick_up(link, &mut aside)?;
        self.counts.stale_replies += u64::from(!aside.is_empty());
        self.transaction = self.transaction.wrapping_add(1);
        let begun = Instant::now();
        self.send(link, &frame::mbap(self.transaction, asked.unit(), asked.pdu())).await?;
        if asked.unit() == 0 {
            return Ok(Heard::broadcast(asked, Duration::ZERO));
        }
        let result = self.await_number(link, asked, begun).await;
        self.busy += begun.elapsed();
        result
    }

    async fn await_number(&mut self, link: &mut Link, asked: &Asked, begun: Instant) -> Result<Heard, Miss> {
        let mut stream = Vec::with_capacity(260);
        let mut buffer = [0; 512];
        loop {
            match frame::take_mbap(&mut stream, self.transaction, asked) {
                Next::Answer(pdu) => {
                    let turnaround = begun.elapsed();
                    self.tap.answered(asked.unit(), pdu.len(), turnaround);
                    return Ok(Heard { pdu, at: Instant::now(), turnaround, is_sure: true });
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

    /// Takes what lies there now and is no answer; how many bytes.
    fn pick_up(&mut self, link: &mut Link, aside: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = [0; 512];
        let n = link.read_now(&mut buffer)?;
        if n > 0 {
            self.counts.bytes_in += n as u64;
            self.quiet_since = Instant::now();
            self.tap.aside(&buffer[..n]);
            aside.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }
}

impl Heard {
    /// Nobody answers, and everybody is taken to have done it.
    fn broadcast(asked: &Asked, turnaround: Duration) -> Self {
        Self { pdu: asked.pdu()[..5].to_vec(), at: Instant::now(), turnaround, is_sure: true }
    }
}
