//! The words of the log: what a row need not say itself. A series (topic, format, unit, names) for the gateway's own
//! values, a topic for messages of clients; each has a number that stands beside the row. The dictionary outlives the
//! configuration; only the thread that owns the file writes it, in the transaction of the rows that need the new word.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::gap::Gap;
use super::row;
use super::row::Content;
use super::row::Taken;
use super::row::TopicLies;
use crate::message::Class;
use crate::message::Message;
use crate::payload::Format;
use crate::payload::Series;
use crate::topic::Qos;
use crate::topic::TopicName;

/// In the place of a series: the row is a gap. Below it: somebody else's message, and the number of its topic.
pub(super) const GAP: i64 = 0;
/// Topics of clients in the dictionary; who publishes under ever new ones must not fill memory and disk with them.
const TOPICS_MOST: usize = 4_096;

/// Both ways, for both kinds.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    series_ids: HashMap<Arc<Series>, i64>,
    series: HashMap<i64, Arc<Series>>,
    topic_ids: HashMap<TopicName, i64>,
    topics: HashMap<i64, TopicName>,
}

/// What a transaction has put into the dictionaries: it goes with it when it fails.
#[derive(Debug, Default)]
pub(super) struct Learned {
    series: Vec<(Arc<Series>, i64)>,
    topics: Vec<(TopicName, i64)>,
}

/// The dictionary entry as text; a mirror, so that `Series` needs no serde.
#[derive(Serialize, Deserialize)]
struct Definition {
    format: Format,
    unit: Arc<str>,
    names: BTreeMap<String, String>,
    qos: Qos,
    retain: bool,
    class: Class,
}

impl Dictionary {
    /// What stands in the file.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut dictionary = Self::default();
        let mut statement = db.prepare("SELECT id, topic, definition FROM series")?;
        let mut found = statement.query([])?;
        while let Some(r) = found.next()? {
            let (id, topic, definition): (i64, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
            let (Ok(topic), Ok(d)) = (TopicName::new(topic), serde_json::from_str::<Definition>(&definition)) else {
                continue;
            };
            let Definition { format, unit, names, qos, retain, class } = d;
            let series = Arc::new(Series { topic, format, unit, names, qos, retain, class });
            dictionary.series_ids.insert(Arc::clone(&series), id);
            dictionary.series.insert(id, series);
        }
        let mut statement = db.prepare("SELECT id, name FROM topic")?;
        let mut found = statement.query([])?;
        while let Some(r) = found.next()? {
            let (id, name): (i64, String) = (r.get(0)?, r.get(1)?);
            if let Ok(name) = TopicName::new(name) {
                dictionary.topic_ids.insert(name.clone(), id);
                dictionary.topics.insert(id, name);
            }
        }
        Ok(dictionary)
    }

    /// A row: what stands beside it, and its bytes.
    pub(super) fn encode(
        &mut self,
        db: &Connection,
        (content, taken): (&Content, Taken),
        learned: &mut Learned,
    ) -> rusqlite::Result<(Option<i64>, Vec<u8>)> {
        let message = match content {
            Content::Gap(gap) => return Ok((Some(GAP), gap.encode())),
            Content::Message(message) => message,
        };
        if let Some(own) = &message.own {
            let id = self.series_id(db, &own.series, learned)?;
            return Ok((Some(id), row::encode_own(&own.sample, taken.run)));
        }
        Ok(match self.topic_id(db, message, learned)? {
            Some(id) => (Some(-id), row::encode_foreign(message, taken, TopicLies::Beside)),
            None => (None, row::encode_foreign(message, taken, TopicLies::Within)),
        })
    }

    /// The row back; `None` where it is not readable any more.
    pub(super) fn decode(&self, id: Option<i64>, bytes: &[u8]) -> Option<(Content, Taken)> {
        let decoded = match id {
            Some(GAP) => return Gap::decode(bytes).map(|gap| (Content::Gap(gap), Taken::NEVER)),
            None => row::decode(None, bytes),
            Some(id) if id < GAP => self.topics.get(&-id).and_then(|topic| row::decode_under(topic, bytes)),
            Some(id) => self.series.get(&id).and_then(|series| row::decode(Some(series), bytes)),
        };
        decoded.map(|(message, taken)| (Content::Message(message), taken))
    }

    /// The transaction in which these were learned has failed.
    pub(super) fn unlearn(&mut self, learned: Learned) {
        for (series, id) in learned.series {
            self.series_ids.remove(&series);
            self.series.remove(&id);
        }
        for (topic, id) in learned.topics {
            self.topic_ids.remove(&topic);
            self.topics.remove(&id);
        }
    }

    fn series_id(&mut self, db: &Connection, series: &Arc<Series>, learned: &mut Learned) -> rusqlite::Result<i64> {
        if let Some(id) = self.series_ids.get(series) {
            return Ok(*id);
        }
        let id = define(db, series)?;
        self.series_ids.insert(Arc::clone(series), id);
        self.series.insert(id, Arc::clone(series));
        learned.series.push((Arc::clone(series), id));
        Ok(id)
    }

    fn topic_id(&mut self, db: &Connection, message: &Message, learned: &mut Learned) -> rusqlite::Result<Option<i64>> {
        let known = self.topic_ids.get(&message.topic).copied();
        if known.is_some() || self.topics.len() >= TOPICS_MOST {
            return Ok(known);
        }
        db.execute("INSERT INTO topic (name) VALUES (?1)", [message.topic.as_str()])?;
        let id = db.last_insert_rowid();
        self.topic_ids.insert(message.topic.clone(), id);
        self.topics.insert(id, message.topic.clone());
        learned.topics.push((message.topic.clone(), id));
        Ok(Some(id))
    }
}

fn define(db: &Connection, series: &Series) -> rusqlite::Result<i64> {
    let Series { topic, format, unit, names, qos, retain, class } = series.clone();
    let definition = Definition { format, unit, names, qos, retain, class };
    let text = serde_json::to_string(&definition).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    db.execute("INSERT INTO series (topic, definition) VALUES (?1, ?2)", params![topic.as_str(), text])?;
    Ok(db.last_insert_rowid())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Retain;
    use crate::time::Stamp;

    fn foreign(topic: &str) -> Content {
        let topic = TopicName::new(topic).unwrap();
        Content::Message(Message::plain(topic, Bytes::from_static(b"x"), Qos::AtLeastOnce, Retain::No))
    }

    #[test]
    fn a_client_that_invents_topics_fills_the_rows_and_not_the_dictionary() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE series (id INTEGER PRIMARY KEY, topic TEXT, definition TEXT);
             CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL);",
        )
        .unwrap();
        let (mut dictionary, mut learned) = (Dictionary::default(), Learned::default());
        let taken = Taken { run: 1, stamp: Stamp { mono_us: 2, wall_us: 3 } };
        let mut rows = Vec::new();
        for n in 0..TOPICS_MOST + 10 {
            let content = foreign(&format!("t/{n}"));
            let (id, bytes) = dictionary.encode(&db, (&content, taken), &mut learned).unwrap();
            rows.push((id, bytes, content));
        }
        assert_eq!(dictionary.topics.len(), TOPICS_MOST);
        let again = Dictionary::load(&db).unwrap();
        for (id, bytes, content) in rows {
            assert_eq!(again.decode(id, &bytes), Some((content, taken)));
        }
        // Had the transaction failed, none of it would stand in the file.
        dictionary.unlearn(learned);
        assert!(dictionary.topics.is_empty() && dictionary.topic_ids.is_empty());
    }
}
