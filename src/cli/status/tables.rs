//! What `trunkline status` shows of a snapshot: the worst news first, then lines, devices, upstreams, what waits, and who is
//! connected. Pure. In a narrow terminal columns go, in a low one what is well is counted instead of listed; where there is no
//! terminal everything is shown.

use std::fmt::Write as _;

use crate::cli::table::{Align, bytes, fit, fold, seconds, thousands};
use crate::status::{DeviceState, DeviceStatus, LineStatus, Recognition};
use crate::status::{FailSafeStatus, LinkState, Snapshot, UpstreamStatus};
use crate::web::health::{Health, judge};

/// How much there is room for; `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    pub(super) columns: Option<usize>,
    pub(super) rows: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Everything,
    /// Devices that are well, and clients, are only counted.
    WhatMatters,
}

/// What is being written.
#[derive(Debug, Default)]
struct Page {
    text: String,
    columns: Option<usize>,
    /// A table had to leave something out.
    is_short: bool,
}

impl Page {
    fn table(&mut self, head: &[(&str, Align)], rows: &[Vec<String>], spare: &[&str]) {
        let (text, is_short) = fit(head, rows, spare, self.columns);
        self.text.push_str(&text);
        self.is_short |= is_short;
    }

    /// Names, and what devices say of themselves, are among the words: what would steer the terminal is not written.
    fn say(&mut self, text: &str) {
        let text = text.replace(|c: char| c.is_control() && c != '\n', "\u{FFFD}");
        match self.columns {
            Some(columns) => self.text.push_str(&fold(&text, columns)),
            None => self.text.push_str(&text),
        }
    }
}

/// All of it, or what matters where there is no room for all.
pub(super) fn page(now: &Snapshot, room: Room) -> String {
    let whole = draw(now, room.columns, Show::Everything);
    // The last row is for the prompt.
    match room.rows.filter(|rows| whole.lines().count() >= *rows) {
        Some(_) => draw(now, room.columns, Show::WhatMatters),
        None => whole,
    }
}

fn draw(now: &Snapshot, columns: Option<usize>, show: Show) -> String {
    let mut page = Page { columns, ..Page::default() };
    page.say(&format!("{} · trunkline {} · up {}\n\n", now.gateway, now.version, seconds(now.uptime_s)));
    page.say(&news(&judge(now)));
    if now.lines.is_empty() {
        // The first look after the installation.
        page.say("no lines are configured: nothing is polled yet\n");
    } else {
        lines(&mut page, &now.lines);
        page.say("\n");
        devices(&mut page, &now.lines, show);
    }
    if !now.upstreams.is_empty() {
        page.say("\n");
        upstreams(&mut page, now);
    }
    if !now.fail_safes.is_empty() {
        page.say("\n");
        fail_safes(&mut page, &now.fail_safes);
    }
    page.say("\n");
    ledger(&mut page, now);
    page.say(&format!("\n{}", account(now)));
    if !now.broker.clients.is_empty() && show == Show::Everything {
        page.say("\n");
        clients(&mut page, now);
    }
    if page.is_short {
        page.say("\nThis terminal is too narrow for all columns: a wider one, or --json, has them.\n");
    }
    page.text
}

/// First of all what somebody must come for, then what is worth knowing, or that there is neither.
fn news(health: &Health) -> String {
    let mut text = String::new();
    for reason in &health.reasons {
        let _ = writeln!(text, "ALARM: {}", reason.text);
    }
    for note in &health.notes {
        let _ = writeln!(text, "note: {}", note.text);
    }
    if text.is_empty() { "all is well\n\n".to_owned() } else { text + "\n" }
}

fn lines(page: &mut Page, lines: &[LineStatus]) {
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
    let spare = ["GARBLED", "EXCEPTIONS", "REQUESTS", "MISSED TURNS", "TIMEOUTS"];
    page.table(&head, &rows.collect::<Vec<_>>(), &spare);
    lines.iter().for_each(|line| page.say(&unmet(line)));
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

fn devices(page: &mut Page, lines: &[LineStatus], show: Show) {
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
    let all = || lines.iter().flat_map(|l| l.devices.iter().map(move |d| (l, d)));
    let shown = all().filter(|(_, d)| show == Show::Everything || !is_well(d));
    let rows = shown.map(|(l, d)| {
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
    let rows = rows.collect::<Vec<_>>();
    if !rows.is_empty() {
        page.table(&head, &rows, &["TURNAROUND", "REPLIES", "FAILURES", "POINTS", "UNIT", "LINE"]);
    }
    let folded = all().count() - rows.len();
    if folded > 0 {
        let more = if rows.is_empty() { "" } else { " more" };
        page.say(&format!("{folded}{more} devices are online, and all their points are good (--all lists them)\n"));
    }
    for device in lines.iter().flat_map(|l| &l.devices).filter(|d| d.recognition == Recognition::Unknown) {
        let why = device.recognised.as_deref().unwrap_or_default();
        page.say(&format!("{} cannot be identified: {why}; polled as configured\n", device.name));
    }
    for device in lines.iter().flat_map(|l| &l.devices).filter(|d| !d.holes.is_empty()) {
        page.say(&format!("{} is not asked for {}, which it refused\n", device.name, device.holes.join(", ")));
    }
}

fn is_well(device: &DeviceStatus) -> bool {
    device.state == DeviceState::Online && device.bad_points == 0 && device.recognition != Recognition::Another
}

fn upstreams(page: &mut Page, now: &Snapshot) {
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
        vec![
            u.name.clone(),
            u.endpoint.clone(),
            u.state.to_string(),
            u.version.clone(),
            thousands(u.acknowledged),
            thousands(u.in_flight),
            thousands(now.spool.backlog.get(&u.name).copied().unwrap_or(0)),
            format!("{:.1} ms", u.ack_ms),
        ]
    });
    page.table(&head, &rows.collect::<Vec<_>>(), &["MQTT", "ACK TIME", "IN FLIGHT", "ACKNOWLEDGED"]);
    for upstream in &now.upstreams {
        let waiting = now.spool.backlog.get(&upstream.name).copied().unwrap_or(0);
        page.say(&to_empty(upstream, waiting));
    }
}

fn fail_safes(page: &mut Page, all: &[FailSafeStatus]) {
    let head =
        [("FAIL-SAFE", Align::Left), ("VALUE", Align::Right), ("WHEN GONE", Align::Left), ("STATE", Align::Left)];
    let rows = all.iter().map(|f| {
        let gone = f.gone_s.map(|s| format!(", gone for {}", seconds(s))).unwrap_or_default();
        let why = f.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        vec![f.point.clone(), f.value.clone(), f.when.clone(), format!("{}{gone}{why}", f.state)]
    });
    page.table(&head, &rows.collect::<Vec<_>>(), &[]);
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
fn ledger(page: &mut Page, now: &Snapshot) {
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
    if !rows.is_empty() {
        page.table(&head, &rows, &["OTHER", "IN FLIGHT", "STORED"]);
    }
    let mut out = String::new();
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
    page.say(&out);
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
    if now.audit.lost > 0 {
        out.push_str(&format!(
            "audit     {} entries were lost: the disk was too slow for them\n",
            thousands(now.audit.lost)
        ));
    }
    out.push_str(&format!(
        "broker    {} · {} client{}, {} sessions away, {} retained, {} in, {} out, {} dropped\n",
        b.listeners.join(", "),
        b.clients.len(),
        if b.clients.len() == 1 { "" } else { "s" },
        b.sessions_away,
        thousands(u64::try_from(b.retained).unwrap_or(u64::MAX)),
        thousands(b.messages_in),
        thousands(b.messages_out),
        thousands(b.dropped)
    ));
    out
}

fn clients(page: &mut Page, now: &Snapshot) {
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
    page.table(&head, &rows.collect::<Vec<_>>(), &["MQTT", "IN FLIGHT", "SUBSCRIPTIONS", "ADDRESS"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ClientStatus, FailSafeState, Ledger};

    fn tables(now: &Snapshot) -> String {
        page(now, Room::default())
    }

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

    /// A site with so many meters that are well, one that is off, and a client.
    fn site(meters: usize) -> Snapshot {
        let meter = |n: usize| DeviceStatus {
            name: format!("meter-{n}"),
            state: if n == 1 { DeviceState::Offline } else { DeviceState::Online },
            reason: (n == 1).then(|| "timeout".to_owned()),
            ..DeviceStatus::default()
        };
        let (name, port) = ("hall".to_owned(), "/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0".to_owned());
        let hall =
            LineStatus { name, port, up: true, devices: (1..=meters).map(meter).collect(), ..LineStatus::default() };
        let cloud = UpstreamStatus {
            name: "cloud".into(),
            endpoint: "mqtts://broker.example.com:8883".into(),
            state: LinkState::Connected,
            ..UpstreamStatus::default()
        };
        let mut now = Snapshot { lines: vec![hall], upstreams: vec![cloud], ..Snapshot::default() };
        now.spool.ledger.insert("cloud".into(), Ledger::default());
        let id = "witness-of-everything-that-happens".to_owned();
        now.broker.clients.push(ClientStatus { id, address: "127.0.0.1:53953".into(), ..ClientStatus::default() });
        now
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_worst_is_first() {
        for columns in [60, 80, 120, 200] {
            let text = page(&site(3), Room { columns: Some(columns), rows: None });
            let widest = text.lines().map(|l| l.chars().count()).max().unwrap();
            assert!(widest <= columns, "{widest} in {columns}:\n{text}");
            assert!(text.lines().nth(2).unwrap().starts_with("note: device meter-1 is"), "{text}");
            assert_eq!(text.contains("too narrow"), columns < 200, "{text}");
        }
        assert_eq!(tables(&site(3)), page(&site(3), Room { columns: Some(200), rows: Some(100) }));
    }

    #[test]
    fn in_a_low_terminal_what_is_well_is_counted_and_what_is_not_is_shown() {
        let text = page(&site(80), Room { columns: Some(120), rows: Some(50) });
        assert!(text.lines().count() < 50, "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("meter-")).collect();
        assert!(rows.len() == 1 && rows[0].starts_with("meter-1 ") && rows[0].contains("offline: timeout"), "{text}");
        assert!(text.contains("79 more devices are online"), "{text}");
        assert!(!text.contains("witness-of") && text.contains("1 client,"), "{text}");
        let whole = tables(&site(80));
        assert!(whole.contains("meter-80 ") && whole.contains("witness-of") && !whole.contains("--all"), "{whole}");
    }

    #[test]
    fn what_a_device_calls_itself_does_not_steer_the_terminal() {
        let mut now = site(1);
        now.lines[0].devices[0].recognition = Recognition::Another;
        now.lines[0].devices[0].recognised = Some("vendor is \x1b[2J".into());
        assert!(!tables(&now).contains('\x1b'));
    }

    #[test]
    fn all_is_well_is_said_where_it_is() {
        let mut now = site(3);
        now.lines[0].devices.remove(0);
        assert_eq!(tables(&now).lines().nth(2), Some("all is well"));
        let nothing = tables(&Snapshot::default());
        assert!(nothing.contains("no lines are configured") && !nothing.contains("DEVICE"), "{nothing}");
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
            third.starts_with("ALARM: device Another (unit 0) is another device: vendor is \"B\", expected \"A\"; its"),
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
            "ALARM: line hall (/dev/ttyUSB0) is down: no such file",
            "meter-1 is not asked for holding 4–6, input before 9",
            "unknown: timeout",
            "note: upstream cloud is away: refused; 1200 messages",
            "1,200",
            "0 polled",
        ] {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
    }
}
