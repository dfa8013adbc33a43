"""Copying the bytes of one file or block device into another, holes as holes.

The target is a staged file, or a device without a label: a copy that is interrupted leaves nothing
that anybody takes for a volume, and is begun from the first byte again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from blockgate.backstores.base import Progress
from blockgate.durable import write_all
from blockgate.model.errors import BlockgateError, Failed, InUse, InvalidInput, NotFound
from blockgate.model.origin import Origin

CHUNK = 4 * 1024 * 1024
"""Bytes copied at a time: progress is told, and a stop is heard, in between."""
SYNC_STEP = 256 * 1024 * 1024
"""Bytes after which what was written is made stable, so that progress means something."""

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # <linux/falloc.h>
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)


def origin_of(path: str) -> Origin:
    """The origin that an image file is, or why it cannot be one."""
    if not os.path.isabs(path):
        raise InvalidInput(
            f"{path!r} is neither a volume nor an absolute path.",
            "Write POOL/VOLUME, or the path of an image file on the gateway from / on.",
        )
    with _errors_of(path):
        origin = Origin(os.path.realpath(path), 0)
        with open_origin(origin) as fd:
            size = os.fstat(fd).st_size
    if size == 0:
        raise InvalidInput(f"{path} is empty.", "Name a file that holds data.")
    return Origin(origin.path, size)


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path} on the gateway.", "See its path.") from error
    except OSError as error:
        raise Failed(
            f"{path} cannot be read: {error.strerror}.", "Give the gateway's user the right to."
        ) from error


@contextmanager
def open_origin(origin: Origin) -> Iterator[int]:
    """The origin, open for reading. An image file that somebody serves or changes is refused."""
    fd = os.open(origin.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang
    try:
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind) and not (origin.uuid and stat.S_ISBLK(kind)):
            raise InvalidInput(
                f"{origin.path} is not a regular file.",
                "Name an image file; a block device can be a pool, and its volume the source.",
            )
        if not origin.uuid:
            _lock_shared(fd, origin)
        yield fd
    finally:
        os.close(fd)


def _lock_shared(fd: int, origin: Origin) -> None:
    """Against whoever serves the file: a data plane holds the exclusive lock on what it has open.

    For a volume's data control knows better, and a read-only export's lock does no harm.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            f"{origin.path} is in use by another process.",
            "Stop the daemon or program that serves it.",
        ) from error


def copy_into(
    target: int, origin: Origin, size: int, progress: Progress, *, blank: bool, clone: bool
) -> None:
    """Make the first `size` bytes of `target` those of `origin`, zeros behind its end; stable.

    `blank`: the target reads as zeros everywhere already, so that holes are left out; otherwise
    they are written. `clone`: blocks may be shared with the origin where the file system can.
    """
    with _reading(origin), open_origin(origin) as source:
        before = _version(source, origin)
        copier = _Copier(target, source, origin, progress, clone=clone)
        position = 0
        for start, end in _data(source, origin.size):
            if not blank:
                copier.zero(position, start)
            copier.copy(start, end)
            position = end
        if not blank:
            copier.zero(position, size)
        if _version(source, origin) != before:
            raise Failed(
                f"{origin} was changed while it was copied.",
                "Stop what writes to it, then try again.",
                code="source-changed",
            )
    os.fsync(target)
    progress(origin.size, origin.size)


@contextmanager
def _reading(origin: Origin) -> Iterator[None]:
    """What goes wrong with the origin is told as that, and not as the pool's fault."""
    try:
        yield
    except BlockgateError:
        raise
    except _WriteError as error:
        raise error.cause from error
    except OSError as error:
        raise Failed(
            f"The source, {origin}, cannot be read: {error.strerror}.",
            "See that it is there and healthy, then try again.",
            code="source-lost",
        ) from error


class _WriteError(Exception):
    """The target's error, to be told from the origin's."""

    def __init__(self, cause: OSError | Failed) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _version(fd: int, origin: Origin) -> tuple[int, int]:
    """What differs when a file was changed; `Failed` if there is not enough of it."""
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return 0, 0
    if info.st_size < origin.size:
        raise Failed(
            f"{origin} has {info.st_size} bytes, and had {origin.size} when it was chosen.",
            "Stop what changes it, then try again.",
            code="source-changed",
        )
    return info.st_size, info.st_mtime_ns


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges before `size` that hold data, by offset; all of it where holes are not known."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, end = position, size
        if start >= size:
            return
        yield start, min(end, size)
        position = end


class _Copier:
    """Moves bytes at offsets, telling how far it is."""

    def __init__(
        self, target: int, source: int, origin: Origin, progress: Progress, *, clone: bool
    ) -> None:
        self._target = target
        self._source = source
        self._origin = origin
        self._progress = progress
        self._copy_range = clone
        self._unsynced = 0

    def copy(self, start: int, end: int) -> None:
        """The bytes from `start` to `end`."""
        while start < end:
            self._progress(start, self._origin.size)
            done = self._chunk(start, min(CHUNK, end - start))
            start += done
            self._note(done)

    def zero(self, start: int, end: int) -> None:
        """Zeros from `start` to `end`."""
        while start < end:
            self._progress(min(start, self._origin.size), self._origin.size)
            step = min(SYNC_STEP, end - start)
            self._writing(partial(_zero, self._target, start, step))
            start += step

    def _note(self, written: int) -> None:
        self._unsynced += written
        if self._unsynced >= SYNC_STEP:
            self._writing(partial(os.fdatasync, self._target))
            self._unsynced = 0

    def _chunk(self, offset: int, length: int) -> int:
        if self._copy_range:
            try:
                done = os.copy_file_range(self._source, self._target, length, offset, offset)
            except OSError:
                # It is not for these files, or failed: reading and writing tells whose fault.
                self._copy_range = False
            else:
                if done:
                    return done
        data = os.pread(self._source, length, offset)
        if not data:
            raise OSError(errno.EIO, "it ended early")
        self._writing(partial(write_all, self._target, data, offset))
        return len(data)

    def _writing(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise _WriteError(error) from error
            full = Failed(
                f"The pool was full before all of {self._origin} was copied.",
                "Make room in the pool, or use another one.",
                code="no-space",
            )
            raise _WriteError(full) from error


def _zero(fd: int, offset: int, length: int) -> None:
    """Zeros, by the quickest way that the file system or device knows."""
    for mode in (_ZERO_RANGE | _KEEP_SIZE, _PUNCH_HOLE | _KEEP_SIZE):
        result = _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
        if result == 0:
            return
        code = ctypes.get_errno()
        if code not in _NO_FALLOCATE:
            raise OSError(code, os.strerror(code))
    zeros = bytes(min(CHUNK, length))
    for start in range(offset, offset + length, CHUNK):
        write_all(fd, zeros[: offset + length - start], start)
