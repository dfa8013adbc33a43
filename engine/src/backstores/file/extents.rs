//! Where a file holds data and where holes: NBD's `base:allocation`, straight from
//! `SEEK_DATA` and `SEEK_HOLE`.

use std::io;
use std::os::fd::RawFd;

use super::sys;
use crate::block::command::{Extent, EXTENT_HOLE, EXTENT_ZERO, MAX_EXTENTS};

/// Describe `start..end` (bytes of the file, not empty) in `extents`, which is cleared first: at most
/// `limit` pieces that follow one another from `start`, never beyond `end`. A hole reads as zeroes;
/// so does space that was allocated but never written, which the file system shows as a hole too.
/// Neither is promised to stay: others write at the same time.
pub fn describe(fd: RawFd, start: u64, end: u64, limit: usize, extents: &mut Vec<Extent>) -> io::Result<()> {
    extents.clear();
    let mut at = start;
    while at < end && extents.len() < limit.min(MAX_EXTENTS) {
        let data = match seek(fd, at, libc::SEEK_DATA)? {
            Seek::To(data) => data.clamp(at, end),
            Seek::None => end,
            Seek::Unknown => at,
        };
        if data > at {
            extents.push(Extent { length: data - at, flags: EXTENT_HOLE | EXTENT_ZERO });
            at = data;
            continue;
        }
        let hole = match seek(fd, at, libc::SEEK_HOLE)? {
            // It was punched between the two calls: what the first one said was true then.
            Seek::To(hole) if hole <= at => end,
            Seek::To(hole) => hole.min(end),
            Seek::None | Seek::Unknown => end,
        };
        extents.push(Extent { length: hole - at, flags: 0 });
        at = hole;
    }
    Ok(())
}

enum Seek {
    To(u64),
    /// Nothing of the kind up to the end of the file (`ENXIO`).
    None,
    /// The file system, or the device, does not say (`EINVAL`): all may be data.
    Unknown,
}

fn seek(fd: RawFd, at: u64, whence: i32) -> io::Result<Seek> {
    match sys::seek(fd, at, whence) {
        Ok(found) => Ok(Seek::To(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENXIO) => Ok(Seek::None),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(Seek::Unknown),
            _ => Err(error),
        },
    }
}
