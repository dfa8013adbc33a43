"""REPORT LUNS (SPC-4 6.33): what of a session's LUN map it is told."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from blockgate.scsi.opcodes import table
from blockgate.scsi.sense import invalid_cdb


class SelectReport(IntEnum):
    """SELECT REPORT (SPC-4 table 270); the others are not known here."""

    ADDRESSED = 0x00
    WELL_KNOWN = 0x01
    ALL = 0x02


def lun_field(lun: int) -> int:
    """A LUN as the 8-byte field of SAM-5 4.7: peripheral device addressing below 256, flat space
    above, up to 16383."""
    if not 0 <= lun < 1 << 14:
        raise ValueError(f"no LUN: {lun}")
    return (lun if lun < 256 else 0x4000 | lun) << 48


def answer(luns: Iterable[int], cdb: bytes) -> bytes:
    """The whole parameter data for LUN fields of 8 bytes. There are no well known logical units.
    Raises CheckCondition for reports that are not known."""
    try:
        select = SelectReport(cdb[2])
    except ValueError:
        raise invalid_cdb(2) from None
    listed = [] if select is SelectReport.WELL_KNOWN else sorted(luns)
    body = b"".join(lun.to_bytes(8, "big") for lun in listed)
    return len(body).to_bytes(4, "big") + bytes(4) + body


def canned(luns: Iterable[int]) -> dict[bytes, bytes]:
    """Ready answers for a session's LUN map, by CDB key."""
    luns = tuple(luns)
    answers = {}
    for select in SelectReport:
        cdb = bytes((0xA0, 0, select, *bytes(9)))
        answers[table().find(cdb).key(cdb)] = answer(luns, cdb)
    return answers
