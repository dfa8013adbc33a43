//! Backstores: the code that reaches one kind of storage.
//!
//! A backstore gets requests that the gate has allowed and whose range the
//! volume has admitted. It never calls back into a front end but through the
//! [`Completion`] of the request, and never waits for another volume.

pub mod file;
pub mod workers;

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use self::file::mapped::MappedBytes;
use crate::block::command::{Errno, Request};
use crate::block::health::Health;

pub use crate::shard::mailbox::Completion;

/// Answer of [`Backstore::try_now`].
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The request is finished.
    Done(Result<(), Errno>),
    /// It would block: give it to the ring or to [`Backstore::submit`], whole.
    NotNow,
}

/// Where a shard may run a request in its own ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingTarget {
    /// Stays open for as long as the request lives.
    pub fd: RawFd,
    /// Bytes, added to the request's offset.
    pub offset: u64,
    /// Opened with `O_DIRECT`: after a short transfer only a multiple of the
    /// alignment may be taken as done.
    pub direct: bool,
}

/// Why storage could not be opened, with the words for whoever asked.
#[derive(Debug)]
pub struct OpenError {
    pub errno: Errno,
    pub message: String,
}

impl OpenError {
    pub(crate) fn new(errno: Errno, message: impl Into<String>) -> Self {
        OpenError { errno, message: message.into() }
    }

    /// `doing` says what failed, such as "open /srv/a.img".
    pub(crate) fn from_io(doing: &str, error: &io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(libc::EIO), format!("{doing}: {error}"))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}

/// One kind of storage, opened for one volume and shared by all shards and front ends.
pub trait Backstore: Send + Sync {
    /// Bytes that can be reached now.
    fn size(&self) -> u64;

    /// Requests whose offset or length is no multiple of this (a power of two,
    /// bytes) are read-modify-write: the volume serialises them. 1: never needed.
    fn alignment(&self) -> u32;

    /// Do the request at once if that takes no waiting. Leaves the request whole on `NotNow`.
    fn try_now(&self, req: &mut Request) -> Attempt;

    /// `Some`: a READ of this range may be answered straight from the page cache, all of which
    /// is there. `None` where that does not pay, or cannot be.
    fn map_read(&self, _offset: u64, _len: usize) -> Option<MappedBytes> {
        None
    }

    /// `Some`: the shard may run this READ or WRITE in its ring, looping short
    /// transfers (0 bytes before the end: `EIO`), and must then call
    /// [`note_ring_result`](Self::note_ring_result) exactly once.
    fn ring_target(&self, req: &Request) -> Option<RingTarget>;

    /// Carry the request out. `done` is posted exactly once, from any thread,
    /// maybe before this returns. Never blocks.
    fn submit(&self, req: Request, done: Completion);

    /// Account for a request that ran in a shard's ring.
    fn note_ring_result(&self, req: &Request, result: &Result<(), Errno>);

    /// The state of the storage as far as requests have shown it.
    fn health(&self) -> Health;

    /// Requests that wait for, or run in, the backstore's own threads.
    fn queue_depth(&self) -> usize;

    /// Clients are shown this many bytes from now on: storage that is no shorter is sound.
    fn expect_size(&self, size: u64);

    /// Look at the size again (the file may have grown). May block.
    fn refresh_size(&self) -> io::Result<u64>;

    /// Look whether the storage is still there and long enough; marks it degraded if not. May block.
    fn check(&self);

    /// Make everything stable and let go of the storage (its locks too). The volume
    /// has drained before. Requests that come after are answered `ESHUTDOWN`. May block,
    /// for ever where the storage hangs; called once, on a thread of its own.
    fn close(&self) -> io::Result<()>;
}
