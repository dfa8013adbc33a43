//! What is done at once on the shard's thread, and what the shard may do in its ring.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::probe::InlineRead;
use super::{buf_of, is_of_the_medium, sys, File};
use crate::backstores::{Attempt, RingTarget};
use crate::block::command::{Op, Request};

/// The page cache's unit, bytes (a larger folio is asked for in the same way).
const PAGE: u64 = 4096;

impl File {
    /// See [`Backstore::try_now`](crate::backstores::Backstore::try_now).
    pub fn try_now(&self, req: &mut Request) -> Attempt {
        if self.is_direct() || req.len == 0 {
            return Attempt::NotNow;
        }
        match req.op {
            Op::Read if !is_of_the_medium(req) => self.read_now(req),
            Op::Write if !self.is_stable(req) => self.write_now(req),
            _ => Attempt::NotNow,
        }
    }

    fn read_now(&self, req: &mut Request) -> Attempt {
        match self.traits.inline_read {
            InlineRead::Never => Attempt::NotNow,
            InlineRead::Plain => Attempt::Done(self.execute(req)),
            InlineRead::Cached if self.no_nowait.load(Ordering::Relaxed) => Attempt::NotNow,
            InlineRead::Cached => self.read_cached(req),
        }
    }

    /// All of it or nothing: whoever comes after reads the whole again, and finds what is wrong.
    fn read_cached(&self, req: &mut Request) -> Attempt {
        if self.check_allowed(req).is_err() {
            return Attempt::NotNow;
        }
        let start = self.base + req.offset;
        let Ok(buf) = buf_of(req) else { return Attempt::NotNow };
        match sys::read_cached(self.fd.as_raw_fd(), buf, start) {
            Ok(got) if got == buf.len() => Attempt::Done(Ok(())),
            Ok(_) => Attempt::NotNow,
            Err(error) => {
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.no_nowait.store(true, Ordering::Relaxed);
                }
                Attempt::NotNow
            }
        }
    }

    fn write_now(&self, req: &mut Request) -> Attempt {
        if !self.traits.inline_write {
            return Attempt::NotNow;
        }
        if self.may_read_first(self.base + req.offset, req.len) {
            return Attempt::NotNow;
        }
        match self.quick.run(|| self.execute(req)) {
            Some(result) => Attempt::Done(result),
            None => Attempt::NotNow,
        }
    }

    /// A part of a page can only be written when the rest of it is in the page cache: would the kernel
    /// have to read it from the disk? Whole pages, the common case, cost no question.
    pub fn may_read_first(&self, start: u64, len: u64) -> bool {
        let end = start + len;
        let (head, tail) = (start % PAGE != 0, end % PAGE != 0);
        if !(head || tail) || self.traits.inline_read == InlineRead::Plain {
            return false;
        }
        if self.no_nowait.load(Ordering::Relaxed) {
            return true;
        }
        // The first and the last byte to be written stand for the rest of their pages.
        let is_cached = |at: u64| {
            let mut byte = [0];
            let got = sys::read_cached(self.fd.as_raw_fd(), &mut byte, at);
            if got.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP)) {
                self.no_nowait.store(true, Ordering::Relaxed);
            }
            got.is_ok_and(|got| got == 1)
        };
        let is_one_page = start / PAGE == (end - 1) / PAGE;
        (head || is_one_page) && !is_cached(start) || tail && !is_one_page && !is_cached(end - 1)
    }

    /// See [`Backstore::ring_target`](crate::backstores::Backstore::ring_target). Buffered writes are not the
    /// ring's: the kernel hands them to threads of its own, at half the rate of a plain pwrite.
    pub fn ring_target(&self, req: &Request) -> Option<RingTarget> {
        let fits = match req.op {
            Op::Read => !is_of_the_medium(req) && (!self.is_direct() || self.is_whole_blocks(req)),
            Op::Write => {
                self.is_direct()
                    && !self.is_stable(req)
                    && self.is_whole_blocks(req)
                    && !self.reaches_the_end(self.base + req.end())
            }
            _ => false,
        };
        if !fits || !self.traits.ring || req.len == 0 || self.check_allowed(req).is_err() {
            return None;
        }
        Some(RingTarget { fd: self.fd.as_raw_fd(), offset: self.base, direct: self.is_direct() })
    }

    /// Can O_DIRECT take the request as it is? (Buffers are page-aligned, the base was checked.)
    fn is_whole_blocks(&self, req: &Request) -> bool {
        let block = u64::from(self.alignment);
        (req.offset | req.len) % block == 0 && req.end() <= self.floor(self.base + self.size()) - self.base
    }
}
