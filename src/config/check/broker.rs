//! `broker`: listeners, who may come in, what they may do.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::check::Checker;
use crate::config::node::Node;
use crate::config::plant::AccessRule;
use crate::config::plant::Anonymous;
use crate::config::plant::Broker;
use crate::config::plant::CertificateUser;
use crate::config::plant::Limits;
use crate::config::plant::Listener;
use crate::topic::TopicFilter;

pub(in crate::config) const BROKER_KEYS: &[&str] = &["listen", "anonymous", "users", "access", "limits"];
pub(in crate::config) const ACCESS_KEYS: &[&str] = &["user", "client", "read", "write"];

impl Checker {
    /// A client may fall behind by two whole readings of all points, however many: a site that is polled all at once hands
    /// them over together.
    pub(super) fn broker(&mut self, node: Option<&Node>, points: usize) -> Broker {
        let usual = Limits::default();
        let usual = Limits { queue: usual.queue.max(2 * points), ..usual };
        let limits = node.and_then(|n| n.get("limits")).map_or(usual, |n| self.broker_limits(n, usual));
        let here = Listener { limits, ..Listener::plain(SocketAddr::from(([127, 0, 0, 1], 1883))) };
        let Some(node) = node else {
            let anonymous = Anonymous::Loopback;
            return Broker { listen: vec![here], anonymous, users: None, access: Vec::new(), limits };
        };
        self.reader.keys(node, BROKER_KEYS);
        let listen = node.get("listen").map_or_else(|| vec![here], |n| self.listeners(n, limits));
        let words = [("loopback", Anonymous::Loopback), ("never", Anonymous::Never), ("always", Anonymous::Always)];
        let anonymous = node.get("anonymous").and_then(|n| self.reader.word(n, &words)).unwrap_or(Anonymous::Loopback);
        let users = node.get("users").and_then(|n| self.users(n));
        let access = node.get("access").map(|n| self.access(n)).unwrap_or_default();
        if let (Anonymous::Never, None, false) = (anonymous, &users, listen.iter().any(is_named_by_certificate)) {
            self.reader.error(
                node.at,
                "`anonymous: never` without `users` lets nobody in",
                "name a file: `users: users.yaml`",
            );
        }
        Broker { listen, anonymous, users, access, limits }
    }

    /// The users are read anew at the start; here is only whether they can be.
    fn users(&mut self, node: &Node) -> Option<PathBuf> {
        let path = self.readable(node)?;
        if let (true, Err(why)) = (Path::exists(&path), crate::config::users::load(&path)) {
            self.reader.error(node.at, why, "`trunkline passwd` writes this file");
        }
        Some(path)
    }

    fn access(&mut self, node: &Node) -> Vec<AccessRule> {
        let mut rules = Vec::new();
        for item in self.reader.items(node) {
            self.reader.keys(item, ACCESS_KEYS);
            let user = item.get("user").and_then(|n| self.reader.text(n)).map(Into::into);
            let client = item.get("client").and_then(|n| self.client_pattern(n));
            let read = item.get("read").map(|n| self.filters(n)).unwrap_or_default();
            let write = item.get("write").map(|n| self.filters(n)).unwrap_or_default();
            if let (None, true, Some(node)) = (&user, write.iter().any(TopicFilter::names_raw), item.get("write")) {
                let help = "raw access reaches everything on a line: name the `user` it is for";
                self.reader.error(node.at, "`$modbus` for everybody", help);
            }
            rules.push(AccessRule { user, client, read, write });
        }
        rules
    }

    /// A client id, or how it begins.
    fn client_pattern(&mut self, node: &Node) -> Option<Arc<str>> {
        let text = self.reader.text(node)?;
        let rest = text.strip_suffix('*').unwrap_or(&text);
        if rest.contains('*') {
            self.reader.error(node.at, format!("`{text}`: `*` stands at the end only"), "e.g. client: pump-*");
        }
        Some(text.into())
    }

    fn filters(&mut self, node: &Node) -> Vec<TopicFilter> {
        let items = self.reader.items(node);
        items.iter().filter_map(|item| self.filter(item)).collect()
    }

    pub(super) fn filter(&mut self, node: &Node) -> Option<TopicFilter> {
        let text = self.reader.text(node)?;
        TopicFilter::new(text.as_str()).map_err(|e| self.reader.error(node.at, format!("`{text}`: {e}"), "")).ok()
    }
}

fn is_named_by_certificate(listener: &Listener) -> bool {
    let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
    clients.is_some_and(|clients| clients.user == CertificateUser::CommonName)
}
