"""nbd-client without a kernel device: it lists exports, plain and over TLS."""

from __future__ import annotations

from tests.conformance.clients.laboratory import Laboratory, run, succeed


def listed_names(output: bytes) -> set[str]:
    """The names of a listing: "NAME: DESCRIPTION", or the name alone, on each line."""
    return {line.partition(": ")[0] for line in output.decode().splitlines()[1:]}


def test_list(lab: Laboratory) -> None:
    names = {lab.export().name, lab.export(read_only=True).name}
    hidden = lab.export(tls_required=True).name
    host, port = lab.host_port("tcp")
    listed = listed_names(succeed("nbd-client", "-l", host, port))
    assert names <= listed
    assert hidden not in listed


def test_list_over_a_unix_socket(lab: Laboratory) -> None:
    name = lab.export().name
    path = lab.address("unix").removeprefix("unix:")
    assert name in listed_names(succeed("nbd-client", "-unix", path, "-l"))


def test_list_over_tls(lab: Laboratory) -> None:
    hidden = lab.export(tls_required=True).name
    files = lab.certificates
    _, port = lab.host_port("tcp")
    secured = [
        *("-certfile", files.client_cert, "-keyfile", files.client_key),
        *("-cacertfile", files.ca, "-tlshostname", "localhost"),
    ]
    done = run("nbd-client", "-l", "127.0.0.1", port, *secured)
    assert done.returncode == 0, done.stderr
    assert hidden in listed_names(done.stdout)
