//! A client with blocking reads and writes: what is simple where one thread serves one connection.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use super::inbox::Inbox;
use super::read::Said;
use super::write;

/// Nothing a bench waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection after CONNACK.
#[derive(Debug)]
pub struct Peer<S = TcpStream> {
    stream: S,
    inbox: Inbox,
}

/// A socket without delays of its own.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Peer {
    /// Joins with a clean 3.1.1 session.
    pub fn join(address: SocketAddr, client_id: &str) -> io::Result<Self> {
        Self::over(connect(address)?, client_id)
    }

    /// The socket.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl<S: Read + Write> Peer<S> {
    /// Joins over a stream that is open already.
    pub fn over(stream: S, client_id: &str) -> io::Result<Self> {
        Self::with(stream, &write::hello(client_id))
    }

    /// Joins with a CONNECT of one's own.
    pub fn with(stream: S, hello: &[u8]) -> io::Result<Self> {
        let mut peer = Self { stream, inbox: Inbox::default() };
        peer.send(hello)?;
        match peer.next(|said| (said.kind(), said.rest.get(1).copied()))? {
            (2, Some(0)) => Ok(peer),
            refused => Err(io::Error::other(format!("the broker refused the client: {refused:?}"))),
        }
    }

    /// Writes all.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Waits for the next packet and looks at it.
    pub fn next<T>(&mut self, look: impl FnOnce(Said<'_>) -> T) -> io::Result<T> {
        // Called once, but seen twice by the compiler.
        let mut look = Some(look);
        loop {
            let mut once = |said: Said<'_>| look.take().map(|look| look(said));
            if let Some(looked) = self.inbox.next(&mut once)?.flatten() {
                return Ok(looked);
            }
            if self.inbox.fill(&mut self.stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Subscribes and waits for the answer.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        self.send(&write::subscribe(1, filter, qos))?;
        while self.next(|said| said.kind())? != 9 {}
        Ok(())
    }
}
