//! Retained messages that a client's new subscriptions are still to get. They wait in the retained store and not here: a
//! cursor for each subscription, and a few messages fetched ahead, so that a slow client costs no list of 100,000, and a
//! restart in the middle costs the client nothing.

use std::collections::VecDeque;
use std::time::Instant;

use super::queue::Item;
use super::retained::Retained;
use super::session::Subscribed;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Retained messages fetched at once.
const STEP: usize = 32;

/// How far a subscription has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Its filter; shared subscriptions have no retained messages.
    pub filter: TopicFilter,
    /// The last topic that was sent.
    pub sent: Option<TopicName>,
}

#[derive(Debug)]
struct Replay {
    subscribed: Subscribed,
    sent: Option<TopicName>,
}

/// What one client is still to get of the retained store.
#[derive(Debug, Default)]
pub struct Replays {
    waiting: VecDeque<Replay>,
    /// Of the first one.
    ready: VecDeque<Item>,
}

impl Replays {
    /// Retained messages of a subscription are to be sent, from the first on.
    pub fn begin(&mut self, subscribed: &Subscribed) {
        self.stop(&subscribed.filter);
        self.go_on(subscribed.clone(), None);
    }

    /// The same from behind a topic on.
    pub fn go_on(&mut self, subscribed: Subscribed, sent: Option<TopicName>) {
        self.waiting.push_back(Replay { subscribed, sent });
    }

    /// Forgets what is still to be sent for a filter (MQTT-3.10.4-2).
    pub fn stop(&mut self, filter: &TopicFilter) {
        if self.waiting.front().is_some_and(|first| first.subscribed.filter == *filter) {
            self.ready.clear();
        }
        self.waiting.retain(|replay| replay.subscribed.filter != *filter);
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
        let item = self.ready.pop_front()?;
        if let Some(first) = self.waiting.front_mut() {
            first.sent = Some(item.stored.message.topic.clone());
        }
        Some(item)
    }

    /// How far those have got that are part of the session: QoS 0 is not.
    pub fn cursors(&self) -> Vec<Cursor> {
        let kept = self.waiting.iter().filter(|replay| replay.subscribed.options.qos > Qos::AtMostOnce);
        kept.map(|r| Cursor { filter: r.subscribed.filter.clone(), sent: r.sent.clone() }).collect()
    }

    /// `None` when no replay is left.
    fn fetch(&mut self, now: Instant, retained: &Retained) -> Option<()> {
        let Replay { subscribed, sent } = self.waiting.front()?;
        let some = retained.matching(&subscribed.filter, sent.as_ref(), STEP, now);
        for stored in some {
            let qos = stored.message.qos.min(subscribed.options.qos);
            let identifiers = subscribed.identifier.into_iter().collect();
            self.ready.push_back(Item { stored, qos, retain: true, identifiers, share: None });
        }
        if self.ready.is_empty() {
            self.waiting.pop_front();
        }
        Some(())
    }
}
