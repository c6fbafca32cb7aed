//! The live view, as text lines for a given width: pure, so that it can be looked at in a test. Nothing blinks, numbers stand
//! in columns, and the newest values are the only thing that moves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::status::{DeviceState, LinkState, Snapshot};

/// What the view shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Scene {
    /// The gateway's own account.
    pub now: Snapshot,
    /// Since the start.
    pub elapsed: Duration,
    /// When it ends by itself.
    pub total: Option<Duration>,
    /// Messages a second: given out locally, arrived at the cloud.
    pub rates: (f64, f64),
    /// The upstream is cut for so much longer; `None`: it is whole.
    pub cut_for: Option<Duration>,
    /// The next cut is so far off.
    pub next_cut: Option<Duration>,
    /// Newest value by device and point, as text.
    pub newest: BTreeMap<String, Vec<(String, String)>>,
    /// Ports to subscribe at: gateway, cloud.
    pub ports: (u16, u16),
}

/// The picture, at most `width` columns.
pub(super) fn draw(scene: &Scene, width: usize) -> Vec<String> {
    let width = width.clamp(60, 120);
    let mut out = vec![title(scene), String::new()];
    for line in &scene.now.lines {
        let state =
            if line.up { String::new() } else { format!("down: {}", line.error.as_deref().unwrap_or("opening")) };
        let load = format!("{} {:>5.1} % of the wire", bar(line.load, 20), line.load * 100.0);
        out.push(format!("line {:<10} {load}   {:>8} requests  {state}", line.name, line.wire.requests));
        for device in &line.devices {
            out.push(device_row(scene, device, width));
        }
    }
    out.push(String::new());
    out.extend(road(scene));
    out.push(String::new());
    let (local, cloud) = scene.ports;
    out.push(format!("subscribe   mosquitto_sub -p {local} -v -t '#'      the cloud: -p {cloud}"));
    out.push("stop        Ctrl-C".to_owned());
    out.into_iter().map(|line| clip(line.trim_end(), width)).collect()
}

/// One plain line for a log.
pub(super) fn log_line(scene: &Scene) -> String {
    let now = &scene.now;
    let loads: Vec<String> = now.lines.iter().map(|l| format!("{} {:.1} %", l.name, l.load * 100.0)).collect();
    let all = now.lines.iter().flat_map(|l| &l.devices);
    let online = all.clone().filter(|d| d.state == DeviceState::Online).count();
    format!(
        "{:>4} s  load {}  devices {online}/{}  local {:.0} msg/s  cloud {:.0} msg/s  spool {} waiting ({} on disk)  upstream {}",
        scene.elapsed.as_secs(),
        loads.join(", "),
        all.count(),
        scene.rates.0,
        scene.rates.1,
        waiting(now),
        now.spool.on_disk,
        upstream_words(scene)
    )
}

fn title(scene: &Scene) -> String {
    let total = scene.total.map(|t| format!(" of {}", clock(t))).unwrap_or_default();
    format!("Trunkline {} · demo · {}{total}", scene.now.version, clock(scene.elapsed))
}

fn device_row(scene: &Scene, device: &crate::status::DeviceStatus, width: usize) -> String {
    let state = match device.state {
        DeviceState::Online => "online",
        DeviceState::Shaky => "shaky",
        DeviceState::Offline => "offline",
        DeviceState::Unknown => "waiting",
    };
    let mut row = format!("  {:<14} unit {:>3}  {state:<8}", device.name, device.unit_id);
    for (point, value) in scene.newest.get(&device.name).into_iter().flatten() {
        // Each value has its column, so that a longer number does not push the others about.
        let room = 22_usize.saturating_sub(value.chars().count() + 1);
        let cell = format!("{:<23} ", format!("{} {value}", clip(point, room)));
        if row.chars().count() + cell.trim_end().chars().count() > width {
            break;
        }
        row.push_str(&cell);
    }
    row.trim_end().to_owned()
}

fn road(scene: &Scene) -> Vec<String> {
    let (p, s) = (&scene.now.publish, &scene.now.spool);
    let acknowledged: u64 = scene.now.upstreams.iter().map(|u| u.acknowledged).sum();
    let backlog = waiting(&scene.now);
    vec![
        format!("values      {:>9} polled = {} suppressed + {} published", p.polled, p.suppressed, p.published),
        format!("broker      {:>9.0} messages/s, {} clients", scene.rates.0, scene.now.broker.clients.len()),
        format!("spool       {backlog:>9} waiting, {} in memory, {} on disk", s.in_memory, s.on_disk),
        format!("upstream    {}", upstream_words(scene)),
        format!("cloud       {:>9.0} messages/s, {acknowledged} acknowledged", scene.rates.1),
    ]
}

fn upstream_words(scene: &Scene) -> String {
    let link = scene.now.upstreams.first().map_or("none", |u| match u.state {
        LinkState::Connected => "connected",
        LinkState::Connecting => "connecting",
        LinkState::Waiting => "away",
    });
    match (scene.cut_for, scene.next_cut) {
        (Some(left), _) => format!("{link} (the demo has cut it, for {} s more)", left.as_secs() + 1),
        (None, Some(next)) => format!("{link} (next cut in {} s)", next.as_secs() + 1),
        (None, None) => link.to_owned(),
    }
}

fn waiting(now: &Snapshot) -> u64 {
    now.spool.backlog.values().sum()
}

fn bar(share: f64, cells: usize) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of some cells, clamped")]
    #[expect(clippy::cast_precision_loss, reason = "a handful of cells")]
    let full = (share.clamp(0.0, 1.0) * cells as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(cells - full))
}

fn clock(d: Duration) -> String {
    format!("{}:{:02}", d.as_secs() / 60, d.as_secs() % 60)
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DeviceStatus, LineStatus};

    fn scene() -> Scene {
        let device = |n: u8| DeviceStatus {
            name: format!("meter-{n}"),
            unit_id: n,
            state: DeviceState::Online,
            ..DeviceStatus::default()
        };
        let line = LineStatus {
            name: "hall".into(),
            up: true,
            load: 0.42,
            devices: vec![device(1), device(2)],
            ..LineStatus::default()
        };
        let mut newest = BTreeMap::new();
        let values =
            ["voltage", "current", "power", "frequency", "energy_total"].map(|p| (p.to_owned(), "230.1 V".to_owned()));
        newest.insert("meter-1".to_owned(), values.to_vec());
        Scene {
            now: Snapshot { lines: vec![line], ..Snapshot::default() },
            newest,
            ports: (1883, 1884),
            ..Scene::default()
        }
    }

    #[test]
    fn the_picture_fits_the_terminal() {
        for width in [60, 80, 120] {
            let picture = draw(&scene(), width);
            assert!(picture.iter().all(|l| l.chars().count() <= width), "{width}:\n{}", picture.join("\n"));
            assert!(picture.join("\n").contains("42.0 % of the wire"));
        }
    }

    #[test]
    fn a_cut_is_said_with_its_end() {
        let cut = Scene { cut_for: Some(Duration::from_millis(8300)), ..scene() };
        assert!(log_line(&cut).contains("cut it, for 9 s more"), "{}", log_line(&cut));
    }
}
