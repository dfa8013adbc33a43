//! TRIM and WRITE_ZEROES without writing, as far as the storage can.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::fault::Fault;
use super::{sys, File};
use crate::block::command::Flags;
use crate::shard::buffers::IoBuf;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
const ALLOCATE: i32 = libc::FALLOC_FL_KEEP_SIZE;

/// Zeroes that are written at a time, bytes.
const ZEROES: usize = 256 << 10;

/// What this storage has shown not to do, so that it is not asked again.
#[derive(Debug, Default)]
pub struct Lacks {
    punch: AtomicBool,
    zero_range: AtomicBool,
    discard: AtomicBool,
    allocate: AtomicBool,
}

#[cfg(test)]
impl Lacks {
    /// Storage with holes and nothing else.
    pub fn lack_all_but_punch(&self) {
        self.zero_range.store(true, Ordering::Relaxed);
        self.allocate.store(true, Ordering::Relaxed);
    }
}

impl File {
    /// Let go of `start..end` (bytes of the file): a hint, so what the storage cannot do is not done.
    pub fn discard(&self, start: u64, end: u64, stable: bool) -> Result<(), Fault> {
        // Whole blocks only where the page cache is passed by: zeroing a part of one behind the back of a
        // neighbour's direct write would lose bytes. NBD lets a server round a TRIM inwards.
        let (first, last) = self.whole_blocks(start, end);
        if first >= last {
            return Ok(());
        }
        self.maybe_stable(stable, |fd| {
            let done = match self.is_device {
                true => known(&self.lacks.discard, || sys::device_discard(fd, first, last - first))?,
                false => self.punch(fd, first, last)?,
            };
            let _a_hint_is_no_promise: bool = done;
            Ok(())
        })
    }

    /// Let `start..end` (bytes of the file) read as zeroes.
    ///
    /// `no_hole`: the space stays, or becomes, allocated. `fast_zero`: `EOPNOTSUPP`, with nothing
    /// altered, unless the storage does it without writing (NBD, NBD_CMD_WRITE_ZEROES).
    pub fn write_zeroes(&self, start: u64, end: u64, flags: Flags, stable: bool) -> Result<(), Fault> {
        self.maybe_stable(stable, |fd| {
            let done = match self.is_device {
                true => self.zero_device(fd, start, end, flags)?,
                false => self.zero_file(fd, start, end, flags)?,
            };
            match (done, flags.fast_zero) {
                (true, _) => Ok(()),
                (false, true) => Err(Fault::Os(libc::EOPNOTSUPP)),
                (false, false) => self.write_zero_bytes(start, end),
            }
        })
    }

    /// Did the file system do it?
    fn zero_file(&self, fd: RawFd, start: u64, end: u64, flags: Flags) -> io::Result<bool> {
        if !flags.no_hole && self.punch(fd, start, end)? {
            return Ok(true);
        }
        if known(&self.lacks.zero_range, || sys::fallocate(fd, ZERO, start, end - start))? {
            return Ok(true);
        }
        // tmpfs has no ZERO_RANGE; a hole that is filled again comes to the same. Whether it can be filled
        // is found out first: that alters nothing.
        if !flags.no_hole || !self.allocate(fd, start, end)? || !self.punch(fd, start, end)? {
            return Ok(false);
        }
        self.allocate(fd, start, end)
    }

    fn allocate(&self, fd: RawFd, start: u64, end: u64) -> io::Result<bool> {
        known(&self.lacks.allocate, || sys::fallocate(fd, ALLOCATE, start, end - start))
    }

    /// Did the device do it? Whole blocks by itself, the bytes at the edges by small writes after
    /// that, so that nothing is altered when it does not.
    fn zero_device(&self, fd: RawFd, start: u64, end: u64, flags: Flags) -> Result<bool, Fault> {
        let block = u64::from(self.device_block);
        let (first, last) = (start.next_multiple_of(block), end - end % block);
        if first >= last {
            // Less than a block: no slower than the write that it stands for.
            return self.write_zero_bytes(start, end).map(|()| true);
        }
        // On a device PUNCH_HOLE unmaps or fails, while ZERO_RANGE may write zeroes, in the kernel: good
        // enough, but not fast for sure.
        let unmapped = !flags.no_hole && self.punch(fd, first, last)?;
        let zeroed = unmapped
            || !flags.fast_zero && known(&self.lacks.zero_range, || sys::fallocate(fd, ZERO, first, last - first))?;
        if zeroed {
            self.write_zero_bytes(start, first)?;
            self.write_zero_bytes(last, end)?;
        }
        Ok(zeroed)
    }

    fn punch(&self, fd: RawFd, start: u64, end: u64) -> io::Result<bool> {
        known(&self.lacks.punch, || sys::fallocate(fd, PUNCH, start, end - start))
    }

    /// Zeroes as ordinary writes; not stable by themselves.
    fn write_zero_bytes(&self, start: u64, end: u64) -> Result<(), Fault> {
        if start >= end {
            return Ok(());
        }
        // Pieces that end on whole blocks, so that in direct mode only the edges take the detour.
        let zeroes = IoBuf::zeroed(ZEROES.min(self.ceil(end - start) as usize));
        let mut at = start;
        while at < end {
            let next = (self.floor(at) + ZEROES as u64).min(end).min(at + zeroes.len() as u64);
            self.write(&zeroes[..(next - at) as usize], at, false)?;
            at = next;
        }
        Ok(())
    }

    /// Run `change`; `stable`: and sync before it counts as done. The change itself is always the locked
    /// descriptor's: through any other the kernel takes a device for somebody else's, and
    /// refuses (`EBUSY`) to drop its dirty pages.
    pub fn maybe_stable(&self, stable: bool, change: impl FnOnce(RawFd) -> Result<(), Fault>) -> Result<(), Fault> {
        let fd = self.fd.as_raw_fd();
        if !stable {
            return change(fd);
        }
        self.syncs.with(&self.fd, |sync_fd| {
            change(fd)?;
            self.sync(sync_fd, "write")
        })?
    }

    fn whole_blocks(&self, start: u64, end: u64) -> (u64, u64) {
        match self.is_device {
            true => (start.next_multiple_of(self.device_block.into()), end - end % u64::from(self.device_block)),
            false => (self.ceil(start), self.floor(end)),
        }
    }
}

/// Make the call unless it is known not to be supported; `false`: it is not.
fn known(lacks: &AtomicBool, call: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    if lacks.load(Ordering::Relaxed) {
        return Ok(false);
    }
    match call() {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY) => {
                lacks.store(true, Ordering::Relaxed);
                Ok(false)
            }
            _ => Err(error),
        },
    }
}
