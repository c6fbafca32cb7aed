//! Is the gateway doing its work? Pure: a snapshot in, news out, the worst first.
//! Ill is what only a person can mend and what costs values: a port that is gone, a disk that cannot be written, another device
//! than the one configured, a log that overflows. A device that is off or a cloud that is away are what the gateway was built for:
//! they are mentioned, not alarming.

use std::fmt;

use serde::Serialize;

use crate::status::{ConfigOutcome, ConfigStatus};
use crate::status::{DeviceState, DeviceStatus, LineStatus, Recognition};
use crate::status::{FailSafeState, FailSafeStatus};
use crate::status::{LinkState, Snapshot, SpoolStatus};

/// A loss this young goes on, as far as anybody can tell: a full log drops with every commit, one that ages with every minute.
const GOES_ON_S: u64 = 600;
/// A loss older than this is history, which the ledger keeps.
const REMEMBERED_S: u64 = 86_400;
/// So many devices of a line are mentioned one by one; more are one piece of news.
const ONE_BY_ONE: usize = 3;

/// What a piece of news is about. The order is that in which they are told: what does harm before what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another device than the one configured.
    AnotherDevice,
    /// A value that should stand in a device and does not, or does because its commander is gone.
    FailSafe,
    /// Values or messages that nobody will get any more.
    Loss,
    /// A file that cannot be written, or was set aside.
    Disk,
    /// A port that is gone, a connection that is down.
    Line,
    /// What lies in the file is not what runs.
    Configuration,
    /// An upstream that is away.
    Upstream,
    /// Devices that do not answer.
    Device,
    /// A mistake in this program.
    Bug,
}

/// One thing somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct News {
    /// For programs.
    pub kind: Kind,
    /// For people.
    pub text: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Why it is ill, the worst first; empty when it is well.
    pub reasons: Vec<News>,
    /// Worth knowing, the weightiest first.
    pub notes: Vec<News>,
}

impl Health {
    /// True when there is no reason to come.
    pub fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }

    fn reason(&mut self, kind: Kind, text: String) {
        self.reasons.push(News { kind, text });
    }

    fn note(&mut self, kind: Kind, text: String) {
        self.notes.push(News { kind, text });
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.is_well() { "ok" } else { "not well" })?;
        self.reasons.iter().try_for_each(|r| writeln!(f, "problem: {}", r.text))?;
        self.notes.iter().try_for_each(|n| writeln!(f, "note: {}", n.text))
    }
}

/// Judges a snapshot.
pub fn judge(now: &Snapshot) -> Health {
    let mut health = Health::default();
    now.lines.iter().for_each(|line| of_line(line, &mut health));
    now.fail_safes.iter().for_each(|rule| of_fail_safe(rule, &mut health));
    of_disks(now, &mut health);
    of_losses(&now.spool, &mut health);
    of_refusals(now, &mut health);
    of_accounts(now, &mut health);
    for upstream in now.upstreams.iter().filter(|u| u.state != LinkState::Connected) {
        let backlog = now.spool.backlog.get(&upstream.name).copied().unwrap_or(0);
        let why = upstream.error.as_deref().unwrap_or("not connected yet");
        let text = format!("upstream {} is away: {why}; {backlog} messages are kept for it", upstream.name);
        health.note(Kind::Upstream, text);
    }
    for (task, count) in &now.panics {
        if forgotten(now, now.last_panic_uptime_s.get(task).copied()) {
            continue;
        }
        health.note(Kind::Bug, format!("task {task} was restarted {count} times after a bug; please report it"));
    }
    if let Some(text) = of_configuration(&now.config) {
        health.note(Kind::Configuration, text);
    }
    health.reasons.sort_by_key(|news| news.kind);
    health.notes.sort_by_key(|news| news.kind);
    health
}

/// Behind a port that is gone all devices are: that is one piece of news.
fn of_line(line: &LineStatus, health: &mut Health) {
    for device in line.devices.iter().filter(|d| d.recognition == Recognition::Another) {
        let why = device.recognised.as_deref().unwrap_or_default();
        let (name, unit) = (&device.name, device.unit_id);
        let text =
            format!("device {name} (unit {unit}) is another device: {why}; its values are bad, it is not written to");
        health.reason(Kind::AnotherDevice, text);
    }
    if !line.up {
        let why = line.error.as_deref().unwrap_or("not opened yet");
        health.reason(Kind::Line, format!("line {} ({}) is down: {why}", line.name, line.port));
        return;
    }
    let silent: Vec<_> = line.devices.iter().filter(|d| is_silent(d)).collect();
    if silent.len() > ONE_BY_ONE {
        let (few, rest) = (&silent[..ONE_BY_ONE], silent.len() - ONE_BY_ONE);
        let names = few.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
        let (n, of, name) = (silent.len(), line.devices.len(), &line.name);
        health.note(Kind::Device, format!("{n} of {of} devices of line {name} are offline: {names} and {rest} more"));
        return;
    }
    for device in silent {
        let why = device.reason.as_deref().unwrap_or("no reply");
        health.note(Kind::Device, format!("device {} is offline: {why}", device.name));
    }
}

fn is_silent(device: &DeviceStatus) -> bool {
    device.state == DeviceState::Offline && device.recognition != Recognition::Another
}

/// A value that cannot be put where it must stand is what fail-safes are there to prevent.
fn of_fail_safe(rule: &FailSafeStatus, health: &mut Health) {
    let FailSafeStatus { point, value, when, state, .. } = rule;
    match (state, &rule.reason) {
        (FailSafeState::Writing, Some(why)) => {
            let text = format!("fail-safe {point} = {value} is due ({when} is gone) and not written: {why}");
            health.reason(Kind::FailSafe, text);
        }
        (FailSafeState::Writing | FailSafeState::Active, _) => {
            health.note(Kind::FailSafe, format!("fail-safe {point} = {value} is in force: {when} is gone"));
        }
        _ => {}
    }
}

fn of_disks(now: &Snapshot, health: &mut Health) {
    let errors = [
        ("the spool", &now.spool.error),
        ("the audit trail", &now.audit.error),
        ("what the broker keeps (sessions, retained messages)", &now.broker.error),
    ];
    for (what, error) in errors {
        if let Some(error) = error {
            health.reason(Kind::Disk, format!("{what} cannot be written: {error}"));
        }
    }
    let (spool, audit) = (&now.spool, &now.audit);
    let aside = [(&spool.set_aside, spool.set_aside_uptime_s), (&audit.set_aside, audit.set_aside_uptime_s)];
    for (aside, at) in aside {
        if let Some(aside) = aside.as_ref().filter(|_| !forgotten(now, at)) {
            health.note(Kind::Disk, aside.clone());
        }
    }
}

/// Seconds since something happened at this uptime.
fn ago(now: &Snapshot, at: u64) -> u64 {
    now.uptime_s.saturating_sub(at)
}

/// Whether it is history. What a daemon does not say the time of is not.
fn forgotten(now: &Snapshot, at: Option<u64>) -> bool {
    at.is_some_and(|at| ago(now, at) >= REMEMBERED_S)
}

/// What nobody will get because the other side, or the trail's disk, did not take it.
fn of_refusals(now: &Snapshot, health: &mut Health) {
    let refused = now.upstreams.iter().filter(|u| u.refused > 0).map(|u| {
        let text =
            format!("upstream {} has not taken {} messages since the start (refused, or too large)", u.name, u.refused);
        (text, u.last_refused_uptime_s)
    });
    let lost = now.audit.lost;
    let audit = (lost > 0).then(|| {
        let text =
            format!("{lost} entries of the audit trail are lost since the start: more came than its disk could take");
        (text, now.audit.last_lost_uptime_s)
    });
    for (text, at) in refused.chain(audit).filter(|(_, at)| !forgotten(now, *at)) {
        match at.map(|at| ago(now, at)) {
            Some(ago) if ago < GOES_ON_S => health.reason(Kind::Loss, format!("{text}; the last {ago} s ago")),
            Some(ago) => health.note(Kind::Loss, format!("{text}; the last {} min ago", ago / 60)),
            None => health.note(Kind::Loss, text),
        }
    }
}

/// An account that does not add up is a mistake in this program, and a value that may be lost without a word.
fn of_accounts(now: &Snapshot, health: &mut Health) {
    let values = ("values", now.publish.unaccounted());
    let upstreams = now.spool.ledger.iter().map(|(name, l)| (name.as_str(), l.unaccounted()));
    for (name, n) in std::iter::once(values).chain(upstreams).filter(|(_, n)| *n != 0) {
        let (count, what) = (n.unsigned_abs(), if n > 0 { "have no known fate" } else { "are counted twice" });
        let text = format!("the ledger does not add up: {name}, {count} {what}; please report it with the log");
        health.reason(Kind::Bug, text);
    }
}

fn of_losses(spool: &SpoolStatus, health: &mut Health) {
    let Some(ago) = spool.last_loss_s.filter(|ago| *ago < REMEMBERED_S) else { return };
    let counts = [
        (spool.evicted, "the spool was full"),
        (spool.expired, "they were too old"),
        (spool.overrun, "they came too fast"),
        (spool.damaged, "their file was damaged"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} because {why}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    if ago < GOES_ON_S {
        let text = format!("messages for upstreams are lost, since the start {counts}; the last {ago} s ago");
        health.reason(Kind::Loss, text);
    } else {
        let text = format!("messages for upstreams were lost, since the start {counts}; the last {} min ago", ago / 60);
        health.note(Kind::Loss, text);
    }
}

/// Where what lies in the file is not what runs.
fn of_configuration(config: &ConfigStatus) -> Option<String> {
    match config.outcome {
        ConfigOutcome::Refused => {
            let first = config.problems.first().map_or("", String::as_str);
            let more = config.problems.len().saturating_sub(1);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Some(format!("the last configuration was refused, the one before runs: {first}{more}"))
        }
        ConfigOutcome::Pending => {
            Some("a configuration is on trial: `trunkline confirm` keeps it, `trunkline revert` ends it".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Ledger, UpstreamStatus};

    fn texts(news: &[News]) -> Vec<&str> {
        news.iter().map(|n| n.text.as_str()).collect()
    }

    fn meter(n: usize, state: DeviceState) -> DeviceStatus {
        DeviceStatus { name: format!("m{n}"), state, ..DeviceStatus::default() }
    }

    #[test]
    fn a_line_that_is_down_is_a_reason_and_a_cloud_that_is_away_is_not() {
        let line = |up| LineStatus { name: "hall".into(), port: "/dev/ttyUSB0".into(), up, ..LineStatus::default() };
        let cloud = UpstreamStatus { name: "cloud".into(), error: Some("refused".into()), ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line(true)], upstreams: vec![cloud], ..Snapshot::default() };
        let well = judge(&now);
        assert!(well.is_well());
        assert_eq!(well.to_string(), "ok\nnote: upstream cloud is away: refused; 0 messages are kept for it\n");
        now.lines = vec![line(false)];
        assert_eq!(texts(&judge(&now).reasons), ["line hall (/dev/ttyUSB0) is down: not opened yet"]);
    }

    #[test]
    fn another_device_is_a_reason_and_one_that_is_off_is_not() {
        let other = DeviceStatus {
            recognition: Recognition::Another,
            recognised: Some("vendor is \"B\", expected \"A\"".into()),
            ..meter(2, DeviceState::Offline)
        };
        let line =
            LineStatus { up: true, devices: vec![meter(1, DeviceState::Offline), other], ..LineStatus::default() };
        let health = judge(&Snapshot { lines: vec![line], ..Snapshot::default() });
        let text = "device m2 (unit 0) is another device: vendor is \"B\", expected \"A\"; its values are bad, it is not \
                    written to";
        assert_eq!(health.reasons, [News { kind: Kind::AnotherDevice, text: text.into() }]);
        assert_eq!(texts(&health.notes), ["device m1 is offline: no reply"]);
    }

    #[test]
    fn twenty_silent_devices_are_one_note_and_those_behind_a_port_that_is_gone_none() {
        let devices = (0..20).map(|n| meter(n, DeviceState::Offline)).chain([meter(20, DeviceState::Online)]).collect();
        let mut line = LineStatus { name: "hall".into(), up: true, devices, ..LineStatus::default() };
        let of = |line: &LineStatus| judge(&Snapshot { lines: vec![line.clone()], ..Snapshot::default() });
        let note = "20 of 21 devices of line hall are offline: m0, m1, m2 and 17 more";
        assert_eq!(texts(&of(&line).notes), [note]);
        line.up = false;
        assert_eq!((of(&line).reasons.len(), of(&line).notes.len()), (1, 0));
    }

    #[test]
    fn what_is_being_lost_is_a_reason_for_ten_minutes_and_a_note_for_a_day() {
        let of = |ago| {
            let spool = SpoolStatus { evicted: 7, expired: 2, last_loss_s: ago, ..SpoolStatus::default() };
            judge(&Snapshot { spool, ..Snapshot::default() })
        };
        let counts = "since the start 7 because the spool was full, 2 because they were too old";
        assert_eq!(
            texts(&of(Some(5)).reasons),
            [format!("messages for upstreams are lost, {counts}; the last 5 s ago")]
        );
        let later = of(Some(3_600));
        assert!(later.is_well());
        assert_eq!(texts(&later.notes), [format!("messages for upstreams were lost, {counts}; the last 60 min ago")]);
        assert_eq!((of(Some(86_400)), of(None)), (Health::default(), Health::default()));
    }

    #[test]
    fn what_was_mended_by_itself_is_worth_knowing_for_a_day_and_not_until_the_next_restart() {
        let mut now = Snapshot { uptime_s: 100_000, ..Snapshot::default() };
        now.panics.insert("line hall".into(), 2);
        (now.spool.set_aside, now.audit.set_aside) = (Some("spool.db, aside".into()), Some("audit.db, aside".into()));
        assert_eq!(judge(&now).notes.len(), 3, "a daemon that does not say when");
        let mut at = |at| {
            now.last_panic_uptime_s.insert("line hall".into(), at);
            (now.spool.set_aside_uptime_s, now.audit.set_aside_uptime_s) = (Some(at), Some(at));
            judge(&now)
        };
        assert_eq!(at(100_000 - REMEMBERED_S + 1).notes.len(), 3);
        assert_eq!(at(100_000 - REMEMBERED_S), Health::default());
    }

    #[test]
    fn what_a_cloud_refuses_and_the_trail_loses_is_a_loss() {
        let of = |at: Option<u64>| {
            let cloud = UpstreamStatus {
                name: "cloud".into(),
                state: LinkState::Connected,
                refused: 3,
                last_refused_uptime_s: at,
                ..UpstreamStatus::default()
            };
            let mut now = Snapshot { uptime_s: 100_000, upstreams: vec![cloud], ..Snapshot::default() };
            (now.audit.lost, now.audit.last_lost_uptime_s) = (4, at);
            judge(&now)
        };
        let cloud = "upstream cloud has not taken 3 messages since the start (refused, or too large)";
        let trail = "4 entries of the audit trail are lost since the start: more came than its disk could take";
        let both = |end: &str| [cloud, trail].map(|text| format!("{text}{end}"));
        assert_eq!(texts(&of(Some(99_995)).reasons), both("; the last 5 s ago"));
        assert!(of(Some(99_400)).is_well());
        assert_eq!(texts(&of(Some(99_400)).notes), both("; the last 10 min ago"));
        assert_eq!(texts(&of(None).notes), both(""));
        assert_eq!(of(Some(100_000 - REMEMBERED_S)), Health::default());
    }

    #[test]
    fn a_ledger_that_does_not_add_up_is_a_reason() {
        let mut now = Snapshot::default();
        now.publish.polled = 1;
        now.spool.ledger.insert("cloud".into(), Ledger { acknowledged: 2, ..Ledger::default() });
        let said = [
            "the ledger does not add up: values, 1 have no known fate; please report it with the log",
            "the ledger does not add up: cloud, 2 are counted twice; please report it with the log",
        ];
        assert_eq!(texts(&judge(&now).reasons), said);
    }

    #[test]
    fn a_fail_safe_in_force_is_a_note_and_one_that_cannot_be_written_a_reason() {
        let of = |state, reason: Option<&str>| {
            let rule = FailSafeStatus {
                point: "chiller/setpoint".into(),
                value: "6".into(),
                when: "upstream cloud".into(),
                state,
                reason: reason.map(str::to_owned),
                ..FailSafeStatus::default()
            };
            judge(&Snapshot { fail_safes: vec![rule], ..Snapshot::default() })
        };
        let active = of(FailSafeState::Active, None);
        assert!(active.is_well());
        assert_eq!(texts(&active.notes), ["fail-safe chiller/setpoint = 6 is in force: upstream cloud is gone"]);
        let stuck = of(FailSafeState::Writing, Some("timeout"));
        let why = "fail-safe chiller/setpoint = 6 is due (upstream cloud is gone) and not written: timeout";
        assert_eq!(texts(&stuck.reasons), [why]);
        assert_eq!(of(FailSafeState::Armed, None), Health::default());
        assert_eq!(of(FailSafeState::Overridden, None), Health::default());
    }

    #[test]
    fn the_worst_is_told_first_wherever_it_stands() {
        let strange = DeviceStatus { recognition: Recognition::Another, ..meter(1, DeviceState::Offline) };
        let lines = vec![
            LineStatus { name: "down".into(), ..LineStatus::default() },
            LineStatus { up: true, devices: vec![strange, meter(2, DeviceState::Offline)], ..LineStatus::default() },
        ];
        let mut now = Snapshot { lines, ..Snapshot::default() };
        now.broker.error = Some("database or disk is full".into());
        now.spool.set_aside = Some("spool.db, set aside".into());
        (now.spool.evicted, now.spool.last_loss_s) = (1, Some(1));
        now.panics.insert("hall".into(), 1);
        let health = judge(&now);
        let kinds = |news: &[News]| news.iter().map(|n| n.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&health.reasons), [Kind::AnotherDevice, Kind::Loss, Kind::Disk, Kind::Line]);
        assert_eq!(kinds(&health.notes), [Kind::Disk, Kind::Device, Kind::Bug]);
    }

    #[test]
    fn a_file_that_was_refused_and_one_on_trial_are_worth_knowing_and_others_are_not() {
        let of = |outcome, problems: &[&str]| {
            let problems = problems.iter().map(|p| (*p).to_owned()).collect();
            let now = Snapshot {
                config: ConfigStatus { outcome, problems, ..ConfigStatus::default() },
                ..Snapshot::default()
            };
            let health = judge(&now);
            assert!(health.is_well());
            health.notes
        };
        let refused = "the last configuration was refused, the one before runs: g.yaml:7:1: no line `x` and 1 more";
        assert_eq!(texts(&of(ConfigOutcome::Refused, &["g.yaml:7:1: no line `x`", "another"])), [refused]);
        assert_eq!(of(ConfigOutcome::Pending, &[]).len(), 1);
        assert!(of(ConfigOutcome::Reloaded, &[]).is_empty() && of(ConfigOutcome::Reverted, &["why"]).is_empty());
    }
}
