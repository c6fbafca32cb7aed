//! The doors: plain TCP, TLS, WebSocket. Bound before anybody is told that the broker runs; each accepted socket becomes
//! a task of its own.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

use super::BrokerError;
use super::client;
use super::client::Arrival;
use super::doors::Desk;
use super::doors::Guests;
use super::hub::Hub;
use super::throttle::Arrivals;
use super::tls;
use super::tls::Certified;
use super::websocket;
use crate::config::plant::CertificateUser;
use crate::config::plant::Limits;
use crate::config::plant::Listener;
use crate::config::plant::ListenerKind;

/// Sockets beyond the limit of clients that may be on their way in or out; more are closed at once.
const MARGIN: usize = 64;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Door {
    /// As configured.
    pub(super) listener: Listener,
    pub(super) socket: StdListener,
    /// With the port really bound.
    pub(super) address: SocketAddr,
    /// What holds there at first.
    pub(super) terms: Arc<Terms>,
}

/// What holds for those who come in through a listener. Can be replaced while it listens: certificates are renewed, limits
/// change.
pub(super) struct Terms {
    kind: ListenerKind,
    tls: Option<TlsAcceptor>,
    user: CertificateUser,
    pub(super) limits: Limits,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The acceptor holds the private key.
        f.debug_struct("Terms").field("kind", &self.kind).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Terms {
    /// Reads what the listener needs from its files.
    pub(super) fn of(listener: &Listener) -> Result<Self, BrokerError> {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        Ok(Self {
            kind: listener.kind.clone(),
            tls: listener.tls.as_ref().map(tls::acceptor).transpose()?,
            user: clients.map_or(CertificateUser::ByPassword, |clients| clients.user),
            limits: listener.limits,
        })
    }
}

/// Binds one listener.
pub(super) fn bind(listener: &Listener, terms: Arc<Terms>) -> Result<Door, BrokerError> {
    let refused = |error: io::Error| BrokerError::Bind { address: listener.address, why: in_words(&error) };
    // Sets SO_REUSEADDR, so that a restart does not wait for old connections to time out.
    let socket = StdListener::bind(listener.address).map_err(refused)?;
    socket.set_nonblocking(true).map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    Ok(Door { listener: listener.clone(), socket, address, terms })
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port in \
                                     `broker.listen`"
            .to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address; see `ip address`, or listen on \
                                            0.0.0.0"
            .to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a \
                                            higher one in `broker.listen`"
            .to_owned(),
        _ => error.to_string(),
    }
}

impl Door {
    /// Accepts until it is to close.
    pub(super) async fn run(self, hub: Rc<Hub>, desk: Desk) -> io::Result<()> {
        let listener = TcpListener::from_std(self.socket)?;
        let mut arrivals = Arrivals::new(std::time::Instant::now());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = desk.stop.cancelled() => return Ok(()),
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: clients that go will free some.
                    tracing::warn!(address = %self.address, %error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let most = hub.with(|core, _| {
                core.accepted();
                core.limits().clients
            });
            if hub.sockets.get() >= most + MARGIN {
                tracing::debug!(%peer, "too many connections");
                continue;
            }
            let pause = arrivals.another(std::time::Instant::now());
            hub.sockets.set(hub.sockets.get() + 1);
            desk.guests.borrow_mut().insert(peer, stream.local_addr().unwrap_or(self.address));
            let counted = Counted { hub: Rc::clone(&hub), guests: Rc::clone(&desk.guests), peer };
            let terms = Arc::clone(&desk.terms.borrow());
            let until = Instant::now() + terms.limits.connect_timeout;
            let arrival = Arrival { peer, door: desk.number, limits: terms.limits, until, certified: Certified::No };
            tokio::task::spawn_local(async move {
                greet(stream, arrival, terms, Rc::clone(&counted.hub)).await;
                drop(counted);
            });
            if pause > Duration::ZERO {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// A socket that counts as open until its task ends, by whatever way.
struct Counted {
    hub: Rc<Hub>,
    guests: Guests,
    peer: SocketAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.hub.sockets.set(self.hub.sockets.get() - 1);
        self.guests.borrow_mut().remove(&self.peer);
    }
}

async fn greet(stream: TcpStream, mut arrival: Arrival, terms: Arc<Terms>, hub: Rc<Hub>) {
    // Frames are collected before they are written, so waiting for more would only delay.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let peer = arrival.peer;
    let Some(acceptor) = &terms.tls else { return speak(stream, arrival, &terms.kind, hub).await };
    match timeout_at(arrival.until, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            arrival.certified = tls::certified(&stream, terms.user);
            Box::pin(speak(stream, arrival, &terms.kind, hub)).await;
        }
        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%peer, "TLS handshake took too long"),
    }
}

async fn speak<S>(stream: S, arrival: Arrival, kind: &ListenerKind, hub: Rc<Hub>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ListenerKind::WebSocket { origins } = kind else { return client::serve(stream, arrival, hub).await };
    let peer = arrival.peer;
    match timeout_at(arrival.until, websocket::accept(stream, arrival.limits.packet, origins)).await {
        Ok(Ok(stream)) => Box::pin(client::serve(stream, arrival, hub)).await,
        Ok(Err(error)) => tracing::info!(%peer, %error, "WebSocket handshake failed"),
        Err(_) => tracing::info!(%peer, "WebSocket handshake took too long"),
    }
}
