//! Holes: made, kept, reported.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::block::command::{Extent, EXTENT_HOLE, EXTENT_ZERO, MAX_EXTENTS};
use crate::block::testing::{seed, Rng};

const HOLE: u32 = EXTENT_HOLE | EXTENT_ZERO;
/// What a file in many parts takes for the list of them, at most.
const LIST: u64 = 8 << 10;

fn status(shard: &Shard, offset: u64, len: u64, flags: Flags) -> Vec<Extent> {
    let mut request = Request::new(Op::BlockStatus, flags, offset, len);
    // Left over from before: must not show.
    request.extents = Some(vec![Extent { length: 9, flags: 9 }]);
    let (request, result) = shard.run(request);
    result.unwrap();
    request.extents.unwrap()
}

/// The file's data as (start, end) by another descriptor, the way lseek(2) describes it.
fn data_of(path: &Path) -> Vec<(u64, u64)> {
    let file = sys::open(path, libc::O_RDONLY).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let mut data = Vec::new();
    let mut at = 0;
    while let Ok(start) = sys::seek(fd, at, libc::SEEK_DATA) {
        at = sys::seek(fd, start, libc::SEEK_HOLE).unwrap();
        data.push((start, at));
    }
    data
}

fn is_data(data: &[(u64, u64)], at: u64) -> bool {
    data.iter().any(|&(start, end)| start <= at && at < end)
}

#[test]
fn extents_equal_what_seek_hole_says() {
    let mut rng = Rng::new(seed());
    for place in PLACES {
        for direct in [false, true] {
            const SIZE: u64 = (4 << 20) + 1000;
            let file = TempFile::sparse(place, SIZE);
            let raw = StdFile::options().write(true).open(&file.0).unwrap();
            for _ in 0..40 {
                raw.write_all_at(&[1; 3000], rng.below(SIZE - 3000)).unwrap();
            }
            raw.sync_all().unwrap();
            let (volume, _) = open(&VolumeSpec { direct, ..spec(&file.0) });
            let shard = Shard::new(&volume, false);
            let data = data_of(&file.0);
            for _ in 0..200 {
                let offset = rng.below(SIZE);
                let len = 1 + rng.below(SIZE - offset);
                let extents = status(&shard, offset, len, plain());
                assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), len, "clipped, and complete");
                let mut at = offset;
                for extent in extents {
                    for probe in [at, at + extent.length / 2, at + extent.length - 1] {
                        assert_eq!(extent.flags == 0, is_data(&data, probe), "{place} at {probe}");
                    }
                    at += extent.length;
                }
                let one = status(&shard, offset, len, Flags { req_one: true, ..plain() });
                assert_eq!(one.len(), 1);
                assert!(one[0].length <= len && (one[0].flags == 0) == is_data(&data, offset));
            }
            close(&volume);
        }
    }
}

#[test]
fn more_extents_than_fit_come_in_turns() {
    const STEP: u64 = 8192;
    const PIECES: u64 = MAX_EXTENTS as u64;
    let file = TempFile::sparse("/dev/shm", PIECES * STEP);
    let raw = StdFile::options().write(true).open(&file.0).unwrap();
    for n in 0..PIECES {
        raw.write_all_at(b"x", n * STEP).unwrap();
    }
    let (volume, _) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    let mut at = 0;
    let mut seen = 0;
    while at < PIECES * STEP {
        let extents = status(&shard, at, PIECES * STEP - at, plain());
        assert!(extents.len() <= MAX_EXTENTS);
        seen += extents.len();
        at += extents.iter().map(|extent| extent.length).sum::<u64>();
    }
    assert_eq!(seen as u64, 2 * PIECES);
}

#[test]
fn trim_and_zeroes_free_space_and_no_hole_keeps_it() {
    for place in PLACES {
        for direct in [false, true] {
            let file = TempFile::new(place, &[7; 1 << 20]);
            StdFile::open(&file.0).unwrap().sync_all().unwrap();
            let blocks = || fs::metadata(&file.0).unwrap().blocks() * 512;
            let (volume, _) = open(&VolumeSpec { direct, ..spec(&file.0) });
            let shard = Shard::new(&volume, false);
            let full = blocks();
            let no_hole = Flags { no_hole: true, fast_zero: true, ..plain() };
            shard.simple(Op::WriteZeroes, no_hole, 0, 256 << 10).unwrap();
            assert!(blocks() >= full, "no_hole keeps the space");
            let fast = Flags { fast_zero: true, ..plain() };
            shard.simple(Op::WriteZeroes, fast, 256 << 10, 256 << 10).unwrap();
            assert!(blocks() <= full - (256 << 10) + LIST, "zeroes are a hole");
            shard.simple(Op::Discard, plain(), 512 << 10, 256 << 10).unwrap();
            assert!(blocks() <= full - (512 << 10) + LIST, "trim makes a hole");
            let mut wanted = vec![0; 768 << 10];
            wanted.resize(1 << 20, 7);
            assert!(shard.read(0, 1 << 20).unwrap() == wanted);
            // And no_hole on a hole allocates it.
            shard.simple(Op::WriteZeroes, no_hole, 256 << 10, 256 << 10).unwrap();
            assert!(blocks() >= full - (256 << 10), "no_hole fills the hole");
            close(&volume);
            assert_eq!(fs::metadata(&file.0).unwrap().len(), 1 << 20);
        }
    }
}

#[test]
fn a_device_that_cannot_tell_is_all_data_and_zeroes_fast_by_unmapping() {
    let Some(device) = Loop::new(TempFile::new(DISK, &[7; 1 << 20]), 512) else { return };
    let (volume, _) = open(&VolumeSpec { device: true, ..spec(&device.path) });
    let shard = Shard::new(&volume, false);
    assert_eq!(status(&shard, 512, 4096, plain()), [Extent { length: 4096, flags: 0 }]);
    // Unaligned: the middle by the device, the edges by writing.
    let fast = Flags { fast_zero: true, ..plain() };
    shard.simple(Op::WriteZeroes, fast, 100, 10_000).unwrap();
    let mut wanted = vec![7; 16_384];
    wanted[100..10_100].fill(0);
    assert!(shard.read(0, 16_384).unwrap() == wanted);
    // Zeroing without unmapping may be done by writing: not fast for sure, so refused, and nothing altered.
    let both = Flags { fast_zero: true, no_hole: true, ..plain() };
    assert_eq!(shard.simple(Op::WriteZeroes, both, 20_000, 10_000), Err(libc::EOPNOTSUPP));
    assert!(shard.read(20_000, 10_000).unwrap() == [7; 10_000]);
    shard.simple(Op::WriteZeroes, Flags { no_hole: true, ..FUA }, 20_000, 10_000).unwrap();
    assert!(shard.read(20_000, 10_000).unwrap() == [0; 10_000]);
    close(&volume);
}

#[test]
fn a_hole_reads_as_what_the_flags_say() {
    let file = TempFile::sparse(DISK, 1 << 20);
    let (volume, _) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    assert_eq!(status(&shard, 0, 1 << 20, plain()), [Extent { length: 1 << 20, flags: HOLE }]);
    shard.write(65_536, &[1; 4096], FUA).unwrap();
    assert_eq!(
        status(&shard, 0, 1 << 20, plain()),
        [
            Extent { length: 65_536, flags: HOLE },
            Extent { length: 4096, flags: 0 },
            Extent { length: (1 << 20) - 69_632, flags: HOLE }
        ]
    );
}
