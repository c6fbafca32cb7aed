//! What can be seen of the broker on demand: its clients, one client closely, and the last value of topics. Made when somebody
//! asks, bounded by what was asked for; nothing is copied and kept for it.

use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use super::conn::Conn;
use super::core::Core;
use super::seat::Seat;
use super::stored::Life;
use super::stored::Stored;
use crate::status::ClientStatus;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Subscriptions named of one client; how many more there are is said.
const SUBSCRIPTIONS: usize = 1000;
/// Topics told at once; the next page begins behind the last one.
pub const MAX_TOPICS: usize = 500;
/// Bytes shown of one payload: a page of them stays far below the longest reply.
const PAYLOAD: usize = 4096;

/// Everybody the broker knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Clients {
    /// Connected now, by id.
    pub connected: Vec<ClientStatus>,
    /// Sessions kept for those who are away, by id.
    pub away: Vec<Away>,
}

/// A client that is away and whose session is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// Client id.
    pub id: String,
    /// User name it came with.
    pub user: Option<String>,
    /// Seconds since it went, or since the start of the gateway.
    pub away_s: u64,
    /// Seconds the session is kept from then; 4294967295: for ever.
    pub session_expiry_s: u32,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Messages waiting, those included that were sent and not acknowledged.
    pub queued: usize,
    /// Bytes of them.
    pub queued_bytes: usize,
}

/// One client closely; one of `connected` and `away` is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Portrait {
    /// As it is connected.
    pub connected: Option<ClientStatus>,
    /// As it is away.
    pub away: Option<Away>,
    /// Bytes that wait or are in flight.
    pub queued_bytes: usize,
    /// Topic of its last will.
    pub will: Option<String>,
    /// What it subscribed to, by filter.
    pub subscriptions: Vec<Subscribed>,
    /// Further subscriptions that are not named.
    pub left_out: usize,
}

/// A subscription of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// As written, `$share/…` included.
    pub filter: String,
    /// Most QoS of a delivery.
    pub qos: u8,
    /// Its own messages do not come back.
    pub no_local: bool,
    /// Subscription identifier.
    pub identifier: Option<u32>,
}

/// Topics with their last value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topics {
    /// In the order of the tree.
    pub topics: Vec<Topic>,
    /// There are more behind the last one.
    pub more: bool,
}

/// The last value of one topic: the retained message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub topic: String,
    /// The payload, where it is text.
    pub payload: Option<String>,
    /// The payload in hexadecimal, where it is not.
    pub payload_hex: Option<String>,
    /// Bytes of the whole payload; only the first 4096 are shown.
    pub bytes: usize,
    /// As published.
    pub qos: u8,
    /// Seconds since it came, or since the start of the gateway.
    pub age_s: u64,
    /// Seconds until it is forgotten, where it said so.
    pub expires_s: Option<u32>,
}

impl Core {
    /// Everybody, without their subscriptions.
    pub fn clients(&self, now: Instant) -> Clients {
        let mut connected: Vec<_> = self.conns.iter().filter_map(|(_, conn)| self.client(conn)).collect();
        let mut away: Vec<_> =
            self.seats.iter().filter(|(_, s)| s.conn.is_none()).map(|(_, seat)| absent(seat, now)).collect();
        connected.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        away.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Clients { connected, away }
    }

    /// One connection; `None` while it is being closed.
    pub(super) fn client(&self, conn: &Conn) -> Option<ClientStatus> {
        let seat = self.seats.get(conn.session?)?;
        Some(ClientStatus {
            id: conn.client_id.to_string(),
            address: conn.guest.peer.to_string(),
            version: conn.version.name().to_owned(),
            user: conn.guest.user.as_deref().map(str::to_owned),
            keep_alive_s: conn.keep_alive,
            clean_start: conn.clean_start,
            session_expiry_s: conn.session_expiry,
            connected_s: conn.traffic.age().as_secs(),
            rates: conn.traffic.rates(),
            subscriptions: seat.session.subscriptions().len(),
            queued: seat.session.waiting(),
            in_flight: seat.session.in_flight(),
        })
    }

    /// One client by its id.
    pub fn portrait(&self, now: Instant, id: &str) -> Option<Portrait> {
        let seat = self.by_id.get(id).and_then(|key| self.seats.get(*key))?;
        let conn = seat.conn.and_then(|key| self.conns.get(key));
        let all = seat.session.subscriptions();
        let mut subscriptions: Vec<_> = all
            .iter()
            .map(|(text, subscribed)| Subscribed {
                filter: text.to_string(),
                qos: u8::from(subscribed.options.qos),
                no_local: subscribed.options.no_local,
                identifier: subscribed.identifier,
            })
            .collect();
        subscriptions.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
        subscriptions.truncate(SUBSCRIPTIONS);
        Some(Portrait {
            connected: conn.and_then(|conn| self.client(conn)),
            away: conn.is_none().then(|| absent(seat, now)),
            queued_bytes: seat.session.bytes(),
            will: seat.will.topic().map(ToString::to_string),
            left_out: all.len() - subscriptions.len(),
            subscriptions,
        })
    }

    /// Ids of all clients, connected or away.
    pub fn client_ids(&self) -> Vec<String> {
        self.by_id.keys().map(ToString::to_string).collect()
    }

    /// At most `limit` topics that match, with their last value, beginning behind `after`.
    pub fn topics(&self, now: Instant, filter: &TopicFilter, after: Option<&TopicName>, limit: usize) -> Topics {
        let limit = limit.clamp(1, MAX_TOPICS);
        let mut found = self.retained.matching(filter, after, limit + 1, now);
        let more = found.len() > limit;
        found.truncate(limit);
        Topics { topics: found.iter().map(|stored| topic(stored, now)).collect(), more }
    }
}

fn absent(seat: &Seat, now: Instant) -> Away {
    Away {
        id: seat.client_id.to_string(),
        user: seat.user.as_deref().map(str::to_owned),
        away_s: now.saturating_duration_since(seat.left).as_secs(),
        session_expiry_s: seat.expiry,
        subscriptions: seat.session.subscriptions().len(),
        queued: seat.session.waiting() + seat.session.in_flight(),
        queued_bytes: seat.session.bytes(),
    }
}

fn topic(stored: &Stored, now: Instant) -> Topic {
    let message = &stored.message;
    let shown = &message.payload[..message.payload.len().min(PAYLOAD)];
    let text = text_of(shown, message.payload.len() > PAYLOAD);
    Topic {
        topic: message.topic.to_string(),
        payload_hex: text.is_none().then(|| shown.iter().map(|byte| format!("{byte:02x}")).collect()),
        payload: text,
        bytes: message.payload.len(),
        qos: u8::from(message.qos),
        age_s: now.saturating_duration_since(stored.born).as_secs(),
        expires_s: match stored.life(now) {
            Life::Seconds(left) => Some(left),
            Life::Unlimited | Life::Expired => None,
        },
    }
}

/// Text without control characters but line ends and tabs; a character that the cut has halved is left away.
fn text_of(bytes: &[u8], cut: bool) -> Option<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().all(plain).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;
    use bytes::BytesMut;

    use crate::broker::access::Access;
    use crate::broker::admission::Guest;
    use crate::broker::packet::Packet;
    use crate::broker::packet::decode::Decoder;
    use crate::config::plant::Anonymous;
    use crate::config::plant::Limits;
    use crate::message::Message;
    use crate::message::Retain;
    use crate::topic::Qos;

    fn core(now: Instant) -> Core {
        Core::new(Limits::default(), Access::new(Anonymous::Always, Vec::new(), Vec::new()), now)
    }

    fn keep(core: &mut Core, now: Instant, topic: &str, payload: &[u8]) {
        let topic = TopicName::new(topic).unwrap();
        let message = Message::plain(topic, Bytes::copy_from_slice(payload), Qos::AtLeastOnce, Retain::Yes);
        core.publish_local(now, "", [message]);
    }

    fn page(core: &Core, now: Instant, filter: &str, after: Option<&str>, limit: usize) -> Topics {
        let after = after.map(|text| TopicName::new(text).unwrap());
        core.topics(now, &TopicFilter::new(filter).unwrap(), after.as_ref(), limit)
    }

    #[test]
    fn the_tree_is_told_page_by_page_with_the_last_values() {
        let now = Instant::now();
        let mut core = core(now);
        for n in 0..7 {
            keep(&mut core, now, &format!("plant/m{n}/v"), n.to_string().as_bytes());
        }
        keep(&mut core, now, "plant/m3/v", b"33");
        keep(&mut core, now, "else", b"x");
        let later = now + std::time::Duration::from_secs(5);
        let first = page(&core, later, "plant/#", None, 4);
        assert!(first.more && first.topics.len() == 4);
        assert_eq!((first.topics[3].topic.as_str(), first.topics[3].payload.as_deref()), ("plant/m3/v", Some("33")));
        assert_eq!((first.topics[3].age_s, first.topics[3].qos, first.topics[3].bytes), (5, 1, 2));
        let rest = page(&core, now, "plant/#", Some("plant/m3/v"), 4);
        assert!(!rest.more);
        assert_eq!(
            rest.topics.iter().map(|t| &*t.topic).collect::<Vec<_>>(),
            ["plant/m4/v", "plant/m5/v", "plant/m6/v"]
        );
        assert_eq!(page(&core, now, "#", None, usize::MAX).topics.len(), 8);
    }

    #[test]
    fn what_is_no_text_is_told_in_hexadecimal_and_what_is_long_is_cut() {
        let now = Instant::now();
        let mut core = core(now);
        keep(&mut core, now, "bytes", b"\xff\x00\x01");
        keep(&mut core, now, "escape", b"\x1b[2J");
        keep(&mut core, now, "long", &"ä".repeat(3000).into_bytes()[1..]);
        keep(&mut core, now, "text", [&b"x"[..], &"ä".repeat(3000).into_bytes()].concat().as_slice());
        let topics = page(&core, now, "#", None, 10).topics;
        assert_eq!((topics[0].payload.clone(), topics[0].payload_hex.as_deref()), (None, Some("ff0001")));
        assert_eq!(topics[1].payload_hex.as_deref(), Some("1b5b324a"));
        assert_eq!(topics[2].payload_hex.as_ref().map(String::len), Some(2 * PAYLOAD));
        assert_eq!((topics[3].bytes, topics[3].payload.as_ref().map(|t| t.chars().count())), (6001, Some(2048)));
    }

    #[test]
    fn a_client_is_seen_closely_while_it_is_there_and_when_it_has_gone() {
        let now = Instant::now();
        let mut core = core(now);
        let hello = b"\x10\x13\0\x04MQTT\x05\0\0\x1E\x05\x11\0\0\x0E\x10\0\x01c";
        let mut decoder = Decoder::new(4096);
        let mut bytes =
            BytesMut::from(&[&hello[..], b"\x82\x07\0\x01\0\0\x01b\x05\x82\x07\0\x02\0\0\x01a\x01"].concat()[..]);
        let Some(Packet::Connect(connect)) = decoder.next(&mut bytes).unwrap() else { panic!() };
        let guest = Guest { user: Some("u".into()), ..Guest::nobody(([127, 0, 0, 1], 99).into(), Limits::default()) };
        let key = core.connect(now, *connect, guest).unwrap();
        while let Some(packet) = decoder.next(&mut bytes).unwrap() {
            core.packet(now, key, packet);
        }
        let portrait = core.portrait(now, "c").unwrap();
        let client = portrait.connected.clone().unwrap();
        assert_eq!((client.id.as_str(), client.address.as_str(), client.version.as_str()), ("c", "127.0.0.1:99", "5"));
        assert_eq!((client.keep_alive_s, client.session_expiry_s, client.clean_start), (30, 3600, false));
        let filters: Vec<_> = portrait.subscriptions.iter().map(|s| (&*s.filter, s.qos, s.no_local)).collect();
        assert_eq!(filters, [("a", 1, false), ("b", 1, true)]);
        assert_eq!(core.clients(now).connected, [client]);
        core.gone(now, key);
        keep(&mut core, now, "a", b"waits");
        let later = now + std::time::Duration::from_secs(60);
        let away = core.portrait(later, "c").unwrap().away.unwrap();
        assert_eq!((away.away_s, away.session_expiry_s, away.queued, away.subscriptions), (60, 3600, 1, 2));
        assert!(away.queued_bytes > 5 && away.user.as_deref() == Some("u"));
        assert_eq!(core.clients(later), Clients { connected: Vec::new(), away: vec![away] });
        assert_eq!((core.portrait(now, "nobody"), core.client_ids()), (None, vec!["c".to_owned()]));
    }
}
