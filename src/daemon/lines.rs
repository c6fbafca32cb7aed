//! One supervised pair of bus and poll task a line, all feeding the one publish task. When a line's pair is made anew after a
//! bug, the others do not notice.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus;
use crate::command::{Desk, Seat};
use crate::config::Plant;
use crate::config::plant::{Device, Line, Point};
use crate::daemon::ledger;
use crate::daemon::{Group, Groups, SAMPLE_BATCHES};
use crate::message::Message;
use crate::poll;
use crate::poll::DeviceEvent;
use crate::poll::learned::Lessons;
use crate::publish;
use crate::sample::Sample;
use crate::status::{LineStatus, PublishStatus};
use crate::supervise;
use crate::supervise::Panics;

/// What others read: the lines in order, the account in total and by point, and each line's desk for whoever commands.
pub(super) struct Seen {
    pub(super) lines: Vec<watch::Receiver<LineStatus>>,
    pub(super) account: watch::Receiver<PublishStatus>,
    pub(super) accounts: publish::Accounts,
    pub(super) desks: Vec<Seat>,
}

/// What the lines are joined to.
pub(super) struct Ends {
    /// Where messages go.
    pub(super) sink: mpsc::Sender<Vec<Message>>,
    /// What their devices have taught.
    pub(super) lessons: Lessons,
}

/// Where the lines' yield goes.
#[derive(Clone)]
struct Out {
    samples: mpsc::Sender<Vec<Sample>>,
    events: mpsc::Sender<DeviceEvent>,
}

/// Starts publish, then the lines.
pub(super) fn start(
    groups: &Groups,
    panics: &Panics,
    plant: &Arc<Plant>,
    fatal: &mpsc::Sender<String>,
    ends: Ends,
) -> Seen {
    let (samples, sampled) = mpsc::channel(SAMPLE_BATCHES);
    let (events, happened) = mpsc::channel(SAMPLE_BATCHES);
    let (account, task) = publish::new(publish_parts(plant), sampled, happened, ends.sink);
    let (books, task) = ledger::Kept::open(&plant.state_dir, task);
    let accounts = task.accounts();
    let kept = ledger::keep(task, books);
    // When the stop has begun, its end is no alarm.
    supervise::owner(&groups.publish.tasks, fatal, "publish", groups.owners.stop.clone(), kept);
    let out = Out { samples, events };
    // Publish ends when nobody can send to it any more; a gateway without lines waits for the stop like any other.
    let (held, stop) = (out.clone(), groups.lines.stop.clone());
    groups.lines.tasks.spawn(async move {
        stop.cancelled().await;
        drop(held);
    });
    let of = |line| (plant, line, &ends.lessons);
    let lines = plant.lines.iter().map(|line| start_line(&groups.lines, panics, of(line), out.clone()));
    let (lines, desks) = lines.unzip();
    Seen { lines, account, accounts, desks }
}

fn publish_parts(plant: &Plant) -> publish::Parts<'_> {
    publish::Parts { gateway: &plant.gateway, devices: &plant.devices, points: &plant.points }
}

fn parts(plant: &Plant, line: &Line, lessons: Lessons) -> poll::Parts {
    let devices: Vec<Device> = plant.devices.iter().filter(|d| d.line == line.id).cloned().collect();
    // Points of one device lie together.
    let points: Vec<Arc<Point>> =
        devices.iter().flat_map(|d| &plant.points[d.points.start as usize..d.points.end as usize]).cloned().collect();
    poll::Parts { line: line.clone(), devices, points, lessons }
}

/// The parts are made from the plant each time the line is; its points are the plant's own.
fn start_line(
    group: &Group,
    panics: &Panics,
    (plant, line, lessons): (&Arc<Plant>, &Line, &Lessons),
    out: Out,
) -> (watch::Receiver<LineStatus>, Seat) {
    let first = LineStatus { name: line.name.to_string(), ..LineStatus::default() };
    let board = watch::Sender::new(first);
    let seen = board.subscribe();
    let (seat, seated) = watch::channel(None);
    let stop = group.stop.clone();
    let name = format!("line {}", line.name);
    let (plant, id, lessons) = (Arc::clone(plant), line.id, lessons.clone());
    supervise::leaf(&group.tasks, panics, &name, stop.clone(), move || {
        let parts = parts(&plant, &plant.lines[usize::from(id.0)], lessons.clone());
        run_line(parts, out.clone(), (board.clone(), seat.clone()), stop.clone())
    });
    (seen, seated)
}

/// Empties the seat when the line's pair ends, whatever ends it.
struct Vacated(watch::Sender<Option<Desk>>);

impl Drop for Vacated {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Bus and poll end together: one without the other is of no use.
async fn run_line(
    parts: poll::Parts,
    out: Out,
    (board, seat): (watch::Sender<LineStatus>, watch::Sender<Option<Desk>>),
    stop: CancellationToken,
) {
    let (bus, wire) = bus::new(parts.line.clone());
    let samples = out.samples.downgrade();
    let (status, task) = poll::new(parts, bus.clone(), out.samples, out.events);
    seat.send_replace(Some(Desk { bus, orders: task.desk(), samples }));
    let _vacated = Vacated(seat);
    let both = async {
        tokio::join!(wire.run(stop.clone()), task.precise().run(stop.clone()));
    };
    Box::pin(supervise::mirrored(status, board, both)).await;
}
