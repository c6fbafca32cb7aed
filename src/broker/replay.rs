//! Retained messages that a client's new subscriptions are still to get. They wait in the retained store and not here: a
//! cursor for each subscription, and a few messages fetched ahead, so that a slow client costs no list of 100,000.

use std::collections::VecDeque;
use std::time::Instant;

use super::packet::Options;
use super::queue::Item;
use super::retained::Retained;
use super::session::Subscribed;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Retained messages fetched at once.
const STEP: usize = 32;

#[derive(Debug)]
struct Replay {
    filter: TopicFilter,
    options: Options,
    identifier: Option<u32>,
    after: Option<TopicName>,
}

/// What one client is still to get of the retained store.
#[derive(Debug, Default)]
pub struct Replays {
    waiting: VecDeque<Replay>,
    ready: VecDeque<Item>,
}

impl Replays {
    /// Retained messages of a subscription are to be sent, from the first on.
    pub fn begin(&mut self, subscribed: &Subscribed) {
        self.stop(&subscribed.filter);
        let Subscribed { filter, options, identifier, .. } = subscribed.clone();
        self.waiting.push_back(Replay { filter, options, identifier, after: None });
    }

    /// Forgets what is still to be sent for a filter.
    pub fn stop(&mut self, filter: &TopicFilter) {
        self.waiting.retain(|replay| replay.filter != *filter);
    }

    /// Forgets what was fetched ahead and is on a topic that is not for this client (any more).
    pub fn forget(&mut self, foreign: impl Fn(&TopicName) -> bool) {
        self.ready.retain(|item| !foreign(&item.stored.message.topic));
    }

    /// QoS of the next one; `None` when nothing is left.
    pub fn peek(&mut self, now: Instant, retained: &Retained) -> Option<Qos> {
        while self.ready.is_empty() {
            self.fetch(now, retained)?;
        }
        self.ready.front().map(|item| item.qos)
    }

    /// Takes the one that was peeked at.
    pub fn pop(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }

    /// `None` when no replay is left.
    fn fetch(&mut self, now: Instant, retained: &Retained) -> Option<()> {
        let replay = self.waiting.front_mut()?;
        let some = retained.matching(&replay.filter, replay.after.as_ref(), STEP, now);
        match some.last() {
            Some(last) => replay.after = Some(last.message.topic.clone()),
            None => {
                self.waiting.pop_front();
                return Some(());
            }
        }
        for stored in some {
            let qos = stored.message.qos.min(replay.options.qos);
            let identifiers = replay.identifier.into_iter().collect();
            self.ready.push_back(Item { stored, qos, retain: true, identifiers, share: None });
        }
        Some(())
    }
}
