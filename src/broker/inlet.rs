//! What this process publishes, on its way into the core. A large site that is polled all at once hands over thousands of
//! values together; they go in by steps, so that connections write, and clients acknowledge, in between. Nothing is waited
//! for that a client that has stopped reading could stretch: the pauses have a budget, and whoever is too slow for it meets
//! the limits of `deliver` as before.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hub::Hub;
use crate::message::Message;

/// Messages routed before the connections get a turn to write them: values of 200 bytes are then less than half of what is
/// written ahead for one client, beyond which QoS 0 is dropped.
const STEP: usize = 256;
/// Longest pause for clients that still have to acknowledge much, all pauses in a row together …
const PATIENCE: Duration = Duration::from_millis(250);
/// … which are earned back at a quarter of the time that passes: so much slower can they make the way in.
const REFILL: u32 = 4;

/// Takes everything that comes through one inlet, until nobody can send to it any more.
pub(super) async fn publish_all(hub: Rc<Hub>, name: Arc<str>, mut published: mpsc::Receiver<Vec<Message>>) {
    let mut budget = Budget { left: PATIENCE, at: Instant::now() };
    while let Some(messages) = published.recv().await {
        let step = STEP.min(hub.with(|core, _| core.queue_limit()) / 2).max(1);
        let mut messages = messages.into_iter();
        loop {
            hub.with(|core, now| core.publish_local(now, &name, messages.by_ref().take(step)));
            if messages.len() == 0 {
                break;
            }
            // At the end there is no time for turns: what was handed over still goes out.
            if !hub.stopping.is_cancelled() {
                tokio::task::yield_now().await;
                budget.spend(&hub).await;
            }
        }
    }
}

/// How long may still be waited.
struct Budget {
    left: Duration,
    at: Instant,
}

impl Budget {
    /// Waits until no client's queue is more than half full, if the budget lasts.
    async fn spend(&mut self, hub: &Hub) {
        if !hub.with(|core, _| core.is_crowded()) {
            return;
        }
        self.refill(Instant::now());
        let eased = async {
            tokio::select! {
                () = hub.eased() => {}
                () = hub.stopping.cancelled() => {}
            }
        };
        // Not eased in time: the queues' own limits decide then.
        let _ = timeout(self.left, eased).await;
        let now = Instant::now();
        self.left = self.left.saturating_sub(now - self.at);
        self.at = now;
    }

    fn refill(&mut self, now: Instant) {
        self.left = PATIENCE.min(self.left + (now - self.at) / REFILL);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_earned_back_at_a_quarter_of_the_time() {
        let now = Instant::now();
        let mut budget = Budget { left: Duration::ZERO, at: now };
        budget.refill(now + Duration::from_millis(40));
        assert_eq!(budget.left, Duration::from_millis(10));
        budget.refill(now + Duration::from_secs(60));
        assert_eq!(budget.left, PATIENCE);
    }
}
