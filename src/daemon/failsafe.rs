//! Keeps how the fail-safes stand over a restart: `failsafe.json` in the state directory, written when one comes into force,
//! is overridden or ends, which is rare. A file that cannot be read is said, set aside and done without: then nothing is put
//! right on a return, and a commander that is still gone is found out anew.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::command::failsafe::Note;
use crate::daemon::Group;
use crate::daemon::file;
use crate::supervise;
use crate::supervise::Panics;

const FILE: &str = "failsafe.json";

/// What was read, and where what is news is left.
pub(super) fn open(group: &Group, panics: &Panics, state_dir: &Path) -> watch::Sender<Vec<Note>> {
    let path = state_dir.join(FILE);
    let notes = read(&path).unwrap_or_else(|error| {
        let aside = file::set_aside(&path);
        tracing::warn!("{} cannot be read: {error}; {aside}, no fail-safe of the last run is known", path.display());
        Vec::new()
    });
    let kept = watch::Sender::new(notes.clone());
    let (seen, stop) = (kept.subscribe(), group.stop.clone());
    supervise::leaf(&group.tasks, panics, "fail-safe notes", stop.clone(), move || {
        keep(path.clone(), notes.clone(), seen.clone(), stop.clone())
    });
    kept
}

fn read(path: &Path) -> io::Result<Vec<Note>> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Writes what matters, whenever that is news; the last time when told to stop.
async fn keep(path: PathBuf, mut written: Vec<Note>, mut seen: watch::Receiver<Vec<Note>>, stop: CancellationToken) {
    loop {
        let changed = stop.run_until_cancelled(seen.changed()).await;
        let now: Vec<Note> = seen.borrow_and_update().iter().filter(|note| note.matters()).cloned().collect();
        // Since when somebody has been gone is nothing to a later run.
        let same = |(a, b): (&Note, &Note)| a.says_what(b);
        if now.len() != written.len() || !now.iter().zip(&written).all(same) {
            save(&path, &now).await;
            written = now;
        }
        if !matches!(changed, Some(Ok(()))) {
            return stop.cancelled().await;
        }
    }
}

/// A card that stalls holds up nobody but the next note.
async fn save(path: &Path, notes: &[Note]) {
    let (to, notes) = (path.to_owned(), notes.to_vec());
    let done = tokio::task::spawn_blocking(move || file::replace(&to, &serde_json::to_vec_pretty(&notes)?)).await;
    if let Err(error) = done.unwrap_or_else(|bug| Err(io::Error::other(bug))) {
        tracing::warn!(
            "{} cannot be written: {error}; a restart would not know of fail-safes in force",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::FailSafeState;

    fn note(state: FailSafeState) -> Note {
        let text = serde_json::json!({"point": "d/p", "commander": "client hmi", "state": state, "before": 6.5});
        serde_json::from_value(text).unwrap()
    }

    #[tokio::test]
    async fn what_is_in_force_is_there_after_a_restart_and_what_is_not_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for (last, want) in [(FailSafeState::Active, vec![note(FailSafeState::Active)]), (FailSafeState::Armed, vec![])]
        {
            let (group, panics) = (Group::default(), Panics::new());
            let kept = open(&group, &panics, folder.path());
            kept.send_replace(vec![note(last)]);
            group.stop.cancel();
            group.tasks.close();
            group.tasks.wait().await;
            assert_eq!(read(&folder.path().join(FILE)).unwrap(), want);
        }
    }
}
