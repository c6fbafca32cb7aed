//! Is the gateway doing its work? Pure: a snapshot in, words out.
//! Ill is what only a person can mend and what costs values: a port that is gone, a disk that cannot be written, another device
//! than the one configured. A device that is off or a cloud that is away are what the gateway was built for: they are mentioned,
//! not alarming.

use std::fmt;

use crate::status::{ConfigOutcome, ConfigStatus, DeviceState, LinkState, Recognition, Snapshot};

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Why it is ill; empty when it is well.
    pub reasons: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

impl Health {
    /// True when there is no reason to come.
    pub fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.is_well() { "ok" } else { "not well" })?;
        self.reasons.iter().try_for_each(|r| writeln!(f, "problem: {r}"))?;
        self.notes.iter().try_for_each(|n| writeln!(f, "note: {n}"))
    }
}

/// Judges a snapshot.
pub fn judge(now: &Snapshot) -> Health {
    let mut health = Health::default();
    for line in &now.lines {
        if !line.up {
            let why = line.error.as_deref().unwrap_or("not opened yet");
            health.reasons.push(format!("line {} ({}) is down: {why}", line.name, line.port));
        }
        let (others, own): (Vec<_>, Vec<_>) = line.devices.iter().partition(|d| d.recognition == Recognition::Another);
        for device in others {
            let why = device.recognised.as_deref().unwrap_or_default();
            health.reasons.push(format!("device {} is another device: {why}", device.name));
        }
        for device in own.into_iter().filter(|d| d.state == DeviceState::Offline) {
            let why = device.reason.as_deref().unwrap_or("no reply");
            health.notes.push(format!("device {} is offline: {why}", device.name));
        }
    }
    if let Some(error) = &now.spool.error {
        health.reasons.push(format!("the spool cannot be written: {error}"));
    }
    if let Some(error) = &now.audit.error {
        health.reasons.push(format!("the audit trail cannot be written: {error}"));
    }
    for upstream in now.upstreams.iter().filter(|u| u.state != LinkState::Connected) {
        let backlog = now.spool.backlog.get(&upstream.name).copied().unwrap_or(0);
        let why = upstream.error.as_deref().unwrap_or("not connected yet");
        health.notes.push(format!("upstream {} is away: {why}; {backlog} messages are kept for it", upstream.name));
    }
    for (task, count) in &now.panics {
        health.notes.push(format!("task {task} was restarted {count} times after a bug; please report it"));
    }
    health.notes.extend(of_configuration(&now.config));
    health
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
    use crate::status::{DeviceStatus, LineStatus, UpstreamStatus};

    #[test]
    fn a_line_that_is_down_is_a_reason_and_a_cloud_that_is_away_is_not() {
        let line = |up| LineStatus { name: "hall".into(), port: "/dev/ttyUSB0".into(), up, ..LineStatus::default() };
        let cloud = UpstreamStatus { name: "cloud".into(), error: Some("refused".into()), ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line(true)], upstreams: vec![cloud], ..Snapshot::default() };
        let well = judge(&now);
        assert!(well.is_well());
        assert_eq!(well.to_string(), "ok\nnote: upstream cloud is away: refused; 0 messages are kept for it\n");
        now.lines = vec![line(false)];
        assert_eq!(judge(&now).reasons, ["line hall (/dev/ttyUSB0) is down: not opened yet"]);
    }

    #[test]
    fn another_device_is_a_reason_and_one_that_is_off_is_not() {
        let away = DeviceStatus { name: "m1".into(), state: DeviceState::Offline, ..DeviceStatus::default() };
        let other = DeviceStatus {
            name: "m2".into(),
            recognition: Recognition::Another,
            recognised: Some("vendor is \"B\", expected \"A\"".into()),
            ..away.clone()
        };
        let line = LineStatus { up: true, devices: vec![away, other], ..LineStatus::default() };
        let health = judge(&Snapshot { lines: vec![line], ..Snapshot::default() });
        assert_eq!(health.reasons, ["device m2 is another device: vendor is \"B\", expected \"A\""]);
        assert_eq!(health.notes, ["device m1 is offline: no reply"]);
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
        assert_eq!(of(ConfigOutcome::Refused, &["g.yaml:7:1: no line `x`", "another"]), [refused]);
        assert_eq!(of(ConfigOutcome::Pending, &[]).len(), 1);
        assert!(of(ConfigOutcome::Reloaded, &[]).is_empty() && of(ConfigOutcome::Reverted, &["why"]).is_empty());
    }
}
