//! One connection's task: login, then bytes in and out until either side ends it. A client that does not read is never
//! waited for: its bytes stay bounded in the core and this task alone hangs on its socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

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
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio::time::timeout_at;

use super::access;
use super::access::Login;
use super::access::Proof;
use super::admission::Guest;
use super::hub::Hub;
use super::packet::Code;
use super::packet::Connect;
use super::packet::Fault;
use super::packet::Packet;
use super::packet::decode::Decoder;
use super::packet::encode;
use super::throttle::Pace;
use super::tls::Certified;
use crate::config::plant::Limits;

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

/// Somebody at a listener who has not said yet who it is.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) peer: SocketAddr,
    /// Number of the listener.
    pub(super) door: usize,
    /// What holds there.
    pub(super) limits: Limits,
    /// Until when the CONNECT is awaited.
    pub(super) until: tokio::time::Instant,
    /// What its certificate says.
    pub(super) certified: Certified,
}

/// A socket's two halves and what was read and not understood yet.
struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    buffer: BytesMut,
    decoder: Decoder,
    pace: Pace,
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
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(stream: S, arrival: Arrival, hub: Rc<Hub>) {
    let (reader, writer) = tokio::io::split(stream);
    let Arrival { peer, limits, .. } = arrival;
    let (buffer, decoder) = (BytesMut::with_capacity(READ_SMALL), Decoder::new(limits.packet));
    let mut wire = Wire { reader, writer, buffer, decoder, pace: Pace::new(limits.rate, Instant::now()) };
    let first = tokio::select! {
        first = timeout_at(arrival.until, wire.first()) => first,
        () = hub.stopping.cancelled() => return,
    };
    let connect = match first {
        Err(_) => return tracing::info!(%peer, "no CONNECT in time"),
        Ok(None) => return,
        Ok(Some(Err(fault))) => {
            tracing::info!(%peer, reason = fault.why, "connection refused");
            return wire.refuse(fault.code, None).await;
        }
        Ok(Some(Ok(connect))) => connect,
    };
    let maximum = connect.packet_maximum;
    let key = match admit(&hub, arrival, *connect).await {
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
async fn admit(hub: &Hub, arrival: Arrival, connect: Connect) -> Result<usize, Code> {
    let Arrival { peer, door, limits, certified, .. } = arrival;
    let (user, proof) = match certified {
        Certified::As(name) => (Some(name), Proof::Certificate),
        Certified::No => log_in(hub, peer, &connect).await?,
        Certified::Nameless => {
            tracing::warn!(%peer, "the certificate has no common name that could be a user: one, in UTF-8, up to 64 characters");
            return Err(Code::NOT_AUTHORIZED);
        }
    };
    let guest = Guest { peer, user, proof, door, limits };
    hub.with(|core, now| {
        // The password took its time to check; what it was checked against may be gone.
        if !core.access().still_admits(&guest) {
            return Err(Code::NOT_AUTHORIZED);
        }
        core.connect(now, connect, guest)
    })
}

/// Who it is, by name and password.
async fn log_in(hub: &Hub, peer: SocketAddr, connect: &Connect) -> Result<(Option<Arc<str>>, Proof), Code> {
    let hash = match hub.with(|core, _| core.access().login(connect.username.as_deref(), peer.ip())) {
        Login::Allowed => return Ok((None, Proof::Nothing)),
        Login::Refused(code) => return Err(code),
        Login::Check(hash) => hash,
    };
    let turn = hub.failures.borrow_mut().turn(peer.ip(), Instant::now());
    if turn > LONGEST_QUEUE {
        return Err(Code::RATE_EXCEEDED);
    }
    if turn > Duration::ZERO {
        tokio::time::sleep(turn).await;
    }
    let (password, against) = (connect.password.clone().unwrap_or_default(), hash.clone());
    let permit = Arc::clone(&hub.checks).acquire_owned().await.map_err(|_| Code::SHUTTING_DOWN)?;
    let right = tokio::task::spawn_blocking(move || {
        let right = access::verify_password(&password, against.as_str());
        drop(permit);
        right
    });
    if !right.await.unwrap_or(false) {
        hub.failures.borrow_mut().failed(peer.ip(), Instant::now());
        tokio::time::sleep(FAILED_LOGIN).await;
        return Err(Code::BAD_CREDENTIALS);
    }
    hub.failures.borrow_mut().forgive(peer.ip());
    Ok((connect.username.as_deref().map(Arc::from), Proof::Password(hash)))
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
        let mut resume = self.understand(hub, key);
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
                read = self.reader.read_buf(&mut self.buffer), if !stalled && resume.is_none() => {
                    let Ok(read @ 1..) = read else { return };
                    hub.with(|core, _| core.read(key, read));
                    resume = self.understand(hub, key);
                    // Looked at after every read, not only when the last output is out: that may never be.
                    stalled = hub.with(|core, _| core.is_stalled(key));
                    hub.heard();
                    if self.buffer.is_empty() && read >= READ_SMALL {
                        self.buffer.reserve(READ_LARGE);
                    }
                    // One buffer a turn: others have their turn and this one's subscribers write in between.
                    tokio::task::yield_now().await;
                }
                () = sleep_until(resume.unwrap_or_else(tokio::time::Instant::now)), if resume.is_some() => {
                    resume = self.understand(hub, key);
                }
                pushed = push(&mut self.writer, &mut chunks), if !chunks.is_empty() => {
                    if pushed.is_err() {
                        return;
                    }
                    hub.with(|core, now| core.written(now, key));
                }
                () = waker.notified() => {
                    let (closes, searches) = hub.with(|core, now| (core.is_closing(key), core.search_on(now, key)));
                    if searches {
                        // It is awake again already; others have their turn first.
                        tokio::task::yield_now().await;
                    }
                    if closes && !chunks.is_empty() {
                        closing = true;
                        let rest = hub.with(|core, _| core.take_output(key));
                        chunks.extend(rest.chunks);
                    }
                }
            }
        }
    }

    /// Hands the core every whole packet of the buffer; when the client is too fast, until when the rest has to wait.
    fn understand(&mut self, hub: &Hub, key: usize) -> Option<tokio::time::Instant> {
        hub.with(|core, now| {
            while !core.is_closing(key) {
                if let Some(pause) = self.pace.pause(now) {
                    return Some((now + pause).into());
                }
                match self.decoder.next(&mut self.buffer) {
                    Ok(Some(packet)) => {
                        if !is_answer(&packet) {
                            self.pace.took(now);
                        }
                        core.packet(now, key, packet);
                    }
                    Ok(None) => return None,
                    Err(fault) => {
                        core.fault(now, key, fault);
                        return None;
                    }
                }
            }
            self.buffer.clear();
            None
        })
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

/// Acknowledgements answer what was sent to the client: how many there are is not its doing.
const fn is_answer(packet: &Packet) -> bool {
    matches!(packet, Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_))
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
