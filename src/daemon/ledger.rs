//! The books of the values across restarts: `ledger.json` in the state directory, written when publishing ends and once an
//! hour, so that flash is spared; a kill costs at most that hour of counts, and what is left adds up all the same. A file
//! that cannot be read is said, set aside, and the books begin anew: they are an account, not the values.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Plant;
use crate::daemon::file;
use crate::daemon::lines::Out;
use crate::daemon::{Groups, SAMPLE_BATCHES};
use crate::message::Message;
use crate::publish;
use crate::publish::PublishTask;
use crate::status::{Books, PublishStatus};
use crate::supervise;

/// Name of the file.
const FILE: &str = "ledger.json";
/// How old the file may be: 2,000 points are some 200 kB, 5 MB a day.
const EVERY: Duration = Duration::from_secs(3600);

/// Where the books are kept.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Kept {
    /// Lets the task go on where the file ends.
    pub(super) fn open(state_dir: &Path, task: PublishTask) -> (Self, PublishTask) {
        let kept = Self { path: state_dir.join(FILE), writing: Mutex::default() };
        let task = match kept.read() {
            Ok(Some(books)) => task.continuing(&books),
            Ok(None) => task,
            Err(error) => {
                let (path, aside) = (kept.path.display(), file::set_aside(&kept.path));
                tracing::warn!("{path} cannot be read: {error}; {aside}, the account of the values begins anew");
                task
            }
        };
        (kept, task)
    }

    fn read(&self) -> io::Result<Option<Books>> {
        match std::fs::read(&self.path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// One after the other: the last books must not meet those of the hour, which a slow card may still be taking.
    fn write(&self, books: &Books) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        file::replace(&self.path, &serde_json::to_vec(books)?)
    }
}

/// Publish at work: where its readings come from, and what others see of it.
pub(super) struct Published {
    pub(super) out: Out,
    pub(super) account: watch::Receiver<PublishStatus>,
    pub(super) accounts: publish::Accounts,
    pub(super) renewals: publish::Renewals,
}

/// Starts publish, going on with the books as they were closed.
pub(super) fn publish(
    groups: &Groups,
    plant: &Plant,
    fatal: &mpsc::Sender<String>,
    sink: mpsc::Sender<Vec<Message>>,
) -> Published {
    let (samples, sampled) = mpsc::channel(SAMPLE_BATCHES);
    let (events, happened) = mpsc::channel(SAMPLE_BATCHES);
    let parts = publish::Parts { gateway: &plant.gateway, devices: &plant.devices, points: &plant.points };
    let (account, task) = publish::new(parts, sampled, happened, sink);
    let (books, task) = Kept::open(&plant.state_dir, task);
    let (accounts, renewals) = (task.accounts(), task.renewals());
    // When the stop has begun, its end is no alarm.
    supervise::owner(&groups.publish.tasks, fatal, "publish", groups.owners.stop.clone(), keep(task, books));
    let out = Out { samples, events };
    // Publish ends when nobody can send to it any more; a gateway without lines waits for the stop like any other.
    let (held, stop) = (out.clone(), groups.lines.stop.clone());
    groups.lines.tasks.spawn(async move {
        stop.cancelled().await;
        drop(held);
    });
    Published { out, account, accounts, renewals }
}

/// Runs the task to its end and keeps its books.
async fn keep(task: PublishTask, kept: Kept) {
    let accounts = task.accounts();
    let mut publishing = std::pin::pin!(task.run());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let kept = std::sync::Arc::new(kept);
    let mut asking = std::pin::pin!(async {
        loop {
            ticks.tick().await;
            if let Some(books) = accounts.ask().await {
                save(&kept, books).await;
            }
        }
    });
    tokio::select! {
        books = &mut publishing => save(&kept, books).await,
        () = &mut asking => {}
    }
}

/// A card that stalls must not stall the polls behind the task.
async fn save(kept: &std::sync::Arc<Kept>, books: Books) {
    let kept = std::sync::Arc::clone(kept);
    let path = kept.path.clone();
    let written = tokio::task::spawn_blocking(move || kept.write(&books)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!("{} cannot be written: {error}; the account of the values is kept in memory", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PointAccount, PublishStatus};

    #[test]
    fn books_come_back_as_they_were_and_what_is_no_book_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { path: folder.path().join(FILE), writing: Mutex::default() };
        assert_eq!(kept.read().unwrap(), None);
        let account = PublishStatus { polled: 9, suppressed: 4, published: 3, failed: 2, held: 0, told: 1 };
        let books = Books { total: account, points: vec![PointAccount { point: "m/v".into(), account }] };
        kept.write(&books).unwrap();
        assert_eq!(kept.read().unwrap(), Some(books));
        std::fs::write(&kept.path, "{").unwrap();
        assert!(kept.read().is_err());
    }

    #[test]
    fn books_that_cannot_be_read_are_set_aside_and_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        for n in 1..=2 {
            let torn = format!("{{\"total\": {n}");
            std::fs::write(folder.path().join(FILE), &torn).unwrap();
            let parts = publish::Parts { gateway: "g", devices: &[], points: &[] };
            let (samples, events, sink) = (mpsc::channel(1).1, mpsc::channel(1).1, mpsc::channel(1).0);
            let (kept, _) = Kept::open(folder.path(), publish::new(parts, samples, events, sink).1);
            kept.write(&Books { total: PublishStatus::default(), points: Vec::new() }).unwrap();
            let aside = folder.path().join(format!("{FILE}.set-aside-{n}"));
            assert_eq!(std::fs::read_to_string(aside).unwrap(), torn);
        }
    }
}
