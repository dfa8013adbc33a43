"""FLUSH, FUA and write-through keep their promise when the power goes; nothing else is promised.

The first test is the one that gives the others their worth: on this file system a write that
nobody flushed is lost, so a FLUSH that did nothing would lose the rest as well.
"""

from __future__ import annotations

import pytest

from tests.conformance.nbdclient import Cmd, CmdFlag
from tests.lab.site import SIZE, Site

OLD, NEW = b"old!" * 1024, b"new!" * 1024
IO = pytest.mark.parametrize("io", ["buffered", "direct"])


@pytest.fixture
def settled(site: Site, io: str) -> str:
    """An export full of OLD, all of it on stable storage."""
    export = site.export(io=io)
    with site.connect(export) as nbd:
        nbd.write(0, OLD * (SIZE // len(OLD)))
        nbd.flush()
    return export


@IO
def test_a_write_without_flush_is_lost(site: Site, settled: str) -> None:
    with site.connect(settled) as nbd:
        nbd.write(8192, NEW)
        assert nbd.read(8192, len(NEW)) == NEW
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(8192, len(NEW)) == OLD


@IO
def test_a_flushed_write_is_kept(site: Site, settled: str) -> None:
    with site.connect(settled) as nbd:
        nbd.write(8192, NEW)
        nbd.write(SIZE - 4096, NEW)
        nbd.write(12345, b"unaligned")
        nbd.flush()
        nbd.write(65536, NEW)
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(8192, 4096) == NEW
        assert nbd.read(SIZE - 4096, 4096) == NEW
        assert nbd.read(12345, 9) == b"unaligned"
        assert nbd.read(65536, 4096) == OLD, "written after the FLUSH"


@IO
def test_flush_covers_what_other_connections_wrote(site: Site, settled: str) -> None:
    """NBD_FLAG_CAN_MULTI_CONN."""
    with (
        site.connect(settled) as one,
        site.connect(settled, unix=True) as two,
        site.connect(settled) as three,
    ):
        one.write(0, NEW)
        two.write(40960, NEW)
        three.flush()
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(0, 4096) == NEW
        assert nbd.read(40960, 4096) == NEW


@IO
@pytest.mark.parametrize("length", [1, 4096, 5000, 1 << 20])
def test_fua_is_kept_without_flush(site: Site, settled: str, length: int) -> None:
    data = (NEW * (length // len(NEW) + 1))[:length]
    with site.connect(settled) as nbd:
        nbd.write(100_000, data, flags=CmdFlag.FUA)
        nbd.write(2 << 20, NEW)
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(100_000, length) == data


@IO
def test_fua_goes_the_way_that_it_should(site: Site, settled: str, treated_as: str) -> None:
    """What these tests are worth: on a local file system the write itself is the stable one."""
    before = site.faults.seen("dsync", site.path(settled))
    with site.connect(settled) as nbd:
        nbd.write(8192, NEW, flags=CmdFlag.FUA)
    after = site.faults.seen("dsync", site.path(settled))
    assert (after > before) == (treated_as == "local")


@IO
@pytest.mark.parametrize("flags", [CmdFlag.FUA, CmdFlag.FUA | CmdFlag.NO_HOLE])
def test_zeroes_with_fua_are_kept(site: Site, settled: str, flags: int) -> None:
    with site.connect(settled) as nbd:
        nbd.write_zeroes(8192, 65536, flags=flags)
        nbd.write_zeroes(1000_000, 777, flags=flags)
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(8192, 65536) == bytes(65536)
        assert nbd.read(1000_000, 777) == bytes(777)


@IO
def test_trim_with_fua_is_kept(site: Site, settled: str) -> None:
    with site.connect(settled) as nbd:
        nbd.trim(1 << 20, 1 << 20, flags=CmdFlag.FUA)
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(1 << 20, 1 << 20) == bytes(1 << 20)


@IO
def test_a_write_through_volume_keeps_everything(site: Site, io: str) -> None:
    export = site.export(io=io, cache="write-through")
    with site.connect(export) as nbd:
        nbd.write(0, NEW)
        nbd.write(50_001, b"unaligned")
        nbd.write(1 << 20, NEW * 512)
        nbd.write_zeroes(4096 + (1 << 20), 4096)
        nbd.trim(8192 + (1 << 20), 4096)
        site.faults.power_loss()
    site.power_loss()
    with site.connect(export) as nbd:
        assert nbd.read(0, 4096) == NEW
        assert nbd.read(50_001, 9) == b"unaligned"
        assert nbd.read(1 << 20, 4096) == NEW
        assert nbd.read(4096 + (1 << 20), 8192) == bytes(8192)
        assert nbd.read(12288 + (1 << 20), 4096) == NEW


@IO
def test_many_flushes_among_many_writes(site: Site, settled: str) -> None:
    """Pipelined: each FLUSH covers the writes that were answered before it was sent."""
    with site.connect(settled) as nbd:
        for turn in range(8):
            writes = [
                nbd.submit(Cmd.WRITE, (turn * 32 + number) * 4096, payload=NEW)
                for number in range(32)
            ]
            assert not any(reply.error for reply in nbd.wait_all(writes))
            flush = nbd.submit(Cmd.FLUSH)
            more = nbd.submit(Cmd.WRITE, SIZE - 4096 * (turn + 1), payload=NEW)
            assert not nbd.wait(flush).error
            assert not nbd.wait(more).error
        site.faults.power_loss()
    site.power_loss()
    with site.connect(settled) as nbd:
        assert nbd.read(0, 8 * 32 * 4096) == NEW * (8 * 32)


def test_a_clean_stop_makes_everything_stable(site: Site) -> None:
    """SIGTERM drains and syncs: the power may go as soon as the daemon has ended."""
    export = site.export()
    with site.connect(export) as nbd:
        nbd.write(0, NEW)
    site.gateway.stop()
    site.faults.power_loss()
    site.gateway.start()
    with site.connect(export) as nbd:
        assert nbd.read(0, 4096) == NEW


def test_a_failed_flush_is_never_made_good_by_the_next(site: Site) -> None:
    """Linux reports a failed write-back once and marks the pages clean."""
    export = site.export()
    with site.connect(export) as nbd:
        nbd.write(0, NEW)
        site.faults.fail("sync", count=1, path=site.path(export))
        assert nbd.request(Cmd.FLUSH).error == 5
        assert nbd.request(Cmd.FLUSH).error == 5, "the data may be lost: no FLUSH may succeed"
        assert nbd.request(Cmd.WRITE, 4096, payload=NEW).error == 5
        assert nbd.request(Cmd.WRITE, 4096, payload=NEW, flags=CmdFlag.FUA).error == 5
        assert nbd.request(Cmd.READ, 0, 4096).error == 0
    assert site.volume(export)["health"] == "degraded"
    assert site.volume(export)["writes_refused"] is True
