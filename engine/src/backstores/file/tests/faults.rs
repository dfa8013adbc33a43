//! Storage that fails: the right errno, and a volume that says so until it is opened anew.

use super::*;

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
fn a_write_behind_the_end_of_a_shrunk_file_does_not_hide_it() {
    let file = TempFile::new(DISK, &[1; 64 << 10]);
    let (volume, told) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    file.set_len(0);
    thread::sleep(Duration::from_millis(super::super::GLANCE_MS + 20));
    shard.write((64 << 10) - 512, &[2; 512], plain()).unwrap();
    assert_eq!(file.bytes().len(), 64 << 10, "as long as before, and all zeroes but for the end");
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
