//! What bytes travel on: a serial port, a TCP connection, or memory in tests. An end of file is an error here, because a
//! line has no end: after an unplug a port would give it for ever, a million times a second.

use std::io;

use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::bus::line::Serial;

/// An open line.
#[derive(Debug)]
pub(super) enum Link {
    Serial(Serial),
    Tcp(TcpStream),
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side")
}

impl Link {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Serial(port) => port.write(bytes).await,
            Self::Tcp(stream) => stream.write_all(bytes).await,
            #[cfg(test)]
            Self::Memory(stream) => stream.write_all(bytes).await,
        }
    }

    /// At least one byte.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self {
            Self::Serial(port) => port.read(buffer).await,
            Self::Tcp(stream) => stream.read(buffer).await,
            #[cfg(test)]
            Self::Memory(stream) => stream.read(buffer).await,
        }?;
        if n == 0 { Err(gone()) } else { Ok(n) }
    }

    /// What is there now, possibly nothing.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = match self {
            Self::Serial(port) => port.read_now(buffer)?,
            Self::Tcp(stream) => stream.read(buffer).now_or_never().transpose()?,
            #[cfg(test)]
            Self::Memory(stream) => stream.read(buffer).now_or_never().transpose()?,
        };
        match ready {
            Some(0) => Err(gone()),
            n => Ok(n.unwrap_or(0)),
        }
    }
}
