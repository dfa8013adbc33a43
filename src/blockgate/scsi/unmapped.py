"""Commands to a LUN that is not mapped (SPC-4 6.6.2, SAM-5 5.11)."""

from __future__ import annotations

from blockgate.scsi.inquiry import LENGTH, VERSION
from blockgate.scsi.reactions import Reply
from blockgate.scsi.sense import CheckCondition, Key, Sense, invalid_cdb
from blockgate.scsi.status import Status

INQUIRY = 0x12
REQUEST_SENSE = 0x03
LOGICAL_UNIT_NOT_SUPPORTED = Sense(Key.ILLEGAL_REQUEST, 0x25, 0x00)

# PERIPHERAL QUALIFIER 011b, type 1Fh: there is no unit here, and none could be.
_NO_UNIT = 0x7F


def execute(cdb: bytes) -> Reply:
    """INQUIRY tells that there is no unit, REQUEST SENSE tells it as data, all else fails.

    An initiator that asks LUN 0 first and finds this goes on with REPORT LUNS, which whoever knows
    the session's LUN map answers at every LUN.
    """
    try:
        if cdb[:1] == bytes((INQUIRY,)) and len(cdb) >= 6:
            return Reply(data=_inquiry(cdb)[: int.from_bytes(cdb[3:5], "big")])
    except CheckCondition as refused:
        return Reply(Status.CHECK_CONDITION, sense=refused.sense.encode(descriptor=False))
    if cdb[:1] == bytes((REQUEST_SENSE,)) and len(cdb) >= 6:
        sense = LOGICAL_UNIT_NOT_SUPPORTED.encode(descriptor=bool(cdb[1] & 0x01))
        return Reply(data=sense[: cdb[4]])
    sense = LOGICAL_UNIT_NOT_SUPPORTED.encode(descriptor=False)
    return Reply(Status.CHECK_CONDITION, sense=sense)


def _inquiry(cdb: bytes) -> bytes:
    if cdb[1] & 0x01:
        if cdb[2]:
            raise invalid_cdb(2)
        return bytes((_NO_UNIT, 0x00, 0x00, 0x01, 0x00))
    if cdb[2]:
        raise invalid_cdb(2)
    return bytes((_NO_UNIT, 0x00, VERSION, 0x12, LENGTH - 5)).ljust(LENGTH, b"\0")
