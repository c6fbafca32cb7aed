//! `upstreams`: remote brokers, what goes there and what comes from there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::certificate;
use crate::config::check::Checker;
use crate::config::check::Handed;
use crate::config::check::cloud::Cloud;
use crate::config::node::At;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::user_info;
use crate::config::plant::Direction;
use crate::config::plant::Endpoint;
use crate::config::plant::MqttVersion;
use crate::config::plant::Scheme;
use crate::config::plant::Secret;
use crate::config::plant::Tls;
use crate::config::plant::Upstream;
use crate::config::preset::Preset;
use crate::time;

pub(in crate::config) const UPSTREAM_KEYS: &[&str] = &[
    "preset",
    "url",
    "failover",
    "mqtt",
    "client_id",
    "username",
    "password",
    "tls",
    "keep_alive",
    "in_flight",
    "send",
    "receive",
];
/// The log keeps one bit an upstream.
const MOST: usize = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A certificate that ends within this time is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

impl Checker {
    pub(super) fn upstreams(&mut self, roots: &[Node]) -> Vec<Upstream> {
        let entries = self.joined(roots, "upstreams");
        if let Some((_, at, _)) = entries.get(MOST) {
            self.reader.error(*at, format!("{} upstreams, {MOST} is the limit", entries.len()), "");
        }
        entries
            .into_iter()
            .filter_map(|(name, at, node)| {
                self.name(at, name);
                self.upstream(name, node)
            })
            .collect()
    }

    fn upstream(&mut self, name: &str, node: &Node) -> Option<Upstream> {
        self.reader.keys(node, UPSTREAM_KEYS);
        let Some(url) = node.get("url") else {
            self.reader.error(
                node.at,
                format!("upstream `{name}` has no `url`"),
                "e.g. url: mqtts://broker.example.com:8883",
            );
            return None;
        };
        let preset = self.preset(node);
        let endpoints = self.endpoints(preset, node, url);
        let versions = [("5", MqttVersion::V5), ("3.1.1", MqttVersion::V311)];
        let version = node.get("mqtt").and_then(|n| Some((n.at, self.reader.word(n, &versions)?)));
        let only = preset.and_then(|preset| self.cloud_version(preset, version));
        let version = only.or(version.map(|(_, version)| version)).unwrap_or(MqttVersion::V5);
        let client_id = self.client_id(node);
        let username = node.get("username").and_then(|n| self.user_name(n));
        let password = node.get("password").and_then(|n| self.secret(n));
        let tls = node.get("tls").map(|n| self.tls(n, &endpoints)).unwrap_or_default();
        let keep_alive = node.get("keep_alive").and_then(|n| self.keep_alive(n)).unwrap_or(KEEP_ALIVE);
        let in_flight = node.get("in_flight").and_then(|n| self.reader.int(n, 1, 65_535)).unwrap_or(100);
        let mut cloud = Cloud { upstream: name.into(), preset, client_id: Arc::clone(&client_id), stripped: false };
        let mut rules =
            |key, direction| node.get(key).map(|n| self.mappings(n, direction, &mut cloud)).unwrap_or_default();
        let (send, receive) = (rules("send", Direction::Send), rules("receive", Direction::Receive));
        if send.is_empty() && receive.is_empty() {
            let help = "e.g. send: [{filter: \"#\"}]";
            self.reader.warn(node.at, format!("upstream `{name}` neither sends nor receives"), help);
        }
        let mut upstream = Upstream {
            name: name.into(),
            preset,
            endpoints,
            version,
            client_id,
            username,
            password,
            tls,
            keep_alive,
            in_flight: u16::try_from(in_flight).unwrap_or(100),
            send,
            receive,
        };
        if let Some(preset) = preset {
            self.cloud(preset, node, &cloud, &mut upstream);
        }
        Some(upstream)
    }

    fn endpoints(&mut self, preset: Option<Preset>, node: &Node, url: &Node) -> Vec<Endpoint> {
        let others = node.get("failover").map(|n| self.reader.items(n)).unwrap_or_default();
        let mut endpoints = Vec::new();
        for written in std::iter::once(url).chain(others) {
            let Some(endpoint) = self.endpoint(written) else { continue };
            if let Some(preset) = preset {
                self.cloud_endpoint(preset, written.at, &endpoint);
            }
            self.urls.push((written.at, endpoint.clone()));
            endpoints.push(endpoint);
        }
        endpoints
    }

    fn client_id(&mut self, node: &Node) -> Arc<str> {
        let gateway = Arc::clone(&self.gateway);
        let Some(n) = node.get("client_id") else { return gateway };
        let text = self.reader.text(n).unwrap_or_default();
        self.fill(n.at, &text, |key| (key == "gateway").then(|| gateway.to_string()))
    }

    /// A name, or a secret where the cloud takes its access token for one.
    fn user_name(&mut self, node: &Node) -> Option<Secret> {
        match node.kind {
            Kind::Map(_) => self.secret(node),
            _ => self.reader.text(node).map(Secret::new),
        }
    }

    fn keep_alive(&mut self, node: &Node) -> Option<Duration> {
        let time = self.reader.duration(node)?;
        if (Duration::from_secs(5)..=Duration::from_secs(3600)).contains(&time) {
            return Some(time);
        }
        self.reader.error(node.at, "`keep_alive` is 5s to 3600s", "30s is usual");
        None
    }

    fn endpoint(&mut self, node: &Node) -> Option<Endpoint> {
        let text = self.reader.text(node)?;
        if user_info(&text).is_some() {
            self.reader.error(
                node.at,
                "a URL carries no user or password here",
                "use `username` and `password: {file: …}`",
            );
            return None;
        }
        let parsed = parse_url(&text);
        if parsed.is_none() {
            let help = "mqtt://host:1883, mqtts://host:8883, ws://host/mqtt or wss://host/mqtt";
            self.reader.error(node.at, format!("`{text}` is no broker's URL"), help);
        }
        parsed
    }

    /// A secret is never in the file: it is read from where the file says.
    fn secret(&mut self, node: &Node) -> Option<Secret> {
        const HELP: &str = "write {file: cloud.password}, {env: CLOUD_PASSWORD} or {credential: cloud}";
        let Kind::Map(entries) = &node.kind else {
            self.reader.error(node.at, "a secret is never written in the file", HELP);
            return None;
        };
        let [(kind, at, value)] = &entries[..] else {
            self.reader.error(node.at, "a secret has one of `file`, `env` or `credential`", HELP);
            return None;
        };
        let from = self.reader.text(value)?;
        let found = match kind.as_str() {
            "file" => {
                let path = self.beside(*at, &from);
                self.named.push(path.clone());
                read_secret(&path)
            }
            // What another process is handed is nothing that could be judged here.
            "env" | "credential" if self.handed == Handed::ToAnother => Ok("…".to_owned()),
            "env" => std::env::var(&from).map_err(|_| format!("the environment has no `{from}`")),
            "credential" => credential(&from),
            other => {
                self.reader.error(*at, format!("unknown key `{other}`"), HELP);
                return None;
            }
        };
        let help = match kind.as_str() {
            "credential" => format!(
                "the unit hands it over: `LoadCredential={from}:/etc/trunkline/{from}` below [Service] in systemctl edit trunkline, \
                 then a restart; by hand, put it into a folder and begin the command with CREDENTIALS_DIRECTORY=FOLDER"
            ),
            _ => String::new(),
        };
        match found {
            Ok(secret) if secret.trim().is_empty() => {
                let (why, help) = empty(kind, &from, &self.beside(*at, &from));
                self.reader.error(value.at, why, help);
                None
            }
            Ok(secret) => Some(Secret::new(secret)),
            Err(why) => {
                self.reader.error(value.at, why, help);
                None
            }
        }
    }

    fn tls(&mut self, node: &Node, endpoints: &[Endpoint]) -> Tls {
        self.reader.keys(node, &["ca", "cert", "key", "alpn"]);
        if let Some(plain) = endpoints.iter().find(|e| matches!(e.scheme, Scheme::Mqtt | Scheme::Ws)) {
            let help = "write mqtts:// (usually port 8883) or wss://, or take `tls` out";
            self.reader.error(node.at, format!("`tls`, but {plain} is not encrypted"), help);
        }
        let mut file = |key: &str| node.get(key).and_then(|n| self.readable(n));
        let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
        if cert.is_some() != key.is_some() {
            self.reader.error(node.at, "`cert` and `key` come together", "both are PEM files");
        }
        if let Some((n, file)) = node.get("cert").zip(cert.as_ref()) {
            self.end_of_certificate(n.at, file);
        }
        let alpn = node.get("alpn").map(|n| self.reader.items(n)).unwrap_or_default();
        let alpn = alpn.iter().filter_map(|n| self.reader.text(n)).collect();
        Tls { ca, client: cert.zip(key), alpn }
    }

    /// Warns in time: a certificate that has expired stops the upstream, and nobody looks at it before.
    fn end_of_certificate(&mut self, at: At, file: &Path) {
        let Some(end) = certificate::end_of(file) else { return };
        let left = end.saturating_sub(time::now().wall_us);
        if left < i64::try_from(SOON.as_micros()).unwrap_or(i64::MAX) {
            let (file, day) = (file.display(), time::rfc3339_millis(end));
            let ends = if left < 0 { "expired" } else { "expires" };
            let help = "replace certificate and key; the next connection uses them, without a restart";
            self.reader.warn(at, format!("{file} {ends} on {day}"), help);
        }
    }
}

/// An empty secret is none: the file was made and not filled, or a power cut has emptied it. What is wrong, and what to do.
fn empty(kind: &str, from: &str, path: &Path) -> (String, String) {
    match kind {
        "env" => (
            format!("the variable `{from}` of the environment is empty"),
            "set it where the gateway is started (Environment= or EnvironmentFile= of the unit), then restart it"
                .to_owned(),
        ),
        "credential" => (
            format!("the credential `{from}` is empty"),
            "write the secret into the file that LoadCredential= of the unit names, then restart the gateway"
                .to_owned(),
        ),
        _ => (
            format!("{} is empty", path.display()),
            "write the secret into it; where it held one, a power cut may have taken it: put it there again".to_owned(),
        ),
    }
}

fn read_secret(path: &std::path::Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// systemd.exec(5): a file of this name in a folder that only the service sees.
fn credential(name: &str) -> Result<String, String> {
    let Ok(folder) = std::env::var("CREDENTIALS_DIRECTORY") else {
        return Err(format!("no credential `{name}`: the service manager handed none over"));
    };
    let file = std::path::Path::new(&folder).join(name);
    if !file.exists() {
        return Err(format!("no credential `{name}` among those that the service manager handed over"));
    }
    read_secret(&file)
}

fn parse_url(text: &str) -> Option<Endpoint> {
    let (scheme, rest) = text.split_once("://")?;
    let (scheme, usual) = match scheme {
        "mqtt" => (Scheme::Mqtt, 1883),
        "mqtts" => (Scheme::Mqtts, 8883),
        "ws" => (Scheme::Ws, 80),
        "wss" => (Scheme::Wss, 443),
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
    let bracketed = authority.strip_prefix('[').and_then(|a| a.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p))),
    };
    let port = port.map_or(Some(usual), |p| p.parse().ok().filter(|p| *p != 0))?;
    let plain = matches!(scheme, Scheme::Mqtt | Scheme::Mqtts);
    if host.is_empty() || host.contains(char::is_whitespace) || (plain && !path.is_empty()) {
        return None;
    }
    let path = if path.is_empty() { "/mqtt".to_owned() } else { format!("/{path}") };
    Some(Endpoint { scheme, host: host.to_owned(), port, path })
}
