//! What a reload has to do: how the plant that shall run differs from the one that runs, part by part, and in words for
//! whoever decides. Pure. Both plants are numbered alike: the new one follows the running one (`Plant::following`).

mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::config::Plant;
use crate::config::plant::Broker;
use crate::config::plant::Device;
use crate::config::plant::Line;
use crate::config::plant::Listener;
use crate::point::LineId;

/// One line of the difference: `~ line hall: baud 9600 → 19200 (restarts this line)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Comes, goes or changes.
    pub sign: Sign,
    /// What, and how.
    pub what: String,
    /// What that means for what runs; may be empty.
    pub effect: &'static str,
}

/// What happens to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It comes.
    Added,
    /// It goes.
    Removed,
    /// It changes.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Added => '+',
            Sign::Removed => '-',
            Sign::Changed => '~',
        };
        write!(f, "{sign} {}", self.what)?;
        if self.effect.is_empty() { Ok(()) } else { write!(f, " ({})", self.effect) }
    }
}

/// What a line that differs needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// It is new.
    Begin,
    /// It goes on with other devices or points; its port stays open.
    Refit,
    /// Its port or its timing is another.
    Restart,
    /// It is no more.
    End,
}

/// A part of the plant that has no name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Where the broker listens.
    Listeners,
    /// Who may come in, and what they may do.
    Access,
    /// Bounds of the broker.
    Limits,
    /// What is written where a commander is gone.
    FailSafes,
    /// Store and forward.
    Spool,
    /// How often the gateway tells about itself.
    Stats,
    /// The web server.
    Web,
}

/// The difference between two plants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// All of it, in words.
    pub changes: Vec<Change>,
    /// What cannot change while the gateway runs, in words: while there is any, nothing is applied.
    pub fixed: Vec<String>,
    /// Lines that are not as they were.
    pub lines: Vec<(LineId, Deed)>,
    /// Upstreams that are new, gone or changed: [`Deed::Refit`] does not occur.
    pub upstreams: Vec<(Arc<str>, Deed)>,
    /// The other parts.
    pub parts: BTreeSet<Part>,
}

impl Difference {
    /// What has to be done so that `new` runs where `running` does.
    pub fn between(running: &Plant, new: &Plant) -> Self {
        // Whoever adds a part to the plant decides here what a reload does with it.
        let Plant {
            gateway,
            lines: _,
            devices: _,
            points: _,
            fail_safes,
            broker,
            upstreams: _,
            spool,
            audit,
            stats,
            web,
            state_dir,
        } = new;
        let mut it = Self::default();
        let mut fixed = |name: &str, was: &str, is: &str| {
            if was != is {
                it.fixed.push(format!("{name} {was} → {is}"));
            }
        };
        fixed("gateway", &running.gateway, gateway);
        fixed("spool: path", &running.spool.path.to_string_lossy(), &spool.path.to_string_lossy());
        fixed("state directory", &running.state_dir.to_string_lossy(), &state_dir.to_string_lossy());
        for ((name, was), (_, is)) in words::audit(&running.audit).iter().zip(&words::audit(audit)) {
            fixed(&format!("audit: {name}"), was, is);
        }
        it.lines(running, new);
        it.upstreams(running, new);
        let before = &running.broker;
        let who = |b: &Broker| (b.anonymous, b.users.clone(), b.access.clone());
        let doors =
            |b: &Broker| b.listen.iter().map(|l| (l.address, l.kind.clone(), l.tls.clone())).collect::<Vec<_>>();
        for (part, differs) in [
            (Part::Listeners, doors(before) != doors(broker)),
            (Part::Access, who(before) != who(broker)),
            (Part::Limits, has_other_limits(before, broker)),
            (Part::FailSafes, running.fail_safes != *fail_safes),
            (Part::Spool, running.spool != *spool),
            (Part::Stats, running.stats != *stats),
            (Part::Web, running.web != *web),
        ] {
            if differs {
                it.parts.insert(part);
            }
        }
        it.changes = words::all(running, new, &it.lines);
        it
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.fixed.is_empty()
    }

    /// What is to be done with a line; `None`: nothing.
    pub fn deed(&self, line: LineId) -> Option<Deed> {
        self.lines.iter().find(|(id, _)| *id == line).map(|(_, deed)| *deed)
    }

    /// Whether the points of publish are others, or its devices.
    pub fn has_other_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    fn lines(&mut self, running: &Plant, new: &Plant) {
        for line in &running.lines {
            let deed = match new.lines.iter().find(|l| l.id == line.id) {
                None => Some(Deed::End),
                Some(now) if !is_same_but_for_access(line, now) => Some(Deed::Restart),
                Some(_) if !has_same_devices(running, new, line.id) => Some(Deed::Refit),
                Some(_) => None,
            };
            self.lines.extend(deed.map(|deed| (line.id, deed)));
        }
        let fresh = new.lines.iter().filter(|l| running.lines.iter().all(|was| was.id != l.id));
        self.lines.extend(fresh.map(|line| (line.id, Deed::Begin)));
    }

    fn upstreams(&mut self, running: &Plant, new: &Plant) {
        for upstream in &running.upstreams {
            let deed = match new.upstreams.iter().find(|u| u.name == upstream.name) {
                None => Some(Deed::End),
                Some(now) if now != upstream => Some(Deed::Restart),
                Some(_) => None,
            };
            self.upstreams.extend(deed.map(|deed| (Arc::clone(&upstream.name), deed)));
        }
        let fresh = new.upstreams.iter().filter(|u| running.upstreams.iter().all(|was| was.name != u.name));
        self.upstreams.extend(fresh.map(|u| (Arc::clone(&u.name), Deed::Begin)));
    }
}

/// Of the broker, or of a listener that stays.
fn has_other_limits(was: &Broker, now: &Broker) -> bool {
    let others = |l: &Listener| was.listen.iter().any(|o| o.address == l.address && o.limits != l.limits);
    was.limits != now.limits || now.listen.iter().any(others)
}

fn has_same_devices(running: &Plant, new: &Plant, line: LineId) -> bool {
    let (was, now) = (running.devices_on(line).collect::<Vec<_>>(), new.devices_on(line).collect::<Vec<_>>());
    was.len() == now.len() && was.iter().zip(&now).all(|(was, now)| is_same_device((running, was), (new, now)))
}

/// Whether a device and all its points are as they were. Where its points stand in the plant says nothing.
fn is_same_device((running, was): (&Plant, &Device), (new, now): (&Plant, &Device)) -> bool {
    is_same_but_for_points(was, now) && running.points_of(was.id) == new.points_of(now.id)
}

/// Whether raw requests are taken is judged where they come in.
fn is_same_but_for_access(was: &Line, now: &Line) -> bool {
    *was == Line { raw_access: was.raw_access, ..now.clone() }
}

fn is_same_but_for_points(was: &Device, now: &Device) -> bool {
    *was == Device { points: was.points.clone(), ..now.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use std::path::Path;

    const YAML: &str = "\
gateway: g
schedules: {fast: {every: 1s}}
lines:
  hall: {serial: /dev/ttyS9, baud: 9600}
  yard: {tcp: 127.0.0.1:503}
devices:
  - {name: a, line: hall, unit_id: 1, points: {p: {holding: 4, schedule: fast}, q: {holding: 9, unit: V}}}
  - {name: b, line: hall, unit_id: 2, points: {p: {holding: 4}}}
  - {name: c, line: yard, unit_id: 1, points: {p: {holding: 4}, r: {holding: 5, write: true}}}
broker: {listen: [{tcp: 127.0.0.1:1883}]}
upstreams:
  cloud: {url: mqtt://192.0.2.1, in_flight: 100, send: [{filter: g/#}]}
spool: {max_age: 30d}
stats: {every: 60s}
";

    fn plant(yaml: &str) -> Plant {
        load_text("t.yaml", yaml, Path::new("")).unwrap_or_else(|r| panic!("{r}")).plant
    }

    fn after(old: &str, new: &str) -> Difference {
        assert!(YAML.contains(old), "{old}");
        let running = plant(YAML);
        Difference::between(&running, &plant(&YAML.replacen(old, new, 1)).following(&running))
    }

    fn words(difference: &Difference) -> Vec<String> {
        difference.changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_file_again_is_no_difference() {
        assert!(after("gateway: g", "gateway: g  # a comment").is_empty());
    }

    #[test]
    fn another_period_refits_the_line_and_says_which_point() {
        let it = after("schedule: fast", "every: 5s");
        assert_eq!(it.lines, [(LineId(0), Deed::Refit)]);
        assert!(it.upstreams.is_empty() && it.parts.is_empty() && it.fixed.is_empty());
        assert_eq!(words(&it), ["~ point a/p: every 1s → 5s"]);
    }

    #[test]
    fn another_baud_rate_restarts_this_line_only() {
        let it = after("baud: 9600", "baud: 19200");
        assert_eq!(it.lines, [(LineId(0), Deed::Restart)]);
        assert_eq!(words(&it), ["~ line hall: baud 9600 → 19200 (restarts this line)"]);
    }

    #[test]
    fn whether_raw_requests_are_taken_changes_without_a_restart() {
        let it = after("baud: 9600", "baud: 9600, raw_access: true");
        assert!(it.lines.is_empty());
        assert_eq!(words(&it), ["~ line hall: raw_access false → true"]);
    }

    #[test]
    fn devices_come_and_go_without_a_restart() {
        let it =
            after("  - {name: b,", "  - {name: d, line: yard, unit_id: 7, points: {x: {input: 0}}}\n  - {name: b,");
        assert_eq!(it.lines, [(LineId(1), Deed::Refit)], "its neighbours are numbered as before");
        assert_eq!(words(&it), ["+ device d: line yard, unit 7, 1 point"]);
        let it = after("  - {name: b, line: hall, unit_id: 2, points: {p: {holding: 4}}}\n", "");
        assert_eq!(it.lines, [(LineId(0), Deed::Refit)]);
        assert_eq!(words(&it), ["- device b: line hall, unit 2, 1 point (what was retained of it is cleared)"]);
    }

    #[test]
    fn a_device_that_moves_concerns_both_lines() {
        let it = after("{name: b, line: hall", "{name: b, line: yard");
        assert_eq!(it.lines, [(LineId(0), Deed::Refit), (LineId(1), Deed::Refit)]);
        assert_eq!(words(&it), ["~ device b: line hall → yard"]);
    }

    #[test]
    fn points_of_one_device_that_change_alike_are_told_together() {
        let it = after("name: c, line: yard,", "name: c, line: yard, every: 9s,");
        assert_eq!(words(&it), ["~ points c/p, r: every 5s → 9s"]);
        let it = after("r: {holding: 5, write: true}", "s: {holding: 5, write: true}");
        assert_eq!(
            words(&it),
            ["+ point c/s: holding 5", "- point c/r: holding 5 (what was retained of it is cleared)"]
        );
    }

    #[test]
    fn lines_and_upstreams_begin_and_end() {
        let it = after("  yard: {tcp: 127.0.0.1:503}", "  yard: {tcp: 127.0.0.1:503}\n  dock: {tcp: 127.0.0.1:504}");
        assert_eq!(it.lines, [(LineId(2), Deed::Begin)]);
        assert_eq!(words(&it), ["+ line dock: tcp 127.0.0.1:504"]);
        let it = after("  cloud: {", "  second: {url: mqtt://192.0.2.2}\n  fog: {");
        assert_eq!(
            it.upstreams,
            [("cloud".into(), Deed::End), ("second".into(), Deed::Begin), ("fog".into(), Deed::Begin)]
        );
        let gone = "- upstream cloud: mqtt://192.0.2.1:1883 (what waits for it is dropped)";
        assert!(words(&it).contains(&gone.to_owned()), "{:?}", words(&it));
        let it = after("in_flight: 100", "in_flight: 50");
        assert_eq!(it.upstreams, [("cloud".into(), Deed::Restart)]);
        let effect = "its link is made anew, what waits for it is kept";
        assert_eq!(words(&it), [format!("~ upstream cloud: in_flight 100 → 50 ({effect})")]);
    }

    #[test]
    fn parts_without_a_name_are_told_apart() {
        for (old, new, part, said) in [
            ("tcp: 127.0.0.1:1883", "tcp: 127.0.0.1:1884", Part::Listeners, "+ listener mqtt://127.0.0.1:1884"),
            ("1883}]}", "1883}], anonymous: always}", Part::Access, "~ broker: anonymous loopback → always"),
            ("1883}]}", "1883}], access: [{read: [\"#\"]}]}", Part::Access, "~ broker: access rules"),
            ("1883}]}", "1883}], limits: {queue: 9}}", Part::Limits, "~ broker: limits: queue 1000 → 9"),
            (
                "write: true",
                "write: true, fail_safe: {value: 0, after: 5s, when: {upstream: cloud}}",
                Part::FailSafes,
                "+ fail-safe of c/r",
            ),
            ("max_age: 30d", "max_age: 7d", Part::Spool, "~ spool: max_age 30d → 7d"),
            ("every: 60s", "every: 10s", Part::Stats, "~ stats: every 60s → 10s"),
            (
                "tcp: 127.0.0.1:1883",
                "tcp: 127.0.0.1:1883, limits: {clients: 9, rate: 50/s}",
                Part::Limits,
                "~ listener mqtt://127.0.0.1:1883: limits: clients 200 → 9, limits: rate unlimited → 50/s",
            ),
            (
                "tcp: 127.0.0.1:1883",
                "ws: 127.0.0.1:1883",
                Part::Listeners,
                "~ listener ws://127.0.0.1:1883: spoken there mqtt → ws (for who connects from now on)",
            ),
            ("stats:", "web: {listen: 127.0.0.1:8080}\nstats:", Part::Web, "~ web: listen nowhere → 127.0.0.1:8080"),
        ] {
            let it = after(old, new);
            assert_eq!(it.parts.iter().copied().collect::<Vec<_>>(), [part], "{new}");
            assert!(words(&it).iter().any(|w| w.starts_with(said)), "{said}: {:?}", words(&it));
            assert!(it.lines.is_empty() && it.upstreams.is_empty());
        }
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let it = after("gateway: g", "gateway: h");
        assert_eq!(it.fixed, ["gateway g → h"]);
        let it = after("spool: {", "spool: {path: other.db, ");
        assert!(it.fixed[0].starts_with("spool: path ") && it.fixed[0].ends_with("other.db"), "{:?}", it.fixed);
        let it = after("gateway: g", "gateway: g\naudit: {when_unwritable: refuse}");
        assert_eq!(it.fixed, ["audit: when_unwritable write → refuse"]);
    }

    #[test]
    fn a_secret_is_never_in_the_words() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("pw"), text).unwrap();
        let yaml = YAML.replace("in_flight: 100", "username: u, password: {file: pw}");
        let load = || load_text("t.yaml", &yaml, folder.path()).unwrap().plant;
        write("hunter2");
        let running = load();
        write("correct horse");
        let it = Difference::between(&running, &load().following(&running));
        assert!(words(&it)[0].contains("password"), "{:?}", words(&it));
        assert!(!format!("{it:?}").contains("hunter2") && !format!("{it:?}").contains("horse"));
    }
}
