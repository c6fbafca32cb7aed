//! A line that can be looked at through the control socket. The daemon makes the windows; what passes there is JSON here, so
//! that control need not know the bus.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use serde::Deserialize;
use serde_json::Value;

use crate::control::protocol::{Code, Fault};

/// What passes, from now on; ends with the line.
pub type Items = Pin<Box<dyn Stream<Item = Value> + Send>>;

/// One line.
#[derive(Clone)]
pub struct Window {
    name: Arc<str>,
    open: Arc<dyn Fn() -> Items + Send + Sync>,
}

/// What `trace` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    line: String,
}

impl Window {
    /// Of the line called `name`; each look calls `open`.
    pub fn new(name: Arc<str>, open: impl Fn() -> Items + Send + Sync + 'static) -> Self {
        Self { name, open: Arc::new(open) }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Window").field(&self.name).finish()
    }
}

/// Looks at the line that `params` name.
pub(super) fn look(windows: &[Window], params: &Value) -> Result<Items, Fault> {
    let wanted = Wanted::deserialize(params)
        .map_err(|e| Fault::new(Code::BadParams, format!("{e}; wanted is {{\"line\": NAME}}")))?;
    let found = windows.iter().find(|w| *w.name == *wanted.line);
    found.map(|w| (w.open)()).ok_or_else(|| {
        let names: Vec<&str> = windows.iter().map(|w| &*w.name).collect();
        Fault::new(Code::BadParams, format!("no line `{}`; there are: {}", wanted.line, names.join(", ")))
    })
}
