//! Where one upstream stands in the log, and its account: what was appended for it is acknowledged, given out, stored,
//! evicted, expired or lost with a damaged file, and nothing else, across restarts. Gaps are no entries: they are
//! given out in their place but not counted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::Lane;
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
    /// Stretches above `acknowledged` that are done too, in order: what went live, past a backlog.
    pub(super) ahead: Vec<(Seq, Seq)>,
    /// While newest values go first: the second reader.
    pub(super) live: Option<Live>,
}

/// The reader of what is newest; the other one gets what lies below.
#[derive(Debug)]
pub(super) struct Live {
    /// It begins behind this.
    pub(super) from: Seq,
    handed: VecDeque<(Seq, bool)>,
}

/// So many stretches at most; after more outages without a drain between them the order is kept instead.
const AHEAD_MOST: usize = 64;

impl Cursor {
    /// At its place on disk, or at the end of the log when it is new.
    pub(super) fn new(who: Subscriber, place: Option<Place>, last: Seq) -> Self {
        let place = place.unwrap_or(Place { acknowledged: last, ..Place::default() });
        let Place { acknowledged, backlog, account, ahead } = place;
        Self { who, link: Link::Down, acknowledged, backlog, handed: VecDeque::new(), account, ahead, live: None }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.who.name
    }

    /// Whether it has this still to come.
    pub(super) fn waits_for(&self, seq: Seq) -> bool {
        seq > self.acknowledged && !self.ahead.iter().any(|(after, upto)| seq > *after && seq <= *upto)
    }

    /// From now on what comes behind `last` goes first, if there is a backlog to pass.
    pub(super) fn go_live(&mut self, last: Seq) {
        let worth = self.backlog > 0 && self.ahead.len() < AHEAD_MOST;
        self.live = worth.then(|| Live { from: last, handed: VecDeque::new() });
    }

    /// The first that is none of the backlog reader's.
    pub(super) fn limit(&self) -> Seq {
        self.live.as_ref().map_or(Seq::MAX, |live| live.from)
    }

    /// What was given out, to be held against the acknowledgements.
    pub(super) fn hand_out(&mut self, lane: Lane, handed: Vec<(Seq, bool)>) {
        match (lane, &mut self.live) {
            (Lane::Live, Some(live)) => live.handed.extend(handed),
            _ => self.handed.extend(handed),
        }
    }

    /// Whether nothing is given out on this lane.
    pub(super) fn idle(&self, lane: Lane) -> bool {
        match (lane, &self.live) {
            (Lane::Live, Some(live)) => live.handed.is_empty(),
            _ => self.handed.is_empty(),
        }
    }

    /// Done on the live lane up to here; says what was known to be done before.
    pub(super) fn acknowledge_live(&mut self, upto: Seq) -> Option<Seq> {
        let live = self.live.as_mut()?;
        let before = self.ahead.last().map_or(0, |a| a.1).max(live.from).max(self.acknowledged);
        if upto <= before {
            return None;
        }
        let mut done = 0;
        while let Some((_, counts)) = live.handed.front().copied().filter(|(seq, _)| *seq <= upto) {
            live.handed.pop_front();
            done += u64::from(counts);
        }
        let from = live.from;
        self.backlog = self.backlog.saturating_sub(done);
        self.account.acknowledged += done;
        match self.ahead.last_mut() {
            Some(last) if last.0 == from => last.1 = upto,
            _ => self.ahead.push((from, upto)),
        }
        self.absorb();
        Some(before)
    }

    /// Stretches that `acknowledged` has reached become part of it.
    fn absorb(&mut self) {
        let reached = self.ahead.iter().take_while(|(after, _)| *after <= self.acknowledged).count();
        for (_, upto) in self.ahead.drain(..reached) {
            self.acknowledged = self.acknowledged.max(upto);
        }
    }

    /// All stretches that are done, from the beginning of the log.
    pub(super) fn done(&self) -> Vec<(Seq, Seq)> {
        std::iter::once((0, self.acknowledged)).chain(self.ahead.iter().copied()).collect()
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
        self.absorb();
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
        if let Some(live) = &mut self.live {
            live.handed.retain(|(s, _)| *s != seq);
        }
    }

    /// Only so many are left; the others were not to be found.
    pub(super) const fn found(&mut self, left: u64) {
        self.account.damaged += self.backlog.saturating_sub(left);
        self.backlog = left;
    }

    /// What is given out is asked for again from here.
    pub(super) fn rewind(&mut self, lane: Lane, after: Seq) {
        let handed = match (lane, &mut self.live) {
            (Lane::Live, Some(live)) => &mut live.handed,
            _ => &mut self.handed,
        };
        while handed.back().is_some_and(|(seq, _)| *seq > after) {
            handed.pop_back();
        }
    }

    /// The account as it stands.
    pub(super) fn ledger(&self) -> Ledger {
        let live = self.live.iter().flat_map(|live| &live.handed);
        let in_flight = self.handed.iter().chain(live).filter(|(_, counts)| *counts).count() as u64;
        Ledger { in_flight, stored: self.backlog.saturating_sub(in_flight), ..self.account }
    }

    /// What belongs on disk while so many of the backlog lie in memory only.
    pub(super) fn place(&self, only_memory: u64) -> Place {
        let mut account = self.account;
        account.appended = account.appended.saturating_sub(only_memory);
        let backlog = self.backlog.saturating_sub(only_memory);
        Place { acknowledged: self.acknowledged, backlog, account, ahead: self.ahead.clone() }
    }
}

/// Whether an entry counts in the account.
pub(super) const fn counts(content: &Content) -> bool {
    matches!(content, Content::Message(_))
}

/// What is done for both.
pub(super) fn both(a: &[(Seq, Seq)], b: &[(Seq, Seq)]) -> Vec<(Seq, Seq)> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(after, upto)| after < upto).collect()
}
