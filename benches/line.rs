//! `cargo bench --bench line`: the line against the wire's limit. A thin shell around `trunkline::bench::line`.

use std::io::Write;

use trunkline::bench;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    // `cargo bench --bench line -- dead` runs only the scenes whose name says so.
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for scene in bench::line::scenes() {
        if scene.name().contains(&wanted) {
            writeln!(std::io::stdout(), "{}", bench::line::run(scene).await?)?;
        }
    }
    if "soak".contains(&wanted) {
        writeln!(std::io::stdout(), "{}", bench::soak::run(bench::soak::Soak::FULL).await?)?;
    }
    Ok(())
}
