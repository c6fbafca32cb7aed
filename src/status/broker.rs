//! Of the embedded broker and its clients.

use serde::{Deserialize, Serialize};

use crate::status::Rates;

/// The embedded broker, written by its owner about once a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct BrokerStatus {
    /// Addresses really bound.
    pub listeners: Vec<String>,
    /// Clients connected now.
    pub clients: Vec<ClientStatus>,
    /// Sessions kept for clients that are away.
    pub sessions_away: usize,
    /// Retained messages.
    pub retained: usize,
    /// Subscriptions of all sessions.
    pub subscriptions: usize,
    /// PUBLISH packets taken in, the gateway's own included.
    pub messages_in: u64,
    /// PUBLISH packets given out.
    pub messages_out: u64,
    /// Dropped for slow or absent clients.
    pub dropped: u64,
    /// Why sessions and retained messages cannot be written right now, in words; they are kept in memory meanwhile.
    #[serde(default)]
    pub error: Option<String>,
}

/// One connected client.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ClientStatus {
    /// Client id.
    pub id: String,
    /// Remote address.
    pub address: String,
    /// `3.1`, `3.1.1` or `5`.
    pub version: String,
    /// User name, where it gave one.
    pub user: Option<String>,
    /// Keep-alive in seconds.
    pub keep_alive_s: u16,
    /// It wished for a new session.
    #[serde(default)]
    pub clean_start: bool,
    /// Seconds its session is kept after it has gone; 0: not at all, 4294967295: for ever.
    #[serde(default)]
    pub session_expiry_s: u32,
    /// Seconds since it connected.
    #[serde(default)]
    pub connected_s: u64,
    /// What passes.
    #[serde(default)]
    pub rates: Rates,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Messages waiting.
    pub queued: usize,
    /// Sent, not acknowledged.
    pub in_flight: usize,
}
