//! A write on its way into the audit trail. [`Record`] goes with the command from the moment it is understood until it is
//! answered; [`Leave`] is what it needs before the first byte: to be in time still, and to stand in the trail.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Duration;

use tokio::time::Instant;

use crate::command::answer::Outcome;
use crate::command::answer::value_json;
use crate::command::audit::Asked;
use crate::command::audit::Audit;
use crate::command::audit::Cause;
use crate::command::audit::Draft;
use crate::command::audit::Who;
use crate::command::audit::Writ;
use crate::command::planned::Planned;
use crate::command::raw;
use crate::command::raw::Raw;
use crate::command::request;
use crate::command::request::Age;
use crate::command::request::Refusal;
use crate::command::target::Change;
use crate::config::plant::Line;
use crate::config::plant::Plant;
use crate::message::Message;
use crate::time;

/// Of what could not be understood, so many characters are kept.
const WORDS: usize = 200;

/// How long anything but the write of a point may wait; a point says so itself (`expires`), and this where it does not.
pub(super) const EXPIRES: Duration = Duration::from_secs(10);

/// A command that asks to write, and what the trail knows of it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) draft: Draft,
    writ: Option<Writ>,
    /// The trail has it already, or it is only the repetition of one that it has: its id is not this one's to remember.
    pub(super) is_known: bool,
}

impl Record {
    /// Of a command that was understood.
    pub(super) fn new(message: &Message, id: Option<&String>, plant: &Plant, changes: &[Change]) -> Self {
        Self::of(asked(message, id), plant, changes)
    }

    /// Of a write of the gateway's own, because of what `who` says.
    pub(super) fn own(who: &str, plant: &Plant, change: &Change) -> Self {
        let draft = Draft { cause: Cause::FailSafe, why: Some(who.to_owned()), ..Draft::default() };
        Self::of(draft, plant, std::slice::from_ref(change))
    }

    /// Of raw access to a line.
    pub(super) fn raw(draft: Draft, line: &Line, raw: &Raw) -> Self {
        let asked = vec![Asked { raw: raw.words(), ..Asked::default() }];
        let (line, unit_id) = (Some(line.name.to_string()), Some(raw.unit.get()));
        let draft = Draft { cause: Cause::Raw, line, unit_id, asked, ..draft };
        Self { draft, writ: None, is_known: false }
    }

    fn of(draft: Draft, plant: &Plant, changes: &[Change]) -> Self {
        let asked = |change: &Change| Asked {
            point: change.target.point.name.to_string(),
            value: value_json(&change.value),
            raw: String::new(),
        };
        let device = changes.first().map(|change| &change.target.device);
        let draft = Draft {
            line: device.map(|device| plant.line(device.line).name.to_string()),
            device: device.map(|device| device.name.to_string()),
            unit_id: device.map(|device| device.unit_id.get()),
            asked: changes.iter().map(asked).collect(),
            ..draft
        };
        Self { draft, writ: None, is_known: false }
    }

    /// The same for the same values of the same points, within this run.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (point, what) in self.draft.asked.iter().map(Asked::essence) {
            (point, what).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// It has been decided what the asker is told; when this returns that is on disk, if anything may have been written.
    pub(super) async fn end(&mut self, audit: &Audit, outcome: &Outcome, told: &str) {
        let may_be_asked_again = outcome.is_later();
        match self.writ.take() {
            Some(writ) if may_be_asked_again => writ.withdraw(told).await,
            Some(writ) => writ.end(told).await,
            None if may_be_asked_again || self.is_known => audit.note(self.draft.clone(), told),
            None => audit.note_answer(self.draft.clone(), told),
        }
    }
}

/// What is known of any command.
pub(super) fn asked(message: &Message, id: Option<&String>) -> Draft {
    Draft { id: id.cloned(), ..of_message(message) }
}

/// What is known of what somebody asks at the gateway itself.
pub(super) fn at_the_gateway(who: &str) -> Draft {
    Draft { from: Who { local: Some(who.to_owned()), ..Who::default() }, ..Draft::default() }
}

/// Of a raw request at the gateway itself that is refused.
pub(super) fn unread_at_the_gateway(who: &str, line: &str, asked: &serde_json::Value) -> Draft {
    let words = asked.to_string().chars().take(WORDS).collect();
    Draft { cause: Cause::Raw, line: Some(line.to_owned()), payload: Some(words), ..at_the_gateway(who) }
}

/// Of a command that was not understood.
pub(super) fn unread(message: &Message, id: Option<String>) -> Draft {
    let words = String::from_utf8_lossy(&message.payload).chars().take(WORDS).collect();
    let cause = if message.topic.as_str().ends_with("/$modbus") { Cause::Raw } else { Cause::Command };
    Draft { cause, payload: Some(words), id, ..of_message(message) }
}

fn of_message(message: &Message) -> Draft {
    Draft { from: Who::of(message.from.as_deref()), topic: message.topic.to_string(), ..Draft::default() }
}

/// When a command has to be done, if at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    /// When it came.
    pub(super) came: Instant,
    /// As the payload says.
    expires_us: Option<i64>,
    /// As the message says (MQTT 5, 3.3.2.3.3), counted from when it came.
    lives: Option<Duration>,
}

impl Term {
    /// Of a message.
    pub(super) fn of(message: &Message, came: Instant, expires_us: Option<i64>) -> Self {
        let lives = message.properties.as_deref().and_then(|properties| properties.expiry);
        Self { came, expires_us, lives: lives.map(|s| Duration::from_secs(u64::from(s))) }
    }

    /// Of what comes by no message.
    pub(super) const fn own(came: Instant) -> Self {
        Self { came, expires_us: None, lives: None }
    }

    /// Whether it may still be done, at this moment, if nothing may wait for longer than that.
    pub(super) fn in_time(self, expires: Duration) -> Result<(), Refusal> {
        let Self { came, expires_us, lives } = self;
        request::in_time(Age { expires_us, lives, waited: came.elapsed() }, expires, time::now().wall_us)
    }

    /// After this moment it is not done any more.
    pub(super) fn deadline(self, expires: Duration) -> Instant {
        let Self { came, expires_us, lives } = self;
        let until_us = expires_us.map(|at| at.saturating_sub(time::now().wall_us));
        let by_text = until_us.map(|left| Instant::now() + Duration::from_micros(u64::try_from(left).unwrap_or(0)));
        let least = came + lives.map_or(expires, |lives| lives.min(expires));
        by_text.map_or(least, |by| by.min(least))
    }
}

/// What a write needs before its first byte.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    pub(super) audit: &'a Audit,
    pub(super) record: &'a mut Record,
    pub(super) term: Term,
}

impl Leave<'_> {
    /// What the gateway itself writes does not grow old while it waits: it is withdrawn when it is not wanted any more.
    fn grows_old(&self) -> bool {
        self.record.draft.cause != Cause::FailSafe
    }

    /// Whether it may still be done, at this moment.
    pub(super) fn in_time(&self, expires: Duration) -> Result<(), Refusal> {
        if self.grows_old() { self.term.in_time(expires) } else { Ok(()) }
    }

    /// After this moment its first byte must not be sent.
    pub(super) fn deadline(&self, expires: Duration) -> Option<Instant> {
        self.grows_old().then(|| self.term.deadline(expires))
    }

    /// Puts it down, and looks at the time again: the disk may have taken some.
    pub(super) async fn begin(
        &mut self,
        changes: &[Change],
        planned: &[(Planned, Option<i32>)],
    ) -> Result<(), Outcome> {
        for (asked, (planned, _)) in self.record.draft.asked.iter_mut().zip(planned) {
            asked.raw = raw::written(&planned.kind);
        }
        let expires = changes.iter().filter_map(|change| Some(change.target.point.write.as_ref()?.expires)).min();
        self.begin_raw(expires.unwrap_or(Duration::MAX)).await
    }

    /// The same, where what is written is said already.
    pub(super) async fn begin_raw(&mut self, expires: Duration) -> Result<(), Outcome> {
        match self.audit.begin(self.record.draft.clone()).await {
            Ok(writ) => self.record.writ = Some(writ),
            Err(unrecorded) => {
                self.record.is_known = true;
                return Err(Outcome::Later(unrecorded.to_string()));
            }
        }
        self.in_time(expires).map_err(|refusal| Outcome::Refused(refusal.to_string()))
    }
}
