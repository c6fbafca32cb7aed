//! Subscribers inside this process: a bounded box each, filled by the broker's thread, emptied by any other.
//! The lock is a plain mutex held for a push or a swap, never across an await.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use crate::message::Message;

#[derive(Debug)]
struct Shared {
    waiting: Mutex<VecDeque<Message>>,
    capacity: usize,
    overrun: AtomicU64,
    filled: Notify,
    closed: AtomicBool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Message>> {
        // A panic elsewhere cannot leave a VecDeque half changed by the calls made here.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker's end of a box.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// The listener's end; ends the subscription when dropped.
#[derive(Debug)]
pub struct LocalSubscription(Arc<Shared>);

/// A box for `capacity` messages. Full: the newest is dropped and counted.
pub fn inbox(capacity: usize) -> (Inbox, LocalSubscription) {
    let shared = Arc::new(Shared {
        waiting: Mutex::default(),
        capacity: capacity.max(1),
        overrun: AtomicU64::new(0),
        filled: Notify::new(),
        closed: AtomicBool::new(false),
    });
    (Inbox(Arc::clone(&shared)), LocalSubscription(shared))
}

impl Inbox {
    /// Puts a message in, or drops and counts it.
    pub fn offer(&self, message: Message) {
        let mut waiting = self.0.waiting();
        if waiting.len() >= self.0.capacity {
            self.0.overrun.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(message);
        if waiting.len() == 1 {
            self.0.filled.notify_one();
        }
    }

    /// Puts retained messages in, however many: they are bounded by the retained store and share its bytes.
    pub fn fill(&self, messages: Vec<Message>) {
        self.0.waiting().extend(messages);
        self.0.filled.notify_one();
    }

    /// Nobody listens any more.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.filled.notify_one();
    }
}

impl LocalSubscription {
    /// All that waits, in order; `None` when the broker has stopped and everything was read. Cancel safe.
    pub async fn recv(&mut self) -> Option<Vec<Message>> {
        loop {
            let closed = self.0.closed.load(Ordering::Relaxed);
            let batch = std::mem::take(&mut *self.0.waiting());
            if !batch.is_empty() {
                return Some(batch.into());
            }
            if closed {
                return None;
            }
            self.0.filled.notified().await;
        }
    }

    /// Messages dropped because the box was full.
    pub fn overrun(&self) -> u64 {
        self.0.overrun.load(Ordering::Relaxed)
    }
}

impl Drop for LocalSubscription {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}
