"""What is stored: files, directories and links, each with a volatile and a durable state."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.lab.faultfs.ranges import RangeSet

_COPY: Final = 1 << 20
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Memory:
    """Sparse bytes without a name: a memfd, closed with its last reference."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("faultfs", os.MFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def punch(self, start: int, end: int) -> None:
        _fallocate(self.fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start)

    def allocate(self, start: int, end: int) -> None:
        """Turn the holes in [start, end) into zeroes that take room.

        They are written: SEEK_DATA does not show what fallocate alone gives a memfd, so a copy
        could not tell it from a hole.
        """
        for hole, hole_end in list(self.holes(start, end)):
            while hole < hole_end:
                hole += os.pwrite(self.fd, bytes(min(_COPY, hole_end - hole)), hole)

    def holes(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that hold no data; what lies behind the end of all is one."""
        while start < end:
            try:
                data = min(self.seek(start, os.SEEK_DATA), end)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = end
            if start < data:
                yield start, data
            start = min(self.seek(data, os.SEEK_HOLE), end) if data < end else end

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self.fd, offset, whence)

    def copy_range(self, source: Memory, start: int, end: int) -> None:
        """Make [start, end) equal to the source's: data where it has data, holes where not."""
        for hole, hole_end in [*source.holes(start, end), (end, end)]:
            while start < hole:
                part = os.pread(source.fd, min(_COPY, hole - start), start)
                start += os.pwrite(self.fd, part, start)
            if hole < hole_end:
                self.punch(hole, hole_end)
            start = hole_end


@dataclass(eq=False)
class Node:
    """What every kind of file has in common. `lookups` is the kernel's reference count."""

    mode: int
    uid: int
    gid: int
    number: int = 0
    nlink: int = 1
    lookups: int = 0
    rdev: int = 0
    mtime_ns: int = field(default_factory=time.time_ns)

    @property
    def size(self) -> int:
        return 0

    @property
    def blocks(self) -> int:
        return 0

    def sync(self) -> None:
        """Make this node durable (not its name)."""

    def lose(self) -> None:
        """The power is gone: go back to the durable state."""


@dataclass(eq=False)
class Link(Node):
    """A symbolic link."""

    target: bytes = b""

    @property
    def size(self) -> int:
        return len(self.target)


@dataclass(eq=False)
class Directory(Node):
    """Names; `durable` are those that a directory fsync has covered."""

    names: dict[bytes, Node] = field(default_factory=dict)
    durable: dict[bytes, Node] = field(default_factory=dict)

    def sync(self) -> None:
        self.durable = dict(self.names)

    def lose(self) -> None:
        self.names = dict(self.durable)


@dataclass(eq=False)
class File(Node):
    """Bytes; `dirty` are those that no sync has covered since they changed."""

    volatile: Memory = field(default_factory=Memory)
    durable: Memory = field(default_factory=Memory)
    dirty: RangeSet = field(default_factory=RangeSet)

    @property
    def size(self) -> int:
        return self.volatile.size

    @property
    def blocks(self) -> int:
        return os.fstat(self.volatile.fd).st_blocks

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.volatile.fd, length, offset)

    def write(self, offset: int, data: memoryview) -> int:
        written = 0
        while written < len(data):
            written += os.pwrite(self.volatile.fd, data[written:], offset + written)
        self._changed(offset, offset + written)
        return written

    def truncate(self, size: int) -> None:
        old = self.size
        self.volatile.truncate(size)
        self._changed(min(old, size), max(old, size))

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, self.size)
        if offset < end:
            self.volatile.punch(offset, end)
            self._changed(offset, end)

    def zero(self, offset: int, length: int, *, keep_size: bool) -> None:
        """Zeroes that stay allocated, as FALLOC_FL_ZERO_RANGE leaves them."""
        self.punch(offset, length)
        self.allocate(offset, length, keep_size=keep_size)

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        """What lies behind the end is not kept: no test looks there."""
        end = offset + length
        if not keep_size and end > self.size:
            self.truncate(end)
        end = min(end, self.size)
        if offset < end:
            self.volatile.allocate(offset, end)
            self._changed(offset, end)

    def sync(self) -> None:
        self.durable.truncate(self.size)
        for start, end in self.dirty:
            self.durable.copy_range(self.volatile, start, min(end, self.size))
        self.dirty.clear()

    def sync_range(self, start: int, end: int) -> None:
        """One synchronous write: its own range and the size that is needed to read it."""
        if self.durable.size < end:
            self.durable.truncate(end)
        self.durable.copy_range(self.volatile, start, end)
        self.dirty.discard(start, end)

    def drop_dirty(self) -> None:
        """A sync failed. Linux marks the pages clean: the next sync does not write them."""
        self.dirty.clear()

    def lose(self) -> None:
        self.volatile = Memory()
        self.volatile.truncate(self.durable.size)
        self.volatile.copy_range(self.durable, 0, self.durable.size)
        self.dirty.clear()

    def _changed(self, start: int, end: int) -> None:
        self.dirty.add(start, end)
        self.mtime_ns = time.time_ns()
