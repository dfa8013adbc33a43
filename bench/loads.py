"""One measurement: a row's load against one server."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows import Row
from bench.servers import Server

BLOCK_BYTES = 512
WRITE_BYTES_PER_S = 250 << 20
LARGE_WRITE_BYTES_PER_S = 1 << 30


@dataclass(frozen=True, slots=True)
class Figure:
    """What one run gave."""

    operations_per_s: float
    cpu_us_per_operation: float
    latency_us_p99: float | None = None


def measure(row: Row, server: Server, seconds: float, file: Path) -> Figure:
    """Runs the load; server CPU is what /proc counted for its process from before to after."""
    if row.tool == "fio":
        return _fio(row, server, seconds)
    if row.tool == "iscsi-perf":
        return _iscsi_perf(row, server, seconds)
    if row.tool == "qemu-img":
        return _qemu_img(row, server, seconds)
    return _nbdcopy(row, server, file)


def _fio(row: Row, server: Server, seconds: float) -> Figure:
    command = [
        *("fio", "--name=row", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={row.pattern}"),
        *(f"--bs={row.block_bytes}", f"--iodepth={row.depth}", f"--numjobs={row.connections}"),
        *("--thread", "--group_reporting", "--time_based", f"--runtime={seconds}"),
        *("--randrepeat=0", "--norandommap", "--output-format=json"),
    ]
    before = server.cpu_s()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300
    )
    used = server.cpu_s() - before
    if done.returncode != 0:
        raise RuntimeError(f"fio against {server.name}: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    # libnbd may print a line before the document.
    document: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    job = document["jobs"][0]["write" if row.writes else "read"]
    if document["jobs"][0]["error"]:
        raise RuntimeError(f"fio against {server.name}: error {document['jobs'][0]['error']}")
    p99_ns = job["clat_ns"].get("percentile", {}).get("99.000000")
    return Figure(
        operations_per_s=job["iops"],
        cpu_us_per_operation=used * 1e6 / job["total_ios"],
        latency_us_p99=None if p99_ns is None else p99_ns / 1000,
    )


def _nbdcopy(row: Row, server: Server, file: Path) -> Figure:
    size = file.stat().st_size
    sides = [str(file), server.uri] if row.writes else [server.uri, "null:"]
    source: Path | None = None
    if row.writes:
        # The volume cannot be its own source: a twin of the same size beside it.
        source = file.with_name("source.img")
        if not source.exists():
            source.write_bytes(b"")
            subprocess.run(["cp", "--reflink=never", str(file), str(source)], check=True)
        sides[0] = str(source)
    before = server.cpu_s()
    started = time.monotonic()
    subprocess.run(
        ["nbdcopy", "--no-extents", *sides],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=300,
    )
    elapsed = time.monotonic() - started
    used = server.cpu_s() - before
    requests = size / row.block_bytes
    return Figure(requests / elapsed, used * 1e6 / requests)


def _run(command: list[str], server: Server) -> tuple[str, float]:
    """What the command printed, and the server's CPU seconds meanwhile."""
    before = server.cpu_s()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300
    )
    used = server.cpu_s() - before
    if done.returncode != 0:
        text = done.stderr[-2000:] + done.stdout[-2000:]
        raise RuntimeError(f"{command[0]} against {server.name}: {text}")
    return done.stdout, used


def _iscsi_perf(row: Row, server: Server, seconds: float) -> Figure:
    whole = max(1, round(seconds))
    command = ["iscsi-perf", "-m", str(row.depth), "-b", str(row.block_bytes // BLOCK_BYTES)]
    command += ["-t", str(whole), *(["-r"] if row.pattern == "randread" else []), server.uri]
    shown, used = _run(command, server)
    rate = float(re.findall(r"iops average (\d+)", shown)[-1])
    return Figure(rate, used * 1e6 / (rate * whole))


def _qemu_img(row: Row, server: Server, seconds: float) -> Figure:
    """It takes a number of requests, not a time: about what a quick server does in that time."""
    bytes_per_s = WRITE_BYTES_PER_S if row.block_bytes < 65536 else LARGE_WRITE_BYTES_PER_S
    count = max(1000, int(seconds * bytes_per_s / row.block_bytes))
    command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-w", "-c", str(count)]
    command += ["-d", str(row.depth), "-s", str(row.block_bytes), server.uri]
    shown, used = _run(command, server)
    found = re.search(r"Run completed in ([0-9.]+) seconds", shown)
    assert found is not None, shown
    return Figure(count / float(found.group(1)), used * 1e6 / count)
