//! How much the spool's thread gives to the disk: what flash wears by. The kernel counts it for each thread when a page is
//! made dirty: journal, checkpoints and all, but not what the file system adds for itself, nor what a card makes of it.
//! Zero where the kernel keeps no such count, and on file systems in memory.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::status::SpoolStatus;

/// The figure of the last day is made of pieces this long.
const PIECE: Duration = Duration::from_secs(3600);
/// Pieces of a day.
const PIECES: usize = 24;

/// The count of the thread that made it.
#[derive(Debug)]
pub(super) struct Flash {
    first: u64,
    /// How it stood at the beginning of each piece, newest last.
    pieces: VecDeque<(Instant, u64)>,
}

impl Flash {
    /// Counts from now, on this thread.
    pub(super) fn new() -> Self {
        let first = written();
        Self { first, pieces: VecDeque::from([(Instant::now(), first)]) }
    }

    /// Bytes since the beginning.
    pub(super) fn bytes(&self) -> u64 {
        written().saturating_sub(self.first)
    }

    /// Puts the figures into the status; to be called on the same thread.
    pub(super) fn note(&mut self, status: &mut SpoolStatus) {
        let (now, total) = (Instant::now(), written());
        if self.pieces.back().is_some_and(|(at, _)| now - *at >= PIECE) {
            self.pieces.push_back((now, total));
            if self.pieces.len() > PIECES {
                self.pieces.pop_front();
            }
        }
        status.written_bytes = total.saturating_sub(self.first);
        if let Some((since, then)) = self.pieces.front() {
            status.written_recently_bytes = total.saturating_sub(*then);
            status.written_recently_s = (now - *since).as_secs();
        }
    }
}

/// Bytes this thread has made dirty in files that lie on a disk.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_this_thread_writes_is_counted_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let write = |name: &str| {
            let mut file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.write_all(&vec![7; 1 << 20]).unwrap();
            file.sync_all().unwrap();
        };
        let mut flash = Flash::new();
        std::thread::scope(|s| s.spawn(|| write("theirs")).join().unwrap());
        assert_eq!(flash.bytes(), 0);
        write("ours");
        let mut status = SpoolStatus::default();
        flash.note(&mut status);
        assert!((1 << 20..2 << 20).contains(&status.written_bytes), "{status:?}");
        assert_eq!(status.written_bytes, status.written_recently_bytes);
    }
}
