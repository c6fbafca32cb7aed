//! Other devices and points for a line that goes on, taken over between two reads: the port stays open, turns under way go
//! on, and a device that is as it was does not notice.

use std::sync::Arc;

use crate::config::plant::{Device, Point};
use crate::poll::member::{Member, Slot};
use crate::poll::task::{Closed, PollTask};
use crate::poll::{Refit, Roster};
use crate::sample::Reason;
use crate::status::DeviceState;
use crate::time;

/// A member that is not as it was, by its place, and its points of which nothing was ever said.
type Changed = (usize, Vec<Slot>);

impl PollTask {
    pub(super) async fn refit(&mut self, (roster, done): Refit) -> Result<(), Closed> {
        let changed = self.take_over(roster);
        for (at, _) in &changed {
            let device = self.members[*at].device.id;
            self.agenda.table.hurry(device);
        }
        tracing::info!(line = %self.line.name, devices = self.members.len(), changed = changed.len(), "other devices");
        self.say_what_is_not_asked(changed).await?;
        self.tell();
        // Whoever asked may have given up waiting.
        let _ = done.send(());
        Ok(())
    }

    fn take_over(&mut self, roster: Roster) -> Vec<Changed> {
        let Roster { devices, points } = roster;
        let mut old: Vec<Option<Member>> = std::mem::take(&mut self.members).into_iter().map(Some).collect();
        let mut places = vec![None; old.len()];
        let mut changed = Vec::new();
        for device in devices {
            let own: Vec<Arc<Point>> = points.iter().filter(|p| p.device == device.id).cloned().collect();
            let at = old.iter().position(|m| m.as_ref().is_some_and(|m| m.device.id == device.id));
            let was = at.and_then(|at| Some((at, old[at].take()?)));
            let place = self.members.len();
            match was {
                Some((at, mut member)) if member.is_of(&device, &own) => {
                    member.device = device;
                    places[at] = Some(place);
                    self.members.push(member);
                }
                was => {
                    let (member, untold) = self.made_anew(device, own, was.map(|(_, was)| was));
                    changed.push((place, untold));
                    self.members.push(member);
                }
            }
        }
        self.agenda.keep(|turn| {
            let place = places[turn.at];
            turn.at = place.unwrap_or(turn.at);
            place.is_some()
        });
        let clocks = self.clocks();
        self.agenda.table.refit(points.iter().map(|p| (p.device, p.id, &p.schedule)), clocks);
        changed
    }

    fn made_anew(&self, device: Device, points: Vec<Arc<Point>>, was: Option<Member>) -> (Member, Vec<Slot>) {
        let is_same = |was: &Member| (was.device.unit_id, &was.device.profile) == (device.unit_id, &device.profile);
        let was = was.filter(is_same);
        let mut member = Member::new(device, points, &self.line);
        let untold = was.map(|was| member.succeed(was)).unwrap_or_default();
        (member, untold)
    }

    /// New points of a device that is not asked now are bad from the beginning, not missing.
    async fn say_what_is_not_asked(&mut self, changed: Vec<Changed>) -> Result<(), Closed> {
        let now = time::now();
        let mut samples = Vec::new();
        for (at, untold) in changed {
            let member = &mut self.members[at];
            if member.cut || member.paused || member.health.state() == DeviceState::Offline {
                let reason = if member.paused { Reason::Paused } else { Reason::Offline };
                samples.extend(untold.into_iter().map(|slot| member.fail(slot, reason, now)));
            }
        }
        self.send(samples).await
    }
}
