//! Who takes another configuration: reads and checks it by the code of `check`, compares it with what runs, and lets the
//! [`Site`] do what differs; one wish after the other. A file that is wrong changes nothing and is told in full, to the
//! caller, to the log, on `{gateway}/$config`, in a word on `{gateway}/$state/config`, and in the status.

mod apply;
mod verbs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::config::difference::{Change, Difference};
use crate::config::{Loaded, Plant, Report};
use crate::control::protocol::{Code, Fault};
use crate::daemon::beside::Beside;
use crate::daemon::journal::Left;
use crate::daemon::site::Site;
use crate::message::{Message, Retain};
use crate::spool::Leaver;
use crate::status::{ConfigOutcome, ConfigStatus};
use crate::systemd;
use crate::time;
use crate::topic::{Qos, TopicName};

pub(super) use verbs::verbs;

/// Wishes that wait while one is seen to. Full: the next is told so.
const WISHES: usize = 4;
/// A disk is given so long to take the configuration before the reload goes on without it.
const SETTLING: Duration = Duration::from_secs(5);
/// Lines of a difference that are logged and kept to be shown; a reload may concern every point of a large site.
const SHOWN: usize = 50;
/// The spool names upstreams by the bits of a word.
const UPSTREAMS: usize = 64;

/// What somebody wants done with the configuration.
#[derive(Debug)]
enum Wish {
    /// The file is read anew.
    Reload,
    /// How this differs from what runs.
    Compare(Candidate),
    /// This runs from now on, until it is confirmed or its time is over.
    Apply(Candidate, Duration),
    /// What waits to be confirmed.
    Pending,
    /// It stays.
    Confirm,
    /// It goes, now.
    Revert,
}

/// A configuration that does not lie in its place.
#[derive(Debug)]
struct Candidate {
    /// As its writer calls it.
    name: String,
    text: String,
}

type Answer = Result<Value, Fault>;

#[derive(Debug)]
struct Asked {
    wish: Wish,
    reply: Option<oneshot::Sender<Answer>>,
}

/// The handle.
#[derive(Debug, Clone)]
pub(super) struct Reloads(mpsc::Sender<Asked>);

impl Reloads {
    /// Reads the file anew; the log says what came of it.
    pub(super) fn reload(&self) {
        if self.0.try_send(Asked { wish: Wish::Reload, reply: None }).is_err() {
            tracing::warn!(
                "too many reloads at once: this one is left out, the last of those that wait reads the same file"
            );
        }
    }

    async fn ask(&self, wish: Wish) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Asked { wish, reply: Some(reply) }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Fault::new(Code::Failed, "too many reloads wait already; try again"),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn stopping() -> Fault {
    Fault::new(Code::ShuttingDown, "the gateway is stopping")
}

/// Why a configuration is not taken.
#[derive(Debug)]
enum Refusal {
    /// It is wrong.
    Wrong(Report),
    /// It is right, and cannot be taken now.
    Not(String),
}

impl Refusal {
    fn problems(&self) -> Vec<String> {
        match self {
            Self::Wrong(report) => report.problems().iter().map(one_line).collect(),
            Self::Not(why) => vec![why.clone()],
        }
    }
}

fn one_line(problem: &config::report::Problem) -> String {
    match problem.line {
        0 => format!("{}: {}", problem.file, problem.message),
        line => format!("{}:{line}:{}: {}", problem.file, problem.column, problem.message),
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(report) => Self::new(Code::Configuration, report.to_string().trim_end()),
            Refusal::Not(why) => Self::new(Code::Failed, why),
        }
    }
}

/// A configuration that could run.
struct Prepared {
    /// What was read.
    files: Vec<PathBuf>,
    plant: Plant,
    beside: Beside,
    difference: Difference,
    warnings: String,
}

/// Takes one configuration after the other.
pub(super) struct Reloader {
    site: Site,
    file: Option<PathBuf>,
    /// What is said of the running gateway: `; control socket …`.
    ready: String,
    wishes: mpsc::Receiver<Asked>,
    status: watch::Sender<ConfigStatus>,
    pending: Option<apply::Pending>,
    /// Where the end of the process is asked for, when there is no way back.
    fatal: mpsc::Sender<String>,
    /// A disk that hangs is given one configuration, not one more with each reload.
    settling: Arc<Semaphore>,
}

/// What a reloader is made of beside the site.
pub(super) struct Setting {
    pub(super) file: Option<PathBuf>,
    pub(super) ready: String,
    pub(super) status: watch::Sender<ConfigStatus>,
    pub(super) fatal: mpsc::Sender<String>,
}

/// A handle and its task; says what an earlier run left unconfirmed.
pub(super) fn new(site: Site, setting: Setting) -> (Reloads, Reloader) {
    let (ask, wishes) = mpsc::channel(WISHES);
    let Setting { file, ready, status, fatal } = setting;
    let settling = Arc::new(Semaphore::new(1));
    (Reloads(ask), Reloader { site, file, ready, wishes, status, pending: None, fatal, settling })
}

enum Happened {
    Asked(Asked),
    TimeIsOver,
}

impl Reloader {
    /// Until cancelled; a reload that has begun is carried through.
    pub(super) async fn run(mut self, left: Option<Left>, stop: CancellationToken) {
        self.begin(left).await;
        loop {
            let until = self.pending.as_ref().map(|pending| pending.until);
            let happened = tokio::select! {
                () = stop.cancelled() => return,
                Some(asked) = self.wishes.recv() => Happened::Asked(asked),
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Happened::TimeIsOver,
            };
            match happened {
                Happened::TimeIsOver => self.time_is_over().await,
                Happened::Asked(Asked { wish, reply }) => {
                    let answer = Box::pin(self.see_to(wish)).await;
                    if let Some(reply) = reply {
                        // Who asked may have gone; it is done all the same.
                        let _ = reply.send(answer);
                    }
                }
            }
        }
    }

    async fn see_to(&mut self, wish: Wish) -> Answer {
        match wish {
            Wish::Reload => self.reload().await,
            Wish::Compare(candidate) => self.compare(candidate).await,
            Wish::Apply(candidate, time) => self.apply(candidate, time).await,
            Wish::Pending => self.waiting(),
            Wish::Confirm => self.confirm().await,
            Wish::Revert => self.revert("taken back by hand").await,
        }
    }

    /// What the gateway began with, and what an earlier run left behind.
    async fn begin(&mut self, left: Option<Left>) {
        let (outcome, problems) = match left {
            None => (ConfigOutcome::Started, Vec::new()),
            Some(Left::InPlace(note)) => {
                tracing::info!("the configuration applied at {} was put in its place, and runs", note.time);
                (ConfigOutcome::Confirmed, Vec::new())
            }
            Some(Left::Unconfirmed(note)) => {
                let why = format!(
                    "the configuration applied at {} was not confirmed before the gateway ended: the one before runs",
                    note.time
                );
                tracing::warn!("{why}");
                (ConfigOutcome::Reverted, vec![why])
            }
        };
        self.tell(outcome, &[], problems).await;
    }

    /// SIGHUP and `trunkline reload`.
    async fn reload(&mut self) -> Answer {
        let Some(file) = self.file.clone() else {
            return Err(Fault::new(
                Code::Failed,
                "this gateway was not started from a file: there is nothing to reload",
            ));
        };
        if let Some(pending) = &self.pending {
            let why = pending.is_in_the_way();
            tracing::warn!("not reloaded: {why}");
            return Err(Fault::new(Code::Failed, why));
        }
        systemd::reloading();
        let done = match self.prepare(move || config::load(&file)).await {
            Ok(prepared) => {
                self.settle(&prepared).await;
                self.carry_out(prepared, Leaver::Dropped).await
            }
            Err(refusal) => Err(refusal),
        };
        let answer = match done {
            Ok((difference, warnings)) => {
                say(&difference.changes, "reloaded");
                self.tell(ConfigOutcome::Reloaded, &difference.changes, Vec::new()).await;
                Ok(json!({ "changes": words(&difference.changes), "warnings": warnings }))
            }
            Err(refusal) => Err(self.refused(refusal).await),
        };
        systemd::ready(&self.ready());
        answer
    }

    /// Puts on the disk what was read. One that hangs is said to, and holds up nobody for longer than a moment.
    async fn settle(&self, read: &Prepared) {
        let Ok(turn) = Arc::clone(&self.settling).try_acquire_owned() else {
            tracing::warn!("the disk hangs since an earlier reload: a power cut may undo what was read");
            return;
        };
        let files = read.files.clone();
        let work = tokio::task::spawn_blocking(move || {
            config::settle(&files);
            drop(turn);
        });
        if timeout(SETTLING, work).await.is_err() {
            tracing::warn!(limit = ?SETTLING, "the disk takes its time: until it is done, a power cut may undo what was read");
        }
    }

    async fn refused(&self, refusal: Refusal) -> Fault {
        let problems = refusal.problems();
        tracing::error!(
            problems = problems.len(),
            "not reloaded, the configuration before runs on: {}",
            problems.join("; ")
        );
        self.tell(ConfigOutcome::Refused, &[], problems).await;
        refusal.into()
    }

    /// Reads, checks and compares, away from the threads that poll. Nothing is touched.
    async fn prepare<Load>(&self, load: Load) -> Result<Prepared, Refusal>
    where
        Load: FnOnce() -> Result<Loaded, Report> + Send + 'static,
    {
        let running = Arc::clone(&self.site.plant);
        let before = self.site.beside.clone();
        let read = move || {
            let loaded = load().map_err(Refusal::Wrong)?;
            let beside = Beside::read(&loaded.plant).map_err(Refusal::Not)?;
            let plant = loaded.plant.following(&running);
            let mut difference = Difference::between(&running, &plant);
            difference.changes.extend(before.changes_to(&beside));
            let warnings = loaded.warnings.to_string();
            Ok(Prepared { files: loaded.files, plant, beside, difference, warnings })
        };
        let prepared = tokio::task::spawn_blocking(read).await;
        let prepared = prepared.unwrap_or_else(|bug| Err(Refusal::Not(format!("a bug while it was read: {bug}"))))?;
        if !prepared.difference.fixed.is_empty() {
            let fixed = prepared.difference.fixed.join(", ");
            return Err(Refusal::Not(format!("needs a restart, and nothing was changed: {fixed}")));
        }
        if prepared.plant.upstreams.len() > UPSTREAMS {
            return Err(Refusal::Not(format!(
                "at most {UPSTREAMS} upstreams, these are {}",
                prepared.plant.upstreams.len()
            )));
        }
        Ok(prepared)
    }

    async fn carry_out(&mut self, prepared: Prepared, leaver: Leaver) -> Result<(Difference, String), Refusal> {
        let Prepared { plant, beside, difference, warnings, .. } = prepared;
        if !warnings.is_empty() {
            tracing::warn!("{}", warnings.trim_end());
        }
        self.site.take(plant, beside, &difference, leaver).await.map_err(Refusal::Not)?;
        Ok((difference, warnings))
    }

    fn ready(&self) -> String {
        format!("{}{}", super::describe(&self.site.plant, &self.site.broker), self.ready)
    }

    /// For whoever looks later, here and on `{gateway}/$config`; `$state/config` is the word alone, for those who watch states
    /// and take no JSON. `$state` itself stays what it is, online or offline, because people compare it with these words.
    async fn tell(&self, outcome: ConfigOutcome, changes: &[Change], problems: Vec<String>) {
        let within = self.pending.as_ref().map(|pending| pending.left().as_secs());
        let now = ConfigStatus {
            file: self.file.as_deref().map(Path::display).map(|p| p.to_string()).unwrap_or_default(),
            outcome,
            time: time::now().rfc3339(),
            changes: words(changes),
            problems,
            confirm_by_uptime_s: within.map(|s| time::uptime().as_secs() + s),
        };
        let mut body = json!({
            "outcome": now.outcome, "changes": now.changes, "problems": now.problems, "time": now.time,
        });
        if let Some(within) = within {
            body["confirm_within_s"] = json!(within);
        }
        let word = body["outcome"].as_str().unwrap_or_default().to_owned();
        self.status.send_replace(now);
        let told = [("$config", body.to_string()), ("$state/config", word)];
        let messages = told.into_iter().filter_map(|(below, text)| self.retained(below, text)).collect();
        // The broker has ended: so does everything.
        let _ = self.site.broker.inlet().send(messages).await;
    }

    fn retained(&self, below: &str, text: String) -> Option<Message> {
        let topic = TopicName::new(format!("{}/{below}", self.site.plant.gateway)).ok()?;
        Some(Message::plain(topic, Bytes::from(text), Qos::AtLeastOnce, Retain::Yes))
    }
}

/// A line a change, at most so many.
fn words(changes: &[Change]) -> Vec<String> {
    let mut shown: Vec<String> = changes.iter().take(SHOWN).map(ToString::to_string).collect();
    if let Some(more) = changes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        shown.push(format!("… and {more} more"));
    }
    shown
}

fn say(changes: &[Change], what: &str) {
    if changes.is_empty() {
        tracing::info!("configuration {what}: nothing has changed");
        return;
    }
    tracing::info!(changes = changes.len(), "configuration {what}");
    words(changes).iter().for_each(|change| tracing::info!("  {change}"));
}
