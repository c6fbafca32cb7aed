//! What the fuzz targets do with their bytes. The bodies stand here and not in the targets so that `tests/fuzz.rs` of the
//! product, which takes this folder in by its path, compiles them and replays their corpora at every test run.

pub mod command;
pub mod connections;
pub mod frames;
pub mod matching;
pub mod packet;
pub mod yaml;
