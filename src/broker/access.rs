//! Who may come in, and who may publish and subscribe to what. Rules are turned into plain filters once a connection.
//! Passwords are argon2 hashes; checking one takes 19 MiB and some 30 ms by design, so the caller does it away from the
//! broker's thread and at most two at once.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use argon2::Argon2;
use argon2::PasswordHash;
use argon2::PasswordHasher;
use argon2::PasswordVerifier;

use super::admission::Guest;
use super::packet::Code;
use crate::config::plant::AccessRule;
use crate::config::plant::Anonymous;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// A hash nobody's password has: checking against it takes as long for an unknown user as for a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Salted argon2id hash of a password, as `users.yaml` keeps it (PHC string). `None`: the system gave no random salt.
pub fn hash_password(password: &str) -> Option<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).ok()?;
    let hash: PasswordHash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).ok()?;
    Some(hash.to_string())
}

/// Whether the password is the one of the hash. Slow on purpose.
pub fn verify_password(password: &[u8], hash: &str) -> bool {
    Argon2::default().verify_password(password, hash).is_ok()
}

/// Whether a text is a hash that [`verify_password`] can check.
pub fn is_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok()
}

/// A password's hash. Kept out of whatever is printed for debugging: it can be tried against guesses.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(Arc<str>);

impl Hash {
    /// In the form that [`verify_password`] checks.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Hash {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// The rules of one broker.
#[derive(Debug, Clone)]
pub struct Access {
    anonymous: Anonymous,
    users: HashMap<String, Hash>,
    rules: Vec<AccessRule>,
}

/// What is to be done with somebody who wants in.
#[derive(Debug, PartialEq, Eq)]
pub enum Login {
    /// Comes in.
    Allowed,
    /// Stays out.
    Refused(Code),
    /// Comes in if the password belongs to this hash.
    Check(Hash),
}

/// How somebody showed who they are. Users come and go while the broker runs; what was shown must still be worth something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Not at all: without a name.
    Nothing,
    /// By the password of this hash.
    Password(Hash),
    /// By a certificate.
    Certificate,
}

/// What one connection may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Everything.
    All,
    /// What these cover.
    Only {
        /// Subscribe.
        read: Vec<TopicFilter>,
        /// Publish.
        write: Vec<TopicFilter>,
    },
}

impl Access {
    /// Takes the rules and the users with their hashes.
    pub fn new(anonymous: Anonymous, users: Vec<(String, String)>, rules: Vec<AccessRule>) -> Self {
        Self {
            anonymous,
            users: users.into_iter().map(|(name, hash)| (name, Hash::from(hash.as_str()))).collect(),
            rules,
        }
    }

    /// First step of a login; the password itself is checked elsewhere.
    pub fn login(&self, username: Option<&str>, peer: IpAddr) -> Login {
        match (username, self.anonymous) {
            (Some(name), _) if self.users.contains_key(name) => Login::Check(self.users[name].clone()),
            // Many clients send some name by habit; where everybody may come in, so may they.
            (_, Anonymous::Always) => Login::Allowed,
            (_, Anonymous::Loopback) if is_loopback(peer) && (username.is_none() || self.users.is_empty()) => {
                Login::Allowed
            }
            (Some(_), _) => Login::Check(NOBODY.into()),
            (None, _) => Login::Refused(Code::NOT_AUTHORIZED),
        }
    }

    /// Whether somebody who is in would be let in again. Who came without a name stays as long as anybody may.
    pub fn still_admits(&self, guest: &Guest) -> bool {
        match (&guest.user, &guest.proof) {
            (Some(user), Proof::Password(hash)) => self.users.get(&**user) == Some(hash),
            (Some(_), Proof::Certificate) => true,
            _ => self.login(None, guest.peer.ip()) == Login::Allowed,
        }
    }

    /// The first rule for the user and the client id decides; without one only loopback may do anything.
    pub fn grant(&self, user: Option<&str>, client_id: &str, peer: IpAddr) -> Grant {
        let applies = |rule: &&AccessRule| {
            let client = rule.client.as_deref().is_none_or(|pattern| is_client(pattern, client_id));
            client && rule.user.as_deref().is_none_or(|wanted| Some(wanted) == user)
        };
        match self.rules.iter().find(applies) {
            Some(rule) => {
                let fill =
                    |filters: &[TopicFilter]| filters.iter().filter_map(|f| filled(f, user, client_id)).collect();
                let mut write: Vec<_> = fill(&rule.write);
                // Raw access is somebody's, never everybody's.
                write.retain(|filter| rule.user.is_some() || !filter.names_raw());
                Grant::Only { read: fill(&rule.read), write }
            }
            None if is_loopback(peer) => Grant::All,
            None => Grant::Only { read: Vec::new(), write: Vec::new() },
        }
    }
}

impl Grant {
    /// Whether it may publish there. `$SYS` is the broker's own; raw requests to a line are for whom a rule allows them by name.
    pub fn may_write(&self, topic: &TopicName) -> bool {
        if topic.as_str() == "$SYS" || topic.as_str().starts_with("$SYS/") {
            return false;
        }
        match self {
            Self::All => !topic.is_raw(),
            Self::Only { write, .. } => write.iter().any(|filter| filter.matches(topic) && gives(filter, topic)),
        }
    }

    /// Whether it may be given what is published there.
    pub fn may_read_topic(&self, topic: &TopicName) -> bool {
        match self {
            Self::All => true,
            Self::Only { read, .. } => read.iter().any(|filter| filter.matches(topic)),
        }
    }

    /// Whether it may subscribe to everything the filter can match.
    pub fn may_read(&self, filter: &TopicFilter) -> bool {
        match self {
            Self::All => true,
            Self::Only { read, .. } => read.iter().any(|rule| covers(rule, filter)),
        }
    }
}

/// The id itself, or how it begins.
fn is_client(pattern: &str, client_id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => client_id.starts_with(beginning),
        None => client_id == pattern,
    }
}

/// A wildcard does not give raw access to a line.
fn gives(filter: &TopicFilter, topic: &TopicName) -> bool {
    !topic.is_raw() || filter.names_raw()
}

/// `%u` and `%c` replaced. A name that would add levels or wildcards makes the rule void: nobody may choose a name to get
/// more than the rule means.
fn filled(pattern: &TopicFilter, user: Option<&str>, client_id: &str) -> Option<TopicFilter> {
    let mut text = pattern.as_str().to_owned();
    for (mark, name) in [("%u", user), ("%c", Some(client_id))] {
        if pattern.as_str().contains(mark) {
            let name = name.filter(|n| !n.is_empty() && !n.contains(['/', '+', '#', '%']))?;
            text = text.replace(mark, name);
        }
    }
    TopicFilter::new(text).ok()
}

/// Whether `rule` matches every topic that `filter` matches.
fn covers(rule: &TopicFilter, filter: &TopicFilter) -> bool {
    if filter.as_str().starts_with('$') && rule.as_str().starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.as_str().split('/');
    for level in rule.as_str().split('/') {
        match (level, wanted.next()) {
            // `a/#` covers `a` as well.
            ("#", _) => return true,
            ("+", Some(want)) if want != "#" => {}
            (level, Some(want)) if level == want => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

/// 127.0.0.0/8 and ::1, also where an IPv4 peer shows up as an IPv6 address.
fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn access(anonymous: Anonymous) -> Access {
        let rule = |user: Option<&str>, read: &str, write: &str| AccessRule {
            user: user.map(Arc::from),
            client: None,
            read: vec![filter(read)],
            write: vec![filter(write)],
        };
        let rules = vec![rule(Some("hmi"), "plant/#", "plant/+/+/set"), rule(Some("cell"), "cell/%u/%c/#", "x/%c")];
        Access::new(anonymous, vec![("hmi".into(), "hash".into())], rules)
    }

    #[test]
    fn strangers_come_in_from_loopback_only_unless_the_file_says_otherwise() {
        assert_eq!(access(Anonymous::Loopback).login(None, HERE), Login::Allowed);
        assert_eq!(access(Anonymous::Loopback).login(None, AWAY), Login::Refused(Code::NOT_AUTHORIZED));
        assert_eq!(access(Anonymous::Never).login(None, HERE), Login::Refused(Code::NOT_AUTHORIZED));
        assert_eq!(access(Anonymous::Always).login(None, AWAY), Login::Allowed);
        assert_eq!(access(Anonymous::Always).login(Some("hmi"), AWAY), Login::Check("hash".into()));
        assert_eq!(access(Anonymous::Loopback).login(Some("x"), HERE), Login::Check(NOBODY.into()));
    }

    #[test]
    fn the_first_rule_for_the_user_decides() {
        let access = access(Anonymous::Loopback);
        let hmi = access.grant(Some("hmi"), "c", HERE);
        assert!(
            hmi.may_read(&filter("plant/+/x")) && hmi.may_read(&filter("plant/#")) && hmi.may_read(&filter("plant"))
        );
        assert!(!hmi.may_read(&filter("#")) && !hmi.may_read(&filter("+/x")));
        assert!(hmi.may_write(&TopicName::new("plant/a/b/set").unwrap()));
        assert!(!hmi.may_write(&TopicName::new("plant/a/b").unwrap()));
        assert_eq!(access.grant(None, "c", HERE), Grant::All);
        assert!(!access.grant(None, "c", AWAY).may_read(&filter("a")));
    }

    #[test]
    fn a_name_cannot_widen_its_own_rule() {
        let access = access(Anonymous::Loopback);
        assert!(access.grant(Some("cell"), "c1", AWAY).may_read(&filter("cell/cell/c1/x")));
        for id in ["#", "+", "a/b", ""] {
            assert!(!access.grant(Some("cell"), id, AWAY).may_write(&TopicName::new("x/y").unwrap()), "{id}");
        }
    }

    #[test]
    fn a_rule_may_be_for_one_client_id_or_for_all_that_begin_alike() {
        let rule = |user: Option<&str>, client: Option<&str>, read: &str| AccessRule {
            user: user.map(Arc::from),
            client: client.map(Arc::from),
            read: vec![filter(read)],
            write: Vec::new(),
        };
        let rules = vec![
            rule(Some("hmi"), Some("panel-1"), "one/#"),
            rule(Some("hmi"), Some("panel-*"), "any/#"),
            rule(Some("hmi"), None, "rest/#"),
            rule(None, Some("guest-*"), "guest/#"),
        ];
        let access = Access::new(Anonymous::Always, Vec::new(), rules);
        for (user, client, may) in [
            (Some("hmi"), "panel-1", "one/x"),
            (Some("hmi"), "panel-12", "any/x"),
            (Some("hmi"), "panel-", "any/x"),
            (Some("hmi"), "else", "rest/x"),
            (None, "guest-7", "guest/x"),
        ] {
            let grant = access.grant(user, client, AWAY);
            let allowed = ["one/x", "any/x", "rest/x", "guest/x"].into_iter().filter(|t| grant.may_read(&filter(t)));
            assert_eq!(allowed.collect::<Vec<_>>(), [may], "{user:?} {client}");
        }
        assert!(!access.grant(None, "panel-1", AWAY).may_read(&filter("one/x")));
    }

    #[test]
    fn nobody_writes_to_sys() {
        assert!(!Grant::All.may_write(&TopicName::new("$SYS/broker/uptime").unwrap()));
        assert!(Grant::All.may_write(&TopicName::new("$else").unwrap()));
    }

    #[test]
    fn raw_access_is_for_users_to_whom_a_rule_gives_it_by_name() {
        let raw = TopicName::new("plant/hall/$modbus").unwrap();
        assert!(!Grant::All.may_write(&raw), "not even on this machine");
        let rule = |user: Option<&str>, write: &str| AccessRule {
            user: user.map(Arc::from),
            client: None,
            read: Vec::new(),
            write: vec![filter(write)],
        };
        for (user, write, may) in [
            (Some("ann"), "#", false),
            (Some("ann"), "plant/#", false),
            (Some("ann"), "plant/+/+", false),
            (Some("ann"), "plant/hall/+", false),
            (Some("ann"), "plant/hall/$modbus", true),
            (Some("ann"), "plant/+/$modbus", true),
            (Some("ann"), "plant/plc/$modbus", false),
            (None, "plant/hall/$modbus", false),
        ] {
            let access = Access::new(Anonymous::Always, Vec::new(), vec![rule(user, write)]);
            assert_eq!(access.grant(Some("ann"), "c", HERE).may_write(&raw), may, "{user:?} {write}");
        }
        let access = Access::new(Anonymous::Always, Vec::new(), vec![rule(Some("ann"), "plant/#")]);
        let result = TopicName::new("plant/hall/$modbus/result").unwrap();
        assert!(access.grant(Some("ann"), "c", HERE).may_write(&result), "nothing listens there");
    }

    #[test]
    fn a_hash_is_of_its_password_only() {
        let hash = hash_password("secret").unwrap();
        assert!(hash.starts_with("$argon2id$") && is_hash(&hash));
        assert!(verify_password(b"secret", &hash));
        assert!(!verify_password(b"Secret", &hash));
        assert!(is_hash(NOBODY));
        let access = Access::new(Anonymous::Never, vec![("hmi".into(), hash.clone())], Vec::new());
        let shown =
            format!("{access:?} {:?} {:?}", access.login(Some("hmi"), HERE), Proof::Password(hash.as_str().into()));
        assert!(shown.contains("hmi") && !shown.contains("argon2"), "{shown}");
        assert!(!verify_password(b"", NOBODY));
    }
}
