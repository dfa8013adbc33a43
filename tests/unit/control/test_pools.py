"""Use cases of pools."""

from __future__ import annotations

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
