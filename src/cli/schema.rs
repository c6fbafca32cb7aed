//! `trunkline schema`: the JSON Schema of the configuration, from the same types that read it.

use crate::cli::{Exit, say};
use crate::config;

pub(super) fn run() -> Exit {
    say(&config::schema());
    Exit::Well
}
