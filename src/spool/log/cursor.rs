//! Where one upstream stands in the log, and its account: what was appended for it is acknowledged, given out, stored,
//! evicted, expired or lost with a damaged file, and nothing else, across restarts. Gaps are no entries: they are
//! given out in their place but not counted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::Link;
use super::super::Seq;
use super::super::Subscriber;
use super::super::disk::Place;
use super::super::row::Content;
use crate::status::Ledger;

/// Why an entry leaves without acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No room.
    Full,
    /// Older than `max_age`.
    Old,
}

/// Where one upstream stands.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) who: Subscriber,
    pub(super) link: Link,
    /// All up to here is done.
    pub(super) acknowledged: Seq,
    /// Entries it wants and has not acknowledged.
    pub(super) backlog: u64,
    /// Given out, in order, not acknowledged yet; and whether it counts (a gap does not).
    pub(super) handed: VecDeque<(Seq, bool)>,
    /// Totals since the file was begun.
    pub(super) account: Ledger,
}

impl Cursor {
    /// At its place on disk, or at the end of the log when it is new.
    pub(super) fn new(who: Subscriber, place: Option<Place>, last: Seq) -> Self {
        let place = place.unwrap_or(Place { acknowledged: last, ..Place::default() });
        let Place { acknowledged, backlog, account } = place;
        Self { who, link: Link::Down, acknowledged, backlog, handed: VecDeque::new(), account }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.who.name
    }

    /// Whether it has this still to come.
    pub(super) const fn waits_for(&self, seq: Seq) -> bool {
        seq > self.acknowledged
    }

    /// An entry that it wants came.
    pub(super) const fn appended(&mut self) {
        self.backlog += 1;
        self.account.appended += 1;
    }

    /// An entry that it wants could not even be taken in.
    pub(super) const fn turned_away(&mut self) {
        self.account.appended += 1;
        self.account.evicted += 1;
    }

    /// All up to here is done.
    pub(super) fn acknowledge(&mut self, upto: Seq) {
        self.acknowledged = upto;
        while let Some((_, counts)) = self.handed.front().copied().filter(|(seq, _)| *seq <= upto) {
            self.handed.pop_front();
            self.backlog = self.backlog.saturating_sub(u64::from(counts));
            self.account.acknowledged += u64::from(counts);
        }
    }

    /// An entry that it wants left without acknowledgement.
    pub(super) fn forget(&mut self, seq: Seq, why: Why) {
        if !self.waits_for(seq) {
            return;
        }
        self.backlog = self.backlog.saturating_sub(1);
        match why {
            Why::Full => self.account.evicted += 1,
            Why::Old => self.account.expired += 1,
        }
        self.handed.retain(|(s, _)| *s != seq);
    }

    /// Only so many are left; the others were not to be found.
    pub(super) const fn found(&mut self, left: u64) {
        self.account.damaged += self.backlog.saturating_sub(left);
        self.backlog = left;
    }

    /// What is given out is asked for again from here.
    pub(super) fn rewind(&mut self, after: Seq) {
        while self.handed.back().is_some_and(|(seq, _)| *seq > after) {
            self.handed.pop_back();
        }
    }

    /// The account as it stands.
    pub(super) fn ledger(&self) -> Ledger {
        let in_flight = self.handed.iter().filter(|(_, counts)| *counts).count() as u64;
        Ledger { in_flight, stored: self.backlog.saturating_sub(in_flight), ..self.account }
    }

    /// What belongs on disk while so many of the backlog lie in memory only.
    pub(super) const fn place(&self, only_memory: u64) -> Place {
        let mut account = self.account;
        account.appended = account.appended.saturating_sub(only_memory);
        Place { acknowledged: self.acknowledged, backlog: self.backlog.saturating_sub(only_memory), account }
    }
}

/// Whether an entry counts in the account.
pub(super) const fn counts(content: &Content) -> bool {
    matches!(content, Content::Message(_))
}
