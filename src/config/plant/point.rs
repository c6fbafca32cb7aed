//! One point of the plant, as it was checked. There are thousands, and each is held by poll, publish and command at once: so a
//! point is shared, what few points have is boxed, and what equals another point's (the same profile on another device)
//! is that one's.

use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;

use crate::config::functions::How;
use crate::payload::Series;
use crate::point::{DeviceId, PointId, Wire};

/// One value of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its index.
    pub id: PointId,
    /// Whose it is.
    pub device: DeviceId,
    /// `{point}` in topics.
    pub name: Arc<str>,
    /// Where the value comes from.
    pub source: Source,
    /// Outside it quality is bad.
    pub range: Option<Box<(Decimal, Decimal)>>,
    /// When it is read.
    pub schedule: Schedule,
    /// When a reading becomes a message.
    pub report: Arc<Report>,
    /// `None`: read-only.
    pub write: Option<Box<Write>>,
    /// What a reading is published as: topic, payload, unit. Every message carries it.
    pub series: Arc<Series>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Registers or bits on the wire.
    Wire(Arc<Wire>),
    /// An expression over other points of the device, by their names.
    Compute(Arc<Compute>),
}

/// `compute:`; checked to parse and to name only other wire points of the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Compute {
    /// As written.
    pub expression: Arc<str>,
    /// The points it names.
    pub inputs: Vec<(Arc<str>, PointId)>,
}

/// When a point is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// A fixed period, at least 20 ms.
    Every {
        /// The period.
        period: Duration,
        /// Aligned to the wall clock.
        align: bool,
    },
    /// Six fields, seconds first (croner); checked to parse.
    Cron(Arc<str>),
}

/// Report by exception, against the last *published* value. A change of quality always passes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// Every poll, or only what changed.
    pub when: When,
    /// A smaller change is not a change.
    pub deadband: Option<Deadband>,
    /// Publish at the latest after this long, changed or not.
    pub at_least: Option<Duration>,
    /// Publish at most this often; the newest value waits.
    pub at_most: Option<Duration>,
}

/// `when:`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// Every reading is a message.
    Poll,
    /// Only a changed one.
    Change,
}

/// How much is a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deadband {
    /// In engineering units.
    Absolute(Decimal),
    /// Percent of the last published value.
    Percent(Decimal),
}

/// `write:`
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Least value accepted.
    pub min: Option<Decimal>,
    /// Greatest value accepted.
    pub max: Option<Decimal>,
    /// Grid from `min` (or zero).
    pub step: Option<Decimal>,
    /// Read back and compare.
    pub verify: bool,
    /// A command older than this is refused.
    pub expires: Duration,
    /// By which functions.
    pub how: How,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_small_because_a_site_has_thousands() {
        assert!(size_of::<Point>() <= 104, "{} bytes", size_of::<Point>());
    }
}
