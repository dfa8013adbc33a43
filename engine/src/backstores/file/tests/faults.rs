//! Storage that fails: the right errno, and a volume that says so until it is opened anew.

use std::os::fd::AsRawFd;

use super::super::fault::Fault;
use super::super::probe::{InlineRead, Traits};
use super::super::quick::Quickness;
use super::super::File;
use super::*;
use crate::backstores::Attempt;

fn degraded(volume: &Volume, told: &Told, word: &str) {
    let health = volume.health();
    let reason = health.reason.as_deref().unwrap_or("nothing");
    assert!(reason.contains(word), "degraded because of {reason:?}, not {word:?}");
    assert!(health.degraded_since_s > 0);
    assert_eq!(told.lock().unwrap().last().map(String::as_str), Some(reason), "and it was told");
}

#[test]
fn a_shrunk_file_is_an_error_not_zeroes() {
    for place in PLACES {
        for (direct, ring) in [(false, false), (false, true), (true, false), (true, true)] {
            let file = TempFile::new(place, &[1; 64 << 10]);
            let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
            let shard = Shard::new(&volume, ring);
            file.set_len(10_000);
            assert_eq!(shard.read(0, 4096).unwrap(), [1; 4096], "what is left is read");
            assert_eq!(shard.read(8192, 4096), Err(libc::EIO), "{place} direct={direct} ring={ring}");
            degraded(&volume, &told, "10000 bytes");
            assert_eq!(shard.read(40_001, 5), Err(libc::EIO));
            assert_eq!(shard.flush(), Err(libc::EIO));
            assert!(!volume.health().writes_refused);
            assert_eq!(told.lock().unwrap().len(), 1, "told once");
            let _ = volume.close(Duration::from_secs(20));
        }
    }
}

#[test]
fn a_deleted_file_is_noticed_when_it_would_matter() {
    for write in [false, true] {
        let file = TempFile::new(DISK, &[1; 8192]);
        let (volume, told) = open(&spec(&file.0));
        let shard = Shard::new(&volume, false);
        fs::remove_file(&file.0).unwrap();
        assert_eq!(shard.write(0, b"to nowhere", plain()), Ok(()), "not stable, not promised");
        let result = if write { shard.write(0, b"stable?", FUA) } else { shard.flush() };
        assert_eq!(result, Err(libc::EIO));
        degraded(&volume, &told, "deleted");
    }
}

#[test]
fn no_write_hides_that_the_file_was_cut() {
    const SIZE: u64 = 64 << 10;
    for place in PLACES {
        for (direct, ring) in [(false, false), (true, false), (true, true)] {
            for flags in [plain(), FUA] {
                let file = TempFile::new(place, &[1; SIZE as usize]);
                let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
                let shard = Shard::new(&volume, ring);
                let case = format!("{place} direct={direct} ring={ring} fua={}", flags.fua);
                file.set_len(8 << 10);
                let last = shard.write(SIZE - 4096, &[2; 4096], flags);
                assert_eq!(last, Err(libc::EIO), "{case}: at once, whenever the last look was");
                assert_eq!(file.bytes().len(), 8 << 10, "{case}: the file stays short");
                degraded(&volume, &told, "8192 bytes");
                assert_eq!(shard.flush(), Err(libc::EIO), "{case}");
                // One that ends before makes it longer, but not long enough to look whole.
                let before = shard.write(SIZE - 8192, &[3; 4096], plain());
                assert_eq!(before, Ok(()), "{case}: not stable, not promised");
                assert_eq!(file.bytes().len() as u64, SIZE - 4096);
                assert_eq!(shard.write(SIZE - 1, &[4], flags), Err(libc::EIO), "{case}: nor byte by byte");
                assert_eq!(shard.flush(), Err(libc::EIO), "{case}");
                let _ = volume.close(Duration::from_secs(20));
            }
        }
    }
}

#[test]
fn zeroes_at_the_end_do_not_hide_a_cut_either() {
    let file = TempFile::new(DISK, &[1; 64 << 10]);
    let (volume, told) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    file.set_len(0);
    for flags in [plain(), Flags { no_hole: true, ..plain() }] {
        let _ = shard.simple(Op::WriteZeroes, flags, 60 << 10, 4096);
        assert_eq!(shard.flush(), Err(libc::EIO));
    }
    assert!(file.bytes().is_empty());
    degraded(&volume, &told, "0 bytes");
}

#[test]
fn a_grown_file_is_watched_to_its_new_end() {
    let file = TempFile::new(DISK, &[1; 8192]);
    let (volume, _) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    file.set_len(16384);
    assert_eq!(volume.refresh_size().unwrap(), 16384);
    volume.expect_size(16384);
    shard.write(12288, &[2; 4096], plain()).unwrap();
    shard.flush().unwrap();
    file.set_len(8192);
    assert_eq!(shard.write(12288, &[2; 4096], plain()), Err(libc::EIO));
    let _ = volume.close(Duration::from_secs(20));
}

#[test]
fn a_cut_is_told_before_the_next_flush() {
    let file = TempFile::new(DISK, &[1; 64 << 10]);
    let (volume, told) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    file.set_len(0);
    thread::sleep(Duration::from_millis(super::super::GLANCE_MS + 20));
    shard.write(0, &[2; 512], plain()).unwrap();
    degraded(&volume, &told, "write: the file has 0 bytes");
}

#[test]
fn check_looks_without_being_asked_by_a_client() {
    let file = TempFile::new(DISK, &[1; 8192]);
    let (volume, told) = open(&spec(&file.0));
    volume.check();
    assert_eq!(volume.health().summary(), "ok");
    file.set_len(100);
    volume.check();
    degraded(&volume, &told, "check: the file has 100 bytes");
}

#[test]
fn a_write_back_that_failed_ends_all_writing() {
    // A device over a sparse file on a file system that is too small for it: the page cache takes what
    // the disk cannot.
    let Some(small) = Mount::tmpfs(1 << 20) else { return };
    let image = TempFile::sparse(small.path.to_str().unwrap(), 16 << 20);
    let Some(device) = Loop::new(image, 512) else { return };
    let (volume, told) = open(&VolumeSpec { device: true, ..spec(&device.path) });
    let shard = Shard::new(&volume, false);
    for n in 0..16 {
        shard.write(n << 18, &[7; 256 << 10], plain()).unwrap();
    }
    assert_eq!(shard.flush(), Err(libc::EIO));
    degraded(&volume, &told, "writes are refused");
    assert!(volume.health().writes_refused);
    assert_eq!(shard.flush(), Err(libc::EIO), "the kernel would say yes now");
    assert_eq!(shard.write(0, &[1; 512], plain()), Err(libc::EIO));
    assert_eq!(shard.simple(Op::WriteZeroes, plain(), 0, 512), Err(libc::EIO));
    assert_eq!(shard.simple(Op::Discard, plain(), 0, 512), Err(libc::EIO));
    assert!(shard.read(0, 512).is_ok(), "reads go on");
    assert!(volume.close(Duration::from_secs(20)).is_err(), "closing does not claim that all is well");
    let (again, _) = open(&VolumeSpec { device: true, ..spec(&device.path) });
    assert_eq!(Shard::new(&again, false).flush(), Ok(()), "opened anew it is sound");
    close(&again);
}

/// Nobody was told: a client that comes back could go on, and be told that all is well.
#[test]
fn what_is_lost_by_the_sync_of_a_close_is_told_when_it_is_open_again() {
    let Some(small) = Mount::tmpfs(1 << 20) else { return };
    let image = TempFile::sparse(small.path.to_str().unwrap(), 16 << 20);
    let Some(device) = Loop::new(image, 512) else { return };
    let spec = VolumeSpec { device: true, ..spec(&device.path) };
    let (volume, _) = open(&spec);
    let shard = Shard::new(&volume, false);
    for n in 0..16 {
        shard.write(n << 18, &[7; 256 << 10], plain()).unwrap();
    }
    let closed = volume.close(Duration::from_secs(20));
    assert_eq!(closed.unwrap_err().raw_os_error(), Some(libc::ENOTRECOVERABLE));
    let (again, told) = open(&VolumeSpec { suspect: Some("close: lost; writes are refused".into()), ..spec.clone() });
    degraded(&again, &told, "close: lost; writes are refused");
    let shard = Shard::new(&again, false);
    assert_eq!((shard.flush(), shard.write(0, &[1; 512], plain())), (Err(libc::EIO), Err(libc::EIO)));
    assert!(shard.read(0, 512).is_ok(), "reads go on");
    let closed = again.close(Duration::from_secs(20));
    assert_ne!(closed.unwrap_err().raw_os_error(), Some(libc::ENOTRECOVERABLE), "it has been told");
    let (sound, _) = open(&spec);
    assert_eq!(Shard::new(&sound, false).flush(), Ok(()));
    close(&sound);
}

#[test]
fn no_sync_takes_another_ones_error() {
    let Some(small) = Mount::tmpfs(1 << 20) else { return };
    let image = TempFile::sparse(small.path.to_str().unwrap(), 16 << 20);
    let Some(device) = Loop::new(image, 512) else { return };
    let read_fua = || Request::with_buf(Op::Read, FUA, 0, IoBuf::zeroed(512));
    for round in 0..8 {
        // What was lost before is over for who opens the device anew; what is written now is lost again.
        let (volume, _) = open(&VolumeSpec { device: true, ..spec(&device.path) });
        let (beside, flushing) = (Shard::new(&volume, false), Shard::new(&volume, false));
        for n in 0..16 {
            flushing.write(n << 18, &[7; 256 << 10], plain()).unwrap();
        }
        let of_the_medium = if round % 2 == 0 { Request::new(Op::Verify, plain(), 0, 512) } else { read_fua() };
        // Both run before either is waited for.
        let first = volume.start(of_the_medium, false, || beside.completion());
        assert_eq!(flushing.flush(), Err(libc::EIO), "round {round}");
        assert_eq!(beside.take(first).1, Err(libc::EIO), "round {round}");
        let _ = volume.close(Duration::from_secs(20));
    }
}

#[test]
fn a_full_disk_says_so_and_goes_on() {
    let Some(small) = Mount::tmpfs(1 << 20) else { return };
    for (direct, flags) in [(false, plain()), (false, FUA), (true, plain())] {
        let file = TempFile::sparse(small.path.to_str().unwrap(), 4 << 20);
        let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
        let shard = Shard::new(&volume, false);
        let results: Vec<_> = (0..8).map(|n| shard.write(n << 18, &[7; 256 << 10], flags)).collect();
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[7], Err(libc::ENOSPC));
        degraded(&volume, &told, "No space left");
        assert!(!volume.health().writes_refused);
        shard.simple(Op::Discard, plain(), 0, 1 << 20).unwrap();
        assert_eq!(shard.write(0, &[8; 4096], flags), Ok(()), "room again");
        close(&volume);
    }
}

/// A small file system of one's own, where root may mount.
struct Mount {
    path: PathBuf,
}

impl Mount {
    fn tmpfs(bytes: u64) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/dev/shm").join(format!("blockgate-test-{}-mount-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "blockgate-test"])
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Mount { path }),
            other => {
                println!("SKIPPED: no tmpfs of our own: {other:?}");
                let _ = fs::remove_dir(&path);
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
        let _ = fs::remove_dir(&self.path);
    }
}

/// A volume as on a local file system, whatever this machine's is.
fn local(file: &TempFile) -> (File, Told) {
    let told = Told::default();
    let sink = told.clone();
    let mut opened = File::open(&spec(&file.0), Box::new(move |why, _| sink.lock().unwrap().push(why.into()))).unwrap();
    opened.traits = Traits {
        name: "local",
        inline_read: InlineRead::Cached,
        inline_write: true,
        ring: true,
        maps: true,
        dsync: true,
    };
    (opened, told)
}

fn request(op: Op, offset: u64, len: usize) -> Request {
    Request::with_buf(op, plain(), offset, IoBuf::zeroed(len))
}

#[test]
fn a_part_of_a_page_that_is_not_cached_is_not_written_at_once() {
    const LEN: usize = 1 << 20;
    let file = TempFile::new(DISK, &[1; LEN]);
    let (mut opened, _) = local(&file);
    let fd = opened.fd.as_raw_fd();
    let forget = |opened: &File| {
        opened.flush().unwrap();
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
    };
    let look = || sys::read_cached(fd, &mut [0], 65536);
    if look().is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP)) {
        println!("SKIPPED: this file system does not tell what is cached");
        return;
    }
    // A look has the kernel read ahead, and a quick disk is done before the look is: then once more.
    const TIMES: usize = 100;
    let forgets = (0..TIMES).any(|_| {
        forget(&opened);
        look().is_err()
    });
    if !forgets {
        println!("SKIPPED: this file system does not forget its pages");
        return;
    }
    let now = |opened: &mut File, offset, len| {
        opened.quick = Quickness::new(); // whatever others do to the disk meanwhile
        opened.try_now(&mut request(Op::Write, offset, len)) == Attempt::Done(Ok(()))
    };
    assert!(now(&mut opened, 8192, 8192), "whole pages need no reading");
    // (offset, length): within a page, its first part, its last part, over an edge, only the end, only the start.
    let parts = [(65546, 10), (65536, 512), (69120, 512), (69000, 5000), (65536, 5000), (66000, 7728)];
    for (offset, len) in parts {
        let waits = (0..TIMES).any(|_| {
            forget(&opened);
            !now(&mut opened, offset, len)
        });
        assert!(waits, "{len} at {offset}");
        sys::read(fd, &mut [0; 16384], 65536).unwrap();
        assert!(now(&mut opened, offset, len), "{len} at {offset}, cached");
    }
}

#[test]
fn a_request_behind_the_end_of_a_sound_file_does_not_degrade_the_volume() {
    for place in PLACES {
        for direct in [false, true] {
            let file = TempFile::new(place, &[1; 64 << 10]);
            let (volume, told) = open(&VolumeSpec { direct, ..spec(&file.0) });
            // Made smaller: a request that an older gate let through comes late.
            volume.expect_size(32 << 10);
            file.set_len(32 << 10);
            for refreshed in [false, true] {
                for ring in [false, true] {
                    let shard = Shard::new(&volume, ring);
                    assert!(shard.read(48 << 10, 4096).is_err());
                    assert!(shard.read(100, 40_000).is_err());
                    assert_eq!(volume.health().reason, None, "{place} direct={direct} ring={ring} {refreshed}");
                }
                volume.refresh_size().unwrap();
            }
            let shard = Shard::new(&volume, false);
            assert_eq!(shard.write(48 << 10, &[2; 512], plain()), Err(libc::ENOSPC));
            assert_eq!(shard.simple(Op::Discard, plain(), 48 << 10, 4096), Err(libc::ENOSPC));
            assert_eq!(volume.health().reason, None);
            assert_eq!(file.bytes().len(), 32 << 10);
            assert!(told.lock().unwrap().is_empty());
            // A file that really is short says so.
            volume.expect_size(64 << 10);
            assert_eq!(shard.read(48 << 10, 4096), Err(libc::EIO));
            degraded(&volume, &told, "32768 bytes");
        }
    }
}

#[test]
fn a_file_system_that_has_gone_read_only_degrades_the_volume() {
    let file = TempFile::new("/dev/shm", &[1; 8192]);
    let (opened, told) = local(&file);
    assert_eq!(Fault::Refused(libc::EROFS).settle("write", &opened.health), libc::EROFS);
    assert!(told.lock().unwrap().is_empty(), "a volume that was opened read-only");
    assert_eq!(Fault::Os(libc::EROFS).settle("write", &opened.health), libc::EROFS);
    assert!(told.lock().unwrap()[0].contains("Read-only file system"));
    assert!(!opened.health.writes_refused());
}

#[test]
fn zeroes_are_written_where_a_hole_cannot_be_filled() {
    for place in PLACES {
        let file = TempFile::new(place, &[7; 64 << 10]);
        let (opened, told) = local(&file);
        opened.lacks.lack_all_but_punch();
        let zero = |fast_zero| {
            let flags = Flags { no_hole: true, fast_zero, ..plain() };
            opened.execute(&mut Request::new(Op::WriteZeroes, flags, 4096, 8192))
        };
        assert_eq!(zero(true), Err(libc::EOPNOTSUPP));
        assert!(file.bytes() == [7; 64 << 10], "nothing was altered");
        assert_eq!(zero(false), Ok(()));
        let mut wanted = vec![7; 64 << 10];
        wanted[4096..12288].fill(0);
        assert!(file.bytes() == wanted);
        assert!(told.lock().unwrap().is_empty());
    }
}
