//! The end of the demo: sums that have to come out, in a block a person can check by adding.

use std::fmt;
use std::time::Duration;

use crate::demo::account::Sum;
use crate::status::Snapshot;

/// Everything the last word needs.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    /// The gateway's own counters.
    pub now: Snapshot,
    /// The account of the subscriber at the cloud.
    pub sum: Sum,
    /// The gateway's own states among what was sent.
    pub own_states: u64,
    /// Messages the account itself missed; more than none means that it cannot tell.
    pub missed: u64,
    /// How long it ran.
    pub lasted: Duration,
}

impl Summary {
    /// First sends: what went upstream once, repetitions after a cut not counted.
    fn sent(&self) -> u64 {
        self.now.upstreams.iter().map(|u| u.sent.saturating_sub(u.resent)).sum()
    }

    fn acknowledged(&self) -> u64 {
        self.now.upstreams.iter().map(|u| u.acknowledged).sum()
    }

    /// Still in the log: not lost, only not sent yet.
    fn waiting(&self) -> u64 {
        let backlog: u64 = self.now.spool.backlog.values().sum();
        // What the spool says is a commit interval old: it cannot be more than was not acknowledged.
        backlog.min((self.sum.given + self.own_states).saturating_sub(self.acknowledged()))
    }

    fn lost(&self) -> u64 {
        self.sum.lost.saturating_sub(self.waiting())
    }

    /// Whether every sum comes out.
    pub(super) fn adds_up(&self) -> bool {
        let p = &self.now.publish;
        let in_flight: u64 = self.now.upstreams.iter().map(|u| u.in_flight).sum();
        p.unaccounted() == 0
            // What is in flight at a hasty end was sent and not yet acknowledged.
            && self.sent() <= self.acknowledged() + self.waiting().max(in_flight)
            && self.acknowledged() <= self.sent()
            && self.lost() == 0
            && self.sum.out_of_order == 0
            && self.sum.strange == 0
            && self.missed == 0
            && p.polled > 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.now.publish;
        let resent: u64 = self.now.upstreams.iter().map(|u| u.resent).sum();
        let connects: u64 = self.now.upstreams.iter().map(|u| u.connects).sum();
        writeln!(f, "\nSummary after {} s, the upstream connected {connects} times\n", self.lasted.as_secs())?;
        writeln!(f, "  polled             {:>9}", p.polled)?;
        writeln!(f, "  = suppressed       {:>9}   nothing had changed enough", p.suppressed)?;
        writeln!(f, "  + published        {:>9}", p.published)?;
        if p.failed > 0 {
            writeln!(f, "  + failed           {:>9}   without a value; {} of them told", p.failed, p.told)?;
        }
        if p.held > 0 {
            writeln!(f, "  + held back        {:>9}   by at_most", p.held)?;
        }
        writeln!(f)?;
        writeln!(f, "  sent upstream      {:>9}   and {resent} again after a cut", self.sent())?;
        writeln!(f, "  = acknowledged     {:>9}", self.acknowledged())?;
        if self.waiting() > 0 {
            writeln!(f, "  waiting in the log {:>9}   not sent yet when it was stopped", self.waiting())?;
        }
        writeln!(f)?;
        writeln!(f, "  seen by a subscriber at the cloud, compared with what the gateway gave out:")?;
        writeln!(f, "  given out          {:>9}   values and device states", self.sum.given)?;
        writeln!(
            f,
            "  + not compared     {:>9}   the gateway's own state, which its last will tells too",
            self.own_states
        )?;
        writeln!(f, "  arrived            {:>9}", self.sum.arrived)?;
        writeln!(f, "  lost               {:>9}", self.lost())?;
        writeln!(f, "  out of order       {:>9}", self.sum.out_of_order)?;
        writeln!(f, "  repeated           {:>9}   at-least-once may repeat after a cut", self.sum.repeated)?;
        if self.sum.strange > 0 {
            writeln!(f, "  of unknown origin  {:>9}", self.sum.strange)?;
        }
        if self.missed > 0 {
            writeln!(f, "  the account itself missed {} messages and cannot tell", self.missed)?;
        }
        writeln!(f, "\n  {}", if self.adds_up() { "The account adds up." } else { "The account does NOT add up." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PublishStatus, UpstreamStatus};

    fn right() -> Summary {
        let cloud =
            UpstreamStatus { name: "cloud".into(), sent: 47, resent: 7, acknowledged: 40, ..UpstreamStatus::default() };
        let publish = PublishStatus { polled: 100, suppressed: 60, published: 40, failed: 0, held: 0, told: 0 };
        let now = Snapshot { publish, upstreams: vec![cloud], ..Snapshot::default() };
        let sum = Sum { given: 40, arrived: 40, ..Sum::default() };
        Summary { now, sum, own_states: 0, missed: 0, lasted: Duration::from_secs(75) }
    }

    #[test]
    fn the_sums_come_out() {
        assert!(right().adds_up(), "{}", right());
        assert!(right().to_string().contains("The account adds up."));
    }

    #[test]
    fn one_value_less_does_not_come_out() {
        let mut lost = right();
        lost.sum.lost = 1;
        assert!(!lost.adds_up());
        let mut swapped = right();
        swapped.sum.out_of_order = 1;
        assert!(!swapped.adds_up());
        let mut unanswered = right();
        unanswered.now.upstreams[0].acknowledged = 39;
        assert!(!unanswered.adds_up());
        let mut vanished = right();
        vanished.now.publish.suppressed = 59;
        assert!(!vanished.adds_up());
    }

    #[test]
    fn what_waits_in_the_log_is_not_lost() {
        let mut cut = right();
        cut.sum = Sum { given: 45, arrived: 40, lost: 5, ..Sum::default() };
        cut.now.spool.backlog.insert("cloud".into(), 5);
        assert!(cut.adds_up(), "{cut}");
    }
}
