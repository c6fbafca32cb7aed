//! MQTT as a client speaks it, for benches and fuzz targets: the other end of `broker/packet`, written on its own so that a
//! mistake made there is not made here too. Bytes only; sockets are `peer`'s affair.

pub mod read;
pub mod write;
