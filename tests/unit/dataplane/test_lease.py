"""A loop that stands still fences its gateway; whoever holds the interpreter lock does not."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane import EngineDataPlane
from blockgate.dataplane.lease import Lease
from tests.unit.dataplane.scene import DISK, FakeStore, lun_view, target_view

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


def fenced(engine: _engine.Engine) -> list[_engine.Event]:
    return [event for event in engine.next_events() if isinstance(event, _engine.Fenced)]


class TestTheLease:
    async def test_a_loop_that_turns_keeps_it(
        self, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        await asyncio.sleep(2 * LEASE_S)
        assert "lapsed" not in caplog.text

    async def test_a_loop_that_stands_still_for_a_whole_lease_fences(
        self, engine: _engine.Engine, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        time.sleep(LEASE_S + 0.2)  # on the loop: what must never be done
        (event,) = fenced(engine)
        assert repr(event) == "Fenced()"
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(LEASE_S)
        assert "had lapsed, and is renewed" in caplog.text

    async def test_the_event_is_told(
        self, plane: EngineDataPlane, caplog: pytest.LogCaptureFixture
    ) -> None:
        await asyncio.sleep(0)
        time.sleep(LEASE_S + 0.2)
        await asyncio.sleep(0.1)
        assert "the lease has lapsed: nothing is read or written" in caplog.text

    async def test_it_is_renewed_three_times_in_its_time_until_it_is_stopped(self) -> None:
        asked: list[int] = []

        class Engine:
            def renew_lease(self, ttl_ms: int) -> bool:
                asked.append(ttl_ms)
                return True

        lease = Lease(Engine(), 0.3)
        lease.start(asyncio.get_running_loop())
        await asyncio.sleep(0.25)
        lease.stop()
        assert asked in ([300, 300, 300], [300, 300])  # the second where the machine is busy
        await asyncio.sleep(0.2)
        assert len(asked) <= 3


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
            async with asyncio.timeout(20):
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
