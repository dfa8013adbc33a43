"""What an earlier process left in the database's files is stable before SQLite believes it.

When a sync fails Linux takes for clean what it could not write: it is read as it was written, no
later sync writes it, and with the power it is gone. The process that was told of it writes over it
(`transactions`). A process that comes after it is told nothing: its recovery would take such
commits for stable, its own would stand behind them in the log, and the recovery after a loss of
power would end before both. So every byte is written again where it is, and synced.

Nothing is lost if the power goes in the middle of that: of what was ever answered, the disk has
the same bytes already.
"""

from __future__ import annotations

import fcntl
import os

from blockgate.durable import write_all
from blockgate.model.errors import InUse

_LOCK_START, _LOCK_BYTES = 0x40000000, 512
"""The bytes that SQLite locks (its os.h: PENDING_BYTE up to SHARED_FIRST + SHARED_SIZE)."""

_PIECE = 1024 * 1024


def settle(path: str) -> None:
    """Make stable what is read from the database at `path` and from its journals.

    For the owner of the state directory, before it has the database open: POSIX takes SQLite's
    locks away with any descriptor of the file that this process closes. `OSError` if the disk does
    not take it, `InUse` if some program (a sqlite3 shell) has the database open: what that
    commits must not be written over.
    """
    path = os.path.realpath(path)  # SQLite has its journals beside the file itself
    try:
        database = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # the first start; SQLite takes no journal without a database
    try:
        _lock(database, path)
        # A journal before what it undoes, the log before what was copied out of it.
        for journal in (f"{path}-journal", f"{path}-wal"):
            _rewrite_if_there(journal)
        _rewrite(database)
    finally:
        os.close(database)


def _lock(database: int, path: str) -> None:
    """Against every other user of SQLite, as its own EXCLUSIVE lock; closing lets go of it."""
    try:
        fcntl.lockf(database, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
    except (BlockingIOError, PermissionError) as error:  # fcntl(2): EAGAIN or EACCES
        raise InUse(
            f"The state in {path} is in use by another program.",
            "End the one that has the file open.",
        ) from error


def _rewrite_if_there(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _rewrite(fd)
    finally:
        os.close(fd)


def _rewrite(fd: int) -> None:
    """Make the pages dirty, as they are: only those a sync writes."""
    offset = 0
    while data := os.pread(fd, _PIECE, offset):
        write_all(fd, data, offset)
        offset += len(data)
    os.fsync(fd)
