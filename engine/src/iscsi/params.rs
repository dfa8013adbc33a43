//! What a login ended in, and the logical units that a session sees: handed down by Python.

use std::sync::Arc;

use super::inflow::Terms;
use crate::block::volume::Volume;
use crate::scsi::canned::Canned;

/// A logical unit of a LUN map.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The 8-byte LUN field.
    pub lun: u64,
    pub volume: Arc<Volume>,
    /// For this session.
    pub read_only: bool,
    /// What its first command meets where the LUN is new in the session; bits as in the opcode table.
    pub attentions: u64,
}

/// See `LunMap` in `_engine.pyi`.
#[derive(Clone, Debug, Default)]
pub struct LunMap {
    /// Sorted by LUN.
    pub luns: Vec<Mapped>,
    pub report_luns: Canned,
}

/// See `IscsiParams` in `_engine.pyi`; names are those of RFC 7143 section 13.
#[derive(Clone, Debug)]
pub struct Params {
    pub session: u64,
    pub nexus: u64,
    pub port: u64,
    pub discovery: bool,
    pub cid: u16,
    pub initiator: String,
    pub target: String,
    pub header_digest: bool,
    pub data_digest: bool,
    /// The initiator's MaxRecvDataSegmentLength, bytes.
    pub max_send_data: u32,
    /// Ours.
    pub max_recv_data: u32,
    pub terms: Terms,
    pub exp_cmd_sn: u32,
    pub stat_sn: u32,
    pub queue_depth: u32,
    /// 0: no NOP-In of our own.
    pub nop_interval_ms: u64,
    pub nop_timeout_ms: u64,
    /// Of the first connection of a normal session.
    pub luns: Option<LunMap>,
}
