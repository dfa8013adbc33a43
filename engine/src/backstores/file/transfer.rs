//! Reading and writing, blocking. In direct mode whatever is no whole number of blocks takes a
//! detour; the volume's range table keeps others off the blocks meanwhile, and pieces of one claim follow
//! one another where they share one.
//!
//! ```text
//!          a (request)                    b
//!   |---####|########|########|##------|--      blocks of `alignment` bytes
//!   ^floor(a)                 ^        ^ceil(b)
//!   |<-------- body: O_DIRECT -------->|<- tail: the volume's last, incomplete block
//! ```
//!
//! A volume may end in the middle of a block, and behind it may be the end of the file (which a
//! whole block would move) or somebody else's bytes (a pool's label). That tail goes through the page
//! cache, byte for byte, which the kernel keeps in step with direct I/O beside it.

use std::os::fd::{AsRawFd, RawFd};

use super::fault::Fault;
use super::{sys, File};
use crate::shard::buffers::IoBuf;

/// The longest detour buffer, bytes.
const BOUNCE: u64 = 1 << 20;

impl File {
    /// Fill `buf` from `offset` (bytes of the file).
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        let Some(tail_fd) = &self.tail else {
            return self.read_exact(self.fd.as_raw_fd(), buf, offset);
        };
        let (body, tail) = buf.split_at_mut(self.body_len(offset, buf.len()));
        if self.is_aligned(body.as_ptr(), offset, body.len()) {
            self.read_exact(self.fd.as_raw_fd(), body, offset)?;
        } else {
            self.read_by_detour(body, offset)?;
        }
        self.read_exact(tail_fd.as_raw_fd(), tail, offset + body.len() as u64)
    }

    fn read_by_detour(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let start = offset + done as u64;
            let first = self.floor(start);
            let last = self.ceil(offset + buf.len() as u64).min(first + BOUNCE);
            let mut bounce = IoBuf::zeroed((last - first) as usize);
            let got = fill(self.fd.as_raw_fd(), &mut bounce, first)?;
            let skip = (start - first) as usize;
            let want = (buf.len() - done).min(bounce.len() - skip);
            if got < skip + want {
                return Err(self.shrunk(first + got as u64));
            }
            buf[done..done + want].copy_from_slice(&bounce[skip..skip + want]);
            done += want;
        }
        Ok(())
    }

    fn read_exact(&self, fd: RawFd, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        match fill(fd, buf, offset)? {
            got if got == buf.len() => Ok(()),
            got => Err(self.shrunk(offset + got as u64)),
        }
    }

    /// Write `buf` at `offset` (bytes of the file); `stable`: it is on the medium when this returns.
    pub fn write(&self, buf: &[u8], offset: u64, stable: bool) -> Result<(), Fault> {
        self.check_before_the_end(offset + buf.len() as u64)?;
        let Some(tail_fd) = &self.tail else {
            return self.write_plain(buf, offset, stable);
        };
        let (body, tail) = buf.split_at(self.body_len(offset, buf.len()));
        if self.is_aligned(body.as_ptr(), offset, body.len()) {
            self.write_plain(body, offset, stable)?;
        } else {
            self.write_by_detour(body, offset, stable)?;
        }
        if tail.is_empty() {
            return Ok(());
        }
        // Nobody else syncs this descriptor meanwhile: who writes a part of a block has it alone.
        self.write_to(tail_fd.as_raw_fd(), tail, offset + body.len() as u64, stable)
    }

    fn write_by_detour(&self, buf: &[u8], offset: u64, stable: bool) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let start = offset + done as u64;
            let first = self.floor(start);
            let end = (offset + buf.len() as u64).min(first + BOUNCE);
            let last = self.ceil(end);
            let mut bounce = IoBuf::zeroed((last - first) as usize);
            self.read_edges(&mut bounce, first, start, end)?;
            let want = (end - start) as usize;
            let skip = (start - first) as usize;
            bounce[skip..skip + want].copy_from_slice(&buf[done..done + want]);
            self.write_plain(&bounce, first, stable)?;
            done += want;
        }
        Ok(())
    }

    /// Read those blocks of `bounce` (from `first` on) that `start..end` covers in part only.
    fn read_edges(&self, bounce: &mut [u8], first: u64, start: u64, end: u64) -> Result<(), Fault> {
        let block = self.alignment as usize;
        let last_block = bounce.len() - block;
        let fd = self.fd.as_raw_fd();
        if start != first {
            self.read_exact(fd, &mut bounce[..block], first)?;
        }
        let is_read = start != first && last_block == 0;
        if end != self.ceil(end) && !is_read {
            self.read_exact(fd, &mut bounce[last_block..], first + last_block as u64)?;
        }
        Ok(())
    }

    fn write_plain(&self, buf: &[u8], offset: u64, stable: bool) -> Result<(), Fault> {
        match (buf.is_empty(), stable) {
            (true, _) => Ok(()),
            (false, false) => self.write_to(self.fd.as_raw_fd(), buf, offset, false),
            (false, true) => self.syncs.with(&self.fd, |fd| self.write_to(fd, buf, offset, true))?,
        }
    }

    fn write_to(&self, fd: RawFd, buf: &[u8], offset: u64, stable: bool) -> Result<(), Fault> {
        if !stable {
            return Ok(sys::write(fd, buf, offset, 0)?);
        }
        if self.traits.dsync {
            let write = || sys::write(fd, buf, offset, libc::RWF_DSYNC).map_err(|e| Fault::of_stable_write(&e));
            return self.sync_by("write", write);
        }
        sys::write(fd, buf, offset, 0)?;
        self.sync(fd, "write")
    }

    /// How much of a request lies before the volume's last, incomplete block.
    fn body_len(&self, offset: u64, len: usize) -> usize {
        let tail = self.floor(self.base + self.size());
        tail.saturating_sub(offset).min(len as u64) as usize
    }

    fn is_aligned(&self, start: *const u8, offset: u64, len: usize) -> bool {
        (start as u64 | offset | len as u64) % u64::from(self.alignment) == 0
    }

    /// Down to a whole block.
    pub fn floor(&self, offset: u64) -> u64 {
        offset & !(u64::from(self.alignment) - 1)
    }

    /// Up to a whole block.
    pub fn ceil(&self, offset: u64) -> u64 {
        self.floor(offset + u64::from(self.alignment) - 1)
    }
}

/// Fill `buf` from `offset`, as far as the file goes; an error says how far that went.
fn fill(fd: RawFd, buf: &mut [u8], offset: u64) -> Result<usize, Fault> {
    let (got, ended) = sys::read_until(fd, buf, offset);
    ended.map(|()| got).map_err(|error| Fault::of_read(&error, offset + got as u64))
}
