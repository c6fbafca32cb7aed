//! Any text as a configuration: a plant or a report, never a panic, and every report can be shown. There is nothing beside the
//! text: files that it names are not there.

use std::path::Path;

use trunkline::config;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A path from the root could name a file that never ends.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    match config::load_text("fuzz.yaml", text, Path::new("fuzz-nothing-here")) {
        Ok(loaded) => drop(loaded.warnings.to_string()),
        Err(report) => assert!(!report.to_string().is_empty(), "refused without a word"),
    }
}
