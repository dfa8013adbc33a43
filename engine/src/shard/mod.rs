//! A shard: one thread that owns its connections, tasks, buffers and timers.

pub mod buffers;
pub mod control;
pub mod events;
pub mod limits;
pub mod mailbox;
pub mod status;
pub mod tasks;
