//! A message inside the broker, with the moment it came in, so that its expiry can be counted down.
//! One allocation a message, shared by all queues that hold it.

use std::time::Duration;
use std::time::Instant;

use crate::message::Message;

/// A message and when it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As published.
    pub message: Message,
    /// When it arrived here.
    pub born: Instant,
}

/// What is left of a message's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It has no expiry.
    Unlimited,
    /// This many seconds.
    Seconds(u32),
    /// Nothing: not to be delivered any more (MQTT-3.3.2-5).
    Expired,
}

impl Stored {
    /// What is left of its life.
    pub fn life(&self, now: Instant) -> Life {
        let Some(expiry) = self.message.properties.as_ref().and_then(|p| p.expiry) else { return Life::Unlimited };
        let waited = now.saturating_duration_since(self.born);
        if waited >= Duration::from_secs(u64::from(expiry)) {
            return Life::Expired;
        }
        let waited = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
        Life::Seconds(expiry.saturating_sub(waited))
    }

    /// About what it costs to keep, in bytes.
    pub fn size(&self) -> usize {
        let user = |p: &crate::message::Properties| p.user.iter().map(|(k, v)| k.len() + v.len() + 32).sum::<usize>();
        let properties = self.message.properties.as_ref().map_or(0, |p| {
            let texts =
                p.content_type.as_ref().map_or(0, |t| t.len()) + p.response_topic.as_ref().map_or(0, |t| t.len());
            128 + texts + p.correlation.as_ref().map_or(0, bytes::Bytes::len) + user(p)
        });
        self.message.payload.len() + self.message.topic.as_str().len() + properties + 160
    }
}
