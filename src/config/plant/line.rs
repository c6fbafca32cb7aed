//! A line of the plant: an RS485 trunk or a TCP endpoint, and how its characters pass.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::point::LineId;

/// One trunk or endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its index.
    pub id: LineId,
    /// Its key in `lines`.
    pub name: Arc<str>,
    /// How it is reached.
    pub port: Port,
    /// Longest wait for the first byte of a reply.
    pub timeout: Duration,
    /// Shortest wait for it, however quick a device has been so far; at most `timeout`.
    pub min_timeout: Duration,
    /// More tries after a miss.
    pub retries: u8,
    /// Silence between frames; `None`: 3.5 characters, at least 1.75 ms above 19200 baud. Serial lines only.
    pub gap: Option<Duration>,
    /// Raw requests by MQTT are taken.
    pub raw_access: bool,
}

/// How a line is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Port {
    /// A serial port.
    Serial(SerialPort),
    /// Modbus TCP (MBAP), `host:port`.
    Tcp(String),
    /// RTU frames through a TCP socket, `host:port`.
    RtuOverTcp(String),
}

/// A serial port and how characters travel on it.
#[derive(Debug, Clone, PartialEq)]
pub struct SerialPort {
    /// Device file, opened by this path each time.
    pub path: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// Data bits, parity, stop bits.
    pub format: CharFormat,
    /// Kernel RS485 mode, where wanted.
    pub rs485: Option<Rs485>,
    /// The adapter hears what it sends; the echo is taken off.
    pub echo: bool,
}

/// `8E1` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CharFormat {
    /// 7 or 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl CharFormat {
    /// Bits on the wire for one character, start bit included: 10 for 8N1, 11 for 8E1.
    pub const fn bits(self) -> u8 {
        let parity = if matches!(self.parity, Parity::None) { 0 } else { 1 };
        1 + self.data_bits + parity + self.stop_bits
    }
}

impl fmt::Display for CharFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{}{parity}{}", self.data_bits, self.stop_bits)
    }
}

/// Parity of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// N
    None,
    /// E, the Modbus default
    Even,
    /// O
    Odd,
}

/// Kernel RS485 mode (TIOCSRS485).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rs485 {
    /// Between raising RTS and the first bit.
    pub delay_before_send: Duration,
    /// Between the last bit and dropping RTS.
    pub delay_after_send: Duration,
}
