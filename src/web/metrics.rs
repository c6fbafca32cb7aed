//! A snapshot as Prometheus reads it: OpenMetrics text, base units in the names, counters end in `_total`.
//! The tables below are the whole list; nothing is counted here.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::status::{DeviceState, FailSafeState, FailSafeStatus, LinkState, Recognition, Snapshot};

/// What [`text`] is, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of one scrape.
pub fn text(now: &Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(now.clone(), Process::read())));
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail; a half text would be told by its missing end mark.
    let _ = encode(&mut out, &registry);
    out
}

/// Labels of one sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

#[derive(Debug)]
struct Scrape(Snapshot, Process);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        lines(&mut out, &self.0)?;
        devices(&mut out, &self.0)?;
        account(&mut out, &self.0)?;
        upstreams(&mut out, &self.0)?;
        spool(&mut out, &self.0)?;
        audit(&mut out, &self.0)?;
        commands(&mut out, &self.0)?;
        ledger(&mut out, &self.0)?;
        broker(&mut out, &self.0)?;
        fail_safes(&mut out, &self.0)?;
        process(&mut out, &self.0, &self.1)
    }
}

/// Writes whole families, because the text format wants all samples of a name together.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counter<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            } else {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
        }
        Ok(())
    }
}

fn alone<T>(value: T) -> [(Labels<'static>, T); 1] {
    [(Vec::new(), value)]
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Gauges are floats in the text format; up to 2^53 nothing is lost.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float in the format")]
const fn float(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float in the format")]
const fn signed(n: i64) -> f64 {
    n as f64
}

fn count(n: usize) -> f64 {
    float(u64::try_from(n).unwrap_or(u64::MAX))
}

fn lines(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let each = |f: fn(&crate::status::LineStatus) -> f64| {
        now.lines.iter().map(move |l| (vec![("line", l.name.as_str())], f(l))).collect::<Vec<_>>()
    };
    let total = |f: fn(&crate::status::LineStatus) -> u64| {
        now.lines.iter().map(move |l| (vec![("line", l.name.as_str())], f(l))).collect::<Vec<_>>()
    };
    out.gauge("trunkline_line_up", "1 while the port is open or the connection is made", each(|l| truth(l.up)))?;
    out.gauge(
        "trunkline_line_load_ratio",
        "Share of time the wire was in use over the last ten seconds",
        each(|l| l.load),
    )?;
    out.counter(
        "trunkline_line_missed_turns",
        "Turns that began later than a whole period",
        total(|l| l.missed_turns),
    )?;
    out.gauge(
        "trunkline_line_unmet_points",
        "Points whose period is not met now",
        each(|l| l.unmet.iter().map(|u| count(u.points.len())).sum()),
    )?;
    out.counter("trunkline_line_opens", "Times the port was opened or the connection made", total(|l| l.wire.opens))?;
    out.counter("trunkline_wire_requests", "Requests sent, retries included", total(|l| l.wire.requests))?;
    out.counter("trunkline_wire_replies", "Right answers", total(|l| l.wire.replies))?;
    out.counter("trunkline_wire_exceptions", "Modbus exceptions", total(|l| l.wire.exceptions))?;
    out.counter("trunkline_wire_timeouts", "Requests without an answer in time", total(|l| l.wire.timeouts))?;
    out.counter("trunkline_wire_garbled", "Damaged answers", total(|l| l.wire.garbled))?;
    out.counter("trunkline_wire_stale_replies", "Late or foreign frames put aside", total(|l| l.wire.stale_replies))?;
    out.counter("trunkline_wire_retries", "Second and further tries", total(|l| l.wire.retries))?;
    out.counter("trunkline_wire_sent_bytes", "Bytes sent", total(|l| l.wire.bytes_out))?;
    out.counter("trunkline_wire_received_bytes", "Bytes received", total(|l| l.wire.bytes_in))
}

fn devices(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let all = || {
        now.lines.iter().flat_map(|line| {
            line.devices.iter().map(move |d| (vec![("line", line.name.as_str()), ("device", d.name.as_str())], d))
        })
    };
    let up = |s| truth(matches!(s, DeviceState::Online | DeviceState::Shaky));
    out.gauge("trunkline_device_up", "1 while the device answers", all().map(|(l, d)| (l, up(d.state))))?;
    let marked = all().filter(|(_, d)| d.recognition != Recognition::Unasked);
    out.gauge(
        "trunkline_device_another",
        "1 while another device answers than the one its `identify` describes",
        marked.map(|(l, d)| (l, truth(d.recognition == Recognition::Another))),
    )?;
    let turnaround = all().map(|(l, d)| (l, d.turnaround_ms / 1000.0));
    out.gauge(
        "trunkline_device_turnaround_seconds",
        "From the last byte sent to the first received, smoothed",
        turnaround,
    )?;
    let bad = all().map(|(l, d)| (l, count(d.bad_points)));
    out.gauge("trunkline_device_bad_points", "Points whose last sample was bad", bad)?;
    out.counter("trunkline_device_replies", "Right answers", all().map(|(l, d)| (l, d.replies)))?;
    out.counter(
        "trunkline_device_failures",
        "Requests that failed, retries included",
        all().map(|(l, d)| (l, d.failures)),
    )
}

fn account(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let p = &now.publish;
    out.counter("trunkline_samples_polled", "Samples that came from polls", alone(p.polled))?;
    out.counter("trunkline_samples_suppressed", "Values in which nothing had changed enough", alone(p.suppressed))?;
    out.counter("trunkline_samples_published", "Values that became a message", alone(p.published))?;
    out.counter("trunkline_samples_bad", "Samples of bad quality", alone(p.failed))?;
    out.counter("trunkline_samples_bad_told", "Of these: became a message", alone(p.told))?;
    out.gauge("trunkline_samples_held", "Samples held back by at_most right now", alone(float(p.held)))
}

fn upstreams(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let all = || now.upstreams.iter().map(|u| (vec![("upstream", u.name.as_str())], u));
    let up = all().map(|(l, u)| (l, truth(u.state == LinkState::Connected)));
    out.gauge("trunkline_upstream_connected", "1 while the link is up", up)?;
    out.gauge(
        "trunkline_upstream_in_flight",
        "Sent and not acknowledged",
        all().map(|(l, u)| (l, float(u.in_flight))),
    )?;
    let latency = all().map(|(l, u)| (l, u.ack_ms / 1000.0));
    out.gauge("trunkline_upstream_acknowledge_seconds", "From publish to acknowledgement, smoothed", latency)?;
    out.counter("trunkline_upstream_sent", "Publishes handed to the link", all().map(|(l, u)| (l, u.sent)))?;
    out.counter("trunkline_upstream_acknowledged", "Entries acknowledged", all().map(|(l, u)| (l, u.acknowledged)))?;
    out.counter("trunkline_upstream_resent", "Publishes sent again", all().map(|(l, u)| (l, u.resent)))?;
    out.counter("trunkline_upstream_refused", "Entries that could never be sent", all().map(|(l, u)| (l, u.refused)))?;
    out.counter("trunkline_upstream_received", "Messages from upstream", all().map(|(l, u)| (l, u.received)))?;
    out.counter("trunkline_upstream_connects", "Times the link was made", all().map(|(l, u)| (l, u.connects)))
}

fn audit(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let a = &now.audit;
    out.gauge("trunkline_audit_entries", "Entries of the audit trail on disk", alone(float(a.entries)))?;
    out.gauge("trunkline_audit_bytes", "Bytes on disk, journal included", alone(float(a.disk_bytes)))?;
    out.gauge("trunkline_audit_waiting", "Entries that wait in memory for the disk", alone(float(a.waiting)))?;
    out.gauge("trunkline_audit_writable", "0 while the disk cannot be used", alone(truth(a.error.is_none())))?;
    out.counter("trunkline_audit_lost", "Entries lost because too many waited", alone(a.lost))?;
    out.counter("trunkline_audit_left_out", "Refused commands that came too fast to be kept", alone(a.left_out))
}

fn spool(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let s = &now.spool;
    let storeys = [(vec![("storey", "memory")], float(s.in_memory)), (vec![("storey", "disk")], float(s.on_disk))];
    out.gauge("trunkline_spool_entries", "Entries that wait", storeys)?;
    out.gauge("trunkline_spool_bytes", "Bytes on disk, journal included", alone(float(s.disk_bytes)))?;
    out.gauge("trunkline_spool_writable", "0 while the disk cannot be used", alone(truth(s.error.is_none())))?;
    let help = "Bytes the spool has given to the disk, journal and checkpoints included: what flash wears by";
    out.counter("trunkline_spool_written_bytes", help, alone(s.written_bytes))?;
    let backlog = s.backlog.iter().map(|(name, n)| (vec![("upstream", name.as_str())], float(*n)));
    out.gauge("trunkline_spool_backlog", "Entries not acknowledged by an upstream", backlog)?;
    out.counter("trunkline_spool_appended", "Entries taken in", alone(s.appended))?;
    let lost = [
        (vec![("reason", "full")], s.evicted),
        (vec![("reason", "age")], s.expired),
        (vec![("reason", "overrun")], s.overrun),
    ];
    out.counter("trunkline_spool_dropped", "Entries that were lost, and why", lost)
}

/// The account of each upstream, and of the values: whoever watches one number watches the difference.
fn ledger(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let each = || now.spool.ledger.iter().map(|(name, l)| (name.as_str(), l));
    let handed = each().map(|(name, l)| (vec![("upstream", name)], l.appended));
    out.counter("trunkline_ledger_handed", "Entries handed to an upstream, across restarts", handed)?;
    let fates = each().flat_map(|(name, l)| {
        let fates = [
            ("acknowledged", l.acknowledged),
            ("evicted", l.evicted),
            ("expired", l.expired),
            ("damaged", l.damaged),
            ("refused", l.refused),
            ("cleared", l.cleared),
        ];
        fates.map(|(fate, n)| (vec![("upstream", name), ("fate", fate)], n))
    });
    out.counter("trunkline_ledger_settled", "What became of the entries handed to an upstream", fates)?;
    let waiting = each().flat_map(|(name, l)| {
        let places = [("in_flight", l.in_flight), ("stored", l.stored)];
        places.map(|(place, n)| (vec![("upstream", name), ("place", place)], float(n)))
    });
    out.gauge("trunkline_ledger_waiting", "Entries handed to an upstream that are not settled yet", waiting)?;
    let values = [(vec![("account", "values"), ("upstream", "")], signed(now.publish.unaccounted()))];
    let upstreams =
        each().map(|(name, l)| (vec![("account", "upstream"), ("upstream", name)], signed(l.unaccounted())));
    let help = "Zero while the account adds up; positive: of unknown fate, negative: counted twice";
    out.gauge("trunkline_ledger_difference", help, values.into_iter().chain(upstreams))
}

fn broker(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let b = &now.broker;
    out.gauge("trunkline_broker_clients", "Clients connected", alone(count(b.clients.len())))?;
    out.gauge(
        "trunkline_broker_sessions_away",
        "Sessions kept for clients that are away",
        alone(count(b.sessions_away)),
    )?;
    out.gauge("trunkline_broker_subscriptions", "Subscriptions of all sessions", alone(count(b.subscriptions)))?;
    out.gauge("trunkline_broker_retained", "Retained messages", alone(count(b.retained)))?;
    out.counter("trunkline_broker_received_messages", "Publishes taken in", alone(b.messages_in))?;
    out.counter("trunkline_broker_sent_messages", "Publishes given out", alone(b.messages_out))?;
    out.counter("trunkline_broker_dropped_messages", "Dropped for slow or absent clients", alone(b.dropped))
}

fn fail_safes(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let all = || now.fail_safes.iter().map(|f| (vec![("point", f.point.as_str())], f));
    let active = |f: &FailSafeStatus| truth(f.state == FailSafeState::Active);
    let due = |f: &FailSafeStatus| truth(matches!(f.state, FailSafeState::Writing | FailSafeState::Returning));
    out.gauge(
        "trunkline_fail_safe_active",
        "1 while a fail-safe value is in force",
        all().map(|(l, f)| (l, active(f))),
    )?;
    out.gauge(
        "trunkline_fail_safe_due",
        "1 while a fail-safe write is due and not confirmed",
        all().map(|(l, f)| (l, due(f))),
    )?;
    out.counter("trunkline_fail_safe_writes", "Confirmed fail-safe writes", all().map(|(l, f)| (l, f.writes)))?;
    out.counter("trunkline_fail_safe_failures", "Fail-safe writes not confirmed", all().map(|(l, f)| (l, f.failures)))
}

fn commands(out: &mut Families<'_>, now: &Snapshot) -> fmt::Result {
    let dropped = alone(now.commands.dropped);
    out.counter("trunkline_commands_dropped", "Commands dropped unanswered: too many came at once", dropped)
}

fn process(out: &mut Families<'_>, now: &Snapshot, process: &Process) -> fmt::Result {
    let info = vec![("version", now.version.as_str()), ("gateway", now.gateway.as_str())];
    out.gauge("trunkline_build_info", "Always 1", [(info, 1.0)])?;
    out.gauge("trunkline_uptime_seconds", "Since the process began", alone(float(now.uptime_s)))?;
    let panics = now.panics.iter().map(|(task, n)| (vec![("task", task.as_str())], *n));
    out.counter("trunkline_task_panics", "Panics of supervised tasks: each is a bug", panics)?;
    out.gauge("process_resident_memory_bytes", "Resident memory size in bytes", alone(float(process.resident)))?;
    out.gauge("process_open_fds", "Number of open file descriptors", alone(float(process.open_files)))
}

/// What the kernel knows of us; zero where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Bytes of memory really used.
    pub resident: u64,
    /// Open file descriptors.
    pub open_files: u64,
}

impl Process {
    /// Reads `/proc/self`.
    pub fn read() -> Self {
        let pages = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|s| s.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()))
            .unwrap_or(0);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |d| u64::try_from(d.count()).unwrap_or(0));
        Self { resident: pages * page, open_files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DeviceStatus, Ledger, LineStatus, UpstreamStatus};

    fn busy() -> Snapshot {
        let device = DeviceStatus { name: "meter \"1\"".into(), state: DeviceState::Online, ..DeviceStatus::default() };
        let other = DeviceStatus { name: "m2".into(), recognition: Recognition::Another, ..DeviceStatus::default() };
        let mut line = LineStatus {
            name: "hall".into(),
            up: true,
            load: 0.25,
            devices: vec![device, other],
            ..LineStatus::default()
        };
        line.wire.requests = 7;
        let cloud = UpstreamStatus { name: "cloud".into(), acknowledged: 3, ..UpstreamStatus::default() };
        let mut now = Snapshot { lines: vec![line], upstreams: vec![cloud], ..Snapshot::default() };
        now.spool.on_disk = 5;
        let ledger = Ledger { appended: 9, acknowledged: 3, stored: 5, ..Ledger::default() };
        now.spool.ledger.insert("cloud".into(), ledger);
        now.fail_safes.push(FailSafeStatus {
            point: "d/p".into(),
            state: FailSafeState::Active,
            writes: 1,
            ..FailSafeStatus::default()
        });
        now
    }

    #[test]
    fn the_names_are_the_documented_ones() {
        let text = text(&busy());
        for want in [
            "trunkline_line_load_ratio{line=\"hall\"} 0.25",
            "trunkline_fail_safe_active{point=\"d/p\"} 1",
            "trunkline_fail_safe_writes_total{point=\"d/p\"} 1",
            "trunkline_wire_requests_total{line=\"hall\"} 7",
            "trunkline_device_up{line=\"hall\",device=\"meter \\\"1\\\"\"} 1",
            "trunkline_device_another{line=\"hall\",device=\"m2\"} 1",
            "trunkline_samples_polled_total 0",
            "trunkline_upstream_acknowledged_total{upstream=\"cloud\"} 3",
            "trunkline_spool_entries{storey=\"disk\"} 5",
            "trunkline_audit_writable 1",
            "trunkline_broker_clients 0",
            "trunkline_ledger_settled_total{upstream=\"cloud\",fate=\"acknowledged\"} 3",
            "trunkline_ledger_waiting{upstream=\"cloud\",place=\"stored\"} 5",
            "trunkline_ledger_difference{account=\"upstream\",upstream=\"cloud\"} 1",
            "trunkline_ledger_difference{account=\"values\",upstream=\"\"} 0",
        ] {
            assert!(text.lines().any(|l| l.starts_with(want)), "{want} is not in\n{text}");
        }
        let unasked = "trunkline_device_another{line=\"hall\",device=\"meter";
        assert!(!text.contains(unasked), "nothing is expected of it");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_sample_belongs_to_the_family_above_it_and_is_a_number() {
        let text = text(&busy());
        let mut family = String::new();
        for line in text.lines().filter(|l| *l != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                rest.split(' ').next().unwrap().clone_into(&mut family);
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let bare = name.split('{').next().unwrap();
                assert!(bare == family || bare == format!("{family}_total"), "{bare} under {family}");
                value.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn the_process_knows_its_memory() {
        assert!(Process::read().resident > 100_000);
    }
}
