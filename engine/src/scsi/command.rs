//! From a CDB that the engine executes to what it asks of the medium: every field is checked here, once.
//!
//! Sense for a wrong field points at it (SPC-4 4.5.2.4.2). Sizes of fields follow the CDB's own: the
//! layouts of 6, 10, 12 and 16 byte commands (SPC-4 4.2.5) are the same for all of SBC's, LBA and
//! length being what they share.

use super::gate::ScsiGate;
use super::row::{Action, Field, Invalid, Row};
use super::sense::{key, Sense};
use crate::block::command::{Errno, Extent, Flags, Op, Span, EXTENT_HOLE, EXTENT_ZERO};

/// Status codes (SAM-5 5.3.1).
pub mod status {
    pub const GOOD: u8 = 0x00;
    pub const CHECK_CONDITION: u8 = 0x02;
    pub const CONDITION_MET: u8 = 0x04;
    pub const BUSY: u8 = 0x08;
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    pub const TASK_SET_FULL: u8 = 0x28;
    pub const TASK_ABORTED: u8 = 0x40;
}

/// How a command ends that did not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u8,
    /// With CHECK CONDITION.
    pub sense: Option<Sense>,
}

impl Answer {
    /// No sense goes with it (SAM-5 5.3.1).
    pub const RESERVATION_CONFLICT: Answer = Answer { status: status::RESERVATION_CONFLICT, sense: None };
    /// To be tried again.
    pub const BUSY: Answer = Answer { status: status::BUSY, sense: None };
    /// There is no room for it: to be tried again when others have ended.
    pub const TASK_SET_FULL: Answer = Answer { status: status::TASK_SET_FULL, sense: None };

    /// CHECK CONDITION.
    pub const fn check(sense: Sense) -> Self {
        Answer { status: status::CHECK_CONDITION, sense: Some(sense) }
    }

    /// A CDB without a row in the opcode table.
    pub const fn unknown(why: Invalid) -> Self {
        Answer::check(match why {
            Invalid::Opcode => Sense::INVALID_OPCODE,
            Invalid::ServiceAction => Sense::INVALID_FIELD_IN_CDB.at_bit(1, 4),
            Invalid::Short => Sense::INVALID_FIELD_IN_CDB.at_byte(0),
        })
    }

    /// The back end's error. `information`, where it is known: of what differs the offset in the data that was
    /// compared (SBC-3 5.3), of what cannot be read or written its first LBA (SBC-3 4.18.1).
    pub fn of_errno(op: Op, errno: Errno, information: Option<u64>) -> Self {
        let sense = Sense::of_errno(op, errno);
        match (errno, information) {
            (libc::ENOMEM, _) => Answer::BUSY,
            (_, Some(information)) if matches!(sense.key, key::MISCOMPARE | key::MEDIUM_ERROR) => {
                Answer::check(sense.with_information(information))
            }
            _ => Answer::check(sense),
        }
    }

    /// Something else of the command has failed as well, from `lba` on. Initiators take all blocks before the one
    /// that is told for good.
    pub fn fail_from(&mut self, lba: u64) {
        if let Some(sense) = self.sense.as_mut().filter(|sense| sense.key == key::MEDIUM_ERROR) {
            sense.information = sense.information.map(|first| first.min(lba));
        }
    }
}

/// What a command asks of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    pub action: Action,
    /// Of the requests to the volume.
    pub op: Op,
    pub flags: Flags,
    pub lba: u64,
    /// Bytes from the volume's start.
    pub offset: u64,
    /// Bytes of the medium. 0: nothing is to be done to it, and the command is GOOD. (UNMAP has its
    /// ranges in its data; SYNCHRONIZE CACHE covers the volume, whatever its range.)
    pub len: u64,
    /// Bytes that go to the initiator.
    pub data_in: u64,
    /// Bytes that come from it.
    pub data_out: u64,
    /// IMMED: the status is not to wait for it.
    pub immediate: bool,
}

/// `Media` of a CDB whose row's action [`is_media`](Action::is_media). `size`: of the volume, bytes.
pub fn decode(row: &Row, cdb: &[u8], scsi: &ScsiGate, size: u64) -> Result<Media, Sense> {
    let cdb = Cdb { bytes: cdb, row, scsi, capacity: size / u64::from(scsi.block_size) };
    match row.action {
        Action::Read => cdb.read(),
        Action::Write => cdb.write(),
        Action::Verify => cdb.verify(),
        Action::WriteVerify => cdb.write_verify(),
        Action::Sync => cdb.hint(Op::Flush),
        Action::Prefetch => cdb.hint(Op::Cache),
        Action::Unmap => cdb.unmap(),
        Action::WriteSame => cdb.write_same(),
        Action::CompareAndWrite => cdb.compare_and_write(),
        Action::OrWrite => cdb.or_write(),
        Action::LbaStatus => cdb.lba_status(),
        // Not ours to know: Python has it.
        Action::Handed | Action::Canned => Err(Sense::INVALID_OPCODE),
    }
}

/// A range that begins at `lba` and leaves the `capacity`: with its first block that is not there (SBC-3 4.18.1).
fn out_of_range(lba: u64, capacity: u64) -> Sense {
    Sense::LBA_OUT_OF_RANGE.with_information(lba.max(capacity))
}

/// Byte 1 of the commands that move data: protection (bits 7-5), DPO (4), FUA (3) and what each adds.
const PROTECT: u8 = 0xe0;
const FUA: u8 = 0x08;
const BYTCHK: u8 = 0x06;
/// SYNCHRONIZE CACHE.
const IMMED: u8 = 0x02;
/// WRITE SAME.
const ANCHOR: u8 = 0x10;
const UNMAP: u8 = 0x08;
const PBDATA: u8 = 0x04;
const LBDATA: u8 = 0x02;
const NDOB: u8 = 0x01;

struct Cdb<'a> {
    bytes: &'a [u8],
    row: &'a Row,
    scsi: &'a ScsiGate,
    /// Blocks.
    capacity: u64,
}

impl Cdb<'_> {
    fn lba_field(&self) -> Field {
        match self.row.cdb_length {
            6 => Field { offset: 1, len: 3 },
            16 => Field { offset: 2, len: 8 },
            _ => Field { offset: 2, len: 4 },
        }
    }

    fn length_field(&self) -> Field {
        match self.row.cdb_length {
            6 => Field { offset: 4, len: 1 },
            10 => Field { offset: 7, len: 2 },
            12 => Field { offset: 6, len: 4 },
            _ => Field { offset: 10, len: 4 },
        }
    }

    fn lba(&self) -> u64 {
        let lba = self.lba_field().of(self.bytes);
        // READ(6) and WRITE(6) have 21 bits; those above were a LUN's once.
        if self.row.cdb_length == 6 {
            lba & 0x1f_ffff
        } else {
            lba
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.bytes[1] & bit != 0
    }

    fn bytes_of(&self, blocks: u64) -> u64 {
        blocks * u64::from(self.scsi.block_size)
    }

    /// RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT: without protection information it must be 0
    /// (SBC-3 4.22, tables 33 and following).
    fn check_protect(&self) -> Result<(), Sense> {
        match self.row.cdb_length != 6 && self.has(PROTECT) {
            true => Err(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 7)),
            false => Ok(()),
        }
    }

    /// LBA OUT OF RANGE unless `blocks` at `lba` lie inside the capacity (SBC-3 4.5).
    fn check_range(&self, lba: u64, blocks: u64) -> Result<(), Sense> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(out_of_range(lba, self.capacity).at_byte(u16::from(self.lba_field().offset))),
        }
    }

    /// INVALID FIELD IN CDB where `blocks` is above an announced limit (0: there is none).
    fn check_limit(&self, blocks: u64, limit: u64) -> Result<(), Sense> {
        match limit != 0 && blocks > limit {
            true => Err(Sense::INVALID_FIELD_IN_CDB.at_byte(u16::from(self.length_field().offset))),
            false => Ok(()),
        }
    }

    /// The range of a command that moves data, and FUA.
    fn transfer(&self, op: Op) -> Result<Media, Sense> {
        self.check_protect()?;
        let (lba, mut blocks) = (self.lba(), self.length_field().of(self.bytes));
        let mut fua = self.has(FUA);
        if self.row.cdb_length == 6 {
            // "A TRANSFER LENGTH field set to zero specifies that 256 logical blocks" (SBC-3 5.7).
            blocks = if blocks == 0 { 256 } else { blocks };
            fua = false;
        }
        self.check_limit(blocks, self.scsi.limits.transfer_blocks.into())?;
        self.range(op, lba, blocks, fua)
    }

    fn range(&self, op: Op, lba: u64, blocks: u64, fua: bool) -> Result<Media, Sense> {
        self.check_range(lba, blocks)?;
        Ok(Media {
            action: self.row.action,
            op,
            flags: Flags { fua, ..Flags::default() },
            lba,
            offset: self.bytes_of(lba),
            len: self.bytes_of(blocks),
            data_in: 0,
            data_out: 0,
            immediate: false,
        })
    }

    fn read(&self) -> Result<Media, Sense> {
        let media = self.transfer(Op::Read)?;
        Ok(Media { data_in: media.len, ..media })
    }

    fn write(&self) -> Result<Media, Sense> {
        let media = self.transfer(Op::Write)?;
        Ok(Media { data_out: media.len, ..media })
    }

    fn or_write(&self) -> Result<Media, Sense> {
        let media = self.transfer(Op::OrWrite)?;
        Ok(Media { data_out: media.len, ..media })
    }

    /// SBC-3 5.42: the verification length has no zero that means more.
    fn verify(&self) -> Result<Media, Sense> {
        let media = self.without_fua(Op::Verify)?;
        let data_out = match self.bytes[1] & BYTCHK {
            0x00 => 0,
            0x02 => media.len,
            // 11b: one block, compared with each of the medium's.
            0x06 => media.len.min(self.scsi.block_size.into()),
            _ => return Err(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 2)),
        };
        Ok(Media { data_out, ..media })
    }

    /// SBC-3 5.44: 10b and 11b are reserved. Whatever was asked, what was written is read back and compared.
    fn write_verify(&self) -> Result<Media, Sense> {
        if self.has(0x04) {
            return Err(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 2));
        }
        let media = self.without_fua(Op::WriteVerify)?;
        // It is the medium that is verified, so the data must have come there.
        let flags = Flags { fua: true, ..Flags::default() };
        Ok(Media { data_out: media.len, flags, ..media })
    }

    /// VERIFY and WRITE AND VERIFY have BYTCHK and a reserved bit where others have FUA.
    fn without_fua(&self, op: Op) -> Result<Media, Sense> {
        Ok(Media { flags: Flags::default(), ..self.transfer(op)? })
    }

    /// SYNCHRONIZE CACHE and PRE-FETCH: 0 blocks mean all up to the end (SBC-3 5.26, 5.11). (Nobody ever waits for
    /// what PRE-FETCH asks for, IMMED or not.)
    fn hint(&self, op: Op) -> Result<Media, Sense> {
        let (lba, blocks) = (self.lba(), self.length_field().of(self.bytes));
        self.check_range(lba, blocks)?;
        let blocks = if blocks == 0 { self.capacity - lba } else { blocks };
        Ok(Media { immediate: op == Op::Flush && self.has(IMMED), ..self.range(op, lba, blocks, false)? })
    }

    /// SBC-3 5.35. The ranges come with the data, see [`unmap_spans`].
    fn unmap(&self) -> Result<Media, Sense> {
        // ANCHOR without ANC_SUP.
        if self.has(0x01) {
            return Err(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 0));
        }
        let list = Field { offset: 7, len: 2 }.of(self.bytes);
        match list {
            0 => {}
            // Not even its header.
            1..8 => return Err(Sense::PARAMETER_LIST_LENGTH_ERROR.at_byte(7)),
            _ => {}
        }
        Ok(Media { data_out: list, ..self.range(Op::Unmap, 0, 0, false)? })
    }

    /// SBC-3 5.46, 5.47.
    fn write_same(&self) -> Result<Media, Sense> {
        self.check_protect()?;
        let wide = self.row.cdb_length == 16;
        let (unmap, no_data) = (self.has(UNMAP), wide && self.has(NDOB));
        let wrong = |bit| Err(Sense::INVALID_FIELD_IN_CDB.at_bit(1, bit));
        if self.has(ANCHOR) {
            return wrong(4);
        }
        if unmap && !self.scsi.is_thin() {
            return wrong(3);
        }
        // Obsolete, and asks for something else than what would be done.
        if self.has(PBDATA) {
            return wrong(2);
        }
        if self.has(LBDATA) {
            return wrong(1);
        }
        if !wide && self.has(NDOB) {
            return wrong(0);
        }
        let media = self.range(Op::WriteSame, self.lba(), self.same_blocks()?, false)?;
        // Blocks that are not to be unmapped stay mapped, zeroes too.
        let flags = Flags { no_hole: !unmap, ..Flags::default() };
        let (op, data_out) = match no_data {
            true => (Op::WriteZeroes, 0),
            false => (Op::WriteSame, u64::from(self.scsi.block_size)),
        };
        Ok(Media { op, flags, data_out, ..media })
    }

    /// NUMBER OF LOGICAL BLOCKS: 0 means all up to the end, unless WSNZ says that it means nothing; the
    /// limit holds for that too.
    fn same_blocks(&self) -> Result<u64, Sense> {
        let (lba, blocks) = (self.lba(), self.length_field().of(self.bytes));
        // Up to the end there must be a block.
        self.check_range(lba, blocks.max(1))?;
        let limits = &self.scsi.limits;
        if blocks == 0 && limits.write_same_nonzero {
            return Err(Sense::INVALID_FIELD_IN_CDB.at_byte(u16::from(self.length_field().offset)));
        }
        let blocks = if blocks == 0 { self.capacity - lba } else { blocks };
        self.check_limit(blocks, limits.write_same_blocks)?;
        Ok(blocks)
    }

    /// SBC-3 5.3. The data is what is expected, and then what is written.
    fn compare_and_write(&self) -> Result<Media, Sense> {
        const BLOCKS: u16 = 13;
        self.check_protect()?;
        let limit = self.scsi.limits.compare_and_write_blocks;
        if limit == 0 {
            return Err(Sense::INVALID_OPCODE);
        }
        let blocks = self.bytes[usize::from(BLOCKS)];
        if blocks > limit {
            return Err(Sense::INVALID_FIELD_IN_CDB.at_byte(BLOCKS));
        }
        let media = self.range(Op::CompareAndWrite, self.lba(), blocks.into(), self.has(FUA))?;
        Ok(Media { data_out: 2 * media.len, ..media })
    }

    /// SBC-4 5.7. REPORT TYPE asks for blocks of one state alone; none but "all" is known.
    fn lba_status(&self) -> Result<Media, Sense> {
        let lba = self.lba();
        if self.bytes[14] != 0 {
            return Err(Sense::INVALID_FIELD_IN_CDB.at_byte(14));
        }
        self.check_range(lba, 1)?;
        let media = self.range(Op::BlockStatus, lba, self.capacity - lba, false)?;
        Ok(Media { data_in: super::canned::allocation(self.row, self.bytes) as u64, ..media })
    }
}

/// The ranges of an UNMAP's parameter list (SBC-3 5.35.2), in its order, empty ones left out.
pub fn unmap_spans(list: &[u8], scsi: &ScsiGate, size: u64) -> Result<Vec<Span>, Sense> {
    const HEADER: usize = 8;
    const DESCRIPTOR: usize = 16;
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let Some((head, rest)) = list.split_at_checked(HEADER) else { return Err(Sense::PARAMETER_LIST_LENGTH_ERROR) };
    // UNMAP BLOCK DESCRIPTOR DATA LENGTH. What is behind it, or half a descriptor, is not looked at.
    let told = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let descriptors = rest[..told.min(rest.len())].chunks_exact(DESCRIPTOR);
    let limits = &scsi.limits;
    let is_above = |limit: u32, value: u64| limit != 0 && value > u64::from(limit);
    if is_above(limits.unmap_descriptors, descriptors.len() as u64) {
        return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST.at_parameter(2));
    }
    let block = u64::from(scsi.block_size);
    let mut spans = Vec::with_capacity(descriptors.len());
    let mut total = 0;
    for (index, descriptor) in descriptors.enumerate() {
        let at = (HEADER + index * DESCRIPTOR) as u16;
        let lba = Field { offset: 0, len: 8 }.of(descriptor);
        let blocks = Field { offset: 8, len: 4 }.of(descriptor);
        if lba.checked_add(blocks).is_none_or(|end| end > size / block) {
            return Err(out_of_range(lba, size / block).at_parameter(at));
        }
        total += blocks;
        if is_above(limits.unmap_blocks, total) {
            return Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST.at_parameter(at + 8));
        }
        if blocks > 0 {
            spans.push(Span { offset: lba * block, len: blocks * block });
        }
    }
    Ok(spans)
}

/// How many descriptors of GET LBA STATUS fit `allocation` bytes, at most `most`; one at least, for it is cut.
pub fn lba_status_descriptors(allocation: u64, most: usize) -> usize {
    usize::try_from(allocation.saturating_sub(8) / 16).unwrap_or(usize::MAX).clamp(1, most)
}

/// GET LBA STATUS parameter data (SBC-3 5.5.2) for `extents` from `lba` on, at most `most` descriptors. A
/// block that is a hole all through is deallocated; one that is so in part is mapped.
pub fn put_lba_status(out: &mut Vec<u8>, extents: &[Extent], lba: u64, block_size: u32, most: usize) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    for (lba, blocks, is_hole) in runs(extents, lba, block_size).take(most) {
        out.extend_from_slice(&lba.to_be_bytes());
        out.extend_from_slice(&blocks.to_be_bytes());
        // PROVISIONING STATUS: 0h mapped, 1h deallocated.
        out.extend_from_slice(&[u8::from(is_hole), 0, 0, 0]);
    }
    // PARAMETER DATA LENGTH counts what follows it.
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Extents in whole blocks: (LBA, blocks, deallocated). What is longer than the field comes in several.
fn runs(extents: &[Extent], lba: u64, block_size: u32) -> impl Iterator<Item = (u64, u32, bool)> + '_ {
    let block = u64::from(block_size);
    let total = extents.iter().map(|extent| extent.length).sum::<u64>().div_ceil(block);
    let (mut at, mut index, mut index_start) = (0, 0, 0);
    std::iter::from_fn(move || {
        if at >= total {
            return None;
        }
        let mut run: Option<bool> = None;
        let first = at;
        while at < total && at - first < u64::from(u32::MAX) {
            // The extent that holds the block's first byte, and how far it goes.
            while index_start + extents[index].length <= at * block {
                index_start += extents[index].length;
                index += 1;
            }
            let is_hole = extents[index].flags == EXTENT_HOLE | EXTENT_ZERO;
            let whole = (index_start + extents[index].length) / block - at;
            // A hole that ends inside this very block: the block has data.
            let (hole, blocks) = match is_hole {
                true if whole == 0 && index + 1 < extents.len() => (false, 1),
                true => (true, whole.max(1)),
                false => (false, (index_start + extents[index].length).div_ceil(block) - at),
            };
            if run.is_some_and(|run| run != hole) {
                break;
            }
            run = Some(hole);
            at += blocks.min(u64::from(u32::MAX) - (at - first));
        }
        Some((lba + first, (at - first) as u32, run?))
    })
}

#[cfg(test)]
mod tests;
