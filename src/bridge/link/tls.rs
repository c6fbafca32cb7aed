//! TLS of a link: what the client library is told, read anew from the files for every connection, so that a renewed
//! certificate is used at the next one; and what went wrong, in words that say what to do.

use std::error::Error;
use std::fs;
use std::future::pending;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rumqttc as v5;
use rustls::AlertDescription as Alert;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::Fault;
use super::Link;
use super::fault::hung_up;
use super::reachable;
use crate::config::certificate;
use crate::config::plant::Endpoint;
use crate::config::plant::Scheme;
use crate::config::plant::Upstream;
use crate::time;

/// When the files of a connection whose own certificate has expired are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What a connection is told, and until when the certificate that it shows is valid.
#[derive(Default)]
pub(super) struct Told {
    /// `None` for plain endpoints.
    pub(super) configuration: Option<v5::TlsConfiguration>,
    /// In microseconds since 1970; `None` without a client certificate.
    pub(super) until: Option<i64>,
}

pub(super) fn told(endpoint: &Endpoint, settings: &Upstream) -> Result<Told, Fault> {
    if matches!(endpoint.scheme, Scheme::Mqtt | Scheme::Ws) {
        return Ok(Told::default());
    }
    let tls = &settings.tls;
    let mut until = None;
    let mut config = match (&tls.ca, &tls.client) {
        (None, None) => system()?,
        (ca, None) => builder(ca.as_deref())?.with_no_client_auth(),
        (ca, Some((cert, key))) => {
            let (chain, private) = (certificates(cert)?, private_key(key)?);
            until = certificate::end(&chain[0]);
            let build = builder(ca.as_deref())?.with_client_auth_cert(chain, private);
            build.map_err(|e| Fault::Refused(format!("{} with {}: {e}", cert.display(), key.display())))?
        }
    };
    config.alpn_protocols = alpn(endpoint, settings);
    Ok(Told { configuration: Some(v5::TlsConfiguration::Rustls(Arc::new(config))), until })
}

impl Link {
    /// Resolves when this connection is better left: `first`, where this is another endpoint, is reachable again, asked from
    /// `after` on; or the client certificate has expired and was replaced.
    pub(in crate::bridge) fn better(
        &self,
        first: Option<Endpoint>,
        after: Duration,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shown = self.shown.clone();
        async move {
            let first = async { if let Some(first) = first { reachable(first, after).await } else { pending().await } };
            let renewed =
                async { if let Some((file, until)) = shown { renewed(file, until).await } else { pending().await } };
            tokio::select! {
                () = first => {}
                () = renewed => {}
            }
        }
    }
}

/// Resolves when a certificate that was valid until then has expired and its file holds one that is valid for longer.
async fn renewed(file: PathBuf, until: i64) {
    let mut said = false;
    loop {
        let left = until.saturating_sub(time::now().wall_us);
        if left <= 0 && certificate::end_of(&file).is_some_and(|end| end > until) {
            return;
        }
        if left <= 0 && !said {
            said = true;
            let (file, until) = (file.display(), time::rfc3339_millis(until));
            tracing::warn!("{file} expired on {until}: renew it; the connection stays as long as the peer lets it");
        }
        // The wall clock may be set meanwhile.
        let left = u64::try_from(left).ok().filter(|n| *n > 0).map_or(LOOK_AGAIN, Duration::from_micros);
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

/// As written, or what the cloud needs on this port.
fn alpn(endpoint: &Endpoint, settings: &Upstream) -> Vec<Vec<u8>> {
    let needed = settings.preset.and_then(|p| p.facts().alpn).filter(|(port, _)| *port == endpoint.port);
    match needed {
        Some((_, protocol)) if settings.tls.alpn.is_empty() => vec![protocol.as_bytes().to_vec()],
        _ => settings.tls.alpn.iter().map(|p| p.clone().into_bytes()).collect(),
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(ca: Option<&Path>) -> Result<Builder, Fault> {
    let bundle = ca.map_or_else(system_bundle, |path| Ok(path.to_owned()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&bundle)?);
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| Fault::Refused(format!("TLS: {e}")))?;
    Ok(builder.with_root_certificates(roots))
}

/// The authorities this system trusts.
fn system() -> Result<ClientConfig, Fault> {
    let roots = v5::TlsConfiguration::try_default_rustls()
        .map_err(|e| Fault::Refused(format!("the system's certificates: {e}; name a `ca`")))?;
    match roots {
        v5::TlsConfiguration::Rustls(config) => Ok(Arc::unwrap_or_clone(config)),
        _ => Err(Fault::Refused("the system's certificates: none; name a `ca`".to_owned())),
    }
}

/// Where distributions keep all roots in one file.
fn system_bundle() -> Result<PathBuf, Fault> {
    let places = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let found = places.iter().map(Path::new).find(|p| p.exists());
    found.map(Path::to_owned).ok_or_else(|| Fault::Refused("no system certificates found: name a `ca`".to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let wrong = |e: &dyn std::fmt::Display| Fault::Refused(format!("{}: {e}", path.display()));
    let text = fs::read(path).map_err(|e| wrong(&e))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"no certificate in it (PEM is wanted)")) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let wrong = |e: &dyn std::fmt::Display| Fault::Refused(format!("{}: {e}", path.display()));
    let text = fs::read(path).map_err(|e| wrong(&e))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| wrong(&"no private key in it (PEM without a password is wanted)"))
}

/// What a failed connection has to do with TLS; `None` when nothing.
pub(super) fn fault(error: &(dyn Error + 'static)) -> Option<Fault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(Fault::Refused(format!("TLS: {}", words(tls))));
        }
        if let Some(v5::TlsError::Io(e)) = error.downcast_ref::<v5::TlsError>().filter(|e| is_end(e)) {
            let words = "TLS: the peer hung up in the handshake; is it a TLS port? (mqtts is usually 8883, mqtt 1883)";
            return Some(Fault::Broken(format!("{words}: {e}")));
        }
        // An `io::Error` hides what it was made of from `source`.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inside.map(|e| e as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn is_end(error: &v5::TlsError) -> bool {
    matches!(error, v5::TlsError::Io(e) if hung_up(e))
}

fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => certificate_words(why),
        rustls::Error::AlertReceived(alert) => alert_words(*alert),
        rustls::Error::InvalidMessage(_) => {
            "the peer answers in another language than TLS: is it a TLS port? (mqtts is usually 8883, mqtt 1883)".into()
        }
        rustls::Error::PeerIncompatible(why) => {
            format!("the peer offers nothing that is safe today (TLS 1.2 or 1.3 is wanted): {why:?}")
        }
        other => other.to_string(),
    }
}

fn certificate_words(why: &CertificateError) -> String {
    let clock = || format!("this clock says {}", time::now().rfc3339());
    let day = |at: &rustls::pki_types::UnixTime| {
        let micros = i64::try_from(at.as_secs()).unwrap_or(0).saturating_mul(1_000_000);
        time::rfc3339_millis(micros)
    };
    match why {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the peer's certificate expired on {} ({})", day(not_after), clock())
        }
        CertificateError::Expired => format!("the peer's certificate has expired ({})", clock()),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the peer's certificate begins on {}, is the clock set? ({})", day(not_before), clock())
        }
        CertificateError::NotValidYet => format!("the peer's certificate is not valid yet ({})", clock()),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            let expected = expected.to_str();
            format!("the peer's certificate is for {names}, not for {expected}: the URL must have a name that is in it")
        }
        CertificateError::UnknownIssuer => {
            "the peer's certificate is signed by an authority that is not trusted here: \
             name the right one, `tls: {ca: ca.pem}`"
                .to_owned()
        }
        other => format!("the peer's certificate is not accepted: {other}"),
    }
}

fn alert_words(alert: Alert) -> String {
    let what = match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            "the peer wants a client certificate: `tls: {cert: client.pem, key: client.key}`"
        }
        Alert::UnknownCA => "the peer does not know the authority that signed our client certificate",
        Alert::CertificateExpired => "the peer says that our client certificate has expired: renew the file",
        Alert::CertificateRevoked => "the peer says that our client certificate is revoked",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::AccessDenied => {
            "the peer does not accept our client certificate"
        }
        Alert::HandshakeFailure => "the peer refused the handshake; some do so where they want a client certificate",
        Alert::NoApplicationProtocol => "the peer knows none of our ALPN protocols: see `tls: {alpn: […]}`",
        Alert::UnrecognisedName => "the peer does not know the host name that we asked for (SNI)",
        Alert::ProtocolVersion => "the peer speaks neither TLS 1.2 nor 1.3",
        other => return format!("the peer ended the handshake: {other:?}"),
    };
    format!("{what} (alert {alert:?})")
}
