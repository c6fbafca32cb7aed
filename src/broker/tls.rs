//! TLS of a listener: its own certificate, and what a client's says. Whether a client's certificate is good rustls decides;
//! who it names is read here, once, after the handshake.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::BrokerError;
use crate::config::certificate;
use crate::config::plant::CertificateUser;
use crate::config::plant::ClientCertificates;
use crate::config::plant::Demand;
use crate::config::plant::ListenerTls;

/// Who a client is by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Certified {
    /// It showed none, or it is not asked for a name: it logs in as on a plain listener.
    No,
    /// By its common name.
    As(Arc<str>),
    /// It has no common name that could be a user.
    Nameless,
}

/// Reads certificate, key and authorities.
pub(super) fn acceptor(tls: &ListenerTls) -> Result<TlsAcceptor, BrokerError> {
    let (cert, key) = (&tls.cert, &tls.key);
    let chain = certificates(cert)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| wrong(key, "no private key in it (PEM)".to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(cert, e.to_string()))?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients)?),
    };
    let config = builder.with_single_cert(chain, private).map_err(|e| wrong(cert, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(clients: &ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, BrokerError> {
    let path = &clients.ca;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| wrong(path, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match clients.demand {
        Demand::Required => builder,
        Demand::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|e| wrong(path, e.to_string()))
}

/// Who the client is, after the handshake.
pub(super) fn certified<S>(stream: &TlsStream<S>, user: CertificateUser) -> Certified {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match (user, shown) {
        (CertificateUser::ByPassword, _) | (_, None) => Certified::No,
        (CertificateUser::CommonName, Some(der)) => match certificate::common_name(der) {
            Some(name) => Certified::As(name.into()),
            None => Certified::Nameless,
        },
    }
}

fn wrong(path: &Path, why: String) -> BrokerError {
    BrokerError::Tls { path: path.to_owned(), why }
}

fn read(path: &Path) -> Result<Vec<u8>, BrokerError> {
    std::fs::read(path).map_err(|e| wrong(path, e.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(wrong(path, "no certificate in it (PEM)".to_owned())),
        Err(e) => Err(wrong(path, format!("not PEM: {e}"))),
    }
}
