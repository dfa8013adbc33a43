//! NBD: framing, handshake collection and the transmission phase.
//!
//! `wire`, `admit` and `framing` know bytes only; `large` and `replies` put requests and answers
//! together; `session`, `transmission` and `pieces` drive a connection with them.

pub mod admit;
pub mod framing;
pub mod large;
pub mod link;
mod pieces;
pub mod replies;
pub mod session;
pub mod transmission;
pub mod wire;
