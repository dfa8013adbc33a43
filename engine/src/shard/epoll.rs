//! The path without a ring: epoll for descriptors; files go inline or to a backstore's workers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::poller::{FileIo, Poller, Ready, Source};
use super::tasks::TaskHandle;

const EVENTS: usize = 256;

/// See the module's text.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// A fresh epoll instance.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }
}

impl Poller for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn add(&mut self, fd: RawFd, source: Source, write: bool) -> io::Result<()> {
        let out = if write { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET | out) as u32,
            u64: source.token(),
        };
        // SAFETY: a valid event that the kernel copies.
        match unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn remove(&mut self, fd: RawFd, _source: Source) {
        // SAFETY: DEL takes no event. A failure means that it was not watched.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    fn has_ring(&self) -> bool {
        false
    }

    unsafe fn submit_file(&mut self, _task: TaskHandle, _io: FileIo) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    fn wait(&mut self, timeout_ms: Option<u64>, out: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = timeout_ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        // SAFETY: room for EVENTS events.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), EVENTS as i32, timeout) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        for event in &self.events[..count as usize] {
            let (mask, token) = (event.events as i32, event.u64);
            if let Some(source) = Source::of_token(token) {
                let gone = mask & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
                out.push(Ready::Fd {
                    source,
                    readable: gone || mask & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                    writable: gone || mask & libc::EPOLLOUT != 0,
                });
            }
        }
        Ok(())
    }
}
