"""Vital product data pages (SPC-4 7.8, SBC-3 6.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from blockgate.scsi import designators
from blockgate.scsi.copy_limits import third_party_copy_page
from blockgate.scsi.facts import THRESHOLD_EXPONENT, Facts
from blockgate.scsi.nexus import Port
from blockgate.scsi.sense import invalid_cdb

SUPPORTED_PAGES: Final = 0x00
DEVICE_IDENTIFICATION: Final = 0x83

# MEDIUM ROTATION RATE (SBC-3 table 204): not rotating; revolutions a minute of an ordinary disk
_NON_ROTATING: Final = 0x0001
_ROTATING: Final = 7200


def page(facts: Facts, code: int, port: Port, group: int) -> bytes:
    """A page with its header. Raises CheckCondition for one that is not there."""
    if code == SUPPORTED_PAGES:
        payload = bytes(PAGES)
    elif code == DEVICE_IDENTIFICATION:
        payload = designators.of_unit(facts.identity) + designators.of_port(port, group)
    elif code in _OF_UNIT:
        payload = _OF_UNIT[code](facts)
    else:
        raise invalid_cdb(2)
    return struct.pack(">BBH", 0x00, code, len(payload)) + payload


def _serial_number(facts: Facts) -> bytes:
    """Unit Serial Number (SPC-4 7.8.15)."""
    return facts.identity.serial.encode("ascii")


def _extended_inquiry(facts: Facts) -> bytes:
    """Extended INQUIRY Data (SPC-4 7.8.7): no protection; SIMPLE, ORDERED and HEAD OF QUEUE are
    kept; V_SUP where there is a volatile cache."""
    supported = b"\x00\x07" + (b"\x01" if facts.write_back else b"\x00")
    return supported.ljust(0x3C, b"\0")


def _block_limits(facts: Facts) -> bytes:
    """Block Limits (SBC-3 6.5.3). WSNZ is zero: WRITE SAME of no blocks means to the end. Nothing
    is said of atomic writes, which are not known."""
    limits, physical = facts.limits, facts.blocks_per_physical
    ugavalid = 1 << 31 if facts.thin else 0
    return struct.pack(
        ">BBHIIIIIIIQ20x",
        0,
        limits.compare_and_write,
        physical,
        limits.transfer,
        0,
        0,
        limits.unmap,
        limits.unmap_descriptors,
        physical if facts.thin else 0,
        ugavalid,
        limits.write_same,
    )


def _characteristics(facts: Facts) -> bytes:
    """Block Device Characteristics (SBC-3 6.5.2). WABEREQ 01b: after a block erase reads succeed
    without a write before them; WACEREQ 00b: there is no cryptographic erase."""
    rate = _ROTATING if facts.identity.rotational else _NON_ROTATING
    return struct.pack(">HBB56x", rate, 0, 0x40 if facts.thin else 0)


def _provisioning(facts: Facts) -> bytes:
    """Logical Block Provisioning (SBC-3 6.5.4): UNMAP and both WRITE SAMEs give blocks back, with
    LBPRZ if these are promised to read as zeroes; nothing is anchored. THRESHOLD EXPONENT zero:
    there are no thresholds where nobody looks how full the pool is."""
    if not facts.thin:
        return bytes(4)
    lbpu, lbpws, lbpws10 = 0x80, 0x40, 0x20
    lbprz = 0x04 if facts.unmapped_read_as_zeroes else 0
    thin = 0x02
    exponent = THRESHOLD_EXPONENT if facts.watched else 0
    return bytes((exponent, lbpu | lbpws | lbpws10 | lbprz, thin, 0))


_OF_UNIT: Final[Mapping[int, Callable[[Facts], bytes]]] = MappingProxyType(
    {
        0x80: _serial_number,
        0x86: _extended_inquiry,
        0x8F: third_party_copy_page,
        0xB0: _block_limits,
        0xB1: _characteristics,
        0xB2: _provisioning,
    }
)

PAGES: Final = tuple(sorted((SUPPORTED_PAGES, DEVICE_IDENTIFICATION, *_OF_UNIT)))
