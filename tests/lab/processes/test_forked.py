"""Daemons of the fork server end, fail and differ as those of the command do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab.processes import ForkServer, Gateway, GatewayFailed


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def gateway(forks: ForkServer) -> Iterator[Gateway]:
    one = Gateway(io="epoll", shards=1, launch=forks.launch)
    yield one
    one.close()


def test_it_serves_and_stops_cleanly(gateway: Gateway) -> None:
    gateway.start()
    assert gateway.info()["pid"] == gateway.pid
    assert os.readlink(f"/proc/{gateway.pid}/cwd") == str(gateway.directory)
    assert gateway.add_volume("1MiB") == "lab/vol1"
    gateway.stop()
    assert "event=stopped" in gateway.log()


def test_it_is_told_where_to_crash_and_its_state_outlives_it(gateway: Gateway) -> None:
    gateway.start()
    gateway.add_pool("lab")
    gateway.stop()
    gateway.start({"BLOCKGATE_CRASH_AT": "CommitResult:after"})
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.add_volume("1MiB", pool="lab")
    assert gateway.wait() == -signal.SIGKILL
    gateway.start()
    assert [one["name"] for one in gateway.api("GET", "volumes")] == ["vol1"]


def test_two_at_a_time_know_nothing_of_each_other(gateway: Gateway, forks: ForkServer) -> None:
    gateway.start()
    with Gateway(io="epoll", shards=1, launch=forks.launch) as other:
        assert other.pid != gateway.pid
        other.kill()
        assert gateway.info()["state"] == "running"


def test_one_that_cannot_start_says_why_and_with_which_status(
    gateway: Gateway, forks: ForkServer
) -> None:
    with pytest.raises(GatewayFailed, match=r"(?s)status 2 before READY.*unrecognized"):
        gateway.start(no_such_flag="x")
    with gateway.log_file.open("wb") as log:
        ended = forks.launch(
            ["blockgated", "--no-such-flag"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path("/"),
            env={},
        )
        assert ended.wait(60) == 2
        assert ended.poll() == 2
        ended.send_signal(signal.SIGKILL)  # to nobody


def test_its_daemons_end_with_it() -> None:
    with ForkServer() as forks:
        gateway = Gateway(io="epoll", shards=1, launch=forks.launch)
        gateway.start()
        ended = os.pidfd_open(gateway.pid)
    assert gateway.wait(60) == -signal.SIGKILL
    os.close(ended)
    gateway.close()
