//! What is told of a line once a second, and at every turn of fortune: how full it is, whose periods are not met, how its
//! devices are.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::config::plant::Port;
use crate::poll::member::Member;
use crate::poll::overload;
use crate::poll::task::PollTask;
use crate::status::{LineStatus, Unmet, WireCounts};

/// How often the status is told, and over how long the load is taken.
const TELL_EVERY: Duration = Duration::from_secs(1);
const LOAD_OVER: Duration = Duration::from_secs(10);

impl PollTask {
    /// Waits for the bus, and tells all the while that the line does: with long timeouts, what goes before a read may take
    /// minutes. Where the line stands still nothing is told, and the watchdog sees that.
    pub(super) async fn telling<T>(&mut self, reply: impl Future<Output = T>) -> T {
        let mut pulse = self.bus.pulse();
        pulse.mark_unchanged();
        let mut reply = pin!(reply);
        loop {
            tokio::select! {
                biased;
                reply = &mut reply => return reply,
                () = moved_by(&mut pulse, self.tell_at) => self.tell(),
            }
        }
    }

    pub(super) fn tell(&mut self) {
        let now = Instant::now();
        self.tell_at = now + TELL_EVERY;
        let busy = self.bus.status().borrow().busy;
        self.busy.push_back((now, busy));
        while self.busy.len() > 2 && self.busy.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LOAD_OVER) {
            self.busy.pop_front();
        }
        let load = self.busy.front().map_or(0.0, |(at, was)| share(busy.saturating_sub(*was), now.duration_since(*at)));
        let snapshot = self.snapshot(load);
        match self.overload.judge(self.clocks().now, snapshot.unmet.len()) {
            Some(overload::Change::Begins) => say_unmet(&snapshot),
            Some(overload::Change::Ends) => tracing::info!(line = %self.line.name, "all periods are met again"),
            None => {}
        }
        if let Some(by_us) = self.agenda.table.followed() {
            let by = format_args!("{:+.1}", by_us as f64 / 1e6).to_string();
            tracing::info!(line = %self.line.name, by_s = by, "the wall clock was set: aligned and cron turns follow it");
        }
        self.status.send_replace(snapshot);
        self.lessons.note(self.members.iter().map(Member::taught));
    }

    fn unmet(&self) -> Vec<Unmet> {
        let all = self.agenda.table.stretched().into_iter().filter_map(|stretched| {
            let member = self.members.iter().find(|m| m.device.id == stretched.device)?;
            Some(Unmet {
                device: member.device.name.to_string(),
                points: member.names(&stretched.points),
                period_ms: stretched.period.as_secs_f64() * 1e3,
                achievable_ms: stretched.achievable.as_secs_f64() * 1e3,
                missed_turns: stretched.missed,
            })
        });
        all.collect()
    }

    pub(super) fn snapshot(&self, load: f64) -> LineStatus {
        let bus = self.bus.status();
        let bus = bus.borrow();
        LineStatus {
            name: self.line.name.to_string(),
            port: match &self.line.port {
                Port::Serial(port) => port.path.display().to_string(),
                Port::Tcp(address) | Port::RtuOverTcp(address) => address.clone(),
            },
            up: bus.up,
            error: bus.error.clone(),
            load,
            wire: WireCounts { retries: bus.wire.retries + self.retries, ..bus.wire },
            missed_turns: self.missed_turns,
            unmet: self.unmet(),
            devices: self.members.iter().map(Member::status).collect(),
        }
    }
}

/// Once the time has come and the line has moved since it was last seen to. Never, where its task has ended.
async fn moved_by(pulse: &mut watch::Receiver<()>, time: Instant) {
    sleep_until(time).await;
    if pulse.changed().await.is_err() {
        pending().await
    }
}

/// The worst of them stands for all; `trunkline status` has the rest.
fn say_unmet(line: &LineStatus) {
    let Some(worst) = line.unmet.first() else { return };
    let points: usize = line.unmet.iter().map(|u| u.points.len()).sum();
    tracing::warn!(
        line = %line.name,
        points,
        worst = %format_args!("{}/{}", worst.device, worst.points.first().map_or("", String::as_str)),
        period_ms = worst.period_ms.round(),
        achievable_ms = worst.achievable_ms.round(),
        "periods cannot be met: lengthen them or see trunkline plan"
    );
}

fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { (part.as_secs_f64() / whole.as_secs_f64()).min(1.0) }
}
