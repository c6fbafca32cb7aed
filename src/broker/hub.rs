//! The core and who waits for it, on the broker's one thread. Connections borrow the core for a moment, never across an
//! await (`with` takes a plain closure), and are woken when it has something for them.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::Semaphore;

use super::core::Core;

/// Password checks at once: each takes 19 MiB and a core for some 30 ms.
const CHECKS: usize = 2;

/// The core, shared by the tasks of one thread.
#[derive(Debug)]
pub(super) struct Hub {
    core: RefCell<Core>,
    wakers: RefCell<Vec<Option<Rc<Notify>>>>,
    woken: RefCell<Vec<usize>>,
    /// Bounds the password checks.
    pub(super) checks: Arc<Semaphore>,
    /// Addresses whose logins failed.
    pub(super) failures: RefCell<super::throttle::Failures>,
    /// Sockets open now, those before CONNECT included.
    pub(super) sockets: Cell<usize>,
    /// Said once, when the broker stops.
    pub(super) stopping: tokio_util::sync::CancellationToken,
    /// Whoever waits for clients to acknowledge looks again when one has said something.
    heard: Notify,
}

impl Hub {
    pub(super) fn new(core: Core) -> Rc<Self> {
        Rc::new(Self {
            core: RefCell::new(core),
            wakers: RefCell::default(),
            woken: RefCell::default(),
            checks: Arc::new(Semaphore::new(CHECKS)),
            failures: RefCell::default(),
            sockets: Cell::new(0),
            stopping: tokio_util::sync::CancellationToken::new(),
            heard: Notify::new(),
        })
    }

    /// Lends the core, then wakes the connections it has written to.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let guard = AbortOnPanic { already: std::thread::panicking() };
        let mut core = self.core.borrow_mut();
        let result = work(&mut core, Instant::now());
        let mut woken = self.woken.borrow_mut();
        core.take_woken(&mut woken);
        let wakers = self.wakers.borrow();
        for key in woken.drain(..) {
            if let Some(Some(waker)) = wakers.get(key) {
                waker.notify_one();
            }
        }
        drop(guard);
        result
    }

    /// Where a connection is woken from now on.
    pub(super) fn register(&self, key: usize) -> Rc<Notify> {
        let waker = Rc::new(Notify::new());
        let mut wakers = self.wakers.borrow_mut();
        if wakers.len() <= key {
            wakers.resize(key + 1, None);
        }
        wakers[key] = Some(Rc::clone(&waker));
        waker
    }

    /// A client has said something.
    pub(super) fn heard(&self) {
        self.heard.notify_waiters();
    }

    /// Until no connected client's queue is crowded.
    pub(super) async fn eased(&self) {
        loop {
            let heard = self.heard.notified();
            if !self.with(|core, _| core.is_crowded()) {
                return;
            }
            heard.await;
        }
    }

    /// The connection's task ends.
    pub(super) fn gone(&self, key: usize) {
        if let Some(slot) = self.wakers.borrow_mut().get_mut(key) {
            *slot = None;
        }
        self.with(|core, now| core.gone(now, key));
        self.heard();
    }
}

/// A panic inside the core leaves sessions half changed: the process ends and the service manager starts it anew.
struct AbortOnPanic {
    /// A connection's task that panics elsewhere still says goodbye through here.
    already: bool,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.already {
            tracing::error!("the broker's core panicked; this is a bug; the process ends");
            std::process::abort();
        }
    }
}
