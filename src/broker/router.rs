//! Who gets what: the tree of subscriptions, one level of a topic a step. Pure.
//! Overlapping subscriptions of one client become one delivery with the highest QoS and all subscription identifiers;
//! a shared group picks one member, preferring those that can take the message now.

use std::collections::HashMap;
use std::sync::Arc;

use super::packet::Options;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Most bytes of the tree, all clients together: some 100,000 filters. Full: new filters of clients are refused (0x97).
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// A level in its parent's map, filled to two thirds, and its name's allocation …
const LEVEL: usize = 280;
/// … the first block of that map, of four, beyond the one slot that is counted already …
const MAP: usize = 420;
/// … and a subscription: the list's first block of four, its session's entry, and its text twice.
const SUBSCRIPTION: usize = 340;

/// Who a subscription belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subscriber {
    /// A client's session.
    Session(usize),
    /// A part of this process.
    Local(usize),
}

/// A subscription as the tree keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Whose.
    pub who: Subscriber,
    /// How to deliver.
    pub options: Options,
    /// Subscription identifier.
    pub identifier: Option<u32>,
}

/// A shared group: members of one name with one filter (4.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Share name.
    pub group: Arc<str>,
    /// Without `$share/{name}/`.
    pub filter: TopicFilter,
}

/// One delivery to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// To whom.
    pub who: Subscriber,
    /// Through this shared group: such a delivery is never merged with others.
    pub share: Option<Arc<Share>>,
    /// Most QoS.
    pub qos: Qos,
    /// Whether the retain flag stays.
    pub retain_as_published: bool,
    /// Subscription identifiers of all that matched.
    pub identifiers: Vec<u32>,
}

/// The tree.
#[derive(Debug, Default)]
pub struct Router {
    root: Node,
    count: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    plus: Option<Box<Node>>,
    here: Entries,
    /// Subscriptions that end in `#` at this level.
    rest: Entries,
}

#[derive(Debug, Default)]
struct Entries {
    plain: Vec<Subscription>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    share: Arc<Share>,
    members: Vec<Subscription>,
    turn: usize,
}

impl Router {
    /// Adds a subscription or replaces the subscriber's equal one.
    pub fn insert(&mut self, filter: &TopicFilter, group: Option<&Arc<str>>, subscription: Subscription) {
        let mut node = &mut self.root;
        let mut rest = false;
        for level in filter.as_str().split('/') {
            match level {
                "#" => rest = true,
                "+" => {
                    self.bytes += if node.plus.is_none() { LEVEL } else { 0 };
                    node = node.plus.get_or_insert_default();
                }
                _ => {
                    self.bytes += if node.children.contains_key(level) { 0 } else { node.price(level) };
                    node = node.children.entry(level.into()).or_default();
                }
            }
        }
        let entries = if rest { &mut node.rest } else { &mut node.here };
        let list = match group {
            None => &mut entries.plain,
            Some(group) => entries.members(group, filter),
        };
        match list.iter_mut().find(|s| s.who == subscription.who) {
            Some(old) => *old = subscription,
            None => {
                list.push(subscription);
                self.count += 1;
                self.bytes += SUBSCRIPTION + 2 * filter.as_str().len();
            }
        }
    }

    /// Takes a subscription out; false when there was none.
    pub fn remove(&mut self, filter: &TopicFilter, group: Option<&Arc<str>>, who: Subscriber) -> bool {
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        let mut freed = 0;
        let removed = self.root.remove(&levels, group, who, &mut freed);
        self.bytes -= freed;
        if removed {
            self.count -= 1;
            self.bytes -= SUBSCRIPTION + 2 * filter.as_str().len();
        }
        removed
    }

    /// About what it costs to keep, in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// No more is to be taken in from clients.
    pub const fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Subscriptions held.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// None held.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends all deliveries of a message on `topic` to `found`, one a subscriber. `able` tells who can take it now,
    /// `origin` who published (for "no local").
    pub fn matching(
        &mut self,
        topic: &TopicName,
        origin: Option<Subscriber>,
        able: impl Fn(Subscriber) -> bool,
        found: &mut Vec<Match>,
    ) {
        let mut walk = Walk { origin, able, found };
        let text = topic.as_str();
        self.root.collect(Some(text), !text.starts_with('$'), &mut walk);
        merge(found);
    }

    /// Whose turn it is in a group, if there is anybody left in it.
    pub fn pick(&mut self, share: &Share, able: impl Fn(Subscriber) -> bool) -> Option<Match> {
        let mut node = &mut self.root;
        let mut rest = false;
        for level in share.filter.as_str().split('/') {
            match level {
                "#" => rest = true,
                "+" => node = node.plus.as_deref_mut()?,
                _ => node = node.children.get_mut(level)?,
            }
        }
        let entries = if rest { &mut node.rest } else { &mut node.here };
        entries.groups.iter_mut().find(|group| group.share.group == share.group)?.pick(able)
    }
}

fn merge(found: &mut Vec<Match>) {
    if found.len() < 2 {
        return;
    }
    found.sort_by_key(|m| (m.who, m.share.is_some()));
    found.dedup_by(|next, kept| {
        if next.who != kept.who || next.share.is_some() || kept.share.is_some() {
            return false;
        }
        kept.qos = kept.qos.max(next.qos);
        kept.retain_as_published |= next.retain_as_published;
        kept.identifiers.append(&mut next.identifiers);
        true
    });
}

struct Walk<'a, F> {
    origin: Option<Subscriber>,
    able: F,
    found: &'a mut Vec<Match>,
}

impl Node {
    /// `left` is the rest of the topic, `None` at its end. Depth is bounded by `topic::MAX_LEVELS`.
    fn collect<F: Fn(Subscriber) -> bool>(&mut self, left: Option<&str>, wildcards: bool, walk: &mut Walk<'_, F>) {
        if wildcards {
            self.rest.collect(walk);
        }
        let Some(left) = left else { return self.here.collect(walk) };
        let (level, left) = match left.split_once('/') {
            Some((level, left)) => (level, Some(left)),
            None => (left, None),
        };
        if wildcards && let Some(plus) = &mut self.plus {
            plus.collect(left, true, walk);
        }
        if let Some(child) = self.children.get_mut(level) {
            child.collect(left, true, walk);
        }
    }

    fn remove(&mut self, levels: &[&str], group: Option<&Arc<str>>, who: Subscriber, freed: &mut usize) -> bool {
        let Some((level, left)) = levels.split_first() else { return self.here.remove(group, who) };
        match *level {
            "#" => self.rest.remove(group, who),
            "+" => {
                let Some(plus) = &mut self.plus else { return false };
                let removed = plus.remove(left, group, who, freed);
                if plus.is_empty() {
                    self.plus = None;
                    *freed += LEVEL;
                }
                removed
            }
            level => {
                let Some(child) = self.children.get_mut(level) else { return false };
                let removed = child.remove(left, group, who, freed);
                if child.is_empty() {
                    self.children.remove(level);
                    *freed += self.price(level);
                }
                removed
            }
        }
    }

    /// What one more level below costs; what its going frees, when it has gone.
    fn price(&self, level: &str) -> usize {
        LEVEL + level.len() + if self.children.is_empty() { MAP } else { 0 }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

impl Entries {
    const fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    fn members(&mut self, name: &Arc<str>, filter: &TopicFilter) -> &mut Vec<Subscription> {
        let at = self.groups.iter().position(|group| group.share.group == *name).unwrap_or_else(|| {
            let share = Arc::new(Share { group: Arc::clone(name), filter: filter.clone() });
            self.groups.push(Group { share, members: Vec::new(), turn: 0 });
            self.groups.len() - 1
        });
        &mut self.groups[at].members
    }

    fn remove(&mut self, group: Option<&Arc<str>>, who: Subscriber) -> bool {
        let list = match group {
            None => &mut self.plain,
            Some(name) => match self.groups.iter_mut().find(|group| group.share.group == *name) {
                Some(group) => &mut group.members,
                None => return false,
            },
        };
        let before = list.len();
        list.retain(|s| s.who != who);
        let removed = list.len() < before;
        self.groups.retain(|g| !g.members.is_empty());
        removed
    }

    fn collect<F: Fn(Subscriber) -> bool>(&mut self, walk: &mut Walk<'_, F>) {
        for subscription in &self.plain {
            if !(subscription.options.no_local && walk.origin == Some(subscription.who)) {
                walk.found.push(delivery(subscription, None));
            }
        }
        for group in &mut self.groups {
            walk.found.extend(group.pick(&walk.able));
        }
    }
}

impl Group {
    /// Members take turns; one that cannot take it now gets its turn only when nobody can.
    fn pick(&mut self, able: impl Fn(Subscriber) -> bool) -> Option<Match> {
        let count = self.members.len();
        let turns = (0..count).map(|n| (self.turn + n) % count);
        let at = turns.clone().find(|at| able(self.members[*at].who)).or_else(|| turns.clone().next())?;
        self.turn = (at + 1) % count;
        self.members.get(at).map(|member| delivery(member, Some(Arc::clone(&self.share))))
    }
}

fn delivery(subscription: &Subscription, share: Option<Arc<Share>>) -> Match {
    Match {
        who: subscription.who,
        share,
        qos: subscription.options.qos,
        retain_as_published: subscription.options.retain_as_published,
        identifiers: subscription.identifier.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn add(router: &mut Router, filter: &str, group: Option<&str>, who: usize, identifier: u32) {
        let group = group.map(Arc::from);
        let who = Subscriber::Session(who);
        let options = Options { qos: Qos::AtLeastOnce, ..Options::default() };
        let subscription = Subscription { who, options, identifier: Some(identifier) };
        router.insert(&TopicFilter::new(filter).unwrap(), group.as_ref(), subscription);
    }

    fn found(router: &mut Router, topic: &str, online: impl Fn(Subscriber) -> bool) -> Vec<Match> {
        let mut found = Vec::new();
        router.matching(&name(topic), None, online, &mut found);
        found
    }

    #[test]
    fn overlapping_subscriptions_are_one_delivery_with_all_identifiers() {
        let mut router = Router::default();
        add(&mut router, "a/+", None, 1, 7);
        add(&mut router, "a/#", None, 1, 8);
        add(&mut router, "#", None, 2, 9);
        let got = found(&mut router, "a/b", |_| true);
        assert_eq!(got.len(), 2);
        let mut ids = got[0].identifiers.clone();
        ids.sort_unstable();
        assert_eq!(ids, [7, 8]);
    }

    #[test]
    fn shared_groups_take_turns_and_prefer_who_is_online() {
        let mut router = Router::default();
        for who in 0..3 {
            add(&mut router, "a", Some("g"), who, 1);
        }
        let mut pick = |away: usize| found(&mut router, "a", |s| s != Subscriber::Session(away))[0].who;
        let picked: Vec<_> = (0..4).map(|_| pick(1)).collect();
        assert!(!picked.contains(&Subscriber::Session(1)));
        assert!(picked.contains(&Subscriber::Session(0)) && picked.contains(&Subscriber::Session(2)));
        assert_eq!(found(&mut router, "a", |_| false).len(), 1, "all away: one of them still gets it");
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let mut router = Router::default();
        for filter in ["a/b/c", "+/b/#", "#"] {
            add(&mut router, filter, None, 1, 1);
        }
        for filter in ["a/b/c", "+/b/#", "#"] {
            let filter = TopicFilter::new(filter).unwrap();
            assert!(router.remove(&filter, None, Subscriber::Session(1)));
            assert!(!router.remove(&filter, None, Subscriber::Session(1)));
        }
        assert!(router.is_empty() && router.root.is_empty());
    }

    proptest! {
        #[test]
        fn routing_equals_the_naive_matcher(
            filters in proptest::collection::vec("(\\$S|[ab]|\\+|)(/([ab]|\\+|)){0,3}(/#)?", 1..12),
            topic in "(\\$S|[ab]|)(/[ab]?){0,3}",
        ) {
            let Ok(topic) = TopicName::new(topic) else { return Ok(()) };
            let filters: Vec<_> = filters.into_iter().filter_map(|f| TopicFilter::new(f).ok()).collect();
            let mut router = Router::default();
            for (who, filter) in filters.iter().enumerate() {
                add(&mut router, filter.as_str(), None, who, 1);
            }
            let mut got = Vec::new();
            router.matching(&topic, None, |_| true, &mut got);
            let got: Vec<_> = got.iter().map(|m| m.who).collect();
            let want: Vec<_> = (0..filters.len()).filter(|n| filters[*n].matches(&topic)).map(Subscriber::Session).collect();
            prop_assert_eq!(got, want);
        }
    }
}
