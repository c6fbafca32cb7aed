//! Subscriptions and retained messages in their trees against the plain matcher: the same subscribers, one of each shared group,
//! the same retained messages in any steps, and nothing left behind when all are given back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use trunkline::bench::mqtt::choices::Choices;
use trunkline::broker::packet::Options;
use trunkline::broker::retained::Budget;
use trunkline::broker::retained::Retained;
use trunkline::broker::retained::Start;
use trunkline::broker::router::Router;
use trunkline::broker::router::Subscriber;
use trunkline::broker::router::Subscription;
use trunkline::broker::stored::Stored;
use trunkline::message::Message;
use trunkline::message::Retain;
use trunkline::topic::Qos;
use trunkline::topic::TopicFilter;
use trunkline::topic::TopicName;

/// Few words, so that things meet.
const WORDS: [&str; 12] = ["/", "a", "/", "b", "/", "+", "/#", "#", "$S", "", "é", "ab"];

type Key = (TopicFilter, Option<Arc<str>>, usize);

#[derive(Default)]
struct World {
    router: Router,
    subscribed: BTreeMap<Key, Qos>,
    retained: Retained,
    kept: BTreeSet<TopicName>,
}

pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::default();
    while !choices.is_done() {
        match choices.below(6) {
            0 | 1 => world.subscribe(&mut choices),
            2 => world.give_back(&mut choices),
            3 => world.keep(&mut choices),
            4 => world.compare_routing(&mut choices),
            _ => world.compare_retained(&mut choices),
        }
    }
    world.leave();
}

fn text(choices: &mut Choices<'_>) -> String {
    if choices.is(8) {
        return String::from_utf8_lossy(choices.some()).into_owned();
    }
    (0..choices.below(9)).map(|_| choices.one_of(&WORDS)).collect()
}

fn key(choices: &mut Choices<'_>) -> Option<Key> {
    let filter = TopicFilter::new(text(choices)).ok()?;
    let group = choices.is(3).then(|| choices.one_of(&["g", "h"]).into());
    Some((filter, group, choices.below(4)))
}

impl World {
    fn subscribe(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = key(choices) else { return };
        let qos = Qos::try_from(choices.below(3) as u8).expect("below 3");
        let who = Subscriber::Session(key.2);
        let options = Options { qos, ..Options::default() };
        self.router.insert(&key.0, key.1.as_ref(), Subscription { who, options, identifier: None });
        self.subscribed.insert(key, qos);
        assert_eq!(self.router.len(), self.subscribed.len());
    }

    fn give_back(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = key(choices) else { return };
        let had = self.subscribed.remove(&key).is_some();
        assert_eq!(self.router.remove(&key.0, key.1.as_ref(), Subscriber::Session(key.2)), had);
    }

    fn keep(&mut self, choices: &mut Choices<'_>) {
        let Ok(topic) = TopicName::new(text(choices)) else { return };
        let payload = if choices.is(3) { "" } else { "x" };
        let message =
            Message::plain(topic.clone(), Bytes::from_static(payload.as_bytes()), Qos::AtMostOnce, Retain::Yes);
        assert!(self.retained.set(&Arc::new(Stored { message, born: Instant::now() })));
        if payload.is_empty() {
            self.kept.remove(&topic);
        } else {
            self.kept.insert(topic);
        }
        assert_eq!(self.retained.len(), self.kept.len());
    }

    fn compare_routing(&mut self, choices: &mut Choices<'_>) {
        let Ok(topic) = TopicName::new(text(choices)) else { return };
        let mut found = Vec::new();
        self.router.matching(&topic, None, |_| true, &mut found);
        let mut plain = BTreeMap::new();
        let mut groups: BTreeMap<_, Vec<Subscriber>> = BTreeMap::new();
        for ((filter, group, who), qos) in self.subscribed.iter().filter(|((filter, ..), _)| filter.matches(&topic)) {
            let who = Subscriber::Session(*who);
            match group {
                Some(name) => groups.entry((filter, name)).or_default().push(who),
                None => {
                    let most = plain.entry(who).or_insert(*qos);
                    *most = (*most).max(*qos);
                }
            }
        }
        let got: BTreeMap<_, _> = found.iter().filter(|m| m.share.is_none()).map(|m| (m.who, m.qos)).collect();
        assert_eq!(got, plain, "{topic}");
        assert_eq!(found.iter().filter(|m| m.share.is_none()).count(), got.len(), "one delivery each");
        let mut shared: Vec<_> = found.iter().filter(|m| m.share.is_some()).map(|m| m.who).collect();
        assert_eq!(shared.len(), groups.len(), "{topic}: one of each group");
        for members in groups.values().filter(|members| members.len() == 1) {
            let at = shared.iter().position(|who| *who == members[0]);
            shared.remove(at.expect("its only member"));
        }
    }

    fn compare_retained(&mut self, choices: &mut Choices<'_>) {
        let Ok(filter) = TopicFilter::new(text(choices)) else { return };
        let step = 1 + choices.below(3);
        let (mut got, mut after) = (Vec::new(), None);
        loop {
            let some = self.retained.matching(&filter, after.as_ref(), step, Instant::now());
            let Some(last) = some.last() else { break };
            after = Some(last.message.topic.clone());
            got.extend(some.iter().map(|stored| stored.message.topic.clone()));
            assert!(got.len() <= self.kept.len(), "{filter} goes round");
        }
        let (mut searched, mut from) = (Vec::new(), None::<Box<str>>);
        loop {
            let mut budget = Budget { messages: 2, levels: step };
            let start = from.as_deref().map_or(Start::Front, Start::At);
            let found = self.retained.search(&filter, start, &mut budget, Instant::now());
            searched.extend(found.messages.iter().map(|stored| stored.message.topic.clone()));
            assert!(searched.len() <= self.kept.len(), "{filter} goes round");
            from = found.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(searched, got, "{filter} in small turns");
        got.sort();
        let want: Vec<_> = self.kept.iter().filter(|topic| filter.matches(topic)).cloned().collect();
        assert_eq!(got, want, "{filter}");
    }

    fn leave(mut self) {
        for (filter, group, who) in std::mem::take(&mut self.subscribed).into_keys() {
            assert!(self.router.remove(&filter, group.as_ref(), Subscriber::Session(who)));
        }
        for topic in std::mem::take(&mut self.kept) {
            let message = Message::plain(topic, Bytes::new(), Qos::AtMostOnce, Retain::Yes);
            self.retained.set(&Arc::new(Stored { message, born: Instant::now() }));
        }
        assert_eq!((self.router.len(), self.router.bytes(), self.retained.bytes()), (0, 0, 0));
    }
}
