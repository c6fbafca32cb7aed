//! Answers commands, and sees to it that one with an id is done once: in this run by what was answered, and beyond it by the audit
//! trail.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::time::Instant;

use super::Asked;
use super::Job;
use super::busy;
use crate::command::Outlet;
use crate::command::answer;
use crate::command::answer::Outcome;
use crate::command::answered::Answered;
use crate::command::answered::Known;
use crate::command::audit::Audit;
use crate::command::audit::Earlier;
use crate::command::cause::Cause;
use crate::command::failsafe;
use crate::command::record::Record;
use crate::command::request::Refusal;

/// Answers, and remembers the answer for whoever asks again with the same id.
pub(super) struct Teller {
    pub(super) answers: Outlet,
    pub(super) answered: Arc<Mutex<Answered>>,
    pub(super) audit: Audit,
    /// Told what becomes of points that have a fail-safe.
    pub(super) guards: Option<failsafe::Teller>,
}

impl Teller {
    pub(super) fn known(&self, job: &Job) -> Option<Known> {
        let key = key_of(job)?;
        let fingerprint = job.record.as_ref().map_or_else(|| job.work.fingerprint(), Record::fingerprint);
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).begin(key, fingerprint, Instant::now())
    }

    /// The same command again: the trail says that it came, and it is answered with the first result.
    pub(super) async fn tell_again(&self, job: &Job, payload: &str) {
        if let Some(record) = &job.record {
            self.audit.note(record.draft.clone(), REPEATED);
        }
        answer::tell(&self.answers, &job.message, payload).await;
    }

    /// What is still to be done when its turn comes; who asked again is answered here.
    pub(super) async fn not_answered(&self, mut job: Box<Job>) -> Option<Box<Job>> {
        if job.asked == Asked::Again {
            match self.known(&job) {
                // The first was told to try again, and this is it.
                None => job.asked = Asked::First,
                Some(Known::Answer(payload)) => {
                    self.tell_again(&job, &payload).await;
                    return None;
                }
                Some(Known::Other) => {
                    let used = Refusal::UsedId(job.id.clone().unwrap_or_default());
                    self.tell(&mut job, &Outcome::Refused(used.to_string())).await;
                    return None;
                }
                // It cannot be: the first came before it, on the same line. Asked once more, the end is known.
                Some(Known::UnderWay) => {
                    self.tell(&mut job, &busy()).await;
                    return None;
                }
            }
        }
        if self.was_done(&mut job).await { None } else { Some(job) }
    }

    /// Whether it is in the trail already, from this run or an earlier one; then it has been answered and is not done again.
    async fn was_done(&self, job: &mut Job) -> bool {
        let Some(record) = &mut job.record else { return false };
        let earlier = self.audit.earlier(&record.draft).await;
        record.is_known = !matches!(earlier, Ok(None));
        let outcome = match earlier {
            Ok(None) => return false,
            Ok(Some(Earlier::Answered(payload))) => {
                let payload: Arc<str> = payload.into();
                if let Some(key) = key_of(job) {
                    let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                    answered.end(&key, Arc::clone(&payload));
                }
                self.tell_again(job, &payload).await;
                return true;
            }
            Ok(Some(Earlier::Unknown(begun))) => {
                Outcome::Unknown(format!("outcome unknown, begun at {begun}, not repeated"))
            }
            Ok(Some(Earlier::Other(_))) => {
                Outcome::Refused(Refusal::UsedId(job.id.clone().unwrap_or_default()).to_string())
            }
            Err(unrecorded) => Outcome::Later(unrecorded.to_string()),
        };
        self.tell(job, &outcome).await;
        true
    }

    pub(super) async fn tell(&self, job: &mut Job, outcome: &Outcome) {
        self.tell_guards(job, outcome).await;
        let payload = answer::payload(outcome, job.id.as_deref(), job.term.came);
        if let Some(record) = &mut job.record {
            // The id is the first one's, whose answer is remembered with it.
            record.is_known |= job.asked == Asked::Again;
            record.end(&self.audit, outcome, &payload).await;
        }
        if let Cause::FailSafe { who, .. } = &job.cause {
            tracing::debug!(topic = %job.message.topic, who = &**who, outcome = outcome.word(), "fail-safe write");
            return;
        }
        tracing::info!(topic = %job.message.topic, outcome = outcome.word(), "command");
        if let (Some(key), Asked::First) = (key_of(job), job.asked) {
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever is told to try again must find it undone.
            if outcome.is_later() {
                answered.forget(&key);
            } else {
                answered.end(&key, Arc::clone(&payload));
            }
        }
        answer::tell(&self.answers, &job.message, &payload).await;
    }
}

fn key_of(job: &Job) -> Option<Arc<str>> {
    job.id.as_ref().map(|id| format!("{} {id}", job.message.topic).into())
}

/// What the trail says of a command that came again.
const REPEATED: &str = r#"{"result":"refused","reason":"repeated: not done again, answered with the first result"}"#;
