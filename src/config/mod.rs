//! YAML in, checked [`Plant`] out. A positioned tree is read once; the checker collects every problem with its place.

#[allow(dead_code, reason = "the checker that reads with it is the next commit")]
mod node;
pub mod plant;
pub mod report;
mod stub;
pub mod users;

pub use plant::Plant;
pub use report::Report;
pub use stub::*;
