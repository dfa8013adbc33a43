//! Large READs of what is in the page cache, without a copy of our own: the file is mapped, and the
//! socket's send copies straight from the page cache.
//!
//! The bytes are the file's at the moment of the send; whoever says that all READs are over has them copied first
//! ([`OutQueue::settle`](crate::shard::outqueue::OutQueue::settle)). A page that the kernel takes away between
//! the question and the send is read again by the send; one that is no longer in the file, because it
//! was cut short, makes the send fail with `EFAULT`, and the connection ends. Nothing here
//! dereferences a mapped address, so there is no SIGBUS.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{sys, File};
use crate::shard::buffers::PAGE;

/// Shorter READs gain nothing: asking costs more than the copy.
pub const MAPPED_MIN: usize = 64 << 10;
/// Most pages that one READ touches.
const PAGES_MAX: usize = (256 << 10) / PAGE + 1;
/// Files up to this length are mapped, bytes; longer ones would use up the address space.
const FILE_MAX: u64 = 1 << 42;
/// See [`Mapped::retire`].
const RETIRE: Duration = Duration::from_secs(2);
/// What is forgotten at a time, bytes.
const WINDOW: u64 = 64 << 20;
/// Windows whose pages stay in the page tables: they cost 8 bytes for each page, and count as resident.
const WINDOWS: usize = 16;

/// A file in our address space, to be read by the kernel alone.
pub struct Mapping {
    /// A description of its own: it must not hold the lock of the one that is closed.
    fd: OwnedFd,
    start: NonNull<u8>,
    len: usize,
    windows: Mutex<VecDeque<u64>>,
    /// Counts the mappings that there are.
    _alive: Arc<()>,
}

// SAFETY: the pages are only ever read, by system calls that take their address; `windows` has its lock.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, len: u64, alive: Arc<()>) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let fd = sys::reopen(fd, libc::O_RDONLY)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE, fd.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap gives no null page");
        Ok(Self { fd, start, len, windows: Mutex::default(), _alive: alive })
    }

    /// Are all pages of the range in the page cache?
    fn is_cached(&self, start: usize, len: usize) -> bool {
        let first = start / PAGE * PAGE;
        let mut states = [0u8; PAGES_MAX];
        let pages = (start + len - first).div_ceil(PAGE);
        if pages > PAGES_MAX {
            return false;
        }
        // SAFETY: the range lies in the mapping, and the kernel writes a byte for each of its pages.
        let told = unsafe { libc::mincore(self.start.as_ptr().add(first).cast(), pages * PAGE, states.as_mut_ptr()) };
        told == 0 && states[..pages].iter().all(|state| state & 1 == 1)
    }

    /// Keeps the page tables small: all but the windows that were used last are forgotten.
    fn note_use(&self, at: u64) {
        let window = at / WINDOW;
        // Somebody else is at it: then it is kept small by them.
        let Ok(mut windows) = self.windows.try_lock() else { return };
        if windows.contains(&window) {
            return;
        }
        windows.push_back(window);
        if windows.len() <= WINDOWS {
            return;
        }
        let oldest = (windows.pop_front().expect("there are many") * WINDOW) as usize;
        let len = (WINDOW as usize).min(self.len - oldest);
        // SAFETY: a part of our own mapping; its pages come back from the page cache when asked for.
        unsafe { libc::madvise(self.start.as_ptr().add(oldest).cast(), len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and unmapped once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A range of a mapped file that was in the page cache when it was asked for.
pub struct MappedBytes {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl MappedBytes {
    /// Bytes of a file that has so many or more (or had, when it was mapped).
    #[cfg(test)]
    pub fn of(file: &std::fs::File, range: Range<usize>) -> io::Result<Self> {
        let fd = file.try_clone()?.into();
        let mapping = Mapping::new(&fd, range.end as u64, Arc::default())?;
        Ok(Self { mapping: Arc::new(mapping), start: range.start, len: range.len() })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it.
    pub fn part(&self, range: Range<usize>) -> MappedBytes {
        debug_assert!(range.end <= self.len);
        MappedBytes { mapping: self.mapping.clone(), start: self.start + range.start, len: range.len() }
    }

    /// Reads what comes after the first `skip` bytes into a buffer of that length. May block; an error where the
    /// file does not have it any more.
    pub fn copy_to(&self, skip: usize, buf: &mut [u8]) -> io::Result<()> {
        debug_assert_eq!(skip + buf.len(), self.len);
        match sys::read(self.mapping.fd.as_raw_fd(), buf, (self.start + skip) as u64)? {
            whole if whole == buf.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Where a system call finds what comes after the first `skip` bytes. Not to be dereferenced.
    pub fn address(&self, skip: usize) -> *const u8 {
        debug_assert!(skip <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.mapping.start.as_ptr().add(self.start + skip) }
    }
}

/// A volume's mapping; made when it is first of use.
#[derive(Default)]
pub struct Mapped {
    state: Mutex<State>,
    alive: Arc<()>,
}

#[derive(Default)]
enum State {
    #[default]
    No,
    Yes(Arc<Mapping>),
    /// It was refused; not tried again.
    Never,
}

impl Mapped {
    fn get(&self, fd: &OwnedFd, len: u64) -> Option<Arc<Mapping>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Yes(mapping) if mapping.len as u64 >= len => return Some(mapping.clone()),
            State::Never => return None,
            _ => {}
        }
        *state = match len {
            0 => return None,
            1..=FILE_MAX => {
                Mapping::new(fd, len, self.alive.clone()).map_or(State::Never, |mapping| State::Yes(Arc::new(mapping)))
            }
            _ => State::Never,
        };
        match &*state {
            State::Yes(mapping) => Some(mapping.clone()),
            _ => None,
        }
    }

    /// Lets go of it, for good.
    pub fn clear(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Never;
    }

    /// Lets go of it, and waits until what was read out of it has been sent: those bytes are the file's at that
    /// moment, and whoever wants its writes to be seen whole cannot have that. Blocks for [`RETIRE`] at most: a
    /// peer that does not take its replies must not stop the others, and has given up that much.
    pub fn retire(&self) {
        self.clear();
        let deadline = Instant::now() + RETIRE;
        while Arc::strong_count(&self.alive) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl File {
    /// See [`Backstore::map_read`](crate::backstores::Backstore::map_read).
    pub fn map_read(&self, offset: u64, len: usize) -> Option<MappedBytes> {
        if self.is_direct() || !self.traits.maps || len < MAPPED_MIN {
            return None;
        }
        let (end, size) = (offset.checked_add(len as u64)?, self.size());
        if end > size {
            return None;
        }
        let mapping = self.mapped.get(&self.fd, self.base + size)?;
        let start = usize::try_from(self.base + offset).ok()?;
        if !mapping.is_cached(start, len) {
            return None;
        }
        mapping.note_use(start as u64);
        Some(MappedBytes { mapping, start, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    #[test]
    fn only_the_windows_used_last_stay_in_the_page_tables() {
        // SAFETY: a name that ends in NUL; the descriptor is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"windows".as_ptr(), libc::MFD_CLOEXEC)) };
        let len = 20 * WINDOW + 5;
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), len as i64) }, 0);
        let mapping = Mapping::new(&fd, len, Arc::default()).unwrap();
        for window in 0..=20 {
            mapping.note_use(window * WINDOW + 3);
            mapping.note_use(window * WINDOW + 4);
        }
        assert!(mapping.windows.lock().unwrap().iter().copied().eq(5..=20));
        // The first of all is used again, the last and incomplete one is forgotten in the end.
        (0..WINDOWS as u64).for_each(|window| mapping.note_use(window * WINDOW));
        assert!(!mapping.windows.lock().unwrap().contains(&20));
    }
}
