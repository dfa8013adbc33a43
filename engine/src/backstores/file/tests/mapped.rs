//! Large reads that are sent out of the page cache.

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::backstores::file::mapped::{MappedBytes, MAPPED_MIN};
use crate::shard::buffers::BufPool;
use crate::shard::outqueue::{OutQueue, Sent};
use crate::shard::transport::Transport;

const LEN: usize = 200_000;

fn image() -> Vec<u8> {
    (0..400_000u32).flat_map(u32::to_le_bytes).collect()
}

/// Sends them through a socket, as a connection does; an error of the kernel's comes back.
fn send(bytes: MappedBytes) -> std::io::Result<Vec<u8>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).map(|_| got)
    });
    let mut transport = Transport::plain(OwnedFd::from(ours));
    let mut queue = OutQueue::default();
    queue.mapped(0, bytes);
    let sent = loop {
        match queue.send(&mut transport, &mut Vec::new(), &mut BufPool::new(0)) {
            Ok(Sent::Blocked { .. }) => thread::yield_now(),
            other => break other,
        }
    };
    drop(transport);
    let got = reader.join().unwrap()?;
    sent.map(|_| got)
}

#[test]
fn what_is_cached_is_sent_as_it_is_in_the_file() {
    for place in PLACES {
        let file = TempFile::new(place, &image());
        let (volume, _) = open(&VolumeSpec { offset: 512, ..spec(&file.0) });
        assert!(file.bytes() == image(), "just read, so cached: to open it has the kernel forget what is on the disk");
        for offset in [0, 1, 4095, 77_777] {
            let bytes = volume.map_read(offset as u64, LEN).expect("cached");
            assert_eq!((bytes.len(), bytes.is_empty()), (LEN, false));
            assert!(send(bytes).unwrap() == image()[512 + offset..512 + offset + LEN], "{place} {offset}");
        }
        let shard = Shard::new(&volume, false);
        shard.write(4096, &[7; LEN], plain()).unwrap();
        assert!(send(volume.map_read(4096, LEN).unwrap()).unwrap() == [7; LEN], "a write is seen at once");
        close(&volume);
        assert!(volume.map_read(0, LEN).is_none(), "closed");
    }
}

#[test]
fn what_is_not_cached_or_not_there_is_read_in_the_other_way() {
    let file = TempFile::sparse("/dev/shm", 1 << 20);
    let (volume, _) = open(&spec(&file.0));
    assert!(volume.map_read(0, LEN).is_none(), "holes take no memory by being read");
    Shard::new(&volume, false).write(0, &[1; LEN], plain()).unwrap();
    assert!(volume.map_read(0, LEN).is_some());
    assert!(volume.map_read(0, LEN + 4096).is_none(), "a page is missing");
    assert!(volume.map_read(0, MAPPED_MIN - 1).is_none(), "too short to be worth it");
    assert!(volume.map_read((1 << 20) - 4096, LEN).is_none(), "behind the end");
    assert!(volume.map_read(u64::MAX, LEN).is_none());
    let direct = TempFile::new(DISK, &image());
    let (volume, _) = open(&VolumeSpec { direct: true, ..spec(&direct.0) });
    assert!(volume.map_read(0, LEN).is_none(), "around the page cache");
}

#[test]
fn a_file_cut_short_before_the_send_is_an_error_and_no_signal() {
    let file = TempFile::new("/dev/shm", &image());
    let (volume, _) = open(&spec(&file.0));
    let bytes = volume.map_read(0, LEN).unwrap();
    file.set_len(4096);
    let error = send(bytes).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    assert_ne!(error.kind(), ErrorKind::WouldBlock);
    assert!(volume.map_read(0, LEN).is_none());
}

#[test]
fn a_file_that_has_grown_is_mapped_anew() {
    let file = TempFile::new("/dev/shm", &image()[..LEN]);
    let (volume, _) = open(&spec(&file.0));
    assert!(volume.map_read(0, LEN).is_some());
    fs::write(&file.0, image()).unwrap();
    volume.refresh_size().unwrap();
    let bytes = volume.map_read(1_000_000, LEN).unwrap();
    assert!(send(bytes).unwrap() == image()[1_000_000..1_000_000 + LEN]);
}

#[test]
fn what_is_to_be_seen_whole_waits_for_what_is_yet_to_be_sent_and_is_the_end_of_it() {
    let file = TempFile::new("/dev/shm", &image());
    let (volume, _) = open(&spec(&file.0));
    let bytes = volume.map_read(0, LEN).unwrap();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut data = IoBuf::zeroed(1024);
            data[..512].copy_from_slice(&image()[..512]);
            let request = Request::compare_and_write(plain(), 0, data);
            Shard::new(&volume, false).run(request).1.unwrap();
            done.store(1, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(100));
        assert_eq!(done.load(Ordering::SeqCst), 0);
        assert!(send(bytes).unwrap() == image()[..LEN], "as it was before");
    });
    assert_eq!(file.bytes()[..512], [0; 512]);
    assert!(volume.map_read(0, LEN).is_none());
}
