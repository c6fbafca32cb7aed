//! One supervised pair of bus and poll task a line, all feeding the one publish task. When a line's pair is made anew after a
//! bug, or in a reload, the others do not notice; who looks at the line goes on looking at the same channels.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus;
use crate::command::{Desk, Seat};
use crate::config::Plant;
use crate::config::difference::{Deed, Difference};
use crate::config::plant::{Device, Line, Point};
use crate::daemon::Group;
use crate::point::LineId;
use crate::poll;
use crate::poll::learned::{Identity, Lessons};
use crate::poll::{DeviceEvent, Fitter, Order, Roster};
use crate::sample::Sample;
use crate::status::LineStatus;
use crate::supervise;
use crate::supervise::Panics;

/// A transaction that was begun is finished, tries and all, before a line ends or takes other devices. One that takes longer
/// is left behind, and its port is taken when it is let go.
const LET_GO: Duration = Duration::from_secs(20);

/// Where the lines' yield goes.
#[derive(Clone)]
pub(super) struct Out {
    pub(super) samples: mpsc::Sender<Vec<Sample>>,
    pub(super) events: mpsc::Sender<DeviceEvent>,
}

/// What every line is made of.
#[derive(Clone)]
struct Ground {
    tasks: TaskTracker,
    stop: CancellationToken,
    panics: Panics,
    plants: watch::Receiver<Arc<Plant>>,
    lessons: Lessons,
    out: Out,
}

/// All lines at work.
pub(super) struct Lines {
    ground: Ground,
    /// In order of the plant.
    all: Vec<Place>,
}

/// Where a line is; its pair of tasks may be another after a restart, its channels are the same.
struct Place {
    line: Line,
    board: watch::Sender<LineStatus>,
    seat: watch::Sender<Option<Desk>>,
    fitter: watch::Sender<Option<Fitter>>,
    work: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Place {
    fn new(line: &Line) -> Self {
        let first = LineStatus { name: line.name.to_string(), ..LineStatus::default() };
        let (board, seat, fitter) = (watch::Sender::new(first), watch::Sender::new(None), watch::Sender::new(None));
        Self { line: line.clone(), board, seat, fitter, work: None }
    }

    fn begin(&mut self, ground: &Ground) {
        let stop = ground.stop.child_token();
        let name = format!("line {}", self.line.name);
        let channels = (self.board.clone(), self.seat.clone(), self.fitter.clone());
        let (id, shared, token) = (self.line.id, ground.clone(), stop.clone());
        let ended = supervise::leaf(&ground.tasks, &ground.panics, &name, stop.clone(), move || {
            run_line(shared.clone(), id, channels.clone(), token.clone())
        });
        self.work = Some((stop, ended));
    }

    /// Tells it to end; [`Place::ended`] waits.
    fn end(&self) {
        if let Some((stop, _)) = &self.work {
            stop.cancel();
        }
    }

    async fn ended(&mut self, until: Instant) {
        let Some((_, handle)) = self.work.take() else { return };
        if timeout_at(until, handle).await.is_err() {
            tracing::warn!(line = %self.line.name, "still finishes what it had begun; it is left behind");
        }
    }

    /// Other devices on a line that goes on. False: it did not take them, and is to be made anew.
    async fn refit(&self, roster: Roster) -> bool {
        let fitter = self.fitter.borrow().clone();
        let Some(fitter) = fitter else { return false };
        timeout(LET_GO, fitter.refit(roster)).await.unwrap_or(false)
    }
}

impl Lines {
    /// None yet.
    pub(super) fn new(
        group: &Group,
        panics: &Panics,
        plants: watch::Receiver<Arc<Plant>>,
        lessons: Lessons,
        out: Out,
    ) -> Self {
        let (tasks, stop, panics) = (group.tasks.clone(), group.stop.clone(), panics.clone());
        Self { ground: Ground { tasks, stop, panics, plants, lessons, out }, all: Vec::new() }
    }

    /// Each line's desk.
    pub(super) fn desks(&self) -> Vec<(LineId, Seat)> {
        self.all.iter().map(|place| (place.line.id, place.seat.subscribe())).collect()
    }

    /// How each stands, in order of the plant.
    pub(super) fn seen(&self) -> Vec<watch::Receiver<LineStatus>> {
        self.all.iter().map(|place| place.board.subscribe()).collect()
    }

    /// Makes a place for each line of the plant, in its order, and gives those that have none any more. Nothing begins or
    /// ends by it.
    pub(super) fn arrange(&mut self, plant: &Plant) -> Leaving {
        let mut before: Vec<Option<Place>> = self.all.drain(..).map(Some).collect();
        for line in &plant.lines {
            let known = before.iter().position(|p| p.as_ref().is_some_and(|p| p.line.id == line.id));
            let known = known.and_then(|at| before[at].take());
            self.all.push(known.unwrap_or_else(|| Place::new(line)));
        }
        Leaving(before.into_iter().flatten().collect())
    }

    /// Takes the desks away of lines that go or are made anew: a command about the new plant must not go out at the old port
    /// while other lines are seen to.
    pub(super) fn vacate(&self, leaving: &Leaving, difference: &Difference) {
        let restarts = |place: &&Place| difference.lines.contains(&(place.line.id, Deed::Restart));
        for place in leaving.0.iter().chain(self.all.iter().filter(restarts)) {
            place.seat.send_replace(None);
        }
    }

    /// Does what the difference asks of each line. Those that end have let go of their ports before others begin.
    pub(super) async fn change(&mut self, leaving: Leaving, step: &Step<'_>) {
        let plant = step.plant;
        let mut anew: Vec<LineId> = Vec::new();
        for (id, deed) in &step.difference.lines {
            match deed {
                Deed::Begin | Deed::Restart => anew.push(*id),
                Deed::Refit if !self.refit(plant, *id).await => anew.push(*id),
                Deed::Refit | Deed::End => {}
            }
        }
        let Leaving(mut leaving) = leaving;
        leaving.extend(self.all.extract_if(.., |place| anew.contains(&place.line.id)));
        leaving.iter().for_each(Place::end);
        let until = Instant::now() + LET_GO;
        for place in &mut leaving {
            place.ended(until).await;
        }
        self.ground.lessons.drop_of(|device| step.strangers.contains(device));
        for place in leaving {
            let Some(line) = plant.lines.iter().find(|l| l.id == place.line.id) else { continue };
            let mut place = Place { line: line.clone(), ..place };
            place.begin(&self.ground);
            self.all.push(place);
        }
        let order = |id: LineId| plant.lines.iter().position(|l| l.id == id);
        self.all.sort_by_key(|place| order(place.line.id));
    }

    async fn refit(&self, plant: &Plant, id: LineId) -> bool {
        let Some(place) = self.all.iter().find(|place| place.line.id == id) else { return false };
        let (devices, points) = share(plant, id);
        place.refit(Roster { devices, points }).await
    }
}

/// Lines that the new plant does not have.
pub(super) struct Leaving(Vec<Place>);

/// From one plant to the next.
pub(super) struct Step<'a> {
    pub(super) plant: &'a Plant,
    pub(super) difference: &'a Difference,
    /// Devices that are no more, or whose names others bear now.
    pub(super) strangers: HashSet<Arc<str>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(running: &Plant, plant: &'a Plant, difference: &'a Difference) -> Self {
        let identity = |plant: &Plant, device: &Device| Identity::of(device, plant.line(device.line));
        let same = |was: &&Device| {
            let now = plant.devices.iter().find(|d| d.name == was.name);
            now.is_some_and(|now| identity(plant, now) == identity(running, was))
        };
        let strangers = running.devices.iter().filter(|was| !same(was)).map(|was| Arc::clone(&was.name)).collect();
        Self { plant, difference, strangers }
    }
}

/// A line's devices and their points.
fn share(plant: &Plant, line: LineId) -> (Vec<Device>, Vec<Arc<Point>>) {
    let devices: Vec<Device> = plant.devices_on(line).cloned().collect();
    // Points of one device lie together.
    let points =
        devices.iter().flat_map(|d| &plant.points[d.points.start as usize..d.points.end as usize]).cloned().collect();
    (devices, points)
}

/// What a line's pair has put on the seats is gone when the pair ends, whatever ends it. One that was left behind may end
/// when another sits there already, who stays.
struct Vacated {
    seat: (watch::Sender<Option<Desk>>, mpsc::Sender<Order>),
    fitter: (watch::Sender<Option<Fitter>>, Fitter),
}

impl Drop for Vacated {
    fn drop(&mut self) {
        let (seat, own) = &self.seat;
        seat.send_if_modified(|sits| sits.take_if(|desk| desk.orders.same_channel(own)).is_some());
        let (fitter, own) = &self.fitter;
        fitter.send_if_modified(|sits| sits.take_if(|fitter| fitter.is(own)).is_some());
    }
}

type Channels = (watch::Sender<LineStatus>, watch::Sender<Option<Desk>>, watch::Sender<Option<Fitter>>);

/// Bus and poll end together: one without the other is of no use. The parts are made from the plant each time the line is;
/// its points are the plant's own.
async fn run_line(ground: Ground, id: LineId, (board, seat, fitter): Channels, stop: CancellationToken) {
    let plant = ground.plants.borrow().clone();
    let Some(line) = plant.lines.iter().find(|l| l.id == id) else { return stop.cancelled().await };
    let (devices, points) = share(&plant, id);
    let parts = poll::Parts { line: line.clone(), devices, points, lessons: ground.lessons.clone() };
    drop(plant);
    let (bus, wire) = bus::new(parts.line.clone());
    let samples = ground.out.samples.downgrade();
    let (status, task) = poll::new(parts, bus.clone(), ground.out.samples.clone(), ground.out.events.clone());
    // A pair may wait for the next reload for years: it holds no more of the ground than it needs.
    drop(ground);
    let (orders, refits) = (task.desk(), task.fitter());
    fitter.send_replace(Some(refits.clone()));
    seat.send_replace(Some(Desk { bus, orders: orders.clone(), samples, line: status.clone() }));
    let _vacated = Vacated { seat: (seat, orders), fitter: (fitter, refits) };
    let both = async {
        tokio::join!(wire.run(stop.clone()), task.precise().run(stop.clone()));
    };
    Box::pin(supervise::mirrored(status, board, both)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config;

    /// Lines by their ports, each with one device whose point is read so often.
    fn plant(lines: &[(&str, u16, &str)]) -> Plant {
        let ports: String =
            lines.iter().map(|(name, port, _)| format!("  {name}: {{tcp: '127.0.0.1:{port}'}}\n")).collect();
        let device = |(name, _, every): &(&str, u16, &str)| {
            format!(
                "  - {{name: of_{name}, line: {name}, unit_id: 1, every: {every}, points: {{p: {{holding: 0}}}}}}\n"
            )
        };
        let devices: String = lines.iter().map(device).collect();
        let text = format!("gateway: g\nlines:\n{ports}devices:\n{devices}");
        config::load_text("t.yaml", &text, std::path::Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
    }

    fn pair(plant: &Plant, line: &Line) -> (Desk, Fitter) {
        let (devices, points) = share(plant, line.id);
        let (bus, _) = bus::new(line.clone());
        let (samples, events) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let weak = samples.downgrade();
        let parts = poll::Parts { line: line.clone(), devices, points, lessons: Lessons::default() };
        let (line, task) = poll::new(parts, bus.clone(), samples, events);
        (Desk { bus, orders: task.desk(), samples: weak, line }, task.fitter())
    }

    /// All lines of the plant have a desk; none works.
    fn seated(plant: &Plant) -> Lines {
        let out = Out { samples: mpsc::channel(1).0, events: mpsc::channel(1).0 };
        let (_, plants) = watch::channel(Arc::new(plant.clone()));
        let mut lines = Lines::new(&Group::default(), &Panics::new(), plants, Lessons::default(), out);
        lines.arrange(plant);
        for (place, line) in lines.all.iter().zip(&plant.lines) {
            place.seat.send_replace(Some(pair(plant, line).0));
        }
        lines
    }

    #[tokio::test]
    async fn a_line_that_goes_or_is_made_anew_has_no_desk_from_the_moment_the_plant_is_another() {
        let running = plant(&[("stays", 1, "1s"), ("refit", 2, "1s"), ("moves", 3, "1s"), ("goes", 4, "1s")]);
        let mut lines = seated(&running);
        let before: Vec<Seat> = lines.desks().into_iter().map(|(_, seat)| seat).collect();
        let new = plant(&[("stays", 1, "1s"), ("refit", 2, "2s"), ("moves", 5, "1s")]).following(&running);
        let difference = Difference::between(&running, &new);
        let leaving = lines.arrange(&new);
        lines.vacate(&leaving, &difference);
        let desks: Vec<bool> = before.iter().map(|seat| seat.borrow().is_some()).collect();
        assert_eq!(desks, [true, true, false, false]);
    }

    #[tokio::test]
    async fn lines_in_another_order_keep_their_desks() {
        let running = plant(&[("a", 1, "1s"), ("b", 2, "1s")]);
        let mut lines = seated(&running);
        let before = lines.desks();
        let new = plant(&[("b", 2, "1s"), ("a", 1, "1s")]).following(&running);
        assert!(Difference::between(&running, &new).lines.is_empty());
        lines.arrange(&new);
        let after = lines.desks();
        assert_eq!(after.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [new.lines[0].id, new.lines[1].id]);
        for (id, seat) in &before {
            assert!(after.iter().any(|(now, other)| now == id && seat.same_channel(other)));
        }
    }

    #[tokio::test]
    async fn a_pair_that_was_left_behind_takes_nothing_from_the_one_that_sits_there_now() {
        let plant = plant(&[("a", 1, "1s")]);
        let (seat, fitter) = (watch::Sender::new(None), watch::Sender::new(None));
        let sit = || {
            let (desk, fits) = pair(&plant, &plant.lines[0]);
            let orders = desk.orders.clone();
            seat.send_replace(Some(desk));
            fitter.send_replace(Some(fits.clone()));
            Vacated { seat: (seat.clone(), orders), fitter: (fitter.clone(), fits) }
        };
        let (left_behind, now) = (sit(), sit());
        drop(left_behind);
        assert!(seat.borrow().is_some() && fitter.borrow().is_some());
        drop(now);
        assert!(seat.borrow().is_none() && fitter.borrow().is_none());
    }
}
