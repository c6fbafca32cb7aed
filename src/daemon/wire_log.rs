//! The wire in the log, switched on for one line of the running gateway and off again by itself, because a log that is
//! forgotten fills a flash. It reads like any other that looks: a log that stalls costs the line nothing, only lines of
//! log.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::trace::Depth;
use crate::bus::trace::Framing;
use crate::bus::trace::View;
use crate::command::Seat;
use crate::config::plant::Line;
use crate::control::window::LogOrder;
use crate::daemon::windows::Passing;
use crate::supervise;
use crate::supervise::Panics;

/// Where lines of the wire are logged: no limit of repeated lines holds there.
pub const LOG: &str = "trunkline::wire";
/// Whoever needs longer asks again, or writes a capture.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Lines of log a second. The journal drops what a service says beyond 10,000 in 30 s, warnings too; this stays well
/// below.
const RATE: u32 = 200;

/// What is logged of a line now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    depth: Depth,
    until: Instant,
}

/// The switch of one line.
#[derive(Debug, Clone)]
pub(super) struct WireLog {
    wanted: Arc<watch::Sender<Option<Order>>>,
    counts: Arc<Counts>,
}

/// Of the present order.
#[derive(Debug, Default)]
struct Counts {
    logged: AtomicU64,
    left_out: AtomicU64,
}

/// Starts the task that waits for orders, until `stop`.
pub(super) fn start(
    (tasks, stop): (&TaskTracker, &CancellationToken),
    panics: &Panics,
    line: &Line,
    seat: &Seat,
) -> WireLog {
    let log = WireLog { wanted: Arc::new(watch::Sender::new(None)), counts: Arc::default() };
    let (name, framing) = (Arc::clone(&line.name), Framing::of(&line.port));
    let (task, seat, stop) = (log.clone(), seat.clone(), stop.clone());
    supervise::leaf(tasks, panics, &format!("log of line {name}"), stop.clone(), move || {
        let writer = Writer { log: task.clone(), name: Arc::clone(&name), framing, seat: seat.clone() };
        let stop: CancellationToken = stop.clone();
        async move {
            stop.run_until_cancelled(writer.run()).await;
        }
    });
    log
}

impl WireLog {
    /// Takes effect at once; a second order replaces the first.
    pub(super) fn order(&self, order: &LogOrder) -> Result<(), String> {
        let wanted = if order.depth == "off" { None } else { Some(self.checked(order)?) };
        self.wanted.send_replace(wanted);
        Ok(())
    }

    fn checked(&self, order: &LogOrder) -> Result<Order, String> {
        let depth = Depth::deserialize(json!(order.depth))
            .map_err(|_| format!("`{}` is no depth: message, frame, bytes or off", order.depth))?;
        let span = Duration::from_secs(order.for_s);
        if span.is_zero() || span > LONGEST {
            return Err(format!("{} s is not between 1 s and 24 h: the log is switched on for a while", order.for_s));
        }
        if !tracing::enabled!(target: LOG, tracing::Level::INFO) {
            return Err(format!(
                "the gateway was started to log less than info, so this would not be seen: start it with --log info, or with \
                 {LOG}=info among the modules"
            ));
        }
        self.counts.logged.store(0, Ordering::Relaxed);
        self.counts.left_out.store(0, Ordering::Relaxed);
        Ok(Order { depth, until: Instant::now() + span })
    }

    /// What is logged, and how much was; null where nothing is.
    pub(super) fn state(&self) -> Value {
        let Some(order) = *self.wanted.borrow() else { return Value::Null };
        json!({
            "depth": order.depth,
            "seconds_left": order.until.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000),
            "logged": self.counts.logged.load(Ordering::Relaxed),
            "left_out": self.counts.left_out.load(Ordering::Relaxed),
        })
    }
}

/// The task of one line.
struct Writer {
    log: WireLog,
    name: Arc<str>,
    framing: Framing,
    seat: Seat,
}

impl Writer {
    async fn run(self) {
        let mut wanted = self.log.wanted.subscribe();
        loop {
            let Ok(order) = wanted.wait_for(Option::is_some).await.map(|order| *order) else { return };
            let Some(order) = order else { continue };
            let span = order.until.saturating_duration_since(Instant::now());
            let (line, depth) = (&self.name, order.depth);
            tracing::info!(target: LOG, %line, %depth, ?span, "logged from now on");
            self.write(order, &mut wanted).await;
            // It is over by itself; an order that came meanwhile stays.
            self.log.wanted.send_if_modified(|now| *now == Some(order) && now.take().is_some());
            let counts = &self.log.counts;
            let (logged, left_out) = (counts.logged.load(Ordering::Relaxed), counts.left_out.load(Ordering::Relaxed));
            tracing::info!(target: LOG, %line, logged, left_out, "no longer logged");
        }
    }

    /// Until its time is over or another order comes.
    async fn write(&self, order: Order, wanted: &mut watch::Receiver<Option<Order>>) {
        let mut passing = Passing::new(self.seat.clone());
        let mut view = View::new(self.framing, None);
        let mut budget = Budget::new(Instant::now());
        while *wanted.borrow_and_update() == Some(order) {
            let items = tokio::select! {
                items = passing.next() => items,
                () = tokio::time::sleep_until(order.until) => None,
                _ = wanted.changed() => continue,
            };
            let Some(items) = items else { return };
            let shown = items.into_iter().flat_map(|item| view.see(item));
            for text in shown.filter_map(|shown| shown.line(order.depth)).collect::<Vec<_>>() {
                self.say(&text, &mut budget);
            }
        }
    }

    fn say(&self, text: &str, budget: &mut Budget) {
        let (line, counts) = (&self.name, &self.log.counts);
        let Some(left_out) = budget.take(Instant::now()) else {
            counts.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if left_out > 0 {
            tracing::info!(target: LOG, %line, "… {left_out} lines left out: more than {RATE} a second");
        }
        counts.logged.fetch_add(1, Ordering::Relaxed);
        tracing::info!(target: LOG, %line, "{text}");
    }
}

/// So many lines in each second.
#[derive(Debug)]
struct Budget {
    since: Instant,
    used: u32,
    left_out: u64,
}

impl Budget {
    const fn new(now: Instant) -> Self {
        Self { since: now, used: 0, left_out: 0 }
    }

    /// Whether a line may be logged, and how many before it could not be.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.used) = (now, 0);
        }
        if self.used >= RATE {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_left_out_and_counted_when_there_is_room_again() {
        let begun = Instant::now();
        let mut budget = Budget::new(begun);
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let said = (0..1000).filter(|n| budget.take(at(n / 2)).is_some()).count();
        assert_eq!(said, RATE as usize);
        assert_eq!(budget.take(at(1000)), Some(800));
        assert_eq!(budget.take(at(1001)), Some(0));
    }

    #[test]
    fn an_order_that_makes_no_sense_is_refused_with_what_would() {
        let log = WireLog { wanted: Arc::new(watch::Sender::new(None)), counts: Arc::default() };
        let order = |depth: &str, for_s| log.order(&LogOrder { depth: depth.to_owned(), for_s }).unwrap_err();
        assert!(order("loud", 60).contains("message, frame, bytes or off"));
        assert!(order("frame", 0).contains("between 1 s and 24 h"));
        assert!(order("frame", 100_000).contains("100000 s is not between"));
        assert!(order("frame", 60).contains("--log info"), "nobody listens in this test");
        assert_eq!(log.state(), Value::Null);
    }
}
