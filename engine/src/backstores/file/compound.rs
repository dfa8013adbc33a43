//! What is more than one transfer: comparing, ORing, writing the same again and again, unmapping many
//! ranges. Blocking; the volume's range table keeps others off where that matters.

use super::fault::Fault;
use super::{sys, File};
use crate::block::command::{Flags, Op, Request};
use crate::shard::buffers::IoBuf;

/// Bytes that are read, or made, at a time.
const CHUNK: u64 = 256 << 10;

impl File {
    /// Write the second half of the request's data where the first half is found.
    pub fn compare_and_write(&self, req: &mut Request, start: u64, stable: bool) -> Result<(), Fault> {
        let data = data_of(req, |data, len| data == 2 * len)?;
        let (expected, new) = data.split_at(data.len() / 2);
        let mut found = IoBuf::zeroed(expected.len());
        self.read(&mut found, start)?;
        if let Some(at) = first_difference(&found, expected) {
            req.failed_at = Some(at as u64);
            return Err(Fault::Refused(libc::EILSEQ));
        }
        self.write(new, start, stable)
    }

    /// Write what is there ORed with the request's data.
    pub fn or_write(&self, req: &mut Request, start: u64, stable: bool) -> Result<(), Fault> {
        let data = data_of(req, |data, len| data == len)?;
        let mut both = IoBuf::zeroed(data.len());
        self.read(&mut both, start)?;
        both.iter_mut().zip(data).for_each(|(byte, with)| *byte |= with);
        self.write(&both, start, stable)
    }

    /// Read the range; compare it with the request's data, again and again where that is shorter, if there is any.
    pub fn verify(&self, req: &mut Request, start: u64) -> Result<(), Fault> {
        let expected = match req.buf.is_some() {
            true => Some(data_of(req, |data, len| data > 0 && len % data == 0)?),
            false => None,
        };
        let period = expected.map_or(CHUNK, |data| data.len() as u64);
        // Whole periods, so that each chunk begins where the data begins; longer data is a chunk by itself.
        let chunk = (CHUNK / period).max(1) * period;
        let mut found = IoBuf::zeroed(chunk.min(req.len) as usize);
        let mut done = 0;
        while done < req.len {
            let len = chunk.min(req.len - done);
            found.set_len(len as usize);
            self.read(&mut found, start + done)?;
            let differs = |data: &[u8]| {
                let periods = found.chunks(data.len()).enumerate();
                periods.filter_map(|(n, part)| Some(n * data.len() + first_difference(part, data)?)).next()
            };
            if let Some(at) = expected.and_then(differs) {
                req.failed_at = Some(done + at as u64);
                return Err(Fault::Refused(libc::EILSEQ));
            }
            done += len;
        }
        Ok(())
    }

    /// Write the request's data, make it stable, read it back from as near the medium as can be, compare.
    pub fn write_verify(&self, req: &mut Request, start: u64) -> Result<(), Fault> {
        let data = data_of(req, |data, len| data == len)?;
        self.write(data, start, true)?;
        if !self.is_direct() {
            // What is in the page cache would only prove that memory works.
            sys::drop_cached(&self.fd, start, req.len);
        }
        let mut found = IoBuf::zeroed(data.len());
        self.read(&mut found, start)?;
        if let Some(at) = first_difference(&found, data) {
            req.failed_at = Some(at as u64);
            return Err(Fault::Differs);
        }
        Ok(())
    }

    /// Write the request's data, one block, over the whole range. Zeroes are not written where the storage
    /// knows something better.
    pub fn write_same(&self, req: &Request, start: u64, end: u64, stable: bool) -> Result<(), Fault> {
        let block = data_of(req, |data, len| data > 0 && len % data == 0)?;
        if block.iter().all(|byte| *byte == 0) {
            let flags = Flags { no_hole: req.flags.no_hole, ..Flags::default() };
            return self.write_zeroes(start, end, flags, stable);
        }
        let period = block.len() as u64;
        let chunk = ((CHUNK / period).max(1) * period).min(end - start);
        let mut same = IoBuf::zeroed(chunk as usize);
        same.chunks_mut(block.len()).for_each(|part| part.copy_from_slice(block));
        let mut at = start;
        while at < end {
            let len = chunk.min(end - at) as usize;
            self.write(&same[..len], at, stable)?;
            at += len as u64;
        }
        Ok(())
    }

    /// Let each of the request's spans read as zeroes, without space of its own where that can be had.
    pub fn unmap(&self, req: &Request, stable: bool) -> Result<(), Fault> {
        for span in req.spans.iter().flatten() {
            debug_assert!(span.offset >= req.offset && span.offset + span.len <= req.end());
            let start = self.base + span.offset;
            self.write_zeroes(start, start + span.len, Flags::default(), false)?;
        }
        match stable {
            true => self.maybe_stable(true, |_| Ok(())),
            false => Ok(()),
        }
    }

    /// Before an exclusive request runs: until nobody reads or writes inline, and nothing that was read is yet to
    /// be copied out of the page cache. Blocks.
    pub fn wait_until_alone(&self, req: &Request) {
        if let Some(permit) = &req.permit {
            permit.wait_for_inline();
        }
        if matches!(req.op, Op::CompareAndWrite | Op::OrWrite) {
            self.mapped.retire();
        }
    }
}

/// The request's data, if its length fits the range's (`fits`); a front end that got it wrong is told so.
fn data_of(req: &Request, fits: impl Fn(u64, u64) -> bool) -> Result<&[u8], Fault> {
    let data = req.buf.as_deref().filter(|data| fits(data.len() as u64, req.len));
    debug_assert!(data.is_some(), "{:?} with the wrong amount of data", req.op);
    data.ok_or(Fault::Os(libc::EINVAL))
}

/// Where `a` and the beginning of `b` first differ.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    // The comparison of slices is a memcmp; only what differs is looked at byte by byte.
    let b = &b[..a.len()];
    match a == b {
        true => None,
        false => a.iter().zip(b).position(|(a, b)| a != b),
    }
}
