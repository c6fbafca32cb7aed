//! The listeners that are open, and how others take their place while clients stay connected. New ones are bound before old
//! ones are closed; only where both want one port does the old one go first, and it comes back when the new one cannot be
//! had. Where the address stays, the socket stays, and only what is spoken there changes: so are renewed certificates read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::BrokerError;
use super::hub::Hub;
use super::listener;
use super::listener::Door;
use super::listener::Terms;
use crate::config::plant::Listener;

/// Between two looks whether everybody has left a closed listener: some may still have been on their way in.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who came in, by the address they have there, and the one they came to here.
pub(super) type Guests = Rc<RefCell<HashMap<SocketAddr, SocketAddr>>>;

/// What a listener at work shares with its connections and with whoever changes it.
#[derive(Clone)]
pub(super) struct Desk {
    /// Its own as long as it listens; no other listener has it, not even later.
    pub(super) number: usize,
    pub(super) terms: Rc<RefCell<Arc<Terms>>>,
    pub(super) guests: Guests,
    /// Said when it is to close.
    pub(super) stop: CancellationToken,
}

/// A listener at work.
struct Open {
    listener: Listener,
    address: SocketAddr,
    desk: Desk,
    ended: JoinHandle<()>,
}

/// All of them.
pub(super) struct Doors {
    hub: Rc<Hub>,
    open: Vec<Open>,
    /// Number of the next one to open.
    next: usize,
    addresses: watch::Sender<Arc<[SocketAddr]>>,
}

impl Doors {
    /// Begins to accept.
    pub(super) fn open(hub: Rc<Hub>, doors: Vec<Door>, addresses: watch::Sender<Arc<[SocketAddr]>>) -> Self {
        let mut all = Self { hub, open: Vec::new(), next: 0, addresses };
        all.begin(doors);
        all.tell();
        all
    }

    /// As the status shows them.
    pub(super) fn names(&self) -> Vec<String> {
        self.open.iter().map(|open| open.address.to_string()).collect()
    }

    fn begin(&mut self, doors: Vec<Door>) {
        for door in doors {
            let number = self.next;
            self.next += 1;
            self.begin_as(number, door, Guests::default());
        }
    }

    fn begin_as(&mut self, number: usize, door: Door, guests: Guests) {
        let (listener, address) = (door.listener.clone(), door.address);
        let terms = Rc::new(RefCell::new(Arc::clone(&door.terms)));
        let stop = self.hub.stopping.child_token();
        let desk = Desk { number, terms, guests, stop };
        let (hub, shared) = (Rc::clone(&self.hub), desk.clone());
        let ended = tokio::task::spawn_local(async move {
            if let Err(error) = door.run(hub, shared).await {
                tracing::error!(%address, %error, "listener ended");
            }
        });
        self.open.push(Open { listener, address, desk, ended });
    }

    fn tell(&self) {
        self.addresses.send_replace(self.open.iter().map(|open| open.address).collect());
    }

    /// These from now on, or, on an error, those before.
    pub(super) async fn change(&mut self, wanted: Vec<(Listener, Arc<Terms>)>) -> Result<(), BrokerError> {
        let mut before: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        let mut stay = Vec::new();
        let mut come = Vec::new();
        for (listener, terms) in wanted {
            let here = before.iter().position(|o| o.as_ref().is_some_and(|o| is_same_place(&o.listener, &listener)));
            match here.and_then(|at| before[at].take()) {
                Some(open) => stay.push((open, listener, terms)),
                None => come.push((listener, terms)),
            }
        }
        let mut go: Vec<Open> = before.into_iter().flatten().collect();
        let bound = bind(come, &mut go).await;
        let refused = bound.as_ref().err().cloned();
        for (mut open, listener, terms) in stay {
            if refused.is_none() {
                open.desk.terms.replace(terms);
                open.listener = listener;
            }
            self.open.push(open);
        }
        match bound {
            Ok(doors) => self.begin(doors),
            // Those that had to make room have done so; they come back.
            Err(_) => go = self.come_back(go),
        }
        if refused.is_some() {
            self.open.append(&mut go);
        }
        for open in go {
            tracing::info!(address = %open.address, "listens no more");
            open.desk.stop.cancel();
            self.see_out(&open);
        }
        self.tell();
        refused.map_or(Ok(()), Err)
    }

    fn come_back(&mut self, all: Vec<Open>) -> Vec<Open> {
        let (closed, rest): (Vec<Open>, Vec<Open>) = all.into_iter().partition(|open| open.desk.stop.is_cancelled());
        for was in closed {
            let terms = Arc::clone(&was.desk.terms.borrow());
            let at = Listener { address: was.address, ..was.listener.clone() };
            match listener::bind(&at, terms) {
                Ok(door) => {
                    self.begin_as(was.desk.number, Door { listener: was.listener, ..door }, was.desk.guests);
                }
                Err(error) => tracing::error!(address = %was.address, %error, "the listener cannot be opened again"),
            }
        }
        rest
    }

    /// Its guests go, but for those whom another listener would let in at the same address.
    fn see_out(&self, closed: &Open) {
        let scheme = closed.listener.scheme();
        let open: Vec<SocketAddr> =
            self.open.iter().filter(|o| o.listener.scheme() == scheme).map(|o| o.address).collect();
        let guests = Rc::clone(&closed.desk.guests);
        guests.borrow_mut().retain(|_, local| !open.iter().any(|address| is_reached(*address, *local)));
        let hub = Rc::clone(&self.hub);
        tokio::task::spawn_local(async move {
            while !guests.borrow().is_empty() && !hub.stopping.is_cancelled() {
                let peers: HashSet<SocketAddr> = guests.borrow().keys().copied().collect();
                hub.with(|core, now| core.send_away(now, &peers));
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }
}

/// Whether a listener can become the other without closing its socket. Two on "any port" are told apart by what is spoken.
fn is_same_place(open: &Listener, wanted: &Listener) -> bool {
    open.address == wanted.address && (open.address.port() != 0 || open.scheme() == wanted.scheme())
}

/// Whether who came to `local` would get in at a listener bound to `address`.
fn is_reached(address: SocketAddr, local: SocketAddr) -> bool {
    let any = address.ip().is_unspecified() && (address.is_ipv6() || local.ip().to_canonical().is_ipv4());
    address.port() == local.port() && (any || address.ip() == local.ip())
}

/// Binds all of them or none. Where a port is held by one of those that go, that one goes first.
async fn bind(come: Vec<(Listener, Arc<Terms>)>, go: &mut [Open]) -> Result<Vec<Door>, BrokerError> {
    let mut doors = Vec::new();
    let mut blocked = Vec::new();
    for (listener, terms) in come {
        match listener::bind(&listener, Arc::clone(&terms)) {
            Ok(door) => doors.push(door),
            Err(_) if go.iter().any(|o| o.address.port() == listener.address.port()) => blocked.push((listener, terms)),
            Err(error) => return Err(error),
        }
    }
    for (listener, terms) in blocked {
        for open in go.iter_mut().filter(|o| o.address.port() == listener.address.port() && !o.desk.stop.is_cancelled())
        {
            open.desk.stop.cancel();
            // Its socket is closed when its task has ended.
            let _ = (&mut open.ended).await;
        }
        doors.push(listener::bind(&listener, terms)?);
    }
    Ok(doors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_stays_where_another_listener_would_let_it_in() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (address, local, want) in [
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("0.0.0.0:1883", "127.0.0.1:1884", false),
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("127.0.0.1:1883", "192.0.2.1:1883", false),
            ("[::]:1883", "192.0.2.1:1883", true),
            ("0.0.0.0:1883", "[2001:db8::1]:1883", false),
        ] {
            assert_eq!(is_reached(at(address), at(local)), want, "{address} {local}");
        }
    }
}
