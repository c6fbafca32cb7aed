//! Answers that are there before their question can have ended. On a wire they are somebody else's: a doubled or late one.
//! But virtual ports (pseudo terminals, serial servers) carry a question faster than their baud rate says. Pure: tells the two
//! apart by what follows. On a wire the right answer still comes; behind a virtual port nothing does, time after time.

use crate::bus::frame::Asked;

/// What an early answer weighs against one in its time. Behind a virtual port every second or third answer is early; on a bad
/// wire one in a hundred may look so, when a doubled answer meets a device that is silent just then.
const WEIGHT: u16 = 10;
/// Enough early ones to take the port for a virtual one.
const ENOUGH: u16 = 3 * WEIGHT;

/// What is known of a port's haste.
#[derive(Debug, Clone, Default)]
pub(super) struct Early {
    last: Option<Asked>,
    score: u16,
}

impl Early {
    /// The port's baud rate says nothing about when an answer can come.
    pub(super) const fn is_usual(&self) -> bool {
        self.score >= ENOUGH
    }

    /// The right answer was there early and nothing came after it. True when it may be believed: the same question was
    /// answered in the same way at its last try, so that even a late answer is one to this question.
    pub(super) fn alone(&mut self, asked: &Asked) -> bool {
        let is_known = self.is_usual();
        self.score = (self.score + WEIGHT).min(ENOUGH);
        if self.is_usual() && !is_known {
            tracing::info!(
                "answers come before their questions can have ended: taken for a virtual port without a wire"
            );
        }
        let is_again = self.last.as_ref() == Some(asked);
        self.last = if is_again { None } else { Some(asked.clone()) };
        is_again
    }

    /// An answer came in its time.
    pub(super) fn in_time(&mut self) {
        self.last = None;
        self.score = self.score.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: u8) -> Asked {
        Asked::new(1, vec![3, 0, address, 0, 1])
    }

    #[test]
    fn a_port_that_is_early_now_and_then_is_found_out() {
        let mut early = Early::default();
        for n in 0..6 {
            early.in_time();
            early.in_time();
            early.alone(&asked(n));
        }
        assert!(early.is_usual());
    }

    #[test]
    fn a_stray_answer_in_a_hundred_makes_no_virtual_port() {
        let mut early = Early::default();
        for n in 0..50 {
            assert!(!early.alone(&asked(n)));
            (0..99).for_each(|_| early.in_time());
        }
        assert!(!early.is_usual());
    }
}
