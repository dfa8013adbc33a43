"""fio's NBD engine: what it wrote at random it reads back and verifies."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.clients.conftest import some_ways
from tests.conformance.clients.laboratory import Laboratory, Security, Transport, succeed

SIZE = 8 << 20


def fio(uri: str, **settings: object) -> None:
    arguments = {
        "name": "verify",
        "ioengine": "nbd",
        "uri": uri,
        "rw": "randwrite",
        "size": SIZE,
        "verify": "crc32c",
        "verify_fatal": 1,
        "verify_state_save": 0,
        "randseed": 20,
        **settings,
    }
    output = succeed(
        "fio",
        "--output-format=json",
        *(f"--{key}={value}" for key, value in arguments.items()),
    )
    report = json.loads(output[output.index(b"{") :])
    for job in report["jobs"]:
        assert job["error"] == 0
        assert job["write"]["io_bytes"] > 0
        assert job["read"]["io_bytes"] > 0, "what was written is read back"


def wait_for_listener(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "nbdkit did not start"
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.01)


@contextlib.contextmanager
def tls_proxy(lab: Laboratory, export: str, transport: Transport) -> Iterator[str]:
    """A plain NBD server on a Unix socket that is a TLS client of the gateway."""
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory:
        path = Path(directory) / "socket"
        command = ["nbdkit", "--foreground", "--unix", str(path), "nbd"]
        command += [f"uri={lab.uri(export, transport)}", "shared=true", "tls=require"]
        command += [f"tls-certificates={lab.certificates.directory}"]
        proxy = subprocess.Popen(command)
        try:
            wait_for_listener(proxy, path)
            yield f"nbd+unix:///?socket={path}"
        finally:
            proxy.terminate()
            proxy.wait(60)


@some_ways
@pytest.mark.parametrize("depth", [1, 32])
def test_verify(lab: Laboratory, transport: Transport, security: Security, depth: int) -> None:
    if security == "plain":
        fio(lab.uri(lab.export(SIZE).name, transport), bs="4k", iodepth=depth)
        return
    # fio's engine may not read files named in a URI: a proxy of nbdkit's speaks TLS for it.
    with tls_proxy(lab, lab.export(SIZE).name, transport) as uri:
        fio(uri, bs="4k", iodepth=depth)


@pytest.mark.parametrize("io", ["buffered", "direct"])
def test_mixed_sizes_and_alignments(lab: Laboratory, io: str) -> None:
    export = lab.export(SIZE, io=io)
    fio(lab.uri(export.name), bsrange="512-256k", bs_unaligned=1, iodepth=16)


def test_four_jobs_on_their_own_parts(lab: Laboratory) -> None:
    export = lab.export(4 * SIZE)
    fio(lab.uri(export.name), bs="64k", iodepth=8, numjobs=4, offset_increment=SIZE, fsync=32)
