//! A shard: one thread that owns its connections, tasks, buffers and timers.

pub mod acceptor;
pub mod buffers;
pub mod context;
pub mod control;
pub mod engine;
pub mod epoll;
pub mod events;
pub mod front;
pub mod lease;
pub mod limits;
pub mod link;
pub mod mailbox;
pub mod net;
pub mod outqueue;
pub mod poller;
pub mod reactor;
pub mod shared;
pub mod status;
pub mod tasks;
pub mod timers;
pub mod tls;
pub mod tls_config;
pub mod transport;
pub mod uring;
