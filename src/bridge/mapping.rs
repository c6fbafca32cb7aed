//! Which topic goes where under which name, in both directions. Pure; the first rule whose filter matches decides.

use crate::config::plant::Mapping;
use crate::config::plant::RetainRule;
use crate::config::route::deciding;
use crate::topic::Qos;
use crate::topic::TopicName;

/// What a rule makes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Its name on the other side.
    pub topic: TopicName,
    /// As it came, at most what the rule allows.
    pub qos: Qos,
    /// As it came, unless the rule says never.
    pub retain: bool,
}

/// Why a topic goes nowhere, or how it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained {
    /// This rule (counted from zero) sends it under this name.
    Goes {
        /// Index of the rule.
        rule: usize,
        /// Name on the other side.
        topic: TopicName,
    },
    /// No filter matches.
    NoRule,
    /// The rule matches, but what it makes is no topic.
    NoTopic {
        /// Index of the rule.
        rule: usize,
        /// Why it is none.
        why: String,
    },
}

/// The way of a message of this topic, QoS and retain flag; `None` when no rule sends it.
pub fn map(rules: &[Mapping], topic: &TopicName, qos: Qos, retain: bool) -> Option<Mapped> {
    match explain(rules, topic) {
        Explained::Goes { rule, topic } => {
            let rule = &rules[rule];
            let retain = retain && rule.retain == RetainRule::Keep;
            Some(Mapped { topic, qos: qos.min(rule.qos), retain })
        }
        Explained::NoRule | Explained::NoTopic { .. } => None,
    }
}

/// The same for what comes from upstream, where a rule may pass a topic on and still not mean it.
pub fn map_in(rules: &[Mapping], topic: &TopicName, qos: Qos, retain: bool) -> Option<Mapped> {
    let mapped = map(rules, topic, qos, retain)?;
    let (_, rule) = deciding(rules, topic)?;
    rule.admits(&mapped.topic).then_some(mapped)
}

/// Says which rule decides and what comes of it.
pub fn explain(rules: &[Mapping], topic: &TopicName) -> Explained {
    let Some((n, rule)) = deciding(rules, topic) else { return Explained::NoRule };
    match rule.rename(topic) {
        Ok(topic) => Explained::Goes { rule: n, topic },
        Err(e) => Explained::NoTopic { rule: n, why: e.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plant::Rest;
    use crate::topic::TopicFilter;

    fn rule(filter: &str, strip: &str, prefix: &str, qos: Qos, retain: RetainRule) -> Mapping {
        let filter = TopicFilter::new(filter).unwrap();
        Mapping { filter, strip: strip.to_owned(), prefix: prefix.to_owned(), rest: Rest::AsIs, qos, retain }
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn the_first_match_decides_and_caps() {
        let rules = [
            rule("p/secret/#", "p/", "hidden/", Qos::AtMostOnce, RetainRule::Never),
            rule("p/#", "p/", "sites/p/", Qos::AtLeastOnce, RetainRule::Keep),
        ];
        let got = map(&rules, &name("p/secret/x"), Qos::ExactlyOnce, true).unwrap();
        assert_eq!(got, Mapped { topic: name("hidden/secret/x"), qos: Qos::AtMostOnce, retain: false });
        let got = map(&rules, &name("p/m/v"), Qos::ExactlyOnce, true).unwrap();
        assert_eq!(got, Mapped { topic: name("sites/p/m/v"), qos: Qos::AtLeastOnce, retain: true });
        assert_eq!(map(&rules, &name("q"), Qos::AtMostOnce, false), None);
    }

    #[test]
    fn raw_access_comes_from_upstream_only_by_a_rule_that_names_it() {
        let of = |filter: &str| rule(filter, "sites/", "", Qos::AtLeastOnce, RetainRule::Keep);
        let passes = |rules: &[Mapping]| {
            let topic = name("sites/p/hall/$modbus");
            map_in(rules, &topic, Qos::AtMostOnce, false).map(|mapped| mapped.topic)
        };
        for filter in ["sites/#", "sites/p/#", "sites/p/+/+", "sites/p/hall/+"] {
            assert_eq!(passes(&[of(filter)]), None, "{filter}");
        }
        for filter in ["sites/p/hall/$modbus", "sites/+/+/$modbus"] {
            assert_eq!(passes(&[of(filter)]), Some(name("p/hall/$modbus")), "{filter}");
        }
        assert_eq!(passes(&[of("sites/p/#"), of("sites/p/hall/$modbus")]), None, "the first rule decides");
        let fixed = Mapping { prefix: "p/hall/$modbus".to_owned(), rest: Rest::LeftOut, ..of("orders") };
        let mapped = map_in(&[fixed], &name("orders"), Qos::AtMostOnce, false).unwrap();
        assert_eq!(mapped.topic, name("p/hall/$modbus"), "a name that is written out is meant");
        let mapped = map_in(&[of("sites/#")], &name("sites/p/hall/x/set"), Qos::AtMostOnce, false);
        assert!(mapped.is_some(), "nothing else is held to this");
    }

    #[test]
    fn a_topic_that_is_stripped_to_nothing_goes_nowhere_and_says_why() {
        let rules = [rule("a", "a", "", Qos::AtLeastOnce, RetainRule::Keep)];
        assert!(matches!(explain(&rules, &name("a")), Explained::NoTopic { rule: 0, .. }));
    }
}
