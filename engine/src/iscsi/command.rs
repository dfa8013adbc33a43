//! One SCSI command of a session, from its PDU to its status.

use std::collections::VecDeque;
use std::rc::Rc;

use super::ahs::Ahs;
use super::handed::Fate;
use super::inflow::{Fault, Inflow, Terms};
use super::lun::Lun;
use super::share::Lack;
use super::wire::{Bhs, Residual};
use crate::block::command::Claim;
use crate::scsi::command::{Answer, Media};
use crate::scsi::row::Row;
use crate::scsi::sense::{key, Sense};
use crate::shard::buffers::IoBuf;
use crate::shard::tasks::TaskHandle;

/// Conditions that the iSCSI layer itself reports (RFC 7143 11.4.7.2), and the like.
pub mod sense {
    use super::{key, Fault, Sense};

    pub const UNEXPECTED_DATA: Sense = Sense::new(key::ABORTED_COMMAND, 0x0c, 0x0c);
    pub const INCORRECT_AMOUNT: Sense = Sense::new(key::ABORTED_COMMAND, 0x0c, 0x0d);
    pub const CRC_ERROR: Sense = Sense::new(key::ABORTED_COMMAND, 0x47, 0x05);
    /// INITIATOR RESPONSE TIMEOUT.
    pub const INITIATOR_TIMEOUT: Sense = Sense::new(key::ABORTED_COMMAND, 0x4b, 0x06);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT: what the CDB needs is more than the PDU expects.
    pub const TOO_LITTLE_EXPECTED: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x0e, 0x03);

    /// How a fault of its data is told.
    pub const fn of(fault: Fault) -> Sense {
        match fault {
            Fault::Unexpected => UNEXPECTED_DATA,
            Fault::Amount => INCORRECT_AMOUNT,
            Fault::Sequence => CRC_ERROR,
        }
    }
}

/// A CDB: 16 bytes, and what an AHS added.
#[derive(Debug)]
pub struct Cdb {
    head: [u8; 16],
    whole: Option<Box<[u8]>>,
}

impl Cdb {
    /// Out of a header and an AHS.
    pub fn new(head: [u8; 16], rest: &[u8]) -> Self {
        let whole = (!rest.is_empty()).then(|| [&head[..], rest].concat().into_boxed_slice());
        Self { head, whole }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or(&self.head)
    }
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Others come before it by CmdSN.
    Early,
    /// Delivered; not in its task set yet.
    Arrived,
    /// Others come before it by their task attributes.
    Dormant,
    /// Enabled: it may do what its plan says.
    Enabled,
    /// Python has it.
    HandedUp,
}

/// What is to be done with an enabled command.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// It has not been judged yet.
    None,
    /// The engine executes it.
    Media(&'static Row, Media),
    /// Python does, with so many bytes of parameter data (PARAMETER LIST LENGTH).
    HandUp(u32),
    /// Its end is known: it is told when no data is on its way any more.
    Fail(Answer),
}

/// Pieces of a long READ, put in order.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Bytes whose pieces have been started.
    pub started: u32,
    /// Bytes that have been sent, or are about to be.
    pub sent: u32,
    pub data_sn: u32,
    /// Pieces that ended before those in front of them.
    slots: VecDeque<Option<IoBuf>>,
}

impl Pieces {
    /// Keeps a piece; `index`: how many are before it, those that have been sent apart.
    pub fn keep(&mut self, index: usize, buf: IoBuf) {
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(buf);
    }

    /// The next one in order has come, and needs no keeping.
    pub fn skip(&mut self) {
        self.slots.pop_front();
    }

    /// The next one in order, if it is there.
    pub fn take_next(&mut self) -> Option<IoBuf> {
        let buf = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        Some(buf)
    }

    /// All that are kept.
    pub fn drain(&mut self) -> impl Iterator<Item = IoBuf> + '_ {
        self.slots.drain(..).flatten()
    }
}

/// See the module's text.
pub struct Command {
    pub itt: u32,
    pub lun_field: u64,
    pub cdb: Cdb,
    pub attribute: u8,
    pub expected_in: u32,
    pub expected_out: u32,
    pub cmd_sn: u32,
    pub immediate: bool,
    /// The connection of its allegiance.
    pub conn: TaskHandle,
    /// The shard's count of commands when it came.
    pub arrival: u64,
    pub started_ns: u64,
    pub lun: Option<Rc<Lun>>,
    pub stage: Stage,
    pub plan: Plan,
    /// The gate's generation when it was judged.
    pub generation: u64,
    pub inflow: Inflow,
    /// Since when its data is due, by its connection's clock; what has come of it counts for later.
    pub data_since_ms: u64,
    /// Bytes that it was asked for and that have not come, which its connection counts as well.
    pub owed: u32,
    /// Where Data-Out is collected: the bytes from `base` on.
    pub buf: Option<IoBuf>,
    pub base: u32,
    pub pieces: Pieces,
    /// The range of all its pieces, where nobody may come between them.
    pub claim: Claim,
    /// The buffer counts as one that is being filled.
    pub collecting: bool,
    /// When it was got, or something last came into it.
    pub heard_ms: u64,
    /// It is one for a first burst, which the session counts apart.
    pub first: bool,
    /// Requests that the volume has, and the capacity of their buffers.
    pub in_flight: usize,
    pub lent: usize,
    /// It did not end at once.
    pub slow: bool,
    /// The first thing that went wrong in the volume.
    pub error: Option<Answer>,
    /// It found no room, and Python has seen to it that its initiator is warned first.
    pub warned: bool,
    /// ABORT TASK names it: it does not go on until that has been decided.
    pub frozen: bool,
    /// That, or a cut, keeps it from going on.
    pub held: bool,
    /// It waits for memory, or for its quota.
    pub queued: bool,
    /// What was missing when it asked for memory last.
    pub lacks: Option<Lack>,
    /// Aborted: nothing more is started, and its end is this status, or silence.
    pub aborted: Option<Option<u8>>,
    /// Ended for its initiator while Python has it: the volume that it was at.
    pub abandoned: Option<u64>,
    /// By which Python knows it.
    pub name: Option<TaskHandle>,
    /// While it is up there, or on its way.
    pub fate: Option<Fate>,
}

impl Command {
    /// What a header and its AHS ask for, on the connection `conn` (RFC 7143 11.3). Its number among the shard's, its
    /// LUN and its times are the session's to say.
    pub fn new(bhs: &Bhs, extra: &Ahs, terms: &Terms, conn: TaskHandle) -> Self {
        let expected_out = if bhs.writes() { bhs.word20() } else { 0 };
        let expected_in = match (bhs.bit6(), bhs.writes()) {
            (true, true) => extra.read_bytes.unwrap_or(0),
            (true, false) => bhs.word20(),
            _ => 0,
        };
        let (inflow, plan) = match Inflow::new(terms, expected_out, bhs.data_bytes() as u32, bhs.is_final()) {
            Ok(inflow) => (inflow, Plan::None),
            Err(fault) => (Inflow::default(), Plan::Fail(Answer::check(sense::of(fault)))),
        };
        Self {
            itt: bhs.itt(),
            lun_field: bhs.lun(),
            cdb: Cdb::new(bhs.cdb(), extra.cdb_rest),
            attribute: bhs.attribute(),
            expected_in,
            expected_out,
            cmd_sn: bhs.cmd_sn(),
            immediate: bhs.is_immediate(),
            conn,
            arrival: 0,
            started_ns: 0,
            lun: None,
            stage: Stage::Arrived,
            plan,
            generation: 0,
            inflow,
            data_since_ms: 0,
            owed: 0,
            buf: None,
            base: 0,
            pieces: Pieces::default(),
            claim: Claim::No,
            in_flight: 0,
            lent: 0,
            slow: false,
            error: None,
            warned: false,
            collecting: false,
            heard_ms: 0,
            first: false,
            frozen: false,
            held: false,
            queued: false,
            lacks: None,
            aborted: None,
            abandoned: None,
            name: None,
            fate: None,
        }
    }

    /// The handle of its volume, 0: its LUN is not mapped.
    pub fn volume(&self) -> u64 {
        self.lun.as_ref().map_or(0, |lun| lun.volume())
    }

    /// Data-Out that it takes, of what is expected; as much as is expected until it has been judged.
    pub fn wants(&self) -> u32 {
        match &self.plan {
            Plan::Media(_, media) => media.data_out.min(u64::from(self.expected_out)) as u32,
            Plan::HandUp(list) => self.expected_out.min(*list),
            Plan::Fail(_) => 0,
            Plan::None => self.expected_out,
        }
    }

    /// Residual counts, (write or only, read of a bidirectional one): of `data_in` bytes that it has to
    /// send, and its Data-Out.
    pub fn residuals(&self, data_in: u64) -> (Residual, Residual) {
        let data_out = match &self.plan {
            Plan::Media(_, media) => media.data_out,
            Plan::HandUp(list) => u64::from(*list),
            Plan::None | Plan::Fail(_) => 0,
        };
        let write = Residual::of(self.expected_out, data_out);
        let read = Residual::of(self.expected_in, data_in);
        match (self.expected_out, self.expected_in) {
            (1.., 1..) => (write, read),
            (1.., 0) => (write, Residual::default()),
            // Neither: what the CDB asks for is too much, whichever way it goes.
            (0, 0) if data_out > 0 => (write, Residual::default()),
            _ => (read, Residual::default()),
        }
    }

    /// Its place in the status of tasks.
    pub fn phase(&self) -> &'static str {
        match self.stage {
            Stage::HandedUp => "handed-up",
            Stage::Early | Stage::Arrived | Stage::Enabled if self.held => "held",
            Stage::Early | Stage::Dormant => "ordered",
            _ if self.queued => "queued",
            _ if self.inflow.is_open() => "collecting",
            _ => "queued",
        }
    }
}
