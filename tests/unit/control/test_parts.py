"""The small parts: locks, workers, crash points, and how errors of the system are told."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from blockgate.control import locks as locks_module
from blockgate.control import workers as workers_module
from blockgate.control.crash import crash_point_from
from blockgate.control.failures import explain
from blockgate.control.locks import Locks
from blockgate.control.workers import Workers
from blockgate.model.errors import (
    BlockgateError,
    Conflict,
    Failed,
    InUse,
    InvalidInput,
    NotFound,
    Unavailable,
)


async def test_locks_are_taken_together_or_not_at_all() -> None:
    locks = Locks()
    assert locks.try_take(["a", "b"], "one")
    assert not locks.try_take(["b", "c"], "two")
    assert locks.holder("c") is None
    waiting = asyncio.create_task(locks.take(["b", "c"], "two"))
    await asyncio.sleep(0)
    await locks.release(["a", "b"], "one")
    await waiting
    assert (locks.holder("a"), locks.holder("b"), locks.holder("c")) == (None, "two", "two")
    await locks.release(["b", "c"], "one")
    assert locks.holder("b") == "two", "only the owner lets go"


async def test_waiting_for_a_lock_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, "WAIT_S", 0.05)
    locks = Locks()
    assert locks.try_take(["volume x"], "operation-7")
    with pytest.raises(Conflict, match="operation-7") as caught:
        await locks.take(["volume x"], "two")
    assert caught.value.code == "busy"


async def test_workers_are_bounded_and_end_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "IDLE_S", 0.05)
    workers = Workers("test-workers")
    most, now, lock = 0, 0, threading.Lock()

    def work(value: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return value * 2

    for _ in range(3):
        results = await asyncio.gather(*(workers.run(work, n) for n in range(100)))
        assert results == [n * 2 for n in range(100)]
        await asyncio.sleep(0.1)
    assert 1 < most <= workers_module.THREADS_MAX
    async with asyncio.timeout(60):
        while any(thread.name == "test-workers" for thread in threading.enumerate()):
            await asyncio.sleep(0.02)


async def test_workers_hand_errors_over() -> None:
    with pytest.raises(ZeroDivisionError):
        await Workers("test").run(lambda: 1 // 0)


def test_a_worker_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import asyncio, time\n"
        "from blockgate.control.workers import Workers\n"
        "async def main():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.05):\n"
        "            await Workers('hung').run(time.sleep, 600)\n"
        "    except TimeoutError:\n"
        "        print('gone on')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "gone on\n"


def test_crash_points_strike_where_they_are_told() -> None:
    code = (
        "from blockgate.control.crash import crash_point_from\n"
        "point = crash_point_from('GrowData:after:2')\n"
        "point('GrowData', 'before'); point('GrowData', 'after'); point('WriteLabel', 'after')\n"
        "print('alive', flush=True)\n"
        "point('GrowData', 'after')\n"
        "print('not reached', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout) == (-9, "alive\n")
    crash_point_from(None)("GrowData", "before")


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (errno.ENOENT, Unavailable, "unavailable"),
        (errno.EIO, Unavailable, "unavailable"),
        (errno.EBUSY, InUse, "in-use"),
        (errno.EAGAIN, InUse, "in-use"),
        (errno.ENOSPC, Failed, "no-space"),
        (errno.EDQUOT, Failed, "no-space"),
        (errno.EROFS, Failed, "denied"),
        (errno.EFBIG, InvalidInput, "invalid-input"),
        (errno.EEXIST, Conflict, "exists"),
        (errno.ENOLCK, Failed, "failed"),
    ],
)
def test_what_the_system_says_is_told(code: int, kind: type[BlockgateError], word: str) -> None:
    error = explain(OSError(code, os.strerror(code), "/srv/x"), "opening volume main/a")
    assert type(error) is kind and error.code == word
    assert "opening volume main/a" in error.message and os.strerror(code) in error.message
    assert "/srv/x" in error.message and error.hint


def test_what_is_told_already_stays_and_a_bug_is_called_one() -> None:
    known = NotFound("There is none.")
    assert explain(known, "x") is known
    bug = explain(KeyError("handle"), "the step 'x'")
    assert (type(bug), bug.code) == (Failed, "internal")
