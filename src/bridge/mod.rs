//! One task an upstream: takes the log's entries in order, hands a window of them to the link, and acknowledges to
//! the spool what the peer has acknowledged. The MQTT client is a wire: on any fault sending begins again at the
//! first entry that is not acknowledged. Deciding which topic goes where is `mapping`; the client library is named in
//! `link` alone.

mod estimate;
mod gate;
mod link;
pub mod mapping;
mod patience;
mod retry;
mod session;
mod task;
#[cfg(test)]
mod tests;

pub use self::task::BridgeTask;
pub use self::task::new;
