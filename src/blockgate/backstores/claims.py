"""Claims: one daemon at a time works in a pool, by a lock that the kernel releases with it.

A directory's lock is flock(2) on `.blockgate/lock`, which names its holder. A device's is a lock
on a byte range of its node that belongs to the open file description (fcntl(2), F_OFD_SETLK): it
gets in the way neither of O_EXCL nor of flock, with which whoever serves the device holds it.

A directory inside another pool, or around one, is no pool: the files of the one could be taken for
the other's. Whoever claims a directory marks it as a pool, and those that it is in as having one
inside, with shared locks of that second kind on two bytes; then each looks for the other's mark.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blockgate.backstores.labels import LABEL_DIRECTORY
from blockgate.model.config import Pool, PoolKind
from blockgate.model.errors import InUse, Unavailable

LOCK_FILE = "lock"

_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# struct flock: type, whence, start, length, pid (0 for this kind of lock).
_FLOCK = struct.Struct("@hhqqi4x")
_LOCKED_BYTE = 0x424C4F434B474154  # "BLOCKGAT": beyond any device's end, where nobody else locks
_POOL_HERE, _POOL_INSIDE = _LOCKED_BYTE, _LOCKED_BYTE + 1  # on directories

_Identity = tuple[int, int, int]


@dataclass(slots=True)
class _Held:
    fd: int
    marks: list[int] = field(default_factory=list)
    users: set[Pool] = field(default_factory=set)

    def close(self) -> None:
        for fd in (self.fd, *self.marks):
            with suppress(OSError):
                os.close(fd)


class Claims:
    """The pools that this process has claimed. Thread-safe; `hold` blocks as its pool does.

    Each is claimed as what it is, name and place: a look at another place under the name of a
    pool, as before one is added or moved, leaves the claim on that pool alone.
    """

    def __init__(self, gateway_id: str) -> None:
        self._gateway_id = gateway_id
        self._guard = threading.Lock()  # for the dictionaries: no I/O happens under it
        self._held: dict[_Identity, _Held] = {}
        self._by_pool: dict[Pool, _Identity] = {}
        self._last: dict[Pool, _Identity] = {}
        self._taking: dict[Pool, threading.Lock] = {}
        self._closed = False

    def hold(self, pool: Pool) -> None:
        """Claim a pool, or see that it is still claimed: another disk may be mounted there now.

        `InUse` if another daemon has it, `Unavailable` if it is away.
        """
        with self._guard:
            taking = self._taking.setdefault(pool, threading.Lock())
        while True:
            with self._guard:
                before = self._by_pool.get(pool)
            # Not under the lock: a look may be lost, and must not keep all others from looking.
            now = _identity(pool)
            with self._guard:
                if now is not None and self._by_pool.get(pool) == now:
                    return
            with taking:
                with self._guard:
                    if self._by_pool.get(pool) != before:
                        continue  # somebody else was quicker
                self.release(pool)
                while not self._open_and_take(pool):
                    pass
                return

    def _open_and_take(self, pool: Pool) -> bool:
        held = _Held(_open(pool))
        try:
            if self._take(pool, held):
                return True
        except BaseException:
            held.close()
            raise
        held.close()
        return False

    def _take(self, pool: Pool, held: _Held) -> bool:
        """Lock it and note it down; False: its last holder has just removed the lock's file."""
        identity = _identity_of(os.fstat(held.fd), pool.kind)
        with self._guard:
            known = self._held.get(identity)
        if known is None and not _lock(pool, held.fd):
            raise _in_use(pool, held.fd)
        if known is None and os.fstat(held.fd).st_nlink == 0:
            return False
        if known is None and pool.kind is PoolKind.DIRECTORY:
            try:
                held.marks = _mark(pool)
            except InUse:
                _remove_lock(held.fd)
                raise
            self._sign(held.fd)
        with self._guard:
            if self._closed:
                raise Unavailable("This gateway is stopping.", "Try again later.")
            # The same place under a second name, as when a pool is renamed in one change.
            entry = self._held.setdefault(identity, held)
            entry.users.add(pool)
            self._by_pool[pool] = self._last[pool] = identity
        if entry is not held:
            held.close()
        return True

    def _sign(self, fd: int) -> None:
        with suppress(OSError):  # a full or read-only file system: the lock itself holds
            text = f"gateway {self._gateway_id}, process {os.getpid()}\n".encode()
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))

    def has(self, pool: Pool) -> bool:
        """Whether the pool was claimed when somebody last looked."""
        with self._guard:
            return pool in self._by_pool

    def last_place(self, pool: Pool) -> tuple[int, int, int] | None:
        """What the last claim on it was on, be it held or not: file system, inode, device."""
        with self._guard:
            return self._last.get(pool)

    def release(self, pool: Pool, *, for_good: bool = False) -> None:
        """Let another daemon have the pool; nothing happens if it is not claimed.

        `for_good`: nothing of ours is to stay there but labels.
        """
        with self._guard:
            identity = self._by_pool.pop(pool, None)
            entry = self._held.get(identity) if identity is not None else None
            if entry is None or identity is None:
                return
            entry.users.discard(pool)
            if entry.users:
                return
            del self._held[identity]
        if for_good:
            _remove_lock(entry.fd)
        entry.close()

    def close(self) -> None:
        """Let go of everything, for good: also of what a thread is about to claim."""
        with self._guard:
            self._closed = True
        self.release_others(frozenset())

    def release_others(self, wanted: frozenset[Pool], *, for_good: bool = False) -> None:
        """Let go of all pools but those."""
        with self._guard:
            others = [pool for pool in self._by_pool if pool not in wanted]
        for pool in others:
            self.release(pool, for_good=for_good)


def _identity(pool: Pool) -> _Identity | None:
    """What the claim on a pool is a lock on, as it is now."""
    try:
        return _identity_of(os.stat(_lock_path(pool)), pool.kind)
    except OSError:
        return None


def _identity_of(info: os.stat_result, kind: PoolKind) -> _Identity:
    # A device's node may be made anew for another device: both must be the same.
    device = info.st_rdev if kind is PoolKind.BLOCK else 0
    return info.st_dev, info.st_ino, device


def _lock_path(pool: Pool) -> str:
    if pool.kind is PoolKind.BLOCK:
        return pool.path
    return os.path.join(pool.path, LABEL_DIRECTORY, LOCK_FILE)


def _open(pool: Pool) -> int:
    path = _lock_path(pool)
    what = "directory" if pool.kind is PoolKind.DIRECTORY else "device"
    try:
        if pool.kind is PoolKind.BLOCK:
            return _open_either(path)
        directory = os.path.dirname(path)
        while True:
            made = False
            if os.path.isdir(pool.path) and not os.path.isdir(directory):
                with suppress(OSError):  # what stands in the way is said by the open that follows
                    os.mkdir(directory, mode=0o700)
                    made = True
            try:
                return _open_either(path, os.O_CREAT)
            except FileNotFoundError:
                if made or os.path.isdir(directory):
                    continue  # somebody has just let go of the pool for good
                # Nothing of ours in a pool that cannot be written: then the directory is the lock.
                return os.open(pool.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            f"Pool {pool.name}: the {what} {pool.path} cannot be used: {error.strerror}.",
            "See that it is there, mounted or attached, and that this user has the right to it.",
            code="pool-away",
        ) from error


def _remove_lock(fd: int) -> None:
    """Remove the file of a lock that is held: who waits for it finds out that it has no name."""
    with suppress(OSError):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        path = os.readlink(f"/proc/self/fd/{fd}")
        # The name that it has now; a pool's directory may have been moved.
        if os.path.basename(path) == LOCK_FILE and os.path.samestat(os.stat(path), os.fstat(fd)):
            os.unlink(path)
            os.rmdir(os.path.dirname(path))  # unless labels are there


def _open_either(path: str, create: int = 0) -> int:
    """To write if that is allowed, else to read."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(pool: Pool, fd: int) -> bool:
    """Whether the lock is taken; a device that nobody may write to needs none."""
    try:
        if pool.kind is PoolKind.DIRECTORY:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _mark(pool: Pool) -> list[int]:
    """Mark the directory and those that it is in; the descriptors that keep the marks.

    `InUse` if there is a pool of another claim inside or around it. Both sides mark first and
    look then, so that of two that come at the same time at least one is refused.
    """
    real = Path(os.path.realpath(pool.path))
    marks: list[int] = []
    try:
        for directory in (real, *real.parents):
            try:
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except PermissionError:
                continue  # who may not list it cannot be told of a pool there
            marks.append(fd)
            own, other = _POOL_HERE, _POOL_INSIDE
            if directory != real:
                own, other = other, own
            try:
                _range_lock(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, own)
                found = _range_lock(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, other)
            except OSError:
                continue  # a file system without such locks
            if found != fcntl.F_UNLCK:
                raise _nested(pool, None if directory == real else directory)
    except BaseException:
        for fd in marks:
            os.close(fd)
        raise
    return marks


def _range_lock(fd: int, command: int, kind: int, byte: int) -> int:
    """Set or ask for a lock on one byte; the type of the lock that the kernel answers with."""
    answer: bytes = fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    found: int = _FLOCK.unpack(answer)[0]
    return found


def _nested(pool: Pool, outer: Path | None) -> InUse:
    hint = "Use directories side by side, or remove the other pool there: blockgate pool remove."
    if outer is None:
        return InUse(
            f"Pool {pool.name}: a directory inside {pool.path} is in use as a pool by another "
            "daemon, whose files would be in both.",
            hint,
            code="nested",
        )
    holder = ""
    with suppress(OSError):
        holder = (outer / LABEL_DIRECTORY / LOCK_FILE).read_bytes()[:200].decode("ascii", "replace")
    return InUse(
        f"Pool {pool.name}: {pool.path} is inside {outer}, which is in use as a pool by another "
        f"daemon{f' ({holder.strip()})' if holder else ''}.",
        hint,
        code="nested",
    )


def _in_use(pool: Pool, fd: int) -> InUse:
    holder = ""
    if pool.kind is PoolKind.DIRECTORY:
        with suppress(OSError):
            holder = os.pread(fd, 200, 0).decode("ascii", "replace").strip()
    return InUse(
        f"Pool {pool.name}: {pool.path} is in use by another daemon"
        f"{f' ({holder})' if holder else ''}.",
        "Stop that daemon, or remove the pool there: blockgate pool remove; or use another place.",
    )
