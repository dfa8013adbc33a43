"""A loop that stands still fences its gateway; whoever holds the interpreter lock does not."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane import EngineDataPlane
from blockgate.dataplane.lease import Lease
from tests.unit.dataplane.scene import DISK, FakeStore, lun_view, settle, target_view

SIZE = 1 << 20
LEASE_S = 1.0


@pytest.fixture
def engine() -> _engine.Engine:
    return _engine.Engine(shards=2, io="epoll")


@pytest.fixture
async def plane(engine: _engine.Engine) -> AsyncIterator[EngineDataPlane]:
    plane = EngineDataPlane(engine, lease_seconds=LEASE_S)
    plane.start()
    yield plane
    await plane.stop(1000)


def wait_fenced(engine: _engine.Engine) -> _engine.Event:
    """Blocks until the engine says that it is, for the loop stands still."""
    while True:
        ready, _, _ = select.select([engine.event_fd], [], [], 60)
        assert ready, "it does not say so"
        for event in engine.next_events():
            if isinstance(event, _engine.Fenced):
                return event


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def longest_pause(seconds: float) -> float:
    """The longest that the loop stood still within so many seconds."""
    loop = asyncio.get_running_loop()
    turns = [loop.time()]
    while turns[-1] < turns[0] + seconds:
        await asyncio.sleep(0.01)
        turns.append(loop.time())
    return max(after - before for before, after in pairwise(turns))


class TestTheLease:
    async def test_a_loop_that_turns_keeps_it(
        self, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        await settle()  # nor did the loop turn between the fixture and the test
        caplog.clear()
        while await longest_pause(2 * LEASE_S) > LEASE_S / 2:
            caplog.clear()  # a machine that let the loop stand still shows nothing
        assert "had lapsed, and is renewed" not in caplog.text

    async def test_a_loop_that_stands_still_for_a_whole_lease_fences(
        self, engine: _engine.Engine, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert repr(wait_fenced(engine)) == "Fenced()"  # on the loop: what must never be done
        with caplog.at_level(logging.WARNING):
            await until(lambda: "had lapsed, and is renewed" in caplog.text)

    async def test_the_event_is_told(
        self, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        await asyncio.sleep(0)
        time.sleep(LEASE_S + 0.2)
        await until(lambda: "the lease has lapsed: nothing is read or written" in caplog.text)

    async def test_it_is_renewed_three_times_in_its_time_until_it_is_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []

        class Engine:
            def renew_lease(self, ttl_ms: int) -> bool:
                asked.append(ttl_ms)
                return True

        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        lease = Lease(Engine(), 0.3)
        lease.start(loop)
        for times in range(1, 4):
            now += 0.099
            await settle()
            assert asked == [300] * times
            now += 0.002
            await settle()
            assert asked == [300] * (times + 1)
        lease.stop()
        now += 1
        await settle()
        assert len(asked) == 4


def hold_the_interpreter(seconds: int) -> None:
    """Sleeps without letting go of the interpreter lock: no other Python code runs meanwhile."""
    ctypes.PyDLL(None).sleep(seconds)


class TestTheInterpreterLock:
    async def test_reads_and_writes_go_on_while_something_holds_it(self, tmp_path: Path) -> None:
        engine = _engine.Engine(shards=2, io="epoll")
        plane = EngineDataPlane(engine)
        plane.keep_units_in(FakeStore())
        plane.start()
        path = tmp_path / "disk.img"
        path.write_bytes(bytes(SIZE))
        handle = await plane.open_volume(
            ports.VolumeSpec(path=str(path), size=SIZE, block_size=512)
        )
        await plane.swap_gate(handle, ports.Gate(generation=1, size=SIZE, read_only=False))
        await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            where = "{}:{}".format(*listener.getsockname())
            await plane.add_listener(listener.fileno(), where, "iscsi")
            load = await asyncio.create_subprocess_exec(
                *("iscsi-perf", "-b", "8", "-m", "4", f"iscsi://{where}/{DISK}/1"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with asyncio.timeout(60):
                while not await reads(plane):
                    await asyncio.sleep(0.05)
            before = await reads(plane)
            begun = time.monotonic()
            hold_the_interpreter(2)
            held = time.monotonic() - begun
            after = await reads(plane)
            load.kill()
            await load.wait()
        await plane.stop(1000)
        assert held >= 2
        assert after - before > 100


async def reads(plane: EngineDataPlane) -> int:
    """Reads of all exports so far."""
    counters = await plane.counters()
    return sum(export.ops["read"] for export in counters.exports.values())
