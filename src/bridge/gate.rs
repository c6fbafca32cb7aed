//! The last look before a message is handed over: what the cloud of a preset would answer by ending the connection is put
//! aside here instead, counted, and said once a topic.

use std::collections::HashSet;

use crate::config::preset::Preset;
use crate::topic::TopicName;

/// Topics of which a refusal was said; beyond it they are only counted.
const SAID_MOST: usize = 1_000;

/// Knows the cloud, and what was said already.
#[derive(Debug)]
pub(super) struct Gate {
    preset: Option<Preset>,
    said: HashSet<TopicName>,
}

impl Gate {
    pub(super) fn new(preset: Option<Preset>) -> Self {
        Self { preset, said: HashSet::new() }
    }

    /// Whether the message of this name here and there must stay here.
    pub(super) fn holds_back(&mut self, upstream: &str, topic: &TopicName, there: &TopicName, payload: &[u8]) -> bool {
        let Some(preset) = self.preset else { return false };
        let why = preset.own_refusal(topic.as_str(), there.as_str());
        let Some(why) = why.or_else(|| preset.refusal(there.as_str(), payload)) else { return false };
        if self.said.len() < SAID_MOST && self.said.insert(topic.clone()) {
            tracing::warn!(upstream, %topic, "put aside, and so are all like it: {why}");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_cloud_forbids_passes_and_what_one_forbids_is_said_once() {
        let (here, there) = (TopicName::new("g/h/i").unwrap(), TopicName::new("a/b/c/d/e/f/g/h/i").unwrap());
        assert!(!Gate::new(None).holds_back("cloud", &here, &there, b"1"));
        let mut gate = Gate::new(Some(Preset::Aws));
        assert!(gate.holds_back("cloud", &here, &there, b"1") && gate.holds_back("cloud", &here, &there, b"2"));
        assert_eq!(gate.said.len(), 1);
        assert!(!gate.holds_back("cloud", &here, &here, b"1"));
    }
}
