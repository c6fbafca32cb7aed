//! The note of a configuration that runs but is not confirmed: `apply.json` in the state directory, on disk before the
//! configuration is in force, gone when it is confirmed or taken back. The file in its place is never touched before the
//! confirmation, so whatever ends the gateway in between, the next start runs the one before; the note only lets it say so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::daemon::file;

/// Name of the file.
const FILE: &str = "apply.json";

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The configuration in whose stead it runs.
    pub(super) file: PathBuf,
    /// When, RFC 3339.
    pub(super) time: String,
    /// All of it.
    pub(super) text: String,
}

/// What an earlier run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// It was put in its place before it could be confirmed: it is what runs.
    InPlace(Note),
    /// It was never confirmed: the one before runs.
    Unconfirmed(Note),
}

impl Note {
    /// On disk when this returns.
    pub(super) fn write(&self, state_dir: &Path) -> io::Result<()> {
        file::replace(&state_dir.join(FILE), &serde_json::to_vec(self)?)
    }

    /// Whether it lies in its place.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        Ok(fs::read(&self.file)? == self.text.as_bytes())
    }
}

/// Nothing waits to be confirmed any more.
pub(super) fn remove(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(FILE)) {
        Ok(()) => fs::File::open(state_dir)?.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// What an earlier run left behind, which is thereby settled. A note that cannot be read is as good as unconfirmed: what
/// runs is what lies in the file.
pub(super) fn settle(state_dir: &Path) -> Option<Left> {
    let text = fs::read(state_dir.join(FILE)).ok()?;
    let left = match serde_json::from_slice::<Note>(&text) {
        Ok(note) if note.is_in_place().unwrap_or(false) => Left::InPlace(note),
        Ok(note) => Left::Unconfirmed(note),
        Err(_) => Left::Unconfirmed(Note { file: PathBuf::new(), time: String::new(), text: String::new() }),
    };
    if let Err(error) = remove(state_dir) {
        tracing::warn!(
            "{} cannot be removed: {error}; the next start will say the same again",
            state_dir.join(FILE).display()
        );
    }
    Some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_confirmed_is_told_once_and_what_lies_in_its_place_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.yaml");
        fs::write(&file, "gateway: old\n").unwrap();
        let note = Note { file: file.clone(), time: "2026-11-21T01:02:03.456Z".into(), text: "gateway: new\n".into() };
        note.write(folder.path()).unwrap();
        assert_eq!(settle(folder.path()), Some(Left::Unconfirmed(note.clone())));
        assert_eq!(settle(folder.path()), None);
        note.write(folder.path()).unwrap();
        fs::write(&file, "gateway: new\n").unwrap();
        assert_eq!(settle(folder.path()), Some(Left::InPlace(note)));
        fs::write(folder.path().join(FILE), "{\"file\": \"/etc").unwrap();
        assert!(matches!(settle(folder.path()), Some(Left::Unconfirmed(_))), "torn");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
