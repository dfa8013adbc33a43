"""Volumes that are copies: the bytes, the holes, progress, a kill, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.nbdclient import Client
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import wait_until

MIB = 1 << 20


def image(path: Path, data: int, size: int) -> bytes:
    """A file with `data` bytes in its middle and a hole on both sides; what is in it."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek((size - data) // 2)
        file.write(os.urandom(data))
    return path.read_bytes()


def ask(gateway: Gateway, number: str, **body: Any) -> httpx.Response | None:
    """Ask for a copy under an operation id of its own; None if the daemon died over it."""
    transport = httpx.HTTPTransport(uds=str(gateway.api_socket))
    with httpx.Client(transport=transport, base_url="http://gateway", timeout=60) as client:
        try:
            return client.post("/v1/volumes", json=body, headers={"Operation-Id": number})
        except httpx.TransportError:
            return None


def test_a_copy_is_equal_and_as_sparse(gateway: Gateway) -> None:
    data = image(gateway.directory / "image", 3 * MIB, 64 * MIB)
    gateway.add_pool("lab")
    gateway.cli("volume", "create", "lab/a", "--from", str(gateway.directory / "image"))
    assert gateway.backing_file("lab/a").read_bytes() == data
    gateway.add_export("lab/a", "ro", read_only=True)
    done = gateway.run_cli("volume", "create", "lab/b", "--from", "lab/a", "--size", "65MiB")
    assert done.returncode == 0, done.stderr
    copy = gateway.backing_file("lab/b")
    assert copy.read_bytes() == data + bytes(MIB)
    assert copy.stat().st_blocks * 512 <= 4 * MIB
    gateway.add_export("lab/b", "rw")
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", "rw") as nbd:
        assert nbd.read(30 * MIB, 4 * MIB) == data[30 * MIB : 34 * MIB]
    refused = gateway.run_cli("volume", "create", "lab/c", "--from", "lab/b")
    assert refused.returncode == 4
    assert "--read-only" in refused.stderr
    smaller = gateway.run_cli("volume", "create", "lab/c", "--from", "lab/a", "--size", "1M")
    assert smaller.returncode == 5
    assert str(64 * MIB) in smaller.stderr


@pytest.fixture
def slow(start_gateway: Callable[..., Gateway]) -> Iterator[tuple[Gateway, FaultFS]]:
    """A gateway with a pool `lab` whose disk can be made to hang."""
    with FaultFS() as fs:
        (fs.root / "lab").mkdir()
        gateway = start_gateway()
        gateway.add_pool("lab", fs.root / "lab")
        yield gateway, fs
        fs.remove()
        gateway.close()


def begin(gateway: Gateway, fs: FaultFS) -> tuple[str, threading.Thread, list[Any]]:
    """A copy of `lab/a` that hangs half way."""
    image(gateway.directory / "image", 16 * MIB, 24 * MIB)
    gateway.cli("volume", "create", "lab/a", "--from", str(gateway.directory / "image"))
    number, answers = str(uuid.uuid4()), []
    fs.hang("fsync", path="*.new")

    def work() -> None:
        answers.append(ask(gateway, number, pool="lab", name="b", **{"from": "lab/a"}))

    thread = threading.Thread(target=work)
    thread.start()
    fs.wait_hung()
    return number, thread, answers


def kill(gateway: Gateway, fs: FaultFS) -> None:
    """With SIGKILL; a process whose disk hangs ends when the disk lets it."""
    os.kill(gateway.pid, signal.SIGKILL)
    fs.remove()
    gateway.kill()


def test_progress_is_told_and_the_source_stays(slow: tuple[Gateway, FaultFS]) -> None:
    gateway, fs = slow
    number, thread, answers = begin(gateway, fs)
    state = gateway.api("GET", f"operations/{number}")
    assert (state["state"], state["phase"]) == ("running", "CopyData")
    assert state["total_bytes"] == 24 * MIB
    assert 4 * MIB <= state["done_bytes"] <= 24 * MIB
    (running,) = gateway.cli("tasks")["operations"]
    assert (running["id"], running["kind"]) == (number, "volume-copy")
    assert (running["things"], running["phase"]) == (["volume lab/b"], "CopyData")
    shown = gateway.run_cli("tasks").stdout
    assert all(words in shown for words in (number, "volume lab/b", "copy data", "of 24MiB"))
    writable = gateway.run_cli("export", "add", "lab/a")
    assert (writable.returncode, "being copied" in writable.stderr) == (4, True)
    assert gateway.run_cli("export", "add", "lab/a", "--read-only").returncode == 0
    assert gateway.run_cli("volume", "delete", "lab/a", "--yes").returncode == 4
    fs.remove()
    thread.join(120)
    assert answers[0].status_code == 201, answers[0].text
    assert gateway.api("GET", "operations") == []
    root = fs.root / "lab"
    assert (root / "b.img").read_bytes() == (root / "a.img").read_bytes()


def test_a_kill_in_the_middle(slow: tuple[Gateway, FaultFS]) -> None:
    gateway, fs = slow
    number, thread, answers = begin(gateway, fs)
    kill(gateway, fs)
    thread.join(120)
    assert answers == [None]
    gateway.start()
    wait_until(lambda: gateway.api("GET", f"operations/{number}")["state"] == "done")
    root = fs.root / "lab"
    assert (root / "b.img").read_bytes() == (root / "a.img").read_bytes()
    assert not list(root.rglob("*.new"))


def test_a_source_that_goes_away_meanwhile(slow: tuple[Gateway, FaultFS]) -> None:
    gateway, fs = slow
    number, thread, _ = begin(gateway, fs)
    kill(gateway, fs)
    thread.join(120)
    (fs.root / "lab" / "a.img").unlink()
    gateway.start()
    wait_until(lambda: gateway.api("GET", f"operations/{number}")["state"] == "failed")
    assert gateway.api("GET", f"operations/{number}")["error"]["code"] == "source-lost"
    assert [one["name"] for one in gateway.api("GET", "volumes")] == ["a"]
    assert not list((fs.root / "lab").rglob("*.new"))
    assert not list((fs.root / "lab").glob("b*"))


def test_a_stop_in_the_middle(slow: tuple[Gateway, FaultFS]) -> None:
    gateway, fs = slow
    number, thread, _ = begin(gateway, fs)
    stopping = threading.Thread(target=gateway.stop)
    stopping.start()
    wait_until(lambda: fs.hung())
    wait_until(lambda: "asked to stop" in gateway.log())
    fs.remove()
    stopping.join(120)
    assert not stopping.is_alive()
    thread.join(120)
    gateway.start()
    wait_until(lambda: gateway.api("GET", f"operations/{number}")["state"] == "done")
    assert not list((fs.root / "lab").rglob("*.new"))


def test_a_full_disk_leaves_nothing(gateway: Gateway, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={8 * MIB}", "tmpfs", str(place)]
    subprocess.run(command, check=True)
    try:
        gateway.add_pool("small", place)
        source = gateway.directory / "image"
        image(source, 16 * MIB, 20 * MIB)
        free = os.statvfs(place).f_bfree
        failed = gateway.run_cli("volume", "create", "small/a", "--from", str(source))
        assert failed.returncode == 7
        assert "full" in failed.stderr
        assert gateway.api("GET", "volumes") == []
        assert sorted(path.name for path in place.rglob("*")) == [".blockgate", "lock"]
        assert os.statvfs(place).f_bfree == free
        image(source, 4 * MIB, 20 * MIB)
        gateway.cli("volume", "create", "small/a", "--from", str(source))
        gateway.close()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
