//! Several clients write parts of the same blocks, passing the page cache: each one's
//! bytes are its own, and none is lost to a neighbour's read-modify-write.

use super::*;
use crate::block::testing::{seed, Rng};

const THREADS: usize = 4;
const REGION: u64 = 64 << 10;

/// Cut the region into pieces of random length, each somebody's.
fn pieces(rng: &mut Rng, size: u64) -> Vec<Vec<(u64, usize)>> {
    let mut owned = vec![Vec::new(); THREADS];
    let mut at = 0;
    while at < size {
        // Now and then whole blocks, aligned, so that all kinds of range meet.
        let len = match rng.below(4) {
            0 if at % 512 == 0 => 512 * (1 + rng.below(8)),
            0 => 512 - at % 512,
            _ => 1 + rng.below(700),
        };
        let len = len.min(size - at);
        owned[rng.below(THREADS as u64) as usize].push((at, len as usize));
        at += len;
    }
    owned
}

fn write_own(volume: &Arc<Volume>, mine: &[(u64, usize)], seed: u64, ring: bool) -> Vec<(u64, Vec<u8>)> {
    let mut rng = Rng::new(seed);
    let shard = Shard::new(volume, ring);
    let mut last: Vec<(u64, Vec<u8>)> = mine.iter().map(|&(at, len)| (at, vec![0; len])).collect();
    for _ in 0..400 {
        let piece = &mut last[rng.below(mine.len() as u64) as usize];
        match rng.below(4) {
            0 => assert_eq!(shard.read(piece.0, piece.1.len()).unwrap(), piece.1, "own bytes at {}", piece.0),
            1 => {
                shard.simple(Op::WriteZeroes, plain(), piece.0, piece.1.len() as u64).unwrap();
                piece.1.fill(0);
            }
            _ => {
                piece.1.fill_with(|| rng.bits() as u8);
                let flags = Flags { fua: rng.below(8) == 0, ..plain() };
                shard.write(piece.0, &piece.1, flags).unwrap();
            }
        }
    }
    last
}

fn nobody_loses_a_byte(spec: &VolumeSpec, seed: u64) {
    let (volume, _) = open(spec);
    let owned = pieces(&mut Rng::new(seed), volume.size());
    let ends: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = owned
            .iter()
            .enumerate()
            .map(|(n, mine)| {
                let volume = &volume;
                scope.spawn(move || write_own(volume, mine, seed + 1 + n as u64, n % 2 == 0))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let shard = Shard::new(&volume, true);
    for (at, bytes) in ends.into_iter().flatten() {
        assert_eq!(shard.read(at, bytes.len()).unwrap(), bytes, "{} bytes at {at}", bytes.len());
    }
    assert_eq!(volume.in_flight(), 0);
    close(&volume);
}

#[test]
fn unaligned_direct_writes_keep_their_neighbours() {
    let seed = seed();
    for round in 0..3 {
        let file = TempFile::new(DISK, &vec![0; REGION as usize + 333]);
        nobody_loses_a_byte(&VolumeSpec { direct: true, ..spec(&file.0) }, seed + 10 * round);
    }
}

#[test]
fn unaligned_direct_writes_to_a_device_keep_their_neighbours() {
    let seed = seed();
    for sector in [512, 4096] {
        let Some(device) = Loop::new(TempFile::new(DISK, &[0; REGION as usize]), sector) else { return };
        nobody_loses_a_byte(&VolumeSpec { direct: true, device: true, ..spec(&device.path) }, seed);
    }
}

#[test]
fn buffered_writes_keep_their_neighbours() {
    let file = TempFile::new(DISK, &[0; REGION as usize]);
    nobody_loses_a_byte(&spec(&file.0), seed());
}
