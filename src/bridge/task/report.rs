//! What is told of an upstream: why its link ended, how full and how fast it is.

use tokio::time::Instant;

use super::BridgeTask;
use super::Fault;
use super::LinkState;
use super::Session;

impl BridgeTask {
    /// Says why the link ended: the turn, not the state. An outage of a day is one line, unless the reason changes.
    pub(super) fn tell(&self, fault: &Fault, endpoint: usize, was_up: bool, is_quarrel: bool) {
        let mut words = fault.words().to_owned();
        if is_quarrel || *fault == Fault::TakenOver {
            words = format!(
                "{words}: another client {} the client id {:?}; two gateways with one id disconnect each other for \
                 ever: set client_id",
                if is_quarrel { "seems to use" } else { "uses" },
                self.settings.client_id
            );
        }
        if was_up || self.status.borrow().error.as_ref() != Some(&words) {
            let endpoint = &self.settings.endpoints[endpoint];
            tracing::warn!(upstream = %self.settings.name, %endpoint, "{words}");
        }
        self.status.send_modify(|s| {
            s.state = LinkState::Waiting;
            s.error = Some(words);
            s.in_flight = 0;
            s.drain_per_s = 0.0;
            s.empty_in_s = None;
        });
    }

    /// How fast the backlog shrinks, and when it will be gone.
    pub(super) fn look(&self, s: &mut Session) {
        let backlog = self.spool.status().borrow().backlog.get(&*self.settings.name).copied().unwrap_or(0);
        let (per_s, left) = s.estimate.look(Instant::now(), backlog);
        self.status.send_modify(|status| {
            status.drain_per_s = per_s;
            status.empty_in_s = left.map(|left| left.as_secs());
        });
    }
}
