//! The gate: what may be done with one volume, by whom. Python is its only author.
//!
//! A gate is immutable; a change is a new gate with a higher generation, swapped in
//! on every shard. It is checked when a request arrives and again when the request is
//! given to the backstore.

use std::collections::HashMap;
use std::sync::Arc;

use super::command::Op;
use crate::scsi::gate::ScsiGate;
use crate::scsi::table::NBD;
use crate::shard::status::OPS;

/// Names who asks: a connection for NBD, an I_T nexus for SCSI.
pub type Nexus = u64;

/// How the reservations of a volume stand towards one nexus (SPC-4 5.12.1). Python finds it; a row of the
/// opcode table says which commands are a RESERVATION CONFLICT in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Situation {
    /// Nothing is reserved, or the nexus is let in.
    #[default]
    Free = 0,
    /// A reservation that keeps others from writing.
    WriteExclusiveOther = 1,
    /// A reservation that keeps others from reading too.
    ExclusiveAccessOther = 2,
    /// Another nexus has it by RESERVE(6) or RESERVE(10).
    LegacyOther = 3,
}

impl Situation {
    /// By its number in the seam.
    pub const fn of_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Situation::Free,
            1 => Situation::WriteExclusiveOther,
            2 => Situation::ExclusiveAccessOther,
            3 => Situation::LegacyOther,
            _ => return None,
        })
    }
}

/// Why a gate refuses. Each protocol has its own word for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The range ends behind the volume's end, or overflows.
    BeyondEnd,
    /// The volume is read-only for everybody.
    ReadOnly,
    /// The medium is write protected, by an initiator (SWP).
    Protected,
    /// The medium is not there, or not to be had now: stopped, taken out, being sanitized.
    NotReady,
    /// A reservation of somebody else's keeps this nexus out.
    Conflict,
    /// The volume is being closed, or is closed.
    Closed,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Grows with every gate of a volume.
    pub generation: u64,
    /// Bytes, as clients see it.
    pub size: u64,
    /// Nobody may write.
    pub read_only: bool,
    /// The situation of those for whom it is other than `default_access`.
    pub access: HashMap<Nexus, Situation>,
    /// For every nexus that `access` does not name.
    pub default_access: Situation,
    /// Of a volume that is a SCSI logical unit: what the engine answers and refuses by itself.
    pub scsi: Option<Arc<ScsiGate>>,
}

/// For each operation, the situations in which it is a conflict for an NBD connection.
static NBD_CONFLICTS: [u8; OPS.len()] = {
    let mut conflicts = [0; OPS.len()];
    let mut at = 0;
    while at < NBD.len() {
        conflicts[nbd_op(NBD[at].name) as usize] = NBD[at].conflicts;
        at += 1;
    }
    conflicts
};

/// The operation of a row of the opcode table's NBD part. A name that is unknown does not compile.
const fn nbd_op(name: &str) -> Op {
    match name.as_bytes() {
        b"READ" => Op::Read,
        b"WRITE" => Op::Write,
        b"FLUSH" => Op::Flush,
        b"TRIM" => Op::Discard,
        b"CACHE" => Op::Cache,
        b"WRITE_ZEROES" => Op::WriteZeroes,
        b"BLOCK_STATUS" => Op::BlockStatus,
        _ => panic!("no such NBD command"),
    }
}

impl Gate {
    /// May the NBD connection `nexus` do `op` on `len` bytes at `offset`? `Flush` has no range. What initiators have
    /// done to the unit holds for NBD as well: it is the same medium, and each of NBD's commands needs it.
    pub fn check(&self, nexus: Nexus, op: Op, offset: u64, len: u64) -> Result<(), Refusal> {
        if self.read_only && op.is_write() {
            return Err(Refusal::ReadOnly);
        }
        if NBD_CONFLICTS[op as usize] & 1 << self.situation(nexus) as u8 != 0 {
            return Err(Refusal::Conflict);
        }
        if let Some(scsi) = &self.scsi {
            if scsi.not_ready.is_some() {
                return Err(Refusal::NotReady);
            }
            if scsi.software_write_protect && op.is_write() {
                return Err(Refusal::Protected);
            }
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size || !op.has_range() => Ok(()),
            _ => Err(Refusal::BeyondEnd),
        }
    }

    /// How the reservations stand towards a nexus.
    pub fn situation(&self, nexus: Nexus) -> Situation {
        // Almost every gate names nobody: do not hash for those.
        match self.access.is_empty() {
            true => self.default_access,
            false => self.access.get(&nexus).copied().unwrap_or(self.default_access),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::sense::Sense;

    fn gate() -> Gate {
        let (access, default_access) = (HashMap::new(), Situation::Free);
        Gate { generation: 1, size: 4096, read_only: false, access, default_access, scsi: None }
    }

    #[test]
    fn ranges_are_checked_to_the_last_byte() {
        let gate = gate();
        assert_eq!(gate.check(1, Op::Read, 0, 4096), Ok(()));
        assert_eq!(gate.check(1, Op::Read, 4096, 0), Ok(()));
        assert_eq!(gate.check(1, Op::Read, 4095, 2), Err(Refusal::BeyondEnd));
        assert_eq!(gate.check(1, Op::Write, 4097, 0), Err(Refusal::BeyondEnd));
        assert_eq!(gate.check(1, Op::Write, u64::MAX, 2), Err(Refusal::BeyondEnd));
    }

    #[test]
    fn read_only_refuses_every_kind_of_write_and_nothing_else() {
        let gate = Gate { read_only: true, ..gate() };
        for op in [Op::Write, Op::Discard, Op::WriteZeroes] {
            assert_eq!(gate.check(1, op, 0, 1), Err(Refusal::ReadOnly));
        }
        for op in [Op::Read, Op::Flush, Op::Cache, Op::BlockStatus] {
            assert_eq!(gate.check(1, op, 0, 1), Ok(()));
        }
    }

    #[test]
    fn reservations_are_per_nexus() {
        let access = HashMap::from([(7, Situation::WriteExclusiveOther), (8, Situation::Free)]);
        let gate = Gate { access, default_access: Situation::ExclusiveAccessOther, ..gate() };
        assert_eq!(gate.check(7, Op::Read, 0, 1), Ok(()));
        assert_eq!(gate.check(7, Op::Write, 0, 1), Err(Refusal::Conflict));
        assert_eq!(gate.check(8, Op::WriteZeroes, 0, 1), Ok(()));
        assert_eq!(gate.check(9, Op::BlockStatus, 0, 1), Err(Refusal::Conflict));
        assert_eq!(gate.check(9, Op::Read, 0, 1), Err(Refusal::Conflict));
        let gate = Gate { default_access: Situation::LegacyOther, ..gate };
        assert_eq!(gate.check(9, Op::Read, 0, 1), Err(Refusal::Conflict));
    }

    #[test]
    fn what_initiators_do_to_the_medium_holds_for_all() {
        let with = |scsi| Gate { scsi: Some(Arc::new(scsi)), ..gate() };
        let stopped = ScsiGate { not_ready: Some(Sense::new(0x2, 0x04, 0x02)), ..ScsiGate::for_tests() };
        for op in [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::Cache, Op::WriteZeroes, Op::BlockStatus] {
            assert_eq!(with(stopped.clone()).check(1, op, 0, 1), Err(Refusal::NotReady));
            assert_eq!(with(ScsiGate::for_tests()).check(1, op, 0, 1), Ok(()));
            let protected = ScsiGate { software_write_protect: true, ..ScsiGate::for_tests() };
            let expected = if op.is_write() { Err(Refusal::Protected) } else { Ok(()) };
            assert_eq!(with(protected).check(1, op, 0, 1), expected);
        }
        let both = Gate { default_access: Situation::ExclusiveAccessOther, ..with(stopped) };
        assert_eq!(both.check(1, Op::Read, 0, 1), Err(Refusal::Conflict), "reservations come first, as for SCSI");
    }

    #[test]
    fn situations_have_the_seams_numbers() {
        for number in 0..4 {
            assert_eq!(Situation::of_number(number).map(|situation| situation as u8), Some(number));
        }
        assert_eq!(Situation::of_number(4), None);
    }
}
