"""nbd's own tester: throughput, writes, flushes, oversized requests, integrity, TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.clients.laboratory import Laboratory
from tests.conformance.nbdclient.certificates import make_certificates
from tests.lab.nbdtester import SourceUnavailable, Tester, build

SIZE = 50 << 20  # the transaction logs reach so far


@pytest.fixture(scope="session")
def tester() -> Tester:
    try:
        return build()
    except SourceUnavailable as error:
        pytest.skip(f"Debian's source package `nbd` cannot be had: {error}")


def passes(tester: Tester, *arguments: object) -> None:
    done = tester.run(*arguments)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("options", [[], ["-w"], ["-w", "-f"], ["-o"], ["-h"]], ids=" ".join)
def test_plain(lab: Laboratory, tester: Tester, options: list[str]) -> None:
    export = lab.export(4 << 20)
    host, port = lab.host_port("tcp")
    passes(tester, *options, "-N", export.name, host, port)


def test_unix_socket(lab: Laboratory, tester: Tester) -> None:
    export = lab.export(4 << 20)
    passes(tester, "-N", export.name, "-u", lab.address("unix").removeprefix("unix:"))


def test_writes_to_a_read_only_export_fail(lab: Laboratory, tester: Tester) -> None:
    export = lab.export(4 << 20, read_only=True)
    host, port = lab.host_port("tcp")
    passes(tester, "-w", "-F", "-N", export.name, host, port)


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("secure", [False, True])
def test_integrity(lab: Laboratory, tester: Tester, huge: bool, secure: bool) -> None:
    export = lab.export(SIZE)
    host, port = lab.host_port("tcp")
    log = tester.integrity_huge_log if huge else tester.integrity_log
    files = lab.certificates
    tls = ["-C", files.client_cert, "-K", files.client_key, "-A", files.ca, "-H", "localhost"]
    passes(tester, "-N", export.name, "-i", "-t", log, *(tls if secure else []), host, port)


def test_a_certificate_of_another_authority(
    lab: Laboratory, tester: Tester, tmp_path: Path
) -> None:
    export = lab.export(4 << 20)
    host, port = lab.host_port("tcp")
    stranger = make_certificates(tmp_path / "other", client_name="mallory")
    done = tester.run(
        *("-N", export.name, "-C", stranger.client_cert, "-K", stranger.client_key),
        *("-A", lab.certificates.ca, "-H", "localhost", host, port),
    )
    assert done.returncode != 0
