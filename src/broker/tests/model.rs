//! The whole broker against what the standard says in the plainest way: random clients of both versions come, go, are taken
//! over, subscribe with all options, publish, leave wills, read slowly or not at all; time passes, the broker is stopped and
//! killed. What each was given must be what the model says, each once, in order. Shared groups are in `shares`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::actor::Actor;
use super::actor::Copy;
use super::actor::Greeting;
use super::actor::Last;
use super::actor::News;
use super::disk::Disk;
use super::world::World;
use crate::broker::queue::Depth;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const NAMES: [&str; 4] = ["x", "y", "z", "ü"];
/// Wills have payloads from here on: they are published later than they are made.
const WILLS: u32 = 1_000_000;
const FOR_EVER: u64 = u64::MAX;

#[derive(Debug, Clone)]
enum Deed {
    Join(usize, Greeting),
    Drop(usize),
    Leave(usize),
    Subscribe { who: usize, filter: String, options: u8, identifier: Option<u8> },
    Unsubscribe(usize, String),
    Publish(usize, News),
    Begin(usize, News),
    Glance(usize),
    Drain(usize),
    Pass(u64),
    Save,
    Stop,
    Kill,
}

fn topic() -> impl Strategy<Value = String> {
    "[ab](/[ab]?){0,2}|\\$s/[ab]"
}

fn filter() -> impl Strategy<Value = String> {
    "([ab]|\\+)(/([ab]|\\+|)){0,2}(/#)?|#|w/[+#]|\\$s/[+#]"
}

fn news() -> impl Strategy<Value = News> {
    let payload = prop_oneof![9 => Just(true), 1 => Just(false)];
    let expiry = prop_oneof![2 => Just(None), 1 => (1_u32..20).prop_map(Some)];
    (topic(), payload, 0_u8..3, any::<bool>(), expiry).prop_map(|(topic, full, qos, retain, expiry)| News {
        topic,
        payload: full.then_some(1),
        qos,
        retain,
        expiry,
    })
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let expiry = prop_oneof![Just(0_u32), 1_u32..30, Just(u32::MAX)];
    let will = proptest::option::of((0_u8..3, any::<bool>(), prop_oneof![Just(0_u32), 1_u32..30]));
    let clean = prop_oneof![3 => Just(false), 1 => Just(true)];
    (any::<bool>(), clean, expiry, 1_u16..4, will).prop_map(|(v5, clean, expiry, window, will)| {
        let last = |(qos, retain, delay)| Last { topic: String::new(), payload: 0, qos, retain, delay };
        Greeting { v5, clean, expiry, window, will: will.map(last) }
    })
}

fn deeds() -> impl Strategy<Value = Deed> {
    let who = || 0..NAMES.len();
    let options = (0_u8..3, 0_u8..8, 0_u8..3).prop_map(|(qos, bits, handling)| qos | (bits & 3) << 2 | handling << 4);
    let identifier = proptest::option::of(1_u8..100);
    prop_oneof![
        6 => (who(), greeting()).prop_map(|(who, greeting)| Deed::Join(who, greeting)),
        2 => who().prop_map(Deed::Drop),
        1 => who().prop_map(Deed::Leave),
        6 => (who(), filter(), options, identifier)
            .prop_map(|(who, filter, options, identifier)| Deed::Subscribe { who, filter, options, identifier }),
        1 => (who(), filter()).prop_map(|(who, filter)| Deed::Unsubscribe(who, filter)),
        14 => (who(), news()).prop_map(|(who, news)| Deed::Publish(who, news)),
        2 => (who(), news()).prop_map(|(who, news)| Deed::Begin(who, News { qos: 2, ..news })),
        3 => who().prop_map(Deed::Glance),
        5 => who().prop_map(Deed::Drain),
        3 => (1_u64..15).prop_map(Deed::Pass),
        3 => Just(Deed::Save),
        1 => Just(Deed::Stop),
        1 => Just(Deed::Kill),
    ]
}

#[derive(Debug, Clone)]
struct Mail {
    copy: Copy,
    deadline: u64,
    seen: bool,
}

#[derive(Debug, Clone, Copy)]
struct Sub {
    qos: u8,
    no_local: bool,
    as_published: bool,
    identifier: Option<u8>,
}

#[derive(Debug, Default)]
struct Session {
    subs: BTreeMap<String, Sub>,
    /// Sent and not answered; sent or written once, it is finished whatever its expiry.
    in_flight: Vec<Mail>,
    waiting: Vec<Mail>,
    /// QoS 0 on the way to a connection.
    passing: Vec<Copy>,
    /// Connected with this window.
    window: Option<usize>,
    /// 3.1.1 has no words for subscription identifiers.
    v5: bool,
    expiry: u64,
    left: u64,
    will: Option<Last>,
    /// Sessions are numbered as they begin.
    number: usize,
}

impl Session {
    fn launch(&mut self, now: u64) {
        let Some(window) = self.window else { return };
        while self.in_flight.len() < window && !self.waiting.is_empty() {
            let mail = self.waiting.remove(0);
            if mail.deadline > now {
                self.in_flight.push(mail);
            }
        }
    }

    fn due(&self) -> u64 {
        match &self.will {
            Some(will) if self.window.is_none() => self.left + u64::from(will.delay).min(self.expiry),
            _ => FOR_EVER,
        }
    }
}

/// What the standard says.
#[derive(Default)]
struct Model {
    now: u64,
    sessions: BTreeMap<usize, Session>,
    /// Payload, QoS, deadline.
    retained: BTreeMap<String, (u32, u8, u64)>,
    due: Vec<Vec<Copy>>,
    begun: usize,
}

fn matches(filter: &str, topic: &str) -> bool {
    TopicFilter::new(filter).unwrap().matches(&TopicName::new(topic).unwrap())
}

impl Model {
    fn publish(&mut self, origin: Option<usize>, news: &News) {
        let deadline = news.expiry.map_or(FOR_EVER, |seconds| self.now + u64::from(seconds));
        let payload = news.payload.unwrap_or(0);
        if news.retain && news.payload.is_some() {
            self.retained.insert(news.topic.clone(), (payload, news.qos, deadline));
        } else if news.retain {
            self.retained.remove(&news.topic);
        }
        for (who, session) in &mut self.sessions {
            let mine = |sub: &Sub| !(sub.no_local && origin == Some(*who));
            let hits = session.subs.iter().filter(|(filter, sub)| matches(filter, &news.topic) && mine(sub));
            let hits: Vec<Sub> = hits.map(|(_, sub)| *sub).collect();
            let Some(most) = hits.iter().map(|sub| sub.qos).max() else { continue };
            let qos = most.min(news.qos);
            let mut identifiers: Vec<u32> = hits.iter().filter_map(|sub| sub.identifier.map(u32::from)).collect();
            identifiers.sort_unstable();
            let copy = (payload, qos, news.retain && hits.iter().any(|sub| sub.as_published), identifiers);
            if qos > 0 {
                session.waiting.push(Mail { copy, deadline, seen: false });
                session.launch(self.now);
            } else if session.window.is_some() {
                session.passing.push(copy);
            }
        }
    }

    fn publish_will(&mut self, who: usize, will: Last) {
        let Last { topic, payload, qos, retain, .. } = will;
        self.publish(Some(who), &News { topic, payload: Some(payload), qos, retain, expiry: None });
    }

    /// Whether the session is there.
    fn join(&mut self, who: usize, greeting: &Greeting) -> bool {
        if let Some(session) = self.sessions.get_mut(&who) {
            let fresh = greeting.clean || (session.window.take().is_some() && session.expiry == 0);
            session.passing.clear();
            if let Some(will) = session.will.take().filter(|will| fresh || will.delay == 0) {
                self.publish_will(who, will);
            }
            if fresh {
                self.sessions.remove(&who);
            }
        }
        let present = self.sessions.contains_key(&who);
        self.begun += 1;
        let number = self.begun;
        let session = self.sessions.entry(who).or_insert_with(|| Session { number, ..Session::default() });
        session.v5 = greeting.v5;
        session.window = Some(if greeting.v5 { usize::from(greeting.window) } else { usize::MAX });
        session.expiry = match (greeting.v5, greeting.clean, greeting.expiry) {
            (true, _, u32::MAX) | (false, false, _) => FOR_EVER - 1_000_000,
            (true, _, seconds) => u64::from(seconds),
            (false, true, _) => 0,
        };
        session.will.clone_from(&greeting.will);
        session.launch(self.now);
        present
    }

    fn drop(&mut self, who: usize) {
        let Some(session) = self.sessions.get_mut(&who).filter(|session| session.window.is_some()) else { return };
        session.window = None;
        session.passing.clear();
        session.left = self.now;
        self.elapse(&[who]);
    }

    /// Wills first, then the ends of sessions: a will may be a session's own to receive. Which of several wills is first the
    /// standard leaves to the server.
    fn elapse(&mut self, order: &[usize]) {
        for who in order {
            let due = self.sessions.get_mut(who).filter(|session| session.due() <= self.now);
            if let Some(will) = due.and_then(|session| session.will.take()) {
                self.publish_will(*who, will);
            }
        }
        let now = self.now;
        self.sessions.retain(|_, session| session.window.is_some() || session.left + session.expiry > now);
    }

    /// All connections break.
    fn restart(&mut self, order: &[usize]) {
        for session in self.sessions.values_mut().filter(|session| session.window.is_some()) {
            session.window = None;
            session.passing.clear();
            session.left = self.now;
        }
        self.elapse(order);
    }

    /// After a kill the wills of sessions that ended come first.
    fn order_of_a_start(&self) -> Vec<usize> {
        let mut order: Vec<usize> = self.sessions.keys().copied().collect();
        order.sort_by_key(|who| (self.sessions[who].expiry > 0, self.sessions[who].number));
        order
    }

    fn subscribe(&mut self, who: usize, filter: &str, sub: Sub, handling: u8) {
        let Some(session) = self.sessions.get_mut(&who).filter(|session| session.window.is_some()) else { return };
        let old = session.subs.insert(filter.to_owned(), sub);
        if handling == 2 || (handling == 1 && old.is_some()) {
            return;
        }
        for (topic, (payload, qos, deadline)) in &self.retained {
            if matches(filter, topic) && *deadline > self.now {
                let identifiers = sub.identifier.map(u32::from).into_iter().collect();
                self.due[who].push((*payload, sub.qos.min(*qos), true, identifiers));
            }
        }
    }

    fn glance(&mut self, who: usize) {
        let Some(session) = self.sessions.get_mut(&who).filter(|session| session.window.is_some()) else { return };
        let passing = std::mem::take(&mut session.passing);
        let v5 = session.v5;
        let worded = |copy: Copy| if v5 { copy } else { (copy.0, copy.1, copy.2, Vec::new()) };
        self.due[who].extend(passing.into_iter().map(worded));
        for mail in session.in_flight.iter_mut().take(session.window.unwrap_or(0)).filter(|mail| !mail.seen) {
            mail.seen = true;
            self.due[who].push(worded(mail.copy.clone()));
        }
    }

    fn drain(&mut self, who: usize) {
        loop {
            self.glance(who);
            let Some(session) = self.sessions.get_mut(&who).filter(|session| session.window.is_some()) else { return };
            let window = session.window.unwrap_or(0);
            session.in_flight.drain(..window.min(session.in_flight.len()));
            session.launch(self.now);
            if session.in_flight.is_empty() {
                return;
            }
        }
    }
}

struct Play {
    world: World,
    disk: Disk,
    model: Model,
    actors: Vec<Actor>,
    /// The next payload.
    next: u32,
}

impl Play {
    fn new() -> Self {
        let mut world = World::new(1000);
        let mut disk = Disk::default();
        world.restart(&disk);
        world.save(&mut disk, Depth::All);
        let model = Model { due: vec![Vec::new(); NAMES.len()], ..Model::default() };
        Self { world, disk, model, actors: NAMES.map(Actor::new).into(), next: 1 }
    }

    fn number(&mut self, news: News) -> News {
        self.next += 1;
        News { payload: news.payload.map(|_| self.next), ..news }
    }

    fn act(&mut self, deed: Deed) {
        let Self { world, disk, model, actors, .. } = self;
        match deed {
            Deed::Join(who, greeting) => self.join(who, &greeting),
            Deed::Drop(who) => {
                actors[who].drop(world);
                model.drop(who);
            }
            Deed::Leave(who) => {
                if let Some(session) = model.sessions.get_mut(&who).filter(|_| actors[who].key.is_some()) {
                    session.will = None;
                }
                actors[who].leave(world);
                model.drop(who);
            }
            Deed::Subscribe { who, filter, options, identifier } => self.subscribe(who, &filter, options, identifier),
            Deed::Unsubscribe(who, filter) => {
                actors[who].unsubscribe(world, &filter);
                if let Some(session) = model.sessions.get_mut(&who).filter(|_| actors[who].key.is_some()) {
                    session.subs.remove(&filter);
                }
            }
            Deed::Publish(who, news) => {
                let news = self.speak(who, news);
                self.actors[who].publish(&mut self.world, &news);
                if self.actors[who].key.is_some() {
                    self.model.publish(Some(who), &news);
                }
            }
            Deed::Begin(who, news) => {
                let news = self.speak(who, news);
                if self.actors[who].begin(&mut self.world, &news) {
                    self.model.publish(Some(who), &news);
                }
            }
            Deed::Glance(who) => {
                actors[who].glance(world);
                model.glance(who);
            }
            Deed::Drain(who) => self.drain(who),
            Deed::Pass(seconds) => {
                let mut order: Vec<usize> = model.sessions.keys().copied().collect();
                order.sort_by_key(|who| world.core.by_id.get(NAMES[*who]));
                world.pass(seconds);
                model.now += seconds;
                model.elapse(&order);
            }
            Deed::Save => world.save(disk, Depth::Settled),
            Deed::Stop | Deed::Kill => {
                let mut order = model.order_of_a_start();
                if matches!(deed, Deed::Stop) {
                    world.core.shut_down(world.now);
                    order.sort_by_key(|who| actors[*who].key);
                }
                world.save(disk, Depth::All);
                world.restart(disk);
                world.save(disk, Depth::Settled);
                actors.iter_mut().for_each(Actor::lose);
                model.restart(&order);
            }
        }
    }

    /// 3.1.1 has no expiry.
    fn speak(&mut self, who: usize, news: News) -> News {
        let v5 = self.actors[who].is_v5();
        let news = self.number(news);
        News { expiry: news.expiry.filter(|_| v5), ..news }
    }

    fn join(&mut self, who: usize, greeting: &Greeting) {
        self.next += 1;
        let (payload, topic) = (WILLS + self.next, format!("w/{who}"));
        let delay = |will: &Last| if greeting.v5 { will.delay } else { 0 };
        let will = greeting.will.as_ref().map(|will| Last { topic, payload, delay: delay(will), ..will.clone() });
        let greeting = Greeting { will, ..greeting.clone() };
        let before = self.actors[who].key;
        let present = self.actors[who].join(&mut self.world, &greeting);
        assert_eq!(present, self.model.join(who, &greeting), "session present");
        // The socket that was taken over goes.
        if let Some(before) = before {
            self.world.core.gone(self.world.now, before);
        }
        self.model.glance(who);
    }

    /// Retained messages that come last must not be mixed with what waits.
    fn subscribe(&mut self, who: usize, filter: &str, options: u8, identifier: Option<u8>) {
        if self.actors[who].key.is_none() {
            return;
        }
        self.drain(who);
        let v5 = self.actors[who].is_v5();
        let options = if v5 { options } else { options & 3 };
        self.actors[who].subscribe(&mut self.world, filter, options, identifier);
        let sub = Sub {
            qos: options & 3,
            no_local: options & 4 != 0,
            as_published: options & 8 != 0,
            identifier: identifier.filter(|_| v5),
        };
        self.model.subscribe(who, filter, sub, options >> 4);
        self.actors[who].drain(&mut self.world);
    }

    fn drain(&mut self, who: usize) {
        self.actors[who].drain(&mut self.world);
        self.model.drain(who);
    }

    /// Everybody who has a session comes back and reads; then nothing is left anywhere.
    fn finish(&mut self) {
        for who in 0..NAMES.len() {
            let Some(session) = self.model.sessions.get(&who) else { continue };
            let v5 = session.expiry < FOR_EVER / 2;
            let greeting = Greeting { v5, clean: false, expiry: 1000, window: 3, will: None };
            if self.actors[who].key.is_none() {
                self.join(who, &greeting);
            }
            self.drain(who);
        }
        for (who, name) in NAMES.iter().enumerate() {
            self.drain(who);
            assert_in_order(&self.actors[who].got);
            let (mut got, mut due) = (self.actors[who].got.clone(), self.model.due[who].clone());
            got.sort();
            due.sort();
            assert_eq!(got, due, "{name}");
        }
        let core = &self.world.core;
        assert_eq!(core.seats.len(), self.model.sessions.len());
        assert_eq!(core.router.len(), self.model.sessions.values().map(|s| s.subs.len()).sum::<usize>());
        assert!(core.seats.iter().all(|(_, seat)| seat.session.bytes() == 0 && seat.session.waiting() == 0));
        for (topic, (payload, _, deadline)) in &self.model.retained {
            let stored = core.retained.get(&TopicName::new(topic.as_str()).unwrap());
            let have = stored.map(|stored| std::str::from_utf8(&stored.message.payload).unwrap().to_owned());
            assert!(have == Some(payload.to_string()) || *deadline <= self.model.now, "{topic}: {have:?}");
        }
    }
}

/// Live messages of one QoS class come as they were published; payloads count up.
fn assert_in_order(got: &[Copy]) {
    for acknowledged in [false, true] {
        let live =
            got.iter().filter(|(n, qos, retain, _)| (*qos > 0) == acknowledged && !*retain && (1..WILLS).contains(n));
        let numbers: Vec<u32> = live.map(|copy| copy.0).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_client_gets_what_the_model_says_each_once_and_in_order(
        deeds in proptest::collection::vec(deeds(), 1..120),
    ) {
        let mut play = Play::new();
        deeds.into_iter().for_each(|deed| play.act(deed));
        play.finish();
    }
}
