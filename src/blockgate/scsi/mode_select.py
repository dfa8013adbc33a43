"""MODE SELECT (SPC-4 6.11, 6.12): the parameter list is checked as a whole before any of it is
done."""

from __future__ import annotations

from typing import Final

from blockgate.scsi.facts import Facts
from blockgate.scsi.mode_pages import Code, ModePages, header_bytes
from blockgate.scsi.sense import invalid_cdb, invalid_parameter, list_length

MODE_SELECT_6: Final = 0x15

_PF: Final = 0x10
_SP: Final = 0x01
_PAGE_CODE: Final = 0x3F
_SPF: Final = 0x40
_LONGLBA: Final = 0x01


def saves(cdb: bytes) -> bool:
    """SP: the pages are to be saved as well."""
    return bool(cdb[1] & _SP)


def decode(facts: Facts, pages: ModePages, cdb: bytes, data: bytes) -> dict[Code, bytes]:
    """The pages of a parameter list, checked. Raises CheckCondition; an empty list has none."""
    if not cdb[1] & _PF:
        # The list would have a form of the vendor's own (SPC-4 6.11), and there is none.
        raise invalid_cdb(1, 4)
    short = cdb[0] == MODE_SELECT_6
    announced = cdb[4] if short else int.from_bytes(cdb[7:9], "big")
    if announced == 0:
        return {}
    header = 4 if short else 8
    if len(data) < announced or announced < header:
        raise list_length()
    data = data[:announced]
    if data[1 if short else 2]:
        raise invalid_parameter(1 if short else 2)  # MEDIUM TYPE of a disk is 00h
    length = data[3] if short else int.from_bytes(data[6:8], "big")
    long_lba = not short and bool(data[4] & _LONGLBA)
    if len(data) < header + length:
        raise list_length()
    if length:
        _check_block_descriptor(facts, data[header : header + length], header, long_lba=long_lba)
    return _pages(pages, data, header + length)


def _check_block_descriptor(facts: Facts, descriptor: bytes, at: int, *, long_lba: bool) -> None:
    """The block length is what it is, and so is the number of blocks: 0 and all ones leave it as
    it is (SBC-3 6.4.2)."""
    size = 16 if long_lba else 8
    if len(descriptor) != size:
        raise invalid_parameter(3 if at == 4 else 6)
    width = 8 if long_lba else 4
    blocks = int.from_bytes(descriptor[:width], "big")
    all_ones = (1 << 8 * width) - 1
    if blocks not in (0, all_ones, facts.blocks):
        raise invalid_parameter(at)
    # In the short form a reserved byte stands before the three of the block length.
    if int.from_bytes(descriptor[-4:], "big") & (all_ones if long_lba else 0xFFFFFF) != (
        facts.block_size
    ):
        raise invalid_parameter(at + size - 3)


def _pages(pages: ModePages, data: bytes, at: int) -> dict[Code, bytes]:
    found: dict[Code, bytes] = {}
    while at < len(data):
        if len(data) < at + 2:
            raise list_length()
        long_format = bool(data[at] & _SPF)
        if long_format and len(data) < at + 4:
            raise list_length()
        code = (data[at] & _PAGE_CODE, data[at + 1] if long_format else 0)
        now = pages.current.get(code)
        if now is None or bool(code[1]) != long_format:
            raise invalid_parameter(at, 5)
        head = header_bytes(code)
        length = int.from_bytes(data[at + 2 : at + 4], "big") if long_format else data[at + 1]
        if head + length != len(now):
            raise invalid_parameter(at + head - (2 if long_format else 1))
        if len(data) < at + len(now):
            raise list_length()
        # PS is reserved here, and ignored: initiators send back what MODE SENSE gave them.
        page = now[:head] + data[at + head : at + len(now)]
        pages.check(code, page, at)
        found[code] = page
        at += len(now)
    return found
