//! The doors: plain TCP, TLS, WebSocket. Bound before anybody is told that the broker runs; each accepted socket becomes
//! a task of its own.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::BrokerError;
use super::client;
use super::doors::Desk;
use super::doors::Guests;
use super::hub::Hub;
use super::throttle::Arrivals;
use super::websocket;
use crate::config::plant::Listener;
use crate::config::plant::ListenerKind;

/// Sockets beyond the limit of clients that may be on their way in or out; more are closed at once.
const MARGIN: usize = 64;

/// A bound socket and what is spoken there.
#[derive(Debug)]
pub(super) struct Door {
    /// As configured.
    pub(super) listener: Listener,
    pub(super) socket: StdListener,
    /// With the port really bound.
    pub(super) address: SocketAddr,
    pub(super) speech: Speech,
}

/// What is spoken on a socket, ready to be spoken.
#[derive(Clone)]
pub(super) enum Speech {
    Tcp,
    Tls(TlsAcceptor),
    WebSocket,
}

impl std::fmt::Debug for Speech {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::WebSocket => "ws",
        })
    }
}

/// Reads what a listener needs beside its socket: certificate and key.
pub(super) fn speech(kind: &ListenerKind) -> Result<Speech, BrokerError> {
    Ok(match kind {
        ListenerKind::Tcp => Speech::Tcp,
        ListenerKind::WebSocket => Speech::WebSocket,
        ListenerKind::Tls { cert, key, client_ca } => Speech::Tls(acceptor(cert, key, client_ca.as_deref())?),
    })
}

/// Binds one listener.
pub(super) fn bind(listener: &Listener, speech: Speech) -> Result<Door, BrokerError> {
    let refused = |error: io::Error| BrokerError::Bind { address: listener.address, why: in_words(&error) };
    // Sets SO_REUSEADDR, so that a restart does not wait for old connections to time out.
    let socket = StdListener::bind(listener.address).map_err(refused)?;
    socket.set_nonblocking(true).map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    Ok(Door { listener: listener.clone(), socket, address, speech })
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

fn acceptor(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<TlsAcceptor, BrokerError> {
    let wrong = |path: &Path, why: String| BrokerError::Tls { path: path.to_owned(), why };
    let read = |path: &Path| std::fs::read(path).map_err(|e| wrong(path, e.to_string()));
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, BrokerError> {
        let pem = read(path)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match found {
            Ok(list) if !list.is_empty() => Ok(list),
            Ok(_) => Err(wrong(path, "no certificate in it (PEM)".to_owned())),
            Err(e) => Err(wrong(path, format!("not PEM: {e}"))),
        }
    };
    let chain = certificates(cert)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| wrong(key, "no private key in it (PEM)".to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(cert, e.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| wrong(path, e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| wrong(path, e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, private).map_err(|e| wrong(cert, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
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
            if hub.sockets.get() >= hub.with(|core, _| core.client_limit()) + MARGIN {
                tracing::debug!(%peer, "too many connections");
                continue;
            }
            let pause = arrivals.another(std::time::Instant::now());
            hub.sockets.set(hub.sockets.get() + 1);
            desk.guests.borrow_mut().insert(peer, stream.local_addr().unwrap_or(self.address));
            let counted = Counted { hub: Rc::clone(&hub), guests: Rc::clone(&desk.guests), peer };
            let speech = desk.speech.borrow().clone();
            tokio::task::spawn_local(async move {
                greet(stream, peer, speech, Rc::clone(&counted.hub)).await;
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

async fn greet(stream: TcpStream, peer: SocketAddr, speech: Speech, hub: Rc<Hub>) {
    // Frames are collected before they are written, so waiting for more would only delay.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    match speech {
        Speech::Tcp => client::serve(stream, peer, hub).await,
        Speech::Tls(acceptor) => match timeout(client::CONNECT_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Box::pin(client::serve(stream, peer, hub)).await,
            Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::info!(%peer, "TLS handshake took too long"),
        },
        Speech::WebSocket => {
            let packet = hub.with(|core, _| core.packet_limit());
            match timeout(client::CONNECT_TIMEOUT, websocket::accept(stream, packet)).await {
                Ok(Ok(stream)) => Box::pin(client::serve(stream, peer, hub)).await,
                Ok(Err(error)) => tracing::info!(%peer, %error, "WebSocket handshake failed"),
                Err(_) => tracing::info!(%peer, "WebSocket handshake took too long"),
            }
        }
    }
}
