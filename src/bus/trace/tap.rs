//! Where the line tells what happens, and where others read it: one ring, which is the memory for `--last` and the
//! queue of everybody who looks in one. Full: the oldest is lost, and a reader who missed it is told how many; the line
//! never waits.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use crate::bus::trace::Event;
use crate::bus::trace::Framing;
use crate::bus::trace::Item;
use crate::bus::trace::What;
use crate::bus::trace::ring::Cursor;
use crate::bus::trace::ring::Record;
use crate::bus::trace::ring::Ring;
use crate::bus::trace::ring::Tag;
use crate::bus::trace::ring::{SOCKET, TRUNK};
use crate::config::plant::Line;
use crate::time;

/// Events copied under one lock: some microseconds, while the line may have to wait.
const BATCH: usize = 64;
/// Strange frames often come in crowds; the log is told of the first, and again after this long.
const HINT_EVERY: Duration = Duration::from_secs(3600);
/// Longest reason that is kept; what systems say of ports and connections is shorter.
const REASON: usize = 160;

/// The line's end.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Tap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    line: Arc<str>,
    framing: Framing,
    /// Held for moments, never across an await: the writer must not depend on a reader's task.
    ring: Mutex<Ring>,
    passed: Notify,
    hint_after_us: AtomicU64,
}

/// A reader's end, from now on or from as far back as is remembered.
#[derive(Debug)]
pub struct Trace {
    shared: Arc<Shared>,
    cursor: Cursor,
}

impl Tap {
    /// Of a line of which nothing has been seen yet.
    pub(in crate::bus) fn new(line: &Line) -> Self {
        Self::named(Arc::clone(&line.name), Framing::of(&line.port))
    }

    fn named(line: Arc<str>, framing: Framing) -> Self {
        let capacity = if framing == Framing::Tcp { SOCKET } else { TRUNK };
        let (ring, hint_after_us) = (Mutex::new(Ring::new(capacity)), AtomicU64::new(0));
        Self(Arc::new(Shared { line, framing, ring, passed: Notify::new(), hint_after_us }))
    }

    /// A whole frame is about to be written.
    pub(in crate::bus) fn sent(&self, frame: &[u8]) {
        self.push(Tag::Sent, frame);
    }

    /// A piece came after a question.
    pub(in crate::bus) fn heard(&self, bytes: &[u8]) {
        self.push(Tag::Heard, bytes);
    }

    /// A piece lay there before a question.
    pub(in crate::bus) fn aside(&self, bytes: &[u8]) {
        self.push(Tag::Aside, bytes);
    }

    /// The last sound frame of `unit` whose PDU has this length is the answer.
    pub(in crate::bus) fn answered(&self, unit: u8, length: usize, turnaround: Duration) {
        let [high, low] = (length as u16).to_be_bytes();
        let [a, b, c, d] = u32::try_from(turnaround.as_micros()).unwrap_or(u32::MAX).to_be_bytes();
        self.push(Tag::Answered, &[unit, high, low, a, b, c, d]);
    }

    /// There is no answer, and why.
    pub(in crate::bus) fn missed(&self, unit: u8, why: impl fmt::Display) {
        let mut text = Short { bytes: [0; REASON], length: 1 };
        text.bytes[0] = unit;
        // What does not fit is cut.
        let _ = write!(text, "{why}");
        self.push(Tag::Missed, &text.bytes[..text.length]);
    }

    /// A sound frame that answers nothing was among what came: worth a look, so the log says how to have one.
    pub(in crate::bus) fn put_aside(&self) {
        let (shared, now) = (&self.0, time::mono_us());
        if now >= shared.hint_after_us.load(Ordering::Relaxed) {
            shared.hint_after_us.store(now + HINT_EVERY.as_micros() as u64, Ordering::Relaxed);
            let line = &shared.line;
            let see = format!("trunkline trace {line} --last 10s");
            tracing::info!(%line, see, "a frame that answers nothing was put aside");
        }
    }

    /// Reads from now on.
    pub(in crate::bus) fn trace(&self) -> Trace {
        Trace { shared: Arc::clone(&self.0), cursor: self.0.ring().newest() }
    }

    fn push(&self, tag: Tag, payload: &[u8]) {
        self.0.ring().push(time::mono_us(), tag, payload);
        self.0.passed.notify_waiters();
    }
}

#[cfg(test)]
impl Default for Tap {
    fn default() -> Self {
        Self::named("line".into(), Framing::Rtu)
    }
}

impl Shared {
    /// A panic while it was held cannot leave a half record: the end moves last.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    /// How the bytes are to be read.
    pub fn framing(&self) -> Framing {
        self.shared.framing
    }

    /// Goes back to the oldest event that is remembered.
    pub fn rewind(&mut self) {
        self.cursor = self.shared.ring().oldest();
    }

    /// Events and bytes that are remembered.
    pub fn remembered(&self) -> (u64, u64) {
        self.shared.ring().size()
    }

    /// What has passed and was not read yet, a batch at a time; empty when there is no more now.
    pub fn take(&mut self) -> Vec<Item> {
        let mut records = Vec::new();
        let lost = {
            let ring = self.shared.ring();
            let lost = ring.catch_up(&mut self.cursor);
            records.extend(std::iter::from_fn(|| ring.read(&mut self.cursor)).take(BATCH));
            lost
        };
        let lost = (lost > 0).then_some(Item::Lost { lost });
        lost.into_iter().chain(records.into_iter().map(|record| Item::Event(record.into()))).collect()
    }

    /// Waits until something passes. Nothing is lost when it is given up.
    pub async fn next(&mut self) -> Vec<Item> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut passed = std::pin::pin!(shared.passed.notified());
            // Registered before the look, so that what passes between look and wait wakes.
            passed.as_mut().enable();
            let items = self.take();
            if !items.is_empty() {
                return items;
            }
            passed.await;
        }
    }
}

impl From<Record> for Event {
    fn from(record: Record) -> Self {
        let bytes = record.payload;
        let what = match record.tag {
            Tag::Sent => What::Sent(bytes),
            Tag::Heard => What::Heard(bytes),
            Tag::Aside => What::Aside(bytes),
            Tag::Answered => What::Answered {
                unit: bytes[0],
                length: u16::from_be_bytes([bytes[1], bytes[2]]),
                turnaround_us: u32::from_be_bytes([bytes[3], bytes[4], bytes[5], bytes[6]]),
            },
            Tag::Missed => What::Missed { unit: bytes[0], why: String::from_utf8_lossy(&bytes[1..]).into_owned() },
        };
        Self { at: time::stamp_of_mono(record.at_us), what }
    }
}

/// Text in place, cut where it is full.
struct Short {
    bytes: [u8; REASON],
    length: usize,
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.len().min(REASON - self.length);
        self.bytes[self.length..self.length + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.length += fits;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(items: Vec<Item>) -> Vec<What> {
        let what = |item| match item {
            Item::Event(event) => event.what,
            Item::Lost { lost } => panic!("{lost} lost"),
        };
        items.into_iter().map(what).collect()
    }

    #[tokio::test]
    async fn what_has_passed_is_remembered_and_what_comes_wakes() {
        let tap = Tap::default();
        tap.sent(&[1, 3]);
        let mut trace = tap.trace();
        assert_eq!(trace.take(), [], "from now on");
        trace.rewind();
        assert_eq!(whats(trace.next().await), [What::Sent(vec![1, 3])]);
        let waiting = tokio::spawn(async move { whats(trace.next().await) });
        tokio::task::yield_now().await;
        tap.answered(1, 6, Duration::from_micros(4200));
        assert_eq!(waiting.await.unwrap(), [What::Answered { unit: 1, length: 6, turnaround_us: 4200 }]);
    }

    #[test]
    fn a_long_reason_is_cut() {
        let tap = Tap::default();
        let mut trace = tap.trace();
        tap.missed(9, "no reply");
        tap.missed(9, "x".repeat(500));
        let said = whats(trace.take());
        assert_eq!(said[0], What::Missed { unit: 9, why: "no reply".into() });
        assert_eq!(said[1], What::Missed { unit: 9, why: "x".repeat(REASON - 1) });
    }

    #[test]
    fn a_reader_who_sleeps_is_told_what_it_lost_and_goes_on() {
        let tap = Tap::default();
        let mut trace = tap.trace();
        for _ in 0..5000 {
            tap.heard(&[7; 30]);
        }
        let Some(Item::Lost { lost }) = trace.take().into_iter().next() else { panic!("nothing was lost") };
        assert!(lost > 3000, "{lost}");
        assert_eq!(trace.take().len(), BATCH);
    }
}
