//! A small file of the state directory, replaced as a whole. One that cannot be read is put aside before: somebody may still
//! make something of it.

use std::fs;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Written beside and renamed, so that a power cut leaves the old file or the new one.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    write(&beside, text).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| drop(fs::remove_file(&beside)))?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Moves a file that cannot be used away, under a name that does not exist yet; what came of it, in words.
pub(super) fn set_aside(path: &Path) -> String {
    let name = |n: u32| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".set-aside-{n}"));
        path.with_file_name(name)
    };
    let aside: PathBuf = (1..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0));
    match fs::rename(path, &aside) {
        Ok(()) => format!("set aside as {}", aside.display()),
        Err(error) => format!("it cannot be set aside either ({error})"),
    }
}
