//! `trunkline run`: the gateway until SIGTERM or SIGINT; SIGHUP reads the configuration anew.

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use crate::cli::logging::{self, Filter, LeftOut};
use crate::cli::{ConfigFile, Exit, complain, load};
use crate::config::{self, Plant};
use crate::daemon::{Daemon, Options, Socket};

/// How often the log is looked at for what was left out of it: within this after its while is over, it is told.
const LOOK: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Where the control socket lies
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

pub(super) fn run(args: &Arguments, log: &Filter) -> Exit {
    // Paths count from the file, and must mean the same when it is read again.
    let file = std::path::absolute(&args.file.config).unwrap_or_else(|_| args.file.config.clone());
    let loaded = match load(&ConfigFile { config: file.clone() }) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let left_out = logging::start(log);
    let socket = args.socket.clone().map_or(Socket::Usual, Socket::At);
    // Two workers: the broker and the spool have threads of their own, what is left is waiting for wires.
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    // Beside the start: a slow card does not hold it up.
    runtime.spawn_blocking(move || config::settle(&loaded.files));
    let exit = runtime.block_on(serve(loaded.plant, Options { socket, tap: None, config: Some(file) }, &left_out));
    left_out.tell_all();
    // A task that hangs in a system call must not keep the process: everything that matters is closed by now.
    runtime.shutdown_background();
    exit
}

async fn serve(plant: Plant, options: Options, left_out: &LeftOut) -> Exit {
    let (Ok(mut term), Ok(mut int), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return failed(&"cannot catch signals");
    };
    let mut running = match Daemon::start(plant, options).await {
        Ok(running) => running,
        Err(error) => return failed(&error),
    };
    let ready = running.ready();
    crate::systemd::ready(&ready);
    tracing::info!("{ready}");
    let mut look = interval(LOOK);
    let ended = loop {
        tokio::select! {
            _ = look.tick() => {
                left_out.tell();
                continue;
            }
            _ = term.recv() => break None,
            _ = int.recv() => break None,
            _ = hangup.recv() => {}
            task = running.fatal() => break Some(task),
        }
        running.reload();
    };
    crate::systemd::stopping();
    tracing::info!("stopping");
    running.stop().await;
    match ended {
        None => {
            tracing::info!("stopped");
            Exit::Well
        }
        Some(task) => failed(&format!("the {task} ended by a bug; what was logged above says why")),
    }
}

fn failed(why: &dyn std::fmt::Display) -> Exit {
    complain(&format!("trunkline run: {why}"));
    Exit::Failed
}
