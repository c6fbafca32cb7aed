//! The rules of `send` and `receive`: what passes under which name, and what a preset has to say to it.

use std::sync::Arc;

use crate::config::RulePlace;
use crate::config::check::Checker;
use crate::config::check::cloud::Cloud;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Reader;
use crate::config::plant::Direction;
use crate::config::plant::Mapping;
use crate::config::plant::Rest;
use crate::config::plant::RetainRule;
use crate::config::preset::Retained;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

pub(in crate::config) const MAPPING_KEYS: &[&str] = &["filter", "topic", "strip", "prefix", "qos", "retain"];

/// A rule and where it stands.
#[derive(Debug, Clone)]
pub(in crate::config) struct Ruled {
    pub(super) upstream: Arc<str>,
    pub(super) direction: Direction,
    pub(super) index: usize,
    pub(super) at: At,
}

impl Ruled {
    /// The place as people write it.
    pub(in crate::config) fn placed(&self, reader: &Reader) -> RulePlace {
        let Self { upstream, direction, index, at } = self.clone();
        let file = reader.files.get(at.file).map_or("", |(name, _)| name);
        RulePlace { upstream, direction, index, place: format!("{file}:{}", at.line) }
    }
}

/// How a topic is named anew.
struct Naming {
    strip: String,
    prefix: String,
    rest: Rest,
}

impl Checker {
    pub(super) fn mappings(&mut self, node: &Node, direction: Direction, cloud: &mut Cloud) -> Vec<Mapping> {
        let mut rules = Vec::new();
        for item in self.reader.items(node) {
            let Some(rule) = self.mapping(item, direction, cloud) else { continue };
            let upstream = Arc::clone(&cloud.upstream);
            self.rules.push(Ruled { upstream, direction, index: rules.len(), at: item.at });
            rules.push(rule);
        }
        rules
    }

    fn mapping(&mut self, node: &Node, direction: Direction, cloud: &mut Cloud) -> Option<Mapping> {
        self.reader.keys(node, MAPPING_KEYS);
        let Some(written) = node.get("filter") else {
            self.reader.error(node.at, "a rule has a `filter`", "e.g. {filter: \"#\"}");
            return None;
        };
        let filter = self.filter(written)?;
        if direction == Direction::Receive {
            self.cloud_filter(cloud, written.at, &filter);
        }
        let Naming { strip, prefix, rest } = self.naming(node, &filter, direction, cloud);
        let qos = node.get("qos").and_then(|n| Some((n.at, self.qos(n)?)));
        let qos = self.cloud_qos(cloud, qos);
        let retain = self.retain(node, direction, cloud);
        Some(Mapping { filter, strip, prefix, rest, qos, retain })
    }

    fn naming(&mut self, node: &Node, filter: &TopicFilter, direction: Direction, cloud: &Cloud) -> Naming {
        if let Some(topic) = node.get("topic") {
            return self.fixed(node, topic, direction, cloud);
        }
        let part = |key| node.get(key).map(text_or_empty).unwrap_or_default();
        let (strip, prefix): (String, String) = (part("strip"), part("prefix"));
        for (key, text) in [("strip", &strip), ("prefix", &prefix)] {
            if text.contains(['+', '#', '\0']) {
                let at = node.get(key).map_or(node.at, |n| n.at);
                self.reader.error(at, format!("`{key}` is plain text, without wildcards"), "");
            }
        }
        if let (Some(n), false) = (node.get("strip"), begins(filter, &strip)) {
            let message = format!("no topic of `{filter}` begins with `{strip}`");
            self.reader.error(n.at, message, "`strip` takes the front of a topic off");
        }
        if direction == Direction::Receive {
            return Naming { strip, prefix, rest: Rest::AsIs };
        }
        let said = node.get("prefix").or_else(|| node.get("strip"));
        let (prefix, rest) = self.cloud_prefix(cloud, said.map(|n| n.at), prefix);
        Naming { strip, prefix, rest }
    }

    /// `topic`: one name for all that the filter matches.
    fn fixed(&mut self, node: &Node, topic: &Node, direction: Direction, cloud: &Cloud) -> Naming {
        for key in ["strip", "prefix"] {
            if let Some(n) = node.get(key) {
                self.reader.error(n.at, format!("`{key}` beside `topic`"), "`topic` is the whole name already");
            }
        }
        let text = self.reader.text(topic).unwrap_or_default();
        if let Err(e) = TopicName::new(text.as_str()) {
            self.reader.error(topic.at, format!("`{text}` is no topic: {e}"), "");
        }
        if direction == Direction::Send {
            self.cloud_topic(cloud, topic.at, &text);
        }
        Naming { strip: String::new(), prefix: text, rest: Rest::LeftOut }
    }

    fn retain(&mut self, node: &Node, direction: Direction, cloud: &mut Cloud) -> RetainRule {
        let words = [("keep", RetainRule::Keep), ("never", RetainRule::Never)];
        let said = node.get("retain").and_then(|n| Some((n.at, self.reader.word(n, &words)?)));
        let Some(facts) = cloud.facts().filter(|_| direction == Direction::Send) else {
            return said.map_or(RetainRule::Keep, |(_, rule)| rule);
        };
        match (said, facts.retained) {
            (Some((at, RetainRule::Keep)), Retained::Never) => {
                let message = format!("`retain: keep`, but {} keeps no messages", facts.cloud);
                self.reader.error(at, message, "leave it out: the flag is taken off");
                RetainRule::Never
            }
            (Some((_, rule)), _) => rule,
            (None, Retained::Kept) => RetainRule::Keep,
            (None, Retained::OnlyIfTold | Retained::Never) => {
                cloud.stripped = true;
                RetainRule::Never
            }
        }
    }

    fn cloud_qos(&mut self, cloud: &Cloud, said: Option<(At, Qos)>) -> Qos {
        let Some(facts) = cloud.facts() else { return said.map_or(Qos::AtLeastOnce, |(_, qos)| qos) };
        match said {
            Some((at, qos)) if qos > facts.qos => {
                let message = format!("`qos: {qos}`, but {} knows QoS 0 to {} only", facts.cloud, facts.qos);
                self.reader.error(at, message, format!("leave it out, or write qos: {}", facts.qos));
                facts.qos
            }
            Some((_, qos)) => qos,
            None => facts.usual_qos,
        }
    }
}

fn text_or_empty(node: &Node) -> String {
    if let Kind::Scalar { text, .. } = &node.kind { text.clone() } else { String::new() }
}

/// Whether some topic of the filter can begin with this text.
fn begins(filter: &TopicFilter, text: &str) -> bool {
    let fixed = filter.as_str().split(['+', '#']).next().unwrap_or_default();
    fixed.starts_with(text) || text.starts_with(fixed)
}
