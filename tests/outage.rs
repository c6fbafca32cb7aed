//! The reference outage in small, with the built program, a real Mosquitto and real processes: what `trunkline bench
//! outage` measures is held to what it promises, but for the figures that depend on the machine.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::time::Duration;

use trunkline::bench::outage;
use trunkline::bench::outage::Outage;
use trunkline::bench::outage::Trouble;
use trunkline::bench::outage::Verdict;

/// Unacknowledged publishes at once, as the configuration has it by default.
const WINDOW: u64 = 100;

async fn small(trouble: Trouble, replay: &'static str) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let outage = Outage {
        trouble,
        devices: 5,
        before: Duration::from_secs(3),
        lasting: Duration::from_secs(8),
        replay,
        program: Path::new(env!("CARGO_BIN_EXE_trunkline")).to_owned(),
    };
    let verdict = outage::run(&outage, folder.path()).await.unwrap();
    eprintln!("{trouble}: {verdict:?}");
    assert!(verdict.read > 5_000, "{verdict:?}");
    assert_eq!((verdict.lost, verdict.out_of_order), (0, 0), "{verdict:?}");
    assert!(verdict.twice <= WINDOW, "{verdict:?}");
    assert!(verdict.connected.is_some() && verdict.live.is_some() && verdict.backlog.0 > 1_000, "{verdict:?}");
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_by_a_cut_loses_nothing_and_keeps_the_order() {
    small(Trouble::Cut, "live-first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_by_a_black_hole_loses_nothing_and_keeps_the_order() {
    small(Trouble::BlackHole, "in-order").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_in_the_middle_of_an_outage_loses_at_most_its_last_second() {
    small(Trouble::Kill, "live-first").await;
}
