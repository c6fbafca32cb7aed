//! `spool`, `stats` and `web`: the parts of the plant that have no names.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::check::Checker;
use crate::config::node::Node;
use crate::config::plant::Broker;
use crate::config::plant::Keep;
use crate::config::plant::Replay;
use crate::config::plant::Spool;
use crate::config::plant::WhenFull;

pub(in crate::config) const SPOOL_KEYS: &[&str] =
    &["path", "keep", "max_size", "max_age", "when_full", "replay", "replay_rate"];
/// The database needs some pages for itself.
const LEAST_SIZE: u64 = 256 * 1024;

impl Checker {
    pub(super) fn spool(&mut self, node: Option<&Node>) -> Spool {
        let mut spool = Spool {
            path: self.state_dir.join("spool.db"),
            keep: Keep::Offline,
            max_size: 512 << 20,
            max_age: Duration::from_secs(30 * 86_400),
            when_full: WhenFull::DropOldest,
            replay: Replay::InOrder,
            replay_rate: None,
        };
        let Some(node) = node else { return spool };
        self.reader.keys(node, SPOOL_KEYS);
        if let Some(path) = node.get("path").and_then(|n| self.reader.text(n)) {
            spool.path = self.state_dir.join(path);
        }
        let keep = [("offline", Keep::Offline), ("always", Keep::Always)];
        spool.keep = node.get("keep").and_then(|n| self.reader.word(n, &keep)).unwrap_or(spool.keep);
        let full = [("drop-oldest", WhenFull::DropOldest), ("drop-newest", WhenFull::DropNewest)];
        spool.when_full = node.get("when_full").and_then(|n| self.reader.word(n, &full)).unwrap_or(spool.when_full);
        let replay = [("in-order", Replay::InOrder), ("live-first", Replay::LiveFirst)];
        spool.replay = node.get("replay").and_then(|n| self.reader.word(n, &replay)).unwrap_or(spool.replay);
        if let Some((size, n)) = node.get("max_size").and_then(|n| Some((self.reader.size(n)?, n))) {
            if size < LEAST_SIZE {
                self.reader.error(n.at, format!("{size} bytes is under 256KiB"), "64MiB holds a day of a small site");
            }
            spool.max_size = size;
        }
        if let Some((age, n)) = node.get("max_age").and_then(|n| Some((self.reader.duration(n)?, n))) {
            if age < Duration::from_secs(1) {
                self.reader.error(n.at, "`max_age` is at least 1s", "30d is usual");
            }
            spool.max_age = age;
        }
        spool.replay_rate = node.get("replay_rate").and_then(|n| self.rate(n));
        spool
    }

    /// `500/s` or `unlimited`.
    pub(super) fn rate(&mut self, node: &Node) -> Option<u32> {
        let text = self.reader.text(node)?;
        if text == "unlimited" {
            return None;
        }
        let rate = text.strip_suffix("/s").and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 0);
        if rate.is_none() {
            self.reader.error(node.at, format!("`{text}` is no rate"), "write 500/s, or unlimited");
        }
        rate
    }

    /// How often the gateway tells about itself.
    pub(super) fn stats(&mut self, node: Option<&Node>) -> Option<Duration> {
        let usual = Some(Duration::from_secs(60));
        let Some(node) = node else { return usual };
        self.reader.keys(node, &["every"]);
        let Some(every) = node.get("every") else { return usual };
        if self.reader.text(every)? == "never" {
            return None;
        }
        let found = self.reader.duration(every)?;
        if found < Duration::from_secs(1) {
            self.reader.error(every.at, "`every` is at least 1s here", "60s is usual; `never` for none");
        }
        Some(found)
    }

    pub(super) fn web(&mut self, node: Option<&Node>, broker: &Broker) -> Option<SocketAddr> {
        let node = node?;
        self.reader.keys(node, &["listen"]);
        let Some(listen) = node.get("listen") else {
            self.reader.error(node.at, "`web` has `listen`", "e.g. web: {listen: 127.0.0.1:8080}");
            return None;
        };
        let address = self.socket(listen)?;
        if !address.ip().is_loopback() {
            let help = "listen on 127.0.0.1, and put a web server with a login in front where others must see it";
            self.reader.error(
                listen.at,
                format!("{address} can be reached from elsewhere, and this page knows no users"),
                help,
            );
        }
        if broker.listen.iter().any(|l| l.address == address && address.port() != 0) {
            self.reader.error(listen.at, format!("the broker listens on {address} already"), "choose another port");
        }
        Some(address)
    }
}
