//! What lies under a file: which file system, and what can be asked of it without waiting.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::sys::{self, Stat};
use crate::shard::buffers::IoBuf;

/// How a read may be tried inline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InlineRead {
    /// `RWF_NOWAIT`: what is not in the page cache is refused, not waited for.
    Cached,
    /// A plain read: all the data is memory.
    Plain,
    /// Not at all: even looking at the file may ask a server.
    Never,
}

/// What the file system is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Name for messages.
    pub name: &'static str,
    pub inline_read: InlineRead,
    /// A write into the page cache is quick as a rule (see `quick.rs` for the exceptions).
    pub inline_write: bool,
    /// The ring's asynchronous I/O is truly asynchronous here.
    pub ring: bool,
    /// What is in the page cache can be sent from a mapping of the file (`mapped.rs`).
    pub maps: bool,
    /// `RWF_DSYNC` is honoured by the kernel itself, not left to somebody's goodwill.
    pub dsync: bool,
}

const LOCAL: Traits =
    Traits { name: "local", inline_read: InlineRead::Cached, inline_write: true, ring: true, maps: true, dsync: true };
const MEMORY: Traits =
    Traits { name: "tmpfs", inline_read: InlineRead::Plain, inline_write: true, ring: false, maps: true, dsync: true };
/// A server, maybe a hung one, stands behind every call.
const REMOTE: Traits = Traits {
    name: "remote",
    inline_read: InlineRead::Never,
    inline_write: false,
    ring: false,
    maps: false,
    dsync: false,
};
/// Nothing is known: reads say themselves whether they would wait, the rest goes to the workers.
const UNKNOWN: Traits = Traits {
    name: "other",
    inline_read: InlineRead::Cached,
    inline_write: false,
    ring: false,
    maps: false,
    dsync: false,
};

/// For tests alone: with "1" every file is treated as one on a local file system, so that a file
/// system which can lose its power (made in FUSE) meets the code that disks meet.
const ASSUME_LOCAL: &str = "BLOCKGATE_TEST_ASSUME_LOCAL_FS";

/// Magic numbers of linux/magic.h and the file systems' own headers.
fn traits_of_magic(magic: u64) -> Traits {
    match magic {
        0xEF53 => Traits { name: "ext4", ..LOCAL },
        0x5846_5342 => Traits { name: "xfs", ..LOCAL },
        0x9123_683E => Traits { name: "btrfs", ..LOCAL },
        0x0102_1994 => MEMORY,
        0x6573_5546 => Traits { name: "fuse", ..REMOTE },
        0x6969 => Traits { name: "nfs", ..REMOTE },
        0xFF53_4D42 | 0xFE53_4D42 => Traits { name: "cifs", ..REMOTE },
        0x00C3_6400 => Traits { name: "ceph", ..REMOTE },
        0x0102_1997 => Traits { name: "9p", ..REMOTE },
        _ => UNKNOWN,
    }
}

/// The traits of an open file or device.
pub fn traits(fd: &OwnedFd, stat: Stat) -> io::Result<Traits> {
    if stat.is_device {
        return Ok(Traits { name: "device", ..LOCAL });
    }
    let found = sys::fs_magic(fd).map(traits_of_magic)?;
    Ok(if std::env::var_os(ASSUME_LOCAL).is_some_and(|value| value == "1") {
        Traits { name: found.name, ..LOCAL }
    } else {
        found
    })
}

/// The alignment, in bytes, of offsets and lengths that `O_DIRECT` on `fd` (opened with it) asks for.
pub fn direct_alignment(fd: &OwnedFd, stat: Stat) -> io::Result<u32> {
    let told = if stat.is_device { Some(sys::device_block(fd)?) } else { sys::direct_alignment(fd) };
    match told {
        Some(bytes) if bytes.is_power_of_two() => Ok(bytes.max(512)),
        _ => try_alignment(fd, stat.size),
    }
}

/// Older kernels do not tell: see what they take. An empty file answers any read with 0
/// bytes, so that it proves nothing; a page is right everywhere.
fn try_alignment(fd: &OwnedFd, size: u64) -> io::Result<u32> {
    const PAGE: u32 = 4096;
    if size == 0 {
        return Ok(PAGE);
    }
    let mut buf = IoBuf::zeroed(PAGE as usize);
    let fd = fd.as_raw_fd();
    match sys::read_once(fd, &mut buf[..512], 0) {
        Ok(_) => Ok(512),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => sys::read_once(fd, &mut buf, 0).map(|_| PAGE),
        Err(error) => Err(error),
    }
}
