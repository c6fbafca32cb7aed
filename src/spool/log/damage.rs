//! When the disk says no: what is in memory stays there, a damaged file is set aside and a new one begun, and what lay
//! only there is counted as lost.

use super::super::SpoolError;
use super::super::disk::Disk;
use super::Log;
use super::cursor::counts;
use crate::database::FileError;

impl Log {
    /// The disk said no. What is in memory stays there; a damaged file is set aside and a new one begun.
    pub(super) fn fault(&mut self, error: &rusqlite::Error) {
        let path = self.settings.path.display();
        let words = match SpoolError::of(&self.settings.path, error) {
            SpoolError::File(FileError::Damaged { why, .. }) => {
                let aside = self.disk.take().and_then(Disk::set_aside);
                let aside = aside.map_or_else(|| "nowhere".to_owned(), |a| a.display().to_string());
                let words = format!("{path} was damaged ({why}); set aside as {aside}, a new log begun");
                self.counts.set_aside = Some(words.clone());
                self.counts.set_aside_uptime_s = Some(crate::time::uptime().as_secs());
                self.lose_disk();
                words
            }
            other => format!("{other}; entries wait in memory"),
        };
        if self.counts.error.as_ref() != Some(&words) {
            tracing::error!("spool: {words}");
        }
        self.counts.error = Some(words);
    }

    /// After damage: what lay only on disk is gone and counted; copies in memory are written again.
    fn lose_disk(&mut self) {
        let first = self.memory.front().map_or(self.last + 1, |h| h.seq);
        let mut lost = 0;
        for (n, cursor) in self.cursors.iter_mut().enumerate() {
            let held = self.memory.iter().filter(|h| h.wanted_by(n) && cursor.waits_for(h.seq) && counts(&h.content));
            let held = held.count() as u64;
            lost = lost.max(cursor.backlog.saturating_sub(held));
            cursor.found(held);
            cursor.handed.retain(|(seq, _)| *seq >= first);
        }
        self.counts.damaged += lost;
        self.committed = first - 1;
        self.alarms_upto = 0;
        self.cursors_dirty = true;
    }

    pub(super) fn reopen(&mut self) -> bool {
        match Disk::open(&self.settings.path, self.settings.max_size, self.boot) {
            Ok((disk, _)) => {
                self.disk = Some(disk);
                true
            }
            Err(e) => {
                self.counts.error = Some(format!("{e}; entries wait in memory"));
                false
            }
        }
    }
}
