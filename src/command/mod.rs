//! `…/set` becomes a checked write, `…/get` a read on demand, and the asker learns what really happened.
//! What is asked is judged before the first byte ([`request`], [`planned`], pure); the task performs it, in the order in which it came
//! per line, and answers on `…/result` or on the MQTT 5 response topic. Retained and expired commands are refused: a command is
//! for now, never for whoever comes later. The same id is done once.

mod answer;
mod answered;
pub mod audit;
mod batch;
mod both;
mod cause;
mod commission;
pub mod failsafe;
mod perform;
pub mod planned;
#[cfg(test)]
mod property;
mod raw;
mod record;
pub mod request;
mod target;
mod task;
#[cfg(test)]
mod tests;
mod waiting;

pub use commission::LOG as RAW_LOG;
pub use commission::ask as ask_raw;
pub use commission::refuse as refuse_raw;
pub use target::Desk;
pub use target::Seat;
pub use task::AT_ONCE;
pub use task::CommandTask;
pub use task::Floor;
pub use task::Outlet;
pub use task::new;
