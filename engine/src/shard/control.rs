//! What the control side tells a shard, or asks it.

use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::Arc;

use super::status::{ExportCounters, SessionStatus, ShardCounters, TaskStatus};
use super::tls_config::TlsConfig;
use crate::block::gate::Gate;
use crate::block::volume::Volume;
use crate::iscsi::orders::Order;
use crate::nbd::admit::Negotiated;

/// A connection on its way to the shard that will own it.
#[derive(Debug)]
pub struct NewConn {
    pub id: u64,
    pub fd: OwnedFd,
    pub listener: u64,
    pub label: Arc<str>,
    pub protocol: Protocol,
    pub peer: String,
    /// The address that the client connected to.
    pub local: String,
    /// Seconds since 1970.
    pub since: f64,
}

/// What a listener's connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Nbd,
    Iscsi,
}

/// What a connection does once Python's answer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Expects client flags (first) or an option; iSCSI: a Login Request.
    Option,
    /// Starts TLS.
    Tls,
    /// Closes when all has been sent.
    Close,
    /// Closes at once.
    Abort,
}

/// Into which volume, and on what terms, a connection enters its transmission phase.
pub struct Attach {
    pub volume: Arc<Volume>,
    pub export: String,
    pub terms: Negotiated,
}

/// A message to a shard. Those with a sender are answered when they have taken effect.
pub enum Control {
    AddListener {
        id: u64,
        fd: OwnedFd,
        label: Arc<str>,
        protocol: Protocol,
    },
    Iscsi(Order),
    RemoveListener {
        id: u64,
        done: Sender<()>,
    },
    Adopt(NewConn),
    Reply {
        conn: u64,
        data: Vec<u8>,
        then: Then,
    },
    Transmit {
        conn: u64,
        data: Vec<u8>,
        attach: Attach,
    },
    Disconnect {
        conn: u64,
        known: Sender<bool>,
    },
    SetGate {
        volume: Arc<Volume>,
        gate: Arc<Gate>,
        done: Sender<()>,
    },
    /// Refuses all that comes, ends the volume's sessions.
    DropVolume {
        volume: u64,
        done: Sender<()>,
    },
    /// What TLS handshakes use from now on.
    SetTls {
        config: Option<Arc<TlsConfig>>,
        done: Sender<()>,
    },
    /// Answered when the shard has taken in what had come for it by then.
    Settle(Sender<()>),
    Sessions(Sender<Vec<SessionStatus>>),
    Tasks(Sender<Vec<TaskStatus>>),
    Counters(Sender<(ShardCounters, Vec<ExportCounters>)>),
    /// The lease ends sooner than it would have: to be looked at before the shard sleeps again.
    Lease,
    /// Finishes what is in flight, for `drain_ms` at most, then closes all and ends the thread.
    Stop {
        drain_ms: u64,
    },
}
