//! Whatever a CDB says, what is to be done lies inside the volume and moves no more than was announced.

use std::collections::HashMap;

use _engine::block::command::{Extent, Op};
use _engine::block::gate::{Gate, Situation};
use _engine::scsi::canned::{allocation, Canned};
use _engine::scsi::check;
use _engine::scsi::command::{lba_status_descriptors, put_lba_status, unmap_spans, Answer, Media};
use _engine::scsi::gate::{BlockLimits, ScsiGate};
use _engine::scsi::row::ALL_NEEDS;
use _engine::scsi::sense::SENSE_BYTES;

/// Bytes of an input that say what the logical unit is like, and of its CDB; parameter data follows.
const UNIT_BYTES: usize = 3;
const CDB_BYTES: usize = 16;

const LIMITS: BlockLimits = BlockLimits {
    transfer_blocks: 8192,
    compare_and_write_blocks: 32,
    write_same_blocks: 1 << 20,
    write_same_nonzero: false,
    unmap_blocks: 1 << 21,
    unmap_descriptors: 256,
};

fn unit(bytes: &[u8]) -> (Gate, ScsiGate) {
    let [what, size, situation] = bytes else { unreachable!("split off with that length") };
    let block_size = if what & 1 != 0 { 4096 } else { 512 };
    let scsi = ScsiGate {
        block_size,
        descriptor_sense: what & 2 != 0,
        software_write_protect: what & 4 != 0,
        not_ready: None,
        tas: false,
        qerr: 0,
        limits: if what & 8 != 0 { LIMITS } else { BlockLimits::default() },
        needs_met: if what & 16 != 0 { ALL_NEEDS } else { 0 },
        canned: Canned::new(),
        ports: HashMap::new(),
    };
    let gate = Gate {
        generation: 1,
        // From nothing to more than 2^32 blocks, and not always whole ones.
        size: (1 << (size % 48)) + u64::from(size / 48) * 100,
        read_only: what & 32 != 0,
        access: HashMap::new(),
        default_access: Situation::of_number(situation % 4).expect("there are four"),
        scsi: None,
    };
    (gate, scsi)
}

/// Three bytes for the unit, a CDB of at most 16, and what the initiator would send.
pub fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_at_checked(UNIT_BYTES) else { return };
    let (gate, scsi) = unit(first);
    let (cdb, sent) = rest.split_at(rest.len().min(CDB_BYTES));
    match judge(&gate, &scsi, cdb) {
        Err(answer) => encode(&answer, scsi.descriptor_sense),
        Ok(Some(media)) => {
            check_bounds(&media, &gate, &scsi);
            if media.op == Op::Unmap {
                let len = (media.data_out as usize).min(sent.len());
                check_spans(&sent[..len], &gate, &scsi);
            }
            if media.op == Op::BlockStatus {
                describe(&media, sent, scsi.block_size);
            }
        }
        Ok(None) => {}
    }
}

fn judge(gate: &Gate, scsi: &ScsiGate, cdb: &[u8]) -> Result<Option<Media>, Answer> {
    let row = check::known(scsi, cdb)?;
    check::admit(gate, scsi, row, cdb, 1, 1)?;
    allocation(row, cdb);
    assert!(scsi.ready(row, cdb, 1).is_none());
    match row.action.is_media() {
        true => check::media(gate, scsi, row, cdb, false).map(Some),
        false => Ok(None),
    }
}

fn encode(answer: &Answer, descriptor: bool) {
    let Some(sense) = answer.sense else { return };
    let mut out = [0; SENSE_BYTES];
    let len = sense.encode(descriptor, &mut out);
    assert_eq!(usize::from(out[7]) + 8, len, "ADDITIONAL SENSE LENGTH");
}

fn check_bounds(media: &Media, gate: &Gate, scsi: &ScsiGate) {
    let block = u64::from(scsi.block_size);
    let end = media.offset.checked_add(media.len).expect("no overflow");
    assert!(end <= gate.size && media.offset % block == 0 && media.len % block == 0, "{media:?}");
    assert_eq!(media.offset, media.lba * block);
    assert!(!(gate.read_only && media.op.is_write()), "{media:?}");
    match media.op {
        Op::Unmap => assert!(media.data_out <= 0xffff),
        Op::BlockStatus => assert!(media.data_in <= u64::from(u32::MAX)),
        _ => assert!(media.data_in.max(media.data_out / 2) <= media.len, "{media:?}"),
    }
    if scsi.limits.transfer_blocks != 0 && matches!(media.op, Op::Read | Op::Write | Op::OrWrite) {
        assert!(media.len <= u64::from(scsi.limits.transfer_blocks) * block);
    }
}

fn check_spans(list: &[u8], gate: &Gate, scsi: &ScsiGate) {
    let Ok(spans) = unmap_spans(list, scsi, gate.size) else { return };
    for span in &spans {
        assert!(span.len > 0 && span.offset.checked_add(span.len).is_some_and(|end| end <= gate.size));
    }
}

/// Extents out of the input, as a back end might give them: they add up to no more than was asked.
fn describe(media: &Media, bytes: &[u8], block_size: u32) {
    let mut extents = Vec::new();
    let mut left = media.len;
    for pair in bytes.chunks_exact(3) {
        let length = u64::from(u16::from_be_bytes([pair[0], pair[1]])).min(left);
        if length > 0 {
            extents.push(Extent { length, flags: if pair[2] & 1 != 0 { 3 } else { 0 } });
            left -= length;
        }
    }
    let most = lba_status_descriptors(media.data_in, 64);
    let mut out = Vec::new();
    put_lba_status(&mut out, &extents, media.lba, block_size, most);
    assert!(out.len() <= 8 + 16 * most && (out.len() - 8) % 16 == 0);
    let mut next = media.lba;
    for descriptor in out[8..].chunks(16) {
        let lba = u64::from_be_bytes(descriptor[..8].try_into().expect("eight bytes"));
        let blocks = u32::from_be_bytes(descriptor[8..12].try_into().expect("four bytes"));
        assert!(lba == next && blocks > 0 && descriptor[12] <= 1);
        next += u64::from(blocks);
    }
}
