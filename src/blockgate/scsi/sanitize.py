"""SANITIZE (SBC-3 5.24, 4.11): a long operation that nothing stops, not even the gateway's end.

Its record is stable before the first block is touched, and again whenever a stretch of a pass is,
so that a gateway that is started again goes on with the stretch it was in. An operation that fails
leaves the unit unusable until another one succeeds, or until EXIT FAILURE MODE where the first had
allowed that (AUSE).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from blockgate.scsi.facts import Facts
from blockgate.scsi.reactions import FillJob, ZeroJob
from blockgate.scsi.sense import Key, Progress, Sense, invalid_cdb, invalid_parameter, list_length

OVERWRITE: Final = 0x01
BLOCK_ERASE: Final = 0x02
EXIT_FAILURE_MODE: Final = 0x1F

SANITIZE_IN_PROGRESS: Final = Sense(Key.NOT_READY, 0x04, 0x1B)
SANITIZE_COMMAND_FAILED: Final = Sense(Key.MEDIUM_ERROR, 0x31, 0x03)

# Commands that are served meanwhile (SBC-3 4.11.2): INQUIRY, REPORT LUNS, REQUEST SENSE
SERVED: Final = frozenset((0x12, 0xA0, 0x03))

_IMMED: Final = 0x80
_RESERVED_BIT: Final = 0x40
_AUSE: Final = 0x20
_INVERT: Final = 0x80
_TEST: Final = 0x60
_COUNT: Final = 0x1F
_HEADER_BYTES: Final = 4

# What a gateway that is killed does once more, at most, bytes: with less, keeping the records would
# take longer than what they save. Erasing is quick, and need not be cut as finely.
_OVERWRITE_STRETCH: Final = 512 << 20
_ERASE_STRETCH: Final = 64 << 30


class Stage(Enum):
    """Where an operation stands."""

    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operation:
    """One sanitize operation. ``pattern`` empty is a block erase; an overwrite writes it
    ``passes`` times, inverted in every other pass when ``invert``; ``done`` passes are over, and
    ``offset`` bytes of the next."""

    unrestricted: bool
    passes: int = 1
    pattern: bytes = b""
    invert: bool = False
    done: int = 0
    offset: int = 0
    stage: Stage = Stage.RUNNING

    def job(self, facts: Facts) -> FillJob | ZeroJob:
        """The stretch that is next. The last pass is never inverted (SBC-3 5.24.2.2)."""
        length = self._stretch(facts)
        if not self.pattern:
            return ZeroJob(self.offset, length, punch=True)
        pattern = self.pattern
        if self.invert and (self.passes - self.done) % 2 == 0:
            pattern = bytes(byte ^ 0xFF for byte in pattern)
        # Each block begins with the pattern's first byte.
        block = (pattern * -(-facts.block_size // len(pattern)))[: facts.block_size]
        return FillJob(self.offset, length, block)

    def advanced(self, facts: Facts, length: int) -> Operation | None:
        """The operation when that stretch, of so many bytes, is over as well: the volume may have
        grown meanwhile. None: nothing is left of it."""
        offset = self.offset + length
        if offset < facts.size_bytes:
            return replace(self, offset=offset)
        if self.done + 1 < self.passes:
            return replace(self, done=self.done + 1, offset=0)
        return None

    def _stretch(self, facts: Facts) -> int:
        most = _OVERWRITE_STRETCH if self.pattern else _ERASE_STRETCH
        return max(0, min(most, facts.size_bytes - self.offset))

    def sense(self, facts: Facts, done_bytes: int) -> Sense:
        """What commands are told meanwhile, or after a failure; ``done_bytes`` of the stretch are
        over."""
        if self.stage is Stage.FAILED:
            return SANITIZE_COMMAND_FAILED
        size = facts.size_bytes
        over = self.done * size + min(self.offset + done_bytes, size)
        share = over * 0x10000 // (self.passes * size)
        return replace(SANITIZE_IN_PROGRESS, specific=Progress(min(share, 0xFFFF)))

    def record(self) -> bytes:
        """The operation for stable storage."""
        fields = {
            "unrestricted": self.unrestricted,
            "passes": self.passes,
            "pattern": self.pattern.hex(),
            "invert": self.invert,
            "done": self.done,
            "offset": self.offset,
            "stage": self.stage.value,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def restored(cls, record: bytes) -> Operation | None:
        """Out of what :meth:`record` gave; None for empty bytes."""
        if not record:
            return None
        fields = json.loads(record)
        return cls(
            unrestricted=fields["unrestricted"],
            passes=fields["passes"],
            pattern=bytes.fromhex(fields["pattern"]),
            invert=fields["invert"],
            done=fields["done"],
            offset=fields.get("offset", 0),  # a record of a version that counted passes alone
            stage=Stage(fields["stage"]),
        )


def is_immediate(cdb: bytes) -> bool:
    """IMMED: status comes as soon as the operation has begun."""
    return bool(cdb[1] & _IMMED)


def check(cdb: bytes) -> None:
    """The fields that every service action has; reserved ones must be zero, since what is asked
    for cannot be undone. Raises CheckCondition."""
    if cdb[1] & _RESERVED_BIT:
        raise invalid_cdb(1, 6)
    for byte in range(2, 7):
        if cdb[byte]:
            raise invalid_cdb(byte)


def decode(facts: Facts, cdb: bytes, data: bytes) -> Operation:
    """The operation that OVERWRITE or BLOCK ERASE asks for. Raises CheckCondition."""
    unrestricted = bool(cdb[1] & _AUSE)
    announced = int.from_bytes(cdb[7:9], "big")
    if cdb[1] & 0x1F == BLOCK_ERASE:
        require_no_list(cdb)
        return Operation(unrestricted)
    if not _HEADER_BYTES < announced <= facts.block_size + _HEADER_BYTES:
        raise invalid_cdb(7)
    if len(data) < announced:
        raise list_length()
    passes = data[0] & _COUNT
    if data[0] & _TEST:
        raise invalid_parameter(0, 6)
    if passes == 0:
        raise invalid_parameter(0, 4)
    length = int.from_bytes(data[2:4], "big")
    if not 0 < length <= facts.block_size:
        raise invalid_parameter(2)
    if announced < _HEADER_BYTES + length:
        raise list_length()
    pattern = data[_HEADER_BYTES : _HEADER_BYTES + length]
    return Operation(unrestricted, passes, pattern, invert=bool(data[0] & _INVERT))


def require_no_list(cdb: bytes) -> None:
    """PARAMETER LIST LENGTH must be zero (SBC-3 table 68). Raises CheckCondition."""
    if cdb[7] or cdb[8]:
        raise invalid_cdb(7)
