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

/// On disk when this returns.
pub(super) fn put(path: &Path, text: &str) -> io::Result<()> {
    // A link stays a link.
    let path = fs::canonicalize(path)?;
    let old = fs::metadata(&path)?;
    if fs::read(&path)? == text.as_bytes() {
        return Ok(());
    }
    let before = beside(&path, BEFORE);
    fs::copy(&path, &before)?;
    fs::File::open(&before)?.sync_all()?;
    let new = beside(&path, "new");
    let mode = old.mode() & 0o7777;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    // Another owner than oneself can only root give, and only root needs to.
    let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    file.set_permissions(old.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
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
}
