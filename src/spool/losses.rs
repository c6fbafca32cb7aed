//! When something was lost last: counters alone do not tell a loss that goes on from one of last winter.

use tokio::time::Instant;

use crate::status::SpoolStatus;

/// What was known at the last look.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u64,
    last: Option<Instant>,
}

impl Losses {
    /// Puts the time of the last loss into the status; to be called when everything else stands in it.
    pub(super) fn note(&mut self, status: &mut SpoolStatus) {
        let now = Instant::now();
        let count = status.evicted + status.expired + status.overrun + status.damaged;
        if count > std::mem::replace(&mut self.count, count) {
            self.last = Some(now);
        }
        status.last_loss_s = self.last.map(|last| (now - last).as_secs());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_loss_grows_older_until_the_next() {
        let mut losses = Losses::default();
        let mut status = SpoolStatus::default();
        let mut look = |status: &mut SpoolStatus| {
            losses.note(status);
            status.last_loss_s
        };
        assert_eq!(look(&mut status), None);
        status.evicted = 5;
        assert_eq!(look(&mut status), Some(0));
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(look(&mut status), Some(90));
        status.expired = 1;
        assert_eq!(look(&mut status), Some(0));
    }
}
