//! TLS of an upstream against servers that show each kind of certificate, all made by openssl for the test: what fails is
//! said in words that help, what is asked for (SNI, ALPN, client certificate) is sent, and files that were replaced are used
//! at the next connection.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;
use trunkline::bridge;
use trunkline::config::plant;
use trunkline::config::plant::Scheme;
use trunkline::config::preset::Preset;
use trunkline::spool;
use trunkline::spool::Subscriber;
use trunkline::status::UpstreamStatus;
use trunkline::time;
use trunkline::topic::Qos;
use trunkline::topic::TopicFilter;

const PATIENCE: Duration = Duration::from_secs(30);

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and certificates that one of them signed.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["ca", "stranger"] {
            let (key, cert, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
            let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
            let more = ["-subj", &subject, "-keyout", &key, "-out", &cert];
            openssl(made.folder.path(), &[&new[..], &more].concat());
        }
        fs::write(made.file("ca.cnf"), CA_CNF).unwrap();
        made
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Valid from and until, as openssl writes days; `names` as in subjectAltName.
    fn sign(&self, name: &str, names: &str, (from, until): (&str, &str)) {
        fs::write(self.file("index.txt"), "").unwrap();
        let (key, request, cert, subject) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("/CN={name}"));
        let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", &subject];
        openssl(self.folder.path(), &[&new[..], &["-keyout", &key, "-out", &request]].concat());
        fs::write(self.file("ext.cnf"), format!("basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n"))
            .unwrap();
        let sign = ["ca", "-batch", "-config", "ca.cnf", "-in", &request, "-out", &cert, "-extfile", "ext.cnf"];
        openssl(self.folder.path(), &[&sign[..], &["-startdate", from, "-enddate", until]].concat());
    }
}

const CA_CNF: &str = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\ncertificate=ca.pem\n\
                      private_key=ca.key\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n";
const TODAY: (&str, &str) = ("20200101000000Z", "20491231000000Z");
const HOST: &str = "DNS:localhost,IP:127.0.0.1";

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&fs::read(path).unwrap()).map(Result::unwrap).collect()
}

/// What a client showed that came through the handshake.
#[derive(Debug, PartialEq)]
struct Guest {
    server_name: Option<String>,
    alpn: Option<String>,
    certificate: Option<CertificateDer<'static>>,
    tls: rustls::ProtocolVersion,
}

struct Server {
    port: u16,
    guests: mpsc::Receiver<Guest>,
    /// Ends the connections that are up.
    hang_up: watch::Sender<u32>,
    _stop: DropGuard,
}

/// How a server behaves.
#[derive(Default)]
struct Manner {
    /// Clients must show a certificate of `ca`.
    wants_certificate: bool,
    alpn: Option<&'static str>,
    versions: Option<&'static rustls::SupportedProtocolVersion>,
}

async fn server(certificates: &Certificates, name: &str, manner: Manner) -> Server {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = manner.versions.map_or(rustls::ALL_VERSIONS.to_vec(), |v| vec![v]);
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions).unwrap();
    let builder = if manner.wants_certificate {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain(&certificates.file("ca.pem")));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = fs::read(certificates.file(&format!("{name}.key"))).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let mut config = builder.with_single_cert(chain(&certificates.file(&format!("{name}.pem"))), key).unwrap();
    config.alpn_protocols = manner.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, guests) = mpsc::channel(100);
    let (hang_up, hung_up) = watch::channel(0);
    let (stop, acceptor) = (CancellationToken::new(), TlsAcceptor::from(Arc::new(config)));
    let guard = stop.clone().drop_guard();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, tell, mut hung_up) = (acceptor.clone(), tell.clone(), hung_up.clone());
            hung_up.mark_unchanged();
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(stream, acceptor, tell) => {}
                    _ = hung_up.changed() => {}
                }
            });
        }
    }));
    Server { port, guests, hang_up, _stop: guard }
}

/// CONNACK, and then only listens. After a failed handshake it reads on, so that its alert is not lost to a reset.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, tell: mpsc::Sender<Guest>) {
    let mut buffer = [0; 4096];
    let mut stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((_, mut stream)) => {
            while let Ok(1..) = stream.read(&mut buffer).await {}
            return;
        }
    };
    let session = stream.get_ref().1;
    let guest = Guest {
        server_name: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        certificate: session.peer_certificates().map(|c| c[0].clone()),
        tls: session.protocol_version().unwrap(),
    };
    let _ = stream.read(&mut buffer).await;
    if stream.write_all(&[0x20, 3, 0, 0, 0]).await.is_ok() {
        let _ = tell.send(guest).await;
    }
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

/// Spool and bridge.
struct House {
    status: watch::Receiver<UpstreamStatus>,
    _stop: DropGuard,
    _folder: tempfile::TempDir,
}

impl House {
    async fn error(&mut self) -> String {
        let seen = tokio::time::timeout(PATIENCE, self.status.wait_for(|s| s.error.is_some())).await;
        seen.expect("no error in time").unwrap().error.clone().unwrap()
    }
}

fn house(port: u16, host: &str, adapt: impl FnOnce(&mut plant::Upstream)) -> House {
    let folder = tempfile::tempdir().unwrap();
    let settings = plant::Spool {
        path: folder.path().join("spool.db"),
        keep: plant::Keep::Offline,
        max_size: 64 << 20,
        max_age: Duration::from_secs(86_400),
        when_full: plant::WhenFull::DropOldest,
        replay: plant::Replay::InOrder,
        replay_rate: None,
    };
    let filter = TopicFilter::new("g/#").unwrap();
    let subscribers = vec![Subscriber { name: "cloud".into(), filters: vec![filter.clone()] }];
    let (spool, _) = spool::open(settings, subscribers).unwrap();
    let mut upstream = plant::Upstream {
        name: "cloud".into(),
        preset: None,
        endpoints: vec![plant::Endpoint { scheme: Scheme::Mqtts, host: host.to_owned(), port, path: String::new() }],
        version: plant::MqttVersion::V5,
        client_id: "g".into(),
        username: None,
        password: None,
        tls: plant::Tls::default(),
        keep_alive: Duration::from_secs(30),
        in_flight: 20,
        send: vec![plant::Mapping {
            filter,
            strip: String::new(),
            prefix: String::new(),
            rest: plant::Rest::AsIs,
            qos: Qos::AtMostOnce,
            retain: plant::RetainRule::Keep,
        }],
        receive: Vec::new(),
    };
    adapt(&mut upstream);
    let (to_local, _) = mpsc::channel(1);
    let (status, task) = bridge::new(upstream, "g", spool, to_local);
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    House { status, _stop: stop.drop_guard(), _folder: folder }
}

/// Why a connection fails.
async fn failure(certificates: &Certificates, name: &str, manner: Manner, ca: &str, host: &str) -> String {
    let server = server(certificates, name, manner).await;
    house(server.port, host, |u| u.tls.ca = Some(certificates.file(ca))).error().await
}

#[tokio::test]
async fn what_is_wrong_with_the_peers_certificate_is_said_in_words() {
    let certificates = Certificates::new();
    certificates.sign("old", HOST, ("20200101000000Z", "20210203040506Z"));
    certificates.sign("early", HOST, ("20490101000000Z", "20491231000000Z"));
    certificates.sign("other", "DNS:a.example,DNS:b.example", TODAY);
    certificates.sign("good", HOST, TODAY);
    let said = failure(&certificates, "old", Manner::default(), "ca.pem", "localhost").await;
    assert!(said.contains("expired on 2021-02-03T04:05:06.000Z (this clock says 20"), "{said}");
    let said = failure(&certificates, "early", Manner::default(), "ca.pem", "localhost").await;
    assert!(said.contains("begins on 2049-01-01T00:00:00.000Z, is the clock set?"), "{said}");
    let said = failure(&certificates, "other", Manner::default(), "ca.pem", "localhost").await;
    assert!(said.contains("a.example") && said.contains("b.example") && said.contains("not for localhost"), "{said}");
    let said = failure(&certificates, "good", Manner::default(), "stranger.pem", "localhost").await;
    assert!(said.contains("an authority that is not trusted here") && said.contains("ca.pem"), "{said}");
}

#[tokio::test]
async fn a_client_certificate_that_is_wanted_is_asked_for_in_words_in_both_versions_of_tls() {
    let certificates = Certificates::new();
    certificates.sign("good", HOST, TODAY);
    for versions in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let manner = Manner { wants_certificate: true, versions: Some(versions), ..Manner::default() };
        let said = failure(&certificates, "good", manner, "ca.pem", "localhost").await;
        assert!(said.contains("client certificate: `tls: {cert:"), "{said}");
    }
}

#[tokio::test]
async fn a_client_certificate_of_another_authority_is_told_apart() {
    let certificates = Certificates::new();
    certificates.sign("good", HOST, TODAY);
    let server = server(&certificates, "good", Manner { wants_certificate: true, ..Manner::default() }).await;
    let client = Some((certificates.file("stranger.pem"), certificates.file("stranger.key")));
    let ca = Some(certificates.file("ca.pem"));
    let mut house = house(server.port, "localhost", |u| u.tls = plant::Tls { ca, client, alpn: Vec::new() });
    let said = house.error().await;
    assert!(said.contains("our client certificate"), "{said}");
}

#[tokio::test]
async fn a_port_without_tls_is_told_whether_it_answers_or_hangs_up() {
    let certificates = Certificates::new();
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let said = house(port, "localhost", |u| u.tls.ca = Some(certificates.file("ca.pem"))).error().await;
        assert!(said.contains("is it a TLS port?") && said.contains("8883"), "{said}");
    }
}

#[tokio::test]
async fn files_that_do_not_fit_are_named() {
    let certificates = Certificates::new();
    let file = |name: &str| certificates.file(name);
    fs::write(file("empty.pem"), "nothing here\n").unwrap();
    for (ca, client, words) in [
        ("gone.pem", None, "gone.pem: No such file"),
        ("empty.pem", None, "empty.pem: no certificate in it"),
        ("ca.pem", Some(("ca.pem", "stranger.key")), "stranger.key"),
        ("ca.pem", Some(("ca.pem", "ca.pem")), "ca.pem: no private key in it"),
    ] {
        let client = client.map(|(cert, key)| (file(cert), file(key)));
        let ca = Some(file(ca));
        let said = house(1, "localhost", |u| u.tls = plant::Tls { ca, client, alpn: Vec::new() }).error().await;
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn name_protocol_and_version_are_agreed_on() {
    let certificates = Certificates::new();
    certificates.sign("good", HOST, TODAY);
    for (versions, tls) in [
        (&rustls::version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let manner = Manner { versions: Some(versions), alpn: Some("mqtt"), ..Manner::default() };
        let mut server = server(&certificates, "good", manner).await;
        let ca = Some(certificates.file("ca.pem"));
        let alpn = vec!["mqtt".to_owned()];
        let _house = house(server.port, "localhost", |u| u.tls = plant::Tls { ca, client: None, alpn });
        let guest = tokio::time::timeout(PATIENCE, server.guests.recv()).await.unwrap().unwrap();
        let (server_name, alpn) = (Some("localhost".to_owned()), Some("mqtt".to_owned()));
        assert_eq!(guest, Guest { server_name, alpn, certificate: None, tls });
    }
}

#[tokio::test]
async fn an_alpn_protocol_that_the_peer_does_not_know_is_said() {
    let certificates = Certificates::new();
    certificates.sign("good", HOST, TODAY);
    let server = server(&certificates, "good", Manner { alpn: Some("x-amzn-mqtt-ca"), ..Manner::default() }).await;
    let mut house = house(server.port, "localhost", |u| {
        u.preset = Some(Preset::Aws);
        u.tls = plant::Tls { ca: Some(certificates.file("ca.pem")), client: None, alpn: vec!["mqtt".to_owned()] };
    });
    let said = house.error().await;
    assert!(said.contains("none of our ALPN protocols"), "{said}");
}

/// The pair of this name becomes that of the client; gives the certificate.
fn use_pair(certificates: &Certificates, name: &str) -> CertificateDer<'static> {
    for end in ["key", "pem"] {
        fs::rename(certificates.file(&format!("{name}.{end}")), certificates.file(&format!("client.{end}"))).unwrap();
    }
    chain(&certificates.file("client.pem")).remove(0)
}

/// A server that wants certificates, and a client that has the one in `client.pem`.
async fn met(certificates: &Certificates) -> (Server, House) {
    let manner = Manner { wants_certificate: true, ..Manner::default() };
    let server = server(certificates, "good", manner).await;
    let client = Some((certificates.file("client.pem"), certificates.file("client.key")));
    let ca = Some(certificates.file("ca.pem"));
    let house = house(server.port, "localhost", |u| u.tls = plant::Tls { ca, client, alpn: Vec::new() });
    (server, house)
}

#[tokio::test]
async fn renewed_certificates_are_used_at_the_next_connection() {
    let certificates = Certificates::new();
    for name in ["good", "first", "second"] {
        certificates.sign(name, HOST, TODAY);
    }
    let first = use_pair(&certificates, "first");
    let (mut server, _house) = met(&certificates).await;
    let guest = tokio::time::timeout(PATIENCE, server.guests.recv()).await.unwrap().unwrap();
    assert_eq!(guest.certificate, Some(first));
    let second = use_pair(&certificates, "second");
    server.hang_up.send_modify(|n| *n += 1);
    let guest = tokio::time::timeout(PATIENCE, server.guests.recv()).await.unwrap().unwrap();
    assert_eq!(guest.certificate, Some(second));
}

#[tokio::test]
async fn a_connection_is_made_anew_when_its_certificate_has_expired_and_was_renewed() {
    let certificates = Certificates::new();
    certificates.sign("good", HOST, TODAY);
    certificates.sign("second", HOST, TODAY);
    // Long enough for the handshake on a busy machine.
    let end = time::now().wall_us + 4_000_000;
    let end_text = time::rfc3339_millis(end).replace(['-', ':', 'T'], "");
    let end_text = format!("{}Z", end_text.split('.').next().unwrap());
    certificates.sign("first", HOST, (TODAY.0, &end_text));
    let first = use_pair(&certificates, "first");
    let (mut server, mut house) = met(&certificates).await;
    let guest = tokio::time::timeout(PATIENCE, server.guests.recv()).await.unwrap().unwrap();
    assert_eq!(guest.certificate, Some(first));
    let second = use_pair(&certificates, "second");
    let guest = tokio::time::timeout(PATIENCE, server.guests.recv()).await.unwrap().unwrap();
    assert_eq!(guest.certificate, Some(second));
    assert!(time::now().wall_us / 1_000_000 >= end / 1_000_000, "the first was good until its end");
    let status = house.status.wait_for(|s| s.connects == 2).await.unwrap().clone();
    assert_eq!(status.error, None);
}
