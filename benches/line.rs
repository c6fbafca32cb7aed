//! `cargo bench --bench line`: the line against the wire's limit. A thin shell around `trunkline::bench`.
//! `cargo bench --bench line -- dead` runs only what has this in its name; `soak` and `unpaced` are names as well.

use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use trunkline::bench;

/// Reads of one round of the unpaced comparison.
const READS: u32 = 10_000;
/// Rounds of it: enough for a median.
const ROUNDS: u32 = 11;

fn main() -> io::Result<()> {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = io::stdout();
    for scene in bench::line::scenes() {
        if scene.name().contains(&wanted) {
            writeln!(out, "{}", runtime.block_on(bench::line::run(scene))?)?;
        }
    }
    if "soak".contains(&wanted) {
        writeln!(out, "{}", runtime.block_on(bench::soak::run(bench::soak::Soak::FULL))?)?;
    }
    drop(runtime);
    if "unpaced".contains(&wanted) {
        unpaced(&mut out)?;
    }
    Ok(())
}

/// Turn about and in short rounds, so that a busy machine is busy for both; the median of the rounds' ratios counts. All on one
/// processor: across two, where the kernel happens to wake which thread weighs more than what either side does.
fn unpaced(out: &mut impl Write) -> io::Result<()> {
    if !pinned() {
        writeln!(out, "unpaced: no taskset here, so the scheduler's moods count as well")?;
    }
    let sim = bench::unpaced::start()?;
    let theirs = build_libmodbus();
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        // Who begins changes too.
        let first = if round % 2 == 0 { None } else { libmodbus(theirs.as_deref(), sim.path()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ours = runtime.block_on(bench::unpaced::run(&sim, READS))?;
        match first.or_else(|| libmodbus(theirs.as_deref(), sim.path())) {
            Some(theirs) => {
                ratios.push(ours / theirs);
                writeln!(out, "unpaced {ours:.0} reads/s, libmodbus loop {theirs:.0}, ratio {:.3}", ours / theirs)?;
            }
            None => writeln!(out, "unpaced {ours:.0} reads/s (no cc or libmodbus-dev here to compare with)")?,
        }
    }
    // Left behind it would only be a small file among other temporary ones.
    let _ = theirs.map(std::fs::remove_file);
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ratios.len() / 2) {
        writeln!(out, "unpaced median ratio {median:.3} of {} rounds", ratios.len())?;
    }
    Ok(())
}

/// This process, its threads and children from now on.
fn pinned() -> bool {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", "0", &pid]).output();
    done.is_ok_and(|done| done.status.success())
}

fn build_libmodbus() -> Option<PathBuf> {
    let program = std::env::temp_dir().join(format!("libmodbus_loop-{}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/libmodbus_loop.c");
    let headers = ["-I/usr/include/modbus", "-I/usr/local/include/modbus"];
    let built =
        Command::new("cc").args(["-O2", source, "-o"]).arg(&program).args(headers).arg("-lmodbus").status().ok()?;
    built.success().then_some(program)
}

fn libmodbus(program: Option<&Path>, port: &Path) -> Option<f64> {
    let rate = Command::new(program?).arg(port).arg(READS.to_string()).output();
    String::from_utf8(rate.ok()?.stdout).ok()?.trim().parse().ok()
}
