//! Trunkline polls Modbus devices, publishes what they say through its own MQTT broker, and forwards it upstream without
//! losing a value.
//!
//! The way of a value, which is also the order of the modules:
//!
//! ```text
//! YAML ─► config ─► Plant ─► poll (schedule, plan) ─► bus ─► the wire
//!                              └─► decode ─► Sample ─► publish (report policy, topic, payload) ─► Message
//!                                     ─► broker (sessions, retained) ◄─► local clients
//!                                            └─► spool (ordered log) ─► bridge ─► cloud
//! ```

pub mod backoff;
pub mod bench;
pub mod bridge;
pub mod broker;
pub mod bus;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod daemon;
pub mod decode;
pub mod demo;
pub mod formula;
pub mod message;
pub mod payload;
pub mod point;
pub mod poll;
pub mod publish;
pub mod sample;
pub mod sim;
pub mod spool;
pub mod status;
pub mod supervise;
pub mod systemd;
pub mod time;
pub mod topic;
pub mod web;
