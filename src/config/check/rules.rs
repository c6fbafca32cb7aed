//! Timing and report: the keys that are inherited from gateway, profile and device by a point. The nearest wins.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use croner::parser::CronParser;
use croner::parser::Seconds;
use rust_decimal::Decimal;

use crate::config::check::Checker;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::node::near;
use crate::config::plant::Deadband;
use crate::config::plant::Report;
use crate::config::plant::Schedule;
use crate::config::plant::When;

/// A point that says nothing is read this often.
pub(super) const DEFAULT_SCHEDULE: Schedule = Schedule::Every { period: Duration::from_secs(5), align: false };
/// The shortest period: a request at 19200 baud takes about that long.
const SHORTEST: Duration = Duration::from_millis(20);
/// The longest period; more is a typing error.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
pub(in crate::config) const REPORT_KEYS: &[&str] = &["when", "deadband", "at_least", "at_most"];

/// Where a point's keys may stand, the nearest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a>(pub(super) &'a [Option<&'a Node>]);

impl<'a> Layers<'a> {
    /// The nearest value of a key.
    pub(super) fn get(self, key: &str) -> Option<&'a Node> {
        self.all(key).next()
    }

    /// The nearest layer that has one of these keys.
    pub(super) fn with(self, keys: &[&str]) -> Option<&'a Node> {
        self.0.iter().flatten().copied().find(|layer| keys.iter().any(|key| layer.get(key).is_some()))
    }

    /// All values of a key, nearest first.
    fn all(self, key: &str) -> impl Iterator<Item = &'a Node> {
        self.0.iter().flatten().copied().filter_map(move |layer| layer.get(key))
    }
}

impl Checker {
    /// When a point is read.
    pub(super) fn schedule_of(&mut self, layers: Layers<'_>) -> Schedule {
        let Some(layer) = layers.with(&["every", "schedule"]) else { return DEFAULT_SCHEDULE };
        if let (Some(_), Some(schedule)) = (layer.get("every"), layer.get("schedule")) {
            self.reader.error(schedule.at, "`every` and `schedule` exclude each other", "take one out");
        }
        if let Some(named) = layer.get("schedule") {
            let Some(name) = self.reader.text(named) else { return DEFAULT_SCHEDULE };
            if let Some(schedule) = self.schedules.get(&name) {
                return schedule.clone();
            }
            let near = near(&name, self.schedules.keys().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
            let help = near.unwrap_or_else(|| "name it in `schedules`, or write `every`".to_owned());
            self.reader.error(named.at, format!("no schedule `{name}`"), help);
            return DEFAULT_SCHEDULE;
        }
        layer.get("every").and_then(|node| self.period(node)).map_or(DEFAULT_SCHEDULE, every)
    }

    /// `{every, align}` or `{cron}`.
    pub(super) fn schedule(&mut self, node: &Node) -> Option<Schedule> {
        match (node.get("every"), node.get("cron")) {
            (Some(period), None) => {
                let align = node.get("align").and_then(|n| self.reader.bool(n)).unwrap_or(false);
                Some(Schedule::Every { period: self.period(period)?, align })
            }
            (None, Some(cron)) => self.cron(cron),
            _ => {
                self.reader.error(node.at, "a schedule has `every` or `cron`, one of them", "e.g. {every: 1s}");
                None
            }
        }
    }

    fn cron(&mut self, node: &Node) -> Option<Schedule> {
        let text = self.reader.text(node)?;
        match CronParser::builder().seconds(Seconds::Required).build().parse(&text) {
            Ok(_) => Some(Schedule::Cron(text.into())),
            Err(e) => {
                let help = "six fields: second minute hour day month weekday, e.g. \"0 */15 * * * *\"";
                self.reader.error(node.at, format!("`{text}` is no cron line: {e}"), help);
                None
            }
        }
    }

    fn period(&mut self, node: &Node) -> Option<Duration> {
        let period = self.reader.duration(node)?;
        if (SHORTEST..=LONGEST).contains(&period) {
            return Some(period);
        }
        let text = self.reader.text(node).unwrap_or_default();
        self.reader.error(node.at, format!("a period of {text} is outside 20ms to 366d"), "");
        None
    }

    /// When a reading becomes a message; each part from the nearest layer that has it.
    pub(super) fn report_of(&mut self, layers: Layers<'_>) -> Report {
        let nodes: Vec<&Node> = layers.all("report").collect();
        for node in &nodes {
            self.reader.keys(node, REPORT_KEYS);
        }
        let part = |key: &str| nodes.iter().find_map(|node| node.get(key));
        let words = [("poll", When::Poll), ("change", When::Change)];
        let when = part("when").and_then(|n| self.reader.word(n, &words)).unwrap_or(When::Change);
        let deadband = part("deadband").and_then(|n| self.deadband(n));
        let least_at = part("at_least");
        let at_least = match least_at {
            Some(node) => self.reader.duration(node),
            None => (when == When::Change).then_some(Duration::from_secs(60)),
        };
        let at_most = part("at_most").and_then(|n| self.reader.duration(n)).filter(|d| !d.is_zero());
        if let (Some(least), Some(most), Some(node)) = (at_least, at_most, least_at.or_else(|| part("at_most")))
            && least < most
        {
            self.reader.error(
                node.at,
                "`at_least` is a shorter time than `at_most`",
                "at_most: 1s, at_least: 5m is usual",
            );
        }
        Report { when, deadband, at_least: at_least.filter(|d| !d.is_zero()), at_most }
    }

    fn deadband(&mut self, node: &Node) -> Option<Deadband> {
        let text = self.reader.text(node)?;
        let (digits, percent) = text.strip_suffix('%').map_or((text.as_str(), false), |d| (d.trim_end(), true));
        match Decimal::from_str(digits) {
            Ok(n) if n.is_sign_negative() => {
                self.reader.error(node.at, format!("a deadband of {text} is below zero"), "");
                None
            }
            Ok(n) if n.is_zero() => None,
            Ok(n) => Some(if percent { Deadband::Percent(n) } else { Deadband::Absolute(n) }),
            Err(_) => {
                self.reader.error(node.at, format!("`{text}` is no deadband"), "write 0.5 (in the point's unit) or 2%");
                None
            }
        }
    }

    /// A text with `{names}` in it, filled in; a name that is not known is reported.
    pub(super) fn fill(&mut self, at: At, text: &str, lookup: impl Fn(&str) -> Option<String>) -> Arc<str> {
        let filled = crate::payload::fill(text, lookup);
        if let Some((_, rest)) = filled.split_once('{') {
            let name = rest.split('}').next().unwrap_or_default();
            let help = "known: {gateway} {device} {point} {unit_id} {line} {tags.…}";
            self.reader.error(at, format!("`{{{name}}}` is not known here"), help);
        }
        filled.into()
    }
}

const fn every(period: Duration) -> Schedule {
    Schedule::Every { period, align: false }
}
