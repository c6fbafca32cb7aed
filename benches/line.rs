//! `cargo bench --bench line`: the line against the wire's limit. A thin shell around `trunkline::bench`.
//! `cargo bench --bench line -- dead` runs only what has this in its name; `soak` and `unpaced` are names as well.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use trunkline::bench;

/// Reads of the unpaced comparison.
const READS: u32 = 30_000;

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

/// Turn about, so that a busy machine is busy for both.
fn unpaced(out: &mut impl Write) -> io::Result<()> {
    let sim = bench::unpaced::start()?;
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ours = runtime.block_on(bench::unpaced::run(&sim, READS))?;
        match libmodbus(sim.path()) {
            Some(theirs) => {
                writeln!(out, "unpaced {ours:.0} reads/s, libmodbus loop {theirs:.0}, ratio {:.3}", ours / theirs)?;
            }
            None => writeln!(out, "unpaced {ours:.0} reads/s (no cc or libmodbus-dev here to compare with)")?,
        }
    }
    Ok(())
}

fn libmodbus(port: &Path) -> Option<f64> {
    let program = std::env::temp_dir().join(format!("libmodbus_loop-{}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/libmodbus_loop.c");
    let headers = ["-I/usr/include/modbus", "-I/usr/local/include/modbus"];
    let built =
        Command::new("cc").args(["-O2", source, "-o"]).arg(&program).args(headers).arg("-lmodbus").status().ok()?;
    let rate = built.success().then(|| Command::new(&program).arg(port).arg(READS.to_string()).output());
    // Left behind it would only be a small file among other temporary ones.
    let _ = std::fs::remove_file(&program);
    String::from_utf8(rate?.ok()?.stdout).ok()?.trim().parse().ok()
}
