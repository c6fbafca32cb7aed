//! What would make too much fit: rarer reading of what is read most often, longer periods for all, a faster line. Pure;
//! each proposal is computed like the forecast itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plant::{Device, Line, Point, Port, Schedule, Source};
use crate::poll::forecast;

/// Up to here a line has room for a command now and then, and for a device that is slower than the others.
pub const COMFORTABLE: f64 = 0.95;
/// The speeds that devices offer (serial line V1.02, 3.2 asks for 9600 and 19200; 115200 is the usual end).
const SPEEDS: [u32; 8] = [1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 57_600, 115_200];

/// One change that would do, and the load it would leave.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposal {
    /// Points that are read more often than this get this period.
    Rarer {
        /// Their new period, one that the line has already.
        period: Duration,
        /// How many they are.
        points: usize,
        /// What is left.
        load: f64,
    },
    /// Every point gets this period instead of the one that all have.
    ForAll {
        /// The new period.
        period: Duration,
        /// What is left.
        load: f64,
    },
    /// All periods become so many times as long.
    Stretch {
        /// How many times.
        factor: f64,
        /// What is left.
        load: f64,
    },
    /// The line runs at this speed.
    Faster {
        /// Bits per second.
        baud: u32,
        /// What is left; above [`COMFORTABLE`] where no speed is enough.
        load: f64,
    },
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |load: &f64| format!("load {:.0} %", load * 100.0);
        match self {
            Self::Rarer { period, points, load } => {
                let who = if *points == 1 { "the one point that is" } else { "the points that are" };
                write!(f, "{} for {who} read more often ({points} of them): {}", seconds(*period), percent(load))
            }
            Self::ForAll { period, load } => write!(f, "{} for all points: {}", seconds(*period), percent(load)),
            Self::Stretch { factor, load } => write!(f, "all periods {factor:.1} times as long: {}", percent(load)),
            Self::Faster { baud, load } if *load > COMFORTABLE => {
                write!(f, "no higher speed is enough: at {baud} baud still {}", percent(load))
            }
            Self::Faster { baud, load } => write!(f, "{baud} baud, where the devices can: {}", percent(load)),
        }
    }
}

/// As it is written in the configuration.
fn seconds(period: Duration) -> String {
    let ms = period.as_millis();
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", period.as_secs_f64()) }
}

/// What would bring this line's load down to what is comfortable, the gentlest change first; nothing where it is so
/// already.
pub fn proposals(line: &Line, devices: &[Device], points: &[Arc<Point>], turnaround: Duration) -> Vec<Proposal> {
    let own = |id| devices.iter().any(|d| d.id == id && d.line == line.id);
    let on_wire = |p: &&Arc<Point>| own(p.device) && matches!(p.source, Source::Wire(_));
    let points: Vec<Arc<Point>> = points.iter().filter(on_wire).cloned().collect();
    let load = |line: &Line, points: &[Arc<Point>]| forecast::load(line, devices, points, turnaround);
    let now = load(line, &points);
    if now <= COMFORTABLE {
        return Vec::new();
    }
    let rarer = rarer(&points, |points| load(line, points));
    rarer.into_iter().chain([longer(&points, now)]).chain(faster(line, |line| load(line, &points))).collect()
}

fn periods(points: &[Arc<Point>]) -> BTreeSet<Duration> {
    points.iter().filter_map(|p| forecast::period(p)).collect()
}

/// The fewest points that help: those with the shortest periods, raised to the next that others have.
fn rarer(points: &[Arc<Point>], load: impl Fn(&[Arc<Point>]) -> f64) -> Option<Proposal> {
    let mut changed = points.to_vec();
    periods(points).into_iter().skip(1).find_map(|next| {
        let mut moved = 0;
        for point in &mut changed {
            if forecast::period(point).is_some_and(|period| period < next)
                && let Schedule::Every { period, .. } = &mut Arc::make_mut(point).schedule
            {
                *period = next;
                moved += 1;
            }
        }
        let load = load(&changed);
        (load <= COMFORTABLE).then_some(Proposal::Rarer { period: next, points: moved, load })
    })
}

/// A load is inverse to the periods, for their grids meet as before when all are stretched alike.
fn longer(points: &[Arc<Point>], now: f64) -> Proposal {
    let factor = (now / COMFORTABLE * 10.0).ceil() / 10.0;
    let load = now / factor;
    let mut periods = periods(points).into_iter();
    match (periods.next(), periods.next()) {
        (Some(period), None) => Proposal::ForAll { period: period.mul_f64(factor), load },
        _ => Proposal::Stretch { factor, load },
    }
}

/// The least speed that is enough, or the highest where none is.
fn faster(line: &Line, load: impl Fn(&Line) -> f64) -> Option<Proposal> {
    let Port::Serial(port) = &line.port else { return None };
    let mut last = None;
    for baud in SPEEDS.into_iter().filter(|speed| *speed > port.baud) {
        let mut port = port.clone();
        port.baud = baud;
        let load = load(&Line { port: Port::Serial(port), ..line.clone() });
        last = Some(Proposal::Faster { baud, load });
        if load <= COMFORTABLE {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work::{self, F8N1};
    use crate::poll::Parts;
    use crate::poll::forecast::USUAL_TURNAROUND;

    fn reference(baud: u32, ms: u64) -> Parts {
        work::reference(Port::Serial(work::serial_port("none", baud, F8N1)), Duration::from_millis(ms))
    }

    fn said(parts: &Parts) -> Vec<String> {
        let all = proposals(&parts.line, &parts.devices, &parts.points, USUAL_TURNAROUND);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_line_with_room_needs_no_advice() {
        assert!(said(&reference(115_200, 1_000)).is_empty());
    }

    #[test]
    fn a_longer_period_or_a_faster_line_is_proposed_with_the_load_it_leaves() {
        let told = said(&reference(9_600, 1_000));
        assert_eq!(told, ["2.3 s for all points: load 95 %", "38400 baud, where the devices can: load 76 %"]);
        let told = said(&reference(9_600, 20));
        assert_eq!(told[1], "no higher speed is enough: at 115200 baud still load 1961 %");
    }

    #[test]
    fn the_few_that_are_read_too_often_are_slowed_first() {
        let mut parts = reference(9_600, 3_000);
        for point in parts.points.iter_mut().filter(|p| p.id.0 % 30 == 29) {
            Arc::make_mut(point).schedule = Schedule::Every { period: Duration::from_millis(200), align: false };
        }
        let told = said(&parts);
        assert_eq!(told[0], "3 s for the points that are read more often (10 of them): load 73 %");
        assert!(told[1].starts_with("all periods ") && told[1].contains(" times as long: load 9"), "{told:?}");
        // What is proposed holds.
        let Proposal::Stretch { factor, load } =
            proposals(&parts.line, &parts.devices, &parts.points, USUAL_TURNAROUND)[1]
        else {
            panic!("{told:?}")
        };
        for point in &mut parts.points {
            let Schedule::Every { period, .. } = &mut Arc::make_mut(point).schedule else { panic!("no cron here") };
            *period = period.mul_f64(factor);
        }
        let stretched = forecast::load(&parts.line, &parts.devices, &parts.points, USUAL_TURNAROUND);
        assert!((stretched / load - 1.0).abs() < 0.02, "{stretched}, not {load}");
    }
}
