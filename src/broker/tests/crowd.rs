//! A thousand clients at once, with filters of all shapes: who gets what is compared with a list of subscriptions, gone through
//! one by one.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::actor::Actor;
use super::actor::Greeting;
use super::actor::News;
use super::world::World;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

const CLIENTS: usize = 1000;
const PUBLICATIONS: u32 = 300;

#[test]
fn a_thousand_clients_get_what_their_filters_match() {
    let mut runner = TestRunner::deterministic();
    let mut pick = |pattern: &str| {
        let strategy = proptest::string::string_regex(pattern).unwrap();
        strategy.new_tree(&mut runner).unwrap().current()
    };
    let mut world = World::new(1000);
    let mut clients: Vec<(Actor, BTreeSet<String>)> = Vec::new();
    for n in 0..CLIENTS {
        let mut actor = Actor::new(&format!("client-{n}"));
        actor.join(&mut world, &Greeting { v5: n % 2 == 0, clean: true, expiry: 0, window: 100, will: None });
        let filters: BTreeSet<String> =
            (0..1 + n % 4).map(|_| pick("([a-f]|\\+)(/([a-f]|\\+|)){0,4}(/#)?|\\$z(/[a-f+]){1,2}")).collect();
        for filter in &filters {
            actor.subscribe(&mut world, filter, (n % 3) as u8, None);
        }
        clients.push((actor, filters));
    }
    let mut due: Vec<Vec<u32>> = vec![Vec::new(); CLIENTS];
    for payload in 1..=PUBLICATIONS {
        let topic = pick("[a-f](/[a-f]?){0,4}|\\$z(/[a-f]){1,2}");
        let name = TopicName::new(topic.as_str()).unwrap();
        for (client, (_, filters)) in clients.iter().enumerate() {
            if filters.iter().any(|filter| TopicFilter::new(filter.as_str()).unwrap().matches(&name)) {
                due[client].push(payload);
            }
        }
        let qos = (payload % 3) as u8;
        let news = News { topic, payload: Some(payload), qos, retain: false, expiry: None };
        clients[payload as usize % CLIENTS].0.publish(&mut world, &news);
        // Some read at once, some later.
        if payload % 50 == 0 {
            clients.iter_mut().for_each(|(actor, _)| actor.drain(&mut world));
        }
    }
    let mut deliveries = 0;
    for (client, (actor, _)) in clients.iter_mut().enumerate() {
        actor.drain(&mut world);
        let mut got: Vec<u32> = actor.got.iter().map(|copy| copy.0).collect();
        got.sort_unstable();
        assert_eq!(got, due[client]);
        deliveries += got.len();
    }
    assert!(deliveries > 5_000, "{deliveries}");
}
