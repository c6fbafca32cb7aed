//! Answers that are there before their question can have ended. On a wire they are somebody else's: a doubled or late one.
//! But virtual ports (pseudo terminals, serial servers) carry a question faster than their baud rate says. Pure: tells the two
//! apart by what follows. On a wire the right answer still comes; behind a virtual port nothing does, time after time.

use crate::bus::frame::Asked;

/// So many questions answered only early, tries and all, and the port is taken for a virtual one.
const ENOUGH: u8 = 2;

/// What is known of a port's haste.
#[derive(Debug, Clone, Default)]
pub(super) struct Early {
    last: Option<Asked>,
    questions: u8,
}

impl Early {
    /// The port's baud rate says nothing about when an answer can come.
    pub(super) const fn is_usual(&self) -> bool {
        self.questions >= ENOUGH
    }

    /// The right answer was there early and nothing came after it. True when it may be believed: the same question was
    /// answered in the same way at its last try, so that even a late answer is one to this question.
    pub(super) fn alone(&mut self, asked: &Asked) -> bool {
        if self.last.as_ref() != Some(asked) {
            self.last = Some(asked.clone());
            return false;
        }
        self.last = None;
        self.questions += 1;
        if self.is_usual() {
            tracing::info!(
                "answers come before their questions can have ended: taken for a virtual port without a wire"
            );
        }
        true
    }

    /// An answer came in its time.
    pub(super) fn in_time(&mut self) {
        *self = Self::default();
    }
}
