//! Measuring the house against what is physically possible, with simulated peers: for `trunkline bench` and `cargo bench`.
//! Ratios are printed, never asserted: machines are busy.

pub mod broker;
pub mod drain;
pub mod fleet;
pub mod line;
pub mod mqtt;
pub mod outage;
pub mod peers;
pub mod process;
pub mod site;
pub mod soak;
pub mod subscriber;
pub mod unpaced;
pub mod values;
pub mod work;
