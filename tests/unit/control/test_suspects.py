"""Volumes that have lost acknowledged writes, over restarts of the gateway."""

from __future__ import annotations

import pytest

from tests.unit.control.harness import ADMIN, Lab, new_id

LOST = "flush: not stable"


@pytest.fixture
async def handle(lab: Lab) -> int:
    """A volume that is open."""
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1MiB")
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="a")
    (handle,) = lab.plane.opened
    return handle


def suspect(lab: Lab) -> str | None:
    (one,) = lab.plane.opened.values()
    return one.spec.suspect


@pytest.mark.parametrize("is_killed", [False, True])
async def test_the_next_gateway_refuses_writes_too(lab: Lab, handle: int, is_killed: bool) -> None:
    lab.plane.on_loss(handle, LOST)
    if is_killed:
        # What is committed later is stable later.
        await lab.control.volume_create(ADMIN, new_id(), "main/b", "1MiB")
        await lab.bury()
    else:
        await lab.stop()
    for _ in range(2):
        await lab.start()
        assert suspect(lab) == LOST
        await lab.stop()


async def test_a_reopening_ends_it_for_good(lab: Lab, handle: int) -> None:
    lab.plane.on_loss(handle, LOST)
    await lab.control.volume_reopen(ADMIN, new_id(), "main/a")
    assert suspect(lab) is None
    await lab.stop()
    await lab.start()
    assert suspect(lab) is None


async def test_what_is_told_late_is_of_no_volume_any_more(lab: Lab, handle: int) -> None:
    await lab.control.volume_reopen(ADMIN, new_id(), "main/a")
    lab.plane.on_loss(handle, LOST)
    await lab.stop()
    await lab.start()
    assert suspect(lab) is None


@pytest.mark.parametrize("is_seen", [False, True])
async def test_a_volume_that_is_closed_tells_who_looks(
    lab: Lab, handle: int, is_seen: bool
) -> None:
    lab.plane.on_loss(handle, LOST)
    await lab.control.export_remove(ADMIN, new_id(), "a")
    await lab.stop()
    control = await lab.start()
    info = await control.volume_info(ADMIN, "main/a")
    assert (info.health, info.reason) == ("degraded", LOST)
    if is_seen:
        await control.volume_reopen(ADMIN, new_id(), "main/a")
    await control.export_add(ADMIN, new_id(), "main/a", name="a")
    assert suspect(lab) == (None if is_seen else LOST)


async def test_a_volume_that_is_deleted_leaves_no_record(lab: Lab, handle: int) -> None:
    lab.plane.on_loss(handle, LOST)
    await lab.control.export_remove(ADMIN, new_id(), "a")
    await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    assert not await lab.control._core.store.range("suspects/")
