//! iSCSI (RFC 7143): framing, sessions, and full feature phase; error recovery level 0.
//!
//! `wire`, `ahs`, `digest`, `inflow`, `order` and `window` know bytes and rules only. A `connection` is by itself
//! in login, whose PDUs are Python's to judge, and then a `conn` of its `session`. There `intake` takes
//! PDUs in, `commands` orders and judges SCSI commands by the opcode table, `data` collects what they bring,
//! with `room` made by those who are slow to send for those that wait in `seekers`, `execute` gives them to their volume (`claim` as one what is many
//! requests), `handed` to Python, and `answer` ends them, those that found a pool full by way of `full`, those that
//! are not to be waited for by `deferred`. `management` and `scope` stop and abort, `requests` has all the other PDUs.

pub mod ahs;
mod answer;
mod claim;
pub mod command;
mod commands;
pub mod conn;
pub mod connection;
mod data;
mod deferred;
pub mod digest;
pub mod execute;
mod full;
pub mod handed;
pub mod inflow;
mod intake;
pub mod lun;
pub mod management;
pub mod order;
pub mod orders;
pub mod params;
pub mod requests;
mod room;
pub mod scope;
pub mod seekers;
pub mod session;
pub mod shard;
mod share;
pub mod window;
pub mod wire;

pub use data::TTT_SLOTS;
