//! The form of the opcode table's rows, and how a CDB finds its own.
//!
//! The rows themselves are in `table.rs`, which is generated from `src/blockgate/scsi/opcodes.toml`:
//! parsing, reservation conflicts, ALUA and REPORT SUPPORTED OPERATION CODES all go by the same row.

use super::table::{COMMANDS, NEEDS};
use crate::block::gate::Situation;

/// What the engine does with a command that nothing stands in the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Python answers it, always.
    Handed,
    /// One of the gate's ready answers, if there is one for this CDB; else Python answers it.
    Canned,
    Read,
    Write,
    Verify,
    WriteVerify,
    Sync,
    Unmap,
    WriteSame,
    CompareAndWrite,
    OrWrite,
    Prefetch,
    LbaStatus,
}

impl Action {
    /// Does the engine execute the command itself (so that [`decode`](super::command::decode) knows it)?
    pub const fn is_media(self) -> bool {
        !matches!(self, Action::Handed | Action::Canned)
    }
}

/// What a pending unit attention means for a command (SAM-5 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAttention {
    /// It is reported instead of the command.
    Report,
    /// INQUIRY, REPORT LUNS: executed, the attention stays; but REPORT LUNS tells the news of one of them,
    /// see [`reported_luns`](super::attention::reported_luns).
    Ignore,
    /// REQUEST SENSE: the attention's sense is the data.
    Sense,
}

/// A big-endian number in a CDB, at byte `offset`, of `len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub offset: u8,
    pub len: u8,
}

impl Field {
    /// Its value in `cdb`, which is long enough.
    pub fn of(self, cdb: &[u8]) -> u64 {
        let start = usize::from(self.offset);
        cdb[start..start + usize::from(self.len)].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// `Row::conflicts`: the bits are those of [`Situation`](crate::block::gate::Situation).
pub const WE: u8 = 1 << 1;
/// Exclusive Access (and its kin) is held by another nexus.
pub const EA: u8 = 1 << 2;
/// RESERVE(6) or RESERVE(10) is held by another nexus.
pub const LEGACY: u8 = 1 << 3;

/// `Row::alua`: states in which the command is served, beside active/optimized and active/non-optimized.
pub const STANDBY: u8 = 1 << 0;
/// See [`STANDBY`].
pub const UNAVAILABLE: u8 = 1 << 1;
/// See [`STANDBY`].
pub const TRANSITIONING: u8 = 1 << 2;

/// A value of some bits of a CDB's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unless {
    pub byte: u8,
    pub mask: u8,
    pub value: u8,
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    pub opcode: u8,
    pub service_action: Option<u16>,
    /// Bytes.
    pub cdb_length: u8,
    /// CDB usage data (SPC-4 6.35.3): a mask for each byte of the CDB, the opcode itself first.
    pub usage: &'static [u8],
    /// Situations in which it is a RESERVATION CONFLICT: `WE | EA | LEGACY`. See [`Row::conflicts_in`].
    pub conflicts: u8,
    /// With this in the CDB it is none after all.
    pub conflicts_unless: Option<Unless>,
    pub action: Action,
    pub attention: OnAttention,
    /// `STANDBY | UNAVAILABLE | TRANSITIONING`.
    pub alua: u8,
    /// ALLOCATION LENGTH.
    pub allocation: Option<Field>,
    /// PARAMETER LIST LENGTH.
    pub parameter_list: Option<Field>,
    /// It alters the medium.
    pub writes: bool,
    /// It needs the medium.
    pub media: bool,
    /// What a unit must have to know it: a bit of [`NEEDS`], or 0.
    pub needs: u8,
}

impl Row {
    /// Is the command a RESERVATION CONFLICT for a nexus in this situation?
    pub fn conflicts_in(&self, situation: Situation, cdb: &[u8]) -> bool {
        let excused = |unless: Unless| cdb[usize::from(unless.byte)] & unless.mask == unless.value;
        self.conflicts & 1 << situation as u8 != 0 && !self.conflicts_unless.is_some_and(excused)
    }
}

/// One unit attention condition. Of several that are pending the lowest bit is reported first.
#[derive(Debug, PartialEq, Eq)]
pub struct AttentionRow {
    pub name: &'static str,
    pub bit: u8,
    pub asc: u8,
    pub ascq: u8,
}

/// One of NBD's commands: an NBD connection is a nexus that has not registered.
#[derive(Debug, PartialEq, Eq)]
pub struct NbdRow {
    pub name: &'static str,
    pub conflicts: u8,
}

/// A unit that has whatever a command may need.
pub const ALL_NEEDS: u8 = u8::MAX;

/// The bit of `Row::needs` for a name of that column; `None`: there is no such need.
pub fn need(name: &str) -> Option<u8> {
    NEEDS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// Why a CDB has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// INVALID COMMAND OPERATION CODE: no command of that opcode is known.
    Opcode,
    /// The opcode is known, its service action is not: INVALID FIELD IN CDB.
    ServiceAction,
    /// Fewer bytes than the command has.
    Short,
}

/// Rows of one opcode stand together; this is where they begin. 0xffff: there are none.
static FIRST: [u16; 256] = index_of(&COMMANDS);

const NONE: u16 = u16::MAX;

const fn index_of(rows: &[Row]) -> [u16; 256] {
    let mut first = [NONE; 256];
    let mut at = rows.len();
    while at > 0 {
        at -= 1;
        first[rows[at].opcode as usize] = at as u16;
    }
    first
}

/// The row of a command descriptor block, if any unit knows it.
pub fn find(cdb: &[u8]) -> Result<&'static Row, Invalid> {
    known(cdb, ALL_NEEDS)
}

/// The row of a command that a unit knows which has what `met` says. Commands that it does not know are as if
/// they were not in the table: so a service action is wrong where others are right (SPC-4 4.2.5.2).
pub fn known(cdb: &[u8], met: u8) -> Result<&'static Row, Invalid> {
    let opcode = *cdb.first().ok_or(Invalid::Short)?;
    let first = FIRST[usize::from(opcode)];
    if first == NONE {
        return Err(Invalid::Opcode);
    }
    let of_opcode = COMMANDS[usize::from(first)..].iter().take_while(|row| row.opcode == opcode);
    let mut rows = of_opcode.filter(|row| row.needs & !met == 0).peekable();
    if rows.peek().is_none() {
        return Err(Invalid::Opcode);
    }
    let row = rows.find(|row| is_named(row, cdb)).ok_or(Invalid::ServiceAction)?;
    match cdb.len() < usize::from(row.cdb_length) {
        true => Err(Invalid::Short),
        false => Ok(row),
    }
}

/// SERVICE ACTION is the low five bits of byte 1 (SPC-4 4.2.5.3); a CDB too short for it names none.
fn is_named(row: &Row, cdb: &[u8]) -> bool {
    row.service_action.is_none_or(|action| cdb.get(1).is_some_and(|byte| u16::from(byte & 0x1f) == action))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cdb: &[u8]) -> Result<&'static str, Invalid> {
        find(cdb).map(|row| row.name)
    }

    #[test]
    fn rows_are_sorted_and_whole() {
        for pair in COMMANDS.windows(2) {
            let key = |row: &Row| (row.opcode, row.service_action);
            assert!(key(&pair[0]) < key(&pair[1]), "{} before {}", pair[0].name, pair[1].name);
        }
        for row in &COMMANDS {
            assert_eq!(row.usage.len(), usize::from(row.cdb_length), "{}", row.name);
            assert_eq!(row.usage[0], row.opcode, "{}", row.name);
            // GROUP CODE says how long a CDB is (SPC-4 4.2.5.1).
            let length = [6, 10, 10, 0, 16, 12, 0, 0][usize::from(row.opcode >> 5)];
            assert_eq!(row.cdb_length, length, "{}", row.name);
        }
    }

    #[test]
    fn a_cdb_finds_its_row() {
        assert_eq!(name(&[0x28; 10]), Ok("READ(10)"));
        assert_eq!(name(&[0x28; 16]), Ok("READ(10)"), "a CDB field is longer than the CDB");
        assert_eq!(name(&[0x28; 9]), Err(Invalid::Short));
        assert_eq!(name(&[]), Err(Invalid::Short));
        assert_eq!(name(&[0xff; 16]), Err(Invalid::Opcode));
        assert_eq!(name(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok("READ CAPACITY(16)"));
        assert_eq!(name(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok("GET LBA STATUS"));
        assert_eq!(name(&[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Invalid::ServiceAction));
        assert_eq!(name(&[0x9e]), Err(Invalid::ServiceAction));
    }

    #[test]
    fn a_unit_knows_what_it_has_the_needs_of() {
        let (thin, explicit) = (need("thin").unwrap(), need("explicit_alua").unwrap());
        let of = |cdb: &[u8], met| known(cdb, met).map(|row| row.name);
        assert_eq!(of(&[0x42; 10], thin), Ok("UNMAP"));
        assert_eq!(of(&[0x42; 10], explicit), Err(Invalid::Opcode));
        // SANITIZE has OVERWRITE in any case, SET TARGET PORT GROUPS shares its opcode with nothing.
        assert_eq!(of(&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], thin), Ok("SANITIZE, BLOCK ERASE"));
        assert_eq!(of(&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], 0), Err(Invalid::ServiceAction));
        for action in [0x0a, 0x0b] {
            assert_eq!(of(&[0xa4, action, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], thin), Err(Invalid::Opcode));
        }
        assert_eq!(of(&[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], explicit), Ok("SET TARGET PORT GROUPS"));
        assert_eq!(need("patience"), None);
    }

    #[test]
    fn every_row_is_found_by_its_own_cdb() {
        for row in &COMMANDS {
            let mut cdb = [0; 16];
            cdb[0] = row.opcode;
            cdb[1] = row.service_action.unwrap_or(0) as u8;
            assert_eq!(find(&cdb), Ok(row));
        }
    }

    #[test]
    fn a_conflict_may_depend_on_the_cdb() {
        // START STOP UNIT: whoever starts a unit takes nothing from the one that has reserved it.
        let (start, stop) = ([0x1b, 0, 0, 0, 1, 0], [0x1b, 0, 0, 0, 0, 0]);
        let row = find(&start).unwrap();
        assert!(row.conflicts_in(Situation::ExclusiveAccessOther, &stop));
        assert!(!row.conflicts_in(Situation::ExclusiveAccessOther, &start));
        assert!(!row.conflicts_in(Situation::Free, &stop));
    }

    #[test]
    fn fields_are_big_endian() {
        assert_eq!(Field { offset: 1, len: 2 }.of(&[9, 1, 2, 9]), 0x0102);
        assert_eq!(Field { offset: 3, len: 1 }.of(&[9, 1, 2, 9]), 9);
    }
}
