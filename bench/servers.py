"""The servers that are compared, each over the same file; started and ended for every round."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.processes import Gateway, Tgt, add_target, cpu_seconds, free_port, resident_bytes

START_SECONDS = 20.0
EXPORT = "bench"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, which process, what was typed."""

    name: str
    uri: str
    pid: int
    command: str
    gateway: Gateway | None = None

    def cpu_s(self) -> float:
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        return resident_bytes(self.pid)

    def longest_stall_s(self) -> float | None:
        """How long the asyncio loop stood still at most, by the gateway's own metric."""
        if self.gateway is None:
            return None
        metric = r"^blockgate_event_loop_stall_max_seconds ([0-9.e+-]+)$"
        found = re.findall(metric, self.gateway.metrics(), re.M)
        return max(map(float, found)) if found else None


def wait_listening(process: subprocess.Popen[bytes], port: int, command: str) -> None:
    """Returns when something listens on the port; RuntimeError when that does not come."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"did not start: {command}") from None
            time.sleep(0.02)


@contextlib.contextmanager
def _peer(name: str, command: list[str], port: int, path: str) -> Iterator[Server]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_listening(process, port, shlex.join(command))
        yield Server(name, f"nbd://127.0.0.1:{port}/{path}", process.pid, shlex.join(command))
    finally:
        process.terminate()
        process.wait(20)


def nbdkit(file: Path) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    command = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "file", str(file)]
    return _peer("nbdkit", command, port, "")


def qemu_nbd(file: Path) -> contextlib.AbstractContextManager[Server]:
    port = free_port()
    command = [
        *("qemu-nbd", "--persistent", "--shared=16", "--format=raw", "--cache=writeback"),
        *("--aio=io_uring", "--discard=unmap", "--bind=127.0.0.1", f"--port={port}", str(file)),
    ]
    return _peer("qemu-nbd", command, port, "")


@contextlib.contextmanager
def tgt(file: Path) -> Iterator[Server]:
    with Tgt() as running:
        uri = f"iscsi://{running.portals[0]}/{running.serve(file)}/1"
        yield Server("tgt", uri, running.pid, shlex.join(running.command))


def _adopt(gateway: Gateway, file: Path) -> str:
    """The file that everybody serves, as a volume where it lies."""
    gateway.add_pool("bench", file.parent)
    body = {"pool": "bench", "name": "file", "path": str(file), "size": file.stat().st_size}
    gateway.api("POST", "volumes/adopt", body)
    return "bench/file"


def _server(gateway: Gateway, uri: str) -> Server:
    took = gateway.info()["io"]
    command = f"{shlex.join(gateway.command())}  (I/O path: {took})"
    return Server("blockgate", uri, gateway.pid, command, gateway)


@contextlib.contextmanager
def blockgate_iscsi(file: Path, io: str) -> Iterator[Server]:
    with Gateway(io=io, iscsi=["127.0.0.1:0"]) as gateway:
        target = add_target(gateway, {1: _adopt(gateway, file)})
        yield _server(gateway, target.urls()[0])


@contextlib.contextmanager
def blockgate(file: Path, io: str) -> Iterator[Server]:
    with Gateway(io=io, nbd=["127.0.0.1:0"]) as gateway:
        gateway.add_export(_adopt(gateway, file), EXPORT)
        yield _server(gateway, gateway.nbd_uri(EXPORT))


def make_file(path: Path, size: int) -> None:
    """A file of random bytes without holes, the same for everyone, in the page cache."""
    if not path.exists() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            for _ in range(size >> 20):
                out.write(os.urandom(1 << 20))
    settle(path)
    with path.open("rb", buffering=0) as stream:
        while stream.read(1 << 20):
            pass


def settle(path: Path) -> None:
    """Writes back what an earlier row left dirty, so that each row begins alike."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
