//! Minds all fail-safes: looks twice a second who is there, lets the guards decide, hands their writes to the command task,
//! and tells how they stand. Looking, not being told: a link's status changes with each acknowledgement, and a client that
//! is taken over is there all the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::command::Floor;
use crate::command::Outlet;
use crate::command::failsafe::Desk;
use crate::command::failsafe::Door;
use crate::command::failsafe::News;
use crate::command::failsafe::Note;
use crate::command::failsafe::Own;
use crate::command::failsafe::Ticket;
use crate::command::failsafe::WAITING;
use crate::command::failsafe::guard::Guard;
use crate::command::failsafe::guard::Sight;
use crate::command::failsafe::guard::Standing;
use crate::command::failsafe::joined;
use crate::command::failsafe::told;
use crate::config::failsafe::Commander;
use crate::config::failsafe::FailSafe;
use crate::config::plant::Plant;
use crate::message::Message;
use crate::message::Retain;
use crate::point::LineId;
use crate::status::BrokerStatus;
use crate::status::DeviceState;
use crate::status::FailSafeState;
use crate::status::FailSafeStatus;
use crate::status::LineStatus;
use crate::status::LinkState;
use crate::status::UpstreamStatus;
use crate::topic::Qos;
use crate::topic::TopicName;

/// The broker renews its status every second.
const LOOK: Duration = Duration::from_millis(500);

/// Writes of one line that are ordered at once: many may be due in one moment, and a command must not wait for all of them.
const AT_ONCE: usize = 2;

/// By which is seen who is there; lines and upstreams in the order of the plant.
#[derive(Debug, Clone)]
pub struct Eyes {
    /// Links.
    pub upstreams: Vec<watch::Receiver<UpstreamStatus>>,
    /// Local clients.
    pub broker: watch::Receiver<BrokerStatus>,
    /// Devices.
    pub lines: Vec<watch::Receiver<LineStatus>>,
}

/// Where the task's knowledge goes.
#[derive(Debug, Clone)]
pub struct Links {
    /// What outlives the task and, where it matters, the process.
    pub kept: watch::Sender<Vec<Note>>,
    /// For the board.
    pub status: watch::Sender<Vec<FailSafeStatus>>,
}

#[derive(Debug)]
enum Commanding {
    Upstream(watch::Receiver<UpstreamStatus>),
    Client(Arc<str>, watch::Receiver<BrokerStatus>),
}

impl Commanding {
    fn look(&self) -> Sight {
        let is_there = match self {
            Self::Upstream(status) => status.borrow().state == LinkState::Connected,
            Self::Client(id, status) => status.borrow().clients.iter().any(|client| *client.id == **id),
        };
        if is_there { Sight::There } else { Sight::Gone }
    }
}

/// One point's fail-safe and what surrounds it.
#[derive(Debug)]
struct Minded {
    guard: Guard,
    /// `{device}/{point}`.
    name: String,
    device: Arc<str>,
    at: LineId,
    line: watch::Receiver<LineStatus>,
    commanding: Commanding,
    topic: Option<TopicName>,
    /// Of the write that is under way, if one is.
    ticket: Ticket,
    /// As told last.
    told: Option<Standing>,
}

impl Minded {
    fn look(&mut self, now: Instant) {
        self.guard.see(self.commanding.look(), now);
        let is_away =
            |line: &LineStatus| line.devices.iter().any(|d| *d.name == *self.device && d.state == DeviceState::Offline);
        let device = if is_away(&self.line.borrow()) { Sight::Gone } else { Sight::There };
        self.guard.see_device(device, now);
    }

    fn who(&self) -> Arc<str> {
        let is_back = self.guard.standing().state == FailSafeState::Returning;
        let commander = &self.guard.rule.commander;
        let words = if is_back { format!("{commander} is back") } else { format!("{commander} is gone") };
        words.into()
    }
}

/// Runs beside the command task.
#[derive(Debug)]
pub struct FailSafeTask {
    all: Vec<Minded>,
    floors: watch::Receiver<Floor>,
    desk: Desk,
    answers: Outlet,
    links: Links,
    /// Of the write that was ordered last.
    ticket: Ticket,
}

/// The task, and the door for the command task.
pub fn new(floors: watch::Receiver<Floor>, answers: Outlet, links: Links) -> (Door, FailSafeTask) {
    let (door, desk) = joined();
    let mut task = FailSafeTask { all: Vec::new(), floors, desk, answers, links, ticket: 0 };
    task.arrange(Instant::now());
    (door, task)
}

fn minded(plant: &Plant, eyes: &Eyes, rule: &FailSafe, (notes, now): (&[Note], Instant)) -> Option<Minded> {
    let point = plant.point(rule.point);
    let device = plant.device(point.device);
    let name = format!("{}/{}", device.name, point.name);
    let commanding = match &rule.commander {
        Commander::Upstream(name) => {
            let at = plant.upstreams.iter().position(|upstream| upstream.name == *name)?;
            Commanding::Upstream(eyes.upstreams.get(at)?.clone())
        }
        Commander::Client(id) => Commanding::Client(Arc::clone(id), eyes.broker.clone()),
    };
    let note = notes.iter().find(|note| note.point == name && note.commander == rule.commander.to_string());
    Some(Minded {
        guard: Guard::new(rule.clone(), note, now),
        device: Arc::clone(&device.name),
        at: device.line,
        line: eyes.lines.get(plant.lines.iter().position(|line| line.id == device.line)?)?.clone(),
        commanding,
        topic: TopicName::new(format!("{}/{name}/$fail_safe", plant.gateway)).ok(),
        name,
        ticket: 0,
        told: None,
    })
}

enum Event {
    Look,
    News(News),
    Reloaded,
    End,
}

impl FailSafeTask {
    /// Until cancelled, or the command task has gone. Nothing is written at the end: a gateway that is stopped on purpose
    /// leaves the machine as it is.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => Event::End,
                // A gateway without fail-safes has nothing to look at.
                _ = looks.tick(), if !self.all.is_empty() => Event::Look,
                news = self.desk.news.recv() => news.map_or(Event::End, Event::News),
                Ok(()) = self.floors.changed() => Event::Reloaded,
            };
            let now = Instant::now();
            match event {
                Event::End => return,
                Event::Look => self.all.iter_mut().for_each(|minded| minded.look(now)),
                Event::News(news) => self.hear(news, now),
                Event::Reloaded => self.reload(now).await,
            }
            if !self.order(now) {
                return;
            }
            self.tell().await;
        }
    }

    /// A guard for each rule of the floor as it is now: one whose rule is as it was stays as it is, the others know what is
    /// noted of their point. Gives those that have none any more.
    fn arrange(&mut self, now: Instant) -> Vec<Minded> {
        let Floor { plant, eyes, .. } = self.floors.borrow_and_update().clone();
        let mut before = std::mem::take(&mut self.all);
        for rule in &plant.fail_safes {
            let found = minded(&plant, &eyes, rule, (&self.links.kept.borrow(), now));
            let Some(mut minded) = found else { continue };
            if let Some(at) = before.iter().position(|was| was.name == minded.name) {
                let was = before.swap_remove(at);
                minded.told = was.told;
                if was.guard.rule == *rule {
                    (minded.guard, minded.ticket) = (was.guard, was.ticket);
                }
            }
            self.all.push(minded);
        }
        self.desk.mind(self.all.iter().map(|minded| minded.guard.rule.point));
        before
    }

    /// Other rules; of those that are gone nothing stays.
    async fn reload(&mut self, now: Instant) {
        let gone = self.arrange(now);
        let topics = gone.into_iter().filter_map(|minded| minded.topic);
        let cleared = |topic| Message::plain(topic, Bytes::new(), Qos::AtLeastOnce, Retain::Yes);
        let messages: Vec<Message> = topics.map(cleared).collect();
        if !messages.is_empty() && self.answers.send(messages).await.is_err() {
            tracing::debug!("broker gone, nobody is told of fail-safes");
        }
    }

    fn hear(&mut self, news: News, now: Instant) {
        let (News::Looked(point, _) | News::Own(point, ..) | News::Commanded(point, _)) = &news;
        let minded = self.all.iter_mut().find(|minded| minded.guard.rule.point == *point);
        let Some(Minded { guard, ticket: own, .. }) = minded else { return };
        match news {
            News::Looked(_, before) => guard.looked(before),
            News::Own(_, ticket, end, before) if ticket == *own => guard.ended(end, before, now),
            // What a rule had ordered that a reload has replaced; this one's write follows it.
            News::Own(..) => {}
            News::Commanded(_, how) => guard.commanded(how, now),
        }
    }

    /// Orders what is to be written now, a few at once; false when nobody writes any more. Never waits for room: the command task
    /// may wait for this one, to take its news. What a reload has let go of still fills places that are not counted here.
    fn order(&mut self, now: Instant) -> bool {
        let mut under_way: HashMap<LineId, usize> = HashMap::new();
        for minded in self.all.iter().filter(|minded| minded.guard.is_under_way()) {
            *under_way.entry(minded.at).or_default() += 1;
        }
        let mut total: usize = under_way.values().sum();
        for minded in &mut self.all {
            let of_line = under_way.entry(minded.at).or_default();
            if *of_line >= AT_ONCE || total >= WAITING {
                // It is due all the same, and shows so.
                minded.guard.turn(now);
                continue;
            }
            let place = match self.desk.orders.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Closed(())) => return false,
                Err(TrySendError::Full(())) => {
                    minded.guard.turn(now);
                    continue;
                }
            };
            let Some(step) = minded.guard.next(now) else { continue };
            *of_line += 1;
            total += 1;
            self.ticket += 1;
            minded.ticket = self.ticket;
            let (who, ticket) = (minded.who(), minded.ticket);
            let own = Own { point: minded.guard.rule.point, value: step.value, look: step.look, who, ticket };
            place.send(own);
        }
        true
    }

    /// Tells what has changed.
    async fn tell(&mut self) {
        let mut messages = Vec::new();
        for minded in &mut self.all {
            let new = minded.guard.standing();
            let is_news = |old: &Standing| (old.state, &old.reason) != (new.state, &new.reason);
            if minded.told.as_ref().is_some_and(|old| !is_news(old)) {
                continue;
            }
            if let Some(old) = &minded.told {
                told::log(&minded.name, &minded.guard, old, &new);
            }
            messages.extend(minded.topic.clone().map(|topic| told::message(topic, &minded.guard, &new)));
            minded.told = Some(new);
        }
        if !messages.is_empty() && self.answers.send(messages).await.is_err() {
            tracing::debug!("broker gone, nobody is told of fail-safes");
        }
        self.keep();
    }

    fn keep(&self) {
        let notes: Vec<Note> = self.all.iter().map(|minded| Note::of(&minded.guard, &minded.name)).collect();
        self.links.kept.send_if_modified(|kept| {
            let is_news = *kept != notes;
            *kept = notes;
            is_news
        });
        let status: Vec<_> = self.all.iter().map(|minded| told::status(&minded.name, &minded.guard)).collect();
        self.links.status.send_if_modified(|shown| {
            let is_news = *shown != status;
            *shown = status;
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::command::failsafe::Commanded;
    use crate::command::failsafe::End;
    use crate::config;
    use crate::sample::Value;

    /// Many lines, each with two points that are to hold this when a client has been gone for a second.
    fn floor(lines: usize, value: u16) -> Floor {
        let line = |n: usize| format!("  l{n}: {{tcp: '127.0.0.1:{}'}}\n", 1000 + n);
        let point = |p: u16| {
            format!(
                "p{p}: {{holding: {p}, write: true, fail_safe: {{value: {value}, when: {{client: hmi}}, after: 1s}}}}"
            )
        };
        let device =
            |n: usize| format!("  - {{name: d{n}, line: l{n}, unit_id: 1, points: {{{}, {}}}}}\n", point(0), point(1));
        let all = |one: &dyn Fn(usize) -> String| (0..lines).map(one).collect::<String>();
        let text = format!("gateway: g\nlines:\n{}devices:\n{}", all(&line), all(&device));
        let plant =
            config::load_text("t.yaml", &text, std::path::Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant;
        let eyes = Eyes {
            upstreams: Vec::new(),
            broker: watch::channel(BrokerStatus::default()).1,
            lines: (0..lines).map(|_| watch::channel(LineStatus::default()).1).collect(),
        };
        Floor { plant: Arc::new(plant), desks: Vec::new(), eyes }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_write_that_another_rule_had_ordered_is_not_taken_for_the_end_of_this_ones() {
        let (floors, seen) = watch::channel(floor(1, 7));
        let links = Links { kept: watch::Sender::default(), status: watch::Sender::default() };
        let mut status = links.status.subscribe();
        let (mut door, task) = new(seen, tokio::sync::mpsc::channel(1024).0, links);
        tokio::spawn(task.run(CancellationToken::new()));
        let before = door.orders.recv().await.unwrap();
        let _other_point = door.orders.recv().await.unwrap();
        floors.send_replace(floor(1, 8));
        let now = door.orders.recv().await.unwrap();
        assert_eq!((before.point, &before.value, &now.value), (now.point, &Value::Int(7), &Value::Int(8)));
        let tell = |own: &Own, end| door.teller.tell(own.point, News::Own(own.point, own.ticket, end, None));
        tell(&before, End::Written).await;
        tell(&now, End::Failed("timeout".to_owned())).await;
        let is_told = |all: &Vec<FailSafeStatus>| all[0].failures == 1 || all[0].writes == 1;
        let told = status.wait_for(is_told).await.unwrap()[0].clone();
        assert_eq!((told.state, told.writes, told.failures), (FailSafeState::Writing, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_while_as_many_writes_as_may_wait_are_ordered_stops_nobody_from_telling_news() {
        let (floors, seen) = watch::channel(floor(40, 7));
        let links = Links { kept: watch::Sender::default(), status: watch::Sender::default() };
        let (door, task) = new(seen, tokio::sync::mpsc::channel(1024).0, links);
        tokio::spawn(task.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(door.orders.len(), WAITING, "the command task is slow to take them");
        // Other rules: nothing of theirs is under way.
        floors.send_replace(floor(40, 8));
        tokio::time::sleep(Duration::from_secs(3)).await;
        // And now it has more to tell than waits, before it takes the next order.
        let point = floors.borrow().plant.points[0].id;
        for _ in 0..2 * WAITING {
            let told = door.teller.tell(point, News::Commanded(point, Commanded::Unknown));
            tokio::time::timeout(Duration::from_secs(60), told).await.expect("news are always taken");
        }
    }
}
