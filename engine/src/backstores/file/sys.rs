//! The system calls that the file backstore makes, each wrapped once: interrupted calls are
//! made again, short transfers go on, and an error after some progress is an error.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A call's result: -1 means `errno`.
trait Ret: Copy {
    fn failed(self) -> bool;
}

macro_rules! ret {
    ($($t:ty),*) => {$(impl Ret for $t { fn failed(self) -> bool { self == -1 } })*};
}
ret!(i32, i64, isize);

/// Make the call until it is not interrupted.
fn retry<R: Ret>(mut call: impl FnMut() -> R) -> io::Result<R> {
    loop {
        let ret = call();
        if !ret.failed() {
            return Ok(ret);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// A file offset as the kernel takes it. `EINVAL` beyond 2^63 - 1.
fn off(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| os(libc::EINVAL))
}

/// open(2), always with `O_CLOEXEC | O_NOCTTY`.
pub fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| os(libc::EINVAL))?;
    // SAFETY: a NUL-terminated path that outlives the call.
    let fd = retry(|| unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A second open file description of what `fd` refers to, whatever became of its name.
pub fn reopen(fd: &OwnedFd, flags: i32) -> io::Result<OwnedFd> {
    open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())), flags)
}

/// Let the number `fd` refer to nothing that can be read or written (`EBADF`), and so close what
/// it referred to, while its number stays taken.
pub fn hollow_out(fd: &OwnedFd) -> io::Result<()> {
    let nothing = open(Path::new("/"), libc::O_PATH)?;
    // SAFETY: both descriptors are open; the old file behind `fd` is closed in the same step.
    retry(|| unsafe { libc::dup3(nothing.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) }).map(drop)
}

/// Take the exclusive lock that the kernel lets go of with the descriptor. `EBUSY`: taken.
pub fn lock(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers.
    match retry(|| unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Err(os(libc::EBUSY)),
        other => other.map(drop),
    }
}

/// What fstat(2) says, as far as it is of interest.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub size: u64,
    /// It has no name any more.
    pub is_deleted: bool,
    pub is_file: bool,
    pub is_device: bool,
}

/// fstat(2).
pub fn stat(fd: &OwnedFd) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one `struct stat`.
    retry(|| unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: filled in by the successful call.
    let stat = unsafe { stat.assume_init() };
    let kind = stat.st_mode & libc::S_IFMT;
    Ok(Stat {
        size: stat.st_size as u64,
        is_deleted: stat.st_nlink == 0,
        is_file: kind == libc::S_IFREG,
        is_device: kind == libc::S_IFBLK,
    })
}

/// The file system's magic number (statfs(2), `f_type`).
pub fn fs_magic(fd: &OwnedFd) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: room for one `struct statfs`.
    retry(|| unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: filled in by the successful call.
    Ok(unsafe { stat.assume_init() }.f_type as u64 & 0xffff_ffff)
}

/// Offset alignment that `O_DIRECT` needs here, in bytes, where the kernel (6.1 and later) says so.
pub fn direct_alignment(fd: &OwnedFd) -> Option<u32> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH names `fd`; room for one `struct statx`.
    let ret = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, stat.as_mut_ptr())
    };
    if ret != 0 {
        return None;
    }
    // SAFETY: zeroed, and filled in as far as the kernel knows it.
    let stat = unsafe { stat.assume_init() };
    let known = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    (known && stat.stx_dio_offset_align > 0).then_some(stat.stx_dio_offset_align)
}

// linux/fs.h: _IOR(0x12, 114, size_t) with eight bytes of size_t, _IO(0x12, 119), _IO(0x12, 104).
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKSSZGET: libc::c_ulong = 0x1268;

/// Bytes of a block device.
pub fn device_size(fd: &OwnedFd) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the request writes one u64.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64 as _, &raw mut bytes) })?;
    Ok(bytes)
}

/// Logical block of a block device, bytes.
pub fn device_block(fd: &OwnedFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), BLKSSZGET as _, &raw mut bytes) })?;
    u32::try_from(bytes).map_err(|_| os(libc::EINVAL))
}

/// Discard whole blocks of a block device; they may read as anything afterwards.
pub fn device_discard(fd: RawFd, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the request reads two u64.
    retry(|| unsafe { libc::ioctl(fd, BLKDISCARD as _, range.as_ptr()) }).map(drop)
}

fn preadv2(fd: RawFd, buf: &mut [u8], offset: u64, flags: i32) -> io::Result<usize> {
    let offset = off(offset)?;
    let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: one iovec over a writable slice that outlives the call.
    retry(|| unsafe { libc::preadv2(fd, &raw const iov, 1, offset, flags) }).map(|n| n as usize)
}

/// One pread out of the page cache alone; `EAGAIN` where it would wait. Short where the cache ends.
pub fn read_cached(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    preadv2(fd, buf, offset, libc::RWF_NOWAIT)
}

/// Read until `buf` is full or the file ends; returns how much it was. With `O_DIRECT` a
/// file's last block may come in part.
pub fn read(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let (done, ended) = read_until(fd, buf, offset);
    ended.map(|()| done)
}

/// The same; also how many bytes were read before an error.
pub fn read_until(fd: RawFd, buf: &mut [u8], offset: u64) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < buf.len() {
        match preadv2(fd, &mut buf[done..], offset + done as u64, 0) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Write all of `buf`. `flags`: 0 or `RWF_DSYNC`.
pub fn write(fd: RawFd, buf: &[u8], offset: u64, flags: i32) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &buf[done..];
        let at = off(offset + done as u64)?;
        let iov = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
        // SAFETY: one iovec over a readable slice that outlives the call; pwritev2 does not write to it.
        let n = retry(|| unsafe { libc::pwritev2(fd, &raw const iov, 1, at, flags) })?;
        if n == 0 {
            return Err(os(libc::EIO));
        }
        done += n as usize;
    }
    Ok(())
}

/// fdatasync(2).
pub fn sync(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    retry(|| unsafe { libc::fdatasync(fd) }).map(drop)
}

/// fallocate(2).
pub fn fallocate(fd: RawFd, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (off(offset)?, off(len)?);
    // SAFETY: no pointers.
    retry(|| unsafe { libc::fallocate(fd, mode, offset, len) }).map(drop)
}

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`. The file position that it moves is used by nobody.
pub fn seek(fd: RawFd, offset: u64, whence: i32) -> io::Result<u64> {
    let offset = off(offset)?;
    // SAFETY: no pointers.
    retry(|| unsafe { libc::lseek(fd, offset, whence) }).map(|at| at as u64)
}

/// Ask the kernel to forget what it has of a range, but for what has yet to be written.
pub fn drop_cached(fd: &OwnedFd, offset: u64, len: u64) {
    // SAFETY: no pointers.
    unsafe { libc::posix_fadvise(fd.as_raw_fd(), offset as i64, len as i64, libc::POSIX_FADV_DONTNEED) };
}

/// Ask for the range to be brought into the page cache.
pub fn will_need(fd: RawFd, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (off(offset)?, off(len)?);
    // SAFETY: no pointers. The error is returned, not put into errno.
    match unsafe { libc::posix_fadvise(fd, offset, len, libc::POSIX_FADV_WILLNEED) } {
        0 => Ok(()),
        errno => Err(os(errno)),
    }
}

/// One pread, as short as it comes.
pub fn read_once(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    preadv2(fd, buf, offset, 0)
}

/// How often this thread has given its core away because it had to wait (getrusage(2), `ru_nvcsw`).
pub fn waits() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: room for one `struct rusage`. It cannot fail with these arguments; zeroes are valid.
    unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_nvcsw
    }
}
