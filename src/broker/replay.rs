//! Retained messages that a client's new subscriptions are still to get. They wait in the retained store and not here: a
//! cursor for each subscription, and a few messages fetched ahead, so that a slow client costs no list of 100,000, and a
//! restart in the middle costs the client nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::queue::Item;
use super::retained::Budget;
use super::retained::Retained;
use super::retained::Start;
use super::session::Subscribed;
use super::stored::Life;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Retained messages fetched at once.
const STEP: usize = 32;
/// Levels of retained topics looked at in one turn, half a millisecond's work: a filter that fits nothing has to look at all there
/// are, and a client may have thousands of such.
const EFFORT: usize = 10_000;

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
    search: Search,
}

#[derive(Debug)]
enum Search {
    /// Behind what was sent.
    Begins,
    /// From there.
    GoesOn(Box<str>),
    /// All was found; some of it may wait to be sent.
    Over,
}

/// What one client is still to get of the retained store.
#[derive(Debug)]
pub struct Replays {
    waiting: VecDeque<Replay>,
    /// Of the first one.
    ready: VecDeque<Item>,
    /// What is left of this turn's [`EFFORT`].
    effort: usize,
}

impl Default for Replays {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), ready: VecDeque::new(), effort: EFFORT }
    }
}

impl Replays {
    /// Retained messages of a subscription are to be sent, from the first on.
    pub fn begin(&mut self, subscribed: &Subscribed) {
        self.stop(&subscribed.filter);
        self.go_on(subscribed.clone(), None);
    }

    /// The same from behind a topic on.
    pub fn go_on(&mut self, subscribed: Subscribed, sent: Option<TopicName>) {
        self.waiting.push_back(Replay { subscribed, sent, search: Search::Begins });
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

    /// Whether a search has paused so that others have their turn.
    pub fn is_searching(&self) -> bool {
        self.effort == 0 && self.ready.is_empty() && !self.waiting.is_empty()
    }

    /// Another turn: a search may go on.
    pub const fn take_turn(&mut self) {
        self.effort = EFFORT;
    }

    /// QoS of the next one; `None` when nothing is left, or a search has paused. What was fetched ahead may have been replaced or
    /// cleared meanwhile, and this client told so: the old value behind the new one would stay with it as the latest.
    pub fn peek(&mut self, now: Instant, retained: &Retained) -> Option<Qos> {
        loop {
            let (Some(item), Some(first)) = (self.ready.front_mut(), self.waiting.front()) else {
                self.fetch(now, retained)?;
                continue;
            };
            let kept = retained.get(&item.stored.message.topic).filter(|kept| kept.life(now) != Life::Expired);
            if let Some(kept) = kept {
                item.stored = Arc::clone(kept);
                item.qos = kept.message.qos.min(first.subscribed.options.qos);
                return Some(item.qos);
            }
            self.pop();
        }
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

    /// `None` when no replay is left, or this turn's effort is spent.
    fn fetch(&mut self, now: Instant, retained: &Retained) -> Option<()> {
        let Replay { subscribed, sent, search } = self.waiting.front_mut()?;
        let start = match search {
            Search::Over => {
                self.waiting.pop_front();
                return Some(());
            }
            _ if self.effort == 0 => return None,
            Search::GoesOn(place) => Start::At(place),
            Search::Begins => sent.as_ref().map_or(Start::Front, |topic| Start::Behind(topic.as_str())),
        };
        let mut budget = Budget { messages: STEP, levels: self.effort };
        let found = retained.search(&subscribed.filter, start, &mut budget, now);
        self.effort = budget.levels;
        *search = found.next.map_or(Search::Over, Search::GoesOn);
        for stored in found.messages {
            let qos = stored.message.qos.min(subscribed.options.qos);
            let identifiers = subscribed.identifier.into_iter().collect();
            self.ready.push_back(Item { stored, qos, retain: true, identifiers, share: None });
        }
        Some(())
    }
}
