//! One client's end of a connection: plain TCP, or a WebSocket spoken by hand, so that frames can be cut as a case wants.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the broker may take to answer or to close.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BINARY: u8 = 2;
pub(crate) const TEXT: u8 = 1;
const CLOSE: u8 = 8;

pub(crate) struct Peer {
    stream: TcpStream,
    /// Of a WebSocket: bytes of binary messages that are not read yet.
    socket: Option<Vec<u8>>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { stream, socket: None })
    }

    /// The handshake, which offers these subprotocols; the one that was chosen, or the status line.
    pub(crate) async fn upgrade(&mut self, offered: &str) -> Result<String, String> {
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: box\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            let read = timeout(PATIENCE, self.stream.read_u8()).await.map_err(|_| "no answer")?;
            answer.push(char::from(read.map_err(|_| "closed instead")?));
        }
        let mut lines = answer.lines();
        let status = lines.next().unwrap_or_default();
        if !status.contains(" 101 ") {
            return Err(status.to_owned());
        }
        self.socket = Some(Vec::new());
        let chosen = lines
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
        Ok(chosen.map_or(String::new(), |(_, value)| value.to_owned()))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.socket {
            Some(_) => self.frame(BINARY, bytes).await,
            None => self.stream.write_all(bytes).await.map_err(|e| e.to_string()),
        }
    }

    /// One WebSocket frame of a message of its own; clients mask, and zeros are a mask as good as any.
    pub(crate) async fn frame(&mut self, kind: u8, bytes: &[u8]) -> Result<(), String> {
        let mut frame = vec![0x80 | kind];
        match bytes.len() {
            n @ 0..=125 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(n).map_err(|e| e.to_string())?.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(bytes);
        self.stream.write_all(&frame).await.map_err(|e| e.to_string())
    }

    /// The next whole packet; `None` when the broker closes.
    pub(crate) async fn packet(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, self.read_packet()).await.expect("the broker answers or closes")
    }

    async fn read_packet(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.take(1).await?;
        let mut length = 0;
        for n in 0.. {
            let byte = self.take(1).await?[0];
            bytes.push(byte);
            length |= usize::from(byte & 0x7F) << (7 * n);
            if byte & 0x80 == 0 {
                break;
            }
        }
        bytes.extend(self.take(length).await?);
        Some(bytes)
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let Some(unread) = &mut self.socket else {
            let mut bytes = vec![0; count];
            self.stream.read_exact(&mut bytes).await.ok()?;
            return Some(bytes);
        };
        while unread.len() < count {
            let head = [self.stream.read_u8().await.ok()?, self.stream.read_u8().await.ok()?];
            let length = match head[1] {
                126 => usize::from(self.stream.read_u16().await.ok()?),
                127 => usize::try_from(self.stream.read_u64().await.ok()?).ok()?,
                short => usize::from(short),
            };
            let mut bytes = vec![0; length];
            self.stream.read_exact(&mut bytes).await.ok()?;
            match head[0] {
                0x82 => unread.extend(bytes),
                head if head & 0x0F == CLOSE => return None,
                // MQTT-6.0.0-1: nothing but binary messages.
                other => panic!("a frame {other:#04x} from the broker"),
            }
        }
        Some(unread.drain(..count).collect())
    }
}
