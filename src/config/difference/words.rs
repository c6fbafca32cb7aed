//! A difference in words, a line a part, in the words of the file. What has no words of its own is still told to have
//! changed: nothing that differs is passed over in silence, and no secret is ever shown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::Change;
use super::Deed;
use super::Sign;
use super::is_same_but_for_access;
use super::is_same_but_for_points;
use crate::config::Plant;
use crate::config::failsafe::FailSafe;
use crate::config::plant::AccessRule;
use crate::config::plant::Anonymous;
use crate::config::plant::Audit;
use crate::config::plant::Broker;
use crate::config::plant::Device;
use crate::config::plant::Limits;
use crate::config::plant::Line;
use crate::config::plant::Listener;
use crate::config::plant::ListenerKind;
use crate::config::plant::Point;
use crate::config::plant::Port;
use crate::config::plant::Report;
use crate::config::plant::Schedule;
use crate::config::plant::SerialPort;
use crate::config::plant::Source;
use crate::config::plant::Spool;
use crate::config::plant::Upstream;
use crate::config::plant::When;
use crate::config::plant::WhenUnwritable;
use crate::point::LineId;

const CLEARED: &str = "what was retained of it is cleared";
const RESTARTS: &str = "restarts this line";
const RELINKED: &str = "its link is made anew, what waits for it is kept";
const DROPPED: &str = "what waits for it is dropped";
/// More names than these are counted.
const NAMES: usize = 6;
/// A value longer than this is not repeated.
const LONGEST: usize = 60;

/// All that differs; of lines, what is to be done is known.
pub(super) fn all(running: &Plant, new: &Plant, deeds: &[(LineId, Deed)]) -> Vec<Change> {
    let mut out = Vec::new();
    lines(&mut out, running, new, deeds);
    raw_access(&mut out, running, new);
    devices(&mut out, running, new);
    fail_safes(&mut out, running, new);
    broker(&mut out, &running.broker, &new.broker);
    upstreams(&mut out, running, new);
    spool(&mut out, &running.spool, &new.spool);
    let every = |stats: &Option<Duration>| stats.map_or("never".to_owned(), |d| span(&d));
    changed(
        &mut out,
        "stats",
        (&running.stats, &new.stats),
        &Facts::default().told("every", (&running.stats, &new.stats), every),
    );
    let listen = |web: &Option<_>| web.map_or("nowhere".to_owned(), |a: std::net::SocketAddr| a.to_string());
    changed(
        &mut out,
        "web",
        (&running.web, &new.web),
        &Facts::default().told("listen", (&running.web, &new.web), listen),
    );
    out
}

/// What differs between two of a kind.
#[derive(Default, Clone, PartialEq)]
struct Facts(Vec<String>);

impl Facts {
    /// With both values, where they are short.
    fn told<T: PartialEq>(mut self, key: &str, (was, is): (&T, &T), text: impl Fn(&T) -> String) -> Self {
        if was != is {
            let (was, is) = (text(was), text(is));
            let long = was.chars().count().max(is.chars().count()) > LONGEST || was == is;
            self.0.push(if long { key.to_owned() } else { format!("{key} {was} → {is}") });
        }
        self
    }

    fn shown<T: PartialEq + Display>(self, key: &str, both: (&T, &T)) -> Self {
        self.told(key, both, ToString::to_string)
    }

    fn timed(self, key: &str, both: (&Duration, &Duration)) -> Self {
        self.told(key, both, span)
    }

    fn sized<T: PartialEq + Copy + TryInto<u64>>(self, key: &str, both: (&T, &T)) -> Self {
        self.told(key, both, |bytes| size((*bytes).try_into().unwrap_or(u64::MAX)))
    }

    /// Only that it differs.
    fn named<T: PartialEq>(mut self, key: &str, (was, is): (&T, &T)) -> Self {
        if was != is {
            self.0.push(key.to_owned());
        }
        self
    }

    /// For two that are known to differ: something is always said.
    fn text(&self) -> String {
        if self.0.is_empty() { "changed".to_owned() } else { self.0.join(", ") }
    }
}

/// As people write it: `30d`, `12h`, `500ms`.
fn span(d: &Duration) -> String {
    let whole = |unit: u64| {
        (d.subsec_nanos() == 0 && d.as_secs() >= unit && d.as_secs().is_multiple_of(unit)).then(|| d.as_secs() / unit)
    };
    match (whole(86_400), whole(3_600)) {
        (Some(days), _) => format!("{days}d"),
        (None, Some(hours)) => format!("{hours}h"),
        (None, None) => format!("{d:?}"),
    }
}

/// As people write it: `64MiB`; in bytes where that is not whole.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn changed<T: PartialEq>(out: &mut Vec<Change>, name: &str, (was, is): (&T, &T), facts: &Facts) {
    if was != is {
        out.push(told(Sign::Changed, format!("{name}: {}", facts.text()), ""));
    }
}

fn lines(out: &mut Vec<Change>, running: &Plant, new: &Plant, deeds: &[(LineId, Deed)]) {
    for (id, deed) in deeds {
        out.extend(match deed {
            Deed::Begin => Some(told(Sign::Added, format!("line {}", described(new.line(*id))), "")),
            Deed::End => {
                Some(told(Sign::Removed, format!("line {}", described(running.line(*id))), "its port is closed"))
            }
            Deed::Restart => {
                let (was, is) = (running.line(*id), new.line(*id));
                let what = format!("line {}: {}", is.name, line_facts(was, is).text());
                Some(told(Sign::Changed, what, RESTARTS))
            }
            Deed::Refit => None,
        });
    }
}

/// Lines that stay as they are but for who may ask them.
fn raw_access(out: &mut Vec<Change>, running: &Plant, new: &Plant) {
    for is in &new.lines {
        let Some(was) = running.lines.iter().find(|was| was.id == is.id) else { continue };
        if is_same_but_for_access(was, is) && was.raw_access != is.raw_access {
            let facts = Facts::default().shown("raw_access", (&was.raw_access, &is.raw_access));
            out.push(told(Sign::Changed, format!("line {}: {}", is.name, facts.text()), ""));
        }
    }
}

const fn told(sign: Sign, what: String, effect: &'static str) -> Change {
    Change { sign, what, effect }
}

fn described(line: &Line) -> String {
    format!("{}: {}", line.name, port(&line.port))
}

fn port(port: &Port) -> String {
    match port {
        Port::Serial(SerialPort { path, baud, format, .. }) => format!("serial {}, {baud} {format}", path.display()),
        Port::Tcp(address) => format!("tcp {address}"),
        Port::RtuOverTcp(address) => format!("rtu_over_tcp {address}"),
    }
}

fn line_facts(was: &Line, is: &Line) -> Facts {
    let facts = match (&was.port, &is.port) {
        (Port::Serial(a), Port::Serial(b)) => Facts::default()
            .told("serial", (&a.path, &b.path), |path| path.display().to_string())
            .shown("baud", (&a.baud, &b.baud))
            .shown("format", (&a.format, &b.format))
            .named("rs485", (&a.rs485, &b.rs485))
            .shown("echo", (&a.echo, &b.echo)),
        (a, b) => Facts::default().told("port", (a, b), port),
    };
    let gap = |gap: &Option<Duration>| gap.map_or("auto".to_owned(), |d| span(&d));
    facts
        .timed("timeout", (&was.timeout, &is.timeout))
        .timed("min_timeout", (&was.min_timeout, &is.min_timeout))
        .shown("retries", (&was.retries, &is.retries))
        .shown("raw_access", (&was.raw_access, &is.raw_access))
        .told("gap", (&was.gap, &is.gap), gap)
}

fn devices(out: &mut Vec<Change>, running: &Plant, new: &Plant) {
    for device in &new.devices {
        match running.devices.iter().find(|d| d.id == device.id) {
            None => out.push(told(Sign::Added, summary(new, device), "")),
            Some(was) => device_and_points(out, (running, was), (new, device)),
        }
    }
    let gone = running.devices.iter().filter(|d| new.devices.iter().all(|now| now.id != d.id));
    out.extend(gone.map(|device| told(Sign::Removed, summary(running, device), CLEARED)));
}

fn summary(plant: &Plant, device: &Device) -> String {
    let points = plant.points_of(device.id).len();
    let s = if points == 1 { "" } else { "s" };
    format!("device {}: line {}, unit {}, {points} point{s}", device.name, plant.line(device.line).name, device.unit_id)
}

fn device_and_points(
    out: &mut Vec<Change>,
    (running, was_device): (&Plant, &Device),
    (new, device): (&Plant, &Device),
) {
    let (was, is) = (was_device, device);
    let line = |plant: &Plant, device: &Device| plant.line(device.line).name.clone();
    if !is_same_but_for_points(was, is) {
        let profile = |profile: &Option<Arc<str>>| profile.as_deref().unwrap_or("none").to_owned();
        let facts = Facts::default()
            .shown("line", (&line(running, was), &line(new, is)))
            .shown("unit_id", (&was.unit_id, &is.unit_id))
            .told("profile", (&was.profile, &is.profile), profile)
            .shown("limits: registers", (&was.max_registers, &is.max_registers))
            .shown("limits: bits", (&was.max_bits, &is.max_bits))
            .named("functions", (&was.functions, &is.functions))
            .named("tags", (&was.tags, &is.tags));
        out.push(told(Sign::Changed, format!("device {}: {}", is.name, facts.text()), ""));
    }
    let (before, now) = (running.points_of(was.id), new.points_of(is.id));
    let same = |a: &Arc<Point>, b: &Arc<Point>| a.name == b.name;
    for point in now.iter().filter(|p| before.iter().all(|q| !same(p, q))) {
        out.push(told(Sign::Added, format!("point {}/{}: {}", is.name, point.name, source(&point.source)), ""));
    }
    let pairs = now.iter().filter_map(|p| Some((before.iter().find(|q| same(p, q))?, p)));
    let mut alike: Vec<(Facts, Vec<&str>)> = Vec::new();
    for (was, is) in pairs.filter(|(was, is)| was.id != is.id) {
        let facts = point_facts(was, is);
        // Only its device moved, or what it refers to: that is told already.
        let moved = (line(running, was_device), was_device.unit_id) != (line(new, device), device.unit_id);
        if facts.0.is_empty() && (moved || was_device.tags != device.tags || is_made_of_others(is)) {
            continue;
        }
        match alike.iter_mut().find(|(f, _)| *f == facts) {
            Some((_, names)) => names.push(&is.name),
            None => alike.push((facts, vec![&is.name])),
        }
    }
    for (facts, names) in alike {
        let s = if names.len() == 1 { "" } else { "s" };
        let what = format!("point{s} {}/{}: {}", device.name, listed(&names), facts.text());
        out.push(told(Sign::Changed, what, ""));
    }
    for point in before.iter().filter(|q| now.iter().all(|p| !same(p, q))) {
        let what = format!("point {}/{}: {}", was.name, point.name, source(&point.source));
        out.push(told(Sign::Removed, what, CLEARED));
    }
}

fn is_made_of_others(point: &Point) -> bool {
    match &point.source {
        Source::Wire(wire) => wire.scale_from.is_some(),
        Source::Compute(_) => true,
    }
}

fn fail_safes(out: &mut Vec<Change>, running: &Plant, new: &Plant) {
    let name = |plant: &Plant, rule: &FailSafe| {
        let point = plant.point(rule.point);
        format!("{}/{}", plant.device(point.device).name, point.name)
    };
    let before: BTreeMap<String, &FailSafe> = running.fail_safes.iter().map(|r| (name(running, r), r)).collect();
    let now: BTreeMap<String, &FailSafe> = new.fail_safes.iter().map(|r| (name(new, r), r)).collect();
    for (name, rule) in &now {
        let sign = match before.get(name) {
            None => Sign::Added,
            // By another number it is another point, which is told.
            Some(was) if FailSafe { point: rule.point, ..(*was).clone() } != **rule => Sign::Changed,
            Some(_) => continue,
        };
        out.push(told(sign, format!("fail-safe of {name}"), ""));
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        out.push(told(Sign::Removed, format!("fail-safe of {name}"), "what it has written stands"));
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Wire(wire) => format!("{} {}", wire.table, wire.range),
        Source::Compute(compute) => format!("compute {}", compute.expression),
    }
}

fn point_facts(was: &Point, is: &Point) -> Facts {
    let facts = match (&was.source, &is.source) {
        (Source::Wire(a), Source::Wire(b)) => Facts::default()
            .told("at", (&(a.table, a.range), &(b.table, b.range)), |(table, range)| format!("{table} {range}"))
            .shown("type", (&a.data_type, &b.data_type))
            .named("order", (&a.order, &b.order))
            .named("bits", (&a.bits, &b.bits))
            .named("scale", (&a.scale, &b.scale))
            .named("scale_from", (&a.scale_from.is_some(), &b.scale_from.is_some()))
            .named("values", (&a.names, &b.names))
            .named("invalid", (&a.invalid, &b.invalid)),
        (a, b) => Facts::default().told("source", (&source(a), &source(b)), Clone::clone),
    };
    let unit = |unit: &Arc<str>| if unit.is_empty() { "none".to_owned() } else { unit.to_string() };
    let (before, now) = (&was.series, &is.series);
    let facts = facts.told("unit", (&before.unit, &now.unit), unit).named("range", (&was.range, &is.range)).told(
        "every",
        (&was.schedule, &is.schedule),
        schedule,
    );
    report(facts, &was.report, &is.report)
        .named("write", (&was.write, &is.write))
        .shown("topic", (&before.topic, &now.topic))
        .named("payload", (&before.format, &now.format))
        .shown("qos", (&before.qos, &now.qos))
        .shown("retain", (&before.retain, &now.retain))
        .named("class", (&before.class, &now.class))
}

fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Every { period, align: false } => format!("{period:?}"),
        Schedule::Every { period, align: true } => format!("{period:?} aligned"),
        Schedule::Cron(text) => format!("cron `{text}`"),
    }
}

fn report(facts: Facts, was: &Report, is: &Report) -> Facts {
    let when = |when: &When| if *when == When::Poll { "poll".to_owned() } else { "change".to_owned() };
    let pause = |pause: &Option<Duration>| pause.map_or("none".to_owned(), |d| span(&d));
    facts
        .told("report: when", (&was.when, &is.when), when)
        .named("report: deadband", (&was.deadband, &is.deadband))
        .told("report: at_least", (&was.at_least, &is.at_least), pause)
        .told("report: at_most", (&was.at_most, &is.at_most), pause)
}

fn broker(out: &mut Vec<Change>, was: &Broker, is: &Broker) {
    listeners(out, &was.listen, &is.listen);
    let word = |who: &Anonymous| {
        let word = match who {
            Anonymous::Loopback => "loopback",
            Anonymous::Never => "never",
            Anonymous::Always => "always",
        };
        word.to_owned()
    };
    let users = |path: &Option<std::path::PathBuf>| path.as_ref().map_or("none".into(), |p| p.display().to_string());
    let rules = |rules: &Vec<AccessRule>| rules.len().to_string();
    let facts = Facts::default()
        .told("anonymous", (&was.anonymous, &is.anonymous), word)
        .told("users", (&was.users, &is.users), users)
        .told("access rules", (&was.access, &is.access), rules);
    let facts = limits(facts, &was.limits, &is.limits);
    let rest = |broker: &Broker| Broker { listen: Vec::new(), ..broker.clone() };
    changed(out, "broker", (&rest(was), &rest(is)), &facts);
}

/// A listener is known by its address; all else about it can change while it listens.
fn listeners(out: &mut Vec<Change>, was: &[Listener], is: &[Listener]) {
    let at = |all: &'_ [Listener], l: &Listener| all.iter().position(|other| other.address == l.address);
    for listener in is {
        match at(was, listener).map(|here| &was[here]) {
            None => out.push(told(Sign::Added, format!("listener {}", listens(listener)), "")),
            Some(before) if before != listener => {
                let what = format!("listener {}: {}", listens(listener), listener_facts(before, listener).text());
                out.push(told(Sign::Changed, what, "for who connects from now on"));
            }
            Some(_) => {}
        }
    }
    for listener in was.iter().filter(|l| at(is, l).is_none()) {
        out.push(told(Sign::Removed, format!("listener {}", listens(listener)), "its clients are disconnected"));
    }
}

fn listener_facts(was: &Listener, is: &Listener) -> Facts {
    let facts = Facts::default()
        .told("spoken there", (&was.scheme(), &is.scheme()), ToString::to_string)
        .named("origins", (&origins(was), &origins(is)))
        .named("certificates", (&was.tls, &is.tls));
    limits(facts, &was.limits, &is.limits)
}

fn origins(listener: &Listener) -> &[Arc<str>] {
    match &listener.kind {
        ListenerKind::Tcp => &[],
        ListenerKind::WebSocket { origins } => origins,
    }
}

fn limits(facts: Facts, was: &Limits, is: &Limits) -> Facts {
    let most = |most: &Option<usize>| most.map_or("by `queue`".to_owned(), |bytes| size(bytes as u64));
    let rate = |rate: &Option<u32>| rate.map_or("unlimited".to_owned(), |n| format!("{n}/s"));
    facts
        .shown("limits: clients", (&was.clients, &is.clients))
        .sized("limits: packet", (&was.packet, &is.packet))
        .shown("limits: queue", (&was.queue, &is.queue))
        .told("limits: queue_bytes", (&was.queue_bytes, &is.queue_bytes), most)
        .shown("limits: subscriptions", (&was.subscriptions, &is.subscriptions))
        .told("limits: rate", (&was.rate, &is.rate), rate)
        .timed("limits: connect_timeout", (&was.connect_timeout, &is.connect_timeout))
}

fn listens(listener: &Listener) -> String {
    format!("{}://{}", listener.scheme(), listener.address)
}

fn upstreams(out: &mut Vec<Change>, running: &Plant, new: &Plant) {
    let url = |u: &Upstream| u.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let named = |u: &Upstream| format!("upstream {}: {}", u.name, url(u));
    for upstream in &new.upstreams {
        match running.upstreams.iter().find(|u| u.name == upstream.name) {
            None => out.push(told(Sign::Added, named(upstream), "")),
            Some(was) if was != upstream => {
                let what = format!("upstream {}: {}", upstream.name, upstream_facts(was, upstream).text());
                out.push(told(Sign::Changed, what, RELINKED));
            }
            Some(_) => {}
        }
    }
    let gone = running.upstreams.iter().filter(|u| new.upstreams.iter().all(|now| now.name != u.name));
    out.extend(gone.map(|upstream| told(Sign::Removed, named(upstream), DROPPED)));
}

fn upstream_facts(was: &Upstream, is: &Upstream) -> Facts {
    let url =
        |u: &Vec<crate::config::plant::Endpoint>| u.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Facts::default()
        .told("url", (&was.endpoints, &is.endpoints), url)
        .named("preset", (&was.preset, &is.preset))
        .named("mqtt", (&was.version, &is.version))
        .shown("client_id", (&was.client_id, &is.client_id))
        .named("username", (&was.username, &is.username))
        .named("password", (&was.password, &is.password))
        .named("tls", (&was.tls, &is.tls))
        .timed("keep_alive", (&was.keep_alive, &is.keep_alive))
        .shown("in_flight", (&was.in_flight, &is.in_flight))
        .named("send", (&was.send, &is.send))
        .named("receive", (&was.receive, &is.receive))
}

fn spool(out: &mut Vec<Change>, was: &Spool, is: &Spool) {
    let rate = |rate: &Option<u32>| rate.map_or("unlimited".to_owned(), |n| format!("{n}/s"));
    let facts = Facts::default()
        .named("path", (&was.path, &is.path))
        .named("keep", (&was.keep, &is.keep))
        .sized("max_size", (&was.max_size, &is.max_size))
        .timed("max_age", (&was.max_age, &is.max_age))
        .named("when_full", (&was.when_full, &is.when_full))
        .named("replay", (&was.replay, &is.replay))
        .told("replay_rate", (&was.replay_rate, &is.replay_rate), rate);
    changed(out, "spool", (was, is), &facts);
}

/// The trail's own settings, none of which changes while it is written.
pub(super) fn audit(of: &Audit) -> [(&'static str, String); 4] {
    let when = match of.when_unwritable {
        WhenUnwritable::Refuse => "refuse",
        WhenUnwritable::Write => "write",
    };
    [
        ("path", of.path.to_string_lossy().into_owned()),
        ("max_size", size(of.max_size)),
        ("max_age", span(&of.max_age)),
        ("when_unwritable", when.to_owned()),
    ]
}
