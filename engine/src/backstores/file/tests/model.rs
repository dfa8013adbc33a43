//! Random requests against a volume and against a plain vector: byte for byte the same.

use super::*;
use crate::block::command::Span;
use crate::block::testing::{seed, Rng};

/// One way of opening a volume.
struct Case {
    name: String,
    spec: VolumeSpec,
    ring: bool,
}

/// What the volume should hold, inside the file that holds more.
struct Model {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

fn random_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.bits() as u8).collect()
}

fn random_range(rng: &mut Rng, size: u64) -> (u64, u64) {
    let offset = match rng.below(3) {
        0 => rng.below(size / 512) * 512,
        1 => rng.below(size),
        _ => size - 1 - rng.below(size.min(5000)),
    };
    let len = match rng.below(4) {
        0 => 512 * (1 + rng.below(16)),
        1 => 4096 * (1 + rng.below(64)),
        _ => 1 + rng.below(3000),
    };
    (offset, len.min(size - offset))
}

fn random_request(shard: &Shard, model: &mut Model, rng: &mut Rng) {
    let (offset, len) = random_range(rng, model.len as u64);
    let at = model.start + offset as usize;
    let range = at..at + len as usize;
    let mut flags = Flags { fua: rng.below(4) == 0, ..plain() };
    match rng.below(16) {
        10..=15 => random_compound(shard, model, rng, (offset, len), flags),
        0..=3 => assert_eq!(shard.read(offset, len as usize).unwrap(), model.bytes[range], "read {offset}+{len}"),
        4..=6 => {
            let bytes = random_bytes(rng, len as usize);
            shard.write(offset, &bytes, flags).unwrap();
            model.bytes[range].copy_from_slice(&bytes);
        }
        7 => {
            flags.no_hole = rng.below(2) == 0;
            flags.fast_zero = rng.below(2) == 0;
            match shard.simple(Op::WriteZeroes, flags, offset, len) {
                Ok(()) => model.bytes[range].fill(0),
                // Then nothing may have been altered, which the next reads see.
                Err(errno) => assert!(flags.fast_zero && errno == libc::EOPNOTSUPP, "write zeroes: {errno}"),
            }
        }
        8 => {
            shard.simple(Op::Discard, flags, offset, len).unwrap();
            let now = shard.read(offset, len as usize).unwrap();
            let old = &mut model.bytes[range];
            // Undefined by the protocol; here: each byte as it was, or zero.
            assert!(now.iter().zip(old.iter()).all(|(new, old)| new == old || *new == 0), "trim {offset}+{len}");
            old.copy_from_slice(&now);
        }
        _ => {
            shard.flush().unwrap();
            shard.simple(Op::Cache, plain(), offset, len).unwrap();
        }
    }
}

/// What is more than one transfer; the offsets are as odd as for the others, which no front end asks for.
fn random_compound(shard: &Shard, model: &mut Model, rng: &mut Rng, (offset, len): (u64, u64), flags: Flags) {
    let at = model.start + offset as usize;
    let old = model.bytes[at..at + len as usize].to_vec();
    let new = random_bytes(rng, old.len());
    let now = &mut model.bytes[at..at + old.len()];
    let differs_at = rng.below(len) as usize;
    let mut wrong = old.clone();
    wrong[differs_at] ^= 1;
    let miscompare = (Err(libc::EILSEQ), Some(differs_at as u64));
    match rng.below(8) {
        0 => {
            assert_eq!(shard.with_data(Op::CompareAndWrite, flags, offset, len, &[&old[..], &new].concat()), DONE);
            now.copy_from_slice(&new);
        }
        1 => {
            let data = [&wrong[..], &new].concat();
            assert_eq!(shard.with_data(Op::CompareAndWrite, flags, offset, len, &data), miscompare);
        }
        2 => {
            assert_eq!(shard.with_data(Op::OrWrite, flags, offset, len, &new), DONE);
            now.iter_mut().zip(&new).for_each(|(byte, with)| *byte |= with);
        }
        3 => {
            assert_eq!(shard.with_data(Op::Verify, flags, offset, len, &old), DONE);
            assert_eq!(shard.with_data(Op::Verify, flags, offset, len, &wrong), miscompare);
            shard.simple(Op::Verify, flags, offset, len).unwrap();
        }
        4 => {
            assert_eq!(shard.with_data(Op::WriteVerify, flags, offset, len, &new), DONE);
            now.copy_from_slice(&new);
        }
        5 | 6 => {
            // A block as long as the range allows, sometimes of zeroes.
            let block = if len % 512 == 0 { 512 } else { len as usize };
            let data = if rng.below(2) == 0 { vec![0; block] } else { random_bytes(rng, block) };
            let flags = Flags { no_hole: rng.below(2) == 0, ..flags };
            assert_eq!(shard.with_data(Op::WriteSame, flags, offset, len, &data), DONE);
            now.chunks_mut(block).for_each(|part| part.copy_from_slice(&data));
            assert_eq!(shard.with_data(Op::Verify, flags, offset, len, &data), DONE);
        }
        _ => {
            let half = len / 2;
            let spans = [(offset + half, len - half), (offset, half)];
            let spans = spans.iter().filter(|span| span.1 > 0).map(|&(offset, len)| Span { offset, len }).collect();
            shard.run(Request::unmap(spans)).1.unwrap();
            now.fill(0);
        }
    }
}

const DONE: (Result<(), Errno>, Option<u64>) = (Ok(()), None);

fn run(case: &Case, content: Vec<u8>, rng: &mut Rng, requests: u32) -> Vec<u8> {
    println!("{}", case.name);
    let (volume, told) = open(&case.spec);
    let shard = Shard::new(&volume, case.ring);
    let start = case.spec.offset as usize;
    let mut model = Model { len: volume.size() as usize, start, bytes: content };
    for _ in 0..requests {
        random_request(&shard, &mut model, rng);
    }
    let end = start + model.len;
    assert_eq!(shard.read(0, model.len).unwrap(), model.bytes[start..end], "at the end");
    assert_eq!(volume.in_flight(), 0);
    close(&volume);
    assert_eq!(*told.lock().unwrap(), Vec::<String>::new(), "and the volume stayed sound");
    model.bytes
}

#[test]
fn files_equal_the_model() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    for place in PLACES {
        for (direct, ring, write_through) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, false),
            (true, true, true),
            (false, true, true),
        ] {
            // A whole number of blocks and not; with bytes before and behind that are not the volume's.
            for (size, offset, length) in
                [(256 << 10, 0, None), ((256 << 10) + 777, 0, None), (512 << 10, 8192, Some((256 << 10) + 100))]
            {
                let content = random_bytes(&mut rng, size);
                let file = TempFile::new(place, &content);
                let spec = VolumeSpec { direct, write_through, offset, length, ..spec(&file.0) };
                let name = format!(
                    "{place} direct={direct} ring={ring} write_through={write_through} {size} {offset} {length:?}"
                );
                let wanted = run(&Case { name, spec, ring }, content, &mut rng, 150);
                // Includes the bytes around the volume, and the file's size.
                assert!(file.bytes() == wanted, "the file itself differs");
            }
        }
    }
}

#[test]
fn block_devices_equal_the_model() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    for (sector, direct, length) in
        [(512, false, None), (512, true, Some((1 << 20) - 100)), (4096, true, None), (4096, false, Some(777_777))]
    {
        let content = random_bytes(&mut rng, 2 << 20);
        let Some(device) = Loop::new(TempFile::new(DISK, &content), sector) else { return };
        let spec = VolumeSpec { direct, length, device: true, ..spec(&device.path) };
        let name = format!("loop sector={sector} direct={direct} {length:?}");
        let wanted = run(&Case { name, spec, ring: true }, content, &mut rng, 200);
        assert!(fs::read(&device.path).unwrap() == wanted, "the device itself differs");
    }
}
