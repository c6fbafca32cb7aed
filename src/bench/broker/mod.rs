//! The embedded broker as users compare it: beside Debian's Mosquitto under the same load, in turn (`versus`, by `flow` and
//! `pace`), what it keeps in memory for what (`bounds`), what it writes to flash (`wear`), and what it stands (`hostile`). Always
//! the whole gateway in a process of its own, started as a user starts it; time and memory are the kernel's account of it.

pub mod bounds;
pub mod flow;
pub mod hostile;
pub mod pace;
pub mod server;
pub mod versus;
pub mod wear;
