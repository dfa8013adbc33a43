"""A pool that hangs is waited for once, and nobody who is not concerned waits at all."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from blockgate.backstores.directory import DirectoryBackstore
from blockgate.control import looks as looks_module
from blockgate.control.looks import AGAIN_S, Look, Looks, NoAnswer
from blockgate.model.config import Pool, PoolKind
from blockgate.model.names import PoolName
from tests.unit.control.harness import ADMIN, Lab, new_id

POOL = Pool(PoolName("p"), PoolKind.DIRECTORY, "/p")
NEVER_S = 3600.0


class Disk:
    """Answers when it is `well`; counts how often it was asked."""

    def __init__(self) -> None:
        self.well = asyncio.Event()
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        await self.well.wait()
        return "well"


async def made_silent(looks: Looks, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for in vain once; who waits again waits for ever."""
    monkeypatch.setattr(looks_module, "WAIT_S", 0.01)
    with pytest.raises(NoAnswer, match="did not answer within"):
        await looks.look(Look.PROBE, POOL, disk.ask)
    monkeypatch.setattr(looks_module, "WAIT_S", NEVER_S)


async def test_who_is_silent_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, disk = Looks(), Disk()
    monkeypatch.setattr(looks_module, "AGAIN_S", NEVER_S)
    await made_silent(looks, disk, monkeypatch)
    for kind in (Look.PROBE, Look.DATA):
        with pytest.raises(NoAnswer, match="has not answered for"):
            await looks.look(kind, POOL, disk.ask)
    assert disk.asked == 1
    disk.well.set()
    while looks._silent:
        await asyncio.sleep(0)
    assert await looks.look(Look.PROBE, POOL, disk.ask) == "well"


async def test_a_look_that_is_lost_does_not_keep_a_pool_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, lost, disk = Looks(), Disk(), Disk()
    monkeypatch.setattr(looks_module, "AGAIN_S", 0.0)
    asked = iter([lost.ask, disk.ask])

    async def ask() -> str:
        return await next(asked)()

    monkeypatch.setattr(looks_module, "WAIT_S", 0.01)
    with pytest.raises(NoAnswer):
        await looks.look(Look.PROBE, POOL, ask)
    monkeypatch.setattr(looks_module, "WAIT_S", NEVER_S)
    disk.well.set()
    with pytest.raises(NoAnswer):  # and begins another look
        await looks.look(Look.PROBE, POOL, ask)
    while looks._silent:
        await asyncio.sleep(0)
    assert (lost.asked, disk.asked) == (1, 1)
    assert await looks.look(Look.DATA, POOL, disk.ask) == "well"


async def test_looks_that_hang_slow_others_down_and_do_not_end_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    looks, disk = Looks(lambda: now), Disk()
    await made_silent(looks, disk, monkeypatch)
    begun = []
    for second in range(int(AGAIN_S) * 20):
        now, asked = float(second), disk.asked
        with pytest.raises(NoAnswer):
            await looks.look(Look.PROBE, POOL, disk.ask)
        await asyncio.sleep(0)
        if disk.asked > asked:
            begun.append(now / AGAIN_S)
    assert begun == [1, 2, 3, 4, 6, 10, 18]


async def test_a_pool_that_hangs_is_away_wherever_it_is_shown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a volume of another pool is made meanwhile, without a wait for it."""
    control, other = lab.control, lab.root / "other"
    other.mkdir()
    await control.pool_add(ADMIN, new_id(), "dead", directory=str(other))
    await control.volume_create(ADMIN, new_id(), "dead/v", "1M")
    well, probe = threading.Event(), DirectoryBackstore.probe

    def hang(self: DirectoryBackstore) -> Any:
        if self.pool.name == "dead":
            well.wait()
        return probe(self)

    monkeypatch.setattr(DirectoryBackstore, "probe", hang)
    monkeypatch.setattr(looks_module, "AGAIN_S", NEVER_S)
    monkeypatch.setattr(looks_module, "WAIT_S", 0.01)
    assert not (await control.pool_info(ADMIN, "dead")).reachable
    monkeypatch.setattr(looks_module, "WAIT_S", NEVER_S)
    try:
        (seen,) = await control.volume_list(ADMIN)
        (dead, _) = (await control.tree(ADMIN)).pools
        (drawn,) = dead.volumes
        assert not dead.pool.reachable
        assert (seen.state, drawn.volume.state) == ("away", "away")
        assert "has not answered for" in seen.reason
        assert (await control.volume_info(ADMIN, "dead/v")).state == "away"
        assert (await control.volume_create(ADMIN, new_id(), "main/v", "1M")).state == "ready"
    finally:
        well.set()
    while (await control.volume_info(ADMIN, "dead/v")).state != "ready":
        await asyncio.sleep(0.01)
