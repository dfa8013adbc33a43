"""MODE SENSE (SPC-4 6.13, 6.14): headers, block descriptors, pages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from blockgate.scsi.facts import Facts
from blockgate.scsi.mode_pages import ALL_PAGES, ALL_SUBPAGES, Code, ModePages, PageControl
from blockgate.scsi.sense import invalid_cdb

MODE_SENSE_6: Final = 0x1A
MODE_SENSE_10: Final = 0x5A

_WP: Final = 0x80
_DPOFUA: Final = 0x10
_PS: Final = 0x80
_SPF: Final = 0x40
_LONGLBA: Final = 0x01


def answer(facts: Facts, pages: ModePages, cdb: bytes, *, write_protected: bool) -> bytes:
    """The whole mode parameter list. Raises CheckCondition for pages that are not there."""
    disable_block_descriptors = cdb[1] & 0x08
    long_lba = cdb[0] == MODE_SENSE_10 and bool(cdb[1] & 0x10)
    control = PageControl(cdb[2] >> 6)
    chosen = [code for code in pages.current if _is_asked_for(code, cdb[2] & 0x3F, cdb[3])]
    if not chosen:
        raise invalid_cdb(*_unknown(pages, cdb))
    values = pages.values(control)
    body = b"".join(_with_flags(code, values[code]) for code in chosen)
    descriptor = b"" if disable_block_descriptors else block_descriptor(facts, long_lba=long_lba)
    device_specific = _DPOFUA | (_WP if write_protected else 0)
    rest = len(descriptor) + len(body)
    if cdb[0] == MODE_SENSE_6:
        head = struct.pack(">4B", 3 + rest, 0, device_specific, len(descriptor))
    else:
        flags = _LONGLBA if descriptor and long_lba else 0
        head = struct.pack(">HBBBxH", 6 + rest, 0, device_specific, flags, len(descriptor))
    return head + descriptor + body


def block_descriptor(facts: Facts, *, long_lba: bool) -> bytes:
    """The block descriptor of a disk (SBC-3 6.4.2): FFFFFFFFh blocks where the short one has no
    room for their number."""
    if long_lba:
        return struct.pack(">Q4xI", facts.blocks, facts.block_size)
    return struct.pack(">II", min(facts.blocks, 0xFFFFFFFF), facts.block_size)


def useful_cdbs(pages: ModePages) -> Iterator[bytes]:
    """What initiators really send: each page by itself and all of them, no subpages, current and
    changeable values, with and without block descriptors."""
    for page in (*(code for code, subpage in pages.current if not subpage), ALL_PAGES):
        for control in (PageControl.CURRENT, PageControl.CHANGEABLE):
            for flags in (0x00, 0x08):
                asked = control << 6 | page
                yield bytes((MODE_SENSE_6, flags, asked, 0, 0, 0))
                yield bytes((MODE_SENSE_10, flags, asked, *bytes(7)))


def _is_asked_for(code: Code, page: int, subpage: int) -> bool:
    """SPC-4 table 182: subpage FFh is a page with all its subpages; page 3Fh all pages, without
    their subpages when the subpage is 00h."""
    if page not in (ALL_PAGES, code[0]):
        return False
    if subpage == ALL_SUBPAGES:
        return True
    return code[1] == subpage and (subpage == 0 or page != ALL_PAGES)


def _unknown(pages: ModePages, cdb: bytes) -> tuple[int, int | None]:
    """Which field of the CDB is wrong: the page code, or the subpage of a page that is there."""
    page = cdb[2] & 0x3F
    known = page == ALL_PAGES or any(code == page for code, _ in pages.current)
    return (3, None) if known else (2, 5)


def _with_flags(code: Code, page: bytes) -> bytes:
    """PS: every page can be saved."""
    return bytes((page[0] | _PS | (_SPF if code[1] else 0),)) + page[1:]
