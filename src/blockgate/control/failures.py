"""From what the system says (an errno) to what a user is told."""

from __future__ import annotations

import errno

from blockgate.model.errors import (
    BlockgateError,
    Conflict,
    Failed,
    InUse,
    InvalidInput,
    Unavailable,
)

_AWAY = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EIO,
    errno.ESTALE,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
_HELD = {errno.EBUSY, errno.EAGAIN, errno.ETXTBSY}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(error: BaseException, what: str) -> BlockgateError:
    """The error to answer with when doing `what` (as in "opening volume a/b") met `error`."""
    if isinstance(error, BlockgateError):
        return error
    if not isinstance(error, OSError):
        return Failed(
            f"There was an internal error in {what}: {type(error).__name__}: {error}.",
            "Please report it, with the log around this time.",
            code="internal",
        )
    reason = error.strerror or str(error)
    place = f" ({error.filename})" if error.filename else ""
    message = f"There was an error in {what}: {reason}{place}."
    code = error.errno
    if code in _HELD:
        return InUse(
            message, "Another process has the data open; stop the daemon or program that serves it."
        )
    if code in _FULL:
        return Failed(message, "Make room in the pool, or use a smaller size.", code="no-space")
    if code in _DENIED:
        return Failed(message, "Give this user the right, or remount it writable.", code="denied")
    if code == errno.EFBIG:
        return InvalidInput(message, "The file system holds no file of that size.")
    if code == errno.EEXIST:
        return Conflict(message, "Choose another name.", code="exists")
    if code in _AWAY:
        return Unavailable(message, "See that the pool is mounted, attached and healthy.")
    return Failed(message, "See the log and the kernel's messages.")
