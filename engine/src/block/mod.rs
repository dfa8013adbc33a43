//! Block commands, volumes, gates and ranges in flight: what every front end
//! (NBD now, SCSI later) shares, between the protocols above and the backstores below.

pub mod blocking;
pub mod command;
pub mod gate;
pub mod health;
pub mod jobs;
pub mod passage;
pub mod ranges;
mod sync;
pub mod volume;

#[cfg(test)]
pub mod testing;
