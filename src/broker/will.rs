//! A client's last will in the broker's hands (3.1.2.5): held while the client is connected, waiting for its delay when it
//! has gone. Pure. A broker that is killed has closed its clients' connections like any other failure, so wills are on the
//! disk too, once they were there at two saves in a row: most short visits write nothing.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::packet::Will;
use super::queue::Depth;
use crate::topic::TopicName;

/// What the disk has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kept {
    /// Nothing.
    #[default]
    No,
    /// Nothing, but the last save has seen it.
    Seen,
    /// As it is now.
    Yes,
    /// Another one.
    Stale,
}

/// At most one will, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct LastWill {
    will: Option<Arc<Will>>,
    /// `None` while its client is connected.
    due: Option<Instant>,
    kept: Kept,
}

impl LastWill {
    /// What the disk had of a client that is away since `left`.
    pub(super) fn restored(will: Option<Will>, left: Instant, expiry: u32) -> Self {
        let kept = if will.is_some() { Kept::Yes } else { Kept::No };
        let mut restored = Self { will: will.map(Arc::new), due: None, kept };
        restored.wait(left, expiry);
        restored
    }

    /// A client has connected: its will, if any, takes the place of the one before.
    pub(super) fn hold(&mut self, will: Option<Will>) {
        self.take();
        self.will = will.map(Arc::new);
    }

    /// Takes it out: to be published, or to be forgotten.
    pub(super) fn take(&mut self) -> Option<Arc<Will>> {
        self.due = None;
        self.kept = match self.kept {
            Kept::Yes | Kept::Stale => Kept::Stale,
            Kept::No | Kept::Seen => Kept::No,
        };
        self.will.take()
    }

    /// Where it would be published.
    pub(super) fn topic(&self) -> Option<&TopicName> {
        self.will.as_ref().map(|will| &will.message.topic)
    }

    /// Takes it out if it is due by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arc<Will>> {
        if self.due.is_some_and(|due| due <= now) { self.take() } else { None }
    }

    /// Its client went at `left`; the session, and with it the wait, ends at the latest after `expiry` seconds.
    pub(super) fn wait(&mut self, left: Instant, expiry: u32) {
        self.due = self.will.as_ref().map(|will| left + Duration::from_secs(u64::from(will.delay.min(expiry))));
    }

    /// What the disk is to have instead: `Some(None)` is nothing. From now on that is taken as written.
    pub(super) fn change(&mut self, depth: Depth) -> Option<Option<Arc<Will>>> {
        if self.will.is_none() {
            return (std::mem::take(&mut self.kept) == Kept::Stale).then_some(None);
        }
        let write = match self.kept {
            Kept::Yes => return None,
            Kept::No => depth == Depth::All,
            Kept::Seen | Kept::Stale => true,
        };
        self.kept = if write { Kept::Yes } else { Kept::Seen };
        write.then(|| self.will.clone())
    }

    /// Whether the disk has a will of this session, this one or another.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self.kept, Kept::Yes | Kept::Stale)
    }

    /// The disk has nothing of it any more.
    pub(super) fn forget_disk(&mut self) {
        self.kept = Kept::No;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::message::Retain;
    use crate::topic::Qos;
    use crate::topic::TopicName;

    fn will(delay: u32) -> Option<Will> {
        let topic = TopicName::new("w").unwrap();
        Some(Will { message: Message::plain(topic, "gone".into(), Qos::AtMostOnce, Retain::No), delay })
    }

    #[test]
    fn a_will_is_due_after_its_delay_or_when_the_session_ends_whatever_is_first() {
        let now = Instant::now();
        for (delay, expiry, due) in [(5, 100, 5), (100, 5, 5), (0, 100, 0), (7, 0, 0)] {
            let mut last = LastWill::default();
            last.hold(will(delay));
            assert!(last.take_due(now + Duration::from_secs(1000)).is_none(), "not while connected");
            last.wait(now, expiry);
            assert!(due == 0 || last.take_due(now + Duration::from_secs(due - 1)).is_none());
            assert!(last.take_due(now + Duration::from_secs(due)).is_some(), "{delay} {expiry}");
            assert!(last.take_due(now + Duration::from_secs(due)).is_none(), "once");
        }
    }

    #[test]
    fn what_is_gone_before_the_second_save_is_never_written() {
        let mut last = LastWill::default();
        for _ in 0..3 {
            last.hold(will(0));
            assert!(last.change(Depth::Settled).is_none());
            last.take();
        }
        assert!(last.change(Depth::All).is_none());
    }

    #[test]
    fn the_disk_has_what_is_held_and_nothing_when_nothing_is() {
        let mut last = LastWill::default();
        last.hold(will(1));
        assert!(last.change(Depth::Settled).is_none());
        assert_eq!(last.change(Depth::Settled).unwrap().unwrap().delay, 1);
        assert!(last.change(Depth::Settled).is_none());
        last.hold(will(2));
        assert_eq!(last.change(Depth::Settled).unwrap().unwrap().delay, 2);
        last.take();
        assert!(last.is_on_disk());
        assert!(last.change(Depth::Settled).unwrap().is_none());
        assert!(last.change(Depth::Settled).is_none() && !last.is_on_disk());
    }
}
