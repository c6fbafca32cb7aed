//! `trunkline bench`: this machine, this program, against what is physically possible. Ratios, no verdicts: a busy machine
//! shows in them. What is measured lives in [`crate::bench`] and [`crate::spool::bench`].

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use crate::bench::line;
use crate::bench::soak::{self, Soak};
use crate::cli::table::{Align, bytes, render, thousands};
use crate::cli::{Exit, complain, say};
use crate::spool::bench as log;
use crate::spool::bench::{Durability, Figures, Load};

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
    /// Full scans of ten simulated devices on a paced line, against the least time the wire allows (three minutes), and
    /// the hostile line, where no value may be wrong (some more)
    Line(LineArguments),
    /// The store-and-forward log: rates, bytes an entry, time to open again
    Spool(SpoolArguments),
}

#[derive(Debug, Args)]
struct LineArguments {
    /// Only scenes with this in their name, e.g. 9600, insisting, dead or soak
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
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
        What::Line(args) => scan(&args.name),
        What::Spool(args) => fill(args),
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

fn fill(args: &SpoolArguments) -> Result<(), String> {
    let mut rows = Vec::new();
    for (what, load) in [("values", Load::Values), ("messages", Load::Messages(PAYLOAD))] {
        let folder = args.folder.join(format!("trunkline-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}; choose another with --folder", folder.display()))?;
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
    Ok(())
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
