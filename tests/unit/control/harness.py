"""A control plane in the test's own process, over plain files, that can be killed and restarted.

"Killed" means that from some crash point on no step and no transaction happens any more, and that
the kernel has let go of every lock, as when the process is gone.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from blockgate.cluster.sqlite import SqliteStore
from blockgate.control.service import Control, Settings
from blockgate.model.callers import Caller, Role
from tests.unit.control.plane import PlainDataPlane

_T = TypeVar("_T")

ADMIN = Caller("admin", Role.ADMINISTER)
_numbers = itertools.count(1)


def new_id() -> str:
    """An operation id that was never used."""
    return f"op-{next(_numbers)}"


class Killed(BaseException):
    """The process is gone."""


class Crash:
    """A crash point that strikes when its `countdown` reaches zero, and ever after.

    With `fail_in` a step fails once instead, before or after it did its work.
    """

    def __init__(self, countdown: int | None = None) -> None:
        self.countdown = countdown
        self.fail_in: int | None = None
        self.dead = False
        self.seen: list[tuple[str, str]] = []

    def __call__(self, name: str, moment: str) -> None:
        if self.dead:
            raise Killed
        self.seen.append((name, moment))
        if self.countdown is not None:
            self.countdown -= 1
            if self.countdown < 0:
                self.dead = True
                raise Killed
        if self.fail_in is not None and not name.startswith("Commit"):
            self.fail_in -= 1
            if self.fail_in < 0:
                self.fail_in = None
                raise OSError(errno.ENOSPC, "no space (injected)")


class Lab:
    """A state directory, a pool's directory, and the control plane over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.pool = root / "pool"
        self.pool.mkdir(parents=True, exist_ok=True)
        self.plane = PlainDataPlane()
        self.crash = Crash()
        self._control: Control | None = None

    @property
    def control(self) -> Control:
        assert self._control is not None, "it is not started"
        return self._control

    async def start(self, crash: Crash | None = None) -> Control:
        """Start it; with a crash, that may strike during recovery already."""
        self.crash = crash or Crash()
        self.plane = PlainDataPlane()
        self._control = Control(Settings(str(self.state)), self.plane)
        self._control._core.crash_point = self.crash
        await self._control.start()
        return self._control

    async def stop(self) -> None:
        await self.control.stop()
        self._control = None

    async def or_killed(self, work: Awaitable[_T]) -> _T | None:
        """What the caller gets; None if the process died before it could answer."""
        waiting = asyncio.ensure_future(work)
        try:
            return await asyncio.wait_for(waiting, 60)
        except Killed:
            return None

    async def bury(self, lose_power: Callable[[], object] | None = None) -> None:
        """What the kernel does after a kill: every lock is free. Or the power goes with it."""
        self.crash.dead = True
        core = self.control._core
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if lose_power is not None:
            await asyncio.to_thread(lose_power)
        self.plane.drop_everything()
        if isinstance(core._store, SqliteStore):
            thread, connection = core._store._thread, core._store._connection
            with suppress(sqlite3.Error):  # the disk may have gone with the power
                await asyncio.get_running_loop().run_in_executor(thread, connection.close)
            thread.shutdown()
        if core._claims is not None:
            core._claims.close()
        if core._directory is not None:
            core._directory.release()
        self._control = None

    def files(self) -> dict[str, int]:
        """Everything in the pool but the lock, with its size."""
        return {
            str(path.relative_to(self.pool)): path.stat().st_size
            for path in sorted(self.pool.rglob("*"))
            if path.is_file() and path.name != "lock"
        }


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[Lab]:
    """A started lab with one pool, `main`."""
    lab = Lab(root)
    control = await lab.start()
    await control.pool_add(ADMIN, new_id(), "main", directory=str(lab.pool))
    try:
        yield lab
    finally:
        if lab._control is not None:
            await lab.stop()
