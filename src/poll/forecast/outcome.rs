//! What a forecast says: the load, the requests, how old each point gets, what a death changes. Values only, computed
//! elsewhere.

use std::sync::Arc;
use std::time::Duration;

use crate::point::{AddressRange, DeviceId, PointId, Table};

/// Within this part of it, a time counts as the same: a period as met, an age as unchanged.
const TOLERANCE: u32 = 100;

/// What a line will carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The line's key.
    pub line: Arc<str>,
    /// Wire time asked of the line by the time there is; above 1 it cannot be done.
    pub load: f64,
    /// Different reads, in order of device, table and address.
    pub requests: Vec<Request>,
    /// Every point that is read from the wire.
    pub points: Vec<Age>,
    /// What becomes of it when one device is dead, for each of them.
    pub without: Vec<Without>,
}

/// A read that will be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// To whom.
    pub device: Arc<str>,
    /// Of which table.
    pub table: Table,
    /// Which addresses.
    pub range: AddressRange,
    /// Wire time of one: both frames, the device's turnaround and the silences.
    pub wire: Duration,
    /// How often, on average.
    pub every: Duration,
}

/// How old a point's value gets before the next one is here.
#[derive(Debug, Clone, PartialEq)]
pub struct Age {
    /// Which.
    pub point: PointId,
    /// Whose.
    pub device: DeviceId,
    /// `device/point`.
    pub name: String,
    /// What the configuration asks for; `None` for cron.
    pub period: Option<Duration>,
    /// The period it will have, on average.
    pub achievable: Duration,
    /// The longest time between two readings.
    pub worst: Duration,
}

/// The line with one device dead.
#[derive(Debug, Clone, PartialEq)]
pub struct Without {
    /// Which is dead.
    pub id: DeviceId,
    /// Its name.
    pub device: Arc<str>,
    /// Load by the others and by probing it.
    pub load: f64,
    /// For how long at most one turn of the others is held up, at each turn of the dead one until its death is noticed.
    pub hold_up: Duration,
    /// From its last answer until its death is noticed.
    pub noticed: Duration,
    /// What becomes of the points of the others, in order.
    pub points: Vec<Bereft>,
}

/// The worst age of one point while another device is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bereft {
    /// Which point: its place in [`Forecast::points`].
    pub at: usize,
    /// The longest time between two readings once the death is noticed.
    pub worst: Duration,
    /// The longest until then.
    pub unnoticed: Duration,
}

impl Age {
    /// False when the configured period cannot be had.
    pub fn is_met(&self) -> bool {
        self.period.is_none_or(|period| self.achievable <= period + period / TOLERANCE)
    }

    /// How many times as old as its period; 1 for cron.
    pub fn lateness(&self) -> f64 {
        self.period.map_or(1.0, |period| self.worst.div_duration_f64(period))
    }

    /// Whether another worst age differs from this point's own by more than a hundredth.
    pub fn changes(&self, worst: Duration) -> bool {
        worst.abs_diff(self.worst) > self.worst / TOLERANCE
    }
}

impl Forecast {
    /// More is asked than the wire can carry.
    pub fn is_overloaded(&self) -> bool {
        self.load > 1.0
    }

    /// Points whose period cannot be met.
    pub fn unmet(&self) -> impl Iterator<Item = &Age> {
        self.points.iter().filter(|age| !age.is_met())
    }

    /// The oldest a value gets on this line.
    pub fn worst(&self) -> Duration {
        self.points.iter().map(|age| age.worst).max().unwrap_or_default()
    }

    /// The other device whose death makes a point (by its place) oldest once it is noticed; `None` where there is no
    /// other.
    pub fn worst_without(&self, at: usize) -> Option<(&Without, Duration)> {
        self.over_deaths(at, |bereft| bereft.worst)
    }

    /// The same until the death is noticed.
    pub fn worst_unnoticed(&self, at: usize) -> Option<(&Without, Duration)> {
        self.over_deaths(at, |bereft| bereft.unnoticed)
    }

    /// By how much a point of the others is at most older than its period with this one dead: once that is noticed, and
    /// until then.
    pub fn late_without(&self, without: &Without) -> (Duration, Duration) {
        let late = |age: fn(&Bereft) -> Duration| {
            let all = without.points.iter().filter_map(|b| Some(age(b).saturating_sub(self.points[b.at].period?)));
            all.max().unwrap_or_default()
        };
        (late(|b| b.worst), late(|b| b.unnoticed))
    }

    fn over_deaths(&self, at: usize, age: impl Fn(&Bereft) -> Duration) -> Option<(&Without, Duration)> {
        let ages = self.without.iter().filter_map(|without| {
            let found = without.points.binary_search_by_key(&at, |bereft| bereft.at).ok()?;
            Some((without, age(&without.points[found])))
        });
        ages.max_by_key(|(_, age)| *age)
    }
}
