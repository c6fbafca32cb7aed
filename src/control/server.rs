//! The daemon's side of the control socket: binds it with mode 0660, answers each connection in order, streams until the
//! asker closes. It reads the [`Board`] and the [`Window`]s and leaves wishes to [`Forget`], so a slow asker costs its own connection only.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::forget::Forget;
use crate::control::protocol::{Code, Fault, MAX_REQUEST, Reply, Request, VERSION, read_request};
use crate::control::verb::{Answer, Asker, Verb};
use crate::control::window;
use crate::control::window::{Items, Windows, look};
use crate::status::Board;

/// Askers at once; one more waits in the kernel's backlog until another leaves.
const MAX_CONNECTIONS: usize = 32;
/// An asker that does not take its answer for this long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pace of `status.watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A live daemon answers there.
    #[error("another trunkline is running: it answers at {}; stop it, or give this one its own --socket", .0.display())]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{} exists and is no socket; remove it, or choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen at {}: {source}; choose a path this user may write with --socket", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// A bound socket, removed when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    verbs: Vec<Verb>,
}

impl Server {
    /// Binds `path`: refused when a live daemon answers there, taken over when the one that made it is dead.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let fail = |source| ControlError::Io { path: path.to_owned(), source };
        clear_dead(path)?;
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(fail)?;
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        // Until this line the umask rules, which is stricter for others in any usual setting: connecting needs write permission.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
        Ok(Self { listener, path: path.to_owned(), verbs: Vec::new() })
    }

    /// Answers these methods too.
    pub fn with(mut self, verbs: Vec<Verb>) -> Self {
        self.verbs.extend(verbs);
        self
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until `stop`; open streams end with `end`.
    pub async fn run(self, board: Board, windows: Windows, forget: Forget, stop: CancellationToken) {
        let access = Access { board, windows, forget, verbs: self.verbs.clone().into() };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        while let Some(place) = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await {
            let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await else { break };
            match accepted {
                Ok((stream, _)) => {
                    let asked = Connection::new(stream, access.clone(), stop.clone());
                    tasks.spawn(async move {
                        asked.run().await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket: cannot accept");
                    // Out of file descriptors, as a rule: without a pause this would be a busy loop.
                    let _ = stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(200))).await;
                }
            }
        }
        tasks.close();
        let _ = timeout(Duration::from_secs(1), tasks.wait()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A socket file outlives a killed daemon; only one that nobody answers may be removed.
fn clear_dead(path: &Path) -> Result<(), ControlError> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(ControlError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ControlError::Io { path: path.to_owned(), source })
        }
        Err(source) => Err(ControlError::Io { path: path.to_owned(), source }),
    }
}

/// What an asker may look at and do.
#[derive(Clone)]
struct Access {
    board: Board,
    windows: Windows,
    forget: Forget,
    verbs: Arc<[Verb]>,
}

/// One asker.
struct Connection {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    out: FramedWrite<OwnedWriteHalf, LinesCodec>,
    access: Access,
    asker: Asker,
    stop: CancellationToken,
}

/// The asker has gone, or no longer reads.
struct Gone;

impl Connection {
    fn new(stream: UnixStream, access: Access, stop: CancellationToken) -> Self {
        let asker = Asker { uid: stream.peer_cred().ok().map(|cred| cred.uid()) };
        let (read, write) = stream.into_split();
        let lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_REQUEST));
        Self { lines, out: FramedWrite::new(write, LinesCodec::new()), access, asker, stop }
    }

    async fn run(mut self) {
        let stop = self.stop.clone();
        while let Some(Some(line)) = stop.run_until_cancelled(self.lines.next()).await {
            let done = match line {
                Ok(line) => self.answer(&line).await,
                Err(e) => {
                    // After a line that is too long there is no way to find the next one.
                    let fault = Fault::new(Code::BadRequest, format!("{e} (at most {MAX_REQUEST} bytes a line)"));
                    let _ = self.send(&Reply::Error { id: 0, error: fault }).await;
                    Err(Gone)
                }
            };
            if done.is_err() {
                break;
            }
        }
    }

    async fn answer(&mut self, line: &str) -> Result<(), Gone> {
        let request = match read_request(line) {
            Ok(request) => request,
            Err((id, error)) => return self.send(&Reply::Error { id, error }).await,
        };
        if request.method == "status.watch" {
            return self.watch(request.id).await;
        }
        if request.method == "trace" {
            let found = look(&self.access.windows.borrow(), &request.params);
            return match found {
                Ok(items) => self.pass_on(request.id, items).await,
                Err(error) => self.send(&Reply::Error { id: request.id, error }).await,
            };
        }
        if let Some(verb) = self.access.verbs.iter().find(|v| v.name() == request.method) {
            let answering = verb.ask(request.params, self.asker);
            let shutting_down = || Err(Fault::new(Code::ShuttingDown, "the gateway is stopping"));
            let answer = self.stop.run_until_cancelled(answering).await.unwrap_or_else(shutting_down);
            return match answer {
                Ok(Answer::One(result)) => self.send(&Reply::Result { id: request.id, result }).await,
                Ok(Answer::Many(items)) => self.pass_on(request.id, items).await,
                Err(error) => self.send(&Reply::Error { id: request.id, error }).await,
            };
        }
        let reply = match self.result(&request) {
            Ok(result) => Reply::Result { id: request.id, result },
            Err(error) => Reply::Error { id: request.id, error },
        };
        self.send(&reply).await
    }

    fn result(&self, request: &Request) -> Result<Value, Fault> {
        match request.method.as_str() {
            "status" => to_value(&self.access.board.snapshot()),
            "forget" => to_value(&self.access.forget.answer(&request.params)?),
            "trace.lines" => Ok(window::tell(&self.access.windows.borrow())),
            "trace.log" => window::log(&self.access.windows.borrow(), &request.params),
            "version" => Ok(json!({
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
                "protocol": VERSION,
                "pid": std::process::id(),
            })),
            other => {
                let verbs = self.access.verbs.iter().map(|v| format!(", {}", v.name())).collect::<String>();
                let known = format!("forget, status, status.watch, trace, trace.lines, trace.log, version{verbs}");
                Err(Fault::new(Code::UnknownMethod, format!("no method `{other}`; this daemon knows {known}")))
            }
        }
    }

    async fn watch(&mut self, id: u64) -> Result<(), Gone> {
        let mut ticks = interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let closed = tokio::select! {
                () = self.stop.cancelled() => break,
                line = self.lines.next() => line.is_none_or(|l| l.is_err()),
                _ = ticks.tick() => {
                    let item = to_value(&self.access.board.snapshot()).unwrap_or_default();
                    self.send(&Reply::Item { id, item }).await?;
                    false
                }
            };
            if closed {
                return Err(Gone);
            }
        }
        self.send(&Reply::End { id, end: true }).await
    }

    /// Until the items end, or the daemon, or the asker has gone.
    async fn pass_on(&mut self, id: u64, mut items: Items) -> Result<(), Gone> {
        loop {
            let item = tokio::select! {
                () = self.stop.cancelled() => None,
                line = self.lines.next() => match line {
                    Some(Ok(_)) => continue,
                    _ => return Err(Gone),
                },
                item = items.next() => item,
            };
            let Some(item) = item else { break };
            self.send(&Reply::Item { id, item }).await?;
        }
        self.send(&Reply::End { id, end: true }).await
    }

    async fn send(&mut self, reply: &Reply) -> Result<(), Gone> {
        let line = serde_json::to_string(reply).map_err(|_| Gone)?;
        match timeout(WRITE_TIMEOUT, self.out.send(line)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

fn to_value(what: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(what).map_err(|e| Fault::new(Code::Failed, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client::{Client, ClientError};
    use crate::control::forget::Forgotten;
    use crate::control::window::{LogOrder, Look, Window};
    use crate::status::{Parts, Snapshot};
    use std::io::{BufRead, BufReader, Write};
    use tokio::sync::watch;

    fn board() -> Board {
        let parts = Parts {
            gateway: "plant-7".into(),
            lines: Vec::new(),
            publish: watch::channel(Default::default()).1,
            upstreams: Vec::new(),
            spool: watch::channel(Default::default()).1,
            audit: watch::channel(Default::default()).1,
            broker: watch::channel(Default::default()).1,
            commands: watch::channel(Default::default()).1,
            fail_safes: watch::channel(Default::default()).1,
            panics: watch::channel(Default::default()).1,
            config: watch::channel(Default::default()).1,
        };
        Board::new(parts)
    }

    fn window() -> Window {
        let open = |look: Look| -> Items {
            let past = futures_util::stream::iter(look.last.then(|| json!("past")));
            let now = futures_util::stream::iter([json!("a"), json!("b")]).chain(futures_util::stream::pending());
            if look.follow { Box::pin(past.chain(now)) } else { Box::pin(past) }
        };
        let log = |order: LogOrder| if order.for_s > 600 { Err("too long".to_owned()) } else { Ok(()) };
        Window::new("hall".into(), open, || json!({"line": "hall"}), log)
    }

    fn forget() -> Forget {
        Forget::new(|_| Ok(vec![Forgotten { device: "meter-1".into(), holes: vec!["holding 4".into()] }]))
    }

    /// Runs `ask` against a served socket and gives back what it returns.
    async fn asked<T: Send + 'static>(ask: impl FnOnce(PathBuf, CancellationToken) -> T + Send + 'static) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/control.sock");
        let server = Server::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let stop = CancellationToken::new();
        let windows = watch::channel([window()].into()).1;
        let echo = Verb::new("echo", |params| Box::pin(async { Ok(Answer::One(params)) }));
        let whoami = Verb::of_asker("whoami", |_, asker| {
            let known = asker.uid == Some(rustix::process::geteuid().as_raw());
            Box::pin(async move { Ok(Answer::One(json!([known, asker.to_string()]))) })
        });
        let serving = tokio::spawn(server.with(vec![echo, whoami]).run(board(), windows, forget(), stop.clone()));
        let (there, token) = (path.clone(), stop.clone());
        let answer = tokio::task::spawn_blocking(move || ask(there, token)).await.unwrap();
        stop.cancel();
        serving.await.unwrap();
        assert!(!path.exists(), "the socket is removed at the end");
        answer
    }

    #[tokio::test]
    async fn the_status_travels_whole() {
        let value = asked(|path, _| Client::connect(&path).unwrap().call("status", Value::Null).unwrap()).await;
        let snapshot: Snapshot = serde_json::from_value(value).unwrap();
        assert_eq!((snapshot.schema, snapshot.gateway.as_str()), (1, "plant-7"));
    }

    #[tokio::test]
    async fn an_unknown_method_names_the_known_ones_and_the_connection_lives_on() {
        asked(|path, _| {
            let mut client = Client::connect(&path).unwrap();
            let error = client.call("dance", Value::Null).unwrap_err();
            assert!(matches!(&error, ClientError::Refused(f) if f.code == Code::UnknownMethod), "{error}");
            assert!(error.to_string().contains("status.watch") && error.to_string().contains("echo"), "{error}");
            assert_eq!(client.call("echo", json!({"a": 1})).unwrap(), json!({"a": 1}));
            assert_eq!(client.call("version", Value::Null).unwrap()["protocol"], VERSION);
        })
        .await;
    }

    #[tokio::test]
    async fn who_asks_is_known_from_the_kernel_not_from_what_is_said() {
        let said = asked(|path, _| Client::connect(&path).unwrap().call("whoami", json!({"uid": 1})).unwrap()).await;
        assert_eq!(said[0], true, "{said}");
        assert!(said[1].as_str().unwrap().starts_with("uid "), "{said}");
    }

    #[tokio::test]
    async fn a_stream_gives_items_until_the_daemon_stops() {
        let rest = asked(|path, stop| {
            let mut client = Client::connect(&path).unwrap();
            let mut stream = client.stream("status.watch", Value::Null).unwrap();
            assert_eq!(stream.next().unwrap().unwrap()["gateway"], "plant-7");
            stop.cancel();
            stream.count()
        });
        assert!(rest.await <= 1, "an item may have been under way");
    }

    #[tokio::test]
    async fn a_trace_gives_what_passes_and_an_unknown_line_names_the_known() {
        let rest = asked(|path, stop| {
            let mut client = Client::connect(&path).unwrap();
            let error = client.stream("trace", json!({"line": "hill"})).unwrap().next().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "no line `hill`; there are: hall");
            let mut stream = client.stream("trace", json!({"line": "hall"})).unwrap();
            assert_eq!((stream.next().unwrap().unwrap(), stream.next().unwrap().unwrap()), (json!("a"), json!("b")));
            stop.cancel();
            stream.count()
        });
        assert_eq!(rest.await, 0);
    }

    #[tokio::test]
    async fn to_forget_is_answered_with_what_was_known() {
        let value =
            asked(|path, _| Client::connect(&path).unwrap().call("forget", json!({"all": true})).unwrap()).await;
        assert_eq!(value, json!({"forgotten": [{"device": "meter-1", "holes": ["holding 4"]}]}));
    }

    #[tokio::test]
    async fn what_has_passed_can_be_asked_for_alone_and_lines_be_told_and_logged() {
        asked(|path, _| {
            let mut client = Client::connect(&path).unwrap();
            let past = client.stream("trace", json!({"line": "hall", "last": true, "follow": false})).unwrap();
            assert_eq!(past.map(Result::unwrap).collect::<Vec<_>>(), [json!("past")]);
            assert_eq!(client.call("trace.lines", Value::Null).unwrap(), json!([{"line": "hall"}]));
            let on = client.call("trace.log", json!({"line": "hall", "depth": "frame"})).unwrap();
            assert_eq!(on, json!({"line": "hall"}));
            let error = client.call("trace.log", json!({"line": "hall", "depth": "frame", "for_s": 601})).unwrap_err();
            assert_eq!(error.to_string(), "too long");
            let error = client.call("trace.log", json!({"line": "hall"})).unwrap_err();
            assert!(error.to_string().contains("missing field `depth`"), "{error}");
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused_not_kept() {
        let answer = asked(|path, _| {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            // The daemon stops reading at the limit, so the tail may meet a closed socket.
            let _ = stream.write_all(&vec![b'x'; MAX_REQUEST + 2]);
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        })
        .await;
        assert!(answer.contains("bad_request"), "{answer}");
    }

    #[tokio::test]
    async fn a_live_daemon_is_not_pushed_aside_and_a_dead_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let live = Server::bind(&path).unwrap();
        assert!(matches!(Server::bind(&path), Err(ControlError::InUse(_))));
        drop(live);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed daemon leaves its socket");
        drop(Server::bind(&path).unwrap());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Server::bind(&path), Err(ControlError::NotASocket(_))));
    }
}
