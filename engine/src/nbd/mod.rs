//! NBD: framing, handshake collection and the transmission phase.
//!
//! `wire`, `admit` and `framing` know bytes only; `large` and `replies` put requests and answers
//! together; `session` drives a connection, `transmission` with `intake`,
//! `requests` and `pieces` its last phase.

pub mod admit;
pub mod framing;
mod intake;
pub mod large;
pub use crate::shard::link;
mod pieces;
pub mod replies;
pub mod requests;
pub mod session;
pub mod transmission;
pub mod wire;
