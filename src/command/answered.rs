//! Commands that have been answered, by the asker's id: the same id asked again is answered with the first result and not done
//! again, as a sender that lost the answer needs it. Pure; bounded in number and in time. This is the memory of one run; of
//! writes the audit trail remembers more, and for longer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Remembered at most; a sender repeats soon or not at all.
const MOST: usize = 1024;
const LASTING: Duration = Duration::from_secs(600);

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It is being done.
    UnderWay,
    /// This was the answer.
    Answer(Arc<str>),
    /// It is another command's.
    Other,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    key: Arc<str>,
    /// What was asked for.
    fingerprint: u64,
    known: Known,
}

/// By topic and id.
#[derive(Debug, Default)]
pub(super) struct Answered(VecDeque<Entry>);

impl Answered {
    /// What is known of it; if nothing is, it is under way from now on.
    pub(super) fn begin(&mut self, key: Arc<str>, fingerprint: u64, now: Instant) -> Option<Known> {
        while self.0.front().is_some_and(|entry| now.saturating_duration_since(entry.at) >= LASTING) {
            self.0.pop_front();
        }
        if let Some(entry) = self.0.iter().find(|entry| entry.key == key) {
            return Some(if entry.fingerprint == fingerprint { entry.known.clone() } else { Known::Other });
        }
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(Entry { at: now, key, fingerprint, known: Known::UnderWay });
        None
    }

    /// It was not done, and may be asked again.
    pub(super) fn forget(&mut self, key: &str) {
        self.0.retain(|entry| *entry.key != *key);
    }

    /// It has been answered.
    pub(super) fn end(&mut self, key: &str, answer: Arc<str>) {
        if let Some(entry) = self.0.iter_mut().find(|entry| *entry.key == *key) {
            entry.known = Known::Answer(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_done_once_and_answered_again_with_the_first_result() {
        let mut answered = Answered::default();
        let now = Instant::now();
        assert_eq!(answered.begin("t 7".into(), 1, now), None);
        assert_eq!(answered.begin("t 7".into(), 1, now), Some(Known::UnderWay));
        answered.end("t 7", "written".into());
        assert_eq!(answered.begin("t 7".into(), 1, now + LASTING / 2), Some(Known::Answer("written".into())));
        assert_eq!(answered.begin("t 8".into(), 1, now), None);
        answered.forget("t 8");
        assert_eq!(answered.begin("t 8".into(), 1, now), None, "it was not done");
        assert_eq!(answered.begin("t 7".into(), 1, now + LASTING), None, "forgotten");
    }

    #[test]
    fn an_id_that_is_used_for_something_else_is_neither_done_nor_answered_with_what_is_not_its_own() {
        let mut answered = Answered::default();
        let now = Instant::now();
        assert_eq!(answered.begin("t 7".into(), 1, now), None);
        assert_eq!(answered.begin("t 7".into(), 2, now), Some(Known::Other));
        answered.end("t 7", "written".into());
        assert_eq!(answered.begin("t 7".into(), 2, now), Some(Known::Other));
        assert_eq!(answered.begin("t 7".into(), 1, now), Some(Known::Answer("written".into())));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut answered = Answered::default();
        for n in 0..3 * MOST {
            answered.begin(n.to_string().into(), 0, Instant::now());
        }
        assert_eq!(answered.0.len(), MOST);
    }
}
