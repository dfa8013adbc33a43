"""Files as a directory pool opens and extends them."""

from __future__ import annotations

import errno
import os

from blockgate.backstores.base import Progress
from blockgate.model.config import Volume
from blockgate.model.errors import Failed

ALLOCATION_STEP = 256 * 1024 * 1024
"""Bytes that are preallocated in one call: progress is told, and a stop is heard, in between."""

_PIECE = 1024 * 1024

FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
"""For every opening: what is no file any more must not hang."""


def open_either(path: str, flags: int = 0) -> int:
    """To write if that is allowed, as a network file system wants it for a lock; else to read."""
    try:
        return os.open(path, os.O_RDWR | FLAGS | flags)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return os.open(path, os.O_RDONLY | FLAGS | flags)


def extend(fd: int, start: int, volume: Volume, progress: Progress) -> None:
    """Make the file `volume.size` long: sparse, or with every byte from `start` allocated."""
    size = volume.size
    if not volume.prealloc:
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        return
    total = size - start
    for offset in range(start, size, ALLOCATION_STEP):
        step = min(ALLOCATION_STEP, size - offset)
        progress(offset - start, total)
        try:
            os.posix_fallocate(fd, offset, step)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Failed(
                    f"Volume {volume.ref}: the pool was full after {offset - start} of {total} "
                    "bytes.",
                    "Use a smaller size, make room, or leave out --prealloc.",
                    code="no-space",
                ) from error
            raise
    progress(total, total)


def is_blank(fd: int, start: int) -> bool:
    """Whether the file holds nothing but zeroes from `start` on."""
    size = os.fstat(fd).st_size
    while start < size:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True  # a hole, up to the end
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        data = os.pread(fd, _PIECE, start)
        if data.count(0) != len(data):
            return False
        start += len(data) or size
    return True
