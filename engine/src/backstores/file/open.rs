//! Opening a volume's file or device: once, locked, and never anything else than what was asked for.

use std::io;
use std::os::fd::OwnedFd;

use super::probe::{self, Traits};
use super::sys::{self, Stat};
use crate::backstores::OpenError;
use crate::block::volume::VolumeSpec;

/// An open file with what was found out about it.
#[derive(Debug)]
pub struct Opened {
    /// The locked descriptor. It alone does FLUSH (see `syncs.rs`).
    pub fd: OwnedFd,
    /// Direct mode: a buffered descriptor of the same file, for the part of a block at its end.
    pub tail: Option<OwnedFd>,
    pub traits: Traits,
    pub is_device: bool,
    /// Bytes; 1 unless direct.
    pub alignment: u32,
    /// Bytes of the volume.
    pub size: u64,
}

/// Open what `spec` names. Symbolic links are followed: administrators adopt files through
/// `/dev/disk/by-id` and the like, and who may write to the path's directory can replace the
/// file itself as well. What was found is pinned first (`O_PATH`) and looked at, so that a FIFO or
/// a tape is refused without being opened, and the path can no longer be exchanged in between.
pub fn open(spec: &VolumeSpec) -> Result<Opened, OpenError> {
    let path = spec.path.display().to_string();
    let doing = |what: &str| format!("{what} {path}");
    let pinned = sys::open(&spec.path, libc::O_PATH).map_err(|e| OpenError::from_io(&doing("open"), &e))?;
    let stat = sys::stat(&pinned).map_err(|e| OpenError::from_io(&doing("stat"), &e))?;
    check_kind(spec, stat, &path)?;
    let fd = open_locked(spec, &pinned, stat).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => OpenError::new(libc::EBUSY, format!("{path} is in use: another process has it locked")),
        Some(libc::EINVAL) if spec.direct => OpenError::new(
            libc::EINVAL,
            format!("{path}: its file system does not take O_DIRECT; use buffered I/O for this volume"),
        ),
        _ => OpenError::from_io(&doing("open"), &e),
    })?;
    let traits = probe::traits(&fd, stat).map_err(|e| OpenError::from_io(&doing("statfs"), &e))?;
    let size = size_of(&fd, stat.is_device).map_err(|e| OpenError::from_io(&doing("size of"), &e))?;
    if spec.offset > size || spec.length.is_some_and(|length| length > size - spec.offset) {
        return Err(OpenError::new(
            libc::EINVAL,
            format!("{path} has {size} bytes, fewer than offset {} and length {:?} need", spec.offset, spec.length),
        ));
    }
    let alignment = match spec.direct {
        true => probe::direct_alignment(&fd, stat).map_err(|e| OpenError::from_io(&doing("O_DIRECT read of"), &e))?,
        false => 1,
    };
    if spec.offset % u64::from(alignment) != 0 {
        return Err(OpenError::new(
            libc::EINVAL,
            format!("{path}: offset {} is no multiple of the {alignment} bytes that O_DIRECT needs", spec.offset),
        ));
    }
    let tail = match spec.direct {
        true => Some(sys::reopen(&fd, access(spec)).map_err(|e| OpenError::from_io(&doing("reopen"), &e))?),
        false => None,
    };
    let size = spec.length.unwrap_or(size - spec.offset);
    // What a sync before this opening could not bring to the medium may be in the page cache still, and clean there:
    // no further sync would write it. What is read from now on is what there is. (Dirty pages stay.)
    sys::drop_cached(&fd, spec.offset, size);
    Ok(Opened { fd, tail, traits, is_device: stat.is_device, alignment, size })
}

fn check_kind(spec: &VolumeSpec, stat: Stat, path: &str) -> Result<(), OpenError> {
    let (wanted, found) = match spec.device {
        true => ("a block device", stat.is_device),
        false => ("a regular file", stat.is_file),
    };
    match found {
        true => Ok(()),
        false => Err(OpenError::new(
            if spec.device { libc::ENOTBLK } else { libc::EINVAL },
            format!("{path} is not {wanted}"),
        )),
    }
}

/// Flags of open(2) for the volume's kind of access, without `O_DIRECT`.
pub fn access(spec: &VolumeSpec) -> i32 {
    if spec.read_only {
        libc::O_RDONLY
    } else {
        libc::O_RDWR
    }
}

/// The flags of the volume's descriptors, `O_EXCL` apart.
pub fn flags(spec: &VolumeSpec) -> i32 {
    access(spec) | if spec.direct { libc::O_DIRECT } else { 0 }
}

fn open_locked(spec: &VolumeSpec, pinned: &OwnedFd, stat: Stat) -> io::Result<OwnedFd> {
    // On a block device O_EXCL keeps out mounts, RAID and other O_EXCL openers; flock those
    // that only ask for the lock of this node.
    let exclusive = if stat.is_device { libc::O_EXCL } else { 0 };
    let fd = sys::reopen(pinned, flags(spec) | exclusive)?;
    sys::lock(&fd)?;
    Ok(fd)
}

/// Bytes of the whole file or device, now that it is locked.
fn size_of(fd: &OwnedFd, is_device: bool) -> io::Result<u64> {
    match is_device {
        true => sys::device_size(fd),
        false => sys::stat(fd).map(|stat| stat.size),
    }
}
