"""nbdinfo: what the gateway says of itself, its exports and their holes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.clients.conftest import every_way, some_ways
from tests.conformance.clients.laboratory import (
    Laboratory,
    Security,
    Transport,
    extents_of_file,
    merged,
    run,
    succeed,
)
from tests.lab.limits import limits_file
from tests.lab.processes import Gateway


def describe(lab: Laboratory, name: str, transport: Transport, security: Security) -> Any:
    return json.loads(succeed("nbdinfo", "--json", lab.uri(name, transport, security)))


def names_listed(uri: str) -> set[str]:
    listed = json.loads(succeed("nbdinfo", "--list", "--no-content", "--json", uri))
    return {one["export-name"] for one in listed["exports"]}


@every_way
def test_info(lab: Laboratory, transport: Transport, security: Security) -> None:
    export = lab.export(12 << 20)
    info = describe(lab, export.name, transport, security)
    assert info["protocol"] == "newstyle-fixed"
    assert info["TLS"] is (security != "plain")
    assert info["structured"] is True
    (one,) = info["exports"]
    assert one["export-name"] == export.name
    assert one["export-size"] == export.size
    assert one["contexts"] == ["base:allocation"]
    assert one["is_read_only"] is False
    for ability in ("multi_conn", "flush", "fua", "trim", "zero", "fast_zero", "df", "cache"):
        assert one[f"can_{ability}"] is True, ability
    assert one["block_size_minimum"] == 1
    assert one["block_size_preferred"] == 4096
    assert one["block_size_maximum"] == 32 << 20


def test_what_a_write_through_volume_says(lab: Laboratory) -> None:
    """No volatile cache: a kernel then sends no FLUSH."""
    export = lab.export(cache="write-through")
    (one,) = describe(lab, export.name, "tcp", "plain")["exports"]
    assert one["can_flush"] is False
    assert one["can_fua"] is True
    assert one["can_multi_conn"] is True


def test_what_a_read_only_export_says(lab: Laboratory) -> None:
    export = lab.export(read_only=True)
    (one,) = describe(lab, export.name, "tcp", "plain")["exports"]
    assert one["is_read_only"] is True


@pytest.mark.parametrize("security", ["plain", "x509"])
def test_list(lab: Laboratory, security: Security) -> None:
    mine = {lab.export().name, lab.export(read_only=True).name}
    assert mine <= names_listed(lab.uri("", "unix", security))


def test_a_long_listing(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    """nbdinfo keeps its first connection in the option phase while it asks for each export.

    Over TCP libnbd takes 0.2 s for each (its LIST_META_CONTEXT waits in the client's own socket),
    so the bound on the handshake must be one on its steps, not on the whole.
    """
    gateway = start_gateway(config=limits_file(tmp_path, handshake_ms=2000))
    volume = gateway.add_volume("1MiB")
    mine = {gateway.add_export(volume) for _ in range(12)}
    assert names_listed(gateway.nbd_uri()) == mine


def test_the_payload_that_is_announced_is_the_one_that_is_taken(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway(config=limits_file(tmp_path, payload_bytes=1 << 20))
    export = gateway.add_export(gateway.add_volume("4MiB"))
    (one,) = json.loads(succeed("nbdinfo", "--json", gateway.nbd_uri(export)))["exports"]
    assert one["block_size_maximum"] == 1 << 20


def test_an_export_that_requires_tls(lab: Laboratory) -> None:
    export = lab.export(tls_required=True)
    lab.export()
    assert export.name not in names_listed(lab.uri("", "unix"))
    assert run("nbdinfo", lab.uri(export.name)).returncode != 0
    assert export.name in names_listed(lab.uri("", "unix", "x509"))
    assert describe(lab, export.name, "tcp", "psk")["exports"][0]["export-size"] == export.size


def test_an_export_that_is_not_there(lab: Laboratory) -> None:
    done = run("nbdinfo", lab.uri("absent"))
    assert done.returncode != 0
    assert b"absent" in done.stderr or b"server replied with error" in done.stderr


def test_wrong_key_and_wrong_user_are_refused(lab: Laboratory) -> None:
    export = lab.export()
    right = lab.psk_file.read_text()
    user, _, key = right.strip().partition(":")
    wrong = lab.psk_file.with_name("wrong.psk")
    for line in (f"{user}:{'00' * 32}\n", f"mallory:{key}\n"):
        wrong.write_text(line)
        name = line.partition(":")[0]
        uri = lab.uri(export.name, "tcp", "psk").replace(str(lab.psk_file), str(wrong))
        assert run("nbdinfo", uri.replace(f"{user}@", f"{name}@")).returncode != 0
    assert run("nbdinfo", lab.uri(export.name, "tcp", "psk")).returncode == 0


@some_ways
def test_map_equals_seek_hole(lab: Laboratory, transport: Transport, security: Security) -> None:
    export = lab.export(32 << 20)
    with export.file.open("r+b") as file:
        for block in (0, 3, 4, 5, 100, 4095, 8191):
            file.seek(block * 4096)
            file.write(b"data" * 1024)
    uri = lab.uri(export.name, transport, security)
    entries = json.loads(succeed("nbdinfo", "--map", "--json", uri))
    got = [(one["offset"], one["length"], one["type"] == 3) for one in entries]
    assert {one["type"] for one in entries} == {0, 3}, "data, or a hole that reads as zeroes"
    assert merged(got) == extents_of_file(export.file, export.size)
    totals = json.loads(succeed("nbdinfo", "--map", "--totals", "--json", uri))
    assert sum(one["size"] for one in totals) == export.size
