//! What people want of a line's polling: points read now, a device left alone for a while, what it taught forgotten. Done
//! between two reads; nothing on the wire is cut for it.

use std::time::Duration;

use crate::point::PointId;
use crate::poll::member::Member;
use crate::poll::task::{Closed, PollTask};
use crate::poll::turn::Turn;
use crate::poll::{DeviceEvent, Order};
use crate::sample::Reason;
use crate::time;

/// By when a wish that came during another one is to be met.
const SOON: Duration = Duration::from_secs(1);

impl PollTask {
    pub(super) async fn obey(&mut self, order: Order) -> Result<(), Closed> {
        let place = |members: &[Member], device| members.iter().position(|m| m.device.id == device);
        match order {
            Order::Read(points) => self.read_next(&points),
            Order::Pause(device) => {
                if let Some(at) = place(&self.members, device).filter(|at| !self.members[*at].paused) {
                    return self.pause(at).await;
                }
            }
            Order::Resume(device) => {
                if let Some(at) = place(&self.members, device).filter(|at| self.members[*at].paused) {
                    (self.members[at].paused, self.members[at].reason) = (false, None);
                    // Who pauses a device may well put another there.
                    self.members[at].identity.doubt();
                    tracing::info!(device = %self.members[at].device.name, "polling resumed");
                    self.agenda.table.hurry(device);
                    self.tell();
                }
            }
        }
        Ok(())
    }

    /// A device that is being read because of an earlier wish is read again when that is over, once for all wishes since: however
    /// often somebody asks, the others have their turns in between.
    fn read_next(&mut self, points: &[PointId]) {
        for at in 0..self.members.len() {
            let own = self.members[at].own(points);
            if own.is_empty() {
                continue;
            }
            if self.agenda.any(|turn| turn.at == at && turn.is_wanted()) {
                let wishes = &mut self.members[at].wishes;
                wishes.extend(own);
                wishes.sort_unstable();
                wishes.dedup();
            } else {
                self.begin_wanted(at, &own, Duration::ZERO);
            }
        }
    }

    pub(super) fn read_what_was_wished(&mut self, at: usize) {
        let wishes = std::mem::take(&mut self.members[at].wishes);
        if !wishes.is_empty() {
            self.begin_wanted(at, &wishes, self.clocks().now + SOON);
        }
    }

    fn begin_wanted(&mut self, at: usize, points: &[PointId], deadline: Duration) {
        let member = &mut self.members[at];
        let planned = member.planned(points, &self.line);
        let (device, turn) = (member.device.id, Turn::new(at, member, &planned).wanted());
        self.agenda.begin_by(device, turn, (deadline, member.quiet_until));
    }

    /// Its points say so once, like those of a device that is gone.
    async fn pause(&mut self, at: usize) -> Result<(), Closed> {
        let now = time::now();
        let member = &mut self.members[at];
        tracing::info!(device = %member.device.name, "polling paused");
        (member.paused, member.cut, member.reason) = (true, true, Some(Reason::Paused));
        self.agenda.abandon(member.device.id);
        let samples = member.all().into_iter().map(|slot| member.fail(slot, Reason::Paused, now)).collect();
        let event = DeviceEvent::offline(member.device.id, member.reason);
        self.send(samples).await?;
        self.tell();
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Somebody wants a device to be asked for everything again.
    pub(super) fn forget_as_wished(&mut self) {
        let wished = self.lessons.take_wishes(|device| has(&self.members, device));
        for member in self.members.iter_mut().filter(|m| wished.contains(&m.device.name)) {
            tracing::info!(device = %member.device.name, "forgotten on request; asked for everything again");
            member.forget_holes();
            self.agenda.table.hurry(member.device.id);
        }
        if !wished.is_empty() {
            self.tell();
        }
    }
}

pub(super) fn has(members: &[Member], device: &str) -> bool {
    members.iter().any(|m| *m.device.name == *device)
}
