//! A method of the control socket whose work is done elsewhere. The daemon hands them over when it has built everything, so
//! that control need not know the tasks it asks.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::control::protocol::Fault;
use crate::control::window::Items;

/// What a method answers.
pub enum Answer {
    /// One document.
    One(Value),
    /// A stream; an item `{"failed": "…"}` says why it breaks off.
    Many(Items),
}

/// An answer under way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Fault>> + Send>>;

/// Who asks, as the kernel knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asker {
    /// Number of the user; `None`: the kernel does not say.
    pub uid: Option<u32>,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "uid {uid} at the control socket"),
            None => f.write_str("somebody at the control socket"),
        }
    }
}

/// One method.
#[derive(Clone)]
pub struct Verb {
    name: &'static str,
    answer: Arc<dyn Fn(Value, Asker) -> Answering + Send + Sync>,
}

impl Verb {
    /// The method called `name`; each question calls `answer` with its parameters.
    pub fn new(name: &'static str, answer: impl Fn(Value) -> Answering + Send + Sync + 'static) -> Self {
        Self { name, answer: Arc::new(move |params, _| answer(params)) }
    }

    /// The same, where it matters who asks.
    pub fn of_asker(name: &'static str, answer: impl Fn(Value, Asker) -> Answering + Send + Sync + 'static) -> Self {
        Self { name, answer: Arc::new(answer) }
    }

    /// What it is called.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn ask(&self, params: Value, asker: Asker) -> Answering {
        (self.answer)(params, asker)
    }
}

impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verb").field(&self.name).finish()
    }
}
