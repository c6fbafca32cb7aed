//! The short version of `trunkline bench hostile`: the built gateway, fifty clients that misbehave, some who must not notice.

use std::path::Path;
use std::time::Duration;

use trunkline::bench::broker::hostile::Hostile;

#[test]
fn those_who_behave_notice_nothing_of_fifty_who_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let hostile = Hostile { guests: 50, lasting: Duration::from_secs(6) };
    let outcome = hostile.run(Path::new(env!("CARGO_BIN_EXE_trunkline")), folder.path()).expect("it runs");
    println!("{outcome}");
    // How long a message takes is the machine's affair, and six seconds are too short for a leak to be told from a start.
    let serious: Vec<_> =
        outcome.complaints.iter().filter(|why| !why.contains("took") && !why.contains("growing")).collect();
    assert!(serious.is_empty(), "{serious:?}");
    assert!(outcome.tally.packets > 1_000 && outcome.tally.over_websocket > 0, "{:?}", outcome.tally);
    assert!(outcome.served.published > 500 && outcome.served.accounts.len() == 2);
}
