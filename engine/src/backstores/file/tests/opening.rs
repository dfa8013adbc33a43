//! What is opened, what is refused, who has it alone, and how it is let go.

use std::os::unix::fs::symlink;

use super::*;
use crate::backstores::file::FileBackstore;
use crate::backstores::{Backstore, OpenError};

fn refused(spec: &VolumeSpec) -> OpenError {
    Volume::open(2, spec.clone(), Box::new(|_, _| ())).expect_err("must be refused")
}

#[test]
fn a_second_open_is_refused_until_the_first_is_closed() {
    let file = TempFile::new(DISK, &[0; 4096]);
    for direct in [false, true] {
        let spec = VolumeSpec { direct, ..spec(&file.0) };
        let (volume, _) = open(&spec);
        Shard::new(&volume, false).write(0, b"stable", FUA).unwrap();
        let error = refused(&spec);
        assert_eq!(error.errno, libc::EBUSY);
        assert!(error.message.contains("in use"), "{error}");
        assert_eq!(refused(&VolumeSpec { read_only: true, ..spec.clone() }).errno, libc::EBUSY);
        // Closed, although the value is still held: whoever holds it cannot keep the lock.
        close(&volume);
        let (again, _) = open(&spec);
        close(&again);
        drop(volume);
    }
}

/// How much of a file is in the page cache, bytes.
fn cached(file: &TempFile) -> usize {
    let opened = std::fs::File::open(&file.0).unwrap();
    let len = opened.metadata().unwrap().len() as usize;
    let mut pages = vec![0_u8; len.div_ceil(4096)];
    // SAFETY: the mapping is as long as the file, is not accessed, and is gone before this returns; `pages` has a byte
    // for each of its pages.
    unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&opened);
        let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        assert_ne!(start, libc::MAP_FAILED);
        assert_eq!(libc::mincore(start, len, pages.as_mut_ptr()), 0);
        libc::munmap(start, len);
    }
    pages.iter().filter(|page| **page & 1 != 0).count() * 4096
}

/// A sync that has failed leaves what it could not write as if it were written.
#[test]
fn what_is_in_the_cache_from_before_is_not_believed() {
    for direct in [false, true] {
        let file = TempFile::new(DISK, &[7; 1 << 20]);
        std::fs::File::open(&file.0).unwrap().sync_all().unwrap();
        assert_eq!(cached(&file), 1 << 20);
        let (volume, _) = open(&VolumeSpec { direct, ..spec(&file.0) });
        assert!(cached(&file) <= 256 << 10, "what it has looked at itself, at most");
        close(&volume);
    }
}

#[test]
fn a_device_is_exclusive_also_under_another_name() {
    let Some(device) = Loop::new(TempFile::new(DISK, &[0; 1 << 20]), 512) else { return };
    let spec = VolumeSpec { device: true, ..spec(&device.path) };
    let (volume, _) = open(&spec);
    assert_eq!(refused(&spec).errno, libc::EBUSY);
    let other = sys::open(&device.path, libc::O_RDWR | libc::O_EXCL);
    assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::EBUSY), "also for a mount");
    close(&volume);
    close(&open(&spec).0);
}

#[test]
fn closed_volumes_answer_so() {
    let file = TempFile::new("/dev/shm", &[1; 8192]);
    let (volume, told) = open(&spec(&file.0));
    let shard = Shard::new(&volume, true);
    close(&volume);
    close(&volume);
    assert_eq!(shard.read(0, 4096), Err(libc::ESHUTDOWN));
    assert_eq!(shard.write(0, &[2; 512], plain()), Err(libc::ESHUTDOWN));
    assert_eq!(shard.flush(), Err(libc::ESHUTDOWN));
    assert!(told.lock().unwrap().is_empty());
    assert_eq!(file.bytes(), [1; 8192]);
}

#[test]
fn a_descriptor_that_was_let_go_reaches_nothing() {
    let file = TempFile::new("/dev/shm", &[1; 4096]);
    let fd = sys::open(&file.0, libc::O_RDWR).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
    sys::hollow_out(&fd).unwrap();
    let mut buf = [0; 16];
    assert_eq!(sys::read(number, &mut buf, 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(sys::write(number, &buf, 0, 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(sys::sync(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn read_only_is_opened_for_reading_and_refuses_writes() {
    let file = TempFile::new(DISK, &[5; 8192]);
    for direct in [false, true] {
        let (volume, told) = open(&VolumeSpec { read_only: true, direct, ..spec(&file.0) });
        let shard = Shard::new(&volume, true);
        assert_eq!(shard.read(4096, 100).unwrap(), [5; 100]);
        assert_eq!(shard.write(0, &[1; 512], plain()), Err(libc::EROFS));
        assert_eq!(shard.simple(Op::Discard, plain(), 0, 512), Err(libc::EROFS));
        assert_eq!(shard.simple(Op::WriteZeroes, plain(), 0, 512), Err(libc::EROFS));
        assert_eq!(shard.flush(), Ok(()));
        close(&volume);
        assert!(told.lock().unwrap().is_empty(), "that is no fault of the storage");
    }
}

#[test]
fn only_files_and_devices_are_opened() {
    let file = TempFile::new(DISK, &[0; 4096]);
    let fifo = Path::new(DISK).join(format!("blockgate-test-{}-fifo", std::process::id()));
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let error = refused(&VolumeSpec { read_only: true, ..spec(&fifo) });
    fs::remove_file(&fifo).unwrap();
    assert_eq!(error.errno, libc::EINVAL);
    assert!(error.message.ends_with("is not a regular file"), "{error}");
    assert_eq!(refused(&spec(Path::new(DISK))).errno, libc::EINVAL);
    assert_eq!(refused(&spec(Path::new("/dev/null"))).errno, libc::EINVAL);
    assert_eq!(refused(&VolumeSpec { device: true, ..spec(&file.0) }).errno, libc::ENOTBLK);
    let missing = refused(&spec(Path::new("/var/tmp/blockgate-no-such-file")));
    assert_eq!(missing.errno, libc::ENOENT);
    assert!(missing.message.contains("/var/tmp/blockgate-no-such-file"));
}

#[test]
fn symbolic_links_are_followed() {
    let file = TempFile::new(DISK, &[9; 4096]);
    let link = file.0.with_extension("link");
    symlink(&file.0, &link).unwrap();
    let (volume, _) = open(&spec(&link));
    assert_eq!(Shard::new(&volume, false).read(0, 10).unwrap(), [9; 10]);
    let busy = refused(&spec(&file.0));
    fs::remove_file(&link).unwrap();
    assert_eq!(busy.errno, libc::EBUSY, "the same file, the same lock");
}

#[test]
fn sizes_are_checked_and_read_again() {
    let file = TempFile::new(DISK, &[0; 8192]);
    assert_eq!(refused(&VolumeSpec { length: Some(8193), ..spec(&file.0) }).errno, libc::EINVAL);
    assert_eq!(refused(&VolumeSpec { offset: 8193, ..spec(&file.0) }).errno, libc::EINVAL);
    assert_eq!(refused(&VolumeSpec { offset: 100, direct: true, ..spec(&file.0) }).errno, libc::EINVAL);
    let (volume, _) = open(&VolumeSpec { offset: 4096, ..spec(&file.0) });
    assert_eq!(volume.size(), 4096);
    file.set_len(1 << 20);
    assert_eq!(volume.size(), 4096);
    assert_eq!(volume.refresh_size().unwrap(), (1 << 20) - 4096);
    let shard = Shard::new(&volume, false);
    shard.write((1 << 20) - 4096 - 3, b"end", plain()).unwrap();
    assert_eq!(shard.write((1 << 20) - 4096 - 3, b"over", plain()), Err(libc::ENOSPC));
    close(&volume);
    let (volume, _) = open(&VolumeSpec { length: Some(4096), ..spec(&file.0) });
    assert_eq!(volume.refresh_size().unwrap(), 4096, "a stated length bounds it");
    assert_eq!(Shard::new(&volume, false).write(4096, b"label", plain()), Err(libc::ENOSPC));
}

#[test]
fn a_shrink_that_clients_know_of_is_no_fault() {
    let file = TempFile::new(DISK, &[0; 8192]);
    let (volume, told) = open(&spec(&file.0));
    let shard = Shard::new(&volume, false);
    volume.expect_size(4096);
    file.set_len(4096);
    assert_eq!(shard.flush(), Ok(()), "before the engine has looked again");
    assert_eq!(volume.refresh_size().unwrap(), 4096);
    assert_eq!(shard.write(0, &[1; 4096], FUA), Ok(()));
    assert!(told.lock().unwrap().is_empty());
}

#[test]
fn idle_volumes_have_no_threads() {
    let file = TempFile::new(DISK, &[0; 8192]);
    let spec = VolumeSpec { write_through: true, ..spec(&file.0) };
    let backstore = FileBackstore::open_with(7, &spec, Box::new(|_, _| ()), Duration::from_millis(50)).unwrap();
    assert_eq!(backstore.workers.threads(), 0, "none before the first request");
    let mailbox = Mailbox::new(4).unwrap();
    let mut buf = IoBuf::zeroed(512);
    buf.fill(3);
    let request = Request::with_buf(Op::Write, plain(), 0, buf);
    backstore.submit(request, Completion::new(mailbox.clone(), TaskHandle(1)));
    assert_eq!(backstore.workers.threads(), 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while backstore.workers.threads() > 0 || mailbox.depth() == 0 {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(mailbox.next_done().unwrap().news, News::Ended(Outcome { result: Ok(()), .. })));
    backstore.close().unwrap();
}
