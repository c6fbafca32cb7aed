//! One point's fail-safe. Pure: who is there and what became of writes go in, the next write comes out.
//! The rule: a commander is gone since it was last there without a break for [`RETURN`], or since the start, so that a link
//! that comes up for a moment now and then stops no clock. The value is never written while it is there, and once for each
//! absence: whatever is commanded after that stands.

use std::time::Duration;

use tokio::time::Instant;

use crate::command::failsafe::Commanded;
use crate::command::failsafe::End;
use crate::command::failsafe::Look;
use crate::command::failsafe::Note;
use crate::config::failsafe::FailSafe;
use crate::config::failsafe::OnReturn;
use crate::sample::Value;
use crate::status::FailSafeState;

/// A return counts when it has lasted so long, or as long as `after` where that is shorter.
const RETURN: Duration = Duration::from_secs(5);
/// After a start a commander is given so long to show itself before a write that was cut off is done again: a link needs some
/// seconds to come up.
const COMES: Duration = Duration::from_secs(10);
/// First and longest pause between tries. A silent device costs its line a timeout each time; that it is back is heard of
/// sooner from its polls.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is seen of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    There,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Gone {
        since: Instant,
    },
    /// There, but not for long enough to count.
    Back {
        gone: Instant,
        since: Instant,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// Nothing has been written in this absence.
    Armed,
    /// The value is to be written, until that succeeds.
    Writing,
    /// The device has confirmed it.
    Active,
    /// Somebody has commanded something else since.
    Overridden,
    /// The commander is back, and this is to be written.
    Returning(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Safe,
    Return,
}

/// A write to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) value: Value,
    pub(super) look: Look,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    pub(super) state: FailSafeState,
    /// Since when the commander counts as gone.
    pub(super) gone_since: Option<Instant>,
    /// Why what is to be written is not written yet.
    pub(super) reason: Option<String>,
}

/// One rule and how it stands.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) rule: FailSafe,
    presence: Presence,
    stage: Stage,
    /// The device may hold the value, so that a return has something to put right; also from before a restart.
    touched: bool,
    /// What it held before, where that is to be restored.
    before: Option<Value>,
    under_way: Option<Kind>,
    retry_at: Instant,
    /// Nothing is written before that.
    begins: Instant,
    pause: Duration,
    reason: Option<String>,
    device: Sight,
    /// Writes that were confirmed, and tries that were not, since the start.
    pub(super) counts: (u64, u64),
}

impl Guard {
    /// Goes on where the note ends, if there is one. What an earlier run has written is not written again before the
    /// commander has been gone for `after` in this one: it may only need a moment to be here. What it was about to write may have
    /// been written or not: that is done again, unless the commander is here in a moment.
    pub(super) fn new(rule: FailSafe, note: Option<&Note>, now: Instant) -> Self {
        // Within one run it is known how long the commander has been gone: what is due is due at once.
        let is_restart = note.is_some_and(|note| note.gone_since.is_none());
        let stage = match note.map(|note| note.state) {
            Some(FailSafeState::Overridden) => Stage::Overridden,
            Some(FailSafeState::Writing) if is_restart => Stage::Writing,
            _ => Stage::Armed,
        };
        let touched = stage != Stage::Overridden && note.is_some_and(|note| note.state != FailSafeState::Armed);
        let begins = if stage == Stage::Writing { now + COMES.min(rule.after) } else { now };
        Self {
            presence: Presence::Gone { since: note.and_then(|note| note.gone_since).unwrap_or(now) },
            before: note.and_then(Note::before),
            rule,
            stage,
            touched,
            under_way: None,
            retry_at: begins,
            begins,
            pause: RETRY.0,
            reason: None,
            // Unknown is not away: a device that is heard of for the first time has not come back.
            device: Sight::There,
            counts: (0, 0),
        }
    }

    /// Looks at the commander.
    pub(super) fn see(&mut self, commander: Sight, now: Instant) {
        use Presence::{Back, Gone, Here};
        self.presence = match (self.presence, commander) {
            (Here, Sight::Gone) => Gone { since: now },
            (Back { gone, .. }, Sight::Gone) => Gone { since: gone },
            (Gone { since: gone }, Sight::There) => Back { gone, since: now },
            (as_it_was, _) => as_it_was,
        };
        if let Back { since, .. } = self.presence
            && now.saturating_duration_since(since) >= RETURN.min(self.rule.after)
        {
            self.presence = Here;
        }
    }

    /// Looks at the device: one that was away may have lost what it held, and can be written to again.
    pub(super) fn see_device(&mut self, device: Sight, now: Instant) {
        if (self.device, device) == (Sight::Gone, Sight::There) {
            if self.stage == Stage::Active {
                self.stage = Stage::Writing;
            }
            self.retry_at = now.max(self.begins);
            self.pause = RETRY.0;
        }
        self.device = device;
    }

    /// Whether a write of ours has been ordered and has not ended.
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// What to write now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Step> {
        self.turn(now);
        if self.is_under_way() {
            return None;
        }
        let is_there = !matches!(self.presence, Presence::Gone { .. });
        let (kind, value) = match &self.stage {
            Stage::Writing if !is_there => (Kind::Safe, self.rule.value.clone()),
            Stage::Returning(value) => (Kind::Return, value.clone()),
            _ => return None,
        };
        if now < self.retry_at {
            return None;
        }
        let restores = self.rule.on_return == OnReturn::Restore;
        let look = if kind == Kind::Safe && restores && self.before.is_none() { Look::First } else { Look::No };
        self.under_way = Some(kind);
        Some(Step { value, look })
    }

    /// What follows from who is there and for how long; nothing while a write is under way.
    pub(super) fn turn(&mut self, now: Instant) {
        match self.presence {
            _ if self.is_under_way() => {}
            Presence::Gone { since } if now.saturating_duration_since(since) >= self.rule.after => {
                if matches!(self.stage, Stage::Armed | Stage::Returning(_)) {
                    self.go(Stage::Writing, now);
                }
            }
            Presence::Here => {
                let returning = matches!(self.stage, Stage::Returning(_));
                match self.to_put_right() {
                    Some(value) if self.touched && !returning => self.go(Stage::Returning(value), now),
                    Some(_) if returning => {}
                    _ => self.rest(now),
                }
            }
            Presence::Gone { .. } | Presence::Back { .. } => {}
        }
    }

    fn to_put_right(&self) -> Option<Value> {
        match &self.rule.on_return {
            OnReturn::Keep => None,
            OnReturn::Restore => self.before.clone(),
            OnReturn::Value(value) => Some(value.clone()),
        }
    }

    fn go(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.reason = None;
        self.retry_at = now;
        self.pause = RETRY.0;
    }

    fn rest(&mut self, now: Instant) {
        self.touched = false;
        self.before = None;
        self.go(Stage::Armed, now);
    }

    /// What the point holds, read right before a write of ours.
    pub(super) fn looked(&mut self, before: Value) {
        if self.under_way == Some(Kind::Safe) {
            self.before.get_or_insert(before);
        }
    }

    /// A write of ours has ended; `before` is what the point held, where that was looked up.
    pub(super) fn ended(&mut self, end: End, before: Option<Value>, now: Instant) {
        let Some(kind) = self.under_way.take() else { return };
        if kind == Kind::Safe && self.before.is_none() {
            self.before = before;
        }
        if kind == Kind::Safe && !matches!(end, End::NotDone(_)) {
            self.touched = true;
        }
        match end {
            End::Written => {
                self.counts.0 += 1;
                match (kind, &self.stage) {
                    (Kind::Safe, _) => self.go(Stage::Active, now),
                    (Kind::Return, Stage::Returning(_)) => self.rest(now),
                    // Somebody has commanded something since; it was done before this, and this stands.
                    (Kind::Return, _) => {}
                }
            }
            End::Failed(reason) | End::NotDone(reason) => {
                self.counts.1 += 1;
                self.reason = Some(reason);
                self.retry_at = now + self.pause;
                self.pause = (self.pause * 2).min(RETRY.1);
            }
        }
    }

    /// A command for the point has been tried.
    pub(super) fn commanded(&mut self, how: Commanded, now: Instant) {
        match how {
            Commanded::Done if self.touched || self.stage != Stage::Armed => {
                self.touched = false;
                self.before = None;
                self.go(Stage::Overridden, now);
            }
            Commanded::Unknown if self.stage == Stage::Active => {
                self.go(Stage::Writing, now);
                self.retry_at = now + RETRY.0;
            }
            Commanded::Done | Commanded::Unknown => {}
        }
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        let state = match self.stage {
            Stage::Armed if self.touched => FailSafeState::Active,
            Stage::Armed => FailSafeState::Armed,
            Stage::Writing => FailSafeState::Writing,
            Stage::Active => FailSafeState::Active,
            Stage::Overridden => FailSafeState::Overridden,
            Stage::Returning(_) => FailSafeState::Returning,
        };
        let gone_since = match self.presence {
            Presence::Here => None,
            Presence::Gone { since } | Presence::Back { gone: since, .. } => Some(since),
        };
        Standing { state, gone_since, reason: self.reason.clone() }
    }

    /// What the point held before, as far as it is to be restored.
    pub(super) const fn before(&self) -> Option<&Value> {
        self.before.as_ref()
    }
}

#[cfg(test)]
mod tests;
