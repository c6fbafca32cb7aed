//! `audit`: how much of what was written to machines is remembered, and what happens when it cannot be.

use std::time::Duration;

use crate::config::check::Checker;
use crate::config::node::Node;
use crate::config::plant::Audit;
use crate::config::plant::Spool;
use crate::config::plant::WhenUnwritable;

pub(in crate::config) const AUDIT_KEYS: &[&str] = &["path", "max_size", "max_age", "when_unwritable"];
/// The database needs some pages for itself.
const LEAST_SIZE: u64 = 256 * 1024;
/// More is a trail that nobody reads, on a disk that others need.
const LARGEST_SIZE: u64 = 4 << 30;
/// What is forgotten sooner cannot keep a command from being done twice.
const LEAST_AGE: Duration = Duration::from_secs(86_400);

impl Checker {
    pub(super) fn audit(&mut self, node: Option<&Node>, spool: &Spool) -> Audit {
        let mut audit = Audit::in_folder(&self.state_dir);
        let Some(node) = node else { return audit };
        self.reader.keys(node, AUDIT_KEYS);
        if let Some(at) = node.get("path") {
            if let Some(path) = self.reader.text(at) {
                audit.path = self.state_dir.join(path);
            }
            if audit.path == spool.path {
                let message = format!("{} is the spool's file already", audit.path.display());
                self.reader.error(at.at, message, "each has a file of its own: leave `path` out, or choose another");
            }
        }
        if let Some((size, n)) = node.get("max_size").and_then(|n| Some((self.reader.size(n)?, n))) {
            if !(LEAST_SIZE..=LARGEST_SIZE).contains(&size) {
                let message = format!("`max_size` is {size} bytes, it may be 256KiB to 4GiB");
                self.reader.error(n.at, message, "16MiB holds some 20,000 writes");
            }
            audit.max_size = size;
        }
        if let Some((age, n)) = node.get("max_age").and_then(|n| Some((self.reader.duration(n)?, n))) {
            if age < LEAST_AGE {
                let message = format!("`max_age` is {} s, it is at least 1d", age.as_secs());
                self.reader.error(n.at, message, "365d is usual; ids of commands are remembered for a day");
            }
            audit.max_age = age;
        }
        let words = [("write", WhenUnwritable::Write), ("refuse", WhenUnwritable::Refuse)];
        let chosen = node.get("when_unwritable").and_then(|n| self.reader.word(n, &words));
        audit.when_unwritable = chosen.unwrap_or(audit.when_unwritable);
        audit
    }
}
