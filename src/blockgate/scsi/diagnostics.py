"""SEND DIAGNOSTIC, READ DEFECT DATA and LOG SENSE: what a disk without platters has to say."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blockgate.scsi.facts import Facts
from blockgate.scsi.sense import invalid_cdb

READ_DEFECT_DATA_10: Final = 0x37

_SELFTEST: Final = 0x04
# SELF-TEST CODE (SPC-4 table 311): none, background and foreground tests, abort
_SELF_TEST_CODES: Final = frozenset((0, 1, 2, 4, 5, 6))
# DEFECT LIST FORMAT (SBC-3 table 60): those of addresses, not the vendor's nor what is reserved
_DEFECT_FORMATS: Final = frozenset((0, 1, 2, 3, 4, 5))

_SUPPORTED_LOG_PAGES: Final = 0x00
_PROVISIONING_LOG: Final = 0x0C
_ALL_SUBPAGES: Final = 0xFF
_SPF: Final = 0x40


def send_diagnostic(cdb: bytes) -> None:
    """SEND DIAGNOSTIC (SPC-4 6.42): self-tests pass at once, since what could fail is the back
    end, and its state is known. There are no diagnostic pages. Raises CheckCondition."""
    code = cdb[1] >> 5
    if code not in _SELF_TEST_CODES or (code and cdb[1] & _SELFTEST):
        raise invalid_cdb(1, 7)
    if int.from_bytes(cdb[3:5], "big"):
        raise invalid_cdb(3)


def read_defect_data(cdb: bytes) -> bytes:
    """READ DEFECT DATA (SBC-3 5.17, 5.18): the lists that are asked for, in the format that is
    asked for, with nothing in them. Raises CheckCondition for a format that is none."""
    short = cdb[0] == READ_DEFECT_DATA_10
    asked = cdb[2] if short else cdb[1]
    if asked & 0x07 not in _DEFECT_FORMATS:
        raise invalid_cdb(2 if short else 1, 2)
    # PLISTV and GLISTV stand where REQ_PLIST and REQ_GLIST stood.
    return struct.pack(">xBH" if short else ">xBHI", asked & 0x1F, *((0,) if short else (0, 0)))


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """What is left of the pool under a thin unit, and what the unit holds of it; bytes."""

    available: int
    used: int


def log_sense(facts: Facts, pool: PoolUsage | None, cdb: bytes) -> bytes:
    """LOG SENSE (SPC-4 6.8): the list of pages, and for a thin unit of which the pool is known
    the Logical Block Provisioning page. Raises CheckCondition."""
    if cdb[1] & 0x01:
        raise invalid_cdb(1, 0)  # SP: no parameter can be saved
    page, subpage = cdb[2] & 0x3F, cdb[3]
    pages = [_SUPPORTED_LOG_PAGES]
    if facts.thin and pool is not None:
        pages.append(_PROVISIONING_LOG)
    if page == _SUPPORTED_LOG_PAGES and subpage == 0:
        return _log_page(page, bytes(pages))
    if page == _SUPPORTED_LOG_PAGES and subpage == _ALL_SUBPAGES:
        listed = [(code, 0) for code in pages] + [(page, _ALL_SUBPAGES)]
        body = b"".join(bytes(pair) for pair in sorted(listed))
        return bytes((_SPF | page, subpage)) + len(body).to_bytes(2, "big") + body
    if page not in pages or subpage or pool is None:
        raise invalid_cdb(3 if page in pages else 2, None if page in pages else 5)
    return _log_page(page, _provisioning(facts, pool, int.from_bytes(cdb[5:7], "big")))


def _log_page(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", code, 0, len(body)) + body


def _provisioning(facts: Facts, pool: PoolUsage, first: int) -> bytes:
    """Logical Block Provisioning log page (SBC-3 6.3.4): threshold sets that are available to
    everybody in the pool (SCOPE 10b), and used by this unit (01b); from PARAMETER POINTER on."""
    size = facts.threshold_set
    parameters = ((0x0001, pool.available // size, 0x02), (0x0002, pool.used // size, 0x01))
    return b"".join(
        struct.pack(">HBBIB3x", code, 0x03, 8, min(count, 0xFFFFFFFF), scope)
        for code, count, scope in parameters
        if code >= first
    )
