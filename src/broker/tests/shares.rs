//! Shared groups against what can be said of them without knowing whom the broker picks: a message goes to one member of each
//! group, over reconnects, restarts and the ends of members' sessions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::actor::Actor;
use super::actor::Greeting;
use super::actor::News;
use super::disk::Disk;
use super::world::World;
use crate::broker::queue::Depth;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const MEMBERS: usize = 4;
const FILTERS: [&str; 3] = ["a/+", "#", "a/b"];
const TOPICS: [&str; 3] = ["a/b", "a/c", "b"];

#[derive(Debug, Clone)]
enum Deed {
    Join(usize, u16),
    Drop(usize),
    /// A clean start and away again: the session ends.
    End(usize),
    Subscribe(usize, usize),
    Publish(usize, u8),
    Glance(usize),
    Drain(usize),
    Save,
    Restart,
}

fn deeds() -> impl Strategy<Value = Deed> {
    let who = || 0..MEMBERS;
    prop_oneof![
        5 => (who(), 1_u16..4).prop_map(|(who, window)| Deed::Join(who, window)),
        3 => who().prop_map(Deed::Drop),
        1 => who().prop_map(Deed::End),
        5 => (who(), 0..FILTERS.len()).prop_map(|(who, filter)| Deed::Subscribe(who, filter)),
        12 => (0..TOPICS.len(), 0_u8..3).prop_map(|(topic, qos)| Deed::Publish(topic, qos)),
        3 => who().prop_map(Deed::Glance),
        4 => who().prop_map(Deed::Drain),
        2 => Just(Deed::Save),
        1 => Just(Deed::Restart),
    ]
}

/// One message for one group.
#[derive(Debug)]
struct Due {
    payload: u32,
    group: usize,
    qos: u8,
    /// Somebody was there to take it.
    taken: bool,
}

struct Play {
    world: World,
    disk: Disk,
    members: Vec<Actor>,
    publisher: Actor,
    /// Groups by their filter, with the members that are in it.
    groups: BTreeMap<usize, Vec<usize>>,
    /// Groups that were empty once: what waited in them is gone.
    broken: Vec<usize>,
    ended: bool,
    due: Vec<Due>,
}

fn greeting(clean: bool, window: u16) -> Greeting {
    Greeting { v5: true, clean, expiry: if clean { 0 } else { 100_000 }, window, will: None }
}

impl Play {
    fn new() -> Self {
        let (mut world, disk) = (World::new(1000), Disk::default());
        world.restart(&disk);
        let mut publisher = Actor::new("publisher");
        publisher.join(&mut world, &greeting(false, 10));
        let members = (0..MEMBERS).map(|n| Actor::new(&format!("m{n}"))).collect();
        let (groups, broken, due) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { world, disk, members, publisher, groups, broken, ended: false, due }
    }

    fn act(&mut self, deed: &Deed) {
        let world = &mut self.world;
        match *deed {
            Deed::Join(who, window) if self.members[who].key.is_none() => {
                self.members[who].join(world, &greeting(false, window));
            }
            Deed::Join(..) => {}
            Deed::Drop(who) => self.members[who].drop(world),
            Deed::End(who) => {
                self.members[who].drop(world);
                self.members[who].join(world, &greeting(true, 1));
                self.members[who].drop(world);
                self.ended = true;
                for (group, members) in &mut self.groups {
                    members.retain(|member| *member != who);
                    if members.is_empty() {
                        self.broken.push(*group);
                    }
                }
            }
            Deed::Subscribe(who, group) if self.members[who].key.is_some() => {
                let filter = format!("$share/g/{}", FILTERS[group]);
                self.members[who].subscribe(world, &filter, 2, None);
                let members = self.groups.entry(group).or_default();
                members.retain(|member| *member != who);
                members.push(who);
            }
            Deed::Subscribe(..) => {}
            Deed::Publish(topic, qos) => self.publish(TOPICS[topic], qos),
            Deed::Glance(who) => self.members[who].glance(world),
            Deed::Drain(who) => self.members[who].drain(world),
            Deed::Save => world.save(&mut self.disk, Depth::Settled),
            Deed::Restart => {
                world.save(&mut self.disk, Depth::All);
                world.restart(&self.disk);
                self.members.iter_mut().for_each(Actor::lose);
                self.publisher.join(world, &greeting(false, 10));
            }
        }
    }

    fn publish(&mut self, topic: &str, qos: u8) {
        let payload = self.due.len() as u32 + 1000;
        let news = News { topic: topic.to_owned(), payload: Some(payload), qos, retain: false, expiry: None };
        self.publisher.publish(&mut self.world, &news);
        let name = TopicName::new(topic).unwrap();
        for (group, members) in &self.groups {
            if TopicFilter::new(FILTERS[*group]).unwrap().matches(&name) && !members.is_empty() {
                let there = members.iter().any(|who| self.members[*who].key.is_some());
                self.due.push(Due { payload, group: *group, qos, taken: qos > 0 || there });
            }
        }
        // The payload counts, even where nobody wants it.
        if self.due.last().is_none_or(|due| due.payload != payload) {
            self.due.push(Due { payload, group: usize::MAX, qos, taken: false });
        }
    }

    fn finish(mut self) {
        for who in 0..MEMBERS {
            if self.members[who].key.is_none() {
                self.members[who].join(&mut self.world, &greeting(false, 3));
            }
        }
        // What one hands on another may get after it was asked.
        for who in (0..MEMBERS).chain(0..MEMBERS) {
            self.members[who].drain(&mut self.world);
        }
        let mut got: BTreeMap<u32, usize> = BTreeMap::new();
        for (payload, ..) in self.members.iter().flat_map(|member| &member.got) {
            *got.entry(*payload).or_default() += 1;
        }
        let mut due: BTreeMap<u32, Vec<&Due>> = BTreeMap::new();
        for one in &self.due {
            due.entry(one.payload).or_default().push(one);
        }
        for (payload, groups) in due {
            let count = got.get(&payload).copied().unwrap_or(0);
            let most = groups.iter().filter(|one| one.taken).count();
            // Somebody who goes for good takes a QoS 2 message that was begun along, and QoS 0 unread.
            let safe = |one: &&&Due| one.taken && !self.broken.contains(&one.group) && (!self.ended || one.qos == 1);
            let least = groups.iter().filter(safe).filter(|one| one.qos > 0).count();
            assert!(count >= least, "{payload}: {count} of at least {least}");
            // A QoS 1 message may be handed on although its member had it.
            if !self.ended || groups[0].qos == 2 {
                assert!(count <= most, "{payload}: {count} of at most {most}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_message_goes_to_one_member_of_each_group(deeds in proptest::collection::vec(deeds(), 1..120)) {
        let mut play = Play::new();
        deeds.iter().for_each(|deed| play.act(deed));
        play.finish();
    }
}
