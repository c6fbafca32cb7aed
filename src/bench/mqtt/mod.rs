//! MQTT as a client speaks it, for benches and fuzz targets: the other end of `broker/packet`, written on its own so that a
//! mistake made there is not made here too.

pub mod choices;
pub mod inbox;
pub mod packets;
pub mod peer;
pub mod read;
pub mod websocket;
pub mod write;
