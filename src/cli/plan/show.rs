//! A plan for people: three tables that fit 100 columns, what weighs most first, the rest summed up.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::plan::{Detail, Planned};
use crate::cli::table::{Align, render, span, wrap};
use crate::poll::forecast::{Age, Forecast, Request, Without};

/// Columns of a terminal that one can count on.
const WIDTH: usize = 100;
/// Rows of a table before the rest is summed up.
const ROWS: usize = 12;
/// The last column is at least so wide, however wide the others are.
const NAMES: usize = 24;

/// One row of values, and the names that share it.
struct Group {
    key: Vec<String>,
    names: Vec<String>,
    /// How many things that is.
    count: usize,
    /// What it adds to the sum of those that are not shown.
    weight: f64,
}

pub(super) fn text(planned: &Planned<'_>, detail: Detail) -> String {
    let forecast = &planned.forecast;
    let mut out = format!("line {}\nload {}", planned.title, percent(forecast.load));
    if forecast.is_overloaded() {
        out.push_str(": more than the wire can carry");
    }
    out.push('\n');
    if forecast.points.is_empty() {
        out.push_str("nothing is read from it\n");
        return out;
    }
    let _ = write!(out, "\n{}\n{}", requests(planned, detail), ages(planned, detail));
    // With one device alone there are no others to suffer.
    if forecast.without.len() > 1 {
        let _ = write!(out, "\n{}", deaths(planned, detail));
    }
    out.push_str(&verdict(planned));
    out
}

/// Which periods cannot be had, and what would help.
fn verdict(planned: &Planned<'_>) -> String {
    let forecast = &planned.forecast;
    let (unmet, all) = (forecast.unmet().count(), forecast.points.len());
    let mut out = String::new();
    if unmet > 0 {
        let _ = write!(out, "\n{unmet} of {all} points cannot have their period: CAN BE is what they will get.\n");
        if planned.proposals.is_empty() {
            out.push_str("The line has room for them, but the turns of others are longer than their period.\n");
        }
    }
    if !planned.proposals.is_empty() {
        out.push_str("It would fit with one of these:\n");
        planned.proposals.iter().for_each(|proposal| {
            let _ = writeln!(out, "  {proposal}");
        });
    }
    out
}

/// Requests that are alike share a row; the heaviest first.
fn requests(planned: &Planned<'_>, detail: Detail) -> String {
    let head = [
        ("LOAD", Align::Right),
        ("TABLE", Align::Left),
        ("ADDRESSES", Align::Left),
        ("WIRE TIME", Align::Right),
        ("EVERY", Align::Right),
        ("REQUEST TO", Align::Left),
    ];
    let load = |r: &Request| r.wire.div_duration_f64(r.every);
    let mut groups: Vec<Group> = Vec::new();
    for r in planned.forecast.requests.iter().filter(|r| planned.only.is_none_or(|only| only.name == r.device)) {
        let wire = format!("{:.1} ms", r.wire.as_secs_f64() * 1e3);
        let key = vec![r.table.to_string(), r.range.to_string(), wire, span(r.every)];
        join(&mut groups, key, r.device.to_string(), load(r));
    }
    groups.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    for group in &mut groups {
        group.key.insert(0, percent(group.weight));
    }
    let rest: f64 = groups.iter().skip(ROWS).map(|g| g.weight).sum();
    let (rows, left) = rows(&head, groups, detail);
    let mut out = render(&head, &rows);
    if left > 0 {
        let _ = writeln!(out, "and {} more, load {}; --all shows them", count(left, "request"), percent(rest));
    }
    out
}

/// Worst first; points that fare alike share a row. Their names are shown where few are asked for, else how many of
/// which device.
fn ages(planned: &Planned<'_>, detail: Detail) -> String {
    let head = [
        ("WORST AGE", Align::Right),
        ("PERIOD", Align::Right),
        ("CAN BE", Align::Right),
        ("ONE DEAD", Align::Right),
        ("UNNOTICED", Align::Right),
        ("POINTS", Align::Left),
    ];
    let mut sorted: Vec<(usize, &Age)> = planned.forecast.points.iter().enumerate().collect();
    sorted.retain(|(_, age)| planned.only.is_none_or(|only| age.device == only.id));
    // Equal as they are shown: microseconds would tear apart what belongs together.
    sorted.sort_by_key(|(_, a)| Reverse(a.worst.as_millis()));
    let by_name = detail == Detail::All || planned.only.is_some();
    let groups = if by_name { points_by_name(planned, &sorted) } else { points_by_device(planned, &sorted) };
    let oldest = groups.get(ROWS).map(|g| g.key[0].clone());
    let (rows, left) = rows(&head, groups, detail);
    let mut out = render(&head, &rows);
    if let Some(oldest) = oldest.filter(|_| left > 0) {
        let _ = writeln!(out, "and {} more, none older than {oldest}; --all shows them", count(left, "point"));
    }
    out
}

fn points_by_name(planned: &Planned<'_>, sorted: &[(usize, &Age)]) -> Vec<Group> {
    let mut groups = Vec::new();
    for (at, age) in sorted {
        join(&mut groups, age_key(&planned.forecast, *at, age), age.name.clone(), 0.0);
    }
    groups
}

fn points_by_device(planned: &Planned<'_>, sorted: &[(usize, &Age)]) -> Vec<Group> {
    let mut owned: Vec<(Vec<String>, Vec<&Age>)> = Vec::new();
    for (at, age) in sorted {
        let key = age_key(&planned.forecast, *at, age);
        match owned.iter_mut().find(|(k, ages)| *k == key && ages[0].device == age.device) {
            Some((_, ages)) => ages.push(age),
            None => owned.push((key, vec![age])),
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for (key, ages) in owned {
        let device = ages[0].name.split('/').next().unwrap_or_default();
        let name = if ages.len() == 1 { ages[0].name.clone() } else { format!("{device} ({})", ages.len()) };
        join(&mut groups, key.clone(), name, 0.0);
        if let Some(group) = groups.iter_mut().find(|g| g.key == key) {
            group.count += ages.len() - 1;
        }
    }
    groups
}

fn age_key(forecast: &Forecast, at: usize, age: &Age) -> Vec<String> {
    let period = age.period.map_or_else(|| "cron".to_owned(), span);
    let can_be = if age.is_met() { String::new() } else { span(age.achievable) };
    // Only what is worse than with all alive.
    let worse = |death: Option<(&Without, Duration)>| {
        let shown = death.filter(|(_, worst)| *worst > age.worst && age.changes(*worst));
        shown.map_or_else(String::new, |(_, worst)| span(worst))
    };
    let (dead, unnoticed) = (worse(forecast.worst_without(at)), worse(forecast.worst_unnoticed(at)));
    vec![span(age.worst), period, can_be, dead, unnoticed]
}

/// The ones that hurt the others most first.
fn deaths(planned: &Planned<'_>, detail: Detail) -> String {
    let head = [
        ("LOAD", Align::Right),
        ("OTHERS AT MOST OLD", Align::Right),
        ("HELD UP EACH TURN", Align::Right),
        ("NOTICED AFTER", Align::Right),
        ("UNTIL THEN", Align::Right),
        ("WITH THIS ONE DEAD", Align::Left),
    ];
    let mut sorted: Vec<&Without> = planned.forecast.without.iter().collect();
    sorted.retain(|w| planned.only.is_none_or(|only| w.id == only.id));
    sorted.sort_by_key(|w| Reverse((w.worst().as_millis(), w.unnoticed().as_millis())));
    let mut groups: Vec<Group> = Vec::new();
    for w in sorted {
        let key = vec![percent(w.load), span(w.worst()), span(w.hold_up), span(w.noticed), span(w.unnoticed())];
        join(&mut groups, key, w.device.to_string(), 0.0);
    }
    let (rows, left) = rows(&head, groups, detail);
    let mut out = render(&head, &rows);
    if left > 0 {
        let _ = writeln!(out, "and {} more, which hurt the others less; --all shows them", count(left, "device"));
    }
    out
}

fn join(groups: &mut Vec<Group>, key: Vec<String>, name: String, weight: f64) {
    match groups.iter_mut().find(|g| g.key == key) {
        Some(group) => {
            group.names.push(name);
            group.count += 1;
            group.weight += weight;
        }
        None => groups.push(Group { key, names: vec![name], count: 1, weight }),
    }
}

/// Rows that fit, the names in the last column; and how many things were left out.
fn rows(head: &[(&str, Align)], groups: Vec<Group>, detail: Detail) -> (Vec<Vec<String>>, usize) {
    let column = |n: usize| groups.iter().map(|g| g.key[n].chars().count()).chain([head[n].0.len()]).max().unwrap_or(0);
    let taken: usize = (0..head.len() - 1).map(|n| column(n) + 2).sum();
    let width = WIDTH.saturating_sub(taken).max(NAMES);
    let shown = if detail == Detail::All { groups.len() } else { ROWS.min(groups.len()) };
    let left = groups[shown..].iter().map(|g| g.count).sum();
    let rows = groups.into_iter().take(shown).flat_map(|group| match detail {
        Detail::All => every_name(group, width),
        Detail::Most => vec![first_names(group, width)],
    });
    (rows.collect(), left)
}

fn every_name(group: Group, width: usize) -> Vec<Vec<String>> {
    let blank = vec![String::new(); group.key.len()];
    let keys = std::iter::once(group.key).chain(std::iter::repeat(blank));
    let names: Vec<&str> = group.names.iter().map(String::as_str).collect();
    let row = |(mut cells, names): (Vec<String>, String)| {
        cells.push(names);
        cells
    };
    // A row that goes on ends with a comma beyond its width.
    keys.zip(wrap(&names, width - 1)).map(row).collect()
}

/// As many names as fit in one row, and how many more there are.
fn first_names(group: Group, width: usize) -> Vec<String> {
    let all = group.names.len();
    let rest = format!(", … ({})", group.count);
    let mut shown = String::new();
    for (n, name) in group.names.iter().enumerate() {
        let more = if n + 1 == all { 0 } else { rest.chars().count() };
        let comma = if n == 0 { "" } else { ", " };
        if n > 0 && shown.chars().count() + comma.len() + name.chars().count() + more > width {
            shown.push_str(&rest);
            break;
        }
        let _ = write!(shown, "{comma}{name}");
    }
    let mut cells = group.key;
    cells.push(shown);
    cells
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}
