"""CDBs by their layouts in SPC-4 and SBC-3, as far as the scenarios need them."""

from __future__ import annotations

import struct
from typing import Final

TEST_UNIT_READY: Final = bytes(6)
BLOCK: Final = 512


def read10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)


def inquiry(length: int = 255, page: int | None = None) -> bytes:
    return struct.pack(">BBBHB", 0x12, 0 if page is None else 1, page or 0, length, 0)


def report_luns(length: int = 4096) -> bytes:
    return struct.pack(">BxB3xIxx", 0xA0, 0, length)


def mode_select6(length: int) -> bytes:
    """PF set: the parameter list holds mode pages."""
    return bytes([0x15, 0x10, 0, 0, length, 0])


def reserve_out(action: int, kind: int = 0, length: int = 24) -> bytes:
    """PERSISTENT RESERVE OUT; kind is the type, scope LU."""
    return struct.pack(">BBBxxIB", 0x5F, action, kind, length, 0)


def reserve_in(action: int, length: int = 4096) -> bytes:
    return struct.pack(">BB5xHB", 0x5E, action, length, 0)


def reserve_parameters(key: int = 0, action_key: int = 0, *, aptpl: bool = False) -> bytes:
    """Reservation key, service action key; APTPL is bit 0 of byte 20."""
    return struct.pack(">QQ4xB3x", key, action_key, 1 if aptpl else 0)


REGISTER: Final = 0
RESERVE: Final = 1
RELEASE: Final = 2
CLEAR: Final = 3
PREEMPT: Final = 4
PREEMPT_AND_ABORT: Final = 5
REGISTER_AND_IGNORE: Final = 6
WRITE_EXCLUSIVE: Final = 1
EXCLUSIVE_ACCESS: Final = 3

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
RESERVATION_CONFLICT: Final = 0x18
TASK_ABORTED: Final = 0x40

# Task management functions (RFC 7143 section 11.5.1)
ABORT_TASK: Final = 1
ABORT_TASK_SET: Final = 2
CLEAR_TASK_SET: Final = 4
LUN_RESET: Final = 5
TARGET_WARM_RESET: Final = 6
TARGET_COLD_RESET: Final = 7
# their responses (11.6.1)
COMPLETE: Final = 0
NO_SUCH_TASK: Final = 1
