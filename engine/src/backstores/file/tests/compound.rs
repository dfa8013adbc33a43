//! Compare and write and their like, where it shows what they cost or leave behind.

use super::*;
use crate::block::command::Span;
use std::os::unix::fs::MetadataExt;

/// Bytes that a file takes.
fn taken(file: &TempFile) -> u64 {
    fs::metadata(&file.0).unwrap().blocks() * 512
}

#[test]
fn a_miscompare_says_where_and_alters_nothing() {
    for direct in [false, true] {
        let file = TempFile::new(DISK, &[1; 8192]);
        let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
        let shard = Shard::new(&volume, false);
        let mut data = vec![1; 8192];
        data[700] = 2;
        data[4096..].fill(9);
        let result = shard.with_data(Op::CompareAndWrite, plain(), 4096, 4096, &data);
        assert_eq!(result, (Err(libc::EILSEQ), Some(700)));
        assert_eq!(shard.with_data(Op::Verify, plain(), 4096, 4096, &data[..4096]).1, Some(700));
        assert_eq!(shard.with_data(Op::Verify, plain(), 0, 8192, &[1; 512]), (Ok(()), None));
        close(&volume);
        assert_eq!(file.bytes(), [1; 8192]);
        assert!(told.lock().unwrap().is_empty(), "it says nothing of the storage");
    }
}

#[test]
fn unmapped_ranges_take_no_space_and_read_as_zeroes() {
    for place in PLACES {
        let file = TempFile::new(place, &[5; 1 << 20]);
        let (volume, _) = open(&spec(&file.0));
        let spans = (0..8).map(|n| Span { offset: n * (128 << 10), len: 64 << 10 }).collect();
        let (_, result) = Shard::new(&volume, false).run(Request::unmap(spans));
        result.unwrap();
        close(&volume);
        // A file in so many parts needs a block for their list.
        assert!(((512 << 10)..=(520 << 10)).contains(&taken(&file)), "{place}: {}", taken(&file));
        for part in file.bytes().chunks(128 << 10) {
            assert!(part[..64 << 10].iter().all(|byte| *byte == 0) && part[64 << 10..].iter().all(|byte| *byte == 5));
        }
    }
}

#[test]
fn an_empty_unmap_is_well() {
    let file = TempFile::new(DISK, &[5; 4096]);
    let (volume, _) = open(&spec(&file.0));
    Shard::new(&volume, false).run(Request::unmap(vec![])).1.unwrap();
    assert_eq!(file.bytes(), [5; 4096]);
}

#[test]
fn zeroes_over_and_over_are_a_hole_only_where_they_may_be() {
    let file = TempFile::new(DISK, &[5; 1 << 20]);
    let (volume, _) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    let kept = Flags { no_hole: true, ..plain() };
    assert_eq!(shard.with_data(Op::WriteSame, kept, 0, 512 << 10, &[0; 512]).0, Ok(()));
    assert!(taken(&file) >= 1 << 20);
    assert_eq!(shard.with_data(Op::WriteSame, plain(), 0, 512 << 10, &[0; 512]).0, Ok(()));
    assert!(taken(&file) <= 520 << 10, "half of it, and a list of its parts");
    assert_eq!(shard.with_data(Op::WriteSame, plain(), 0, 1 << 20, b"four").0, Ok(()));
    assert_eq!(file.bytes(), b"four".repeat(1 << 18));
}

#[test]
fn a_read_only_volume_takes_none_of_them_but_verify() {
    let file = TempFile::new(DISK, &[5; 4096]);
    let (volume, _) = open(&VolumeSpec { read_only: true, ..spec(&file.0) });
    let shard = Shard::new(&volume, false);
    for op in [Op::OrWrite, Op::WriteVerify, Op::WriteSame] {
        assert_eq!(shard.with_data(op, plain(), 0, 512, &[1; 512]).0, Err(libc::EROFS), "{op:?}");
    }
    assert_eq!(shard.with_data(Op::CompareAndWrite, plain(), 0, 512, &[5; 1024]).0, Err(libc::EROFS));
    let unmap = Request::unmap(vec![Span { offset: 0, len: 512 }]);
    assert_eq!(shard.run(unmap).1, Err(libc::EROFS));
    assert_eq!(shard.with_data(Op::Verify, plain(), 0, 512, &[5; 512]), (Ok(()), None));
}

/// Several threads, each with its own requests in flight, count on one block; others write and read beside
/// and across it. No count is lost, and no reader sees a half of one.
#[test]
fn counting_by_compare_and_write_loses_nothing() {
    const COUNTERS: usize = 3;
    const ROUNDS: u64 = 200;
    /// The block holds its count over and over, so that a torn read shows.
    const LEN: usize = 4096;
    for (place, direct) in [("/dev/shm", false), (DISK, false), (DISK, true)] {
        let file = TempFile::new(place, &[0; 3 * LEN]);
        let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
        let filled = |count: u64| count.to_le_bytes().repeat(LEN / 8);
        let counting = AtomicU64::new(COUNTERS as u64);
        thread::scope(|scope| {
            for _ in 0..COUNTERS {
                scope.spawn(|| {
                    let shard = Shard::new(&volume, false);
                    let mut known = 0;
                    let mut mine = 0;
                    while mine < ROUNDS {
                        let data = [filled(known), filled(known + 1)].concat();
                        match shard.with_data(Op::CompareAndWrite, plain(), LEN as u64, LEN as u64, &data) {
                            (Ok(()), _) => {
                                known += 1;
                                mine += 1;
                            }
                            _ => known = whole(&shard.read(LEN as u64, LEN).unwrap()),
                        }
                    }
                    counting.fetch_sub(1, Ordering::SeqCst);
                });
            }
            scope.spawn(|| {
                // Its own neighbours, inline where that is possible, and once in a while stable.
                let shard = Shard::new(&volume, false);
                for n in 0.. {
                    let flags = if n % 8 == 0 { FUA } else { plain() };
                    let at = if n % 2 == 0 { 0 } else { 2 * LEN };
                    shard.write(at as u64, &[n as u8; LEN], flags).unwrap();
                    assert_eq!(shard.read(at as u64, LEN).unwrap(), [n as u8; LEN]);
                    if counting.load(Ordering::SeqCst) == 0 {
                        break;
                    }
                }
            });
            scope.spawn(|| {
                let shard = Shard::new(&volume, false);
                let mut last = 0;
                while counting.load(Ordering::SeqCst) > 0 {
                    let count = whole(&shard.read(0, 3 * LEN).unwrap()[LEN..2 * LEN]);
                    assert!(count >= last, "it only grows");
                    last = count;
                }
            });
        });
        let count = whole(&Shard::new(&volume, false).read(LEN as u64, LEN).unwrap());
        assert_eq!(count, COUNTERS as u64 * ROUNDS, "{place} direct={direct}");
        assert_eq!(volume.in_flight(), 0);
        close(&volume);
        assert!(told.lock().unwrap().is_empty());
    }
}

fn whole(block: &[u8]) -> u64 {
    let words: Vec<_> = block.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert!(words.iter().all(|word| *word == words[0]), "a half of it: {:?}", &words[..]);
    words[0]
}

/// Plain writes to the very block that is counted on: whichever is last wins whole, and none lands inside a
/// comparison and its write.
#[test]
fn a_plain_write_never_lands_inside_a_compare_and_write() {
    const LEN: usize = 4096;
    let file = TempFile::new("/dev/shm", &[0; LEN]);
    let (volume, _) = open(&spec(&file.0));
    let even = |n: u64| (2 * n).to_le_bytes().repeat(LEN / 8);
    let writing = AtomicU64::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Writes even numbers; only a compare and write that saw one of those makes it odd.
            let shard = Shard::new(&volume, false);
            for n in 1..=3000 {
                shard.write(0, &even(n), plain()).unwrap();
            }
            writing.store(0, Ordering::SeqCst);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let shard = Shard::new(&volume, false);
                while writing.load(Ordering::SeqCst) == 1 {
                    // Plain writes may be seen in part; then the comparison fails.
                    let seen = u64::from_le_bytes(shard.read(0, 8).unwrap().try_into().unwrap());
                    let odd = (seen | 1).to_le_bytes().repeat(LEN / 8);
                    let data = [seen.to_le_bytes().repeat(LEN / 8), odd].concat();
                    let _ = shard.with_data(Op::CompareAndWrite, plain(), 0, LEN as u64, &data);
                }
            });
        }
    });
    let last = whole(&Shard::new(&volume, false).read(0, LEN).unwrap());
    // A write that fell between a comparison and its write would be undone by it.
    assert!(last == 6000 || last == 6001, "the last write was lost: {last}");
}
