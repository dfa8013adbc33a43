"""READ CAPACITY (SBC-3 5.15, 5.16)."""

from __future__ import annotations

import struct
from typing import Final

from blockgate.scsi.facts import Facts

_LBPME: Final = 0x80
_LBPRZ: Final = 0x40
_LARGEST_10: Final = 0xFFFFFFFF


def read_capacity_10(facts: Facts) -> bytes:
    """FFFFFFFFh where the last block has no number in four bytes: READ CAPACITY(16) has it."""
    return struct.pack(">II", min(facts.blocks - 1, _LARGEST_10), facts.block_size)


def read_capacity_16(facts: Facts) -> bytes:
    """No protection, aligned at block 0; LBPRZ if unmapped blocks are promised to be zeroes."""
    exponent = facts.blocks_per_physical.bit_length() - 1
    provisioning = _LBPME if facts.thin else 0
    provisioning |= _LBPRZ if facts.unmapped_read_as_zeroes else 0
    return struct.pack(
        ">QIBBBB16x", facts.blocks - 1, facts.block_size, 0, exponent, provisioning, 0
    )
