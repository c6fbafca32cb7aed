//! `trunkline bench site`: what the gateway takes in a cabinet as it usually is, and whether that grows under trouble.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Builder;

use super::LIMIT_HEAD;
use super::limit_row;
use super::median;
use super::text;
use crate::bench::site::Done;
use crate::bench::site::Look;
use crate::bench::site::Outcome;
use crate::bench::site::Site;
use crate::cli::say;
use crate::cli::table::Align;
use crate::cli::table::bytes;
use crate::cli::table::render;
use crate::cli::table::seconds;

/// Lines of the table; a longer run is looked at more rarely.
const LOOKS: u32 = 12;
/// What is allowed: memory in bytes, share of a core, time to the first value.
const MEMORY: f64 = 12e6;
const LOAD: f64 = 0.02;
const FIRST_VALUE: f64 = 1.0;

#[derive(Debug, clap::Args)]
pub(super) struct SiteArguments {
    /// How long to watch, in seconds; 1800 with trouble is a soak
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(12..))]
    lasting: u64,
    /// Something happens every so many seconds: the cloud is cut off, trunks fall silent, clients come and go, the
    /// configuration is changed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    trouble: Option<u64>,
}

pub(super) fn run(args: &SiteArguments, folder: &Path) -> Result<(), String> {
    let lasting = Duration::from_secs(args.lasting);
    let site = Site {
        program: std::env::current_exe().map_err(text)?,
        lasting,
        look: lasting / LOOKS,
        trouble: args.trouble.map(Duration::from_secs),
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(text)?;
    let outcome = runtime.block_on(site.run(folder)).map_err(text)?;
    runtime.shutdown_background();
    say("20 devices on 4 trunks, 500 points every second, a cloud at QoS 1, 3 clients on site");
    say(looks(&outcome.looks).trim_end());
    if site.trouble.is_some() {
        let Done { cuts, silences, visits, reloads, refused } = outcome.done;
        say(&format!(
            "{cuts} times without the cloud, {silences} trunks silent, {visits} clients came and went, {reloads} reloads \
             ({refused} refused), {} panics",
            outcome.panics
        ));
        say(growth(&outcome.looks).trim_end());
    } else {
        say(limits(&outcome).trim_end());
    }
    if outcome.done.refused > 0 || outcome.panics > 0 {
        return Err("a reload was refused or a task panicked: please report this with the lines above".to_owned());
    }
    Ok(())
}

fn looks(looks: &[Look]) -> String {
    let head = ["AFTER", "RESIDENT", "HEAP AND STACKS", "FILES OPEN", "THREADS", "ON DISK", "VALUES/S", "OF A CORE"];
    let head = head.map(|name| (name, Align::Right));
    let row = |look: &Look| {
        vec![
            seconds(look.at.as_secs()),
            bytes(look.memory.resident),
            bytes(look.memory.anonymous),
            look.handles.to_string(),
            look.threads.to_string(),
            bytes(look.kept),
            format!("{:.0}", look.values_per_s),
            format!("{:.2} %", look.load * 1e2),
        ]
    };
    render(&head, &looks.iter().map(row).collect::<Vec<_>>())
}

fn limits(outcome: &Outcome) -> String {
    let last = outcome.looks.last().copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
    let resident = last.memory.resident as f64;
    let mut loads: Vec<f64> = outcome.looks.iter().map(|look| look.load).collect();
    let rows = [
        limit_row("memory, resident", MEMORY / 1e6, resident / 1e6, "MB"),
        limit_row("processor, of one core", LOAD * 1e2, median(&mut loads) * 1e2, "%"),
        limit_row("start to first value", FIRST_VALUE, outcome.first_value.as_secs_f64(), "s"),
    ];
    render(&LIMIT_HEAD, &rows)
}

/// The highest of the second quarter beside the highest of the last: the first is still filling what is bounded.
fn growth(looks: &[Look]) -> String {
    let quarter = looks.len() / 4;
    let (early, late) = (&looks[quarter..quarter * 2], &looks[looks.len() - quarter..]);
    #[expect(clippy::cast_precision_loss, reason = "ratios for people")]
    let row = |what: &str, of: &dyn Fn(&Look) -> u64, show: &dyn Fn(u64) -> String| {
        let most = |looks: &[Look]| looks.iter().map(of).max().unwrap_or(0);
        let (before, after) = (most(early), most(late));
        vec![what.to_owned(), show(before), show(after), format!("{:.2}", after as f64 / before.max(1) as f64)]
    };
    let plain = |n: u64| n.to_string();
    let rows = [
        row("memory, resident", &|l| l.memory.resident, &bytes),
        row("heap and stacks", &|l| l.memory.anonymous, &bytes),
        row("files open", &|l| l.handles as u64, &plain),
        row("threads", &|l| l.threads as u64, &plain),
        row("on disk", &|l| l.kept, &bytes),
    ];
    let head = [
        ("AT MOST", Align::Left),
        ("2ND QUARTER", Align::Right),
        ("LAST QUARTER", Align::Right),
        ("RATIO", Align::Right),
    ];
    render(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_compares_the_most_of_the_second_quarter_with_the_most_of_the_last() {
        let look = |handles| Look { handles, ..Look::default() };
        let said = growth(&[90, 10, 20, 20, 20, 20, 30, 25].map(look));
        let files = said.lines().find(|line| line.starts_with("files open")).unwrap();
        assert_eq!(files.split_whitespace().skip(2).collect::<Vec<_>>(), ["20", "30", "1.50"]);
    }
}
