//! Where one upstream stands in the log, and its account: what was appended for it is acknowledged, refused, given out,
//! stored, evicted, expired, cleared or lost with a damaged file, and nothing else, across restarts. Gaps are no entries:
//! they are given out in their place but not counted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::Lane;
use super::super::Link;
use super::super::Seq;
use super::super::Subscriber;
use super::super::disk::Place;
use super::super::row::Content;
use crate::message::Message;
use crate::status::Ledger;
use crate::topic::TopicFilter;

/// Why an entry leaves without acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No room.
    Full,
    /// Older than `max_age`.
    Old,
    /// A person wanted it so.
    Cleared,
}

impl Why {
    const fn count(self, account: &mut Ledger, count: u64) {
        match self {
            Self::Full => account.evicted += count,
            Self::Old => account.expired += count,
            Self::Cleared => account.cleared += count,
        }
    }
}

impl Place {
    /// As [`Cursor::left`], before it is done.
    pub(super) const fn left(&mut self, count: u64, why: Why) {
        self.backlog = self.backlog.saturating_sub(count);
        why.count(&mut self.account, count);
    }
}

/// What an entry that was given out will count as when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// A gap is no entry.
    Nothing,
    /// The peer has it.
    Acknowledged,
    /// The peer will never take it.
    Refused,
}

/// What was given out, in order.
type Handed = VecDeque<(Seq, Counts)>;

/// Where one upstream stands.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) who: Subscriber,
    pub(super) link: Link,
    /// All up to here is done.
    pub(super) acknowledged: Seq,
    /// Entries it wants and has not acknowledged.
    pub(super) backlog: u64,
    /// Given out, in order, not acknowledged yet.
    pub(super) handed: Handed,
    /// Totals since the file was begun.
    pub(super) account: Ledger,
    /// Stretches above `acknowledged` that are done too, in order: what went live, past a backlog.
    pub(super) ahead: Vec<(Seq, Seq)>,
    /// While newest values go first: the second reader.
    pub(super) live: Option<Live>,
    /// Newer values than those up to here may have been sent.
    overtaken: Seq,
    /// What was taken in up to here was so by these filters, before a reload brought others.
    before: Option<(Seq, Vec<TopicFilter>)>,
}

/// The reader of what is newest; the other one gets what lies below.
#[derive(Debug)]
pub(super) struct Live {
    /// It begins behind this.
    pub(super) from: Seq,
    handed: Handed,
}

/// So many stretches at most; after more outages without a drain between them the order is kept instead.
const AHEAD_MOST: usize = 64;

impl Cursor {
    /// At its place on disk, or at the end of the log when it is new.
    pub(super) fn new(who: Subscriber, place: Option<Place>, last: Seq) -> Self {
        let place = place.unwrap_or(Place { acknowledged: last, ..Place::default() });
        let Place { acknowledged, backlog, account, ahead, overtaken } = place;
        let (link, handed) = (Link::Down, VecDeque::new());
        Self { who, link, acknowledged, backlog, handed, account, ahead, live: None, overtaken, before: None }
    }

    /// Goes on under other rules for what comes behind `last`.
    pub(super) fn follow(&mut self, who: Subscriber, last: Seq) {
        if who.filters != self.who.filters && self.backlog > 0 {
            // Of several reloads during one outage the rules are added up: better one entry too many to judge.
            let earlier = self.before.take().filter(|(upto, _)| *upto > self.acknowledged);
            let mut filters = earlier.map_or_else(Vec::new, |(_, filters)| filters);
            filters.extend(self.who.filters.iter().filter(|f| !filters.contains(f)).cloned().collect::<Vec<_>>());
            self.before = Some((last, filters));
        }
        self.who = who;
    }

    /// Whether the entry at this place was taken in for it.
    pub(super) fn wants(&self, seq: Seq, message: &Message) -> bool {
        match &self.before {
            Some((upto, filters)) if seq <= *upto => filters.iter().any(|f| f.matches(&message.topic)),
            _ => self.who.wants(message),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.who.name
    }

    /// Whether it has this still to come.
    pub(super) fn waits_for(&self, seq: Seq) -> bool {
        seq > self.acknowledged && !self.ahead.iter().any(|(after, upto)| seq > *after && seq <= *upto)
    }

    /// How its link is. What was given out before will be asked for again.
    pub(super) fn link(&mut self, link: Link) {
        self.link = link;
        self.live = None;
        self.handed.clear();
    }

    /// From now on what comes behind `last` goes first, if there is a backlog to pass.
    pub(super) fn go_live(&mut self, last: Seq) {
        let worth = self.backlog > 0 && self.ahead.len() < AHEAD_MOST;
        self.live = worth.then(|| Live { from: last, handed: VecDeque::new() });
        if worth {
            self.overtaken = last;
        }
    }

    /// Entries up to here may be older than what was sent already; zero: none.
    pub(super) fn overtaken(&self) -> Seq {
        let known = self.ahead.last().map_or(0, |a| a.1).max(self.overtaken);
        if known > self.acknowledged { known } else { 0 }
    }

    /// Whether the bridge has it: it may be with the peer already.
    pub(super) fn in_flight(&self, seq: Seq) -> bool {
        let has = |handed: &Handed| handed.binary_search_by_key(&seq, |h| h.0).is_ok();
        has(&self.handed) || self.live.as_ref().is_some_and(|live| has(&live.handed))
    }

    /// The peer will never take this one: told before it is acknowledged with the others.
    pub(super) fn refuse(&mut self, seq: Seq) {
        let live = self.live.iter_mut().flat_map(|live| &mut live.handed);
        for (_, counts) in self.handed.iter_mut().chain(live).filter(|(s, c)| *s == seq && *c != Counts::Nothing) {
            *counts = Counts::Refused;
        }
    }

    /// The first that is none of the backlog reader's.
    pub(super) fn limit(&self) -> Seq {
        self.live.as_ref().map_or(Seq::MAX, |live| live.from)
    }

    /// What was given out, to be held against the acknowledgements.
    pub(super) fn hand_out(&mut self, lane: Lane, handed: Vec<(Seq, Counts)>) {
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
        let (mut done, from) = (Vec::new(), live.from);
        while let Some((_, counts)) = live.handed.front().copied().filter(|(seq, _)| *seq <= upto) {
            live.handed.pop_front();
            done.push(counts);
        }
        done.into_iter().for_each(|counts| self.settle(counts));
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

    /// What can be thrown away lies behind the first, up to the second: above what is under way on the backlog's
    /// reader, below what the other one reads.
    pub(super) fn clearing(&self, last: Seq) -> (Seq, Seq) {
        let after = self.handed.back().map_or(self.acknowledged, |(seq, _)| *seq);
        (after, self.limit().min(last))
    }

    /// Entries that wait and are not under way.
    pub(super) fn waiting_unread(&self) -> u64 {
        self.ledger().stored
    }

    /// This stretch is done without having been read.
    pub(super) fn skip(&mut self, after: Seq, upto: Seq) {
        let below: Vec<_> = self.ahead.iter().copied().filter(|(_, end)| *end <= after).collect();
        let above: Vec<_> = self.ahead.iter().copied().filter(|(begin, _)| *begin >= upto).collect();
        self.ahead = [below, vec![(after, upto)], above].concat();
        self.absorb();
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
            self.settle(counts);
        }
        self.absorb();
    }

    fn settle(&mut self, counts: Counts) {
        match counts {
            Counts::Nothing => return,
            Counts::Acknowledged => self.account.acknowledged += 1,
            Counts::Refused => self.account.refused += 1,
        }
        self.backlog = self.backlog.saturating_sub(1);
    }

    /// So many entries that it waits for, and that are not given out, left without acknowledgement.
    pub(super) const fn left(&mut self, count: u64, why: Why) {
        self.backlog = self.backlog.saturating_sub(count);
        why.count(&mut self.account, count);
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
        let in_flight = self.handed.iter().chain(live).filter(|(_, c)| *c != Counts::Nothing).count() as u64;
        Ledger { in_flight, stored: self.backlog.saturating_sub(in_flight), ..self.account }
    }

    /// What belongs on disk while so many of the backlog lie in memory only.
    pub(super) fn place(&self, only_memory: u64) -> Place {
        let mut account = self.account;
        account.appended = account.appended.saturating_sub(only_memory);
        let backlog = self.backlog.saturating_sub(only_memory);
        let (acknowledged, ahead, overtaken) = (self.acknowledged, self.ahead.clone(), self.overtaken());
        Place { acknowledged, backlog, account, ahead, overtaken }
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
