"""The life of a change where the store, the pool or the time does not play along."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from blockgate.cluster.store import Committed, Compare, Write
from blockgate.control import changes as changes_module
from blockgate.control import locks as locks_module
from blockgate.control import operations as operations_module
from blockgate.control.executor import Executor
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Conflict, Failed, NotFound, Unavailable
from tests.unit.control.harness import ADMIN, Lab, new_id


def fail_commits(lab: Lab, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the n-th transactions from here on fail."""
    store = lab.control._core.store
    commit, count = store.txn, 0

    async def txn(compares: Sequence[Compare], writes: Sequence[Write]) -> Committed:
        nonlocal count
        count += 1
        if count in numbers:
            raise Unavailable("The state cannot be written (injected).")
        return await commit(compares, writes)

    monkeypatch.setattr(store, "txn", txn)


async def test_an_intent_that_cannot_be_written_changes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_commits(lab, monkeypatch, 1)
    number = new_id()
    with pytest.raises(Unavailable, match="injected"):
        await lab.control.volume_create(ADMIN, number, "main/a", "1M")
    assert lab.files() == {} and await lab.control.volume_list(ADMIN) == []
    with pytest.raises(NotFound):
        await lab.control.operation(ADMIN, number)
    assert (await lab.control.volume_create(ADMIN, number, "main/a", "1M")).state == "ready"


async def test_a_result_that_cannot_be_written_is_written_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_commits(lab, monkeypatch, 2, 3)
    number = new_id()
    with pytest.raises(Unavailable, match="injected"):
        await lab.control.volume_create(ADMIN, number, "main/a", "1M")
    assert (await lab.control.operation(ADMIN, number)).state == "running"
    info = await lab.control.volume_create(ADMIN, number, "main/a", "1M")  # joins it
    assert info.state == "ready"
    assert (await lab.control.operation(ADMIN, number)).state == "done"
    await lab.control.volume_delete(ADMIN, new_id(), "main/a")


async def test_a_change_goes_on_without_its_caller(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, go = asyncio.Event(), asyncio.Event()
    carry_out = Executor.carry_out

    async def slow(self: Executor, step: object, progress: object) -> None:
        going.set()
        await go.wait()
        await carry_out(self, step, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(Executor, "carry_out", slow)
    number = new_id()
    caller = asyncio.create_task(lab.control.volume_create(ADMIN, number, "main/a", "1M"))
    await going.wait()
    info = await lab.control.operation(Caller("v", Role.VIEW), number)
    assert (info.state, info.phase) == ("running", "PrepareData")
    assert (await lab.control.volume_info(ADMIN, "main/a")).state == "changing"
    caller.cancel()
    monkeypatch.setattr(locks_module, "WAIT_S", 0.05)
    with pytest.raises(Conflict) as caught:
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M")
    assert caught.value.code == "busy" and number in caught.value.hint
    monkeypatch.setattr(locks_module, "WAIT_S", 3600)
    waiting = asyncio.create_task(lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M"))
    running = await lab.control.operations(Caller("v", Role.VIEW))
    while len(running) < 2 or not running[1].phase:
        await asyncio.sleep(0)
        running = await lab.control.operations(ADMIN)
    assert [(one.phase, one.things) for one in running] == [
        ("PrepareData", ("volume main/a",)),
        ("WaitForOthers", ("volume main/a",)),
    ]
    go.set()
    assert (await waiting).size == 2 << 20
    assert await lab.control.operations(ADMIN) == []
    assert (await lab.control.volume_create(ADMIN, number, "main/a", "1M")).state == "ready"


async def test_what_runs_at_a_stop_is_finished_at_the_next_start(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(lab.control._core.settings, "start_wait_s", 0.1)
    carry_out = Executor.carry_out

    hangs = asyncio.Event()

    async def hang(self: Executor, step: object, progress: object) -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Executor, "carry_out", hang)
    number = new_id()
    caller = asyncio.create_task(lab.control.volume_create(ADMIN, number, "main/a", "1M"))
    await hangs.wait()
    await lab.stop()
    with pytest.raises(Unavailable, match="next start"):
        await caller
    monkeypatch.setattr(Executor, "carry_out", carry_out)
    await lab.start()
    assert (await lab.control.volume_create(ADMIN, number, "main/a", "1M")).state == "ready"
    assert (await lab.control.operation(ADMIN, number)).state == "done"


async def test_a_disk_that_fills_up_leaves_nothing_behind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    number = new_id()
    with pytest.raises(Failed) as caught:
        await lab.control.volume_create(ADMIN, number, "main/a", "1M", prealloc=True)
    assert caught.value.code == "no-space"
    assert lab.files() == {} and await lab.control.volume_list(ADMIN) == []
    assert await lab.control.config_history(ADMIN) == await lab.control.config_history(ADMIN)
    assert [e.kind for e in await lab.control.config_history(ADMIN)] == ["pool-add"]
    info = await lab.control.operation(ADMIN, number)
    assert info.state == "failed" and info.error is not None and info.error["code"] == "no-space"


async def test_only_so_many_operations_are_remembered(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "KEPT_MAX", 3)
    numbers = [new_id() for _ in range(6)]
    for n, number in enumerate(numbers):
        await lab.control.volume_create(ADMIN, number, f"main/v{n}", "1M")
    kept = await lab.control._core.store.range("operations/")
    assert len(kept) == 3 < operations_module.KEPT_MAX
    assert (await lab.control.operation(ADMIN, numbers[-1])).state == "done"
    with pytest.raises(NotFound):
        await lab.control.operation(ADMIN, numbers[0])


async def test_many_callers_at_once(lab: Lab) -> None:
    await asyncio.gather(
        *(lab.control.volume_create(ADMIN, new_id(), f"main/v{n}", "1M") for n in range(50))
    )
    await asyncio.gather(
        *(
            lab.control.export_add(ADMIN, new_id(), f"main/v{n % 50}", name=f"x{n}")
            for n in range(100)
        )
    )
    assert len(lab.plane.exports) == 100 and len(lab.plane.opened) == 50
    numbers = [entry.number for entry in await lab.control.config_history(ADMIN)]
    assert numbers == list(range(151, 141, -1))
