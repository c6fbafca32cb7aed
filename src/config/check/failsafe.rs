//! `fail_safe` of a point: a value that must be one a command could write, whose absence counts, for how long, and what then.

use std::time::Duration;

use crate::config::check::Checker;
use crate::config::failsafe::Commander;
use crate::config::failsafe::FailSafe;
use crate::config::failsafe::OnReturn;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::near;
use crate::config::plant::Point;
use crate::config::plant::Source;
use crate::config::plant::Upstream;
use crate::config::write;
use crate::sample::Value;

pub(in crate::config) const FAIL_SAFE_KEYS: &[&str] = &["value", "when", "after", "on_return"];
const EXAMPLE: &str = "fail_safe: {value: 0, when: {upstream: cloud}, after: 60s}";
/// Who is there is looked at twice a second; a shorter time would be decided by that.
const SHORTEST: Duration = Duration::from_secs(1);
/// More is a typing error: nobody waits longer for a commander and calls it safe.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// A link needs some seconds at every start, during which the commander counts as gone.
const SOON: Duration = Duration::from_secs(10);

impl Checker {
    /// Reads it and keeps it for [`Checker::fail_safes`].
    pub(super) fn fail_safe(&mut self, node: &Node, point: &Point) {
        self.reader.keys(node, FAIL_SAFE_KEYS);
        if point.write.is_none() {
            let message = format!("`{}` has a `fail_safe` but no `write`", point.name);
            self.reader.error(node.at, message, "a fail-safe value is a write like any other: give the point `write`");
        }
        let value = self.needed(node, "value").and_then(|n| self.fitting(n, point));
        let commander = self.needed(node, "when").and_then(|n| self.commander(n));
        let after = self.needed(node, "after").and_then(|n| self.absence(n));
        let on_return = match node.get("on_return") {
            Some(written) => self.on_return(written, point),
            None => Some(OnReturn::Keep),
        };
        if let (Some((Commander::Upstream(name), at)), Some(after)) = (&commander, after)
            && after < SOON
        {
            let message =
                format!("every start of the gateway would write it if upstream `{name}` is not up {after:?} later");
            self.reader.warn(*at, message, "a link needs some seconds: after: 10s or more");
        }
        if let (Some(value), Some((commander, at)), Some(after), Some(on_return)) = (value, commander, after, on_return)
        {
            self.fail_safes.push((FailSafe { point: point.id, value, after, commander, on_return }, at));
        }
    }

    /// All of them, when the upstreams that they may name are known.
    pub(super) fn fail_safes(&mut self, upstreams: &[Upstream]) -> Vec<FailSafe> {
        let known = || upstreams.iter().map(|u| &*u.name);
        let all = std::mem::take(&mut self.fail_safes);
        for (fail_safe, at) in &all {
            let Commander::Upstream(name) = &fail_safe.commander else { continue };
            if known().any(|known| *known == **name) {
                continue;
            }
            let help = match (near(name, known()), upstreams.is_empty()) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, true) => "there are no `upstreams`".to_owned(),
                (None, false) => format!("known: {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.reader.error(*at, format!("no upstream `{name}`"), help);
        }
        all.into_iter().map(|(fail_safe, _)| fail_safe).collect()
    }

    fn needed<'a>(&mut self, node: &'a Node, key: &str) -> Option<&'a Node> {
        let found = node.get(key);
        if found.is_none() && matches!(node.kind, Kind::Map(_)) {
            self.reader.error(node.at, format!("this `fail_safe` has no `{key}`"), format!("e.g. {EXAMPLE}"));
        }
        found
    }

    /// A value that a command could write.
    fn fitting(&mut self, node: &Node, point: &Point) -> Option<Value> {
        let text = self.reader.text(node)?;
        let value = match &node.kind {
            Kind::Scalar { plain: true, .. } if text == "true" || text == "false" => Value::Bool(text == "true"),
            Kind::Scalar { plain: true, .. } => Value::plain(&text),
            _ => Value::Text(text.as_str().into()),
        };
        let (Some(write), Source::Wire(wire)) = (&point.write, &point.source) else { return Some(value) };
        let judged = match wire.scale_from {
            // The factor is the device's; what it leaves open is judged when it is written.
            Some(_) => write::limits(write, &value),
            None => write::judge(wire, write, &value, None).map(|_| ()),
        };
        if let Err(unfit) = judged {
            let help = "a fail-safe value obeys the same rules as a command: min, max, step, names, registers";
            self.reader.error(node.at, format!("`{}`: {unfit}", point.name), help);
        }
        Some(value)
    }

    fn commander(&mut self, node: &Node) -> Option<(Commander, At)> {
        self.reader.keys(node, &["upstream", "client"]);
        let (upstream, client) = (node.get("upstream"), node.get("client"));
        let named = match (upstream, client) {
            (Some(named), None) | (None, Some(named)) => named,
            _ => {
                let help = "when: {upstream: cloud}, or when: {client: hmi}";
                self.reader.error(node.at, "`when` names an upstream or a client, one of them", help);
                return None;
            }
        };
        let name = self.reader.text(named)?;
        let commander = if upstream.is_some() { Commander::Upstream } else { Commander::Client };
        Some((commander(name.into()), named.at))
    }

    fn absence(&mut self, node: &Node) -> Option<Duration> {
        let after = self.reader.duration(node)?;
        if (SHORTEST..=LONGEST).contains(&after) {
            return Some(after);
        }
        let text = self.reader.text(node).unwrap_or_default();
        self.reader.error(node.at, format!("`after` of {text} is outside 1s to 7d"), "e.g. after: 60s");
        None
    }

    fn on_return(&mut self, node: &Node, point: &Point) -> Option<OnReturn> {
        if matches!(node.kind, Kind::Map(_)) {
            self.reader.keys(node, &["value"]);
            let Some(value) = node.get("value") else {
                self.reader.error(node.at, "this `on_return` has no `value`", "keep, restore or {value: …}");
                return None;
            };
            return self.fitting(value, point).map(OnReturn::Value);
        }
        self.reader.word(node, &[("keep", &OnReturn::Keep), ("restore", &OnReturn::Restore)]).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Loaded;
    use crate::config::Report;
    use crate::config::load_text;

    fn load(fail_safe: &str) -> Result<Loaded, Report> {
        let text = format!(
            "gateway: g\nlines: {{l: {{tcp: \"h:502\"}}}}\ndevices:\n  - name: d\n    line: l\n    unit_id: 1\n    points:\n      \
             sp: {{holding: 1, type: i16, scale: 0.1, write: {{min: 4, max: 18, step: 0.5}}, fail_safe: {fail_safe}}}\n      \
             pump: {{coil: 1, write: true, fail_safe: {{value: false, when: {{client: hmi}}, after: 2m, on_return: restore}}}}\n\
             upstreams:\n  cloud: {{url: \"mqtt://h\", send: [{{filter: \"g/#\"}}]}}\n"
        );
        load_text("t.yaml", &text, Path::new(""))
    }

    #[test]
    fn a_fail_safe_says_what_when_and_after_how_long() {
        let plant = load("{value: 6.5, when: {upstream: cloud}, after: 60s, on_return: {value: 7}}").unwrap().plant;
        let [set_point, pump] = &plant.fail_safes[..] else { panic!("{:?}", plant.fail_safes) };
        assert_eq!(&*plant.point(set_point.point).name, "sp");
        assert_eq!(set_point.value.to_string(), "6.5");
        assert_eq!(
            (set_point.after, set_point.commander.to_string()),
            (Duration::from_secs(60), "upstream cloud".into())
        );
        assert_eq!(set_point.on_return, OnReturn::Value(Value::Int(7)));
        assert_eq!((&pump.value, &pump.on_return), (&Value::Bool(false), &OnReturn::Restore));
        assert_eq!(pump.commander, Commander::Client("hmi".into()));
    }

    #[test]
    fn every_mistake_is_told_where_it_stands_with_the_limit_and_what_to_do() {
        for (written, words) in [
            ("{value: 3, when: {upstream: cloud}, after: 60s}", "`sp`: 3 is outside 4 to 18"),
            ("{value: 6.3, when: {upstream: cloud}, after: 60s}", "steps of 0.5 from 4"),
            ("{value: warm, when: {upstream: cloud}, after: 60s}", "warm is a text, i16 wants a number"),
            ("{value: 6, when: {upstream: clud}, after: 60s}", "did you mean `cloud`?"),
            ("{value: 6, when: {upstream: cloud, client: hmi}, after: 60s}", "an upstream or a client, one of them"),
            ("{value: 6, when: {}, after: 60s}", "an upstream or a client, one of them"),
            ("{value: 6, when: {upsteam: cloud}, after: 60s}", "did you mean `upstream`?"),
            ("{value: 6, when: {upstream: cloud}, after: 60}", "`60` has no unit"),
            ("{value: 6, when: {upstream: cloud}, after: 500ms}", "`after` of 500ms is outside 1s to 7d"),
            ("{value: 6, when: {upstream: cloud}, after: 8d}", "`after` of 8d is outside 1s to 7d"),
            ("{value: 6, when: {upstream: cloud}, after: 60s, on_return: kep}", "did you mean `keep`?"),
            ("{value: 6, when: {upstream: cloud}, after: 60s, on_return: {value: 99}}", "99 is outside 4 to 18"),
            ("{value: 6, when: {upstream: cloud}, after: 60s, on_return: {}}", "this `on_return` has no `value`"),
            ("{value: 6, when: {upstream: cloud}}", "this `fail_safe` has no `after`"),
            ("{valu: 6, when: {upstream: cloud}, after: 60s}", "did you mean `value`?"),
            ("safe", "a map of `key: value` is wanted here"),
        ] {
            let report = load(written).unwrap_err().to_string();
            assert!(report.contains(words) && report.contains("t.yaml:8:"), "{written}: {words} is not in\n{report}");
        }
    }

    #[test]
    fn a_point_that_cannot_be_written_has_no_fail_safe() {
        let text = "gateway: g\nlines: {l: {tcp: \"h:502\"}}\ndevices:\n  - {name: d, line: l, unit_id: 1, points: {p: {holding: 1, \
                    fail_safe: {value: 1, when: {client: hmi}, after: 60s}}}}\n";
        let report = load_text("t.yaml", text, Path::new("")).unwrap_err().to_string();
        assert!(report.contains("`p` has a `fail_safe` but no `write`"), "{report}");
    }

    #[test]
    fn a_link_that_may_not_be_up_yet_is_warned_of() {
        let loaded = load("{value: 6, when: {upstream: cloud}, after: 5s}").unwrap();
        assert!(
            loaded.warnings.to_string().contains("every start of the gateway would write it"),
            "{}",
            loaded.warnings
        );
        let loaded = load("{value: 6, when: {upstream: cloud}, after: 10s}").unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}
