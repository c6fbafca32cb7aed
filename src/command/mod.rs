//! `…/set` becomes a checked write, and the asker learns what really happened.
//! What is asked is judged before the first byte ([`request`], pure); the task performs it, in the order in which it came
//! per line, and answers on `…/set/result` or on the MQTT 5 response topic. Retained and expired commands are refused: a
//! command is for now, never for whoever comes later.

pub mod request;
mod task;

pub use task::CommandTask;
pub use task::Outlet;
pub use task::Seat;
pub use task::new;
