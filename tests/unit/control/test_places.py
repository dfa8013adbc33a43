"""One place has one name, whatever path leads there."""

from __future__ import annotations

import os

import pytest

from blockgate.model.errors import Conflict, Refused
from tests.unit.control.harness import ADMIN, Lab, new_id


async def test_a_pool_by_another_path(lab: Lab) -> None:
    (lab.root / "link").symlink_to(lab.pool)
    for path in ("link", "pool/../pool"):
        with pytest.raises(Conflict, match="same place as pool main") as caught:
            real = str(lab.root / path).replace("pool/../", "")
            await lab.control.pool_add(ADMIN, new_id(), "twice", directory=real)
        assert caught.value.code == "exists"
    document = {"pools": [{"name": "twice", "directory": str(lab.root / "link")}]}
    with pytest.raises(Conflict, match="same place as pool main"):
        await lab.control.apply(ADMIN, new_id(), document)
    (lab.root / "root").symlink_to("/")
    with pytest.raises(Refused, match="root directory"):
        await lab.control.pool_add(ADMIN, new_id(), "twice", directory=str(lab.root / "root"))
    assert [pool.name for pool in await lab.control.pool_list(ADMIN)] == ["main"]


async def test_a_link_that_came_to_lead_elsewhere(lab: Lab) -> None:
    other, link = lab.root / "other", lab.root / "link"
    other.mkdir()
    link.symlink_to(other)
    await lab.control.pool_add(ADMIN, new_id(), "second", directory=str(link))
    link.unlink()
    link.symlink_to(lab.pool)
    with pytest.raises(Conflict, match="same place as pool main"):
        await lab.control.volume_create(ADMIN, new_id(), "second/a", "1M")
    document = {"volumes": [{"name": "second/a", "size": "1M"}]}
    with pytest.raises(Conflict, match="same place as pool main"):
        await lab.control.apply(ADMIN, new_id(), document)
    assert not (lab.pool / "a.img").exists()


async def test_a_pool_inside_another(lab: Lab) -> None:
    inner = lab.pool / "inner"
    inner.mkdir()
    (lab.root / "link").symlink_to(inner)
    for path in (inner, lab.root / "link", lab.pool / ".blockgate", lab.root):
        with pytest.raises(Conflict, match="inside") as caught:
            await lab.control.pool_add(ADMIN, new_id(), "nested", directory=str(path))
        assert caught.value.code == "nested" and "main" in str(caught.value)
    assert not (inner / ".blockgate").exists()
    assert not (lab.root / ".blockgate").exists()


async def test_adopted_data_by_another_name(lab: Lab) -> None:
    other = lab.root / "other"
    other.mkdir()
    await lab.control.pool_add(ADMIN, new_id(), "other", directory=str(other))
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    (lab.pool / "old.raw").write_bytes(b"old" * 4096)
    await lab.control.volume_adopt(ADMIN, new_id(), "main/old", "old.raw")
    for name in ("a.img", "old.raw"):
        os.link(lab.pool / name, other / name)
        owner = name.partition(".")[0]
        with pytest.raises(Conflict, match=f"is the data of volume main/{owner}"):
            await lab.control.volume_adopt(ADMIN, new_id(), "other/b", name)
        document = {"volumes": [{"name": "other/b", "adopt": str(other / name)}]}
        with pytest.raises(Conflict, match=f"is the data of volume main/{owner}"):
            await lab.control.apply(ADMIN, new_id(), document)
    assert len(await lab.control.volume_list(ADMIN)) == 2


async def test_a_pool_changes_its_name_in_one_change(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    document = {"prune": True, "pools": [{"name": "new", "directory": str(lab.pool)}]}
    await lab.control.apply(ADMIN, new_id(), document)
    (found,) = await lab.control.pool_scan(ADMIN, new_id(), "new")
    assert found.status == "registered"
    assert (await lab.control.volume_resize(ADMIN, new_id(), "new/a", "2M")).size == 2 << 20
