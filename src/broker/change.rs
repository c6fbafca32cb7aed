//! What a reload changes in the core while clients stay connected, beside rights and limits (`admission`): the filters of a
//! subscriber inside this process, and who is no longer welcome because the listener it came through is gone. Each takes
//! effect between two packets.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::core::Core;
use super::packet::Code;
use super::packet::Fault;
use super::packet::Options;
use super::router::Subscriber;
use super::router::Subscription;
use crate::topic::Qos;
use crate::topic::TopicFilter;

impl Core {
    /// Other filters for a subscriber inside this process, in the place of those it had: no message between the two is
    /// missed or given twice. Retained messages are not given: they are old. False: there is no subscriber of that name.
    pub fn refilter_local(&mut self, name: &str, filters: Vec<(TopicFilter, Qos)>) -> bool {
        let found = self.locals.iter().find(|(_, local)| *local.name == *name && !local.inbox.is_closed());
        let Some(key) = found.map(|(key, _)| key) else { return false };
        let Some(local) = self.locals.get_mut(key) else { return false };
        let before = std::mem::replace(&mut local.filters, filters.clone());
        let who = Subscriber::Local(key);
        for (filter, _) in before.iter().filter(|(filter, _)| filters.iter().all(|(f, _)| f != filter)) {
            self.router.remove(filter, None, who);
        }
        for (filter, qos) in filters {
            let options = Options { qos, retain_as_published: true, ..Options::default() };
            self.router.insert(&filter, None, Subscription { who, options, identifier: None });
        }
        true
    }

    /// Ends the connections that come from these addresses (0x98, administrative action). Their sessions stay.
    pub fn send_away(&mut self, now: Instant, peers: &HashSet<SocketAddr>) {
        let there: Vec<usize> =
            self.conns.iter().filter(|(_, c)| peers.contains(&c.guest.peer)).map(|(key, _)| key).collect();
        for key in there {
            self.close(now, key, Fault { code: Code::ADMINISTRATIVE, why: "the gateway listens here no more" });
        }
        self.settle(now);
    }
}
