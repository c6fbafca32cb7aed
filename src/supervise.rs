//! No task ends quietly. A leaf (a line, an upstream) that panics is counted, logged as the bug it is, and made anew after a
//! pause; an owner (broker, spool, publish) that ends before it was told to takes the process with it, because the service
//! manager and SQLite together bring everything back, and a half-dead house does not.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::status::Panicked;
use crate::time;

/// First and longest pause before a leaf is made anew.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A leaf that ran this long is well again.
const WELL_AFTER: Duration = Duration::from_secs(120);

/// Counts panics by task name.
#[derive(Debug, Clone)]
pub struct Panics(watch::Sender<BTreeMap<String, Panicked>>);

impl Panics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }

    /// For the board.
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<String, Panicked>> {
        self.0.subscribe()
    }

    fn count(&self, name: &str) {
        self.0.send_modify(|all| {
            let panicked = all.entry(name.to_owned()).or_default();
            panicked.count += 1;
            panicked.last_uptime_s = time::uptime().as_secs();
        });
    }
}

impl Default for Panics {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `make()` and makes it anew when it panics or ends, until `stop`. The future is told to stop by its own means; this
/// waits for it, and whoever wants to know when it has ended waits for the handle.
pub fn leaf<Make, Run>(
    tasks: &TaskTracker,
    panics: &Panics,
    name: &str,
    stop: CancellationToken,
    mut make: Make,
) -> JoinHandle<()>
where
    Make: FnMut() -> Run + Send + 'static,
    Run: Future<Output = ()> + Send + 'static,
{
    let (panics, name) = (panics.clone(), name.to_owned());
    tasks.spawn(async move {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            let began = Instant::now();
            let ended = tokio::spawn(make()).await;
            if stop.is_cancelled() {
                return;
            }
            panics.count(&name);
            if began.elapsed() > WELL_AFTER {
                backoff.reset();
            }
            let pause = backoff.next();
            match ended {
                Err(bug) => tracing::error!(task = name, ?pause, %bug, "a bug: task panicked, is made anew"),
                Ok(()) => tracing::error!(task = name, ?pause, "a bug: task ended by itself, is made anew"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    })
}

/// Runs an owner once. When it ends before `stop`, its name goes to `fatal`, whose one place is enough: the first is the cause.
pub fn owner<Run>(tasks: &TaskTracker, fatal: &mpsc::Sender<String>, name: &str, stop: CancellationToken, run: Run)
where
    Run: Future<Output = ()> + Send + 'static,
{
    let (fatal, name) = (fatal.clone(), name.to_owned());
    tasks.spawn(async move {
        let ended = tokio::spawn(run).await;
        if !stop.is_cancelled() {
            tracing::error!(task = name, panicked = ended.is_err(), "a bug: task ended, the process cannot go on");
            let _ = fatal.try_send(name);
        }
    });
}

/// Runs `task` and copies what it writes to `status` onto `board`, which outlives it when it is made anew.
pub async fn mirrored<T: Clone>(
    mut status: watch::Receiver<T>,
    board: watch::Sender<T>,
    task: impl Future<Output = ()>,
) {
    let mirror = async {
        loop {
            board.send_replace(status.borrow_and_update().clone());
            if status.changed().await.is_err() {
                // The task has dropped its end; its own end is what counts.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = task => {}
        () = mirror => {}
    }
    board.send_replace(status.borrow().clone());
}

/// Ends when nobody writes to `status` any more: its owner, wherever it runs, is gone.
pub async fn gone<T: Send + Sync>(mut status: watch::Receiver<T>) {
    while status.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leaf_that_panics_is_counted_and_made_anew() {
        let (tasks, panics, stop) = (TaskTracker::new(), Panics::new(), CancellationToken::new());
        let (made, mut seen) = mpsc::channel(8);
        let token = stop.clone();
        let mut n = 0;
        leaf(&tasks, &panics, "line hall", stop.clone(), move || {
            n += 1;
            let (made, token) = (made.clone(), token.clone());
            async move {
                made.send(n).await.unwrap();
                assert!(n > 2, "a strange reply");
                token.cancelled().await;
            }
        });
        for want in 1..=3 {
            assert_eq!(seen.recv().await, Some(want));
        }
        assert_eq!(panics.subscribe().borrow().get("line hall").map(|p| p.count), Some(2));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn an_owner_that_ends_is_fatal_unless_it_was_told_to() {
        let tasks = TaskTracker::new();
        let (fatal, mut named) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let told = stop.clone();
        owner(&tasks, &fatal, "publish", stop.clone(), async move { told.cancelled().await });
        owner(&tasks, &fatal, "broker", stop.clone(), async {});
        assert_eq!(named.recv().await.as_deref(), Some("broker"));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        drop(fatal);
        assert_eq!(named.recv().await, None);
    }
}
