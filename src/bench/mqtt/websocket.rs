//! A WebSocket's client side in blocking reads and writes, as far as MQTT needs it: one handshake, binary messages. By hand, so
//! that the library under test is not at both ends.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

/// The handshake of a client that is no browser.
pub const HANDSHAKE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A connection after the handshake.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    /// Of the message that is being read.
    left: u64,
}

impl WebSocket {
    /// Does the handshake.
    pub fn over(mut stream: TcpStream) -> io::Result<Self> {
        stream.write_all(HANDSHAKE)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        if answer.starts_with(b"HTTP/1.1 101") {
            return Ok(Self { stream, left: 0 });
        }
        Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
    }
}

/// Bytes as one binary message of a client; the mask that a client must use is zero, which is allowed.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0x82];
    match bytes.len() {
        n @ 0..126 => framed.push(0x80 | n as u8),
        n @ 126..65_536 => {
            framed.push(0x80 | 126);
            framed.extend((n as u16).to_be_bytes());
        }
        n => {
            framed.push(0x80 | 127);
            framed.extend((n as u64).to_be_bytes());
        }
    }
    framed.extend([0; 4]);
    framed.extend_from_slice(bytes);
    framed
}

impl Read for WebSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            self.left = u64::from(head[1]);
            if head[0] != 0x82 {
                return Err(io::Error::other(format!("not a binary message: {:#x}", head[0])));
            }
            if head[1] == 126 {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                self.left = u64::from(u16::from_be_bytes(length));
            } else if head[1] == 127 {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                self.left = u64::from_be_bytes(length);
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.stream.read(&mut into[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Write for WebSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_all(&message(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
