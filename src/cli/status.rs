//! `trunkline status`: asks the running gateway and shows lines, devices, upstreams, spool and broker clients.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::Value;

use crate::cli::table::{Align, bytes, render, seconds, thousands};
use crate::cli::{Exit, complain, say};
use crate::control;
use crate::control::Client;
use crate::control::client::ClientError;
use crate::status::{DeviceStatus, FailSafeStatus, LineStatus, LinkState, Recognition, Snapshot, UpstreamStatus};
use crate::web::health::{Health, judge};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway's control socket
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// For programs: one JSON document (with --watch one a line)
    #[arg(long)]
    json: bool,
    /// Again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let path = args.socket.clone().unwrap_or_else(control::ask_path);
    match ask(args, &path) {
        Ok(exit) => exit,
        Err(error) => {
            complain(&format!("trunkline status: {error}"));
            Exit::Down
        }
    }
}

/// As checks for monitoring have it: 0 well, 1 worth knowing, 2 somebody must come.
fn exit_by(health: &Health) -> Exit {
    match (health.is_well(), health.notes.is_empty()) {
        (true, true) => Exit::Well,
        (true, false) => Exit::Failed,
        (false, _) => Exit::Down,
    }
}

fn ask(args: &Arguments, path: &std::path::Path) -> Result<Exit, ClientError> {
    let mut client = Client::connect(path)?;
    if !args.watch {
        let value = client.call("status", Value::Null)?;
        say(text(&value, args.json, Value::to_string_pretty)?.trim_end());
        return Ok(exit_by(&judge(&snapshot(&value)?)));
    }
    let in_place = io::stdout().is_terminal() && !args.json;
    for value in client.stream("status.watch", Value::Null)? {
        let text = text(&value?, args.json, Value::to_string)?;
        // Home, then each line cleared to its end: no flicker, which clearing the screen first would give.
        let shown = if in_place { format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")) } else { text };
        if writeln!(io::stdout().lock(), "{}", shown.trim_end()).is_err() {
            break;
        }
    }
    Ok(Exit::Well)
}

/// `serde_json` prints pretty through a function only.
trait Pretty {
    fn to_string_pretty(&self) -> String;
}

impl Pretty for Value {
    fn to_string_pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn text(value: &Value, json: bool, print: impl Fn(&Value) -> String) -> Result<String, ClientError> {
    if json {
        return Ok(print(value));
    }
    Ok(tables(&snapshot(value)?))
}

fn snapshot(value: &Value) -> Result<Snapshot, ClientError> {
    serde::Deserialize::deserialize(value)
        .map_err(|e: serde_json::Error| ClientError::Garbled(format!("{e}; is the daemon of another version?")))
}

fn tables(now: &Snapshot) -> String {
    let mut out = format!("{} · trunkline {} · up {}\n\n", now.gateway, now.version, seconds(now.uptime_s));
    out.push_str(&worst(now));
    out.push_str(&lines(&now.lines));
    out.push('\n');
    out.push_str(&devices(&now.lines));
    if !now.upstreams.is_empty() {
        out.push('\n');
        out.push_str(&upstreams(now));
    }
    if !now.fail_safes.is_empty() {
        out.push('\n');
        out.push_str(&fail_safes(&now.fail_safes));
    }
    out.push('\n');
    out.push_str(&ledger(now));
    out.push('\n');
    out.push_str(&account(now));
    if !now.broker.clients.is_empty() {
        out.push('\n');
        out.push_str(&clients(now));
    }
    for (task, count) in &now.panics {
        out.push_str(&format!("\nbug: task {task} was restarted {count} times; please report it with the log"));
    }
    out
}

/// First of all what somebody must come for: who is not who it should be, and what is down. Then what is worth knowing.
fn worst(now: &Snapshot) -> String {
    let mut text = String::new();
    let is_another = |d: &&DeviceStatus| d.recognition == Recognition::Another;
    for device in now.lines.iter().flat_map(|l| &l.devices).filter(is_another) {
        let (name, unit, why) = (&device.name, device.unit_id, device.recognised.as_deref().unwrap_or_default());
        let _ = writeln!(
            text,
            "ALARM: {name} (unit {unit}) is another device: {why}; its values are bad, it is not written to"
        );
    }
    let Health { reasons, notes } = judge(now);
    for reason in reasons.iter().filter(|reason| !reason.contains(" is another device: ")) {
        let _ = writeln!(text, "ALARM: {reason}");
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    if text.is_empty() { text } else { text + "\n" }
}

fn lines(lines: &[LineStatus]) -> String {
    let head = [
        ("LINE", Align::Left),
        ("PORT", Align::Left),
        ("STATE", Align::Left),
        ("LOAD", Align::Right),
        ("REQUESTS", Align::Right),
        ("TIMEOUTS", Align::Right),
        ("EXCEPTIONS", Align::Right),
        ("GARBLED", Align::Right),
        ("MISSED TURNS", Align::Right),
    ];
    let rows = lines.iter().map(|l| {
        let state = if l.up { "up" } else { "down" }.to_owned();
        let counts =
            [l.wire.requests, l.wire.timeouts, l.wire.exceptions, l.wire.garbled, l.missed_turns].map(thousands);
        let mut row = vec![l.name.clone(), l.port.clone(), state, format!("{:.1} %", l.load * 100.0)];
        row.extend(counts);
        row
    });
    let mut text = render(&head, &rows.collect::<Vec<_>>());
    // Why a line is down is a sentence, too wide for a column.
    for line in lines.iter().filter(|l| !l.up) {
        let why = line.error.as_deref().unwrap_or("not opened yet");
        let _ = writeln!(text, "{} is down: {why}", line.name);
    }
    for line in lines {
        text.push_str(&unmet(line));
    }
    text
}

/// So many of a line's unmet periods are shown; the rest are counted.
const UNMET_SHOWN: usize = 5;

/// Which periods are not met, the most stretched first, and what can be had instead.
fn unmet(line: &LineStatus) -> String {
    let mut text = String::new();
    for u in line.unmet.iter().take(UNMET_SHOWN) {
        let others = u.points.len().saturating_sub(1);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        let _ = writeln!(
            text,
            "{}: {}/{}{others} every {:.0} ms cannot be met, {:.0} ms can; {} turns missed",
            line.name,
            u.device,
            u.points.first().map_or("", String::as_str),
            u.period_ms,
            u.achievable_ms,
            thousands(u.missed_turns),
        );
    }
    let rest = line.unmet.len().saturating_sub(UNMET_SHOWN);
    if rest > 0 {
        let _ = writeln!(text, "{}: and {rest} more periods (see --json)", line.name);
    }
    text
}

fn devices(lines: &[LineStatus]) -> String {
    let head = [
        ("DEVICE", Align::Left),
        ("LINE", Align::Left),
        ("UNIT", Align::Right),
        ("STATE", Align::Left),
        ("POINTS", Align::Right),
        ("BAD", Align::Right),
        ("REPLIES", Align::Right),
        ("FAILURES", Align::Right),
        ("TURNAROUND", Align::Right),
    ];
    let rows = lines.iter().flat_map(|l| l.devices.iter().map(move |d| (l, d))).map(|(l, d)| {
        let state = d.state.to_string();
        let state = d.reason.as_ref().map_or(state.clone(), |why| format!("{state}: {why}"));
        vec![
            d.name.clone(),
            l.name.clone(),
            d.unit_id.to_string(),
            state,
            d.points.to_string(),
            d.bad_points.to_string(),
            thousands(d.replies),
            thousands(d.failures),
            format!("{:.1} ms", d.turnaround_ms),
        ]
    });
    let mut text = render(&head, &rows.collect::<Vec<_>>());
    for device in lines.iter().flat_map(|l| &l.devices).filter(|d| d.recognition == Recognition::Unknown) {
        let why = device.recognised.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{} cannot be identified: {why}; polled as configured", device.name);
    }
    for device in lines.iter().flat_map(|l| &l.devices).filter(|d| !d.holes.is_empty()) {
        let _ = writeln!(text, "{} is not asked for {}, which it refused", device.name, device.holes.join(", "));
    }
    text
}

fn upstreams(now: &Snapshot) -> String {
    let head = [
        ("UPSTREAM", Align::Left),
        ("ENDPOINT", Align::Left),
        ("STATE", Align::Left),
        ("MQTT", Align::Left),
        ("ACKNOWLEDGED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("WAITING", Align::Right),
        ("ACK TIME", Align::Right),
    ];
    let rows = now.upstreams.iter().map(|u| {
        let state = match (u.state, &u.error) {
            (LinkState::Connected, _) | (_, None) => u.state.to_string(),
            (state, Some(why)) => format!("{state}: {why}"),
        };
        vec![
            u.name.clone(),
            u.endpoint.clone(),
            state,
            u.version.clone(),
            thousands(u.acknowledged),
            thousands(u.in_flight),
            thousands(now.spool.backlog.get(&u.name).copied().unwrap_or(0)),
            format!("{:.1} ms", u.ack_ms),
        ]
    });
    let mut text = render(&head, &rows.collect::<Vec<_>>());
    for upstream in &now.upstreams {
        let waiting = now.spool.backlog.get(&upstream.name).copied().unwrap_or(0);
        text.push_str(&to_empty(upstream, waiting));
    }
    text
}

fn fail_safes(all: &[FailSafeStatus]) -> String {
    let head =
        [("FAIL-SAFE", Align::Left), ("VALUE", Align::Right), ("WHEN GONE", Align::Left), ("STATE", Align::Left)];
    let rows = all.iter().map(|f| {
        let gone = f.gone_s.map(|s| format!(", gone for {}", seconds(s))).unwrap_or_default();
        let why = f.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        vec![f.point.clone(), f.value.clone(), f.when.clone(), format!("{}{gone}{why}", f.state)]
    });
    render(&head, &rows.collect::<Vec<_>>())
}

/// A sentence about a backlog that a second look is worth; a few waiting entries are the usual state of a link.
fn to_empty(upstream: &UpstreamStatus, waiting: u64) -> String {
    let name = &upstream.name;
    let has_backlog = waiting > 1_000 && upstream.state == LinkState::Connected;
    match upstream.empty_in_s.filter(|_| has_backlog) {
        Some(left) => {
            format!("{name}: {} fewer wait each second, none in {}\n", per_second(upstream.drain_per_s), seconds(left))
        }
        None if has_backlog && upstream.drain_per_s < 0.0 => {
            format!("{name}: {} more wait each second than are sent\n", per_second(-upstream.drain_per_s))
        }
        None => String::new(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate for people")]
fn per_second(rate: f64) -> String {
    thousands(rate.round() as u64)
}

/// What became of every entry that was handed to an upstream, and whether both accounts add up, in words.
fn ledger(now: &Snapshot) -> String {
    let head = [
        ("LEDGER", Align::Left),
        ("HANDED", Align::Right),
        ("ACKNOWLEDGED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("STORED", Align::Right),
        ("EVICTED", Align::Right),
        ("EXPIRED", Align::Right),
        ("OTHER", Align::Right),
    ];
    let rows = now.spool.ledger.iter().map(|(name, l)| {
        let other = l.damaged + l.refused + l.cleared;
        let counts = [l.appended, l.acknowledged, l.in_flight, l.stored, l.evicted, l.expired, other].map(thousands);
        std::iter::once(name.clone()).chain(counts).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let mut out = if rows.is_empty() { String::new() } else { render(&head, &rows) };
    for (name, l) in &now.spool.ledger {
        let others = [(l.damaged, "lost with a damaged file"), (l.refused, "refused"), (l.cleared, "cleared by hand")];
        let others = others.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{} {why}", thousands(*n)));
        let others = others.collect::<Vec<_>>().join(", ");
        if !others.is_empty() {
            let _ = writeln!(out, "{name}: {others}");
        }
    }
    let values = ("values".to_owned(), now.publish.unaccounted());
    let accounts = now.spool.ledger.iter().map(|(name, l)| (name.clone(), l.unaccounted()));
    let wrong: Vec<_> = std::iter::once(values).chain(accounts).filter(|(_, n)| *n != 0).collect();
    for (name, n) in &wrong {
        let what = if *n > 0 { "have no known fate" } else { "are counted twice" };
        let n = thousands(n.unsigned_abs());
        let _ = writeln!(out, "{name}: does NOT add up, {n} {what}; please report it with the log");
    }
    if wrong.is_empty() {
        out.push_str("the ledger adds up\n");
    }
    out
}

fn account(now: &Snapshot) -> String {
    let (p, s, b) = (&now.publish, &now.spool, &now.broker);
    let mut out = format!(
        "values    {} polled = {} suppressed + {} published + {} failed{}\n",
        thousands(p.polled),
        thousands(p.suppressed),
        thousands(p.published),
        thousands(p.failed),
        if p.held > 0 { format!(" + {} held", thousands(p.held)) } else { String::new() }
    );
    out.push_str(&format!(
        "spool     {} in memory, {} on disk ({}), dropped {}\n",
        thousands(s.in_memory),
        thousands(s.on_disk),
        bytes(s.disk_bytes),
        thousands(s.evicted + s.expired + s.overrun)
    ));
    if s.written_recently_s > 0 {
        let (recent, span) = (bytes(s.written_recently_bytes), seconds(s.written_recently_s));
        out.push_str(&format!("flash     {recent} written by the spool in {span}"));
        // What a few seconds tell of a day would frighten people for nothing.
        if s.written_recently_s >= 300 {
            let day = s.written_recently_bytes.saturating_mul(86_400) / s.written_recently_s;
            out.push_str(&format!(": {} a day", bytes(day)));
        }
        out.push('\n');
    }
    if let Some(error) = &s.error {
        out.push_str(&format!("          the disk cannot be written: {error}\n"));
    }
    if let Some(error) = &now.audit.error {
        out.push_str(&format!("audit     cannot be written: {error}\n"));
    }
    if now.audit.lost > 0 {
        out.push_str(&format!(
            "audit     {} entries were lost: the disk was too slow for them\n",
            thousands(now.audit.lost)
        ));
    }
    out.push_str(&format!(
        "broker    {} · {} clients, {} sessions away, {} retained, {} in, {} out, {} dropped\n",
        b.listeners.join(", "),
        b.clients.len(),
        b.sessions_away,
        thousands(u64::try_from(b.retained).unwrap_or(u64::MAX)),
        thousands(b.messages_in),
        thousands(b.messages_out),
        thousands(b.dropped)
    ));
    out
}

fn clients(now: &Snapshot) -> String {
    let head = [
        ("CLIENT", Align::Left),
        ("ADDRESS", Align::Left),
        ("MQTT", Align::Left),
        ("USER", Align::Left),
        ("SUBSCRIPTIONS", Align::Right),
        ("QUEUED", Align::Right),
        ("IN FLIGHT", Align::Right),
    ];
    let rows = now.broker.clients.iter().map(|c| {
        vec![
            c.id.clone(),
            c.address.clone(),
            c.version.clone(),
            c.user.clone().unwrap_or_else(|| "–".to_owned()),
            c.subscriptions.to_string(),
            c.queued.to_string(),
            c.in_flight.to_string(),
        ]
    });
    render(&head, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DeviceStatus, FailSafeState, Ledger, UpstreamStatus};

    #[test]
    fn the_time_until_a_backlog_is_gone_is_said_and_a_few_waiting_entries_are_none() {
        let mut cloud =
            UpstreamStatus { name: "cloud".into(), state: LinkState::Connected, ..UpstreamStatus::default() };
        (cloud.drain_per_s, cloud.empty_in_s) = (1_500.4, Some(90));
        assert_eq!(to_empty(&cloud, 200), "");
        assert_eq!(
            to_empty(&cloud, 135_000),
            format!("cloud: 1,500 fewer wait each second, none in {}\n", seconds(90))
        );
        (cloud.drain_per_s, cloud.empty_in_s) = (-20.0, None);
        assert_eq!(to_empty(&cloud, 135_000), "cloud: 20 more wait each second than are sent\n");
    }

    #[test]
    fn a_fail_safe_says_who_is_gone_for_how_long_and_why_it_is_not_written() {
        let status = FailSafeStatus {
            point: "chiller/setpoint".into(),
            when: "upstream cloud".into(),
            state: FailSafeState::Writing,
            value: "6.5".into(),
            gone_s: Some(75),
            reason: Some("timeout: the device did not answer".into()),
            ..FailSafeStatus::default()
        };
        let text = tables(&Snapshot { fail_safes: vec![status], ..Snapshot::default() });
        let row = text.lines().find(|line| line.starts_with("chiller/setpoint")).unwrap();
        let state = "writing, gone for 1 min 15 s: timeout: the device did not answer";
        assert!(row.contains("6.5  upstream cloud") && row.ends_with(state), "{text}");
        assert!(!tables(&Snapshot::default()).contains("FAIL-SAFE"));
    }

    #[test]
    fn the_exit_status_is_for_monitoring_and_the_worst_comes_first() {
        let line = |up| LineStatus { name: "hall".into(), up, ..LineStatus::default() };
        let cloud = UpstreamStatus { name: "cloud".into(), ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line(true)], ..Snapshot::default() };
        assert_eq!(exit_by(&judge(&now)), Exit::Well);
        now.upstreams.push(cloud);
        assert_eq!(exit_by(&judge(&now)), Exit::Failed, "a cloud that is away");
        now.lines.push(line(false));
        assert_eq!(exit_by(&judge(&now)), Exit::Down, "a port that is gone");
        let text = tables(&now);
        let first: Vec<&str> = text.lines().skip(2).take(2).collect();
        assert!(first[0].starts_with("ALARM: line hall ") && first[1].starts_with("note: upstream cloud "), "{text}");
    }

    #[test]
    fn the_tables_say_why_something_is_not_as_it_should_be() {
        let (reason, holes) = (Some("timeout".into()), vec!["holding 4–6".into(), "input before 9".into()]);
        let device = DeviceStatus { name: "meter-1".into(), reason, holes, ..DeviceStatus::default() };
        let recognised = |recognition, why: &str| DeviceStatus {
            name: format!("{recognition:?}"),
            recognition,
            recognised: Some(why.to_owned()),
            ..DeviceStatus::default()
        };
        let strange = recognised(Recognition::Another, "vendor is \"B\", expected \"A\"");
        let deaf = recognised(Recognition::Unknown, "it refuses function 43 with exception 1");
        let line = LineStatus {
            name: "hall".into(),
            port: "/dev/ttyUSB0".into(),
            error: Some("no such file".into()),
            devices: vec![device, strange, deaf],
            ..LineStatus::default()
        };
        let cloud = UpstreamStatus { name: "cloud".into(), error: Some("refused".into()), ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line], upstreams: vec![cloud], ..Snapshot::default() };
        now.spool.backlog.insert("cloud".into(), 1200);
        let text = tables(&now);
        assert!(text.contains("the ledger adds up"), "{text}");
        let third = text.lines().nth(2).unwrap();
        assert!(
            third.starts_with("ALARM: Another (unit 0) is another device: vendor is \"B\", expected \"A\""),
            "{text}"
        );
        let deaf = "Unknown cannot be identified: it refuses function 43 with exception 1; polled as configured";
        assert!(text.contains(deaf), "{text}");
        (now.spool.written_recently_bytes, now.spool.written_recently_s) = (1 << 20, 600);
        assert!(tables(&now).contains("flash     1.0 MiB written by the spool in 10 min 0 s: 144.0 MiB a day"));
        let ledger = Ledger { appended: 10, acknowledged: 6, stored: 2, cleared: 1, ..Ledger::default() };
        now.spool.ledger.insert("cloud".into(), ledger);
        let text = text + &tables(&now);
        for want in ["cloud: does NOT add up, 1 have no known fate", "cloud: 1 cleared by hand"] {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
        for want in [
            "hall is down: no such file",
            "meter-1 is not asked for holding 4–6, input before 9",
            "unknown: timeout",
            "waiting: refused",
            "1,200",
            "0 polled",
        ] {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
    }
}
