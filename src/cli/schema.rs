//! `trunkline schema`: the JSON Schema of the configuration, from the same types that read it.

use crate::cli::{Exit, say};
use crate::config;

pub(super) fn run() -> Exit {
    say(&serde_json::to_string_pretty(&config::schema()).unwrap_or_default());
    Exit::Well
}
