"""EXTENDED COPY(LID1) as an initiator asks for it (SPC-4 6.4): one segment, from unit to unit."""

from __future__ import annotations

import struct

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs


def extended_copy(
    session: Session, source: int, destination: int, blocks: int, *, lba: int = 0, list_id: int = 1
) -> int:
    """Asks a unit for a copy of its first blocks, by their LUNs; gives the command's tag."""
    cscds = b"".join(_cscd(_naa_of(session, lun)) for lun in (source, destination))
    # Block to block (SPC-4 6.4.6.3): from CSCD 0 to CSCD 1
    segment = struct.pack(">BBHHHxxHQQ", 0x02, 0, 0x18, 0, 1, blocks, 0, lba)
    head = struct.pack(">BxH4xII", list_id, len(cscds), len(segment), 0)
    parameters = head + cscds + segment
    cdb = struct.pack(">BB8xIxx", 0x83, 0, len(parameters))
    return session.start(cdb, lun=source, write=parameters, immediate_data=parameters)


def _naa_of(session: Session, lun: int) -> bytes:
    """The unit's NAA designator (SPC-4 7.8.6.6)."""
    page = session.command(cdbs.inquiry(255, 0x83), lun=lun, read=255).data
    at = 4
    while at < len(page):
        if page[at + 1] & 0x3F == 0x03:
            return page[at + 4 : at + 4 + page[at + 3]]
        at += 4 + page[at + 3]
    raise AssertionError("no NAA designator")


def _cscd(naa: bytes) -> bytes:
    """An identification CSCD descriptor (SPC-4 6.4.5.4) of a disk with blocks of 512 bytes."""
    named = bytes((0xE4, 0, 0, 0, 0x01, 0x03, 0x00, len(naa))) + naa
    return named.ljust(28, b"\0") + cdbs.BLOCK.to_bytes(4, "big")
