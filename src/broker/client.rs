//! One connection's task: login, then bytes in and out until either side ends it. A client that does not read is never
//! waited for: its bytes stay bounded in the core and this task alone hangs on its socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::access;
use super::access::Login;
use super::core::Core;
use super::core::Guest;
use super::hub::Hub;
use super::packet::Code;
use super::packet::Connect;
use super::packet::Fault;
use super::packet::Packet;
use super::packet::decode::Decoder;
use super::packet::encode;

/// From accept to CONNECT.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closed connection may take to read its last bytes.
const LINGER: Duration = Duration::from_secs(2);
/// What a wrong password costs at least.
const FAILED_LOGIN: Duration = Duration::from_secs(1);
/// A login that would have to wait longer for its turn is refused at once.
const LONGEST_QUEUE: Duration = Duration::from_secs(60);
/// First read buffer: most clients say little.
const READ_SMALL: usize = 2 * 1024;
/// Read buffer of a client that fills it.
const READ_LARGE: usize = 64 * 1024;

/// A socket's two halves and what was read and not understood yet.
struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    buffer: BytesMut,
    decoder: Decoder,
}

/// Tells the core that the connection has gone, however the task ends.
struct Place<'a> {
    hub: &'a Hub,
    key: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.hub.gone(self.key);
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(stream: S, peer: SocketAddr, hub: Rc<Hub>) {
    let (reader, writer) = tokio::io::split(stream);
    let max = hub.with(|core, _| core.packet_limit());
    let mut wire = Wire { reader, writer, buffer: BytesMut::with_capacity(READ_SMALL), decoder: Decoder::new(max) };
    let first = tokio::select! {
        first = timeout(CONNECT_TIMEOUT, wire.first()) => first,
        () = hub.stopping.cancelled() => return,
    };
    let connect = match first {
        Err(_) | Ok(None) => return,
        Ok(Some(Err(fault))) => {
            tracing::info!(%peer, reason = fault.why, "connection refused");
            return wire.refuse(fault.code, None).await;
        }
        Ok(Some(Ok(connect))) => connect,
    };
    let maximum = connect.packet_maximum;
    let key = match admit(&hub, peer, *connect).await {
        Ok(key) => key,
        Err(code) => {
            tracing::info!(%peer, code = code.0, "client refused");
            return wire.refuse(code, maximum).await;
        }
    };
    let waker = hub.register(key);
    let place = Place { hub: &hub, key };
    wire.converse(&hub, key, &waker).await;
    drop(place);
    wire.linger().await;
}

/// Login, then the core's own judgement.
async fn admit(hub: &Hub, peer: SocketAddr, connect: Connect) -> Result<usize, Code> {
    let login = hub.with(|core, _| core.access().login(connect.username.as_deref(), peer.ip()));
    let user = match login {
        Login::Allowed => None,
        Login::Refused(code) => return Err(code),
        Login::Check(hash) => {
            let turn = hub.failures.borrow_mut().turn(peer.ip(), std::time::Instant::now());
            if turn > LONGEST_QUEUE {
                return Err(Code::RATE_EXCEEDED);
            }
            if turn > Duration::ZERO {
                tokio::time::sleep(turn).await;
            }
            let password = connect.password.clone().unwrap_or_default();
            let permit = Arc::clone(&hub.checks).acquire_owned().await.map_err(|_| Code::SHUTTING_DOWN)?;
            let right = tokio::task::spawn_blocking(move || {
                let right = access::verify_password(&password, &hash);
                drop(permit);
                right
            });
            if !right.await.unwrap_or(false) {
                hub.failures.borrow_mut().failed(peer.ip(), std::time::Instant::now());
                tokio::time::sleep(FAILED_LOGIN).await;
                return Err(Code::BAD_CREDENTIALS);
            }
            hub.failures.borrow_mut().forgive(peer.ip());
            connect.username.as_deref().map(Arc::from)
        }
    };
    hub.with(|core, now| core.connect(now, connect, Guest { peer, user }))
}

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    /// The CONNECT, or why there is none; `None`: the peer went away.
    async fn first(&mut self) -> Option<Result<Box<Connect>, Fault>> {
        loop {
            match self.decoder.next(&mut self.buffer) {
                Ok(Some(Packet::Connect(connect))) => return Some(Ok(connect)),
                Ok(Some(_)) => return Some(Err(Fault::protocol("the first packet is not CONNECT"))),
                Ok(None) => {}
                Err(fault) => return Some(Err(fault)),
            }
            if self.reader.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn refuse(mut self, code: Code, maximum: Option<u32>) {
        if let Some(version) = self.decoder.version() {
            let mut out = encode::Outbox::limited(maximum);
            encode::refuse(&mut out, version, code);
            let mut chunks = out.take();
            if !matches!(timeout(LINGER, push(&mut self.writer, &mut chunks)).await, Ok(Ok(()))) {
                return;
            }
        }
        self.linger().await;
    }

    async fn converse(&mut self, hub: &Hub, key: usize, waker: &Notify) {
        let mut chunks = VecDeque::new();
        let (mut closing, mut stalled) = (false, false);
        hub.with(|core, now| understand(core, now, key, &mut self.decoder, &mut self.buffer));
        loop {
            if chunks.is_empty() {
                let output = hub.with(|core, _| core.take_output(key));
                (chunks, closing, stalled) = (output.chunks, output.closing, output.stalled);
            }
            if chunks.is_empty() && closing {
                return;
            }
            if closing {
                let _ = timeout(LINGER, push(&mut self.writer, &mut chunks)).await;
                return;
            }
            let free = if self.buffer.capacity() > READ_SMALL { READ_LARGE } else { READ_SMALL };
            self.buffer.reserve(if self.buffer.capacity() == self.buffer.len() { free } else { 0 });
            tokio::select! {
                read = self.reader.read_buf(&mut self.buffer), if !stalled => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                    // Looked at after every read, not only when the last output is out: that may never be.
                    stalled = hub.with(|core, now| {
                        core.read(*read.as_ref().unwrap_or(&0));
                        understand(core, now, key, &mut self.decoder, &mut self.buffer);
                        core.is_stalled(key)
                    });
                    hub.heard();
                    if self.buffer.is_empty() && read.is_ok_and(|n| n >= READ_SMALL) {
                        self.buffer.reserve(READ_LARGE);
                    }
                    // One buffer a turn: others have their turn and this one's subscribers write in between.
                    tokio::task::yield_now().await;
                }
                pushed = push(&mut self.writer, &mut chunks), if !chunks.is_empty() => {
                    if pushed.is_err() {
                        return;
                    }
                    hub.with(|core, now| core.written(now, key));
                }
                () = waker.notified() => {
                    if hub.with(|core, _| core.is_closing(key)) && !chunks.is_empty() {
                        closing = true;
                        let rest = hub.with(|core, _| core.take_output(key));
                        chunks.extend(rest.chunks);
                    }
                }
            }
        }
    }

    /// Closing with unread bytes would reset the connection and destroy the last packet on its way (facts: lessons).
    async fn linger(mut self) {
        if self.writer.shutdown().await.is_err() {
            return;
        }
        let drain = async {
            let mut left = 1024 * 1024_usize;
            loop {
                self.buffer.clear();
                self.buffer.reserve(READ_SMALL);
                match self.reader.read_buf(&mut self.buffer).await {
                    Ok(n @ 1..) if n < left => left -= n,
                    _ => return,
                }
            }
        };
        let _ = timeout(LINGER, drain).await;
    }
}

/// Hands the core every whole packet of the buffer.
fn understand(core: &mut Core, now: std::time::Instant, key: usize, decoder: &mut Decoder, buffer: &mut BytesMut) {
    while !core.is_closing(key) {
        match decoder.next(buffer) {
            Ok(Some(packet)) => core.packet(now, key, packet),
            Ok(None) => return,
            Err(fault) => return core.fault(now, key, fault),
        }
    }
    buffer.clear();
}

/// Writes all. Cancel safe: what was written is off the front.
async fn push<W: AsyncWrite + Unpin>(writer: &mut W, chunks: &mut VecDeque<Bytes>) -> std::io::Result<()> {
    while let Some(front) = chunks.front_mut() {
        if !front.is_empty() {
            let written = writer.write(front).await?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            front.advance(written);
        }
        if front.is_empty() {
            // The last one leaves when it is flushed, so that a cancelled flush is not forgotten.
            if chunks.len() == 1 {
                writer.flush().await?;
            }
            chunks.pop_front();
        }
    }
    Ok(())
}
