"""Use cases of exports and sessions."""

from __future__ import annotations

import asyncio
import os

import pytest

from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Conflict, Forbidden, InUse, InvalidInput, NotFound
from tests.unit.control.harness import ADMIN, Lab, new_id


@pytest.fixture
async def volume(lab: Lab) -> str:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M", cache="write-through")
    return "main/a"


async def test_an_export_is_what_handshakes_see(lab: Lab, volume: str) -> None:
    info = await lab.control.export_add(
        ADMIN, new_id(), volume, read_only=True, tls_required=True, allow=["192.0.2.0/24"]
    )
    assert (info.name, info.ready, info.allow) == ("main/a", True, ("192.0.2.0/24",))
    view = lab.plane.exports["main/a"]
    assert (view.read_only, view.tls_required, view.write_through) == (True, True, True)
    assert [str(n) for n in view.allow] == ["192.0.2.0/24"]
    (one,) = lab.plane.opened.values()
    assert one.gate is not None and one.gate.read_only, "no export may write: nobody may"
    await lab.control.export_add(ADMIN, new_id(), volume, name="rw")
    assert one.gate is not None and not one.gate.read_only
    assert len(lab.plane.opened) == 1, "all exports of a volume share one handle"


async def test_names_are_given_once(lab: Lab, volume: str) -> None:
    await lab.control.export_add(ADMIN, new_id(), volume, name="x")
    with pytest.raises(Conflict):
        await lab.control.export_add(ADMIN, new_id(), volume, name="x")
    with pytest.raises(NotFound):
        await lab.control.export_add(ADMIN, new_id(), "main/none")
    with pytest.raises(InvalidInput):
        await lab.control.export_add(ADMIN, new_id(), volume, name="a b")
    with pytest.raises(InvalidInput):
        await lab.control.export_add(ADMIN, new_id(), volume, name="y", allow=["192.0.2.1/24"])


async def test_the_last_export_closes_the_volume(lab: Lab, volume: str) -> None:
    for name in ("x", "y"):
        await lab.control.export_add(ADMIN, new_id(), volume, name=name)
    await lab.control.export_remove(ADMIN, new_id(), "x")
    assert set(lab.plane.exports) == {"y"} and len(lab.plane.opened) == 1
    await lab.control.export_remove(ADMIN, new_id(), "y")
    assert lab.plane.exports == {} and lab.plane.opened == {}
    with pytest.raises(NotFound):
        await lab.control.export_remove(ADMIN, new_id(), "y")


async def test_sessions_are_not_ended_without_being_told_to(lab: Lab, volume: str) -> None:
    await lab.control.export_add(ADMIN, new_id(), volume, name="x")
    lab.plane.connect("x", 7)
    with pytest.raises(InUse, match=r"127\.0\.0\.1:1"):
        await lab.control.export_remove(ADMIN, new_id(), "x")
    with pytest.raises(InUse):
        await lab.control.export_update(ADMIN, new_id(), "x", read_only=True)
    await lab.control.export_update(ADMIN, new_id(), "x", tls_required=False)
    assert len(await lab.control.sessions(ADMIN)) == 1
    await lab.control.export_update(ADMIN, new_id(), "x", read_only=True, force=True)
    assert await lab.control.sessions(ADMIN) == []
    assert lab.plane.exports["x"].read_only
    lab.plane.connect("x", 8)
    await lab.control.export_remove(ADMIN, new_id(), "x", force=True)
    assert await lab.control.sessions(ADMIN) == []


@pytest.mark.parametrize(
    ("old", "new", "ends"),
    [
        ([], ["192.0.2.0/24"], True),
        (["192.0.2.0/24"], [], False),
        (["192.0.2.0/24"], ["192.0.0.0/16"], False),
        (["192.0.2.0/24", "2001:db8::/64"], ["2001:db8::/32", "192.0.2.0/24"], False),
        (["192.0.2.0/24"], ["192.0.2.0/25"], True),
        (["192.0.2.0/24"], ["2001:db8::/32"], True),
    ],
)
async def test_an_allow_list_that_shuts_somebody_out(
    lab: Lab, volume: str, old: list[str], new: list[str], ends: bool
) -> None:
    await lab.control.export_add(ADMIN, new_id(), volume, name="x", allow=old)
    lab.plane.connect("x", 7)
    await lab.control.export_update(ADMIN, new_id(), "x", allow=new, force=True)
    assert (lab.plane.live == []) is ends


async def test_a_client_is_disconnected_by_an_operator(lab: Lab, volume: str) -> None:
    await lab.control.export_add(ADMIN, new_id(), volume, name="x")
    lab.plane.connect("x", 7)
    (session,) = await lab.control.sessions(Caller("v", Role.VIEW))
    assert (session.id, session.export, session.volume) == (7, "x", "main/a")
    with pytest.raises(Forbidden):
        await lab.control.disconnect(Caller("v", Role.VIEW), new_id(), 7)
    await lab.control.disconnect(Caller("o", Role.OPERATE), new_id(), 7)
    with pytest.raises(NotFound):
        await lab.control.disconnect(Caller("o", Role.OPERATE), new_id(), 7)


async def test_data_that_cannot_be_written_can_be_exported_read_only(
    lab: Lab, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_volume = lab.plane.open_volume

    async def read_only_file_system(spec: object) -> int:
        if not spec.read_only:  # type: ignore[attr-defined]
            raise OSError(30, os.strerror(30))
        return await open_volume(spec)  # type: ignore[arg-type]

    monkeypatch.setattr(lab.plane, "open_volume", read_only_file_system)
    info = await lab.control.export_add(ADMIN, new_id(), volume, name="x", read_only=True)
    assert info.ready
    (one,) = lab.plane.opened.values()
    assert one.spec.read_only and one.gate is not None and one.gate.read_only


async def test_a_pool_that_is_away_does_not_hold_up_the_others(lab: Lab, volume: str) -> None:
    other = lab.root / "other"
    other.mkdir()
    await lab.control.pool_add(ADMIN, new_id(), "other", directory=str(other))
    await lab.control.volume_create(ADMIN, new_id(), "other/b", "1M")
    for name in ("main/a", "other/b"):
        await lab.control.export_add(ADMIN, new_id(), name)
    await lab.control.export_add(ADMIN, new_id(), "other/b", name="again")
    await lab.stop()
    other.rename(lab.root / "unmounted")
    control = await lab.start()
    ready = {e.name: (e.ready, e.reason) for e in await control.export_list(ADMIN)}
    assert ready["main/a"] == (True, "")
    assert not ready["other/b"][0] and "cannot be used" in ready["other/b"][1]
    pools = {p.name: p for p in await control.pool_list(ADMIN)}
    assert pools["main"].reachable and not pools["other"].reachable
    # What does not need the pool can be done while it is away; what does is refused.
    await control.export_remove(ADMIN, new_id(), "again")
    with pytest.raises(Exception, match="cannot be used"):
        await control.volume_create(ADMIN, new_id(), "other/c", "1M")
    (lab.root / "unmounted").rename(other)
    async with asyncio.timeout(60):
        while not (await control.export_info(ADMIN, "other/b")).ready:
            await asyncio.sleep(0.05)


async def test_the_tree_holds_everything(lab: Lab, volume: str) -> None:
    await lab.control.export_add(ADMIN, new_id(), volume, name="x")
    lab.plane.connect("x", 7)
    tree = await lab.control.tree(ADMIN)
    (pool,) = tree.pools
    (one,) = pool.volumes
    ((export, sessions),) = one.exports
    assert (pool.pool.name, one.volume.name, export.name) == ("main", "a", "x")
    assert [s.id for s in sessions] == [7]
    assert await lab.control.tasks(ADMIN) == []
