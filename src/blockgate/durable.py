"""File operations that are stable when they return, and never overwrite what they did not make.

A leaf: used by the cluster's key file and by the backstores. Everything blocks; call it in a
thread. Errors are `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# File systems that know no rename flags (some FUSE ones) say so with one of these.
_NO_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

_libc = ctypes.CDLL(None, use_errno=True)


def sync_directory(path: str) -> None:
    """Make the names in a directory stable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_noreplace(source: str, target: str) -> None:
    """Rename; `FileExistsError` if the target exists, whoever made it and however late."""
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    )
    if result == 0:
        return
    code = ctypes.get_errno()
    if code not in _NO_FLAGS:
        raise OSError(code, os.strerror(code), source, None, target)
    # A hard link refuses to overwrite too. A process that dies between the two lines leaves
    # both names on one file: `finish_rename` knows that case.
    os.link(source, target)
    os.unlink(source)


def finish_rename(source: str, target: str) -> bool:
    """Whether `target` already is what `source` was to become; ends a half-done hard-link move."""
    try:
        there = os.lstat(target)
    except FileNotFoundError:
        return False
    try:
        here = os.lstat(source)
    except FileNotFoundError:
        return True
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        os.unlink(source)
        return True
    return False


def unlink_if_exists(path: str) -> bool:
    """Remove a name; False if there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def create_durably(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Make a file with this content; `FileExistsError` if there is one."""
    with _written_beside(path, data, mode) as temporary:
        rename_noreplace(temporary, path)
    sync_directory(os.path.dirname(path))


def replace_durably(path: str, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Give a file this content in one step: a reader, or a crash, sees the old or the new.

    Without `sync` the content is stable, but its name only after `sync_directory`: for many
    files in one directory at once.
    """
    with _written_beside(path, data, mode) as temporary:
        os.rename(temporary, path)
    if sync:
        sync_directory(os.path.dirname(path))


@contextmanager
def _written_beside(path: str, data: bytes, mode: int) -> Iterator[str]:
    """A stable temporary file in the same directory; removed again if it is not moved away."""
    temporary = f"{path}.tmp"
    unlink_if_exists(temporary)  # one that a killed process left
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        yield temporary
    except BaseException:
        unlink_if_exists(temporary)
        raise


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, however little each call takes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        if written == 0:
            raise OSError(errno.EIO, "a write wrote nothing")
        view, offset = view[written:], offset + written
