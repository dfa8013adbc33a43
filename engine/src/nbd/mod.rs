//! NBD: framing, handshake collection and the transmission phase.

pub mod admit;
pub mod framing;
pub mod wire;
