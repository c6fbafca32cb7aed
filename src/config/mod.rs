//! YAML in, checked [`Plant`] out. What is written (a serde mirror without logic) is kept apart from what is meant.

pub mod plant;
pub mod users;

pub use plant::Plant;
