//! `trunkline plan`: what each line will carry, from the configuration alone. Computed by the timetable and the planner that
//! `run` runs; see `docs/bus-load.md` for what is assumed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::summary::describe_line;
use crate::cli::table::{Align, render, span, wrap};
use crate::cli::{ConfigFile, Exit, load, say};
use crate::config::plant::Plant;
use crate::poll::forecast;
use crate::poll::forecast::{Age, Forecast, Request, Without};

/// Names of points in one row; what is longer goes on in the next.
const NAMES: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// For programs: one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let loaded = match load(&args.file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let plant = &loaded.plant;
    let forecasts = forecasts(plant);
    if args.json {
        let lines: Vec<Value> = forecasts.iter().map(document).collect();
        say(&format!("{:#}", json!({ "schema": 1, "gateway": &*plant.gateway, "lines": lines })));
        return Exit::Well;
    }
    let texts: Vec<String> =
        plant.lines.iter().zip(&forecasts).map(|(line, f)| text(&describe_line(plant, line), f)).collect();
    say(texts.join("\n").trim_end());
    Exit::Well
}

fn forecasts(plant: &Plant) -> Vec<Forecast> {
    plant.lines.iter().map(|line| forecast::of(line, &plant.devices, &plant.points)).collect()
}

fn text(title: &str, forecast: &Forecast) -> String {
    let mut out = format!("line {title}\nload {}", percent(forecast.load));
    if forecast.is_overloaded() {
        out.push_str(": more than the wire can carry");
    }
    out.push('\n');
    if forecast.points.is_empty() {
        out.push_str("nothing is read from it\n");
        return out;
    }
    let _ = write!(out, "\n{}\n{}", requests(&forecast.requests), ages(&forecast.points));
    // With one device alone there are no others to suffer.
    if forecast.without.len() > 1 {
        let _ = write!(out, "\n{}", dead(&forecast.without));
    }
    let unmet = forecast.unmet().count();
    if unmet > 0 {
        let _ = write!(
            out,
            "\n{unmet} of {} points cannot have their period: CAN BE is what they will get.\n\
             Longer periods, fewer points or a faster line help.\n",
            forecast.points.len()
        );
    }
    out
}

fn requests(requests: &[Request]) -> String {
    let head = [
        ("REQUEST TO", Align::Left),
        ("TABLE", Align::Left),
        ("ADDRESSES", Align::Left),
        ("WIRE TIME", Align::Right),
        ("EVERY", Align::Right),
        ("LOAD", Align::Right),
    ];
    let row = |r: &Request| {
        vec![
            r.device.to_string(),
            r.table.to_string(),
            r.range.to_string(),
            format!("{:.1} ms", ms(r.wire)),
            span(r.every),
            percent(r.wire.div_duration_f64(r.every)),
        ]
    };
    render(&head, &requests.iter().map(row).collect::<Vec<_>>())
}

/// Worst first; points of a device that fare alike share a row.
fn ages(ages: &[Age]) -> String {
    let head = [
        ("WORST AGE", Align::Right),
        ("PERIOD", Align::Right),
        ("CAN BE", Align::Right),
        ("DEVICE", Align::Left),
        ("POINTS", Align::Left),
    ];
    let mut sorted: Vec<&Age> = ages.iter().collect();
    // Equal as they are shown: microseconds would tear apart what belongs together.
    sorted.sort_by_key(|a| std::cmp::Reverse(a.worst.as_millis()));
    let mut groups: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
    for age in sorted {
        let (device, point) = age.name.split_once('/').unwrap_or((&age.name, ""));
        let period = age.period.map_or_else(|| "cron".to_owned(), span);
        let can_be = if age.is_met() { String::new() } else { span(age.achievable) };
        let key = vec![span(age.worst), period, can_be, device.to_owned()];
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, points)) => points.push(point),
            None => groups.push((key, vec![point])),
        }
    }
    let rows: Vec<Vec<String>> = groups.into_iter().flat_map(|(key, points)| group_rows(key, &points)).collect();
    render(&head, &rows)
}

fn group_rows(key: Vec<String>, points: &[&str]) -> Vec<Vec<String>> {
    let blank = vec![String::new(); key.len()];
    let keys = std::iter::once(key).chain(std::iter::repeat(blank));
    let row = |(mut cells, names): (Vec<String>, String)| {
        cells.push(names);
        cells
    };
    keys.zip(wrap(points, NAMES)).map(row).collect()
}

fn dead(without: &[Without]) -> String {
    let head = [
        ("WITH THIS ONE DEAD", Align::Left),
        ("LOAD", Align::Right),
        ("OTHERS AT MOST OLD", Align::Right),
        ("BEYOND PERIOD", Align::Right),
        ("ONCE HELD UP", Align::Right),
    ];
    let row = |w: &Without| vec![w.device.to_string(), percent(w.load), span(w.worst), span(w.late), span(w.hold_up)];
    render(&head, &without.iter().map(row).collect::<Vec<_>>())
}

/// Times in milliseconds, loads as parts of one, like the status.
fn document(forecast: &Forecast) -> Value {
    let request = |r: &Request| {
        json!({
            "device": &*r.device, "table": r.table.to_string(), "address": r.range.start(), "count": r.range.count(),
            "wire_ms": ms(r.wire), "every_ms": ms(r.every),
        })
    };
    let point = |a: &Age| {
        json!({
            "point": a.name, "period_ms": a.period.map(ms), "achievable_ms": ms(a.achievable),
            "worst_ms": ms(a.worst), "met": a.is_met(),
        })
    };
    let without = |w: &Without| json!({ "device": &*w.device, "load": w.load, "worst_ms": ms(w.worst), "late_ms": ms(w.late), "hold_up_ms": ms(w.hold_up) });
    let mut points: Vec<&Age> = forecast.points.iter().collect();
    points.sort_by_key(|a| std::cmp::Reverse(a.worst));
    json!({
        "name": &*forecast.line,
        "load": forecast.load,
        "requests": forecast.requests.iter().map(request).collect::<Vec<_>>(),
        "points": points.into_iter().map(point).collect::<Vec<_>>(),
        "without": forecast.without.iter().map(without).collect::<Vec<_>>(),
    })
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// To the microsecond.
fn ms(d: std::time::Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work;
    use crate::config::plant::Port;
    use std::time::Duration;

    fn reference(baud: u32) -> Forecast {
        let port = Port::Serial(work::serial_port("none", baud, work::F8N1));
        let parts = work::reference(port, Duration::from_secs(1));
        forecast::of(&parts.line, &parts.devices, &parts.points)
    }

    #[test]
    fn a_line_with_room_is_shown_in_three_tables() {
        let text = text("bench: reference", &reference(115_200));
        assert!(text.starts_with("line bench: reference\nload 39.2 %\n"), "{text}");
        assert!(text.contains("d10"), "{text}");
        assert!(text.contains("1000 ms  1000 ms          d1      r0, r1, r2"), "{text}");
        assert!(!text.contains("cannot"), "{text}");
        // 300 points alike but for their device: no wall of rows.
        assert!(text.lines().count() < 120, "{text}");
    }

    #[test]
    fn what_cannot_be_met_is_said_with_what_can() {
        let text = text("bench", &reference(9_600));
        assert!(text.contains("load 217.9 %: more than the wire can carry"), "{text}");
        assert!(text.contains("300 of 300 points cannot have their period"), "{text}");
    }

    #[test]
    fn programs_get_every_point_and_every_death() {
        let document = document(&reference(9_600));
        assert_eq!(document["points"].as_array().map(Vec::len), Some(300));
        assert_eq!(document["without"].as_array().map(Vec::len), Some(10));
        assert_eq!(
            (&document["points"][0]["met"], &document["points"][0]["period_ms"]),
            (&json!(false), &json!(1000.0))
        );
    }
}
