//! What a plant would do, in a dozen lines for `check`. No secret is printed: the plant's secrets cannot be.

use std::fmt::Write as _;

use crate::cli::table::{bytes, seconds, thousands};
use crate::config::Loaded;
use crate::config::failsafe::{FailSafe, OnReturn};
use crate::config::plant::{Keep, Line, Plant, Port, Schedule, Upstream};
use crate::config::preset::Facts;

/// So many fail-safes are shown; of many meters alike each has the same.
const FAIL_SAFES_SHOWN: usize = 5;

/// The summary.
pub(super) fn of(plant: &Plant) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "  gateway    {}", plant.gateway);
    for line in &plant.lines {
        let _ = writeln!(out, "  line       {}", describe_line(plant, line));
    }
    let _ = writeln!(out, "  devices    {}", plant.devices.len());
    let rate = values_per_second(plant);
    let _ = writeln!(out, "  points     {}, {:.1} values/s at most", thousands_of(plant.points.len()), rate.abs());
    for listener in &plant.broker.listen {
        let _ = writeln!(out, "  broker     {}://{}", listener.scheme(), listener.address);
    }
    for upstream in &plant.upstreams {
        let _ = writeln!(out, "  upstream   {}", describe_upstream(upstream));
    }
    for rule in plant.fail_safes.iter().take(FAIL_SAFES_SHOWN) {
        let _ = writeln!(out, "  fail-safe  {}", describe_fail_safe(plant, rule));
    }
    let rest = plant.fail_safes.len().saturating_sub(FAIL_SAFES_SHOWN);
    if rest > 0 {
        let _ = writeln!(out, "  fail-safe  and {} more", thousands_of(rest));
    }
    let spool = &plant.spool;
    let keep = match spool.keep {
        Keep::Offline => "on disk while a link is down",
        Keep::Always => "always on disk",
    };
    let (size, age) = (bytes(spool.max_size), seconds(spool.max_age.as_secs()));
    let _ = writeln!(out, "  spool      {}, {keep}, at most {size} and {age}", spool.path.display());
    if let Some(web) = plant.web {
        let _ = writeln!(out, "  web        http://{web}/");
    }
    let _ = writeln!(out, "  state in   {}", plant.state_dir.display());
    out
}

/// What presets set that the file does not say; empty where there is none.
pub(super) fn presets(loaded: &Loaded) -> String {
    let mut out = String::new();
    for upstream in &loaded.plant.upstreams {
        let Some(preset) = upstream.preset else { continue };
        let Facts { word, cloud, .. } = preset.facts();
        let _ = writeln!(out, "`preset: {word}` ({cloud}) of upstream {}:", upstream.name);
        let mut notes = loaded.notes.iter().filter(|note| note.upstream == upstream.name).peekable();
        if notes.peek().is_none() {
            let _ = writeln!(out, "  - nothing had to be changed");
        }
        for note in notes {
            let _ = writeln!(out, "  - {}", note.text);
        }
    }
    out
}

/// A line's name, port and devices.
pub(super) fn describe_line(plant: &Plant, line: &Line) -> String {
    let port = match &line.port {
        Port::Serial(s) => format!("{} at {} {}", s.path.display(), s.baud, s.format),
        Port::Tcp(to) => format!("Modbus TCP to {to}"),
        Port::RtuOverTcp(to) => format!("RTU over TCP to {to}"),
    };
    let devices = plant.devices.iter().filter(|d| d.line == line.id).count();
    format!("{}: {port}, {devices} {}", line.name, if devices == 1 { "device" } else { "devices" })
}

fn describe_upstream(upstream: &Upstream) -> String {
    let endpoints: Vec<String> = upstream.endpoints.iter().map(ToString::to_string).collect();
    let rules = upstream.send.iter().map(|m| m.filter.to_string()).collect::<Vec<_>>().join(", ");
    format!("{}: {} as {}, sends {rules}", upstream.name, endpoints.join(" or "), upstream.client_id)
}

fn describe_fail_safe(plant: &Plant, rule: &FailSafe) -> String {
    let point = plant.point(rule.point);
    let then = match &rule.on_return {
        OnReturn::Keep => String::new(),
        OnReturn::Restore => ", on return what it held before".to_owned(),
        OnReturn::Value(value) => format!(", on return {value}"),
    };
    let (device, after) = (&plant.device(point.device).name, seconds(rule.after.as_secs()));
    format!("{device}/{} = {} when {} is gone for {after}{then}", point.name, rule.value, rule.commander)
}

/// Readings of the periodic points; cron schedules are too rare to matter.
fn values_per_second(plant: &Plant) -> f64 {
    let rate = |schedule: &Schedule| match schedule {
        Schedule::Every { period, .. } => 1.0 / period.as_secs_f64(),
        Schedule::Cron(_) => 0.0,
    };
    plant.points.iter().map(|p| rate(&p.schedule)).sum()
}

fn thousands_of(n: usize) -> String {
    thousands(u64::try_from(n).unwrap_or(u64::MAX))
}
