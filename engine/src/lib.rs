//! blockgate's data plane.
//!
//! Layers, each knowing only those below it: [`nbd`] and [`iscsi`] (framing and sessions; [`scsi`] knows no transport) over [`shard`]
//! (reactor, buffers, tasks, timers) over [`block`] (volumes, gates, range admission) over
//! [`backstores`] (files and block devices). [`scsi`] knows what a CDB means, and no transport.
//! Python sees the module that `python` binds.

pub mod backstores;
pub mod block;
pub mod iscsi;
pub mod nbd;
#[cfg(feature = "python")]
mod python;
pub mod scsi;
pub mod shard;
