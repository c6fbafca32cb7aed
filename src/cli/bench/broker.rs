//! `trunkline bench broker` and `bench hostile`: the embedded broker beside Debian's Mosquitto, what it keeps in memory for what,
//! and what it stands.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::bench::broker::bounds;
use crate::bench::broker::bounds::Stage;
use crate::bench::broker::flow::Load;
use crate::bench::broker::flow::Writes;
use crate::bench::broker::hostile::Hostile;
use crate::bench::broker::server::Which;
use crate::bench::broker::versus;
use crate::bench::broker::versus::Both;
use crate::bench::broker::versus::Effort;
use crate::bench::broker::wear;
use crate::cli::say;
use crate::cli::table::Align;
use crate::cli::table::render;
use crate::cli::table::thousands;

/// What there is to choose from.
const PARTS: [&str; 4] = ["rate", "delay", "memory", "wear"];
/// Of processor time a message, and of the rate: what is wanted.
const SHARE: f64 = 1.0 / 3.0;
const TIMES: f64 = 2.0;
/// With so many processes waiting for the processor, delays and rates say more about them than about a broker.
const BUSY: f64 = 1.0;

#[derive(Debug, Args)]
pub(super) struct BrokerArguments {
    /// Only this part: rate, delay, memory or wear
    #[arg(value_name = "PART", value_parser = PARTS)]
    part: Option<String>,
    /// How long each cell of each broker is measured, in seconds; the wear is measured sixty times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often both have their turn
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
}

#[derive(Debug, Args)]
pub(super) struct HostileArguments {
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    lasting: u64,
    /// Clients that misbehave at once
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=150))]
    guests: u32,
}

pub(super) fn compare(args: &BrokerArguments, folder: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(super::text)?;
    let effort = Effort { span: Duration::from_secs(args.seconds), rounds: usize::from(args.rounds) };
    let wanted = |part: &str| args.part.as_deref().is_none_or(|only| only == part);
    say_how_busy();
    if wanted("rate") {
        rates(&program, folder, effort)?;
    }
    if wanted("delay") {
        delays(&program, folder, effort)?;
    }
    if wanted("memory") {
        memory(&program, folder)?;
    }
    if wanted("wear") {
        let seconds = u32::try_from(args.seconds * 60).unwrap_or(u32::MAX);
        let bytes = wear::run(&program, folder, seconds).map_err(super::text)?;
        say(&format!("\n1000 retained updates a second: {:.0} MB written a day", bytes / 1e6));
    }
    Ok(())
}

fn say_how_busy() {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
    if load > BUSY {
        say(&format!(
            "this machine is busy (load {load:.1}): trust ratios of processor time and memory, not rates and delays\n"
        ));
    }
}

fn rates(program: &Path, folder: &Path, effort: Effort) -> Result<(), String> {
    let right = Align::Right;
    let head = [
        ("PAIRS", right),
        ("QOS", right),
        ("WRITES", Align::Left),
        ("OURS/S", right),
        ("MOSQUITTO/S", right),
        ("TIMES", right),
        ("OURS CPU", right),
        ("MOSQUITTO CPU", right),
        ("SHARE", right),
        ("MISSED", right),
        ("GENERATOR", right),
        ("", Align::Left),
    ];
    let mut rows = Vec::new();
    for load in versus::loads() {
        let Load { pairs, qos, writes } = load;
        let measured = versus::rates(program, folder, load, effort).map_err(super::text)?;
        let (rate, cpu, own) = (measured.rate, measured.cpu, measured.own);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are positive and for people"
        )]
        let whole = |n: f64| thousands(n as u64);
        let well = rate.ratio >= TIMES && cpu.ratio <= SHARE && measured.missed == 0;
        rows.push(vec![
            pairs.to_string(),
            qos.to_string(),
            if writes == Writes::Runs { "in runs" } else { "single" }.to_owned(),
            whole(rate.ours),
            whole(rate.theirs),
            format!("{:.2}", rate.ratio),
            format!("{:.2} µs", cpu.ours),
            format!("{:.2} µs", cpu.theirs),
            format!("{:.3}", cpu.ratio),
            format!("{}/{}", measured.missed, measured.their_missed),
            format!("{:.0}/{:.0} %", own.ours * 1e2, own.theirs * 1e2),
            if well { "" } else { "short" }.to_owned(),
        ]);
    }
    say(render(&head, &rows).trim_end());
    say(&format!(
        "wanted: at least {TIMES} times the rate with at most {SHARE:.3} of the processor time a message, none missed\n"
    ));
    Ok(())
}

fn delays(program: &Path, folder: &Path, effort: Effort) -> Result<(), String> {
    let right = Align::Right;
    let head = [
        ("QOS", right),
        ("RATE", right),
        ("OURS P50", right),
        ("MOSQUITTO P50", right),
        ("RATIO", right),
        ("OURS P99", right),
        ("MOSQUITTO P99", right),
        ("RATIO", right),
    ];
    let mut rows = Vec::new();
    for (qos, rate) in versus::paces() {
        let measured = versus::delays(program, folder, (qos, rate), effort).map_err(super::text)?;
        let mut row = vec![qos.to_string(), format!("{rate}/s")];
        for Both { ours, theirs, ratio } in [measured.median, measured.p99] {
            row.extend([format!("{ours:.0} µs"), format!("{theirs:.0} µs"), format!("{ratio:.2}")]);
        }
        rows.push(row);
    }
    say(render(&head, &rows).trim_end());
    say("");
    Ok(())
}

fn memory(program: &Path, folder: &Path) -> Result<(), String> {
    for (name, which) in [("ours", Which::Ours), ("Mosquitto", Which::Mosquitto)] {
        let (alone, together) = versus::idle(which, program, folder, 100).map_err(super::text)?;
        #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let more = mb(together.saturating_sub(alone));
        say(&format!("{name}: {:.2} MB resident, {more:.2} MB more with 100 idle clients", mb(alone)));
    }
    for (name, scene) in bounds::SCENES {
        let facts = scene(&Stage { program, folder }).map_err(|why| format!("{name}: {why}"))?;
        let rows: Vec<_> = facts.into_iter().map(|fact| vec![fact.what, fact.figure]).collect();
        let name = name.to_uppercase();
        say("");
        say(render(&[(&name, Align::Left), ("", Align::Left)], &rows).trim_end());
    }
    Ok(())
}

pub(super) fn besiege(args: &HostileArguments, folder: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(super::text)?;
    let hostile = Hostile { guests: args.guests, lasting: Duration::from_secs(args.lasting) };
    let outcome = hostile.run(&program, folder).map_err(super::text)?;
    say(&outcome.to_string());
    if outcome.complaints.is_empty() {
        return Ok(());
    }
    Err(outcome.complaints.join("; "))
}
