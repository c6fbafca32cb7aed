//! The client's half of a session that outlives its connection (QoS 2 needs one): which packet ids are under way, for
//! which entries of the log, and how far. The library writes down its part after every step; the order in which things
//! were sent, which it does not keep when packet ids begin again at one, is put right here, because a peer delivers in
//! the order in which it gets them again.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rumqttc as v5;
use rumqttc_v4 as v4;

use crate::spool::Seq;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, v5::SessionStoreError>> + Send + 'a>>;

/// A packet id under way and the entry it carries; the gateway's own state is no entry.
pub(super) type UnderWay = (u16, Option<Seq>);

/// Entries handed to the library that have no packet id yet, in order. A std lock, held for a push or a pop, between
/// who publishes and who hears of packet ids.
pub(super) type HandedOver = Arc<Mutex<VecDeque<Option<Seq>>>>;

/// Follows packet ids from PUBLISH to their last acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    handed: HandedOver,
    /// In the order of sending.
    under_way: Vec<UnderWay>,
    /// Of those, sent on an earlier connection and repeated by the library on this one.
    carried: BTreeSet<u16>,
}

impl Tracker {
    pub(super) fn new(handed: HandedOver, carried: Vec<UnderWay>) -> Self {
        let ids = carried.iter().map(|(id, _)| *id).collect();
        Self { handed, under_way: carried, carried: ids }
    }

    /// The library sent a PUBLISH under this packet id.
    pub(super) fn sent(&mut self, id: u16) {
        if id != 0 && !self.carried.contains(&id) {
            let entry = lock(&self.handed).pop_front().flatten();
            self.under_way.push((id, entry));
        }
    }

    /// Nothing more comes for this packet id. Gives the entry if it was carried over: no notice tells of it.
    pub(super) fn done(&mut self, id: u16) -> Option<Seq> {
        let place = self.under_way.iter().position(|(i, _)| *i == id)?;
        let (_, entry) = self.under_way.remove(place);
        let was_carried = self.carried.remove(&id);
        entry.filter(|_| was_carried)
    }

    /// The peer knows nothing of what was carried over.
    pub(super) fn forget(&mut self) {
        self.under_way.clear();
        self.carried.clear();
    }

    /// At the end: what is under way still, given what the library wants to repeat; and carried entries that are done
    /// though nobody said so.
    pub(super) fn end(mut self, repeats: &[u16]) -> (Vec<UnderWay>, Vec<Seq>) {
        // What went out last may have lost its event with the connection.
        for id in repeats {
            if !self.under_way.iter().any(|(i, _)| i == id) {
                self.sent(*id);
            }
        }
        let carried = std::mem::take(&mut self.carried);
        let (open, done): (Vec<_>, Vec<_>) = self.under_way.into_iter().partition(|(id, _)| repeats.contains(id));
        (open, done.into_iter().filter(|(id, _)| carried.contains(id)).filter_map(|(_, entry)| entry).collect())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two versions of the library have the same types twice.
macro_rules! shelf {
    ($name:ident, $library:ident) => {
        /// Where the library leaves its half of the session.
        #[derive(Debug, Clone, Default)]
        pub(super) struct $name(Arc<Mutex<Option<$library::PersistedSession>>>);

        impl $name {
            pub(super) fn holding(session: Option<$library::PersistedSession>) -> Self {
                Self(Arc::new(Mutex::new(session)))
            }

            /// What is there, to be carried over: with its repeats in the order of `under_way`, releases first, and
            /// without subscriptions, which are made anew.
            pub(super) fn take(
                &self,
                tracker: Tracker,
            ) -> Option<($library::PersistedSession, Vec<UnderWay>, Vec<Seq>)> {
                let mut session = lock(&self.0).take()?;
                let id = |request: &$library::PersistedRequest| match request {
                    $library::PersistedRequest::Publish(p) => Some((1, p.pkid)),
                    $library::PersistedRequest::PubRel(p) => Some((0, p.pkid)),
                    _ => None,
                };
                session.replay.retain(|request| id(request).is_some());
                let ids: Vec<u16> = session.replay.iter().filter_map(|r| Some(id(r)?.1)).collect();
                let (under_way, done) = tracker.end(&ids);
                let place = |wanted| under_way.iter().position(|(id, _)| *id == wanted);
                session.replay.sort_by_key(|request| id(request).map(|(kind, id)| (kind, place(id))));
                Some((session, under_way, done))
            }
        }

        impl $library::SessionStore for $name {
            fn load<'a>(&'a self, _: &'a $library::SessionStoreKey) -> Answer<'a, Option<$library::PersistedSession>> {
                Box::pin(async { Ok(lock(&self.0).clone()) })
            }

            fn save<'a>(
                &'a self,
                _: &'a $library::SessionStoreKey,
                session: &'a $library::PersistedSession,
            ) -> Answer<'a, ()> {
                Box::pin(async move {
                    *lock(&self.0) = Some(session.clone());
                    Ok(())
                })
            }

            fn clear<'a>(&'a self, _: &'a $library::SessionStoreKey) -> Answer<'a, ()> {
                Box::pin(async {
                    *lock(&self.0) = None;
                    Ok(())
                })
            }
        }
    };
}

shelf!(ShelfV5, v5);
shelf!(ShelfV4, v4);

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(handed: &[u64], carried: Vec<UnderWay>) -> Tracker {
        Tracker::new(Arc::new(Mutex::new(handed.iter().map(|seq| Some(*seq)).collect())), carried)
    }

    #[test]
    fn packet_ids_that_begin_again_keep_the_order_of_sending() {
        let mut tracker = tracker(&[7, 8, 9], Vec::new());
        [19, 20, 1].into_iter().for_each(|id| tracker.sent(id));
        assert_eq!(tracker.done(20), None, "its notice tells of it");
        assert_eq!(tracker.end(&[1, 19]), (vec![(19, Some(7)), (1, Some(9))], vec![]));
    }

    #[test]
    fn what_was_carried_over_is_known_until_it_is_done() {
        let mut tracker = tracker(&[12], vec![(5, Some(10)), (6, Some(11)), (7, None)]);
        [6, 7].into_iter().for_each(|id| tracker.sent(id));
        assert_eq!(tracker.done(5), Some(10));
        // The same packet id again, for a new entry.
        tracker.sent(5);
        assert_eq!(tracker.end(&[5, 7]), (vec![(7, None), (5, Some(12))], vec![11]));
    }

    #[test]
    fn a_packet_id_of_the_state_topic_is_free_again_when_it_is_done() {
        let mut tracker = tracker(&[3], vec![(7, None)]);
        assert_eq!(tracker.done(7), None);
        tracker.sent(7);
        assert_eq!(tracker.end(&[7]), (vec![(7, Some(3))], vec![]));
    }

    #[test]
    fn what_went_out_last_is_known_though_its_event_was_lost() {
        let mut tracker = tracker(&[1, 2], Vec::new());
        tracker.sent(1);
        assert_eq!(tracker.end(&[1, 2]), (vec![(1, Some(1)), (2, Some(2))], vec![]));
    }
}
