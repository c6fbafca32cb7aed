//! What was read and what arrived, topic by topic. Pure. What the gateway's own broker gave out is the truth; a value
//! is known by its topic and the moment it was read.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::Seen;

/// What the last moment before a kill may cost: the log commits at least this often.
const COMMIT_US: i64 = 1_000_000;
/// A value this old is live.
const LIVE_US: i64 = 1_000_000;

/// When what happened, in wall time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) began: i64,
    pub(super) killed: Option<i64>,
    pub(super) restored: i64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Values read and given out to local clients.
    pub read: u64,
    /// Of those, never seen at the cloud; what was read in the last second before a kill is left out.
    pub lost: u64,
    /// Arrived after a later one of its topic, backlog and live each for itself.
    pub out_of_order: u64,
    /// Arrived more than once.
    pub twice: u64,
    /// The longest time between two reads of a point: before the outage, and during it.
    pub longest_period: (Duration, Duration),
    /// From the return of the link to the first message behind it.
    pub connected: Option<Duration>,
    /// From then to the moment when every point has had a value at most a second old.
    pub live: Option<Duration>,
    /// Values that were read before the link's return and arrived after it, and how many of them a second.
    pub backlog: (u64, f64),
    /// The most memory the gateway ever had, in bytes.
    pub resident: u64,
}

#[derive(Debug)]
struct Arrival {
    taken: i64,
    arrived: i64,
    late: bool,
}

#[derive(Debug, Default)]
struct Point {
    read: Vec<i64>,
    arrived: Vec<Arrival>,
    known: HashSet<i64>,
}

/// Both sides.
#[derive(Debug, Default)]
pub(super) struct Tally {
    points: HashMap<Box<str>, Point>,
    /// When the gateway said at the cloud that it is there.
    online: Vec<i64>,
}

impl Tally {
    /// Seen at the gateway. What its broker kept from before was seen then.
    pub(super) fn near(&mut self, seen: &Seen) {
        if let Some(name) = seen.topic.strip_prefix("plant/").filter(|n| !seen.retained && !n.contains('$'))
            && let Some((taken, _)) = taken(&seen.payload)
        {
            self.point(name).read.push(taken);
        }
    }

    /// Seen at the cloud.
    pub(super) fn far(&mut self, seen: &Seen) {
        let Some(name) = seen.topic.strip_prefix("sites/plant/") else { return };
        if name == "$state" && &seen.payload[..] == b"online" {
            self.online.push(seen.arrived_us);
        } else if let Some((taken, late)) = taken(&seen.payload).filter(|_| !name.contains('$')) {
            let point = self.point(name);
            point.known.insert(taken);
            point.arrived.push(Arrival { taken, arrived: seen.arrived_us, late });
        }
    }

    fn point(&mut self, name: &str) -> &mut Point {
        if !self.points.contains_key(name) {
            self.points.insert(name.into(), Point::default());
        }
        self.points.get_mut(name).expect("was inserted just now")
    }

    /// Values read before the link's return that are not at the cloud.
    pub(super) fn missing(&self, moments: &Moments) -> u64 {
        let excused = |taken: i64| moments.killed.is_some_and(|at| (at - COMMIT_US..=at).contains(&taken));
        let missing = |p: &Point| {
            let due = p.read.iter().filter(|t| **t <= moments.restored && !excused(**t));
            due.filter(|t| !p.known.contains(t)).count()
        };
        self.points.values().map(|p| missing(p) as u64).sum()
    }

    pub(super) fn verdict(&self, moments: &Moments, resident: u64) -> Verdict {
        let connected = self.online.iter().copied().find(|at| *at >= moments.restored);
        Verdict {
            read: self.points.values().map(|p| p.read.len() as u64).sum(),
            lost: self.missing(moments),
            out_of_order: self.points.values().map(Point::disorder).sum(),
            twice: self.points.values().map(|p| (p.arrived.len() - p.known.len()) as u64).sum(),
            longest_period: (
                self.longest_period(i64::MIN, moments.began, moments),
                self.longest_period(moments.began, moments.restored, moments),
            ),
            connected: connected.map(|at| micros(at - moments.restored)),
            live: connected.and_then(|from| self.live(from)),
            backlog: connected.map_or((0, 0.0), |from| self.backlog(from, moments.restored)),
            resident,
        }
    }

    /// The restart after a kill is not the schedule's.
    fn longest_period(&self, from: i64, to: i64, moments: &Moments) -> Duration {
        let pairs = self.points.values().flat_map(|p| p.read.windows(2)).map(|w| (w[0], w[1]));
        let inside = pairs.filter(|(a, b)| *a >= from && *b <= to);
        let undisturbed = inside.filter(|(a, b)| !moments.killed.is_some_and(|at| (*a..=*b).contains(&at)));
        micros(undisturbed.map(|(a, b)| b - a).max().unwrap_or(0))
    }

    fn live(&self, connected: i64) -> Option<Duration> {
        let first = |p: &Point| {
            let mut after = p.arrived.iter().filter(|a| a.arrived >= connected);
            after.find(|a| a.arrived - a.taken <= LIVE_US).map(|a| a.arrived)
        };
        let all: Option<Vec<i64>> = self.points.values().map(first).collect();
        all?.into_iter().max().map(|at| micros(at - connected))
    }

    fn backlog(&self, connected: i64, restored: i64) -> (u64, f64) {
        let all = self.points.values().flat_map(|p| &p.arrived);
        let late = all.filter(|a| a.arrived >= connected && a.taken < restored);
        let (count, last) = late.fold((0_u64, connected), |(n, last), a| (n + 1, last.max(a.arrived)));
        let took = micros(last - connected).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = if took > 0.0 { count as f64 / took } else { 0.0 };
        (count, rate)
    }
}

impl Point {
    /// First arrivals that came after a later one of the same lane.
    fn disorder(&self) -> u64 {
        let (mut seen, mut newest, mut disorder) = (HashSet::new(), [i64::MIN; 2], 0);
        for a in self.arrived.iter() {
            if seen.insert(a.taken) {
                let newest = &mut newest[usize::from(a.late)];
                disorder += u64::from(a.taken < *newest);
                *newest = a.taken.max(*newest);
            }
        }
        disorder
    }
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// When the value was read, and whether it is marked late. What the gateway says about itself has no time.
fn taken(payload: &[u8]) -> Option<(i64, bool)> {
    let body: Value = serde_json::from_slice(payload).ok()?;
    let time: jiff::Timestamp = body.get("time")?.as_str()?.parse().ok()?;
    Some((time.as_microsecond(), body.get("late").is_some_and(|l| l == true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn seen(topic: &str, second: i64, arrived: i64, late: &str) -> Seen {
        let stamp = time::rfc3339_millis(second * 1_000_000);
        let payload = format!(r#"{{"value":1,"time":"{stamp}"{late}}}"#);
        Seen { topic: topic.into(), payload: payload.into(), retained: false, arrived_us: arrived * 1_000_000 }
    }

    fn online(arrived: i64) -> Seen {
        let payload = "online".into();
        Seen { topic: "sites/plant/$state".into(), payload, retained: false, arrived_us: arrived * 1_000_000 }
    }

    #[test]
    fn loss_order_repeats_and_times_are_told_apart() {
        let mut tally = Tally::default();
        (1..=9).for_each(|n| tally.near(&seen("plant/d/p", n, n, "")));
        // Away from 3 to 6: 3 lost, 4 and 5 late and swapped, 7 live, 4 once more.
        for n in [1, 2] {
            tally.far(&seen("sites/plant/d/p", n, n, ""));
        }
        tally.far(&online(7));
        for (n, at, late) in [(7, 8, ""), (5, 8, r#","late":true"#), (4, 9, r#","late":true"#), (4, 9, "")] {
            tally.far(&seen("sites/plant/d/p", n, at, late));
        }
        let moments = Moments { began: 3_000_000, killed: None, restored: 6_000_000 };
        let got = tally.verdict(&moments, 7);
        // 6 was read at the very end and counts too.
        assert_eq!((got.read, got.lost, got.out_of_order, got.twice), (9, 2, 1, 1));
        assert_eq!(got.connected, Some(Duration::from_secs(1)));
        assert_eq!(got.live, Some(Duration::from_secs(1)));
        assert_eq!(got.backlog, (3, 1.5));
        assert_eq!(got.longest_period, (Duration::from_secs(1), Duration::from_secs(1)));
    }

    #[test]
    fn the_last_second_before_a_kill_is_excused_and_no_more() {
        let mut tally = Tally::default();
        (1..=9).for_each(|n| tally.near(&seen("plant/d/p", n, n, "")));
        let moments = Moments { began: 0, killed: Some(5_500_000), restored: 9_000_000 };
        assert_eq!(tally.missing(&moments), 8);
    }
}
