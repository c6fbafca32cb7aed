//! Under which name a rule passes a topic on. Pure, and here rather than in the bridge, so that the checker judges rules by
//! the code that the bridge runs.

use std::fmt::Write as _;

use crate::config::plant::Mapping;
use crate::config::plant::Rest;
use crate::topic::TopicError;
use crate::topic::TopicName;

impl Mapping {
    /// The topic's name on the other side; an error where what comes of it is no topic.
    pub fn rename(&self, topic: &TopicName) -> Result<TopicName, TopicError> {
        let rest = topic.as_str().strip_prefix(self.strip.as_str()).unwrap_or(topic.as_str());
        TopicName::new(match self.rest {
            Rest::AsIs => format!("{}{rest}", self.prefix),
            Rest::Encoded => format!("{}{}", self.prefix, encoded(rest)),
            Rest::LeftOut => self.prefix.clone(),
        })
    }

    /// Whether what comes from upstream and has this topic here may pass: raw access to a line only by a rule that names it.
    pub fn admits(&self, here: &TopicName) -> bool {
        !here.is_raw() || self.filter.names_raw() || self.rest == Rest::LeftOut
    }
}

/// The rule that decides over a topic: the first whose filter matches.
pub fn deciding<'a>(rules: &'a [Mapping], topic: &TopicName) -> Option<(usize, &'a Mapping)> {
    rules.iter().enumerate().find(|(_, rule)| rule.filter.matches(topic))
}

/// RFC 2396, 2.3: all but unreserved characters as `%XX`, so that a topic with its slashes is one value.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plant::RetainRule;
    use crate::topic::Qos;
    use crate::topic::TopicFilter;

    #[test]
    fn a_topic_can_become_one_property_or_vanish_in_a_fixed_one() {
        let of = |rest| {
            let rule = Mapping {
                filter: TopicFilter::new("p/#").unwrap(),
                strip: "p/".to_owned(),
                prefix: "devices/g/messages/events/topic=".to_owned(),
                rest,
                qos: Qos::AtLeastOnce,
                retain: RetainRule::Never,
            };
            rule.rename(&TopicName::new("p/m 1/v&ü").unwrap()).unwrap()
        };
        assert_eq!(of(Rest::Encoded).as_str(), "devices/g/messages/events/topic=m%201%2Fv%26%C3%BC");
        assert_eq!(of(Rest::LeftOut).as_str(), "devices/g/messages/events/topic=");
        assert_eq!(of(Rest::AsIs).as_str(), "devices/g/messages/events/topic=m 1/v&ü");
    }
}
