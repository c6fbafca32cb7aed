//! The lines as others see them through the control socket: what passes now, what has passed, and whether it is logged.
//! A line that is made anew after a bug goes on in the same look.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::trace::Framing;
use crate::bus::trace::Item;
use crate::bus::trace::Trace;
use crate::command::Seat;
use crate::config::plant::Line;
use crate::control::Window;
use crate::control::Windows;
use crate::control::window::Items;
use crate::control::window::Look;
use crate::daemon::Group;
use crate::daemon::wire_log;
use crate::daemon::wire_log::WireLog;
use crate::point::LineId;
use crate::supervise::Panics;
use crate::time;

/// The windows of all lines, for the control socket.
pub(super) struct Views {
    tasks: TaskTracker,
    stop: CancellationToken,
    panics: Panics,
    all: Vec<View>,
    shown: watch::Sender<Arc<[Window]>>,
}

struct View {
    line: LineId,
    framing: Framing,
    window: Window,
    /// Ends its log.
    stop: CancellationToken,
}

impl Views {
    /// None yet.
    pub(super) fn new(group: &Group, panics: &Panics) -> Self {
        let (tasks, stop, panics) = (group.tasks.clone(), group.stop.clone(), panics.clone());
        Self { tasks, stop, panics, all: Vec::new(), shown: watch::Sender::new(Vec::new().into()) }
    }

    /// For the control socket.
    pub(super) fn shown(&self) -> Windows {
        self.shown.subscribe()
    }

    /// One for each line that has a seat. Who looks at a line that stays goes on looking.
    pub(super) fn arrange(&mut self, lines: &[Line], seats: &[(LineId, Seat)]) {
        let mut before = std::mem::take(&mut self.all);
        for line in lines {
            let Some((_, seat)) = seats.iter().find(|(id, _)| *id == line.id) else { continue };
            let framing = Framing::of(&line.port);
            let known = before.iter().position(|view| view.line == line.id && view.framing == framing);
            let view = known.map(|at| before.swap_remove(at)).unwrap_or_else(|| self.view(line, seat));
            self.all.push(view);
        }
        before.iter().for_each(|gone| gone.stop.cancel());
        self.shown.send_replace(self.all.iter().map(|view| view.window.clone()).collect());
    }

    fn view(&self, line: &Line, seat: &Seat) -> View {
        let stop = self.stop.child_token();
        let log = wire_log::start((&self.tasks, &stop), &self.panics, line, seat);
        let (name, seat) = (line.name.clone(), seat.clone());
        let framing = Framing::of(&line.port);
        let first = json!({"line": *name, "framing": framing});
        let tell = {
            let (first, seat) = (first.clone(), seat.clone());
            let log = log.clone();
            move || told(&first, &seat, &log)
        };
        let window = Window::new(name, move |look| open(&first, &seat, look), tell, move |order| log.order(&order));
        View { line: line.id, framing, window, stop }
    }
}

/// How the line stands with those who look.
fn told(first: &Value, seat: &Seat, log: &WireLog) -> Value {
    let (events, bytes) = seat.borrow().as_ref().map_or((0, 0), |desk| desk.bus.trace().remembered());
    let mut all = first.clone();
    all["remembered"] = json!({"events": events, "bytes": bytes});
    all["log"] = log.state();
    all
}

/// First how to read what follows, then what is remembered and where now begins, then what passes.
fn open(first: &Value, seat: &Seat, look: Look) -> Items {
    let mut head = vec![first.clone()];
    let mut passing = Passing::new(seat.clone());
    if look.last {
        head.extend(passing.past().into_iter().map(|item| json!(item)));
        head.push(json!({"now": time::now()}));
    }
    if !look.follow {
        return Box::pin(stream::iter(head));
    }
    let follow = stream::unfold(passing, |mut passing| async move { Some((passing.next().await?, passing)) });
    let follow = follow.flat_map(|items| stream::iter(items.into_iter().map(|item| json!(item))));
    Box::pin(stream::iter(head).chain(follow))
}

/// What passes on a line, whichever bus sits there.
pub(super) struct Passing {
    seat: Seat,
    trace: Option<Trace>,
}

impl Passing {
    /// From now on.
    pub(super) fn new(mut seat: Seat) -> Self {
        let trace = seat.borrow_and_update().as_ref().map(|desk| desk.bus.trace());
        Self { seat, trace }
    }

    /// All that is remembered; what is read next follows it.
    fn past(&mut self) -> Vec<Item> {
        let Some(trace) = &mut self.trace else { return Vec::new() };
        trace.rewind();
        let mut all = Vec::new();
        // At most what was there at the beginning, or a line that never rests would keep this for ever.
        let (events, _) = trace.remembered();
        while (all.len() as u64) < events {
            let batch = trace.take();
            if batch.is_empty() {
                break;
            }
            all.extend(batch);
        }
        all
    }

    /// `None` when the line has ended for good.
    pub(super) async fn next(&mut self) -> Option<Vec<Item>> {
        loop {
            let Some(trace) = &mut self.trace else {
                self.trace = self.seat.wait_for(Option::is_some).await.ok()?.as_ref().map(|desk| desk.bus.trace());
                continue;
            };
            tokio::select! {
                items = trace.next() => return Some(items),
                // Another bus sits here now, or the line has ended.
                changed = self.seat.changed() => {
                    changed.ok()?;
                    self.trace = None;
                }
            }
        }
    }
}
