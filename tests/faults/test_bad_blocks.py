"""Blocks that cannot be read or written: the sense data have the first of them (SBC-3 4.18.1), and
never a later one, for initiators take all blocks before it for good."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import add_target
from tests.lab.site import POOL, Site

pytestmark = pytest.mark.both_io
KIB, MIB = 1 << 10, 1 << 20
UNREAD, UNWRITTEN = (3, 0x11, 0x00), (3, 0x0C, 0x00)
SYNCHRONIZE_CACHE = bytes([0x35]).ljust(10, b"\0")
D_SENSE = 0x04
numbers = itertools.count()
DATA = bytes(range(256)) * (MIB // 256)

io_modes = pytest.mark.parametrize("io", ["buffered", "direct"])


@contextmanager
def disk(site: Site, size: str = "4MiB", **volume: object) -> Iterator[tuple[Session, str]]:
    """A session with a unit of its own, and its file as the fault file system names it."""
    name = f"disk{next(numbers)}"  # the file system is that of both gateways, one after the other
    full = site.gateway.add_volume(size, pool=POOL, name=name, **volume)
    target = add_target(site.gateway, {1: full})
    with Session(target.address, target.name).login() as session:
        session.clear_attentions()
        yield session, site.path(name)


def information(sense: bytes) -> int | None:
    """The INFORMATION field, or what its descriptor has (SPC-4 4.5), if that is valid."""
    if sense[0] == 0x72:
        kind, length, valid, value = struct.unpack_from(">BBBxQ", sense.ljust(20, b"\xff"), 8)
        return int(value) if (kind, length, valid) == (0, 10, 0x80) else None
    return int.from_bytes(sense[3:7], "big") if sense[0] == 0xF0 else None


def told(session: Session, cdb: bytes, *, read: int = 0, write: bytes = b"") -> object:
    """A command's sense: key and codes, and what it has for information."""
    answer = session.command(cdb, read=read, write=write)
    assert answer.status == cdbs.CHECK_CONDITION
    return answer.sense_code, information(answer.sense)


def use_descriptors(session: Session) -> None:
    """Sets D_SENSE in the Control mode page (SPC-4 7.5.8)."""
    parameters = bytes(4) + bytes([0x0A, 0x0A, 0x22 | D_SENSE, 0x10]).ljust(12, b"\0")
    cdb = cdbs.mode_select6(len(parameters))
    assert session.command(cdb, write=parameters).status == cdbs.GOOD


@pytest.mark.parametrize("block_size", [512, 4096])
@io_modes
def test_how_far_a_read_came(site: Site, io: str, block_size: int) -> None:
    read = cdbs.read10(0, 256 * KIB // block_size)
    with disk(site, io=io, block_size=block_size) as (session, path):
        site.faults.short("read", 4096, path=path, end=64 * KIB)
        bad = site.faults.fail("read", path=path, start=64 * KIB, end=68 * KIB)
        expected = (UNREAD, 64 * KIB // block_size)
        assert told(session, read, read=256 * KIB) == expected
        use_descriptors(session)
        assert told(session, read, read=256 * KIB) == expected
        site.faults.remove(bad)
        assert session.command(read, read=256 * KIB).status == cdbs.GOOD


@io_modes
def test_where_it_is_not_known_it_is_the_first_that_may_be_bad(site: Site, io: str) -> None:
    """A command is carried out in pieces, beside one another: of a failed one all may be bad."""
    with disk(site, io=io) as (session, path):
        for start in (900 * KIB, 600 * KIB):
            site.faults.fail("read", path=path, start=start, end=start + 4 * KIB)
        assert told(session, cdbs.read10(8, 2040), read=1020 * KIB) == (UNREAD, 8 + 1024)


@io_modes
def test_what_comes_before_a_block_that_cannot_be_written_was_written(site: Site, io: str) -> None:
    with disk(site, io=io) as (session, path):
        for start in (900 * KIB, 600 * KIB):
            site.faults.fail("write", path=path, start=start, end=start + 4 * KIB)
        assert told(session, cdbs.write10(0, 2048), write=DATA) == (UNWRITTEN, 1024)
        site.faults.remove()
        written = session.command(cdbs.read10(0, 1024), read=512 * KIB)
        assert written.data == DATA[: 512 * KIB]


def test_an_address_beyond_32_bits_has_a_place_in_descriptors_alone(site: Site) -> None:
    lba = 5 << 30
    read = struct.pack(">BxQIxx", 0x88, lba, 8)
    with disk(site, "3TiB") as (session, path):
        site.faults.fail("read", path=path, start=lba * 512, end=lba * 512 + 4096)
        assert told(session, read, read=4096) == (UNREAD, None)
        use_descriptors(session)
        assert told(session, read, read=4096) == (UNREAD, lba)


def test_a_synchronization_that_fails_knows_no_block(site: Site) -> None:
    with disk(site) as (session, path):
        assert session.command(cdbs.write10(0, 8), write=DATA[:4096]).status == cdbs.GOOD
        site.faults.fail("fdatasync", count=1, path=path)
        assert told(session, SYNCHRONIZE_CACHE) == (UNWRITTEN, None)
