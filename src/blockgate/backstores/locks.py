"""The lock on a volume's data: flock(2), exclusive, the one that opening it takes.

Whoever has a file or device open for clients holds it, in this daemon or in another one, and
whoever changes the data takes it for that time. Only where this daemon's own data plane holds it
already a change may go on under that one, and only when the caller knows that it does.
"""

from __future__ import annotations

import fcntl
import os

from blockgate.model.config import Volume
from blockgate.model.errors import InUse, Unavailable

_FDS = "/proc/self/fd"


def take(fd: int, volume: Volume, *, held: bool) -> None:
    """Lock the data that `fd` is until it is closed.

    `held`: the data plane of this daemon has the volume open. Then its lock has to be on this very
    file: if it is free, or somebody else's, what is here now is not what is open.
    """
    if not _try(fd):
        if held and held_here(fd):
            return
        raise in_use(volume)
    if held:
        raise Unavailable(
            f"Volume {volume.ref} cannot be changed: what is at its place now is not the data that "
            "is open.",
            f"Put its own data back; or: blockgate volume reopen {volume.ref}.",
            code="volume-missing",
        )


def check_free(fd: int, path: str) -> None:
    """Refuse data that another process has locked; `fd` has the lock afterwards, if nobody had."""
    if not _try(fd) and not held_here(fd):
        raise InUse(
            f"{path} is in use by another process, which has it locked.",
            "Stop the daemon or program that serves it; if that is another gateway, let it keep "
            "the file.",
        )


def in_use(volume: Volume) -> InUse:
    """Why a volume's data is not touched at the moment."""
    return InUse(
        f"The data of volume {volume.ref} is in use by another process.",
        "Stop the other daemon or program that serves it.",
    )


def held_here(fd: int) -> bool:
    """Whether a descriptor of this process holds the lock on the file that `fd` is."""
    info = os.fstat(fd)
    for name in os.listdir(_FDS):
        try:
            other = os.fstat(int(name))
            if (other.st_dev, other.st_ino) != (info.st_dev, info.st_ino):
                continue
            with open(f"/proc/self/fdinfo/{name}", encoding="ascii", errors="replace") as file:
                if any("FLOCK" in line and "WRITE" in line for line in file):
                    return True
        except OSError:
            continue  # closed meanwhile
    return False


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
