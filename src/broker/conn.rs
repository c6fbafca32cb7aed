//! One connection as the core sees it: what it agreed on at CONNECT, what waits to be written, its topic aliases. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::access::Grant;
use super::admission::Guest;
use super::packet::Fault;
use super::packet::Publish;
use super::packet::Version;
use super::packet::encode;
use super::packet::encode::Alias;
use super::packet::encode::Outbox;
use super::queue::Item;
use super::stored::Life;
use super::traffic::Traffic;
use crate::message::Origin;
use crate::topic::TopicName;

/// Topic aliases taken from a client and, at most, used towards one.
pub const MAX_ALIASES: u16 = 16;
/// Bytes written ahead for one connection. Full: QoS 0 is dropped, the rest waits in the session.
pub const WRITE_AHEAD: usize = 128 * 1024;
/// The same for a burst of this process's own values, as long as all connections together have less than [`BURSTS`] unwritten:
/// a site of 5,000 points that is polled all at once, and a client that just now is not looking.
pub const BURST_AHEAD: usize = STALL;
/// Bytes unwritten to all clients together, beyond which bursts get no more room than anything else.
pub const BURSTS: usize = 2 * 1024 * 1024;
/// With so much unwritten its own packets are not read any more: answers to them are bytes too.
pub const STALL: usize = 4 * WRITE_AHEAD;

/// A connection after its CONNECT was accepted.
#[derive(Debug)]
pub struct Conn {
    /// The session it serves; `None` once it was taken over or closed.
    pub session: Option<usize>,
    /// Client id.
    pub client_id: Arc<str>,
    /// Who it is, and what holds for it.
    pub guest: Guest,
    /// Who sends what comes from it, as its messages carry it.
    pub origin: Arc<Origin>,
    /// What it may do.
    pub grant: Grant,
    /// What it speaks.
    pub version: Version,
    /// In force, in seconds; 0 is off.
    pub keep_alive: u16,
    /// When its last packet came.
    pub heard: Instant,
    /// Whether reason strings are welcome.
    pub problem_information: bool,
    /// Session expiry as it stands.
    pub session_expiry: u32,
    /// Bytes to write; it knows the largest packet the client takes.
    pub outbox: Outbox,
    /// Bytes taken from the outbox and not written yet.
    pub writing: usize,
    /// To be closed when the outbox is written.
    pub closing: bool,
    /// Topics behind the client's aliases.
    pub aliases_in: Vec<Option<TopicName>>,
    /// Aliases used towards the client.
    pub aliases_out: HashMap<TopicName, u16>,
    /// How many it takes.
    pub alias_maximum: u16,
    /// It wished to begin anew.
    pub clean_start: bool,
    /// What passes.
    pub traffic: Traffic,
}

impl Conn {
    /// Bytes that are not written yet.
    pub const fn unwritten(&self) -> usize {
        self.outbox.len() + self.writing
    }

    /// Whether more may be written ahead.
    pub const fn has_room(&self) -> bool {
        self.unwritten() < WRITE_AHEAD
    }

    /// Whether its keep-alive has run out: one and a half times the period (3.1.2.10).
    pub fn is_silent(&self, now: Instant) -> bool {
        let limit = Duration::from_millis(u64::from(self.keep_alive) * 1500);
        self.keep_alive > 0 && now.saturating_duration_since(self.heard) > limit
    }

    /// The topic of a PUBLISH, by name or by alias; a name with an alias teaches it.
    pub fn topic_of(&mut self, publish: &Publish) -> Result<TopicName, Fault> {
        const UNKNOWN: Fault =
            Fault { code: super::packet::Code::ALIAS_INVALID, why: "topic alias that was never set or is too high" };
        let Some(alias) = publish.alias else {
            return publish.topic.clone().ok_or(Fault::protocol("neither topic nor alias"));
        };
        if alias > MAX_ALIASES {
            return Err(UNKNOWN);
        }
        let slot = usize::from(alias) - 1;
        match &publish.topic {
            Some(topic) => {
                if self.aliases_in.len() <= slot {
                    self.aliases_in.resize(slot + 1, None);
                }
                self.aliases_in[slot] = Some(topic.clone());
                Ok(topic.clone())
            }
            None => self.aliases_in.get(slot).cloned().flatten().ok_or(Fault::protocol("topic alias never set")),
        }
    }

    /// Writes a PUBLISH. False when the client does not take packets so large: it was not written.
    pub fn publish(&mut self, now: Instant, item: &Item, id: Option<u16>, dup: bool) -> bool {
        let expiry = match item.stored.life(now) {
            Life::Unlimited => None,
            Life::Seconds(left) => Some(left),
            // Only one that was sent before gets here expired; the client may still finish it.
            Life::Expired => Some(0),
        };
        let message = &item.stored.message;
        let alias = self.alias(&message.topic);
        let delivery = encode::Delivery {
            message,
            id,
            qos: item.qos,
            dup,
            retain: item.retain,
            identifiers: &item.identifiers,
            expiry,
            alias,
        };
        let written = encode::publish(&mut self.outbox, self.version, &delivery).is_some();
        if let (true, Alias::New(n)) = (written, alias) {
            self.aliases_out.insert(message.topic.clone(), n);
        }
        if written {
            self.traffic.delivered();
        }
        written
    }

    /// The first topics get the aliases there are; more would need a guess at what comes often.
    fn alias(&self, topic: &TopicName) -> Alias {
        if self.alias_maximum == 0 {
            return Alias::None;
        }
        if let Some(n) = self.aliases_out.get(topic) {
            return Alias::Known(*n);
        }
        let used = self.aliases_out.len() as u16;
        if used < self.alias_maximum { Alias::New(used + 1) } else { Alias::None }
    }
}
