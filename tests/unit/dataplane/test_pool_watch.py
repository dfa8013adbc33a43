"""Looks at pools: who is told what, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from blockgate.control import ports
from blockgate.dataplane import pool_watch
from blockgate.dataplane.iscsi import Iscsi
from blockgate.dataplane.pool_watch import PoolWatch, Room, measure
from blockgate.model.parameters import TargetParameters
from blockgate.scsi import Attention
from tests.unit.dataplane.scene import BOB, LUN_1, Site, lun_view, settle, target_view

MODE_PARAMETERS_CHANGED = Attention.MODE_PARAMETERS_CHANGED
THRESHOLD = "1a081c02ff00"  # MODE SENSE, Logical Block Provisioning
LOW = Attention.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED
GIB = 1 << 30


class Pools:
    """Pools as full as a test says; those in `hung` do not answer."""

    def __init__(self) -> None:
        self.available = 50
        self.size = 100
        self.hung: set[str] = set()
        self.looks: list[str] = []

    async def __call__(self, paths: Sequence[str]) -> Mapping[str, Room]:
        self.looks.extend(paths)
        if self.hung & set(paths):
            await asyncio.Event().wait()
        return {path: Room(self.size * GIB, self.available * GIB, GIB) for path in paths}


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    monkeypatch.setattr(pool_watch, "LOOK_SECONDS", 0.01)
    return Pools()


async def start(pools: Pools, *spaces: str, threshold: int = 10) -> Site:
    site = Site()
    site.iscsi = Iscsi(site.wire, lambda _volume: (), measure=pools)
    site.wire.iscsi = site.iscsi
    await site.set_targets(in_pools(*spaces, threshold=threshold))
    return site


def in_pools(*spaces: str, threshold: int) -> dict[str, ports.TargetView]:
    luns = {
        number: replace(
            lun_view(number + 2, uuid=f"{number:032}", read_only=False),
            space=space,
        )
        for number, space in enumerate(spaces, 1)
    }
    return target_view(luns, parameters=TargetParameters(pool_threshold=threshold))


def told(site: Site) -> int:
    return sum(bool(what[2] & LOW) for what in site.wire.named("attend"))


async def looked(pools: Pools, times: int = 2) -> None:
    seen = len(pools.looks)
    async with asyncio.timeout(60):
        while len(pools.looks) < seen + times:
            await asyncio.sleep(0.005)
    await settle()


async def test_told_once_for_each_time_that_it_runs_low(pools: Pools) -> None:
    site = await start(pools, "/pool/a")
    await site.login()
    await looked(pools)
    assert told(site) == 0
    for available, times in ((9, 1), (8, 1), (10, 1), (11, 1), (9, 2)):
        pools.available = available
        await looked(pools)
        assert told(site) == times, f"{available} percent free"
    site.iscsi.stop()


async def test_the_less_there_is_the_sooner_it_is_looked_at_again(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning has to come before a write that finds no room, however fast the pool fills."""
    monkeypatch.setattr(pool_watch, "LOOK_SECONDS", 3600)
    monkeypatch.setattr(pool_watch, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(pool_watch, "FILLED_BYTES_PER_SECOND", 1000 * GIB)
    site = await start(pools, "/pool/a")
    await site.login()
    await looked(pools)
    assert told(site) == 0
    pools.available = 9
    await looked(pools, 1)
    assert told(site) == 1
    looks = len(pools.looks)
    await asyncio.sleep(0.1)
    assert len(pools.looks) == looks, "once told there is no hurry any more"
    site.iscsi.stop()


@pytest.mark.parametrize(
    ("available", "seconds"),
    [(1 << 50, 3), (24 * GIB, 3), (16 * GIB, 2), (8 * GIB, 1), (GIB, 0.2), (0, 0.2)],
)
def test_when_a_pool_is_looked_at_again(available: int, seconds: float) -> None:
    """Before half of what is left is gone, at 4 GiB a second."""
    assert Room(1 << 50, available, 0).look_seconds == seconds


async def test_a_write_without_room_goes_on_when_everybody_has_been_told(pools: Pools) -> None:
    site = await start(pools, "/pool/a")
    session, _ = await site.login(), await site.login(BOB)
    await looked(pools)
    for task in (7, 8):
        site.iscsi.commands.no_room(task, session, 3)
    assert told(site) == 0 and not site.wire.named("resume"), "it is only asked for"
    await settle()
    calls = [name for name in site.wire.names() if name in ("attend", "resume")]
    assert calls[-4:] == ["attend", "attend", "resume", "resume"]
    assert told(site) == 2, "each nexus, once"
    site.iscsi.commands.no_room(9, session, 3)
    assert site.wire.named("resume")[-1] == (9,) and told(site) == 2
    site.iscsi.stop()


async def test_a_look_that_began_before_a_write_without_room_has_old_news(pools: Pools) -> None:
    site = await start(pools, "/pool/a")
    session = await site.login()
    await looked(pools)
    (unit,) = site.iscsi.units.all()
    finish = asyncio.Event()

    async def slow(paths: Sequence[str]) -> Mapping[str, Room]:
        await finish.wait()
        return await pools(paths)

    watch = PoolWatch(site.iscsi.units.all, slow)
    watch.wake()
    await settle()
    site.iscsi.pools.stop()
    site.iscsi.commands.no_room(7, session, 3)
    finish.set()
    await settle()
    assert unit.logical.pool_is_low
    watch.stop()
    site.iscsi.stop()


async def test_who_comes_to_a_pool_that_is_low_is_told(pools: Pools) -> None:
    site = await start(pools, "/pool/a")
    pools.available = 9
    await looked(pools)
    await site.login()
    (params,) = [what[2] for what in site.wire.named("login_done")]
    assert params.attentions == {LUN_1: Attention.POWER_ON | LOW}
    site.iscsi.stop()


async def test_the_threshold_is_told_and_holds_while_the_size_of_the_pool_hardly_changes(
    pools: Pools,
) -> None:
    """THRESHOLD COUNT of the mode page (SBC-3 6.4.7), in MiB. A file system of which others take
    and give back is now a little smaller, now a little larger."""
    site = await start(pools, "/pool/a")
    session = await site.login()
    for size, percent in ((100, 10), (101, 10), (99, 10), (200, 10), (200, 5)):
        pools.size = size
        if percent != 10:
            await site.set_targets(in_pools("/pool/a", threshold=percent))
        await looked(pools)
        reply = site.reply(site.command(session, THRESHOLD))
        told = 100 if size < 200 else size
        assert reply is not None
        assert int.from_bytes(reply[1][-4:], "big") == told * percent * 1024 // 100
    changed = [what[2] for what in site.wire.named("attend") if what[2] & MODE_PARAMETERS_CHANGED]
    assert len(changed) == 2
    site.iscsi.stop()


async def test_no_threshold_no_warning(pools: Pools) -> None:
    site = await start(pools, "/pool/a", threshold=0)
    session = await site.login()
    pools.available = 0
    await looked(pools)
    assert told(site) == 0
    site.iscsi.commands.no_room(7, session, 3)
    await settle()
    assert told(site) == 0 and site.wire.named("resume") == [(7,)]
    site.iscsi.stop()


async def test_a_unit_whose_pool_is_not_known_is_not_looked_at(pools: Pools) -> None:
    site = await start(pools, "")
    session = await site.login()
    reply = site.reply(site.command(session, "1201b200ff00"))
    assert reply is not None and reply[1][4] == 0, "no threshold exponent"
    await asyncio.sleep(0.05)
    assert pools.looks == []


async def test_a_pool_that_hangs_is_asked_once_and_others_go_on(pools: Pools) -> None:
    pools.hung = {"/hung/a"}
    site = await start(pools, "/hung/a", "/pool/b")
    await looked(pools, 4)
    assert pools.looks.count("/hung/a") == 1
    assert pools.looks.count("/pool/b") >= 3
    site.iscsi.stop()


def test_the_room_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    room = measure([str(file), str(tmp_path / "none")])
    assert list(room) == [str(file)]
    assert 0 < room[str(file)].available <= room[str(file)].size
    assert room[str(file)].used >= 1 << 20
