//! Devices, a wire and trouble, all simulated, made from the same profiles as the real ones: for the demo, the bench and the
//! tests. The wire is a real pty whose bytes take the time they would take; the devices remember what they held when, so
//! that a published value can be checked against the truth.

mod cable;
mod device;
mod fault;
mod identity;
mod line;
mod tcp;

pub use cable::Cable;
pub use device::Encode;
pub use device::Shared;
pub use device::SimDevice;
pub use device::tenths;
pub use fault::Dice;
pub use fault::Fault;
pub use fault::Hostility;
pub use line::Heard;
pub use line::LineOptions;
pub use line::LineStats;
pub use line::SimLine;
pub use line::start_line;
pub use tcp::SimTcp;
