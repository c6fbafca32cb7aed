//! Puts a file in the place of another, so that a power cut leaves the old one or the new one, whole. Owner and mode stay
//! those of the old, and the old is kept beside it.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the file before is called: no pattern of `include` takes it for a configuration.
const BEFORE: &str = "before";

/// The way back from what was put in place.
#[derive(Debug)]
pub(super) struct Placed {
    path: PathBuf,
    before: PathBuf,
}

impl Placed {
    /// Where what was there before is kept.
    pub(super) fn before(&self) -> &Path {
        &self.before
    }

    /// What was there before lies there again.
    pub(super) fn take_back(self) -> io::Result<()> {
        fs::rename(&self.before, &self.path)?;
        sync_folder(&self.path)
    }
}

/// On disk when this returns; on an error the old one lies there. `None` where the file is this text already.
pub(super) fn put(path: &Path, text: &str) -> io::Result<Option<Placed>> {
    // A link stays a link.
    let path = fs::canonicalize(path)?;
    let old = fs::metadata(&path)?;
    if fs::read(&path)? == text.as_bytes() {
        return Ok(None);
    }
    let before = beside(&path, BEFORE);
    let (next_before, new) = (beside(&before, "new"), beside(&path, "new"));
    // Both lie there whole before either takes its place: a full disk costs nothing. The old one may have to lie in its place
    // again, where its reader must be able to read it.
    write(&next_before, &fs::read(&path)?, &old)
        .and_then(|()| write(&new, text.as_bytes(), &old))
        .and_then(|()| fs::rename(&next_before, &before))
        .and_then(|()| fs::rename(&new, &path))
        .inspect_err(|_| [&next_before, &new].into_iter().for_each(|left| drop(fs::remove_file(left))))?;
    let placed = Placed { path, before };
    match sync_folder(&placed.path) {
        Ok(()) => Ok(Some(placed)),
        Err(error) => {
            placed.take_back()?;
            Err(error)
        }
    }
}

/// With the owner and the mode of the old one.
fn write(path: &Path, text: &[u8], old: &fs::Metadata) -> io::Result<()> {
    let mode = old.mode() & 0o7777;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    take_after(&file, old)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Gives a file the owner and the mode of the one whose place it takes.
pub(in crate::cli) fn take_after(file: &fs::File, old: &fs::Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        // Only root can; without it the gateway might not be able to read its file at the next start.
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(old.permissions())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_new_one_has_the_mode_of_the_old_which_stays_beside_it_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("gateway.yaml"), folder.path().join("link.yaml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        put(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(folder.path().join("gateway.yaml.before")).unwrap(), "old");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        put(&file, "new").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("gateway.yaml.before")).unwrap(), "old", "nothing was done");
        assert!(put(&folder.path().join("none.yaml"), "x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_cannot_be_written_costs_neither_the_file_nor_the_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        fs::write(&file, "first").unwrap();
        put(&file, "second").unwrap();
        // A disk that is full after half of the work.
        fs::create_dir(folder.path().join("gateway.yaml.new")).unwrap();
        assert!(put(&file, "third").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "second");
        assert_eq!(fs::read_to_string(folder.path().join("gateway.yaml.before")).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing half done is left");
    }

    #[test]
    fn what_is_taken_back_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let placed = put(&file, "new").unwrap().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        placed.take_back().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(put(&file, "old").unwrap().is_none(), "nothing was done, there is nothing to take back");
    }
}
