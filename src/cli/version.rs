//! `trunkline version`.

use crate::cli::{Exit, say};

pub(super) fn run() -> Exit {
    say(concat!("trunkline ", env!("CARGO_PKG_VERSION")));
    Exit::Well
}
