//! `trunkline bench`: this machine, this program, against what is physically possible. Ratios, no verdicts: a busy machine
//! shows in them. What is measured lives in [`crate::bench`] and [`crate::spool::bench`].

mod broker;
mod site;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use crate::bench::drain;
use crate::bench::drain::Drain;
use crate::bench::fleet;
use crate::bench::fleet::Fleet;
use crate::bench::line;
use crate::bench::outage;
use crate::bench::outage::{Outage, Trouble, Verdict};
use crate::bench::soak::{self, Soak};
use crate::bench::values;
use crate::cli::table::{Align, bytes, render, thousands};
use crate::cli::{Exit, complain, say};
use crate::spool::bench as log;
use crate::spool::bench::{Durability, Figures, Load, Scene};
use crate::topic::Qos;

/// Of a message in the log's bench: a JSON value with quality and time has about as many.
const PAYLOAD: usize = 200;
/// The scene of all troubles: 204,800 reads of unpaced lines, each value compared with the truth.
const SOAK: &str = "soak";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The embedded broker beside a Mosquitto of this bench alone: rates, processor time, delays, memory, wear of the flash
    Broker(broker::BrokerArguments),
    /// Fifty clients that send noise, valid-looking packets and nothing, for ten minutes, beside some who must not notice
    Hostile(broker::HostileArguments),
    /// A large site: many Modbus TCP devices, each value on a topic of its own, against what others take for it
    Fleet(FleetArguments),
    /// Full scans of ten simulated devices on a paced line, against the least time the wire allows (three minutes), and
    /// the hostile line, where no value may be wrong (some more)
    Line(LineArguments),
    /// A backlog into a Mosquitto of its own at QoS 1, turn about with a bare publisher of the same client library
    Drain(DrainArguments),
    /// A minute without the cloud (a Mosquitto of its own) at 1,000 values a second: what is lost, late, twice, slow
    Outage(OutageArguments),
    /// A cabinet as it usually is: what the gateway takes there, how soon it tells a value, and whether anything grows
    Site(site::SiteArguments),
    /// The store-and-forward log: rates, bytes an entry, time to open again, what flash wears by
    Spool(SpoolArguments),
    /// Values a second from words to a subscriber's bytes, in process on one core
    Values(ValuesArguments),
}

#[derive(Debug, Args)]
struct FleetArguments {
    /// Modbus TCP devices
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    devices: u16,
    /// Registers of each
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    registers: u16,
    /// How often each is read, in milliseconds; 100 makes 50,000 values a second of the default
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(20..=5000))]
    period: u64,
    /// QoS of the subscriber
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    lasting: u64,
}

#[derive(Debug, Args)]
struct ValuesArguments {
    /// Readings of each of the 5,000 points
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

#[derive(Debug, Args)]
struct LineArguments {
    /// Only scenes with this in their name, e.g. 9600, insisting, dead or soak
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
}

#[derive(Debug, Args)]
struct DrainArguments {
    /// Messages of 200 bytes in each turn
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    entries: u64,
    /// Unacknowledged publishes at once (`in_flight`)
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    window: u16,
    /// How often each has its turn
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    turns: u32,
    /// A folder on the disk that holds the log
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct OutageArguments {
    /// Only troubles with this in their name: cut, black hole, kill
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
    /// How long the cloud is away
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..=3600))]
    seconds: u64,
    /// Hundreds of values a second
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    hundreds: u8,
    /// The backlog before what is new, instead of beside it
    #[arg(long)]
    in_order: bool,
}

#[derive(Debug, Args)]
struct SpoolArguments {
    /// Entries to append and drain; a day of 100 values a second has 8,640,000
    #[arg(long, value_name = "COUNT", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    entries: u64,
    /// A folder on the disk that is to be measured
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
}

pub(super) fn run(args: &Arguments) -> Exit {
    let done = match &args.what {
        What::Broker(args) => in_folder(&std::env::temp_dir(), |folder| broker::compare(args, folder)),
        What::Hostile(args) => in_folder(&std::env::temp_dir(), |folder| broker::besiege(args, folder)),
        What::Fleet(args) => poll(args),
        What::Line(args) => scan(&args.name),
        What::Drain(args) => drained(args),
        What::Outage(args) => outage(args),
        What::Site(args) => in_folder(&std::env::temp_dir(), |folder| site::run(args, folder)),
        What::Spool(args) => fill(args),
        What::Values(args) => take(args.rounds),
    };
    match done {
        Ok(()) => Exit::Well,
        Err(why) => {
            complain(&format!("trunkline bench: {why}"));
            Exit::Failed
        }
    }
}

fn scan(name: &str) -> Result<(), String> {
    let scenes: Vec<_> = line::scenes().into_iter().filter(|s| s.name().contains(name)).collect();
    let with_soak = SOAK.contains(name);
    if scenes.is_empty() && !with_soak {
        let names: Vec<String> = line::scenes().iter().map(line::Scene::name).chain([SOAK.to_owned()]).collect();
        return Err(format!("no scene has `{name}` in its name; there are: {}", names.join(", ")));
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)?;
    for scene in scenes {
        // One after the other and each said when it is over: a scene takes up to a minute and a half.
        say(&runtime.block_on(line::run(scene)).map_err(text)?.to_string());
    }
    if with_soak {
        let tally = runtime.block_on(soak::run(Soak::FULL)).map_err(text)?;
        say(&tally.to_string());
        if tally.wrong > 0 {
            return Err(format!("{} wrong values: please report this with the lines above", tally.wrong));
        }
    }
    runtime.shutdown_background();
    Ok(())
}

fn drained(args: &DrainArguments) -> Result<(), String> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)?;
    let drain = Drain { count: args.entries, window: args.window };
    let mut rows = Vec::new();
    let (mut bridge, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..args.turns.max(1) {
        let turn = in_folder(&args.folder, |folder| runtime.block_on(drain::turn(drain, folder)).map_err(text))?;
        bridge.push(turn.bridge);
        bare.push(turn.bare);
        rows.push(rates("turn", turn.bridge, turn.bare));
    }
    rows.push(rates("median", median(&mut bridge), median(&mut bare)));
    let head = [("", Align::Left), ("BRIDGE/S", Align::Right), ("BARE/S", Align::Right), ("RATIO", Align::Right)];
    say(render(&head, &rows).trim_end());
    Ok(())
}

fn rates(what: &str, bridge: f64, bare: f64) -> Vec<String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and for people")]
    let rate = |r: f64| thousands(r as u64);
    vec![what.to_owned(), rate(bridge), rate(bare), format!("{:.2}", bridge / bare)]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn outage(args: &OutageArguments) -> Result<(), String> {
    let troubles = [Trouble::Cut, Trouble::BlackHole, Trouble::Kill];
    let wanted: Vec<_> = troubles.into_iter().filter(|t| t.to_string().contains(&args.name)).collect();
    if wanted.is_empty() {
        return Err(format!("no trouble has `{}` in its name; there are: cut, black hole, kill -9", args.name));
    }
    let program = std::env::current_exe().map_err(text)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)?;
    let mut rows = Vec::new();
    for trouble in wanted {
        let replay = if args.in_order { "in-order" } else { "live-first" };
        let lasting = Duration::from_secs(args.seconds);
        let before = Duration::from_secs(10);
        let program = program.clone();
        let outage = Outage { trouble, devices: args.hundreds, before, lasting, replay, program };
        let verdict =
            in_folder(&std::env::temp_dir(), |folder| runtime.block_on(outage::run(&outage, folder)).map_err(text))?;
        rows.push(verdict_row(trouble, &verdict));
    }
    let head = [("", Align::Left)].into_iter();
    let head = head.chain(
        ["READ", "LOST", "OUT OF ORDER", "TWICE", "PERIOD BEFORE", "DURING", "CONNECTED", "LIVE", "BACKLOG", "PER S"]
            .map(|title| (title, Align::Right)),
    );
    let head: Vec<_> = head.chain([("MEMORY", Align::Right)]).collect();
    say(render(&head, &rows).trim_end());
    Ok(())
}

fn verdict_row(trouble: Trouble, v: &Verdict) -> Vec<String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and for people")]
    let rate = v.backlog.1 as u64;
    let seconds = |d: Duration| format!("{:.2} s", d.as_secs_f64());
    let known = |d: Option<Duration>| d.map_or_else(|| "never".to_owned(), seconds);
    let mut row = vec![trouble.to_string()];
    row.extend([v.read, v.lost, v.out_of_order, v.twice].map(thousands));
    row.extend([seconds(v.longest_period.0), seconds(v.longest_period.1), known(v.connected), known(v.live)]);
    row.extend([thousands(v.backlog.0), thousands(rate), bytes(v.resident)]);
    row
}

/// Runs it in a folder that is gone afterwards, and stays when it failed.
fn in_folder<T>(parent: &Path, run: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    let folder = parent.join(format!("trunkline-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let done = run(&folder).map_err(|why| format!("{why}\n(what it left lies in {})", folder.display()))?;
    std::fs::remove_dir_all(&folder).map_err(|e| format!("{} could not be removed: {e}", folder.display()))?;
    Ok(done)
}

fn fill(args: &SpoolArguments) -> Result<(), String> {
    let mut rows = Vec::new();
    for (what, load) in [("values", Load::Values), ("messages", Load::Messages(PAYLOAD))] {
        let folder = room(&args.folder)?;
        let measured = log::measure(&folder, args.entries, load, Durability::Full);
        let removed = std::fs::remove_dir_all(&folder);
        rows.push(row(what, &measured.map_err(text)?));
        removed.map_err(|e| format!("{} could not be removed: {e}", folder.display()))?;
    }
    let head = [
        ("ENTRIES", Align::Left),
        ("APPENDED/S", Align::Right),
        ("BYTES EACH", Align::Right),
        ("OPENED IN", Align::Right),
        ("DRAINED/S FIRST", Align::Right),
        ("LAST", Align::Right),
        ("LAST/FIRST", Align::Right),
        ("FILE AFTER", Align::Right),
    ];
    say(render(&head, &rows).trim_end());
    flash(&args.folder)
}

/// What flash wears by, at 100 values a second.
fn flash(folder: &Path) -> Result<(), String> {
    let scenes = [
        ("keep: offline, link up", Scene::OfflineUp),
        ("keep: offline, link down", Scene::OfflineDown),
        ("keep: always, link up", Scene::AlwaysUp),
    ];
    let mut rows = Vec::new();
    for (name, scene) in scenes {
        let folder = room(folder)?;
        let measured = log::flash_a_day(&folder, scene);
        let removed = std::fs::remove_dir_all(&folder);
        rows.push((name, measured.map_err(text)?));
        removed.map_err(|e| format!("{} could not be removed: {e}", folder.display()))?;
    }
    if rows.iter().all(|(_, n)| *n == 0) {
        say("\nflash: the system does not count what is written to this folder");
        return Ok(());
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, n)| vec![name.to_owned(), bytes(n)]).collect();
    say("");
    say(render(&[("100 VALUES/S", Align::Left), ("WRITTEN A DAY", Align::Right)], &rows).trim_end());
    Ok(())
}

fn poll(args: &FleetArguments) -> Result<(), String> {
    let fleet = Fleet {
        devices: args.devices,
        registers: args.registers,
        period: Duration::from_millis(args.period),
        qos: Qos::try_from(args.qos)?,
        lasting: Duration::from_secs(args.lasting),
    };
    let program = std::env::current_exe().map_err(text)?;
    let folder = std::env::temp_dir().join(format!("trunkline-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let measured = fleet.run(&program, &folder);
    let removed = std::fs::remove_dir_all(&folder);
    let outcome = measured.map_err(text)?;
    removed.map_err(|e| format!("{} could not be removed: {e}", folder.display()))?;
    say(&format!(
        "{} devices of {} registers every {} ms, subscriber with QoS {}: {:.0} values/s, {:.2} % of the readings arrived",
        args.devices,
        args.registers,
        args.period,
        args.qos,
        outcome.values_per_s,
        outcome.arrived * 1e2
    ));
    say(render(&LIMIT_HEAD, &fleet_rows(&fleet, &outcome)).trim_end());
    say(&format!(
        "memory: heap and stacks {}, program and other files {}, at most {}; bench itself {:.1} % of a core",
        bytes(outcome.memory.anonymous),
        bytes(outcome.memory.files),
        bytes(outcome.memory.peak),
        outcome.own_load * 1e2
    ));
    Ok(())
}

/// Of a table that holds figures against their limits.
const LIMIT_HEAD: [(&str, Align); 4] =
    [("", Align::Left), ("LIMIT", Align::Right), ("MEASURED", Align::Right), ("RATIO", Align::Right)];

fn limit_row(what: &str, limit: f64, measured: f64, unit: &str) -> Vec<String> {
    let ratio = format!("{:.2}", measured / limit);
    vec![what.to_owned(), format!("{limit} {unit}"), format!("{measured:.2} {unit}"), ratio]
}

fn fleet_rows(fleet: &Fleet, outcome: &fleet::Outcome) -> Vec<Vec<String>> {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    // 4 % at 5,000 values/s, 40 % at 50,000: what the values cost grows with them.
    let load = (fleet.rate() / 5_000.0 * 4.0).round();
    #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
    let megabytes = outcome.memory.resident as f64 / 1e6;
    let (between, period) = (&outcome.between, fleet.period);
    let off = |time: Duration| ms(time.abs_diff(period)) / ms(period) * 1e2;
    vec![
        limit_row("processor, of one core", load, outcome.load * 1e2, "%"),
        limit_row("memory, resident", 20.0, megabytes, "MB"),
        limit_row("mean period, worst topic off by", 1.0, outcome.worst_period * 1e2, "%"),
        limit_row("single periods, p99 off by", 1.0, off(between.p99), "%"),
        limit_row("single periods, longest off by", 1.0, off(between.longest), "%"),
        limit_row("age from the device's answer, p50", 15.0, ms(outcome.age.median), "ms"),
        limit_row("age from the device's answer, p99", 50.0, ms(outcome.age.p99), "ms"),
        limit_row("age by the value's own time, p50", 15.0, ms(outcome.behind.median), "ms"),
        limit_row("age by the value's own time, p99", 50.0, ms(outcome.behind.p99), "ms"),
    ]
}

fn take(rounds: u16) -> Result<(), String> {
    let outcome = values::run(rounds);
    let share = |part: Duration| part.div_duration_f64(outcome.lasted) * 1e2;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and for people")]
    let rate = thousands(outcome.rate() as u64);
    say(&format!(
        "{} values in {:.2} s of one core: {rate} values/s, {:.2} times the 100,000 of the limit",
        thousands(outcome.values),
        outcome.used.as_secs_f64(),
        outcome.rate() / 1e5
    ));
    say(&format!(
        "decoded {:.0} %, judged and rendered {:.0} %, kept, routed and encoded {:.0} % of the time",
        share(outcome.decoding),
        share(outcome.publishing),
        share(outcome.routing)
    ));
    Ok(())
}

fn room(folder: &Path) -> Result<PathBuf, String> {
    let folder = folder.join(format!("trunkline-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}; choose another with --folder", folder.display()))?;
    Ok(folder)
}

fn row(what: &str, figures: &Figures) -> Vec<String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive and for people")]
    let rate = |r: f64| thousands(r as u64);
    vec![
        what.to_owned(),
        rate(figures.appended_per_s),
        format!("{:.1}", figures.bytes_each),
        format!("{:.1} ms", figures.reopened.as_secs_f64() * 1e3),
        rate(figures.drained_first),
        rate(figures.drained_last),
        format!("{:.2}", figures.drained_last / figures.drained_first),
        bytes(figures.bytes_after),
    ]
}

fn text(why: impl Display) -> String {
    why.to_string()
}
