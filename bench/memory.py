"""What a gateway costs that does nothing: resident memory, idle CPU, a thousand of everything."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from tests.lab.processes import Gateway
from tests.lab.processes.cost import cpu_nanoseconds, cpu_nanoseconds_since

MIB = 1024 * 1024
SETTLE_SECONDS = 12.0  # threads that are not needed any more end by then
IDLE_SECONDS = 10.0


def document(count: int, directory: str) -> dict[str, Any]:
    """What `blockgate apply` is given: a pool with that many volumes, each exported."""
    return {
        "pools": [{"name": "many", "directory": directory}],
        "volumes": [{"name": f"many/v{n:04}", "size": "1GiB"} for n in range(count)],
        "exports": [{"name": f"e{n:04}", "volume": f"many/v{n:04}"} for n in range(count)],
    }


def _apply(gateway: Gateway, count: int) -> float:
    """Creates and exports `count` volumes by one apply of the CLI, lists them; seconds taken."""
    pool = gateway.directory / "many"
    pool.mkdir()
    file = gateway.directory / "many.json"
    file.write_text(json.dumps(document(count, str(pool))))
    started = time.monotonic()
    gateway.cli("apply", "-f", str(file), "--yes")
    listed = gateway.cli("volume", "list")
    elapsed = time.monotonic() - started
    volumes = listed if isinstance(listed, list) else listed["volumes"]
    assert len(volumes) == count, f"{len(volumes)} volumes listed, {count} applied"
    return elapsed


def idle_connection(port: int, export: str) -> socket.socket:
    """A connection that has finished the handshake (NBD_OPT_GO) and now does nothing."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    stream = connection.makefile("rb", buffering=0)
    greeting = stream.read(18)
    assert greeting is not None
    assert greeting[:16] == b"NBDMAGICIHAVEOPT"
    name = export.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    connection.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
    while True:
        header = stream.read(20)
        assert header is not None
        _, _, kind, length = struct.unpack(">QIII", header)
        if length:
            stream.read(length)
        if kind == 1:  # NBD_REP_ACK
            return connection
        assert kind == 3, f"reply {kind:#x} to NBD_OPT_GO"


def rows(io: str) -> Iterator[dict[str, Any]]:
    """Measures and yields the rows, each with its bound (`under`)."""
    with Gateway(io=io, nbd=["127.0.0.1:0"]) as gateway:
        _apply(gateway, 100)
        time.sleep(SETTLE_SECONDS)
        begun = cpu_nanoseconds(gateway.pid)
        time.sleep(IDLE_SECONDS)
        idle_ns = cpu_nanoseconds_since(gateway.pid, begun)
        yield _row("100 volumes exported, idle: resident", gateway.rss_bytes / MIB, "MiB", 96)
        yield _row("idle: CPU", idle_ns / 1e6 / IDLE_SECONDS, "ms/s", 1)
        before = gateway.rss_bytes
        with contextlib.ExitStack() as stack:
            port = gateway.nbd_port
            for number in range(1000):
                stack.enter_context(idle_connection(port, f"e{number % 100:04}"))
            each = (gateway.rss_bytes - before) / 1000
            yield _row("1,000 idle connections: each", each / 1024, "KiB", 64)
    with Gateway(io=io, nbd=["127.0.0.1:0"]) as gateway:
        seconds = _apply(gateway, 1000)
        yield _row("1,000 volumes applied, exported, listed: time", seconds, "s", 20)
        yield _row("1,000 volumes: resident", gateway.rss_bytes / MIB, "MiB", 200)


def _row(what: str, measured: float, unit: str, under: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "unit": unit, "under": under}
