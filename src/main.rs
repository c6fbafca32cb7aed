//! The command `trunkline`.
fn main() {}
