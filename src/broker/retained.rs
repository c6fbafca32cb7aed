//! The last message of each topic that was published to be kept. Pure.
//! Read in steps: a cursor (the last topic given out) lets a slow subscriber take 100,000 of them without anybody
//! holding a list of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::stored::Life;
use super::stored::Stored;
use crate::topic::MAX_BYTES as MAX_TOPIC;
use crate::topic::MAX_LEVELS;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Most bytes kept: some 120,000 small values. Full: a message is delivered but not kept, and that is counted.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// A level of a topic in its parent's map, filled to two thirds, and its name's allocation …
const LEVEL: usize = 112;
/// … and the map of the levels below it, whose first block has room for eleven. Without this a topic of 200 levels, which takes
/// 400 bytes on the wire, would keep 130 kB here and count as 600 bytes.
const MAP: usize = 544;

/// The tree of kept messages.
#[derive(Debug, Default)]
pub struct Retained {
    root: Node,
    count: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, Node>,
    kept: Option<Arc<Stored>>,
}

impl Retained {
    /// Messages kept.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// None kept.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes kept, about.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the message, or clears its topic when the payload is empty (3.3.1.3). False: the store is full.
    pub fn set(&mut self, stored: &Arc<Stored>) -> bool {
        let topic = &stored.message.topic;
        if stored.message.payload.is_empty() {
            self.clear(topic);
            return true;
        }
        if !self.has_room(stored) {
            // A stale value would be worse than none.
            self.clear(topic);
            return false;
        }
        let mut node = &mut self.root;
        for level in topic.as_str().split('/') {
            if !node.children.contains_key(level) {
                self.bytes += node.price(level);
                node.children.insert(level.into(), Node::default());
            }
            node = node.children.get_mut(level).expect("inserted above");
        }
        self.bytes += stored.size();
        match node.kept.replace(Arc::clone(stored)) {
            Some(old) => self.bytes -= old.size(),
            None => self.count += 1,
        }
        true
    }

    fn has_room(&self, stored: &Stored) -> bool {
        let after = self.bytes + stored.size();
        // Nearly always it is far from full, whatever the topic may add, and nobody need walk the tree twice.
        if after + MAX_LEVELS * (LEVEL + MAP) + MAX_TOPIC <= MAX_BYTES {
            return true;
        }
        let topic = &stored.message.topic;
        let old = self.get(topic).map_or(0, |old| old.size());
        after + self.root.missing(topic) - old <= MAX_BYTES
    }

    fn clear(&mut self, topic: &TopicName) {
        let levels: Vec<&str> = topic.as_str().split('/').collect();
        let mut freed = 0;
        if let Some(old) = self.root.clear(&levels, &mut freed) {
            self.count -= 1;
            self.bytes -= old.size() + freed;
        }
    }

    /// At most `limit` messages that match, in the tree's order, beginning behind `after`.
    pub fn matching(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        now: Instant,
    ) -> Vec<Arc<Stored>> {
        let start = after.map_or(Start::Front, |topic| Start::Behind(topic.as_str()));
        self.walk(filter, start, Walk::new(limit, usize::MAX, now)).0.found
    }

    /// Messages that match, from there on, within a budget: a filter that fits nothing may have to look at all levels there are.
    pub fn search(&self, filter: &TopicFilter, start: Start<'_>, budget: &mut Budget, now: Instant) -> Found {
        let (walk, next) = self.walk(filter, start, Walk::new(budget.messages, budget.levels, now));
        budget.levels = walk.effort;
        Found { messages: walk.found, next }
    }

    fn walk<'a>(&'a self, filter: &TopicFilter, start: Start<'_>, mut walk: Walk<'a>) -> (Walk<'a>, Option<Box<str>>) {
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        let path: Option<Vec<&str>> = match start {
            Start::Front => None,
            Start::Behind(path) | Start::At(path) => Some(path.split('/').collect()),
        };
        walk.inclusive = matches!(start, Start::At(_));
        self.root.collect(&levels, path.as_deref(), At::Root, &mut walk);
        walk.path.reverse();
        let next = walk.stopped.then(|| walk.path.join("/").into());
        (walk, next)
    }

    /// What is kept for a topic, expired or not.
    pub fn get(&self, topic: &TopicName) -> Option<&Arc<Stored>> {
        let node = topic.as_str().split('/').try_fold(&self.root, |node, level| node.children.get(level))?;
        node.kept.as_ref()
    }

    /// Everything that is kept.
    pub fn all(&self) -> Vec<Arc<Stored>> {
        let mut found = Vec::with_capacity(self.count);
        self.root.all(&mut found);
        found
    }

    /// Forgets what has expired and says what that was.
    pub fn sweep(&mut self, now: Instant) -> Vec<Arc<Stored>> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        self.root.sweep(now, &mut gone, &mut freed);
        self.count -= gone.len();
        self.bytes -= gone.iter().map(|stored| stored.size()).sum::<usize>() + freed;
        gone
    }
}

/// What a search may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Find so many messages.
    pub messages: usize,
    /// Look at so many levels of topics, at least 1; what it has looked at is taken off.
    pub levels: usize,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// In the tree's order.
    pub messages: Vec<Arc<Stored>>,
    /// Where to go on; `None`: that was all.
    pub next: Option<Box<str>>,
}

/// Where a search begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// With the first there is.
    Front,
    /// This one was given out.
    Behind(&'a str),
    /// Where an earlier search has stopped: this one was not looked at yet.
    At(&'a str),
}

struct Walk<'a> {
    limit: usize,
    effort: usize,
    now: Instant,
    found: Vec<Arc<Stored>>,
    inclusive: bool,
    stopped: bool,
    /// The levels down to where it stopped, the last one first.
    path: Vec<&'a str>,
}

impl Walk<'_> {
    const fn new(limit: usize, effort: usize, now: Instant) -> Self {
        Self { limit, effort, now, found: Vec::new(), inclusive: false, stopped: false, path: Vec::new() }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum At {
    Root,
    Below,
}

impl Node {
    /// What one more level below costs; what its going frees, when it has gone.
    fn price(&self, level: &str) -> usize {
        LEVEL + level.len() + if self.children.is_empty() { MAP } else { 0 }
    }

    /// What the levels cost that a topic would add.
    fn missing(&self, topic: &TopicName) -> usize {
        let (mut node, mut cost) = (Some(self), 0);
        for level in topic.as_str().split('/') {
            let next = node.and_then(|node| node.children.get(level));
            if next.is_none() {
                cost += node.map_or(LEVEL + MAP + level.len(), |node| node.price(level));
            }
            node = next;
        }
        cost
    }

    fn clear(&mut self, levels: &[&str], freed: &mut usize) -> Option<Arc<Stored>> {
        let Some((level, left)) = levels.split_first() else { return self.kept.take() };
        let child = self.children.get_mut(*level)?;
        let old = child.clear(left, freed);
        if child.kept.is_none() && child.children.is_empty() {
            self.children.remove(*level);
            *freed += self.price(level);
        }
        old
    }

    /// `after`: only what comes behind this path, seen from here. Depth is bounded by `topic::MAX_LEVELS`.
    fn collect<'a>(&'a self, filter: &[&str], after: Option<&[&str]>, at: At, walk: &mut Walk<'a>) {
        if walk.found.len() >= walk.limit || walk.effort == 0 {
            walk.stopped = true;
            return;
        }
        let after = after.filter(|path| !(path.is_empty() && walk.inclusive));
        // The way back to where it stopped is free, so that every step gets on.
        walk.effort -= usize::from(after.is_none());
        let Some((want, left)) = filter.split_first() else {
            return if after.is_none() {
                self.emit(walk)
            };
        };
        if *want == "#" && after.is_none() {
            self.emit(walk);
        }
        match *want {
            "#" => self.each(filter, after, at, walk),
            "+" => self.each(left, after, at, walk),
            level => self.one(level, left, after, walk),
        }
    }

    fn each<'a>(&'a self, filter: &[&str], after: Option<&[&str]>, at: At, walk: &mut Walk<'a>) {
        let first = after.and_then(|path| path.first().copied());
        let from = first.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        for (level, child) in self.children.range::<str, _>((from, std::ops::Bound::Unbounded)) {
            if at == At::Root && level.starts_with('$') {
                continue;
            }
            let after = after.filter(|_| first == Some(&**level)).map(|path| &path[1..]);
            child.collect(filter, after, At::Below, walk);
            if walk.stopped {
                return walk.path.push(level);
            }
        }
    }

    fn one<'a>(&'a self, level: &str, left: &[&str], after: Option<&[&str]>, walk: &mut Walk<'a>) {
        let Some((level, child)) = self.children.get_key_value(level) else { return };
        let level = &**level;
        let after = match after.and_then(|path| path.split_first()) {
            Some((first, _)) if *first > level => return,
            Some((first, path)) if *first == level => Some(path),
            _ => None,
        };
        child.collect(left, after, At::Below, walk);
        if walk.stopped {
            walk.path.push(level);
        }
    }

    fn emit(&self, walk: &mut Walk<'_>) {
        if let Some(kept) = &self.kept
            && kept.life(walk.now) != Life::Expired
        {
            walk.found.push(Arc::clone(kept));
        }
    }

    fn all(&self, found: &mut Vec<Arc<Stored>>) {
        found.extend(self.kept.clone());
        for child in self.children.values() {
            child.all(found);
        }
    }

    fn sweep(&mut self, now: Instant, gone: &mut Vec<Arc<Stored>>, freed: &mut usize) {
        gone.extend(self.kept.take_if(|kept| kept.life(now) == Life::Expired));
        let some = !self.children.is_empty();
        self.children.retain(|level, child| {
            child.sweep(now, gone, freed);
            let stays = child.kept.is_some() || !child.children.is_empty();
            *freed += if stays { 0 } else { LEVEL + level.len() };
            stays
        });
        if some && self.children.is_empty() {
            *freed += MAP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::message::Retain;
    use crate::topic::Qos;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn stored(topic: &str, payload: &'static str) -> Arc<Stored> {
        let topic = TopicName::new(topic).unwrap();
        let message = Message::plain(topic, Bytes::from_static(payload.as_bytes()), Qos::AtMostOnce, Retain::Yes);
        Arc::new(Stored { message, born: Instant::now() })
    }

    #[test]
    fn an_empty_payload_clears_the_topic() {
        let mut retained = Retained::default();
        assert!(retained.set(&stored("a/b", "1")));
        assert!(retained.set(&stored("a/b", "2")));
        assert_eq!(retained.len(), 1);
        retained.set(&stored("a/b", ""));
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        assert!(retained.root.children.is_empty());
    }

    proptest! {
        #[test]
        fn reading_in_steps_gives_all_that_match_once(
            topics in proptest::collection::btree_set("(\\$S|[abc]|)(/[abc]?){0,3}", 0..40),
            filter in "(\\$S|[abc]|\\+|)(/([abc]|\\+|)){0,2}(/#)?|#",
            (step, effort) in (1_usize..5, 1_usize..5),
        ) {
            let Ok(filter) = TopicFilter::new(filter) else { return Ok(()) };
            let topics: Vec<_> = topics.into_iter().filter_map(|t| TopicName::new(t).ok()).collect();
            let mut retained = Retained::default();
            for topic in &topics {
                retained.set(&stored(topic.as_str(), "x"));
            }
            let mut got = Vec::new();
            let mut after = None;
            loop {
                let some = retained.matching(&filter, after.as_ref(), step, Instant::now());
                let Some(last) = some.last() else { break };
                after = Some(last.message.topic.clone());
                got.extend(some.iter().map(|s| s.message.topic.clone()));
                prop_assert!(got.len() <= topics.len());
            }
            let (mut searched, mut from) = (Vec::new(), None);
            loop {
                let mut budget = Budget { messages: step, levels: effort };
                let start = from.as_deref().map_or(Start::Front, Start::At);
                let found = retained.search(&filter, start, &mut budget, Instant::now());
                searched.extend(found.messages.iter().map(|s| s.message.topic.clone()));
                prop_assert!(searched.len() <= topics.len());
                from = found.next;
                if from.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&searched, &got);
            got.sort();
            let mut want: Vec<_> = topics.iter().filter(|t| filter.matches(t)).cloned().collect();
            want.sort();
            prop_assert_eq!(got, want);
        }
    }
}
