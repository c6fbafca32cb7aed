//! How long to wait before the next connection, and what a row of short ones means. Pure but for the dice of the
//! backoff. A peer that says no is asked again ever more rarely; a link that broke is tried again within two seconds,
//! however long it was away.

use std::time::Duration;

use super::link::Fault;
use crate::backoff::Backoff;

/// Pauses between tries: the link's return is noticed within two seconds.
const SOON: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(1500));
/// Pauses after a peer's no: it will not change its mind soon, and may ban who asks too often.
const LATER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A link that held this long begins with the shortest pause again.
pub(super) const STABLE: Duration = Duration::from_secs(10);
/// So many connections in a row that the peer closed soon after it had taken them: a way that breaks does not do that.
const ROW: u32 = 5;

/// Counts and waits for one upstream.
#[derive(Debug)]
pub(super) struct Retry {
    soon: Backoff,
    later: Backoff,
    closed_in_a_row: u32,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { soon: Backoff::new(SOON.0, SOON.1), later: Backoff::new(LATER.0, LATER.1), closed_in_a_row: 0 }
    }

    /// A connection ended; `lived` is how long it was up, if it came to that.
    pub(super) fn ended(&mut self, fault: &Fault, lived: Option<Duration>) {
        if lived.is_some_and(|lived| lived >= STABLE) {
            self.soon.reset();
            self.later.reset();
        }
        match (fault, lived) {
            (Fault::Closed(_), Some(lived)) if lived < STABLE => self.closed_in_a_row += 1,
            // Tries that never came up say nothing about who else is there.
            (_, None) => {}
            _ => self.closed_in_a_row = 0,
        }
    }

    /// How long to wait.
    pub(super) fn pause(&mut self, fault: &Fault) -> Duration {
        match fault {
            Fault::Refused(_) | Fault::TakenOver => self.later.next(),
            _ => self.soon.next(),
        }
    }

    /// Whether the peer takes each connection and closes it soon after: before MQTT 5 that is all one hears when another
    /// client has the same client id.
    pub(super) const fn is_quarrel(&self) -> bool {
        self.closed_in_a_row >= ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Fault {
        Fault::Closed("closed".to_owned())
    }

    #[test]
    fn a_peer_that_takes_and_drops_is_asked_ever_more_rarely_until_a_link_was_stable() {
        let mut retry = Retry::new();
        let short = Some(Duration::from_millis(3));
        let pauses: Vec<_> = (0..6)
            .map(|_| {
                retry.ended(&closed(), short);
                retry.pause(&closed())
            })
            .collect();
        assert!(pauses[0] <= SOON.0 && pauses[0] >= SOON.0.mul_f64(0.79), "{pauses:?}");
        assert!(pauses.iter().all(|p| *p >= SOON.0.mul_f64(0.79) && *p <= SOON.1), "{pauses:?}");
        assert!(pauses[5] >= SOON.1.mul_f64(0.79), "{pauses:?}");
        retry.ended(&closed(), Some(STABLE));
        assert!(retry.pause(&closed()) <= SOON.0);
    }

    #[test]
    fn a_no_is_asked_about_after_seconds_and_at_last_once_a_minute() {
        let mut retry = Retry::new();
        let no = Fault::Refused("no".to_owned());
        let pauses: Vec<_> = (0..8).map(|_| retry.pause(&no)).collect();
        assert!(pauses[0] >= LATER.0.mul_f64(0.79) && pauses[7] >= LATER.1.mul_f64(0.79), "{pauses:?}");
    }

    #[test]
    fn only_a_row_of_closed_connections_is_a_quarrel() {
        let mut retry = Retry::new();
        let short = Some(Duration::from_secs(1));
        for _ in 0..ROW {
            assert!(!retry.is_quarrel());
            retry.ended(&closed(), short);
            retry.ended(&Fault::Broken("refused".to_owned()), None);
        }
        assert!(retry.is_quarrel());
        retry.ended(&Fault::Broken("silent".to_owned()), short);
        assert!(!retry.is_quarrel());
    }
}
