//! What a shard waits on: sockets, its mailbox, and file I/O where there is a ring.
//!
//! Readiness is edge-triggered on both paths: it is told once, and the one who is told reads or
//! writes until the kernel says EAGAIN, or remembers that there may be more.

use std::io;
use std::os::fd::RawFd;

use super::tasks::TaskHandle;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Conn(TaskHandle),
    Listener(TaskHandle),
    Mailbox,
    File(TaskHandle),
}

const KIND_SHIFT: u32 = 60;
const HANDLE_MASK: u64 = (1 << KIND_SHIFT) - 1;

impl Source {
    /// As the kernel carries it. A handle has 60 bits (28 of generation, 32 of slot).
    pub fn token(self) -> u64 {
        let (kind, handle) = match self {
            Source::Conn(handle) => (1, handle.0),
            Source::Listener(handle) => (2, handle.0),
            Source::Mailbox => (3, 0),
            Source::File(handle) => (4, handle.0),
        };
        debug_assert!(handle & !HANDLE_MASK == 0);
        kind << KIND_SHIFT | handle
    }

    /// Back from a token; `None`: nobody is to be told.
    pub fn of_token(token: u64) -> Option<Self> {
        let handle = TaskHandle(token & HANDLE_MASK);
        match token >> KIND_SHIFT {
            1 => Some(Source::Conn(handle)),
            2 => Some(Source::Listener(handle)),
            3 => Some(Source::Mailbox),
            4 => Some(Source::File(handle)),
            _ => None,
        }
    }
}

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// A descriptor became readable or writable (both on an error or a hang-up).
    Fd { source: Source, readable: bool, writable: bool },
    /// File I/O ended: bytes, or a negative errno.
    File { task: TaskHandle, result: i32 },
}

/// One transfer between a file and a buffer that stays where it is until the transfer ends.
#[derive(Clone, Copy, Debug)]
pub struct FileIo {
    pub fd: RawFd,
    pub write: bool,
    pub start: *mut u8,
    pub len: u32,
    /// Bytes from the file's start.
    pub offset: u64,
}

/// Either path. Made and used in the shard's own thread.
pub trait Poller {
    /// "io_uring" or "epoll".
    fn name(&self) -> &'static str;
    /// Watches a descriptor; `write`: also for room to write.
    fn add(&mut self, fd: RawFd, source: Source, write: bool) -> io::Result<()>;
    /// Stops watching. To be called before the descriptor is closed.
    fn remove(&mut self, fd: RawFd, source: Source);
    /// Can [`Poller::submit_file`] be used?
    fn has_ring(&self) -> bool;
    /// Starts file I/O.
    ///
    /// # Safety
    /// The buffer must stay valid, and untouched, until the task's [`Ready::File`] has come.
    unsafe fn submit_file(&mut self, task: TaskHandle, io: FileIo) -> io::Result<()>;
    /// Collects what is ready. `timeout_ms` `None`: waits until there is something; 0: does not wait.
    fn wait(&mut self, timeout_ms: Option<u64>, out: &mut Vec<Ready>) -> io::Result<()>;
}

/// Which path is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoPath {
    Auto,
    Uring,
    Epoll,
}

/// Makes the poller: with `Auto`, the ring where it can be had.
pub fn open(path: IoPath) -> io::Result<Box<dyn Poller>> {
    match path {
        IoPath::Epoll => Ok(Box::new(super::epoll::Epoll::new()?)),
        IoPath::Uring => Ok(Box::new(super::uring::Uring::new()?)),
        IoPath::Auto => match super::uring::Uring::new() {
            Ok(ring) => Ok(Box::new(ring)),
            // EPERM in containers, ENOSYS on old kernels, EINVAL where an operation is missing.
            Err(_) => Ok(Box::new(super::epoll::Epoll::new()?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::buffers::IoBuf;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn both() -> Vec<Box<dyn Poller>> {
        let mut all: Vec<Box<dyn Poller>> = vec![open(IoPath::Epoll).unwrap()];
        // A container may forbid rings; the other path is then the only one there is.
        all.extend(open(IoPath::Uring).ok());
        all
    }

    #[test]
    fn tokens_survive_the_kernel() {
        let handle = TaskHandle::new(7, (1 << 28) - 1);
        for source in [Source::Conn(handle), Source::Listener(handle), Source::Mailbox, Source::File(handle)] {
            assert_eq!(Source::of_token(source.token()), Some(source));
        }
        assert_eq!(Source::of_token(0), None);
    }

    #[test]
    fn a_socket_is_told_once_for_each_arrival() {
        for mut poller in both() {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let source = Source::Conn(TaskHandle::new(3, 1));
            let mut out = Vec::new();
            poller.add(ours.as_raw_fd(), source, false).unwrap();
            poller.wait(Some(0), &mut out).unwrap();
            assert!(out.is_empty(), "{}", poller.name());
            for _ in 0..3 {
                theirs.write_all(b"x").unwrap();
                poller.wait(Some(1000), &mut out).unwrap();
                assert!(matches!(out[..], [Ready::Fd { source: s, readable: true, .. }] if s == source));
                out.clear();
                poller.wait(Some(0), &mut out).unwrap();
                assert!(out.is_empty(), "{} told twice", poller.name());
            }
            poller.remove(ours.as_raw_fd(), source);
            theirs.write_all(b"x").unwrap();
            poller.wait(Some(0), &mut out).unwrap();
            assert!(out.is_empty(), "{} told after removal", poller.name());
        }
    }

    #[test]
    fn waiting_ends_in_time() {
        for mut poller in both() {
            let start = std::time::Instant::now();
            let mut waits = 0;
            // It may end early now and then (what it did before has just completed), but not spin.
            while start.elapsed().as_millis() < 30 {
                poller.wait(Some(30), &mut Vec::new()).unwrap();
                waits += 1;
            }
            assert!(waits <= 4, "{}: {waits} waits", poller.name());
        }
    }

    #[test]
    fn a_ring_carries_file_io() {
        let Ok(mut poller) = open(IoPath::Uring) else { return };
        assert!(poller.has_ring());
        let path = std::env::temp_dir().join(format!("blockgate-ring-{}", std::process::id()));
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut buf = IoBuf::zeroed(4096);
        buf.fill(7);
        let mut transfer = |buf: &mut IoBuf, write| {
            let io = FileIo { fd: file.as_raw_fd(), write, start: buf.as_mut_ptr(), len: 4096, offset: 8192 };
            let task = TaskHandle::new(9, 2);
            let mut out = Vec::new();
            // SAFETY: the buffer outlives the wait below, which sees the end.
            unsafe { poller.submit_file(task, io).unwrap() };
            while out.is_empty() {
                poller.wait(None, &mut out).unwrap();
            }
            assert_eq!(out, [Ready::File { task, result: 4096 }]);
        };
        transfer(&mut buf, true);
        buf.fill(0);
        transfer(&mut buf, false);
        assert!(buf.iter().all(|byte| *byte == 7));
    }
}
