"""INQUIRY (SPC-4 6.6): standard data, and which vital product data page is asked for."""

from __future__ import annotations

import struct
from typing import Final

from blockgate.model.units import PRODUCT_MAX, REVISION_MAX, VENDOR_MAX
from blockgate.scsi import vpd
from blockgate.scsi.facts import Facts
from blockgate.scsi.nexus import Port
from blockgate.scsi.sense import invalid_cdb

# VERSION of SPC-4 (SPC-4 table 165)
VERSION: Final = 0x06
# Version descriptors (SPC-4 table 171), none of them of a certain revision
SAM_5: Final = 0x00A0
SPC_4: Final = 0x0460
SBC_3: Final = 0x04C0
ISCSI: Final = 0x0960

_HISUP: Final = 0x10
_RESPONSE_DATA_FORMAT: Final = 0x02
_3PC: Final = 0x08
_MULTIP: Final = 0x10
_CMDQUE: Final = 0x02
_RMB: Final = 0x80

LENGTH: Final = 96


def answer(facts: Facts, cdb: bytes, port: Port, group: int, *, tpgs: int, ports: int) -> bytes:
    """The whole answer to an INQUIRY that came by ``port``, one of ``ports``. Raises
    CheckCondition: without EVPD there is no page code."""
    evpd, page = cdb[1] & 0x01, cdb[2]
    if evpd:
        return vpd.page(facts, page, port, group)
    if page:
        raise invalid_cdb(2)
    return standard(facts, tpgs=tpgs, ports=ports)


def standard(facts: Facts, *, tpgs: int, ports: int) -> bytes:
    """Standard INQUIRY data (SPC-4 6.6.2) of a direct access block device. PROTECT is zero:
    there is no protection information."""
    identity = facts.identity
    head = bytes(
        (
            0x00,
            _RMB if identity.removable else 0,
            VERSION,
            _HISUP | _RESPONSE_DATA_FORMAT,
            LENGTH - 5,
            tpgs << 4 | _3PC,
            _MULTIP if ports > 1 else 0,
            _CMDQUE,
        )
    )
    names = (
        identity.vendor.encode("ascii").ljust(VENDOR_MAX)
        + identity.product.encode("ascii").ljust(PRODUCT_MAX)
        + identity.revision.encode("ascii").ljust(REVISION_MAX)
    )
    versions = struct.pack(">4H", SAM_5, SPC_4, SBC_3, ISCSI)
    return (head + names + bytes(58 - 36) + versions).ljust(LENGTH, b"\0")
