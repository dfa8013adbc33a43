//! What the control side tells a shard of iSCSI. What is for a connection or a session that is gone is
//! dropped; senders are answered when the order is in force.

use std::sync::mpsc::Sender;
use std::sync::Arc;

use super::connection::Moving;
use super::params::{LunMap, Params};
use super::requests::{Message, TextReply};
use super::scope::{Abort, Cut};
use crate::shard::control::Then;

/// See the module's text. Tasks are named by Python's numbers.
pub enum Order {
    LoginReply {
        conn: u64,
        pdu: Vec<u8>,
        then: Then,
    },
    /// `shard`: where the session is, or is to be.
    LoginDone {
        conn: u64,
        pdu: Vec<u8>,
        params: Box<Params>,
        shard: usize,
    },
    /// A connection that has logged in comes from another shard.
    Arrive(Box<Moving>),
    SetLuns {
        session: u64,
        luns: LunMap,
        done: Sender<()>,
    },
    Attend {
        session: u64,
        lun: Option<u64>,
        attentions: u64,
        done: Sender<()>,
    },
    Complete {
        task: u64,
        status: u8,
        data: Vec<u8>,
        sense: Vec<u8>,
    },
    Resume {
        task: u64,
    },
    TextReply {
        conn: u64,
        reply: TextReply,
    },
    LogoutDone {
        conn: u64,
        closed: u64,
    },
    Reject {
        conn: u64,
        bhs: Vec<u8>,
        reason: u8,
    },
    Abort(Arc<Abort>),
    ManagementDone {
        task: u64,
        response: u8,
    },
    Message {
        session: u64,
        message: Message,
    },
    Hold(Arc<Cut>),
    /// Python's own, until it says otherwise: nothing of a nexus is started at a volume.
    HoldNexus {
        volume: u64,
        nexus: u64,
    },
    LetGo {
        volume: u64,
        nexus: u64,
    },
    /// One volume of a function is over.
    UnitDone {
        task: u64,
        volume: u64,
    },
    /// `None`: all of it.
    Release {
        cut: u64,
        volume: Option<u64>,
    },
}
