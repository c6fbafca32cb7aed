//! The disk in the plainest way: maps that a save changes and a start reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::keep::Batch;
use crate::broker::keep::Row;
use crate::broker::keep::Saved;
use crate::broker::keep::SavedSession;
use crate::broker::packet::Will;
use crate::broker::queue::Entry;
use crate::broker::replay::Cursor;
use crate::broker::session::Restored;
use crate::broker::session::Subscribed;
use crate::broker::stored::Stored;
use crate::topic::TopicName;

#[derive(Default)]
pub(super) struct Disk {
    rows: BTreeMap<u64, Row>,
    entries: BTreeMap<u64, BTreeMap<u64, Entry>>,
    subscriptions: BTreeMap<u64, BTreeMap<Arc<str>, Subscribed>>,
    received: BTreeMap<u64, Vec<u16>>,
    replays: BTreeMap<u64, Vec<Cursor>>,
    wills: BTreeMap<u64, Arc<Will>>,
    retained: BTreeMap<TopicName, Arc<Stored>>,
}

impl Disk {
    pub(super) fn apply(&mut self, batch: Batch) {
        if batch.whole {
            *self = Self::default();
        }
        for number in batch.ended {
            self.rows.remove(&number);
            self.entries.remove(&number);
            self.subscriptions.remove(&number);
            self.received.remove(&number);
            self.replays.remove(&number);
            self.wills.remove(&number);
        }
        for session in batch.sessions {
            let (number, changes) = (session.number, session.changes);
            self.rows.extend(session.row.map(|row| (number, row)));
            let entries = self.entries.entry(number).or_default();
            entries.retain(|seq, _| !changes.gone.contains(seq));
            entries.extend(changes.put.into_iter().map(|entry| (entry.seq, entry)));
            self.received.extend(changes.received.map(|ids| (number, ids)));
            self.replays.extend(changes.replays.map(|cursors| (number, cursors)));
            let subscriptions = self.subscriptions.entry(number).or_default();
            for (text, subscribed) in changes.subscriptions {
                match subscribed {
                    Some(subscribed) => drop(subscriptions.insert(text, subscribed)),
                    None => drop(subscriptions.remove(&text)),
                }
            }
        }
        for (number, will) in batch.wills {
            match will {
                Some(will) => drop(self.wills.insert(number, will)),
                None => drop(self.wills.remove(&number)),
            }
        }
        for (topic, stored) in batch.retained {
            match stored {
                Some(stored) => drop(self.retained.insert(topic, stored)),
                None => drop(self.retained.remove(&topic)),
            }
        }
    }

    pub(super) fn saved(&self) -> Saved {
        let mut wills: BTreeMap<u64, Will> = self.wills.iter().map(|(n, will)| (*n, Will::clone(will))).collect();
        let mut session = |(number, row): (&u64, &Row)| SavedSession {
            number: *number,
            row: row.clone(),
            restored: Restored {
                entries: self.entries.get(number).into_iter().flat_map(|all| all.values().cloned()).collect(),
                subscriptions: self.subscriptions.get(number).cloned().unwrap_or_default().into_iter().collect(),
                received: self.received.get(number).cloned().unwrap_or_default(),
                replays: self.replays.get(number).cloned().unwrap_or_default(),
            },
            will: wills.remove(number),
        };
        let sessions = self.rows.iter().map(&mut session).collect();
        Saved { sessions, orphans: wills.into_iter().collect(), retained: self.retained.values().cloned().collect() }
    }
}
