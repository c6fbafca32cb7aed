//! Who is in, by what right, and whether that right still stands when users, rules or limits change while the broker runs:
//! whoever lost it is told (0x87) and goes, everybody else notices nothing. Part of the core; no socket, no clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::access::Access;
use super::access::Grant;
use super::access::Proof;
use super::core::Core;
use super::packet::Code;
use super::packet::Fault;
use super::router::Subscriber;
use crate::config::plant::Limits;

/// Who wants in, after the login.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Remote address.
    pub peer: SocketAddr,
    /// User name, where it was shown to be theirs.
    pub user: Option<Arc<str>>,
    /// How it was shown.
    pub proof: Proof,
    /// Number of the listener they came in through.
    pub door: usize,
    /// What holds for those who came in there.
    pub limits: Limits,
}

impl Guest {
    /// Somebody without a name, through the first listener.
    pub const fn nobody(peer: SocketAddr, limits: Limits) -> Self {
        Self { peer, user: None, proof: Proof::Nothing, door: 0, limits }
    }
}

/// What new users and rules did to those who were connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readmitted {
    /// Closed: the user was removed, has another password, or may not come in without a name any more.
    pub without_login: usize,
    /// Closed: a subscription is not allowed any more. It was taken away; the rest of the session is kept.
    pub without_right: usize,
    /// Stay as they were.
    pub staying: usize,
}

impl Core {
    /// New users, rules and limits. Limits hold for those who come from now on.
    pub fn readmit(&mut self, now: Instant, access: Access, limits: Limits) -> Readmitted {
        self.access = access;
        self.limit(limits);
        let keys: Vec<usize> = self.conns.iter().filter(|(_, conn)| !conn.closing).map(|(key, _)| key).collect();
        let mut readmitted = Readmitted::default();
        for key in keys {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            let (guest, session) = (conn.guest.clone(), conn.session);
            let grant = self.access.grant(guest.user.as_deref(), &conn.client_id, guest.peer.ip());
            // A last will is published by the right of who leaves it, which may be gone.
            if let Some(seat) = session.and_then(|seat| self.seats.get_mut(seat))
                && seat.will.topic().is_some_and(|topic| !grant.may_write(topic))
            {
                seat.will.take();
            }
            let code = Code::NOT_AUTHORIZED;
            if !self.access.still_admits(&guest) {
                readmitted.without_login += 1;
                self.close(now, key, Fault { code, why: "the user was removed or has to log in anew" });
            } else if session.is_some_and(|seat| self.prune(seat, &grant)) {
                readmitted.without_right += 1;
                self.close(now, key, Fault { code, why: "a subscription is not allowed any more" });
            } else {
                readmitted.staying += 1;
            }
            if let Some(conn) = self.conns.get_mut(key) {
                conn.grant = grant;
            }
        }
        self.settle(now);
        readmitted
    }

    /// Takes a session's subscriptions away that are not allowed, and what waits because of them; true when there were any.
    pub(super) fn prune(&mut self, key: usize, grant: &Grant) -> bool {
        let Some(seat) = self.seats.get_mut(key) else { return false };
        let subscriptions = seat.session.subscriptions().iter();
        let lost = subscriptions.filter(|(_, subscribed)| !grant.may_read(&subscribed.filter));
        let lost: Vec<Arc<str>> = lost.map(|(text, _)| Arc::clone(text)).collect();
        for text in &lost {
            tracing::warn!(client = %seat.client_id, filter = %text, "subscription taken away: no rule allows it any more");
            let Some(old) = seat.session.unsubscribe(text) else { continue };
            if old.group.is_none() {
                seat.session.stop_replay(&old.filter);
            }
            self.router.remove(&old.filter, old.group.as_ref(), Subscriber::Session(key));
        }
        if !lost.is_empty() {
            seat.session.forget_waiting(|topic| !grant.may_read_topic(topic));
        }
        !lost.is_empty()
    }

    /// Connections that came in through one listener.
    pub(super) fn came_through(&self, door: usize) -> usize {
        self.conns.iter().filter(|(_, conn)| conn.guest.door == door && !conn.closing).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::BytesMut;

    use crate::broker::packet::Packet;
    use crate::broker::packet::decode::Decoder;
    use crate::config::plant::AccessRule;
    use crate::config::plant::Anonymous;
    use crate::topic::TopicFilter;

    fn rule(user: &str, read: &[&str]) -> AccessRule {
        let filter = |text: &&str| TopicFilter::new(*text).unwrap();
        AccessRule {
            user: Some(user.into()),
            client: None,
            read: read.iter().map(filter).collect(),
            write: vec![filter(&"#")],
        }
    }

    fn access(users: &[(&str, &str)], rules: Vec<AccessRule>) -> Access {
        let users = users.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned()));
        Access::new(Anonymous::Loopback, users.collect(), rules)
    }

    struct World {
        core: Core,
        now: Instant,
    }

    impl World {
        fn new(access: Access) -> Self {
            let now = Instant::now();
            Self { core: Core::new(Limits::default(), access, now), now }
        }

        /// A 5.0 client whose session is kept, and what it hears first.
        fn join(&mut self, id: &str, user: Option<(&str, Proof)>, will: Option<&str>) -> usize {
            let flags = if will.is_some() { 4 } else { 0 };
            let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
            let will = will.map(|topic| [&[0][..], &text(topic), &text("gone")].concat()).unwrap_or_default();
            let head = [&text("MQTT")[..], &[5, flags, 0, 0, 5, 0x11, 0, 0, 0xE, 0x10]].concat();
            let body = [head, text(id), will].concat();
            let mut bytes = BytesMut::from(&[&[0x10, body.len() as u8], &body[..]].concat()[..]);
            let Some(Packet::Connect(connect)) = Decoder::new(4096).next(&mut bytes).unwrap() else { panic!() };
            let (user, proof) = user.map_or((None, Proof::Nothing), |(name, proof)| (Some(name.into()), proof));
            let guest = Guest { user, proof, ..Guest::nobody(([127, 0, 0, 1], 1).into(), Limits::default()) };
            self.core.connect(self.now, *connect, guest).unwrap()
        }

        fn say(&mut self, key: usize, bytes: &[u8]) {
            let hello = b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0";
            let mut decoder = Decoder::new(4096);
            decoder.next(&mut BytesMut::from(&hello[..])).unwrap();
            let packet = decoder.next(&mut BytesMut::from(bytes)).unwrap().unwrap();
            self.core.packet(self.now, key, packet);
        }

        fn subscribe(&mut self, key: usize, filter: &str) {
            let length = filter.len() as u8;
            self.say(key, &[&[0x82, length + 6, 0, 1, 0, 0, length], filter.as_bytes(), &[1]].concat());
        }

        fn publish(&mut self, key: usize, topic: &str) {
            let length = topic.len() as u8;
            self.say(key, &[&[0x32, length + 6, 0, length], topic.as_bytes(), &[0, 7, 0, b'x']].concat());
        }

        fn heard(&mut self, key: usize) -> Vec<u8> {
            let output = self.core.take_output(key);
            self.core.written(self.now, key);
            output.chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect()
        }
    }

    fn password(hash: &str) -> Proof {
        Proof::Password(hash.into())
    }

    fn has(heard: &[u8], what: &[u8]) -> bool {
        heard.windows(what.len()).any(|window| window == what)
    }

    #[test]
    fn who_was_removed_or_has_another_password_is_told_and_goes_and_nobody_else() {
        let users = [("stays", "h1"), ("removed", "h2"), ("changed", "h3")];
        let rules = || ["stays", "removed", "changed", "pump"].map(|user| rule(user, &["#"])).into();
        let mut world = World::new(access(&users, rules()));
        let stays = world.join("a", Some(("stays", password("h1"))), None);
        let pump = world.join("b", Some(("pump", Proof::Certificate)), None);
        let nobody = world.join("c", None, None);
        let removed = world.join("d", Some(("removed", password("h2"))), None);
        let changed = world.join("e", Some(("changed", password("h3"))), None);
        for key in [stays, pump, nobody, removed, changed] {
            world.subscribe(key, "t/#");
            world.heard(key);
        }
        let anew = access(&[("stays", "h1"), ("changed", "other")], rules());
        let done = world.core.readmit(world.now, anew, Limits::default());
        assert_eq!(done, Readmitted { without_login: 2, without_right: 0, staying: 3 });
        for key in [removed, changed] {
            assert_eq!(world.heard(key)[0], 0xE0);
            assert!(world.core.is_closing(key));
        }
        for key in [stays, pump, nobody] {
            assert!(world.heard(key).is_empty() && !world.core.is_closing(key));
        }
        world.publish(stays, "t/1");
        assert!(has(&world.heard(pump), b"t/1"), "subscriptions of the others are as they were");
    }

    #[test]
    fn the_reason_is_not_authorized() {
        let mut world = World::new(access(&[("u", "h")], Vec::new()));
        let gone = world.join("a", Some(("u", password("h"))), None);
        world.heard(gone);
        world.core.readmit(world.now, access(&[], Vec::new()), Limits::default());
        let heard = world.heard(gone);
        assert_eq!((heard[0], heard[2]), (0xE0, 0x87));
        assert!(has(&heard, b"removed or has to log in anew"));
    }

    #[test]
    fn a_subscription_that_is_not_allowed_any_more_is_taken_away_with_what_waits() {
        let users = [("u", "h")];
        let user = || Some(("u", password("h")));
        let mut world = World::new(access(&users, vec![rule("u", &["a/#", "b/#"])]));
        let key = world.join("c", user(), None);
        world.subscribe(key, "a/#");
        world.subscribe(key, "b/#");
        world.heard(key);
        let done = world.core.readmit(world.now, access(&users, vec![rule("u", &["a/#"])]), Limits::default());
        assert_eq!(done.without_right, 1);
        assert_eq!(world.heard(key)[2], 0x87);
        world.core.gone(world.now, key);
        let other = world.join("other", None, None);
        world.publish(other, "a/1");
        world.publish(other, "b/1");
        let back = world.join("c", user(), None);
        let heard = world.heard(back);
        assert_eq!(heard[2], 1, "the session is still there");
        assert!(has(&heard, b"a/1") && !has(&heard, b"b/1"));
    }

    #[test]
    fn rules_that_changed_while_a_client_was_away_hold_when_it_returns() {
        let users = [("u", "h")];
        let user = || Some(("u", password("h")));
        let mut world = World::new(access(&users, vec![rule("u", &["#"])]));
        let key = world.join("c", user(), None);
        world.subscribe(key, "a/#");
        world.subscribe(key, "b/#");
        world.core.gone(world.now, key);
        let other = world.join("other", None, None);
        world.publish(other, "a/1");
        world.publish(other, "b/1");
        let narrow = access(&users, vec![rule("u", &["a/#"])]);
        assert_eq!(world.core.readmit(world.now, narrow, Limits::default()).staying, 1);
        let back = world.join("c", user(), None);
        let heard = world.heard(back);
        assert!(has(&heard, b"a/1") && !has(&heard, b"b/1"), "what waited is not given out either");
        world.publish(other, "b/2");
        world.publish(other, "a/2");
        let heard = world.heard(back);
        assert!(has(&heard, b"a/2") && !has(&heard, b"b/2"));
    }

    #[test]
    fn a_last_will_goes_out_only_if_it_is_still_allowed() {
        for (write, want) in [("will", true), ("else", false)] {
            let users = [("u", "h")];
            let mut world = World::new(access(&users, vec![rule("u", &[])]));
            let key = world.join("c", Some(("u", password("h"))), Some("will"));
            let watcher = world.join("w", None, None);
            world.subscribe(watcher, "#");
            world.heard(watcher);
            let narrow = AccessRule { write: vec![TopicFilter::new(write).unwrap()], ..rule("u", &[]) };
            world.core.readmit(world.now, access(&users, vec![narrow]), Limits::default());
            world.core.gone(world.now, key);
            assert_eq!(has(&world.heard(watcher), b"will"), want, "{write}");
        }
    }

    #[test]
    fn who_came_without_a_name_goes_when_nobody_may_any_more() {
        let mut world = World::new(access(&[], Vec::new()));
        let nobody = world.join("a", None, None);
        let done = world.core.readmit(world.now, Access::new(Anonymous::Never, vec![], vec![]), Limits::default());
        assert_eq!(done, Readmitted { without_login: 1, ..Readmitted::default() });
        assert!(world.core.is_closing(nobody));
    }
}
