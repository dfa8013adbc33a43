"""Status codes (SAM-5 5.3.1)."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What ends a command. CONDITION MET is PRE-FETCH's answer when all blocks fit the cache."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40
