//! What belongs to the configuration but lies in files of its own, read anew with every reload: the users, and the
//! certificates of the listeners. What a plant says of them is only their paths.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use crate::broker::access;
use crate::config::Plant;
use crate::config::difference::{Change, Sign};
use crate::config::users;

/// As it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Beside {
    /// Names and hashes.
    pub(super) users: Vec<(String, String)>,
    /// Files of certificates and keys, and what tells their contents apart.
    files: Vec<(PathBuf, Option<u64>)>,
}

impl Beside {
    /// Reads what this plant names; an error says what is wrong, never a hash.
    pub(super) fn read(plant: &Plant) -> Result<Self, String> {
        let users = match &plant.broker.users {
            Some(path) => users::load(path)?,
            None => Vec::new(),
        };
        if let Some((name, _)) = users.iter().find(|(_, hash)| !access::is_hash(hash)) {
            return Err(format!("user {name:?} has no usable argon2 hash; set one with `trunkline passwd`"));
        }
        let tls = plant.broker.listen.iter().filter_map(|listener| listener.tls.as_ref());
        let paths = tls.flat_map(|tls| [&tls.cert, &tls.key].into_iter().chain(tls.clients.as_ref().map(|c| &c.ca)));
        let files = paths.map(|path| (path.clone(), print_of(path))).collect();
        Ok(Self { users, files })
    }

    /// How it differs, in words.
    pub(super) fn changes_to(&self, now: &Self) -> Vec<Change> {
        let mut out = Vec::new();
        let mut told = |sign, what| out.push(Change { sign, what, effect: "" });
        for (name, hash) in &now.users {
            match self.users.iter().find(|(n, _)| n == name) {
                None => told(Sign::Added, format!("user {name}")),
                Some((_, was)) if was != hash => told(Sign::Changed, format!("user {name}: password")),
                Some(_) => {}
            }
        }
        for (name, _) in self.users.iter().filter(|(n, _)| now.users.iter().all(|(m, _)| m != n)) {
            told(Sign::Removed, format!("user {name}"));
        }
        for (path, print) in &now.files {
            if self.files.iter().any(|(was, old)| was == path && old != print) {
                told(Sign::Changed, format!("file {}: another certificate or key", path.display()));
            }
        }
        out
    }
}

/// Tells contents apart within this run; `None` where there are none to be read.
fn print_of(path: &std::path::Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_go_and_get_other_passwords_and_no_hash_is_told() {
        let beside = |users: &[(&str, &str)]| Beside {
            users: users.iter().map(|(n, h)| ((*n).to_owned(), (*h).to_owned())).collect(),
            files: Vec::new(),
        };
        let (before, after) =
            (beside(&[("a", "h1"), ("b", "h2"), ("c", "h3")]), beside(&[("a", "h1"), ("b", "h9"), ("d", "h4")]));
        let said: Vec<String> = before.changes_to(&after).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["~ user b: password", "+ user d", "- user c"]);
        assert!(before.changes_to(&before.clone()).is_empty());
    }
}
