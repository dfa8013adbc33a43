//! The gate: what may be done with one volume, by whom. Python is its only author.
//!
//! A gate is immutable; a change is a new gate with a higher generation, swapped in
//! on every shard. It is checked when a request arrives and again when the request is
//! given to the backstore.

use std::collections::HashMap;

use super::command::Op;

/// Names who asks: a connection for NBD, an I_T nexus for SCSI.
pub type Nexus = u64;

/// May read, may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
}

impl Access {
    /// Everything is allowed.
    pub const FULL: Access = Access { read: true, write: true };
}

/// Why a gate refuses. Each protocol has its own word for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The range ends behind the volume's end, or overflows.
    BeyondEnd,
    /// The volume is read-only for everybody.
    ReadOnly,
    /// This nexus may not read.
    ReadForbidden,
    /// This nexus may not write.
    WriteForbidden,
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
    /// Who may do other than `default_access`.
    pub access: HashMap<Nexus, Access>,
    /// For every nexus that `access` does not name.
    pub default_access: Access,
}

impl Gate {
    /// May `nexus` do `op` on `len` bytes at `offset`? `Flush` has no range and is always allowed.
    pub fn check(&self, nexus: Nexus, op: Op, offset: u64, len: u64) -> Result<(), Refusal> {
        if op == Op::Flush {
            return Ok(());
        }
        self.check_access(nexus, op)?;
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Refusal::BeyondEnd),
        }
    }

    fn check_access(&self, nexus: Nexus, op: Op) -> Result<(), Refusal> {
        // Almost every gate names nobody: do not hash for those.
        let access = match self.access.is_empty() {
            true => self.default_access,
            false => self.access.get(&nexus).copied().unwrap_or(self.default_access),
        };
        if !op.is_write() {
            return if access.read { Ok(()) } else { Err(Refusal::ReadForbidden) };
        }
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        if access.write {
            Ok(())
        } else {
            Err(Refusal::WriteForbidden)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate { generation: 1, size: 4096, read_only: false, access: HashMap::new(), default_access: Access::FULL }
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
    fn access_is_per_nexus() {
        let access =
            HashMap::from([(7, Access { read: true, write: false }), (8, Access { read: false, write: true })]);
        let gate = Gate { access, default_access: Access { read: false, write: false }, ..gate() };
        assert_eq!(gate.check(7, Op::Read, 0, 1), Ok(()));
        assert_eq!(gate.check(7, Op::Write, 0, 1), Err(Refusal::WriteForbidden));
        assert_eq!(gate.check(8, Op::BlockStatus, 0, 1), Err(Refusal::ReadForbidden));
        assert_eq!(gate.check(8, Op::WriteZeroes, 0, 1), Ok(()));
        assert_eq!(gate.check(9, Op::Read, 0, 1), Err(Refusal::ReadForbidden));
    }
}
