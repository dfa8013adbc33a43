"""The parameter list of EXTENDED COPY(LID1): what is to be copied from where to where (SPC-4 6.5).

Whether the named units are there and the blocks inside them is asked later, segment by segment:
those errors are COPY ABORTED, the ones found here ILLEGAL REQUEST.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from blockgate.scsi import copy_limits as limits
from blockgate.scsi.sense import CheckCondition, Key, Sense, invalid_parameter, list_length

HEADER_BYTES: Final = 16
_CSCD_BYTES: Final = 32
_SEGMENT_HEADER_BYTES: Final = 4

TOO_MANY_CSCD_DESCRIPTORS: Final = Sense(Key.ILLEGAL_REQUEST, 0x26, 0x06)
UNSUPPORTED_CSCD_TYPE: Final = Sense(Key.ILLEGAL_REQUEST, 0x26, 0x07)
TOO_MANY_SEGMENTS: Final = Sense(Key.ILLEGAL_REQUEST, 0x26, 0x08)
UNSUPPORTED_SEGMENT_TYPE: Final = Sense(Key.ILLEGAL_REQUEST, 0x26, 0x09)

_DIRECT_ACCESS: Final = 0x00
_DC: Final = 0x02
_SEGMENT_LENGTHS: Final = {limits.BLOCK_TO_BLOCK: 0x18, limits.BLOCK_TO_BLOCK_OFFSET: 0x1C}


class ListIdUsage(IntEnum):
    """LIST ID USAGE (SPC-4 table 124)."""

    HOLD = 0
    DISCARD = 2
    DISABLED = 3


@dataclass(frozen=True, slots=True)
class Cscd:
    """A copy source or destination by one of its designators (SPC-4 6.4.5.4)."""

    code_set: int
    kind: int
    designator: bytes
    block_size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece to copy. CSCDs by number. Of 02h: ``blocks`` is the number of blocks of the
    source, or of the destination with ``counts_destination``; of 0Ah: ``length`` bytes from the
    byte offsets on. ``at`` is where it stands in the list."""

    at: int
    source: int
    destination: int
    source_lba: int
    destination_lba: int
    blocks: int = 0
    counts_destination: bool = False
    length: int = 0
    source_offset: int = 0
    destination_offset: int = 0


@dataclass(frozen=True, slots=True)
class CopyList:
    """A whole parameter list."""

    list_id: int
    usage: ListIdUsage
    cscds: tuple[Cscd, ...]
    segments: tuple[Segment, ...]


def decode(announced: int, data: bytes) -> CopyList:
    """A list of ``announced`` bytes, not zero. Raises CheckCondition."""
    if announced < HEADER_BYTES or len(data) < announced:
        raise list_length()
    data = data[:announced]
    try:
        usage = ListIdUsage(data[1] >> 3 & 0x03)
    except ValueError:
        raise invalid_parameter(1, 4) from None
    if usage is ListIdUsage.DISABLED and data[0]:
        raise invalid_parameter(0)
    cscd_bytes = int.from_bytes(data[2:4], "big")
    segment_bytes = int.from_bytes(data[8:12], "big")
    inline_bytes = int.from_bytes(data[12:16], "big")
    if cscd_bytes + segment_bytes > limits.DESCRIPTOR_LIST_BYTES:
        raise list_length()
    if len(data) < HEADER_BYTES + cscd_bytes + segment_bytes + inline_bytes:
        raise list_length()
    if inline_bytes:
        raise invalid_parameter(12)
    end = HEADER_BYTES + cscd_bytes
    cscds = _cscds(data[:end])
    segments = _segments(data[: end + segment_bytes], end)
    return CopyList(data[0], usage, cscds, segments)


def _cscds(data: bytes) -> tuple[Cscd, ...]:
    count, rest = divmod(len(data) - HEADER_BYTES, _CSCD_BYTES)
    if rest:
        raise invalid_parameter(2)
    if count > limits.CSCD_DESCRIPTORS:
        raise CheckCondition(TOO_MANY_CSCD_DESCRIPTORS)
    starts = range(HEADER_BYTES, len(data), _CSCD_BYTES)
    return tuple(_cscd(data[at : at + _CSCD_BYTES], at) for at in starts)


def _cscd(descriptor: bytes, at: int) -> Cscd:
    """An Identification Descriptor CSCD descriptor. LU ID TYPE is ignored with it (SPC-4 6.4.5.1),
    and so is the obsolete NUL."""
    if descriptor[0] != limits.IDENTIFICATION_CSCD:
        raise CheckCondition(UNSUPPORTED_CSCD_TYPE)
    if descriptor[1] & 0x1F != _DIRECT_ACCESS:
        raise invalid_parameter(at + 1, 4)
    length = descriptor[7]
    if length > 20:
        raise invalid_parameter(at + 7)
    return Cscd(
        code_set=descriptor[4] & 0x0F,
        kind=descriptor[5] & 0x0F,
        designator=descriptor[8 : 8 + length],
        block_size=int.from_bytes(descriptor[29:32], "big"),
    )


def _segments(data: bytes, at: int) -> tuple[Segment, ...]:
    found: list[Segment] = []
    while at < len(data):
        if len(found) == limits.SEGMENT_DESCRIPTORS:
            raise CheckCondition(TOO_MANY_SEGMENTS)
        if data[at] not in _SEGMENT_LENGTHS:
            raise CheckCondition(UNSUPPORTED_SEGMENT_TYPE)
        if len(data) < at + _SEGMENT_HEADER_BYTES:
            raise list_length()
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length != _SEGMENT_LENGTHS[data[at]]:
            raise invalid_parameter(at + 2)
        end = at + _SEGMENT_HEADER_BYTES + length
        if len(data) < end:
            raise list_length()
        found.append(_segment(data[at:end], at))
        at = end
    return tuple(found)


def _segment(descriptor: bytes, at: int) -> Segment:
    def number(first: int, end: int) -> int:
        return int.from_bytes(descriptor[first:end], "big")

    common = (at, number(4, 6), number(6, 8), number(12, 20), number(20, 28))
    if descriptor[0] == limits.BLOCK_TO_BLOCK:
        counts_destination = bool(descriptor[1] & _DC)
        return Segment(*common, blocks=number(10, 12), counts_destination=counts_destination)
    return Segment(
        *common,
        length=number(8, 12),
        source_offset=number(28, 30),
        destination_offset=number(30, 32),
    )
