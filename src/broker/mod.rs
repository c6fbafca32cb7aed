//! The embedded MQTT broker: 3.1, 3.1.1 and 5.0 over TCP, TLS and WebSocket, and doors for the rest of this process.
//! It lives on a thread of its own with a current-thread runtime, so that what clients see in order is in order, and a busy
//! poller never delays a client. [`start`] binds before it returns; [`Broker`] is the handle.

pub mod access;
pub mod admission;
pub mod conn;
pub mod core;
pub mod keep;
pub mod local;
pub mod packet;
pub mod queue;
pub mod replay;
pub mod retained;
pub mod router;
pub mod session;
pub mod slab;
pub mod stored;
pub mod throttle;
pub mod traffic;
pub mod view;

mod change;
mod client;
mod deliver;
mod doors;
mod hub;
mod inbound;
mod inlet;
mod listener;
mod seat;
mod store;
mod sys;
mod tls;
mod websocket;
mod will;

#[cfg(test)]
mod bounded;
#[cfg(test)]
mod smoke;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::LocalSet;

pub use access::hash_password;
pub use admission::Readmitted;
pub use local::LocalSubscription;

use self::access::Access;
use self::core::Core;
use self::deliver::Local;
use self::doors::Doors;
use self::hub::Hub;
use self::keep::Saved;
use self::listener::Door;
use self::listener::Terms;
use self::queue::Depth;
use self::store::Store;
use crate::config::plant;
use crate::message::Message;
use crate::status::BrokerStatus;
use crate::topic::Qos;
use crate::topic::TopicFilter;
use crate::topic::TopicName;

/// Batches on their way in from one in-process publisher. Full: the publisher waits.
const INLET: usize = 256;
/// Requests of other threads. Full: they wait.
const REQUESTS: usize = 64;
/// How often time is looked at: keep-alives and expiries are counted in seconds.
const TICK: Duration = Duration::from_millis(500);
/// Every how many ticks the status is renewed, and the `$SYS` topics.
const STATUS_EVERY: u64 = 2;
const SYS_EVERY: u64 = 20;
/// How long clients may take to read their last packet.
const GRACE: Duration = Duration::from_millis(500);

/// What the broker needs beside its part of the plant.
#[derive(Clone)]
pub struct Options {
    /// `{gateway}` in topics.
    pub gateway: Arc<str>,
    /// Where `broker.db` lives: sessions and retained messages. Created if need be; a disk that cannot be written is
    /// logged and tried again, never an error.
    pub state_dir: PathBuf,
    /// User names and argon2 hashes, as `config::users::load` reads them.
    pub users: Vec<(String, String)>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<&str> = self.users.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Options").field("state_dir", &self.state_dir).field("users", &users).finish_non_exhaustive()
    }
}

/// Why the broker cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// An address cannot be listened on.
    #[error("the broker cannot listen on {address}: {why}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// What is wrong and what to do.
        why: String,
    },
    /// A certificate or key cannot be used.
    #[error("TLS file {}: {why}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A user's hash is none.
    #[error("user {0:?} has no usable argon2 hash; set one with `trunkline passwd`")]
    User(String),
    /// The store is not this version's to write.
    #[error("the broker's store {} cannot be used: {why}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The system gave no thread or runtime.
    #[error("the broker's thread cannot start: {0}")]
    Thread(String),
}

/// A look at the core, on its own thread.
type Look = Box<dyn FnOnce(&Core, Instant) + Send>;

/// What other threads ask of the broker's.
enum Request {
    Subscribe(Local, oneshot::Sender<()>),
    Inlet(Arc<str>, mpsc::Receiver<Vec<Message>>),
    Refilter(Arc<str>, Vec<(TopicFilter, Qos)>, oneshot::Sender<bool>),
    Readmit(Box<Anew>, oneshot::Sender<Result<Readmitted, BrokerError>>),
    Kick(Arc<str>, oneshot::Sender<bool>),
    Look(Look),
    Stop,
}

/// What holds from now on.
struct Anew {
    access: Access,
    limits: plant::Limits,
    listen: Vec<(plant::Listener, Arc<Terms>)>,
}

impl Anew {
    fn of(settings: plant::Broker, users: Vec<(String, String)>) -> Result<Self, BrokerError> {
        if let Some((name, _)) = users.iter().find(|(_, hash)| !access::is_hash(hash)) {
            return Err(BrokerError::User(name.clone()));
        }
        let ready = |listener| Ok((Arc::new(Terms::of(&listener)?), listener));
        let ready =
            settings.listen.into_iter().map(ready).map(|ready| ready.map(|(terms, listener)| (listener, terms)));
        let listen = ready.collect::<Result<_, BrokerError>>()?;
        let access = Access::new(settings.anonymous, users, settings.access);
        Ok(Self { access, limits: settings.limits, listen })
    }
}

/// The handle. Cheap to clone; when all are dropped the broker stops.
#[derive(Debug, Clone)]
pub struct Broker {
    requests: mpsc::Sender<Request>,
    inlet: mpsc::Sender<Vec<Message>>,
    status: watch::Receiver<BrokerStatus>,
    addresses: watch::Receiver<Arc<[SocketAddr]>>,
    /// Taken by the one who joins; a plain mutex for that moment.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Binds all listeners and starts the thread. Not async; needs no runtime.
pub fn start(settings: plant::Broker, options: Options) -> Result<Broker, BrokerError> {
    let Anew { access, limits, listen } = Anew::of(settings, options.users)?;
    let bind = |(listener, terms)| listener::bind(&listener, terms);
    let doors: Vec<Door> = listen.into_iter().map(bind).collect::<Result<_, _>>()?;
    let listeners = doors.iter().map(|door| door.address.to_string()).collect();
    let (bound, addresses) = watch::channel(doors.iter().map(|door| door.address).collect());
    let (requests, asked) = mpsc::channel(REQUESTS);
    let (inlet, published) = mpsc::channel(INLET);
    let (told, status) = watch::channel(BrokerStatus { listeners, ..BrokerStatus::default() });
    let (store, saved) = store::open(&options.state_dir)?;
    // Built here, so that a refusal is an error of `start` and not a silent end of the thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(|e| BrokerError::Thread(e.to_string()))?;
    let owner = Owner { doors, bound, limits, access, asked, published, told, store, saved };
    let thread = std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || LocalSet::new().block_on(&runtime, owner.run()))
        .map_err(|e| BrokerError::Thread(e.to_string()))?;
    Ok(Broker { requests, inlet, status, addresses, thread: Arc::new(Mutex::new(Some(thread))) })
}

impl Broker {
    /// Where the gateway's own messages go in; `retain` is honoured. Bounded: when it is full the sender waits.
    pub fn inlet(&self) -> mpsc::Sender<Vec<Message>> {
        self.inlet.clone()
    }

    /// An inlet under a name: a local subscription of the same name does not get what comes through it.
    pub async fn inlet_as(&self, name: &str) -> mpsc::Sender<Vec<Message>> {
        let (inlet, published) = mpsc::channel(INLET);
        // When the broker has stopped, the receiver is dropped here and the sender says so to whoever uses it.
        let _ = self.requests.send(Request::Inlet(name.into(), published)).await;
        inlet
    }

    /// Subscribes this process. Retained messages are there when this returns, flagged `retain`, however many; of live
    /// ones at most `capacity` wait, then new ones are dropped and counted.
    pub async fn subscribe(&self, name: &str, filters: Vec<(TopicFilter, Qos)>, capacity: usize) -> LocalSubscription {
        let (inbox, subscription) = local::inbox(capacity);
        let (done, subscribed) = oneshot::channel();
        let local = Local { name: name.into(), inbox, filters };
        // When the broker has stopped, the box is dropped here, which closes the subscription.
        let _ = self.requests.send(Request::Subscribe(local, done)).await;
        let _ = subscribed.await;
        subscription
    }

    /// New listeners, users, rules, limits and certificates, in force at once. Clients whose listener is gone are told (0x98)
    /// and go, as do those whose user was removed or has another password and those with a subscription that is not allowed
    /// any more (0x87); all others stay connected. New limits and certificates hold for who connects from now on. On an error
    /// everything is as before. Reads certificate files.
    pub async fn readmit(
        &self,
        settings: &plant::Broker,
        users: Vec<(String, String)>,
    ) -> Result<Readmitted, BrokerError> {
        let anew = Box::new(Anew::of(settings.clone(), users)?);
        let (done, readmitted) = oneshot::channel();
        // A broker that has stopped has nobody to admit.
        let _ = self.requests.send(Request::Readmit(anew, done)).await;
        readmitted.await.unwrap_or_else(|_| Ok(Readmitted::default()))
    }

    /// Other filters for a subscription of this process, with no message missed or given twice in between, and none of those
    /// that are retained. False: there is none of that name.
    pub async fn refilter(&self, name: &str, filters: Vec<(TopicFilter, Qos)>) -> bool {
        let (done, refiltered) = oneshot::channel();
        let _ = self.requests.send(Request::Refilter(name.into(), filters, done)).await;
        refiltered.await.unwrap_or(false)
    }

    /// Ends a client's connection (0x98, administrative action); false when it is not connected. Its session stays.
    pub async fn kick(&self, client_id: &str) -> bool {
        let (done, kicked) = oneshot::channel();
        let _ = self.requests.send(Request::Kick(client_id.into(), done)).await;
        kicked.await.unwrap_or(false)
    }

    /// Everybody the broker knows, without their subscriptions; `None` when it has stopped, here and below.
    pub async fn clients(&self) -> Option<view::Clients> {
        self.look(Core::clients).await
    }

    /// One client closely, or the ids of all when there is none of that id.
    pub async fn client(&self, id: &str) -> Option<Result<view::Portrait, Vec<String>>> {
        let id = id.to_owned();
        self.look(move |core, now| core.portrait(now, &id).ok_or_else(|| core.client_ids())).await
    }

    /// Topics that match with their last value, at most `limit` of them, beginning behind `after`.
    pub async fn topics(&self, filter: TopicFilter, after: Option<TopicName>, limit: usize) -> Option<view::Topics> {
        self.look(move |core, now| core.topics(now, &filter, after.as_ref(), limit)).await
    }

    async fn look<T: Send + 'static>(&self, at: impl FnOnce(&Core, Instant) -> T + Send + 'static) -> Option<T> {
        let (done, seen) = oneshot::channel();
        let look = Box::new(move |core: &Core, now: Instant| {
            // Whoever asked may have gone.
            let _ = done.send(at(core, now));
        });
        self.requests.send(Request::Look(look)).await.ok()?;
        seen.await.ok()
    }

    /// What is true now, renewed every second.
    pub fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.status.clone()
    }

    /// Addresses really bound, in order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.borrow().to_vec()
    }

    /// Tells the clients (0x8B), waits at most half a second for them to read it, and ends the thread.
    pub async fn stop(self) {
        let _ = self.requests.send(Request::Stop).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Joining blocks; the caller's runtime goes on.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// All that the thread owns.
struct Owner {
    doors: Vec<Door>,
    access: Access,
    limits: plant::Limits,
    asked: mpsc::Receiver<Request>,
    published: mpsc::Receiver<Vec<Message>>,
    told: watch::Sender<BrokerStatus>,
    bound: watch::Sender<Arc<[SocketAddr]>>,
    store: Store,
    saved: Saved,
}

impl Owner {
    async fn run(mut self) {
        let hub = Hub::new(Core::new(self.limits, self.access, Instant::now()));
        hub.with(|core, now| core.restore(now, self.saved));
        let mut doors = Doors::open(Rc::clone(&hub), self.doors, self.bound);
        tokio::task::spawn_local(inlet::publish_all(Rc::clone(&hub), "".into(), self.published));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0_u64;
        loop {
            let request = tokio::select! {
                request = self.asked.recv() => request,
                _ = ticks.tick() => {
                    on_tick(&hub, count, &self.told, (&doors.names(), &self.store));
                    save(&hub, &self.store);
                    count += 1;
                    continue;
                }
            };
            match request {
                Some(Request::Subscribe(local, done)) => {
                    hub.with(|core, now| core.subscribe_local(now, local));
                    let _ = done.send(());
                }
                Some(Request::Inlet(name, published)) => {
                    tokio::task::spawn_local(inlet::publish_all(Rc::clone(&hub), name, published));
                }
                Some(Request::Refilter(name, filters, done)) => {
                    let _ = done.send(hub.with(|core, _| core.refilter_local(&name, filters)));
                }
                Some(Request::Readmit(anew, done)) => {
                    let _ = done.send(readmit(&hub, &mut doors, *anew).await);
                    self.told.send_modify(|status| status.listeners = doors.names());
                }
                Some(Request::Kick(client_id, done)) => {
                    let _ = done.send(hub.with(|core, now| core.kick(now, &client_id)));
                }
                Some(Request::Look(look)) => hub.with(|core, now| look(core, now)),
                Some(Request::Stop) | None => break,
            }
        }
        close_down(&hub).await;
        let last = changes(&hub, &self.store, Depth::All);
        if !self.store.close(last).await {
            tracing::error!("sessions and retained messages of the last moments could not be written");
        }
    }
}

/// Listeners first: they alone can fail, and then nothing has changed.
async fn readmit(hub: &Hub, doors: &mut Doors, anew: Anew) -> Result<Readmitted, BrokerError> {
    doors.change(anew.listen).await?;
    Ok(hub.with(|core, now| core.readmit(now, anew.access, anew.limits)))
}

/// What changed goes to the disk, unless the disk is still busy with what changed before.
fn save(hub: &Hub, store: &Store) {
    if !store.is_idle() {
        return;
    }
    if let Some(batch) = changes(hub, store, Depth::Settled) {
        store.write(batch);
    }
}

fn changes(hub: &Hub, store: &Store, depth: Depth) -> Option<keep::Batch> {
    hub.with(|core, now| {
        if store.has_lost() {
            core.lost();
        }
        core.save(now, depth)
    })
}

fn on_tick(hub: &Hub, count: u64, told: &watch::Sender<BrokerStatus>, (listeners, store): (&[String], &Store)) {
    hub.with(|core, now| {
        core.tick(now);
        core.sweep_locals();
        if count.is_multiple_of(SYS_EVERY) {
            core.publish_sys(now);
        }
        if count.is_multiple_of(STATUS_EVERY) {
            core.renew_rates(now);
            told.send_replace(BrokerStatus { error: store.complaint(), ..core.status(listeners) });
        }
    });
}

/// No new clients; those there are hear why. Whoever does not read it in time is cut off.
async fn close_down(hub: &Rc<Hub>) {
    hub.stopping.cancel();
    // What was handed to an inlet before `stop` still goes out (`$state: offline` above all): the inlets' tasks are awake
    // already and need a few turns, as one turn takes at most 128 batches of the 256 that can wait.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    hub.with(|core, now| core.shut_down(now));
    let until = tokio::time::Instant::now() + GRACE;
    while hub.sockets.get() > 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
