//! Other upstreams for a log that goes on, as a reload brings them. An upstream keeps its place by its name, and what waited
//! for it is still judged by the rules under which it was taken in: another filter is no reason to lose an entry.

use super::super::Seq;
use super::super::Subscriber;
use super::Log;
use super::UPSTREAMS_MOST;
use super::cursor::Cursor;
use crate::config::plant::Spool as Settings;
use crate::message::Message;

/// What becomes of an upstream that is not among the new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaver {
    /// It may come back: what waits for it is kept, and what comes is taken in for it, as if its link were down.
    Kept,
    /// What waits for it is let go.
    Dropped,
}

impl Log {
    /// Other upstreams and limits from now on; the file stays where it is. For each upstream there was: its new index.
    pub(in crate::spool) fn renew(
        &mut self,
        settings: Settings,
        upstreams: Vec<Subscriber>,
        leaver: Leaver,
    ) -> Vec<Option<usize>> {
        let mut before: Vec<Option<Cursor>> = std::mem::take(&mut self.cursors).into_iter().map(Some).collect();
        let mut places = vec![None; before.len()];
        for who in upstreams {
            let at = before.iter().position(|c| c.as_ref().is_some_and(|c| *c.name() == who.name));
            let known = at.and_then(|at| Some((at, before[at].take()?)));
            let cursor = match known {
                Some((at, mut cursor)) => {
                    places[at] = Some(self.cursors.len());
                    cursor.follow(who, self.last);
                    cursor
                }
                None => Cursor::new(who, None, self.last),
            };
            self.cursors.push(cursor);
        }
        for (at, cursor) in before.into_iter().enumerate() {
            let Some(cursor) = cursor else { continue };
            if leaver == Leaver::Kept && self.cursors.len() < UPSTREAMS_MOST {
                places[at] = Some(self.cursors.len());
                self.cursors.push(cursor);
            } else if cursor.backlog > 0 {
                tracing::warn!(upstream = %cursor.name(), entries = cursor.backlog, "no longer configured: what waited for it is dropped");
            }
        }
        self.move_bits(&places);
        let path = std::mem::take(&mut self.settings.path);
        self.settings = settings;
        self.settings.path = path;
        self.forget_leavers();
        places
    }

    /// What each entry in memory is wanted by, by the new indices.
    fn move_bits(&mut self, places: &[Option<usize>]) {
        if places.iter().enumerate().all(|(was, now)| *now == Some(was)) {
            return;
        }
        for held in &mut self.memory {
            let wanted = std::mem::take(&mut held.wanted);
            let moved = places.iter().enumerate().filter(|(was, _)| wanted >> was & 1 == 1).filter_map(|(_, now)| *now);
            held.wanted = moved.fold(0, |mask, now| mask | 1 << now);
        }
    }

    /// On disk too, so that they hold no space.
    fn forget_leavers(&mut self) {
        self.cursors_dirty = true;
        self.alarms_upto = 0;
        let names: Vec<&str> = self.cursors.iter().map(|c| &**c.name()).collect();
        if let Some(Err(e)) = self.disk.as_ref().map(|disk| disk.keep_cursors(&names)) {
            self.fault(&e);
        }
    }

    /// Who wants an entry of this place, as bits.
    pub(super) fn wanted_at(&self, seq: Seq, message: &Message) -> u64 {
        let bits = self.cursors.iter().enumerate().filter(|(_, c)| c.wants(seq, message));
        bits.fold(0, |mask, (n, _)| mask | 1 << n)
    }
}
