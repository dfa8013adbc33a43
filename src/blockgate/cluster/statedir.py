"""The state directory: whose it is, and that only one daemon has it.

Layout: `lock` (held while the daemon runs), `state.db` (SQLite), `secret.key` (unless the key
is kept elsewhere), `labels/` (identities of adopted devices).
"""

from __future__ import annotations

import fcntl
import os
import stat

from blockgate.durable import sync_directory
from blockgate.model.errors import Failed, InUse, Refused


class StateDirectory:
    """An exclusively held state directory. The kernel lets go of it with the process."""

    def __init__(self, path: str, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def take(cls, path: str) -> StateDirectory:
        """Create the directory if it is not there (mode 0700) and lock it.

        Raises `InUse` if another process holds it, `Failed` if it cannot be used, `Refused` if
        this user may not, or if others than its owner (this user, or root) could write there.
        """
        path = os.path.abspath(path)
        try:
            _make(path)
            _check_private(path)
            lock_path = os.path.join(path, "lock")
            lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            reason = "a file is in its way" if in_the_way else error.strerror
            kind = Refused if isinstance(error, PermissionError) else Failed
            raise kind(
                f"The state directory {path} cannot be used: {reason}.",
                "Name another with --state-dir, or give this user the right to write there.",
            ) from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip()
            os.close(lock_fd)
            raise InUse(
                f"The state directory {path} is in use by another daemon"
                f"{f' (process {holder})' if holder else ''}.",
                "Stop that one, or give this one a state directory of its own.",
            ) from error
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, lock_fd)

    @property
    def database(self) -> str:
        """Where SQLite's file is."""
        return os.path.join(self.path, "state.db")

    @property
    def key_file(self) -> str:
        """Where the master key is, unless the configuration names another place."""
        return os.path.join(self.path, "secret.key")

    @property
    def labels(self) -> str:
        """Where labels are kept that have no place beside their data."""
        return os.path.join(self.path, "labels")

    def release(self) -> None:
        """Let another daemon have it."""
        os.close(self._lock_fd)


def _check_private(path: str) -> None:
    """Refuse a state that somebody else could have written, or could write at any time."""
    for name in ("", "lock", "state.db", "state.db-wal", "state.db-shm", "secret.key",
                 "commands.log", "labels"):  # fmt: skip
        place = os.path.join(path, name) if name else path
        try:
            info = os.stat(place)
        except FileNotFoundError:
            continue
        what = "The state directory" if place == path else "The state"
        if info.st_uid not in (0, os.geteuid()):
            raise Refused(
                f"{what} {place} belongs to user {info.st_uid}, who could change it at any time.",
                f"If it is this daemon's own: chown -R {os.geteuid()} {path}; or name another with "
                "--state-dir.",
            )
        if info.st_mode & 0o022:
            raise Refused(
                f"{what} {place} can be written by others (mode {stat.S_IMODE(info.st_mode):04o}).",
                f"Protect it: chmod go-w {place}",
            )


def _make(path: str) -> None:
    """Make a directory and those above it, each name stable; one that is there stays as it is."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make(parent)
    os.mkdir(path, mode=0o700)
    sync_directory(parent)
