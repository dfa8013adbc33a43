"""Why nobody can use a volume whose data is well, in words for whoever runs the gateway."""

from __future__ import annotations

from typing import Final

from blockgate.dataplane.records import Record
from blockgate.scsi import LogicalUnit, Part
from blockgate.scsi.sanitize import Operation, Stage

_LOST: Final = (
    "What was kept of its reservations cannot be read, so reads and writes are refused. When no"
    " other host relies on a reservation, register with it and clear them: sg_persist --out"
    " --register --param-sark=1 DEVICE, then sg_persist --out --clear --param-rk=1 DEVICE."
)
_RUNNING: Final = (
    "An initiator has it sanitized (SANITIZE): it can be used again when that is over."
)
_FAILED: Final = (
    "A SANITIZE has failed, and its data may be there in part: sanitize it again, or leave that"
    " state with sg_sanitize --fail DEVICE, if it was begun with --ause."
)
_STOPPED: Final = "An initiator has stopped it (START STOP UNIT): sg_start DEVICE starts it."
_WAITS: Final = (
    "A SANITIZE has begun and is not finished: its data may be there in part. It goes on when a"
    " target or an export leads to the volume."
)


def unread(error: OSError) -> str:
    """The record of its unit cannot be had from the store."""
    return (
        f"Who has reserved it cannot be read: {error.strerror or error} Until that is known reads"
        " and writes are refused; it is tried again by itself."
    )


def of_unit(logical: LogicalUnit) -> str:
    """What stands against each READ and WRITE of a unit, as it is; empty: nothing."""
    if logical.reservations.state.lost:
        return _LOST
    if logical.sanitizer.running:
        return _RUNNING
    if logical.sanitizer.sense is not None:
        return _FAILED
    return _STOPPED if logical.medium.not_ready is not None else ""


def of_record(record: Record) -> str:
    """What a unit that is not there now will go on with, or be in."""
    operation = Operation.restored(record.parts.get(Part.SANITIZE, b""))
    if operation is None:
        return ""
    return _WAITS if operation.stage is Stage.RUNNING else _FAILED
