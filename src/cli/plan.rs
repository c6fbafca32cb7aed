//! `trunkline plan`: what each line will carry, from the configuration alone. Computed by the timetable and the planner
//! that `run` runs; see `docs/bus-load.md` for what is assumed.

use std::time::Duration;

use serde_json::{Value, json};

mod document;
mod show;

use crate::cli::summary::describe_line;
use crate::cli::{ConfigFile, Exit, complain, load, say};
use crate::config::plant::{Device, Line, Plant};
use crate::poll::forecast::advice::{self, Proposal};
use crate::poll::forecast::{self, Forecast};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this line
    #[arg(long, value_name = "NAME")]
    line: Option<String>,
    /// Only this device; the others of its line are taken into account all the same
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// How long devices think before they answer, e.g. 20ms [default: 5ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    turnaround: Option<Duration>,
    /// Every request, point and device, not only the ones that weigh most
    #[arg(long)]
    all: bool,
    /// For programs: one JSON document; with --all every point at every death
    #[arg(long)]
    json: bool,
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Most,
    All,
}

/// One line's part of the answer.
struct Planned<'a> {
    title: String,
    forecast: Forecast,
    proposals: Vec<Proposal>,
    only: Option<&'a Device>,
    turnaround: Duration,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let loaded = match load(&args.file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let plant = &loaded.plant;
    let planned = match select(plant, args) {
        Ok((lines, only)) => lines.into_iter().map(move |line| plan(plant, line, only, args.turnaround)),
        Err(unknown) => {
            complain(&unknown);
            return Exit::Usage;
        }
    };
    let detail = if args.all { Detail::All } else { Detail::Most };
    if args.json {
        let lines: Vec<Value> = planned.map(|p| document::of(&p, detail)).collect();
        say(&format!("{:#}", json!({ "schema": 1, "gateway": &*plant.gateway, "lines": lines })));
    } else {
        let texts: Vec<String> = planned.map(|p| show::text(&p, detail)).collect();
        say(texts.join("\n").trim_end());
    }
    Exit::Well
}

/// The lines that are wanted, and the device if it is one; or which name is unknown.
fn select<'a>(plant: &'a Plant, args: &Arguments) -> Result<(Vec<&'a Line>, Option<&'a Device>), String> {
    let names = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join(", ");
    if let Some(name) = &args.line
        && !plant.lines.iter().any(|l| *l.name == **name)
    {
        return Err(format!("no line `{name}`; there are: {}", names(&mut plant.lines.iter().map(|l| &*l.name))));
    }
    let lines = plant.lines.iter().filter(|l| args.line.as_ref().is_none_or(|name| *l.name == **name));
    let Some(name) = &args.device else { return Ok((lines.collect(), None)) };
    let lines: Vec<&Line> = lines.collect();
    let mut there = plant.devices.iter().filter(|d| lines.iter().any(|l| l.id == d.line));
    let Some(device) = there.clone().find(|d| *d.name == **name) else {
        return Err(format!("no device `{name}`; there are: {}", names(&mut there.by_ref().map(|d| &*d.name))));
    };
    Ok((lines.into_iter().filter(|l| l.id == device.line).collect(), Some(device)))
}

fn plan<'a>(plant: &Plant, line: &Line, only: Option<&'a Device>, turnaround: Option<Duration>) -> Planned<'a> {
    let turnaround = turnaround.unwrap_or(forecast::USUAL_TURNAROUND);
    let (devices, points) = (&plant.devices, &plant.points);
    let forecast = forecast::with_turnaround(line, devices, points, turnaround);
    let is_tight = forecast.is_overloaded() || forecast.unmet().next().is_some();
    let proposals = if is_tight { advice::proposals(line, devices, points, turnaround) } else { Vec::new() };
    Planned { title: describe_line(plant, line), forecast, proposals, only, turnaround }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 20ms or 1s");
    let (digits, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match Duration::from_millis(number.saturating_mul(unit_ms)) {
        // The longest timeout a line may have; a device that thinks longer never answers in time.
        long if long > Duration::from_secs(60) => Err(format!("`{text}` is longer than 60s")),
        fits => Ok(fits),
    }
}

#[cfg(test)]
mod tests;
