//! YAML in, checked [`Plant`] out. A positioned tree is read once; the checker collects every problem with its place, so that
//! a person mends a file in one round. Nothing is half-applied: there is a whole plant or a report.

pub mod certificate;
mod check;
pub mod difference;
pub mod failsafe;
pub mod fingerprint;
mod follow;
pub mod functions;
mod load;
mod loops;
mod node;
pub mod plant;
pub mod preset;
mod profile;
pub mod report;
pub mod route;
mod schema;
mod settle;
#[cfg(test)]
mod tests;
pub mod users;
pub mod write;

pub use load::Loaded;
pub use load::Note;
pub use load::RulePlace;
pub use load::load;
pub use load::load_text;
pub use load::load_text_for_daemon;
pub(crate) use node::near;
pub use plant::Plant;
pub use report::Report;
pub use schema::schema;
pub use settle::settle;
