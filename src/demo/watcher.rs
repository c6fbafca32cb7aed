//! Listens to both sides: keeps the account, counts messages a second, and remembers the newest value of each point.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Plant;
use crate::config::plant::Mapping;
use crate::demo::account::Account;
use crate::demo::view::Scene;
use crate::message::Message;
use crate::point::PointId;
use crate::sample::Value;
use crate::status::Snapshot;

/// Rates are taken over this long.
const OVER: Duration = Duration::from_secs(5);

/// The listener.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Compares the sides.
    pub account: Account,
    /// The gateway's own states given out: the last will tells them too, so they cannot be compared one by one.
    pub own_states: u64,
    rules: Vec<Mapping>,
    /// Told by the bridge itself on every connect, not through the log.
    state_topic: String,
    /// Device and point in the order they are shown: those with a unit first, because they move.
    points: Vec<(PointId, String, String)>,
    newest: HashMap<PointId, String>,
    given: Rate,
    arrived: Rate,
}

impl Watcher {
    /// For this plant's topics.
    pub(super) fn new(plant: &Plant) -> Self {
        let name = |p: &Arc<crate::config::plant::Point>| {
            let device = usize::try_from(p.device.0).ok().and_then(|n| plant.devices.get(n));
            (p.id, device.map(|d| d.name.to_string()).unwrap_or_default(), p.name.to_string())
        };
        let (moving, other): (Vec<_>, Vec<_>) = plant.points.iter().partition(|p| !p.series.unit.is_empty());
        Self {
            account: Account::default(),
            own_states: 0,
            rules: plant.upstreams.iter().flat_map(|u| u.send.clone()).collect(),
            state_topic: format!("{}/$state", plant.gateway),
            points: moving.into_iter().chain(other).map(name).collect(),
            newest: HashMap::new(),
            given: Rate::default(),
            arrived: Rate::default(),
        }
    }

    /// The gateway's broker gave these out.
    pub(super) fn given(&mut self, batch: &[Message]) {
        self.given.count(batch.len());
        for message in batch {
            if let Some(own) = &message.own {
                let value = own.sample.value().map_or_else(
                    || own.sample.quality().reason().map_or_else(|| "–".to_owned(), |r| r.to_string()),
                    |v| format!("{} {}", short(v), own.series.unit),
                );
                self.newest.insert(own.sample.point(), value.trim_end().to_owned());
            }
            let topic = message.topic.as_str();
            if topic == self.state_topic {
                self.own_states += 1;
            } else if self.rules.iter().any(|r| r.filter.matches(&message.topic)) {
                self.account.given(topic, &message.payload);
            }
        }
    }

    /// These arrived at the cloud.
    pub(super) fn arrived(&mut self, batch: &[Message]) {
        self.arrived.count(batch.len());
        for message in batch {
            let topic = self.local(message.topic.as_str());
            if topic != self.state_topic {
                self.account.arrived(&topic, &message.payload);
            }
        }
    }

    /// The upstream's rules backwards: which local topic became this one.
    fn local(&self, topic: &str) -> String {
        let back = |r: &Mapping| topic.strip_prefix(r.prefix.as_str()).map(|rest| format!("{}{rest}", r.strip));
        self.rules.iter().find_map(back).unwrap_or_else(|| topic.to_owned())
    }

    /// What the view shows now.
    pub(super) fn scene(&mut self, now: Snapshot, elapsed: Duration) -> Scene {
        let mut newest: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (id, device, point) in &self.points {
            if let Some(value) = self.newest.get(id) {
                newest.entry(device.clone()).or_default().push((point.clone(), value.clone()));
            }
        }
        Scene { now, elapsed, newest, rates: (self.given.per_second(), self.arrived.per_second()), ..Scene::default() }
    }
}

/// A float's seven digits are right for machines; in a column of the view four are enough.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 6 {
        return text;
    }
    match (value, value.as_f64()) {
        (Value::Decimal(_) | Value::Float(_), Some(x)) if x.fract() != 0.0 => {
            let digits = if x.abs() >= 100.0 { 1 } else { 2 };
            format!("{x:.digits$}")
        }
        _ => text,
    }
}

/// Messages a second over the last few seconds.
#[derive(Debug)]
struct Rate {
    since: Instant,
    total: u64,
    marks: VecDeque<(Instant, u64)>,
}

impl Default for Rate {
    fn default() -> Self {
        let now = Instant::now();
        Self { since: now, total: 0, marks: VecDeque::from([(now, 0)]) }
    }
}

impl Rate {
    fn count(&mut self, n: usize) {
        self.total += u64::try_from(n).unwrap_or(0);
    }

    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    fn per_second(&mut self) -> f64 {
        let now = Instant::now();
        self.marks.push_back((now, self.total));
        while self.marks.len() > 2 && now - self.marks[0].0 > OVER {
            self.marks.pop_front();
        }
        let (then, before) = self.marks.front().copied().unwrap_or((self.since, 0));
        // At the start a handful of messages in no time would read as thousands a second.
        let span = (now - then).as_secs_f64().max(1.0);
        (self.total - before) as f64 / span
    }
}
