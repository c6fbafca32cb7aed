//! A configuration on trial: it runs, but does not lie in its place. Confirmed is it when the file in place is this one;
//! whoever has the right puts it there, and then says so. Whatever else happens (its time is over, somebody takes it back,
//! the process ends) the one before runs again, because that is what lies in the file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Answer;
use super::Candidate;
use super::Prepared;
use super::Refusal;
use super::Reloader;
use super::say;
use super::words;
use crate::config;
use crate::config::Plant;
use crate::config::difference::{Change, Difference};
use crate::control::protocol::{Code, Fault};
use crate::daemon::beside::Beside;
use crate::daemon::journal;
use crate::daemon::journal::Note;
use crate::spool::Leaver;
use crate::status::ConfigOutcome;
use crate::systemd;
use crate::time;

/// Shortest and longest time until it must be confirmed.
pub(super) const TRIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// What is on trial, and the way back.
pub(super) struct Pending {
    note: Note,
    before: (Arc<Plant>, Beside),
    pub(super) until: Instant,
    changes: Vec<Change>,
}

impl Pending {
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_in_the_way(&self) -> String {
        format!(
            "an applied configuration waits {} s more to be confirmed: `trunkline confirm` or `trunkline revert` first",
            self.left().as_secs()
        )
    }
}

impl Reloader {
    /// How a candidate differs from what runs.
    pub(super) async fn compare(&self, candidate: Candidate) -> Answer {
        let (_, prepared) = self.on_trial(candidate).await?;
        Ok(json!({ "changes": all(&prepared.difference), "warnings": prepared.warnings }))
    }

    /// Runs it until it is confirmed, at most for so long.
    pub(super) async fn apply(&mut self, candidate: Candidate, trial: Duration) -> Answer {
        if let Some(pending) = &self.pending {
            return Err(failed(pending.is_in_the_way()));
        }
        if trial < TRIAL.0 || trial > TRIAL.1 {
            let (asked, hours) = (trial.as_secs(), TRIAL.1.as_secs() / 3600);
            return Err(failed(format!("{asked} s are no time to confirm it: 1 s to {hours} h are")));
        }
        let text = candidate.text.clone();
        let (file, prepared) = self.on_trial(candidate).await?;
        self.is_what_lies_there(file.clone()).await?;
        let note = Note { file, time: time::now().rfc3339(), text };
        if prepared.difference.is_empty() && note.is_in_place().unwrap_or(false) {
            return Ok(json!({ "changes": [], "warnings": prepared.warnings, "in_place": true }));
        }
        let state_dir = self.site.plant.state_dir.clone();
        // Not on a thread that polls: the disk may hang.
        let written = move || note.write(&state_dir).map(|()| note).map_err(|e| (state_dir, e));
        let written = tokio::task::spawn_blocking(written).await.map_err(|bug| failed(bug.to_string()))?;
        let note = written.map_err(|(at, e)| failed(format!("{} cannot be written: {e}", at.display())))?;
        let before = (Arc::clone(&self.site.plant), self.site.beside.clone());
        systemd::reloading();
        let done = self.carry_out(prepared, Leaver::Kept).await;
        systemd::ready(&self.ready());
        let (difference, warnings) = match done {
            Ok(done) => done,
            Err(refusal) => {
                self.close_journal();
                return Err(refusal.into());
            }
        };
        say(&difference.changes, &format!("applied, to be confirmed within {trial:?}"));
        let answer = json!({ "changes": all(&difference), "warnings": warnings });
        let changes = difference.changes;
        self.pending = Some(Pending { note, before, until: Instant::now() + trial, changes: changes.clone() });
        self.tell(ConfigOutcome::Pending, &changes, Vec::new()).await;
        Ok(answer)
    }

    /// What is on trial: where it belongs and what it is.
    pub(super) fn waiting(&self) -> Answer {
        let pending = self.pending.as_ref().ok_or_else(nothing)?;
        Ok(json!({
            "file": pending.note.file, "text": pending.note.text, "changes": words(&pending.changes),
            "seconds_left": pending.left().as_secs(),
        }))
    }

    /// It lies in its place: it stays.
    pub(super) async fn confirm(&mut self) -> Answer {
        let pending = self.pending.as_ref().ok_or_else(nothing)?;
        let file = pending.note.file.display().to_string();
        match pending.note.is_in_place() {
            Ok(true) => {}
            Ok(false) => {
                return Err(failed(format!("{file} is not the configuration that was applied: nothing is confirmed")));
            }
            Err(e) => return Err(failed(format!("{file} cannot be read: {e}; nothing is confirmed"))),
        }
        self.keep().await;
        Ok(json!({ "file": file }))
    }

    /// Nobody confirmed. Who put it in place and could not say so any more has confirmed all the same.
    pub(super) async fn time_is_over(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.note.is_in_place().unwrap_or(false)) {
            return self.keep().await;
        }
        // What failed was said, and ends the process.
        let _ = self.revert("not confirmed in time").await;
    }

    async fn keep(&mut self) {
        self.close_journal();
        let Some(pending) = self.pending.take() else { return };
        self.site.forget_leavers().await;
        tracing::info!("the applied configuration is confirmed");
        self.tell(ConfigOutcome::Confirmed, &pending.changes, Vec::new()).await;
    }

    /// The one before runs again.
    pub(super) async fn revert(&mut self, why: &str) -> Answer {
        let pending = self.pending.take().ok_or_else(nothing)?;
        let (plant, beside) = pending.before;
        let plant = Plant::clone(&plant).following(&self.site.plant);
        let difference = Difference::between(&self.site.plant, &plant);
        systemd::reloading();
        let back = Prepared { files: Vec::new(), plant, beside, difference, warnings: String::new() };
        let done = self.carry_out(back, Leaver::Dropped).await;
        systemd::ready(&self.ready());
        match done {
            Ok((difference, _)) => {
                self.close_journal();
                say(&difference.changes, &format!("taken back ({why})"));
                self.tell(ConfigOutcome::Reverted, &difference.changes, vec![why.to_owned()]).await;
                Ok(json!({ "changes": all(&difference) }))
            }
            Err(refusal) => {
                // The file in place is the one before: a new start is the way back that is left.
                let why = format!("the configuration before cannot be taken back: {}", refusal.problems().join("; "));
                tracing::error!("{why}; the gateway ends, to be started with it");
                let _ = self.fatal.try_send("way back to the configuration before".to_owned());
                Err(failed(why))
            }
        }
    }

    /// As if it lay in its place: relative paths count from there.
    async fn on_trial(&self, candidate: Candidate) -> Result<(PathBuf, Prepared), Fault> {
        let file = self.file.clone().ok_or_else(|| failed("this gateway was not started from a file".to_owned()))?;
        let base = file.parent().map(std::path::Path::to_owned).unwrap_or_default();
        let load = move || config::load_text(&candidate.name, &candidate.text, &base);
        let prepared = self.prepare(load).await.map_err(Fault::from)?;
        Ok((file, prepared))
    }

    /// The way back after a crash is the file: it must be what runs now, or the way would lead elsewhere.
    async fn is_what_lies_there(&self, file: PathBuf) -> Result<(), Fault> {
        let name = file.display().to_string();
        let not = |why: String| {
            failed(format!(
                "{why}; what lies in the files must be what runs before something else is tried: see `trunkline reload`"
            ))
        };
        match self.prepare(move || config::load(&file)).await {
            Ok(there) if there.difference.is_empty() => {
                self.settle(&there).await;
                Ok(())
            }
            Ok(there) => {
                Err(not(format!("{name} has changed since it was read ({} changes)", there.difference.changes.len())))
            }
            Err(Refusal::Wrong(report)) => Err(not(format!("{name} cannot be used any more:\n{report}"))),
            Err(Refusal::Not(why)) => Err(not(format!("{name} has changed since it was read: {why}"))),
        }
    }

    fn close_journal(&self) {
        if let Err(error) = journal::remove(&self.site.plant.state_dir) {
            tracing::warn!("the note of the applied configuration cannot be removed: {error}");
        }
    }
}

fn all(difference: &Difference) -> Vec<String> {
    difference.changes.iter().map(ToString::to_string).collect()
}

fn failed(why: String) -> Fault {
    Fault::new(Code::Failed, why)
}

fn nothing() -> Fault {
    failed("no applied configuration waits to be confirmed".to_owned())
}
