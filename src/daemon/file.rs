//! A small file of the state directory, replaced as a whole.

use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;

/// Written beside and renamed, so that a power cut leaves the old file or the new one.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
