"""Use cases of pools."""

from __future__ import annotations

import asyncio

import pytest

from blockgate.model.errors import Conflict, InUse, InvalidInput, NotFound, Refused, Unavailable
from tests.unit.control.harness import ADMIN, Lab, new_id


async def test_a_pool_shows_its_space(lab: Lab) -> None:
    info = await lab.control.pool_info(ADMIN, "main")
    assert info.reachable and info.kind == "directory" and info.volumes == 0
    assert info.total_bytes is not None and info.free_bytes is not None
    assert 0 < info.free_bytes <= info.total_bytes


async def test_what_is_no_pool(lab: Lab) -> None:
    (lab.root / "file").write_text("")
    for name, place, error in [
        ("main", str(lab.root), Conflict),
        ("p", str(lab.root / "none"), Unavailable),
        ("p", str(lab.root / "file"), InvalidInput),
        ("p", "relative", InvalidInput),
        ("p", "/", Refused),
        ("p", str(lab.pool), Conflict),
        ("a b", str(lab.root), InvalidInput),
    ]:
        with pytest.raises(error):
            await lab.control.pool_add(ADMIN, new_id(), name, directory=place)
    for places in ({}, {"directory": "/a", "device": "/b"}):
        with pytest.raises(InvalidInput, match="either"):
            await lab.control.pool_add(ADMIN, new_id(), "p", **places)
    with pytest.raises(InvalidInput, match="Use another path"):
        await lab.control.pool_add(ADMIN, new_id(), "p", directory=str(lab.root / "file"))
    with pytest.raises(InvalidInput, match=r"not a block device.*Use --directory"):
        await lab.control.pool_add(ADMIN, new_id(), "p", device=str(lab.root))
    assert [pool.name for pool in await lab.control.pool_list(ADMIN)] == ["main"]


async def test_a_pool_that_holds_something_stays(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    with pytest.raises(InUse):
        await lab.control.pool_remove(ADMIN, new_id(), "main")
    await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    await lab.control.pool_remove(ADMIN, new_id(), "main")
    with pytest.raises(NotFound):
        await lab.control.pool_info(ADMIN, "main")
    await lab.control.pool_add(ADMIN, new_id(), "again", directory=str(lab.pool))
    await lab.control.volume_create(ADMIN, new_id(), "again/a", "1M")


@pytest.mark.parametrize("leaving", ["delete", "forget"])
async def test_what_leaves_during_a_scan_does_not_come_back_by_it(lab: Lab, leaving: str) -> None:
    """The scan has seen the label, and comes to its end when the volume has gone."""
    control, lock = lab.control, lab.control._core.commit_lock
    await control.volume_create(ADMIN, new_id(), "main/a", "1M")
    leave = control.volume_delete if leaving == "delete" else control.volume_forget
    async with lock:
        tasks = []
        for number, work in enumerate(
            (leave(ADMIN, new_id(), "main/a"), control.pool_scan(ADMIN, new_id(), "main")), 1
        ):
            tasks.append(asyncio.ensure_future(work))
            async with asyncio.timeout(60):
                while len(lock._waiters or ()) < number:
                    await asyncio.sleep(0.01)
    await tasks[0]
    (found,) = await tasks[1]
    assert found.status == "problem" and "Scan again" in found.hint
    assert await control.volume_list(ADMIN) == []
    again = await control.pool_scan(ADMIN, new_id(), "main")
    assert [one.status for one in again] == ([] if leaving == "delete" else ["registered"])
