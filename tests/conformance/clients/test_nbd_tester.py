"""nbd's own tester: throughput, writes, flushes, oversized requests, integrity, TLS.

The cases are those of the source's `tests/run/simple_test`, but for the ones about nbd-server's
own configuration: files of a directory, tree files, inetd.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.clients.laboratory import Laboratory, succeed
from tests.conformance.nbdclient.certificates import Certificates, make_certificates
from tests.lab.limits import limits_file
from tests.lab.nbdtester import SourceUnavailable, Tester, build
from tests.lab.processes import Gateway

SMALL = 4 << 20
SIZE = 50 << 20  # the transaction logs reach so far


@pytest.fixture(scope="session")
def tester() -> Tester:
    try:
        return build()
    except SourceUnavailable as error:
        pytest.skip(f"Debian's source package `nbd` cannot be had: {error}")


@pytest.fixture(scope="session")
def roomy(
    lab: Laboratory,
    start_session_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> Laboratory:
    """A gateway that takes payloads of 64 MiB.

    The huge log asks for up to 48 MiB at once without asking for the server's maximum, which the
    protocol lets a server refuse ("Size constraints": only 32 MiB can be counted on).
    """
    files = lab.certificates
    gateway = start_session_gateway(
        config=limits_file(tmp_path_factory.mktemp("limits"), payload_bytes=64 << 20),
        nbd_cert=files.server_cert,
        nbd_key=files.server_key,
        nbd_ca=files.ca,
        nbd_verify_client=True,
    )
    return Laboratory(gateway, files)


def passes(tester: Tester, *arguments: object) -> None:
    done = tester.run(*arguments)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"


def fails(tester: Tester, reason: str, *arguments: object) -> None:
    done = tester.run(*arguments)
    assert done.returncode == 1, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert reason in done.stdout + done.stderr


def shows(files: Certificates) -> list[object]:
    """The tester's options for a client's certificate, and a server that it must trust."""
    return [
        *("-C", files.client_cert, "-K", files.client_key),
        *("-A", files.ca, "-H", "localhost"),
    ]


@pytest.mark.parametrize("options", [[], ["-w"], ["-w", "-f"], ["-o"], ["-h"]], ids=" ".join)
def test_plain(lab: Laboratory, tester: Tester, options: list[str]) -> None:
    export = lab.export(SMALL)
    passes(tester, *options, "-N", export.name, *lab.host_port())


def test_several_exports(lab: Laboratory, tester: Tester) -> None:
    for export in (lab.export(SMALL), lab.export(SMALL, read_only=True)):
        passes(tester, "-N", export.name, *lab.host_port())


def test_a_listed_export(lab: Laboratory, tester: Tester) -> None:
    export = lab.export(SMALL, read_only=True)
    assert f"\n{export.name}: ".encode() in succeed("nbd-client", "-l", *lab.host_port())
    passes(tester, "-N", export.name, *lab.host_port())


def test_unix_socket(lab: Laboratory, tester: Tester) -> None:
    export = lab.export(SMALL)
    passes(tester, "-N", export.name, "-u", lab.address("unix").removeprefix("unix:"))


def test_writes_to_a_read_only_export_fail(lab: Laboratory, tester: Tester) -> None:
    export = lab.export(SMALL, read_only=True)
    passes(tester, "-w", "-F", "-N", export.name, *lab.host_port())
    fails(tester, "Received error from server: 1 ", "-w", "-N", export.name, *lab.host_port())


def test_an_export_that_is_not_there(lab: Laboratory, tester: Tester) -> None:
    fails(tester, "Could not open socket", "-N", "no such export", *lab.host_port())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_integrity(lab: Laboratory, tester: Tester, secure: bool) -> None:
    _replay(lab, tester, tester.integrity_log, secure)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_integrity_of_huge_requests(roomy: Laboratory, tester: Tester, secure: bool) -> None:
    _replay(roomy, tester, tester.integrity_huge_log, secure)


def _replay(lab: Laboratory, tester: Tester, log: Path, secure: bool) -> None:
    export = lab.export(SIZE, tls_required=secure)
    tls = shows(lab.certificates) if secure else []
    passes(tester, "-N", export.name, "-i", "-t", log, *tls, *lab.host_port())


def test_requests_beyond_the_usual_maximum_are_refused(lab: Laboratory, tester: Tester) -> None:
    arguments = ["-N", lab.export(SIZE).name, "-i", "-t", tester.integrity_huge_log]
    fails(tester, "Server errored a transaction", *arguments, *lab.host_port())


def test_a_certificate_of_another_authority(
    lab: Laboratory, tester: Tester, tmp_path: Path
) -> None:
    export = lab.export(SMALL, tls_required=True)
    stranger = make_certificates(tmp_path / "other", client_name="mallory")
    trusting = ["-C", stranger.client_cert, "-K", stranger.client_key, "-F"]
    passes(tester, "-N", export.name, *trusting, *lab.host_port())
    fails(tester, "Could not open socket", "-N", export.name, *trusting[:-1], *lab.host_port())


def test_a_server_of_another_authority(lab: Laboratory, tester: Tester, tmp_path: Path) -> None:
    export = lab.export(SMALL, tls_required=True)
    other = make_certificates(tmp_path / "other")
    arguments = [*shows(lab.certificates), "-A", other.ca, *lab.host_port()]
    fails(tester, "Could not open socket", "-N", export.name, *arguments)
