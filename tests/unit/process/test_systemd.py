"""sd_notify(3) and sd_listen_fds(3), against real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from blockgate.process.systemd import Notifier, inherited_sockets


def receiver(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(60)
    return sock


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_goes_to_a_path_and_to_an_abstract_name(tmp_path: Path, abstract: bool) -> None:
    name = f"@blockgate-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with receiver(name.replace("@", "\0", 1)) as sock:
        environ = {"NOTIFY_SOCKET": name}
        notifier = Notifier.from_environment(environ)
        assert environ == {}, "a child would speak in our name"
        notifier.ready("serving")
        assert sock.recv(4096) == b"READY=1\nSTATUS=serving"
        notifier.stopping()
        assert sock.recv(4096).startswith(b"STOPPING=1")


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier.from_environment({}).ready("serving")
    Notifier(str(tmp_path / "nobody")).ready("serving")


async def test_the_watchdog_is_fed_at_half_its_limit(tmp_path: Path) -> None:
    with receiver(str(tmp_path / "notify")) as sock:
        environ = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "100000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        notifier = Notifier.from_environment(environ)
        notifier.start_watchdog(asyncio.get_running_loop())
        for _ in range(3):
            assert await asyncio.to_thread(sock.recv, 4096) == b"WATCHDOG=1"
        notifier.stop_watchdog()


def test_another_process_watchdog_is_not_ours(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier.from_environment(environ)._watchdog_interval_s is None


CHILD = """
import os, sys
from blockgate.process.systemd import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
try:
    found = inherited_sockets()
except ValueError as error:
    sys.exit(str(error))
assert not [name for name in os.environ if name.startswith("LISTEN_")]
for name, sock in found:
    print(name, sock.getsockname()[1], os.get_inheritable(sock.fileno()))
"""


def child(fd: int, names: str, *, other_pid: int = 0, count: int = 1) -> tuple[int, str, str]:
    """Run a process that has `fd` as descriptor 3."""

    def place() -> None:
        os.dup2(fd, 3)
        os.set_inheritable(3, True)

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(other_pid)],
        env={**os.environ, "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names},
        preexec_fn=place,
        close_fds=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_passed_listener_arrives_with_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert child(server.fileno(), "nbd") == (0, f"nbd {port} False\n", "")
        assert child(server.fileno(), "nbd", other_pid=1)[1] == "", "meant for another process"
        status, _, error = child(server.fileno(), "nbd:api")
        assert status == 1 and "2 names" in error


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket() as idle:
        assert "no listening stream socket" in child(idle.fileno(), "nbd")[2]
    with (tmp_path / "file").open("w") as file:
        assert "is no socket" in child(file.fileno(), "nbd")[2]


def test_no_variables_no_sockets() -> None:
    assert inherited_sockets({}) == []
    with pytest.raises(ValueError, match="small number"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})
