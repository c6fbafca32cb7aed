//! Polling a line: what is due, in which reads, and what becomes of the answers.
//! [`plan`], [`schedule`] and [`health`] decide and are pure; [`PollTask`] acts, one a line.

pub mod health;
pub mod plan;
pub mod schedule;
