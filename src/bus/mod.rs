//! Stand-in with the shape of the line's handle, until the room of the bus is merged.

#[cfg(test)]
pub(crate) mod fake;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::point::{AddressRange, Table, UnitId};
use crate::status::WireCounts;

/// A read of one block of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// Whom to ask.
    pub unit: UnitId,
    /// Which table.
    pub table: Table,
    /// Which addresses.
    pub range: AddressRange,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it carried.
    pub data: Data,
    /// When it was here.
    pub arrived: Instant,
    /// How long the device thought.
    pub turnaround: Duration,
}

/// What a reply carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Words.
    Registers(Vec<u16>),
    /// Bits.
    Bits(Vec<bool>),
    /// Confirmed.
    Written,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusError {
    /// The port is down.
    LineDown(String),
    /// Silence.
    NoReply,
    /// No answer.
    Garbled(Garble),
    /// An exception.
    Refused(u8),
    /// The task has ended.
    ShutDown,
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Garble {
    /// Checksum.
    Crc,
}

/// What is true of the line now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusStatus {
    /// Open.
    pub up: bool,
    /// Why not.
    pub error: Option<String>,
    /// Counters.
    pub wire: WireCounts,
    /// Wire time used.
    pub busy: Duration,
}

type Job = (ReadRequest, oneshot::Sender<Result<Reply, BusError>>);

/// The handle.
#[derive(Debug, Clone)]
pub struct Bus {
    reads: mpsc::Sender<Job>,
    status: watch::Receiver<BusStatus>,
}

impl Bus {
    /// Asks.
    pub async fn read(&self, request: ReadRequest) -> Result<Reply, BusError> {
        let (done, answer) = oneshot::channel();
        self.reads.send((request, done)).await.map_err(|_| BusError::ShutDown)?;
        answer.await.unwrap_or(Err(BusError::ShutDown))
    }

    /// State.
    pub fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.clone()
    }
}
