"""CRC32C, the digest of RFC 7143 section 13.1 (polynomial 11EDC6F41h, reflected)."""

from __future__ import annotations

import struct
from typing import Final

_REFLECTED: Final = 0x82F63B78


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_REFLECTED if value & 1 else 0)
    return value


_TABLE: Final = tuple(_entry(value) for value in range(256))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def digest(data: bytes) -> bytes:
    """The four bytes as they go on the wire: the examples of RFC 7143 appendix A.4 hold."""
    return struct.pack("<I", crc32c(data))
