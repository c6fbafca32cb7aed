//! A line that can be looked at through the control socket. The daemon makes the windows; what passes there is JSON
//! here, so that control need not know the bus.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;

use crate::control::protocol::Code;
use crate::control::protocol::Fault;

/// What passes; ends with the line, or where only what has passed was wanted.
pub type Items = Pin<Box<dyn Stream<Item = Value> + Send>>;

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Begin with what has passed, as far as it is remembered.
    pub last: bool,
    /// Go on with what passes.
    pub follow: bool,
}

/// How a line is to be logged from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOrder {
    /// `message`, `frame`, `bytes` or `off`.
    pub depth: String,
    /// For so many seconds.
    pub for_s: u64,
}

/// The lines there are now; a reload sends others.
pub type Windows = watch::Receiver<Arc<[Window]>>;

type Open = dyn Fn(Look) -> Items + Send + Sync;
type Tell = dyn Fn() -> Value + Send + Sync;
type Log = dyn Fn(LogOrder) -> Result<(), String> + Send + Sync;

/// One line.
#[derive(Clone)]
pub struct Window {
    name: Arc<str>,
    open: Arc<Open>,
    tell: Arc<Tell>,
    log: Arc<Log>,
}

/// What `trace` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Traced {
    line: String,
    #[serde(default)]
    last: bool,
    #[serde(default = "yes")]
    follow: bool,
}

/// What `trace.log` is asked with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logged {
    line: String,
    depth: String,
    #[serde(default = "ten_minutes")]
    for_s: u64,
}

const fn yes() -> bool {
    true
}

/// Long enough to provoke a fault, short enough that nobody fills a flash by forgetting it.
const fn ten_minutes() -> u64 {
    600
}

impl Window {
    /// Of the line called `name`: each look calls `open`, each question how it stands `tell`, each order `log`.
    pub fn new(
        name: Arc<str>,
        open: impl Fn(Look) -> Items + Send + Sync + 'static,
        tell: impl Fn() -> Value + Send + Sync + 'static,
        log: impl Fn(LogOrder) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, open: Arc::new(open), tell: Arc::new(tell), log: Arc::new(log) }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Window").field(&self.name).finish()
    }
}

/// Looks at the line that `params` name.
pub(super) fn look(windows: &[Window], params: &Value) -> Result<Items, Fault> {
    let wanted: Traced = read(params, r#"{"line": NAME, "last": false, "follow": true}"#)?;
    let window = find(windows, &wanted.line)?;
    Ok((window.open)(Look { last: wanted.last, follow: wanted.follow }))
}

/// How the lines stand.
pub(super) fn tell(windows: &[Window]) -> Value {
    json!(windows.iter().map(|window| (window.tell)()).collect::<Vec<_>>())
}

/// Logs, or logs no more; how the line stands then.
pub(super) fn log(windows: &[Window], params: &Value) -> Result<Value, Fault> {
    let shape = r#"{"line": NAME, "depth": "message", "frame", "bytes" or "off", "for_s": 600}"#;
    let Logged { line, depth, for_s } = read(params, shape)?;
    let window = find(windows, &line)?;
    (window.log)(LogOrder { depth, for_s }).map_err(|why| Fault::new(Code::BadParams, why))?;
    Ok((window.tell)())
}

fn read<T: DeserializeOwned>(params: &Value, shape: &str) -> Result<T, Fault> {
    T::deserialize(params).map_err(|e| Fault::new(Code::BadParams, format!("{e}; wanted is {shape}")))
}

fn find<'a>(windows: &'a [Window], name: &str) -> Result<&'a Window, Fault> {
    windows.iter().find(|w| *w.name == *name).ok_or_else(|| {
        let names: Vec<&str> = windows.iter().map(|w| &*w.name).collect();
        Fault::new(Code::BadParams, format!("no line `{name}`; there are: {}", names.join(", ")))
    })
}
