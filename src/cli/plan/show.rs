//! A plan for people: three tables that fit 100 columns, what weighs most first, the rest summed up.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::plan::{Detail, Planned};
use crate::cli::table::{Align, render, span, wrap};
use crate::poll::forecast::{Age, Forecast, Without};

/// Columns of a terminal that one can count on.
const WIDTH: usize = 100;
/// Rows of a table before the rest is summed up.
const ROWS: usize = 12;
/// The last column is at least so wide, however wide the others are.
const NAMES: usize = 24;

/// What shares a row: equal in words, alike in times.
struct Group {
    words: Vec<String>,
    /// The longest of each.
    times: Vec<Option<Duration>>,
    /// Whose, and which; of a device as a whole the second is empty.
    names: Vec<(String, String)>,
    /// The load of each, or its lateness.
    weights: Vec<f64>,
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
    let mut groups: Vec<Group> = Vec::new();
    for r in planned.forecast.requests.iter().filter(|r| planned.only.is_none_or(|only| only.name == r.device)) {
        let wire = format!("{:.1} ms", r.wire.as_secs_f64() * 1e3);
        let words = vec![r.table.to_string(), r.range.to_string(), wire];
        let names = vec![(r.device.to_string(), String::new())];
        join(
            &mut groups,
            Group { words, times: vec![Some(r.every)], names, weights: vec![r.wire.div_duration_f64(r.every)] },
        );
    }
    let load = |g: &Group| g.weights.iter().sum::<f64>();
    groups.sort_by(|a, b| load(b).total_cmp(&load(a)));
    let rest: f64 = groups.iter().skip(ROWS).map(load).sum();
    let cells = |g: &Group| [vec![percent(load(g))], g.words.clone(), times(g)].concat();
    let (mut out, left) = table(&head, &groups, detail, cells);
    if left > 0 {
        let _ = writeln!(out, "and {}, load {}; --all shows them", more(left, "request"), percent(rest));
    }
    out
}

/// The oldest for their period first. Names are shown where few are asked for, else how many of which device.
fn ages(planned: &Planned<'_>, detail: Detail) -> String {
    let head = [
        ("PERIOD", Align::Right),
        ("WORST AGE", Align::Right),
        ("CAN BE", Align::Right),
        ("ONE DEAD", Align::Right),
        ("UNNOTICED", Align::Right),
        ("POINTS", Align::Left),
    ];
    let mut sorted: Vec<(usize, &Age)> = planned.forecast.points.iter().enumerate().collect();
    sorted.retain(|(_, age)| planned.only.is_none_or(|only| age.device == only.id));
    sorted.sort_by(|(_, a), (_, b)| b.lateness().total_cmp(&a.lateness()));
    let mut groups: Vec<Group> = Vec::new();
    for (at, age) in sorted {
        let (device, point) = age.name.split_once('/').unwrap_or((&age.name, ""));
        let words = vec![age.period.map_or_else(|| "cron".to_owned(), span)];
        let names = vec![(device.to_owned(), point.to_owned())];
        join(
            &mut groups,
            Group { words, times: age_times(&planned.forecast, at, age), names, weights: vec![age.lateness()] },
        );
    }
    // In order of lateness: the first of the first group that is left out is the latest of all that are.
    let rest = groups.get(ROWS).map_or(1.0, |g| g.weights[0]);
    if detail == Detail::Most && planned.only.is_none() {
        groups.iter_mut().for_each(count_by_device);
    }
    let (mut out, left) = table(&head, &groups, detail, |g| [g.words.clone(), times(g)].concat());
    if left > 0 {
        let what = more(left, "row");
        let _ = writeln!(out, "and {what}, nothing older than {rest:.2} times its period; --all shows them");
    }
    out
}

fn age_times(forecast: &Forecast, at: usize, age: &Age) -> Vec<Option<Duration>> {
    // Only what is worse than with all alive.
    let worse = |death: Option<(&Without, Duration)>| {
        death.map(|(_, worst)| worst).filter(|worst| *worst > age.worst && age.changes(*worst))
    };
    let can_be = (!age.is_met()).then_some(age.achievable);
    let (dead, unnoticed) = (worse(forecast.worst_without(at)), worse(forecast.worst_unnoticed(at)));
    vec![Some(age.worst), can_be, dead, unnoticed]
}

/// Several points of one device become their number.
fn count_by_device(group: &mut Group) {
    let mut counted: Vec<(String, String, usize)> = Vec::new();
    for (device, point) in group.names.drain(..) {
        match counted.iter_mut().find(|(d, ..)| *d == device) {
            Some((.., n)) => *n += 1,
            None => counted.push((device, point, 1)),
        }
    }
    let name = |(device, point, n)| if n == 1 { (device, point) } else { (format!("{device} ({n})"), String::new()) };
    group.names.extend(counted.into_iter().map(name));
}

/// The ones that hurt the others most first.
fn deaths(planned: &Planned<'_>, detail: Detail) -> String {
    let head = [
        ("LOAD", Align::Right),
        ("OTHERS LATE", Align::Right),
        ("UNNOTICED", Align::Right),
        ("NOTICED AFTER", Align::Right),
        ("HELD UP EACH TURN", Align::Right),
        ("WITH THIS ONE DEAD", Align::Left),
    ];
    let mut sorted: Vec<(&Without, (Duration, Duration))> =
        planned.forecast.without.iter().map(|w| (w, planned.forecast.late_without(w))).collect();
    sorted.retain(|(w, _)| planned.only.is_none_or(|only| w.id == only.id));
    sorted.sort_by_key(|(_, late)| Reverse(*late));
    let mut groups: Vec<Group> = Vec::new();
    for (w, (late, unnoticed)) in sorted {
        let times = vec![Some(late), Some(unnoticed), Some(w.noticed), Some(w.hold_up)];
        let names = vec![(w.device.to_string(), String::new())];
        join(&mut groups, Group { words: vec![percent(w.load)], times, names, weights: Vec::new() });
    }
    let (mut out, left) = table(&head, &groups, detail, |g| [g.words.clone(), times(g)].concat());
    if left > 0 {
        let _ = writeln!(out, "and {}, which hurt the others less; --all shows them", more(left, "row"));
    }
    out
}

fn times(group: &Group) -> Vec<String> {
    group.times.iter().map(|time| time.map_or_else(String::new, span)).collect()
}

/// Times that differ by less than a fiftieth, or a few milliseconds, are one to a reader.
fn alike(a: Option<Duration>, b: Option<Duration>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) <= (a.max(b) / 50).max(Duration::from_millis(2)),
        (None, None) => true,
        _ => false,
    }
}

fn join(groups: &mut Vec<Group>, one: Group) {
    let fits = |g: &&mut Group| g.words == one.words && g.times.iter().zip(&one.times).all(|(a, b)| alike(*a, *b));
    let Some(group) = groups.iter_mut().find(fits) else { return groups.push(one) };
    group.names.extend(one.names);
    group.weights.extend(one.weights);
    group.times.iter_mut().zip(one.times).for_each(|(longest, time)| *longest = (*longest).max(time));
}

/// The rows that fit, the names in the last column; and how many rows were left out.
fn table(
    head: &[(&str, Align)],
    groups: &[Group],
    detail: Detail,
    cells: impl Fn(&Group) -> Vec<String>,
) -> (String, usize) {
    let shown = if detail == Detail::All { groups.len() } else { ROWS.min(groups.len()) };
    let keys: Vec<Vec<String>> = groups[..shown].iter().map(cells).collect();
    let column = |n: usize| keys.iter().map(|k| k[n].chars().count()).chain([head[n].0.len()]).max().unwrap_or(0);
    let taken: usize = (0..head.len() - 1).map(|n| column(n) + 2).sum();
    let width = WIDTH.saturating_sub(taken).max(NAMES);
    let name = |(device, point): &(String, String)| {
        if point.is_empty() { device.clone() } else { format!("{device}/{point}") }
    };
    let rows = keys.into_iter().zip(groups).flat_map(|(key, group)| {
        let names: Vec<String> = group.names.iter().map(name).collect();
        let names = if detail == Detail::All { every(&names, width) } else { vec![first(&names, width)] };
        let blank = vec![String::new(); key.len()];
        let keys = std::iter::once(key).chain(std::iter::repeat(blank));
        keys.zip(names).map(|(key, names)| [key, vec![names]].concat()).collect::<Vec<_>>()
    });
    (render(head, &rows.collect::<Vec<_>>()), groups.len() - shown)
}

fn every(names: &[String], width: usize) -> Vec<String> {
    // A row that goes on ends with a comma beyond its width.
    wrap(&names.iter().map(String::as_str).collect::<Vec<_>>(), width - 1)
}

/// As many names as fit in one row, and how many more there are.
fn first(names: &[String], width: usize) -> String {
    let mut shown = String::new();
    for (n, name) in names.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let rest = format!(", and {} more", names.len() - n);
        let last = n + 1 == names.len();
        let room = if last { 0 } else { rest.chars().count() };
        if n > 0 && shown.chars().count() + comma.len() + name.chars().count() + room > width {
            shown.push_str(&rest);
            break;
        }
        let _ = write!(shown, "{comma}{name}");
    }
    shown
}

fn more(n: usize, what: &str) -> String {
    if n == 1 { format!("1 more {what}") } else { format!("{n} more {what}s") }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}
