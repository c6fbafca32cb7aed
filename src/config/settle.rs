//! What runs shall lie in its files after a power cut too. `cp`, shells and many editors leave what they write in memory for
//! half a minute; whose power goes in this time finds an empty file at the next start. Not for what the program itself
//! writes: that is on disk when it says so.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Waits for the disk: not for a thread that polls. What cannot be opened is left out, as a shipped profile has no file; what
/// cannot be put on disk is said, and runs all the same.
pub fn settle(files: &[PathBuf]) {
    for path in &with_folders(files) {
        if let Err(error) = sync(path) {
            tracing::warn!(path = %path.display(), %error, "a power cut may undo what was read: it cannot be put on disk");
        }
    }
}

/// The folders too: an editor that writes beside and renames has changed those. Of a link the folder it lies in, which says
/// where it leads, and the one it leads to.
fn with_folders(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let real = files.iter().filter_map(|file| file.canonicalize().ok());
    let all: BTreeSet<PathBuf> = files.iter().cloned().chain(real).collect();
    let folders: Vec<PathBuf> = all.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
    all.into_iter().chain(folders).collect()
}

fn sync(path: &Path) -> io::Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    match file.sync_all() {
        // A pipe, or a file system that keeps nothing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_file_and_what_cannot_be_synced_is_no_fault() {
        assert!(sync(Path::new("eastron/sdm120")).is_ok());
        assert!(sync(Path::new("/dev/null")).is_ok());
        let folder = tempfile::tempdir().unwrap();
        assert!(sync(folder.path()).is_ok());
    }

    #[test]
    fn of_a_link_the_folder_it_lies_in_and_the_one_it_leads_to_are_put_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        let (here, there) = (home.join("here"), home.join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("secret"), "geheim").unwrap();
        std::os::unix::fs::symlink(there.join("secret"), here.join("secret")).unwrap();
        let want = [here.clone(), here.join("secret"), there.clone(), there.join("secret")];
        assert_eq!(with_folders(&[here.join("secret")]), BTreeSet::from(want));
    }
}
