//! CDBs as the standards draw them, byte by byte, and what they ask.

use super::*;
use crate::scsi::gate::BlockLimits;
use crate::scsi::row::find;

/// 2^32 blocks and one more, of 512 bytes.
const CAPACITY: u64 = (1 << 32) + 1;
const SIZE: u64 = CAPACITY * 512;

fn decoded_with(scsi: &ScsiGate, cdb: &[u8]) -> Result<Media, Sense> {
    decode(find(cdb).unwrap(), cdb, scsi, SIZE)
}

fn decoded(cdb: &[u8]) -> Result<Media, Sense> {
    decoded_with(&ScsiGate::for_tests(), cdb)
}

fn with_limits(limits: BlockLimits) -> ScsiGate {
    ScsiGate { limits, ..ScsiGate::for_tests() }
}

/// (LBA, blocks, blocks in, bytes out in blocks)
fn moves(cdb: &[u8]) -> (Op, u64, u64, u64, u64) {
    let media = decoded(cdb).unwrap();
    assert_eq!(media.offset, media.lba * 512);
    (media.op, media.lba, media.len / 512, media.data_in / 512, media.data_out / 512)
}

/// INVALID FIELD IN CDB, pointing at a bit or at a byte.
fn wrong_bit(byte: u16, bit: u8) -> Result<Media, Sense> {
    let specific = Some(crate::scsi::sense::Specific::Field { in_cdb: true, byte, bit: Some(bit) });
    Err(Sense { specific, ..Sense::new(0x5, 0x24, 0) })
}

fn wrong_byte(byte: u16) -> Result<Media, Sense> {
    let specific = Some(crate::scsi::sense::Specific::Field { in_cdb: true, byte, bit: None });
    Err(Sense { specific, ..Sense::new(0x5, 0x24, 0) })
}

fn codes(result: Result<Media, Sense>) -> (u8, u8, u8) {
    let sense = result.unwrap_err();
    (sense.key, sense.asc, sense.ascq)
}

const OUT_OF_RANGE: (u8, u8, u8) = (0x5, 0x21, 0x00);

#[test]
fn read_and_write_6() {
    //       opcode  LBA (21 bits)     length control
    assert_eq!(moves(&[0x08, 0x1f, 0xff, 0xfe, 1, 0]), (Op::Read, 0x1f_fffe, 1, 1, 0));
    assert_eq!(moves(&[0x08, 0xe0, 0, 1, 2, 0]), (Op::Read, 1, 2, 2, 0), "bits above the LBA are nobody's");
    assert_eq!(moves(&[0x0a, 0, 0, 0, 0, 0]), (Op::Write, 0, 256, 0, 256), "0 is 256 blocks");
}

#[test]
fn read_and_write_10_12_16() {
    //                    opcode flags LBA          group length
    assert_eq!(moves(&[0x28, 0, 0xff, 0xff, 0xff, 0xfe, 0, 0, 2, 0]), (Op::Read, 0xffff_fffe, 2, 2, 0));
    assert_eq!(moves(&[0x2a, 0, 0, 0, 0, 1, 0x1f, 0xff, 0xff, 0]), (Op::Write, 1, 0xffff, 0, 0xffff));
    //                    opcode flags LBA    length (32 bits) group
    assert_eq!(moves(&[0xa8, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0]), (Op::Read, 3, 0x1_0000, 0x1_0000, 0));
    assert_eq!(moves(&[0xaa, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0]), (Op::Write, 3, 1, 0, 1));
    //                    opcode flags LBA (64 bits)           length      group
    assert_eq!(moves(&[0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), (Op::Read, 1 << 32, 1, 1, 0));
    assert_eq!(moves(&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]), (Op::Write, 7, 0, 0, 0));
}

#[test]
fn dpo_and_fua_are_taken() {
    let write = |flags| decoded(&[0x2a, flags, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
    assert!(!write(0x10).flags.fua);
    assert!(write(0x08).flags.fua);
    assert!(decoded(&[0x28, 0x18, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap().flags.fua);
}

#[test]
fn protection_information_is_not_to_be_had() {
    for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x41] {
        assert_eq!(decoded(&[opcode, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), wrong_bit(1, 7), "{opcode:#x}");
    }
    for opcode in [0xa8, 0xaa, 0xae, 0xaf] {
        assert_eq!(decoded(&[opcode, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]), wrong_bit(1, 7), "{opcode:#x}");
    }
    for opcode in [0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x93] {
        let cdb = [opcode, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(decoded(&cdb), wrong_bit(1, 7), "{opcode:#x}");
    }
}

#[test]
fn ranges_end_at_the_capacity() {
    let read = |lba: u64, blocks: u32| {
        let mut cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        decoded(&cdb)
    };
    assert!(read(CAPACITY - 1, 1).is_ok());
    assert!(read(CAPACITY, 0).is_ok());
    assert_eq!(codes(read(CAPACITY - 1, 2)), OUT_OF_RANGE);
    assert_eq!(codes(read(CAPACITY, 1)), OUT_OF_RANGE);
    assert_eq!(codes(read(CAPACITY + 1, 0)), OUT_OF_RANGE, "nothing, but beyond");
    assert_eq!(codes(read(u64::MAX, u32::MAX)), OUT_OF_RANGE);
    let first = |lba, blocks| read(lba, blocks).unwrap_err().information;
    assert_eq!((first(7, u32::MAX), first(CAPACITY + 9, 0)), (Some(CAPACITY), Some(CAPACITY + 9)));
}

#[test]
fn transfers_have_a_limit() {
    let scsi = with_limits(BlockLimits { transfer_blocks: 8, ..BlockLimits::default() });
    assert!(decoded_with(&scsi, &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]).is_ok());
    assert_eq!(decoded_with(&scsi, &[0x28, 0, 0, 0, 0, 0, 0, 0, 9, 0]), wrong_byte(7));
    assert_eq!(decoded_with(&scsi, &[0xaf, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]), wrong_byte(6));
    assert_eq!(decoded_with(&scsi, &[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]), wrong_byte(10));
}

#[test]
fn verify_and_bytchk() {
    assert_eq!(moves(&[0x2f, 0x00, 0, 0, 0, 5, 0, 0, 4, 0]), (Op::Verify, 5, 4, 0, 0));
    assert_eq!(moves(&[0x2f, 0x02, 0, 0, 0, 5, 0, 0, 4, 0]), (Op::Verify, 5, 4, 0, 4));
    assert_eq!(moves(&[0x2f, 0x06, 0, 0, 0, 5, 0, 0, 4, 0]), (Op::Verify, 5, 4, 0, 1));
    assert_eq!(moves(&[0x2f, 0x06, 0, 0, 0, 5, 0, 0, 0, 0]), (Op::Verify, 5, 0, 0, 0), "nothing to compare");
    assert_eq!(decoded(&[0x2f, 0x04, 0, 0, 0, 5, 0, 0, 4, 0]), wrong_bit(1, 2), "reserved");
    assert_eq!(moves(&[0xaf, 0x02, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0]), (Op::Verify, 5, 4, 0, 4));
    assert_eq!(moves(&[0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0]), (Op::Verify, 5, 4, 0, 4));
}

#[test]
fn write_and_verify() {
    for bytchk in [0x00, 0x02] {
        let cdb = [0x2e, bytchk, 0, 0, 0, 5, 0, 0, 4, 0];
        assert_eq!(moves(&cdb), (Op::WriteVerify, 5, 4, 0, 4));
        assert!(decoded(&cdb).unwrap().flags.fua, "it is the medium that is verified");
    }
    for bytchk in [0x04, 0x06] {
        assert_eq!(decoded(&[0x2e, bytchk, 0, 0, 0, 5, 0, 0, 4, 0]), wrong_bit(1, 2));
    }
    assert_eq!(moves(&[0xae, 0, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0]), (Op::WriteVerify, 5, 4, 0, 4));
    assert_eq!(moves(&[0x8e, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0]), (Op::WriteVerify, 5, 4, 0, 4));
}

#[test]
fn synchronize_cache_and_pre_fetch() {
    assert_eq!(moves(&[0x35, 0, 0, 0, 0, 1, 0, 0, 2, 0]), (Op::Flush, 1, 2, 0, 0));
    assert_eq!(moves(&[0x34, 0, 0, 0, 0, 1, 0, 0, 2, 0]), (Op::Cache, 1, 2, 0, 0));
    let to_the_end = [0x91, 0x02, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(moves(&to_the_end), (Op::Flush, 1, CAPACITY - 1, 0, 0));
    let immediate = |cdb: &[u8]| decoded(cdb).unwrap().immediate;
    assert!(immediate(&to_the_end) && !immediate(&[0x35, 0, 0, 0, 0, 1, 0, 0, 2, 0]));
    let beyond = [0x90, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(codes(decoded(&beyond)), OUT_OF_RANGE);
    assert_eq!(codes(decoded(&[0x91, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0])), OUT_OF_RANGE);
}

#[test]
fn write_same() {
    // WRITE SAME(10): ANCHOR 10h, UNMAP 08h, PBDATA 04h, LBDATA 02h.
    let media = decoded(&[0x41, 0, 0, 0, 0, 9, 0, 0, 4, 0]).unwrap();
    assert_eq!((media.op, media.lba, media.len, media.data_out), (Op::WriteSame, 9, 4 * 512, 512));
    assert!(media.flags.no_hole, "what is not unmapped stays mapped");
    assert!(!decoded(&[0x41, 0x08, 0, 0, 0, 9, 0, 0, 4, 0]).unwrap().flags.no_hole);
    for (flag, bit) in [(0x10, 4), (0x04, 2), (0x02, 1), (0x01, 0)] {
        assert_eq!(decoded(&[0x41, flag, 0, 0, 0, 9, 0, 0, 4, 0]), wrong_bit(1, bit));
    }
    // WRITE SAME(16): NDOB 01h.
    let media = decoded(&[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0]).unwrap();
    assert_eq!((media.op, media.len, media.data_out, media.flags.no_hole), (Op::WriteZeroes, 4 * 512, 0, false));
    let full = ScsiGate { needs_met: 0, ..ScsiGate::for_tests() };
    assert_eq!(decoded_with(&full, &[0x41, 0x08, 0, 0, 0, 9, 0, 0, 4, 0]), wrong_bit(1, 3));
}

#[test]
fn write_same_of_no_blocks() {
    let cdb = [0x41, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(decoded(&cdb).unwrap().len, 2 * 512, "up to the end");
    let limits = BlockLimits { write_same_blocks: 1, ..BlockLimits::default() };
    assert_eq!(decoded_with(&with_limits(limits), &cdb), wrong_byte(7));
    let limits = BlockLimits { write_same_nonzero: true, ..BlockLimits::default() };
    assert_eq!(decoded_with(&with_limits(limits), &cdb), wrong_byte(7));
    let wide = [0x93, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(codes(decoded(&wide)), OUT_OF_RANGE);
    let at_the_end = [0x93, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(codes(decoded(&at_the_end)), OUT_OF_RANGE, "there is no block up to the end");
    let limits = BlockLimits { write_same_blocks: 3, ..BlockLimits::default() };
    let four = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    assert_eq!(decoded_with(&with_limits(limits), &four), wrong_byte(10));
}

#[test]
fn compare_and_write() {
    //                   opcode flags LBA                reserved  blocks
    let cdb = |blocks| [0x89, 0x08, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, blocks, 0, 0];
    assert_eq!(moves(&cdb(2)), (Op::CompareAndWrite, 5, 2, 0, 4));
    assert!(decoded(&cdb(2)).unwrap().flags.fua);
    assert_eq!(moves(&cdb(0)), (Op::CompareAndWrite, 5, 0, 0, 0));
    let limits = BlockLimits { compare_and_write_blocks: 1, ..BlockLimits::default() };
    assert_eq!(decoded_with(&with_limits(limits), &cdb(2)), wrong_byte(13));
    assert_eq!(decoded_with(&with_limits(BlockLimits::default()), &cdb(1)), Err(Sense::INVALID_OPCODE));
}

#[test]
fn orwrite() {
    let cdb = [0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0];
    assert_eq!(moves(&cdb), (Op::OrWrite, 5, 2, 0, 2));
}

#[test]
fn unmap() {
    let cdb = |flags, list| decoded(&[0x42, flags, 0, 0, 0, 0, 0, 0, list, 0]);
    assert_eq!(cdb(0, 24).map(|media| (media.op, media.len, media.data_out)), Ok((Op::Unmap, 0, 24)));
    assert_eq!(cdb(0, 0).map(|media| media.data_out), Ok(0));
    assert_eq!(codes(cdb(0, 7)), (0x5, 0x1a, 0x00));
    assert_eq!(cdb(1, 24), wrong_bit(1, 0), "ANCHOR");
}

/// An UNMAP parameter list; `told`: its block descriptor data length.
fn unmap_list(told: u16, descriptors: &[(u64, u32)]) -> Vec<u8> {
    let mut list = (told + 6).to_be_bytes().to_vec();
    list.extend(told.to_be_bytes());
    list.extend([0; 4]);
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

#[test]
fn unmap_lists() {
    let scsi = ScsiGate::for_tests();
    let spans = |list: &[u8]| unmap_spans(list, &scsi, SIZE);
    let two = unmap_list(32, &[(8, 2), (1 << 32, 1)]);
    let both = vec![Span { offset: 8 * 512, len: 1024 }, Span { offset: 512 << 32, len: 512 }];
    assert_eq!(spans(&two), Ok(both.clone()));
    assert_eq!(spans(&two[..39]), Ok(both[..1].to_vec()), "half a descriptor is none");
    assert_eq!(spans(&unmap_list(31, &[(8, 2), (1 << 32, 1)])), Ok(both[..1].to_vec()));
    assert_eq!(spans(&unmap_list(16, &[(8, 0)])), Ok(vec![]), "no blocks");
    assert_eq!(spans(&unmap_list(0, &[])), Ok(vec![]));
    assert_eq!(spans(&[]), Ok(vec![]));
    assert_eq!(spans(&[0; 7]), Err(Sense::PARAMETER_LIST_LENGTH_ERROR));
    let beyond = unmap_list(32, &[(8, 2), (1 << 32, 2)]);
    assert_eq!(spans(&beyond), Err(out_of_range(CAPACITY, CAPACITY).at_parameter(24)));
    let far = unmap_list(16, &[(u64::MAX, u32::MAX)]);
    assert_eq!(spans(&far), Err(out_of_range(u64::MAX, CAPACITY).at_parameter(8)));
}

#[test]
fn unmap_limits() {
    let scsi = with_limits(BlockLimits { unmap_blocks: 3, unmap_descriptors: 2, ..BlockLimits::default() });
    let spans = |descriptors: &[(u64, u32)]| {
        unmap_spans(&unmap_list(16 * descriptors.len() as u16, descriptors), &scsi, SIZE).map(|spans| spans.len())
    };
    let wrong = |byte| Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST.at_parameter(byte));
    assert_eq!(spans(&[(0, 1), (5, 2)]), Ok(2));
    assert_eq!(spans(&[(0, 1), (5, 3)]), wrong(32));
    assert_eq!(spans(&[(0, 1), (1, 1), (2, 1)]), wrong(2));
}

#[test]
fn get_lba_status() {
    //                       opcode sa   starting LBA            allocation  type
    let cdb = |lba, kind| [0x9e, 0x12, 0, 0, 0, lba, 0, 0, 0, 4, 0, 0, 0, 40, kind, 0];
    let media = decoded(&cdb(0, 0)).unwrap();
    assert_eq!((media.op, media.lba, media.len, media.data_in), (Op::BlockStatus, 4, SIZE - 4 * 512, 40));
    assert_eq!(decoded(&cdb(0, 1)), wrong_byte(14));
    assert_eq!(codes(decoded(&cdb(1, 0))), OUT_OF_RANGE);
    assert_eq!(lba_status_descriptors(40, 100), 2);
    assert_eq!(lba_status_descriptors(8, 100), 1);
    assert_eq!(lba_status_descriptors(1 << 40, 100), 100);
}

fn status(extents: &[(u64, u32)], most: usize) -> Vec<u8> {
    let extents: Vec<_> = extents.iter().map(|&(length, flags)| Extent { length, flags }).collect();
    let mut out = Vec::new();
    put_lba_status(&mut out, &extents, 0x10, 512, most);
    out
}

/// LBA, blocks and provisioning status of each descriptor.
fn described(bytes: &[u8]) -> Vec<(u64, u32, u8)> {
    assert_eq!(bytes[..4], ((bytes.len() - 4) as u32).to_be_bytes());
    let one = |d: &[u8]| {
        (u64::from_be_bytes(d[..8].try_into().unwrap()), u32::from_be_bytes(d[8..12].try_into().unwrap()), d[12])
    };
    bytes[8..].chunks(16).map(one).collect()
}

#[test]
fn lba_status_data() {
    const HOLE: u32 = 3;
    #[rustfmt::skip]
    let one = [
        0, 0, 0, 20, 0, 0, 0, 0, // PARAMETER DATA LENGTH
        0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 1, 0, 0, 0, // LBA 10h, 2 blocks, deallocated
    ];
    assert_eq!(status(&[(1024, HOLE)], 9), one);
    assert_eq!(described(&status(&[(1024, 0), (512, HOLE), (512, 0)], 9)), [(16, 2, 0), (18, 1, 1), (19, 1, 0)]);
    assert_eq!(described(&status(&[(1024, 0), (512, HOLE), (512, 0)], 2)), [(16, 2, 0), (18, 1, 1)]);
}

#[test]
fn a_block_that_is_a_hole_in_part_is_mapped() {
    const HOLE: u32 = 3;
    // Data up to the middle of block 1, a hole to the middle of block 4.
    let halves = status(&[(512 + 256, 0), (3 * 512, HOLE), (256 + 512, 0)], 9);
    assert_eq!(described(&halves), [(16, 2, 0), (18, 2, 1), (20, 2, 0)]);
    // Two holes inside one block, with data between them.
    let inside = status(&[(100, HOLE), (100, 0), (312, HOLE), (512, HOLE)], 9);
    assert_eq!(described(&inside), [(16, 1, 0), (17, 1, 1)]);
}

#[test]
fn what_does_not_fit_a_descriptor_comes_in_two() {
    const HOLE: u32 = 3;
    let long = status(&[((1 << 32) * 512, HOLE)], 9);
    assert_eq!(described(&long), [(16, u32::MAX, 1), (16 + u64::from(u32::MAX), 1, 1)]);
}

#[test]
fn commands_without_a_row() {
    assert_eq!(Answer::unknown(Invalid::Opcode), Answer::check(Sense::new(0x5, 0x20, 0x00)));
    let action = Answer::unknown(Invalid::ServiceAction);
    assert_eq!(action, Answer::check(Sense::INVALID_FIELD_IN_CDB.at_bit(1, 4)));
}

#[test]
fn errors_become_answers() {
    assert_eq!(Answer::of_errno(Op::Write, libc::ENOMEM, None), Answer::BUSY);
    let miscompare = Answer::of_errno(Op::CompareAndWrite, libc::EILSEQ, Some(513));
    assert_eq!(miscompare, Answer::check(Sense::new(0xe, 0x1d, 0x00).with_information(513)));
    let full = Answer::of_errno(Op::Write, libc::ENOSPC, Some(7));
    assert_eq!(full, Answer::check(Sense::new(0x7, 0x27, 0x07)));
}

#[test]
fn of_what_fails_the_first_block_is_told() {
    let mut unread = Answer::of_errno(Op::Read, libc::EIO, Some(1 << 33));
    unread.fail_from(1 << 34);
    assert_eq!(unread, Answer::check(Sense::new(0x3, 0x11, 0x00).with_information(1 << 33)));
    unread.fail_from(7);
    assert_eq!(unread, Answer::check(Sense::new(0x3, 0x11, 0x00).with_information(7)));
    let mut miscompare = Answer::of_errno(Op::Verify, libc::EILSEQ, Some(513));
    miscompare.fail_from(7);
    assert_eq!(miscompare, Answer::check(Sense::new(0xe, 0x1d, 0x00).with_information(513)), "that is no LBA");
    let mut nowhere = Answer::of_errno(Op::Flush, libc::EIO, None);
    nowhere.fail_from(7);
    assert_eq!(nowhere, Answer::check(Sense::new(0x3, 0x0c, 0x00)));
}
