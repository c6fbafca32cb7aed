//! `broker`: listeners, who may come in, what they may do.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::config::check::Checker;
use crate::config::node::Node;
use crate::config::plant::AccessRule;
use crate::config::plant::Anonymous;
use crate::config::plant::Broker;
use crate::config::plant::Limits;
use crate::config::plant::Listener;
use crate::config::plant::ListenerKind;
use crate::topic::TopicFilter;

pub(in crate::config) const BROKER_KEYS: &[&str] = &["listen", "anonymous", "users", "access", "limits"];
const LIMITS: Limits = Limits { clients: 200, packet: 256 * 1024, queue: 1000 };

impl Checker {
    /// A client may fall behind by two whole readings of all points, however many: a site that is polled all at once hands
    /// them over together.
    pub(super) fn broker(&mut self, node: Option<&Node>, points: usize) -> Broker {
        let usual_limits = Limits { queue: LIMITS.queue.max(2 * points), ..LIMITS };
        let usual = Listener { address: SocketAddr::from(([127, 0, 0, 1], 1883)), kind: ListenerKind::Tcp };
        let Some(node) = node else {
            return Broker {
                listen: vec![usual],
                anonymous: Anonymous::Loopback,
                users: None,
                access: Vec::new(),
                limits: usual_limits,
            };
        };
        self.reader.keys(node, BROKER_KEYS);
        let listen = node.get("listen").map_or_else(|| vec![usual], |n| self.listeners(n));
        let words = [("loopback", Anonymous::Loopback), ("never", Anonymous::Never), ("always", Anonymous::Always)];
        let anonymous = node.get("anonymous").and_then(|n| self.reader.word(n, &words)).unwrap_or(Anonymous::Loopback);
        let users = node.get("users").and_then(|n| self.users(n));
        let access = node.get("access").map(|n| self.access(n)).unwrap_or_default();
        let limits = node.get("limits").map_or(usual_limits, |n| self.broker_limits(n, usual_limits));
        if let (Anonymous::Never, None) = (anonymous, &users) {
            self.reader.error(
                node.at,
                "`anonymous: never` without `users` lets nobody in",
                "name a file: `users: users.yaml`",
            );
        }
        Broker { listen, anonymous, users, access, limits }
    }

    fn listeners(&mut self, node: &Node) -> Vec<Listener> {
        let mut listen: Vec<Listener> = Vec::new();
        for item in self.reader.items(node) {
            let Some((listener, at)) = self.listener(item) else { continue };
            if listen.iter().any(|l| l.address == listener.address && l.address.port() != 0) {
                self.reader.error(at, format!("two listeners on {}", listener.address), "choose another port");
            }
            listen.push(listener);
        }
        listen
    }

    fn listener(&mut self, node: &Node) -> Option<(Listener, crate::config::node::At)> {
        self.reader.keys(node, &["tcp", "tls", "ws", "cert", "key", "client_ca"]);
        let found: Vec<_> = ["tcp", "tls", "ws"].into_iter().filter_map(|k| node.get(k).map(|n| (k, n))).collect();
        let [(kind, value)] = found[..] else {
            let help = "e.g. {tcp: 127.0.0.1:1883}";
            self.reader.error(node.at, "a listener has `tcp`, `tls` or `ws`, one of them", help);
            return None;
        };
        let address = self.socket(value)?;
        let mut file = |key: &str| {
            let found = node.get(key)?;
            if kind != "tls" {
                self.reader.error(found.at, format!("`{key}` means nothing on a `{kind}` listener"), "take it out");
            }
            self.readable(found)
        };
        let (cert, key, client_ca) = (file("cert"), file("key"), file("client_ca"));
        let kind = match (kind, cert, key) {
            ("tcp", ..) => ListenerKind::Tcp,
            ("ws", ..) => ListenerKind::WebSocket,
            (_, Some(cert), Some(key)) => ListenerKind::Tls { cert, key, client_ca },
            _ => {
                self.reader.error(
                    node.at,
                    "a `tls` listener needs `cert` and `key`",
                    "PEM files; paths count from this file",
                );
                return None;
            }
        };
        Some((Listener { address, kind }, value.at))
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

    /// The users are read anew at the start; here is only whether they can be.
    fn users(&mut self, node: &Node) -> Option<std::path::PathBuf> {
        let path = self.readable(node)?;
        if let (true, Err(why)) = (path.exists(), crate::config::users::load(&path)) {
            self.reader.error(node.at, why, "`trunkline passwd` writes this file");
        }
        Some(path)
    }

    fn access(&mut self, node: &Node) -> Vec<AccessRule> {
        let mut rules = Vec::new();
        for item in self.reader.items(node) {
            self.reader.keys(item, &["user", "read", "write"]);
            let user = item.get("user").and_then(|n| self.reader.text(n)).map(Into::into);
            let read = item.get("read").map(|n| self.filters(n)).unwrap_or_default();
            let write = item.get("write").map(|n| self.filters(n)).unwrap_or_default();
            if let (None, true, Some(node)) = (&user, write.iter().any(TopicFilter::names_raw), item.get("write")) {
                let help = "raw access reaches everything on a line: name the `user` it is for";
                self.reader.error(node.at, "`$modbus` for everybody", help);
            }
            rules.push(AccessRule { user, read, write });
        }
        rules
    }

    fn filters(&mut self, node: &Node) -> Vec<TopicFilter> {
        let items = self.reader.items(node);
        items.iter().filter_map(|item| self.filter(item)).collect()
    }

    pub(super) fn filter(&mut self, node: &Node) -> Option<TopicFilter> {
        let text = self.reader.text(node)?;
        TopicFilter::new(text.as_str()).map_err(|e| self.reader.error(node.at, format!("`{text}`: {e}"), "")).ok()
    }

    fn broker_limits(&mut self, node: &Node, usual: Limits) -> Limits {
        self.reader.keys(node, &["clients", "packet", "queue"]);
        let mut count = |key, otherwise: usize| {
            let found = node.get(key).and_then(|n| self.reader.int(n, 1, 1_000_000));
            found.and_then(|n| usize::try_from(n).ok()).unwrap_or(otherwise)
        };
        let (clients, queue) = (count("clients", usual.clients), count("queue", usual.queue));
        let packet = node.get("packet").and_then(|n| {
            let size = self.reader.size(n)?;
            if !(1024..=256 << 20).contains(&size) {
                self.reader.error(n.at, "`packet` is 1KiB to 256MiB", "");
            }
            usize::try_from(size).ok()
        });
        Limits { clients, packet: packet.unwrap_or(usual.packet), queue }
    }
}
