//! The daemon can be asked: a Unix socket on which each line is one JSON document, answered in order.
//! Later commands are new methods of the same protocol, so a method never needs to know about sockets: see [`protocol`] for
//! what travels, [`server`] for the daemon's side, [`client`] for the command line's. Described in `docs/control-socket.md`.

use std::path::PathBuf;

pub mod client;
pub mod forget;
pub mod protocol;
pub mod server;
pub mod verb;
pub mod window;

pub use client::Client;
pub use forget::Forget;
pub use server::Server;
pub use verb::Verb;
pub use window::Window;
pub use window::Windows;

/// Where the daemon listens when nothing is said: what systemd made for it, the system's place for root, or the user's own.
pub fn listen_path() -> PathBuf {
    if let Some(dir) = std::env::var_os("RUNTIME_DIRECTORY") {
        return PathBuf::from(dir).join("control.sock");
    }
    match own_runtime_dir() {
        Some(dir) if !rustix::process::geteuid().is_root() => dir,
        _ => system_path(),
    }
}

/// Where the command line asks when nothing is said: the first of the usual places that exists.
pub fn ask_path() -> PathBuf {
    let own = own_runtime_dir().filter(|p| p.exists() && !system_path().exists());
    own.unwrap_or_else(system_path)
}

fn system_path() -> PathBuf {
    PathBuf::from("/run/trunkline/control.sock")
}

fn own_runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("trunkline/control.sock"))
}
