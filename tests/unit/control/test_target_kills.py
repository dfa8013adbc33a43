"""Changes of targets, killed before and after each of their steps and transactions in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.harness import ADMIN, Crash, Lab, new_id
from tests.unit.control.test_kills import settle
from tests.unit.control.test_targets import HOST, NAME, OTHER, web

SECRET = "a secret of the test"
ACTS: dict[str, Callable[[Lab], Awaitable[Any]]] = {
    "face": lambda lab: lab.control.volume_update(
        ADMIN, new_id(), "main/a", scsi={"vendor": "OTHER"}, force=True
    ),
    "reopen": lambda lab: lab.control.volume_reopen(ADMIN, new_id(), "main/a"),
    "lun-add": lambda lab: lab.control.lun_add(ADMIN, new_id(), NAME, "main/b"),
    "lun-remove": lambda lab: lab.control.lun_remove(ADMIN, new_id(), NAME, 0, force=True),
    "acl-add": lambda lab: lab.control.acl_add(ADMIN, new_id(), NAME, {"initiator": OTHER}),
    "remove": lambda lab: lab.control.target_remove(ADMIN, new_id(), NAME, force=True),
    "chap": lambda lab: lab.control.chap_set(ADMIN, new_id(), "gate", secret=SECRET),
    "document": lambda lab: lab.control.apply(
        ADMIN,
        new_id(),
        {
            "groups": [{"name": "db", "initiators": [OTHER]}],
            "chap": [{"user": "host", "secret": SECRET[::-1]}],
            "discovery": {"chap": "host"},
            "targets": [{"name": NAME, "luns": [{"lun": 3, "volume": "main/b"}]}],
        },
        force=True,
    ),
}
STEPS_MAX = 60


async def look(lab: Lab) -> dict[str, Any]:
    """All that is configured, and what initiators see of it."""
    document = await lab.control.config_export(ADMIN, secrets=True)
    targets = lab.plane.targets.values()
    assert all(one.ready for one in targets)
    seen = {t.name: {n: (v.volume, v.identity) for n, v in t.luns.items()} for t in targets}
    for target in document["targets"]:
        wanted = {lun["lun"]: lun["volume"] for lun in target["luns"]}
        assert {n: volume for n, (volume, _) in seen[target["name"]].items()} == wanted
    return {"document": document, "seen": seen, "discovery": lab.plane.discovery}


async def run(root: Path, act: Callable[[Lab], Awaitable[Any]], countdown: int) -> bool:
    """Whether the kill came before the act was through."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # tasks that were killed
    lab = Lab(root)
    await lab.start()
    await lab.control.pool_add(ADMIN, new_id(), "main", directory=str(lab.pool))
    await lab.control.chap_set(ADMIN, new_id(), "host", secret=SECRET)
    await web(lab)
    lab.plane.login(NAME, HOST, 7)
    before = await look(lab)
    lab.crash.countdown = countdown
    await lab.or_killed(act(lab))
    killed = lab.crash.dead
    if killed:
        await lab.bury()
        await lab.start(Crash())
    await settle(lab)
    lab.crash.countdown = None
    now = await look(lab)
    if killed and now == before:
        await act(lab)
        now = await look(lab)
    await lab.stop()
    await lab.start()
    assert await look(lab) == now
    await lab.stop()
    return killed


@pytest.mark.parametrize("name", ACTS)
def test_killed_at_every_step(name: str, tmp_path: Path) -> None:
    for countdown in range(STEPS_MAX):
        directory = tmp_path / str(countdown)
        directory.mkdir()
        if not asyncio.run(run(directory, ACTS[name], countdown)):
            assert countdown > 3, "it went through steps"
            return
    raise AssertionError("it never comes to its end")
