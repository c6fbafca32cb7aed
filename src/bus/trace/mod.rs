//! What passes on a line, for people and for Wireshark. The engine tells only what it writes, reads and decides
//! ([`Tap`]); a ring remembers it; and whoever looks makes packets ([`Wire`]), text ([`View`]) and captures ([`Pcap`])
//! of it elsewhere, so that a line pays for looking almost nothing.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::config::plant::Port;
use crate::time::Stamp;

mod pcap;
mod ring;
mod tap;
mod view;
mod wire;
mod words;

pub use crate::bus::trace::pcap::Pcap;
pub(super) use crate::bus::trace::tap::Tap;
pub use crate::bus::trace::tap::Trace;
pub use crate::bus::trace::view::Shown;
pub use crate::bus::trace::view::View;
pub use crate::bus::trace::wire::Kind;
pub use crate::bus::trace::wire::Packet;
pub use crate::bus::trace::wire::Wire;
pub use crate::bus::trace::words::exception;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Questions and answers in words.
    Message,
    /// Whole frames as bytes.
    Frame,
    /// What was written and read, in the pieces in which it came.
    Bytes,
}

/// How frames are told apart on this line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Unit, PDU, CRC: a serial line, or such frames through TCP.
    Rtu,
    /// Modbus TCP: the MBAP header with its transaction number, then the PDU.
    Tcp,
}

impl Framing {
    /// Of whatever is behind this port.
    pub const fn of(port: &Port) -> Self {
        match port {
            Port::Tcp(_) => Self::Tcp,
            Port::Serial(_) | Port::RtuOverTcp(_) => Self::Rtu,
        }
    }
}

/// Something happened on the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: for bytes read, when the last of the piece was here; for bytes written, before the first.
    pub at: Stamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A question was written: one whole frame.
    Sent(#[serde(with = "hex")] Vec<u8>),
    /// Bytes came, sound or not.
    Heard(#[serde(with = "hex")] Vec<u8>),
    /// Bytes were found on the line before a question and put aside.
    Aside(#[serde(with = "hex")] Vec<u8>),
    /// The last sound frame of this shape is the answer.
    Answered {
        /// Who answered.
        unit: u8,
        /// Length of its PDU.
        length: u16,
        /// From the end of the question to the beginning of the answer; on TCP from the one to the other.
        turnaround_us: u32,
    },
    /// There is no answer.
    Missed {
        /// Who was asked.
        unit: u8,
        /// In words.
        why: String,
    },
}

/// What a look at a line gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// Something happened.
    Event(Event),
    /// So many events were lost because the reader was too slow.
    Lost {
        /// How many.
        lost: u64,
    },
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Frame => "frame",
            Self::Bytes => "bytes",
        })
    }
}

/// `01 03 00 0A`, as people write bytes.
fn spaced(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(" ")
}

/// Bytes as one string of digits: half the length of a JSON list, and any tool can read it.
mod hex {
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::spaced(bytes).replace(' ', ""))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let byte = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        bytes.ok_or_else(|| D::Error::custom(format!("`{text}` is not a row of bytes in hexadecimal")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_survives_the_socket() {
        let at = Stamp { mono_us: 1, wall_us: 1_795_222_923_456_789 };
        let all = [
            What::Sent(vec![1, 3, 0, 10, 0, 2, 0xE4, 9]),
            What::Heard(Vec::new()),
            What::Answered { unit: 1, length: 6, turnaround_us: 4200 },
            What::Missed { unit: 9, why: "no reply".into() },
        ];
        for what in all {
            let item = Item::Event(Event { at, what });
            let text = serde_json::to_string(&item).unwrap();
            assert_eq!(serde_json::from_str::<Item>(&text).unwrap(), item, "{text}");
        }
        assert_eq!(serde_json::from_str::<Item>(r#"{"lost":3}"#).unwrap(), Item::Lost { lost: 3 });
        assert!(serde_json::from_str::<Item>(r#"{"at":{"mono_us":1,"wall_us":2},"sent":"0G"}"#).is_err());
        assert!(serde_json::from_str::<Item>(r#"{"dance":3}"#).is_err());
    }
}
