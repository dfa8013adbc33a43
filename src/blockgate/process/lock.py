"""One daemon per state directory: a lock that the kernel lets go with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from blockgate.model.errors import InUse, InvalidInput

LOCK_NAME = "daemon.lock"


class StateLock:
    """Holds ``<state_dir>/daemon.lock`` with flock(2) for as long as the process lives."""

    def __init__(self, state_dir: Path) -> None:
        """Make the directory where it is missing (mode 0700) and take the lock.

        Raises `InUse` when another daemon has it, `InvalidInput` when the directory cannot be used.
        """
        self._path = state_dir / LOCK_NAME
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInput(
                f"The state directory {state_dir} cannot be used: {error.strerror}.",
                "Name a directory that this user may write: --state-dir DIR.",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise InUse(
                f"Another daemon (pid {holder}) uses the state directory {state_dir}.",
                "Stop it first, or give this one a state directory of its own.",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let it go; the file stays, since removing it would race with the next holder."""
        os.close(self._fd)
