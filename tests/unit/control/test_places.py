"""One place has one name, whatever path leads there."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from blockgate.control import looks as looks_module
from blockgate.control.looks import HANGING_MAX, Look, NoAnswer
from blockgate.model.config import Pool
from blockgate.model.errors import Conflict, Refused, Unavailable
from blockgate.model.names import PoolName
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


async def test_what_the_gateway_keeps_for_itself_is_no_data(lab: Lab) -> None:
    control, kept = lab.control, str(lab.state / "state.db")
    document = {"volumes": [{"name": "state/a", "adopt": kept}]}
    await control.pool_add(ADMIN, new_id(), "state", directory=str(lab.state))
    (lab.root / "link").symlink_to(lab.state / "secret.key")
    for change in (
        control.volume_adopt(ADMIN, new_id(), "state/a", kept),
        control.apply(ADMIN, new_id(), document),
        control.volume_create(ADMIN, new_id(), "main/a", source=str(lab.root / "link")),
    ):
        with pytest.raises(Refused, match="the gateway itself"):
            await change
    assert await control.volume_list(ADMIN) == []


async def test_nothing_is_made_in_a_mount_point_that_is_empty(lab: Lab) -> None:
    """It would be gone as soon as the pool's own file system is there again."""
    control, away, image = lab.control, lab.root / "away", lab.root / "image"
    image.write_bytes(bytes(4096))
    await control.volume_create(ADMIN, new_id(), "main/a", "1M")
    lab.pool.rename(away)
    lab.pool.mkdir()
    for change in (
        control.volume_create(ADMIN, new_id(), "main/b", "1M"),
        control.volume_create(ADMIN, new_id(), "main/b", source=str(image)),
        control.apply(ADMIN, new_id(), {"volumes": [{"name": "main/b", "size": "1M"}]}),
    ):
        with pytest.raises(Unavailable, match=r"Mount.*volume forget main/a") as caught:
            await change
        assert caught.value.code == "pool-away"
    assert not (lab.pool / "b.img").exists()
    await control.volume_forget(ADMIN, new_id(), "main/a")
    await control.volume_create(ADMIN, new_id(), "main/b", "1M")


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


@contextmanager
def waits_of(seconds: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks_module, "WAIT_S", seconds)
        yield


async def lose_looks(lab: Lab, name: str, how_many: int) -> None:
    """That many looks at a pool, of each kind that guards take, which are never answered."""
    core = lab.control._core
    pool = core.pool(PoolName(name))
    assert isinstance(pool, Pool)
    never = asyncio.Event()
    with waits_of(0.01):
        for kind in (Look.PROBE, Look.DATA, Look.PLACE):
            for _ in range(how_many):
                with suppress(NoAnswer):
                    await core.looks.look(kind, pool, never.wait, afresh=True)


async def test_a_guard_does_not_take_the_silence_of_before_for_nobody(lab: Lab) -> None:
    """One look was lost, and the pool answers again: a guard asks it, and is answered."""
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    (lab.pool / ".blockgate" / "a.json").unlink()
    (lab.root / "link").symlink_to(lab.pool)
    await lose_looks(lab, "main", 1)
    with waits_of(3600.0):
        with pytest.raises(Conflict, match="is the data of volume main/a"):
            await lab.control.volume_adopt(ADMIN, new_id(), "main/b", "a.img")
        with pytest.raises(Conflict, match="same place as pool main"):
            await lab.control.pool_add(ADMIN, new_id(), "two", directory=str(lab.root / "link"))


async def test_what_may_belong_to_a_silent_pool_is_refused(lab: Lab) -> None:
    (dead := lab.root / "dead").mkdir()
    await lab.control.pool_add(ADMIN, new_id(), "dead", directory=str(dead))
    await lab.control.volume_create(ADMIN, new_id(), "dead/v", "1M")
    os.link(dead / "v.img", lab.pool / "v.raw")
    (lab.root / "link").symlink_to(dead)
    await lose_looks(lab, "dead", HANGING_MAX)
    with waits_of(3600.0):
        with pytest.raises(Unavailable, match="Pool dead does not answer"):
            await lab.control.volume_adopt(ADMIN, new_id(), "main/b", "v.raw")
        document = {"volumes": [{"name": "main/b", "adopt": str(lab.pool / "v.raw")}]}
        with pytest.raises(Unavailable, match="Pool dead does not answer"):
            await lab.control.apply(ADMIN, new_id(), document)
        with pytest.raises(Unavailable, match="Pool dead does not answer"):
            await lab.control.pool_add(ADMIN, new_id(), "two", directory=str(lab.root / "link"))
        # Nothing can be lost by this.
        assert (await lab.control.volume_create(ADMIN, new_id(), "main/w", "1M")).state == "ready"


async def test_a_silent_pool_on_another_file_system_is_in_nobodys_way(lab: Lab) -> None:
    (side := lab.root / "side").mkdir()
    (lab.pool / "old.raw").write_bytes(b"old" * 4096)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as dead:
        if Path(dead).stat().st_dev == lab.pool.stat().st_dev:
            pytest.skip("no second file system")
        await lab.control.pool_add(ADMIN, new_id(), "dead", directory=dead)
        await lab.control.volume_create(ADMIN, new_id(), "dead/v", "1M")
        await lose_looks(lab, "dead", HANGING_MAX)
        with waits_of(3600.0):
            await lab.control.volume_adopt(ADMIN, new_id(), "main/b", "old.raw")
            await lab.control.pool_add(ADMIN, new_id(), "side", directory=str(side))
            inside = Path(dead) / "inside"
            inside.mkdir()
            with pytest.raises(Unavailable, match="Pool dead does not answer"):
                await lab.control.pool_add(ADMIN, new_id(), "in", directory=str(inside))


async def _labels_of(lab: Lab, *names: str, file: str) -> dict[str, bytes]:
    """The labels that each of these volumes had when it was the only one of `file`."""
    labels = {}
    for name in names:
        path = lab.pool / ".blockgate" / f"{name}.json"
        if not path.exists():
            await lab.control.volume_adopt(ADMIN, new_id(), f"main/{name}", file)
        labels[name] = path.read_bytes()
        await lab.control.volume_forget(ADMIN, new_id(), f"main/{name}")
        path.unlink()
    return labels


async def test_a_scan_gives_no_data_to_two_volumes(lab: Lab) -> None:
    """The label of a.img was gone, the file adopted as another volume, and then it came back."""
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    labels = await _labels_of(lab, "a", file="a.img")
    await lab.control.volume_adopt(ADMIN, new_id(), "main/b", "a.img")
    (lab.pool / ".blockgate" / "a.json").write_bytes(labels["a"])
    for dry_run in (True, False):
        a, b = await lab.control.pool_scan(ADMIN, new_id(), "main", dry_run=dry_run)
        assert (a.status, a.reason) == ("problem", "its data is that of volume main/b")
        assert "blockgate volume forget main/b" in a.hint and b.status == "known"
    document = {"volumes": [{"name": "main/a", "uuid": made.uuid}]}
    with pytest.raises(Conflict, match="is the data of volume main/b"):
        await lab.control.apply(ADMIN, new_id(), document)
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["b"]
    await lab.control.volume_forget(ADMIN, new_id(), "main/b")
    (lab.pool / ".blockgate" / "b.json").unlink()
    (a,) = await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert (a.status, a.uuid) == ("registered", made.uuid), "what the hint says works"


async def test_a_scan_sees_one_file_behind_two_names(lab: Lab) -> None:
    for name in ("a", "b"):
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")
    await lab.control.volume_forget(ADMIN, new_id(), "main/b")
    (lab.pool / "b.img").unlink()
    os.link(lab.pool / "a.img", lab.pool / "b.img")
    _, b = await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert (b.status, b.reason) == ("problem", "its data is that of volume main/a")
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    a, b = await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert (a.status, b.status) == ("registered", "problem")


async def test_two_labels_of_one_file_do_not_hide_the_others(lab: Lab) -> None:
    (lab.pool / "d.raw").write_bytes(bytes(1 << 20))
    for name in ("a", "z"):
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")
        await lab.control.volume_forget(ADMIN, new_id(), f"main/{name}")
    for name, label in (await _labels_of(lab, "d", "e", file="d.raw")).items():
        (lab.pool / ".blockgate" / f"{name}.json").write_bytes(label)
    for status in ("found", "registered"):
        dry_run = status == "found"
        rows = await lab.control.pool_scan(ADMIN, new_id(), "main", dry_run=dry_run)
        found = {row.name: row.status for row in rows}
        assert found == {"a": status, "d": status, "e": "problem", "z": status}
        assert rows[2].reason == "its data is that of volume main/d"
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["a", "d", "z"]
