"""Sense data: what a CHECK CONDITION says, in fixed and in descriptor format (SPC-4 4.5).

Which of the two a logical unit sends is D_SENSE in its control mode page (SPC-4 7.5.8); REQUEST
SENSE asks for either with its DESC bit (SPC-4 6.39).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Key(IntEnum):
    """Sense keys (SPC-4 table 48)."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


# Response codes (SPC-4 4.5.1): current and deferred errors, in both formats
_FIXED_CURRENT: Final = 0x70
_FIXED_DEFERRED: Final = 0x71
_DESCRIPTOR_CURRENT: Final = 0x72
_DESCRIPTOR_DEFERRED: Final = 0x73


@dataclass(frozen=True, slots=True)
class Field:
    """The field that is wrong (SPC-4 4.5.2.4.2): byte offset in the CDB, or in the parameter data
    when ``data``; ``bit`` is its most significant bit, None for a field of whole bytes."""

    byte: int
    bit: int | None = None
    data: bool = False

    def encode(self) -> bytes:
        """The three sense-key specific bytes: SKSV, C/D, BPV, bit pointer, field pointer."""
        flags = 0x80 if self.data else 0xC0
        if self.bit is not None:
            flags |= 0x08 | self.bit
        return struct.pack(">BH", flags, self.byte)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long operation is (SPC-4 4.5.2.4.4): ``done`` of 65536."""

    done: int

    def __post_init__(self) -> None:
        if not 0 <= self.done <= 0xFFFF:
            raise ValueError(f"no progress of 65536: {self.done}")

    def encode(self) -> bytes:
        return struct.pack(">BH", 0x80, self.done)


@dataclass(frozen=True, slots=True)
class SegmentPointer:
    """Which byte of an EXTENDED COPY list is meant (SPC-4 4.5.2.4.5). ``descriptor`` says that
    the pointer counts from the segment descriptor's first byte (SD)."""

    byte: int
    descriptor: bool = False

    def encode(self) -> bytes:
        return struct.pack(">BH", 0x80 | (0x20 if self.descriptor else 0), self.byte)


@dataclass(frozen=True, slots=True)
class Sense:
    """One piece of sense data.

    ``information`` is the INFORMATION field (an LBA, an offset of a miscompare), ``command`` the
    COMMAND-SPECIFIC INFORMATION, ``specific`` what the sense key's three own bytes say.
    """

    key: Key
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    command: int | None = None
    specific: Field | Progress | SegmentPointer | None = None
    deferred: bool = False

    def encode(self, *, descriptor: bool) -> bytes:
        """Sense data as it is transferred, without any length in front of it."""
        return self._descriptors() if descriptor else self._fixed()

    def _fixed(self) -> bytes:
        """SPC-4 4.5.3. VALID is zero where INFORMATION does not fit its four bytes."""
        code = _FIXED_DEFERRED if self.deferred else _FIXED_CURRENT
        information = self.information
        if information is not None and information < 1 << 32:
            code |= 0x80
        else:
            information = 0
        command = self.command if self.command is not None and self.command < 1 << 32 else 0
        specific = self.specific.encode() if self.specific is not None else bytes(3)
        head = struct.pack(">BBBIB", code, 0, self.key, information, 10)
        return head + struct.pack(">IBBB", command, self.asc, self.ascq, 0) + specific

    def _descriptors(self) -> bytes:
        """SPC-4 4.5.2: a head of 8 bytes, then one descriptor for each thing there is to say."""
        descriptors = b""
        if self.information is not None:
            descriptors += struct.pack(">BBBBQ", 0x00, 10, 0x80, 0, self.information)
        if self.command is not None:
            descriptors += struct.pack(">BBHQ", 0x01, 10, 0, self.command)
        if self.specific is not None:
            descriptors += b"\x02\x06\x00\x00" + self.specific.encode() + b"\x00"
        code = _DESCRIPTOR_DEFERRED if self.deferred else _DESCRIPTOR_CURRENT
        head = struct.pack(">BBBB3xB", code, self.key, self.asc, self.ascq, len(descriptors))
        return head + descriptors


class CheckCondition(Exception):
    """Raised by a handler: the command ends with CHECK CONDITION and this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02x}/{sense.ascq:02x}")
        self.sense = sense


class ReservationConflict(Exception):
    """Raised by a handler: the command ends with RESERVATION CONFLICT, which has no sense."""


def invalid_opcode() -> CheckCondition:
    """INVALID COMMAND OPERATION CODE."""
    return CheckCondition(Sense(Key.ILLEGAL_REQUEST, 0x20, 0x00))


def invalid_cdb(byte: int, bit: int | None = None) -> CheckCondition:
    """INVALID FIELD IN CDB, and which one."""
    return CheckCondition(Sense(Key.ILLEGAL_REQUEST, 0x24, 0x00, specific=Field(byte, bit)))


def invalid_parameter(byte: int, bit: int | None = None) -> CheckCondition:
    """INVALID FIELD IN PARAMETER LIST, and which one."""
    return CheckCondition(
        Sense(Key.ILLEGAL_REQUEST, 0x26, 0x00, specific=Field(byte, bit, data=True))
    )


def list_length() -> CheckCondition:
    """PARAMETER LIST LENGTH ERROR."""
    return CheckCondition(Sense(Key.ILLEGAL_REQUEST, 0x1A, 0x00))
