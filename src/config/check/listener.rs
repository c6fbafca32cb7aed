//! `broker.listen` and the limits, which stand once for the broker and again where a listener has its own.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::check::Checker;
use crate::config::node::At;
use crate::config::node::Node;
use crate::config::plant::CertificateUser;
use crate::config::plant::ClientCertificates;
use crate::config::plant::Demand;
use crate::config::plant::Limits;
use crate::config::plant::Listener;
use crate::config::plant::ListenerKind;
use crate::config::plant::ListenerTls;

pub(in crate::config) const LISTENER_KEYS: &[&str] =
    &["tcp", "tls", "ws", "cert", "key", "client_ca", "client_certificate", "user", "origins", "limits"];
pub(in crate::config) const LIMIT_KEYS: &[&str] =
    &["clients", "packet", "queue", "queue_bytes", "subscriptions", "rate", "connect_timeout"];

/// How a listener is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Tcp,
    Tls,
    Ws,
}

impl Checker {
    /// `limits` are the broker's: in force where a listener says nothing else.
    pub(super) fn listeners(&mut self, node: &Node, limits: Limits) -> Vec<Listener> {
        let mut listen: Vec<Listener> = Vec::new();
        for item in self.reader.items(node) {
            let Some((listener, at)) = self.listener(item, limits) else { continue };
            if listen.iter().any(|l| l.address == listener.address && l.address.port() != 0) {
                self.reader.error(at, format!("two listeners on {}", listener.address), "choose another port");
            }
            listen.push(listener);
        }
        listen
    }

    fn listener(&mut self, node: &Node, limits: Limits) -> Option<(Listener, At)> {
        self.reader.keys(node, LISTENER_KEYS);
        let names = [("tcp", Named::Tcp), ("tls", Named::Tls), ("ws", Named::Ws)];
        let found: Vec<_> = names.into_iter().filter_map(|(k, named)| node.get(k).map(|n| (named, n))).collect();
        let [(named, value)] = found[..] else {
            let help = "e.g. {tcp: 127.0.0.1:1883}";
            self.reader.error(node.at, "a listener has `tcp`, `tls` or `ws`, one of them", help);
            return None;
        };
        let address = self.socket(value)?;
        let tls = self.listener_tls(node, named)?;
        let origins = node.get("origins").map(|n| self.origins(n, named)).unwrap_or_default();
        let kind = if named == Named::Ws { ListenerKind::WebSocket { origins } } else { ListenerKind::Tcp };
        let limits = node.get("limits").map_or(limits, |n| self.broker_limits(n, limits));
        Some((Listener { address, kind, tls, limits }, value.at))
    }

    /// `Some(None)`: it has none and needs none.
    fn listener_tls(&mut self, node: &Node, named: Named) -> Option<Option<ListenerTls>> {
        if named == Named::Tcp {
            for (key, found) in ["cert", "key", "client_ca", "client_certificate", "user"]
                .into_iter()
                .filter_map(|key| Some((key, node.get(key)?)))
            {
                let what = format!("`{key}` means nothing on a `tcp` listener");
                self.reader.error(found.at, what, "take it out, or make it a `tls` listener");
            }
            return Some(None);
        }
        let mut file = |key: &str| node.get(key).and_then(|found| self.readable(found));
        let (cert, key, ca) = (file("cert"), file("key"), file("client_ca"));
        let clients = self.client_certificates(node, ca);
        match (cert, key) {
            (Some(cert), Some(key)) => Some(Some(ListenerTls { cert, key, clients })),
            (None, None) if named == Named::Ws && clients.is_none() => Some(None),
            _ => {
                let (what, help) = match named {
                    Named::Ws => ("a `ws` listener under TLS needs `cert` and `key`", "both, or neither for plain ws"),
                    _ => ("a `tls` listener needs `cert` and `key`", "PEM files; paths count from this file"),
                };
                self.reader.error(node.at, what, help);
                None
            }
        }
    }

    fn client_certificates(&mut self, node: &Node, ca: Option<PathBuf>) -> Option<ClientCertificates> {
        let (demand, user) = (node.get("client_certificate"), node.get("user"));
        let Some(ca) = ca else {
            if let (Some(alone), None) = (demand.or(user), node.get("client_ca")) {
                let help = "name the authority that signs the clients' certificates: client_ca: ca.pem";
                self.reader.error(alone.at, "without `client_ca` no client is asked for a certificate", help);
            }
            return None;
        };
        let demands = [("required", Demand::Required), ("optional", Demand::Optional)];
        let demand = demand.and_then(|n| self.reader.word(n, &demands)).unwrap_or(Demand::Required);
        let users = [("common_name", CertificateUser::CommonName)];
        let user = user.and_then(|n| self.reader.word(n, &users)).unwrap_or(CertificateUser::ByPassword);
        Some(ClientCertificates { ca, demand, user })
    }

    fn origins(&mut self, node: &Node, named: Named) -> Vec<Arc<str>> {
        if named != Named::Ws {
            self.reader.error(node.at, "`origins` are of `ws` listeners", "take it out");
        }
        let items = self.reader.items(node);
        let mut origins = Vec::new();
        for item in items {
            let Some(text) = self.reader.text(item) else { continue };
            let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                let help = "as a browser names it, without a path: https://hmi.example.com, http://10.0.0.5:8080";
                self.reader.error(item.at, format!("`{text}` is no origin"), help);
            }
            origins.push(text.to_ascii_lowercase().into());
        }
        origins
    }

    /// `address:port` of a listener.
    pub(super) fn socket(&mut self, node: &Node) -> Option<SocketAddr> {
        let text = self.reader.text(node)?;
        let (host, port) = text.rsplit_once(':').unwrap_or((&text, ""));
        let host = if host == "localhost" { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
        match (host.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(host), Ok(port)) => Some(SocketAddr::new(host, port)),
            _ => {
                let help = "an IP address and a port up to 65535: 127.0.0.1:1883, or 0.0.0.0:1883 for all interfaces";
                self.reader.error(node.at, format!("`{text}` is no address to listen on"), help);
                None
            }
        }
    }

    pub(super) fn broker_limits(&mut self, node: &Node, usual: Limits) -> Limits {
        self.reader.keys(node, LIMIT_KEYS);
        let mut count = |key, otherwise: usize| {
            let found = node.get(key).and_then(|n| self.reader.int(n, 1, 1_000_000));
            found.and_then(|n| usize::try_from(n).ok()).unwrap_or(otherwise)
        };
        let (clients, queue) = (count("clients", usual.clients), count("queue", usual.queue));
        let subscriptions = count("subscriptions", usual.subscriptions);
        let packet = node.get("packet").and_then(|n| self.size_within(n, "packet", 256 << 20));
        let queue_bytes = node.get("queue_bytes").and_then(|n| self.size_within(n, "queue_bytes", 1 << 30));
        Limits {
            clients,
            packet: packet.unwrap_or(usual.packet),
            queue,
            queue_bytes: queue_bytes.or(usual.queue_bytes),
            subscriptions,
            rate: node.get("rate").map_or(usual.rate, |n| self.rate(n)),
            connect_timeout: node.get("connect_timeout").map_or(usual.connect_timeout, |n| self.connect_timeout(n)),
        }
    }

    fn size_within(&mut self, node: &Node, key: &str, most: u64) -> Option<usize> {
        let size = self.reader.size(node)?;
        if !(1024..=most).contains(&size) {
            self.reader.error(node.at, format!("`{key}` is 1KiB to {}MiB", most >> 20), "");
        }
        usize::try_from(size).ok()
    }

    fn connect_timeout(&mut self, node: &Node) -> Duration {
        let usual = Limits::default().connect_timeout;
        let Some(time) = self.reader.duration(node) else { return usual };
        if !(Duration::from_secs(1)..=Duration::from_secs(120)).contains(&time) {
            let help = "10s is usual; clients on slow links need some seconds for the TLS handshake";
            self.reader.error(node.at, "`connect_timeout` is 1s to 120s", help);
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::load_text;
    use crate::config::plant::Broker;

    fn judged(broker: &str) -> Result<Broker, String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["server.pem", "server.key", "ca.pem"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let yaml = format!("gateway: g\nbroker:\n{broker}");
        load_text("t.yaml", &yaml, folder.path()).map(|l| l.plant.broker).map_err(|r| r.to_string())
    }

    fn listeners(text: &str) -> Result<Broker, String> {
        judged(&format!("  listen:\n    - {text}\n"))
    }

    #[test]
    fn a_listener_asks_for_certificates_as_it_says() {
        let tls = "{tls: 127.0.0.1:8883, cert: server.pem, key: server.key";
        let clients = |rest: &str| {
            let broker = listeners(&format!("{tls}{rest}}}")).unwrap();
            broker.listen[0].tls.clone().unwrap().clients.map(|c| (c.demand, c.user))
        };
        assert_eq!(clients(""), None);
        assert_eq!(clients(", client_ca: ca.pem"), Some((Demand::Required, CertificateUser::ByPassword)));
        let rest = ", client_ca: ca.pem, client_certificate: optional, user: common_name";
        assert_eq!(clients(rest), Some((Demand::Optional, CertificateUser::CommonName)));
    }

    #[test]
    fn a_websocket_may_be_under_tls_and_name_pages() {
        let broker =
            listeners("{ws: 127.0.0.1:8084, cert: server.pem, key: server.key, origins: [https://HMI.example]}");
        let listener = &broker.unwrap().listen[0];
        assert_eq!(listener.scheme(), "wss");
        assert_eq!(listener.kind, ListenerKind::WebSocket { origins: vec!["https://hmi.example".into()] });
        assert_eq!(listeners("{ws: 127.0.0.1:8084}").unwrap().listen[0].scheme(), "ws");
    }

    #[test]
    fn a_listeners_limits_go_before_the_brokers() {
        let broker = judged(
            "  limits: {clients: 50, rate: 100/s, queue_bytes: 2MiB}\n  listen:\n    - {tcp: 127.0.0.1:1883}\n    \
             - {tcp: 127.0.0.1:1884, limits: {clients: 5, packet: 4KiB, subscriptions: 10, rate: unlimited, \
             connect_timeout: 3s}}\n",
        )
        .unwrap();
        let usual = Limits { clients: 50, rate: Some(100), queue_bytes: Some(2 << 20), ..Limits::default() };
        assert_eq!((broker.limits, broker.listen[0].limits), (usual, usual));
        let connect_timeout = Duration::from_secs(3);
        let own = Limits { clients: 5, packet: 4096, subscriptions: 10, rate: None, connect_timeout, ..usual };
        assert_eq!(broker.listen[1].limits, own);
    }

    #[test]
    fn what_means_nothing_on_a_listener_is_told() {
        let tls = "tls: 127.0.0.1:8883, cert: server.pem, key: server.key";
        for (listener, words) in [
            ("{tcp: 127.0.0.1:1883, cert: server.pem}".to_owned(), "`cert` means nothing on a `tcp` listener"),
            ("{tls: 127.0.0.1:8883}".to_owned(), "needs `cert` and `key`"),
            ("{ws: 127.0.0.1:8083, cert: server.pem}".to_owned(), "under TLS needs `cert` and `key`"),
            (format!("{{{tls}, user: common_name}}"), "without `client_ca` no client is asked"),
            (format!("{{{tls}, client_ca: ca.pem, user: subject}}"), "known: common_name"),
            (format!("{{{tls}, origins: [https://a]}}"), "`origins` are of `ws` listeners"),
            ("{ws: 127.0.0.1:8083, origins: [hmi.example]}".to_owned(), "`hmi.example` is no origin"),
            ("{tcp: 127.0.0.1:1883, limits: {rate: 5}}".to_owned(), "write 500/s"),
            ("{tcp: 127.0.0.1:1883, limits: {connect_timeout: 1h}}".to_owned(), "1s to 120s"),
            ("{tcp: 127.0.0.1:1883, limits: {packet: 1B}}".to_owned(), "1KiB to 256MiB"),
            ("{tcp: 127.0.0.1:1883, tls: 127.0.0.1:8883}".to_owned(), "one of them"),
        ] {
            let said = listeners(&listener).expect_err(&listener);
            assert!(said.contains(words) && said.contains("t.yaml:4:"), "{listener}: no `{words}` in\n{said}");
        }
    }

    #[test]
    fn nobody_needs_a_password_where_certificates_say_who_comes() {
        let listen = "  listen: [{tls: 127.0.0.1:8883, cert: server.pem, key: server.key, client_ca: ca.pem";
        assert!(judged(&format!("  anonymous: never\n{listen}, user: common_name}}]\n")).is_ok());
        let said = judged(&format!("  anonymous: never\n{listen}}}]\n")).unwrap_err();
        assert!(said.contains("lets nobody in"), "{said}");
    }

    #[test]
    fn a_rule_names_client_ids_by_their_beginning_only() {
        let rules = |client: &str| judged(&format!("  access: [{{client: \"{client}\", read: [a]}}]\n"));
        assert_eq!(rules("pump-*").unwrap().access[0].client.as_deref(), Some("pump-*"));
        assert!(rules("*-pump").unwrap_err().contains("at the end only"));
    }
}
