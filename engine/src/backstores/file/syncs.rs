//! Descriptors for writes that are stable before they are answered.
//!
//! The kernel tells a failed write-back once to each open file description: the first sync
//! that asks gets the error, and a sync that runs at the same moment on the same description
//! may get "all well" for data that is lost. So nobody shares one: `flush.rs` has the volume's
//! own descriptor (one sync at a time), and each stable write borrows one from here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sys;

/// Opened when needed, as many as there are stable writes at a time (so at most the workers' number).
pub struct Syncs {
    flags: i32,
    free: Mutex<Vec<OwnedFd>>,
}

impl Syncs {
    /// `flags`: how they are opened.
    pub fn new(flags: i32) -> Self {
        Syncs { flags, free: Mutex::new(Vec::new()) }
    }

    /// Run `write` with a descriptor of `file` that is nobody else's meanwhile.
    pub fn with<T>(&self, file: &OwnedFd, write: impl FnOnce(RawFd) -> T) -> io::Result<T> {
        let free = self.free().pop();
        let fd = match free {
            Some(fd) => fd,
            None => sys::reopen(file, self.flags)?,
        };
        let result = write(fd.as_raw_fd());
        self.free().push(fd);
        Ok(result)
    }

    /// Close those that nobody uses.
    pub fn clear(&self) {
        let unused = std::mem::take(&mut *self.free());
        drop(unused);
    }

    fn free(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
