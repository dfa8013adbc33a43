"""The machinery that starts gateways: waiting for READY, and what /proc tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.processes import Gateway, NotifySocket, ProcessEnded, cpu_seconds, resident_bytes
from tests.lab.processes.cost import cpu_nanoseconds, cpu_nanoseconds_since

SAY = (
    "import os, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(os.environ['NOTIFY_SOCKET'])\n"
    "s.send(sys.argv[1].encode())\n"
    "sys.stdin.read()\n"
)


def child(code: str, notify: NotifySocket, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, "NOTIFY_SOCKET": str(notify.path)},
    )


def test_ready_is_heard_among_other_lines(tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "n") as notify:
        process = child(SAY, notify, "STATUS=soon\nREADY=1")
        notify.wait("READY=1", process, 60)
        assert notify.messages == ["STATUS=soon\nREADY=1"]
        process.communicate()


def test_a_process_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "n") as notify:
        process = child("raise SystemExit(3)", notify)
        with pytest.raises(ProcessEnded, match="status 3"):
            notify.wait("READY=1", process, 60)
        process.communicate()


def test_waiting_is_bounded(tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "n") as notify:
        process = child(SAY, notify, "STATUS=still starting")
        with pytest.raises(TimeoutError):
            notify.wait("READY=1", process, 0.2)
        process.communicate()


def test_costs_of_a_process() -> None:
    begun_s, begun_ns = cpu_seconds(os.getpid()), cpu_nanoseconds(os.getpid())
    while cpu_seconds(os.getpid()) <= begun_s:
        sum(range(10_000))
    assert cpu_nanoseconds_since(os.getpid(), begun_ns) > 0
    assert 1 << 20 < resident_bytes(os.getpid()) < 1 << 32


def test_flags_become_a_command_line(tmp_path: Path) -> None:
    gateway = Gateway(directory=tmp_path, io="epoll", shards=2, log_level="debug")
    line = gateway.command(nbd=["[::1]:0"], nbd_verify_client=True, nbd_ca=None)[1:]
    assert line == [
        *("--state-dir", f"{tmp_path}/state", "--api", f"unix:{tmp_path}/api.sock"),
        *("--nbd", "[::1]:0", "--io", "epoll", "--shards", "2", "--log-level", "debug"),
        "--nbd-verify-client",
    ]
