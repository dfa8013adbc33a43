"""What EXTENDED COPY can do here, and the two places that say so: the Third-party Copy page and
RECEIVE COPY RESULTS."""

from __future__ import annotations

import struct
from typing import Final

from blockgate.scsi.facts import Facts

# Bounds of a parameter list (SPC-4 6.4.3): descriptors, bytes
CSCD_DESCRIPTORS: Final = 16
SEGMENT_DESCRIPTORS: Final = 64
DESCRIPTOR_LIST_BYTES: Final = 4096
# Bytes of one segment. 65535 blocks of 512 bytes, the most that a segment 02h can name, fit.
SEGMENT_BYTES: Final = 32 << 20
# Copies of one unit at the same time, and list identifiers whose result is kept for a nexus
CONCURRENT_COPIES: Final = 16
HELD_RESULTS: Final = 16

IDENTIFICATION_CSCD: Final = 0xE4
BLOCK_TO_BLOCK: Final = 0x02
BLOCK_TO_BLOCK_OFFSET: Final = 0x0A
# The CSCD descriptor ID that means the unit which got the command (SPC-4 6.4.5.1)
THIS_UNIT: Final = 0xFFFF

_DESCRIPTOR_TYPES: Final = bytes((BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_OFFSET, IDENTIFICATION_CSCD))


def third_party_copy_page(facts: Facts) -> bytes:
    """The descriptors of the Third-party Copy VPD page (SPC-4 7.8.17)."""
    commands = b"\x83\x01\x00" + b"\x84\x03\x00\x03\x04"  # opcode, count, service actions
    parameters = struct.pack(
        ">4xHHII12x", CSCD_DESCRIPTORS, SEGMENT_DESCRIPTORS, DESCRIPTOR_LIST_BYTES, 0
    )
    general = struct.pack(
        ">III2B18x", CONCURRENT_COPIES, CONCURRENT_COPIES, SEGMENT_BYTES, _granularity(facts), 0
    )
    return (
        _descriptor(0x0001, bytes((len(commands),)) + commands)
        + _descriptor(0x0004, parameters)
        + _descriptor(0x0008, bytes((len(_DESCRIPTOR_TYPES),)) + _DESCRIPTOR_TYPES)
        + _descriptor(0x000C, struct.pack(">HH", 2, THIS_UNIT))
        + _descriptor(0x8001, general)
    )


def operating_parameters(facts: Facts) -> bytes:
    """RECEIVE COPY RESULTS, OPERATING PARAMETERS (SPC-4 6.22). SNLID: a list identifier may be
    left unused."""
    body = struct.pack(
        ">B3xHHIIIII2xH4B3xB",
        0x01,
        CSCD_DESCRIPTORS,
        SEGMENT_DESCRIPTORS,
        DESCRIPTOR_LIST_BYTES,
        SEGMENT_BYTES,
        0,  # inline data
        0,  # held data
        0,  # stream devices
        CONCURRENT_COPIES,
        CONCURRENT_COPIES,
        _granularity(facts),
        0,
        0,
        len(_DESCRIPTOR_TYPES),
    )
    body += _DESCRIPTOR_TYPES
    return len(body).to_bytes(4, "big") + body


def _granularity(facts: Facts) -> int:
    """DATA SEGMENT GRANULARITY: the exponent of the block size."""
    return facts.block_size.bit_length() - 1


def _descriptor(kind: int, body: bytes) -> bytes:
    """A third-party copy descriptor; its length is a multiple of four."""
    body = body.ljust(-(-len(body) // 4) * 4, b"\0")
    return struct.pack(">HH", kind, len(body)) + body
