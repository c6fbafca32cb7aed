//! What may come of a question instead of its answer, and how soon asking again makes sense.

use std::fmt;
use std::time::Duration;

/// A device that says "busy" (exceptions 5 and 6) gets a moment.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Named by what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The port or connection is down; it is being reopened.
    #[error("line down: {0}")]
    LineDown(String),
    /// The device said nothing in time, tries included.
    #[error("no reply")]
    NoReply,
    /// Something came, but not an answer.
    #[error("garbled reply: {0}")]
    Garbled(Garble),
    /// A Modbus exception; also 2 or 3 for a request over the standard's limits, which is never sent.
    #[error("refused: exception {0}")]
    Refused(u8),
    /// A write whose time had passed when it was its turn: nothing was sent.
    #[error("too late")]
    TooLate,
    /// The task has ended before it was its turn: nothing was sent.
    #[error("the line is being restarted: nothing was sent, try again")]
    NotSent,
    /// The task has ended in the middle of it.
    #[error("the line was stopped in the middle of it")]
    ShutDown,
}

impl BusError {
    /// How long the unit is to be left alone before it is asked the same again; `None` where that does not help. Exceptions
    /// 1 to 3 say the request is wrong and 0x0A that no way leads there; 4, 5, 6 and 0x0B are states that pass (V1.1b3, 7).
    /// After a miss the late answer is awaited; after a wrong checksum the answer has been there.
    pub const fn heals_after(&self, timeout: Duration) -> Option<Duration> {
        match self {
            Self::NoReply | Self::Garbled(Garble::Truncated | Garble::Length | Garble::Function | Garble::Noise) => {
                Some(timeout)
            }
            Self::Garbled(Garble::Crc) => Some(Duration::ZERO),
            Self::Refused(4 | 5 | 6 | 0x0B) => Some(BUSY_PAUSE),
            Self::Refused(_) | Self::LineDown(_) | Self::TooLate | Self::NotSent | Self::ShutDown => None,
        }
    }
}

/// What was wrong with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Garble {
    /// The right looks, but the checksum is wrong.
    Crc,
    /// Began like the answer and ended early.
    Truncated,
    /// A sound frame of the right unit with another length, or for a write another address or value.
    Length,
    /// A sound frame of the right unit with another function.
    Function,
    /// Bytes that fit nothing.
    Noise,
}

impl fmt::Display for Garble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crc => "checksum",
            Self::Truncated => "cut short",
            Self::Length => "wrong length or echo",
            Self::Function => "wrong function",
            Self::Noise => "noise",
        })
    }
}
