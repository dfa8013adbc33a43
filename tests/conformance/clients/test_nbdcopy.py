"""nbdcopy, in and out: many connections, one request at a time, sparse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.clients.conftest import every_way
from tests.conformance.clients.laboratory import (
    Laboratory,
    Security,
    Transport,
    content,
    succeed,
)

SIZE = 16 << 20


@every_way
def test_in_and_out(
    lab: Laboratory, tmp_path: Path, transport: Transport, security: Security
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    data = content(SIZE, seed=1)
    source.write_bytes(data)
    export = lab.export(SIZE)
    uri = lab.uri(export.name, transport, security)
    succeed("nbdcopy", "--flush", source, uri)
    assert export.file.read_bytes() == data
    succeed("nbdcopy", uri, back)
    assert back.read_bytes() == data


@pytest.mark.parametrize(
    "options",
    [
        ["--connections=1", "--requests=1"],
        ["--connections=4", "--requests=64", "--threads=2"],
        ["--synchronous"],
        ["--request-size=4096"],
        ["--request-size=33554432", "--queue-size=67108864"],
        ["--allocated"],
        ["--no-extents", "-S", "0"],
        ["-S", "65536"],
    ],
    ids=" ".join,
)
def test_ways_to_copy(lab: Laboratory, tmp_path: Path, options: list[str]) -> None:
    size = 64 << 20 if "33554432" in options[0] else SIZE
    source, back = tmp_path / "source", tmp_path / "back"
    data = content(size, seed=2)
    source.write_bytes(data)
    export = lab.export(size)
    uri = lab.uri(export.name)
    succeed("nbdcopy", *options, source, uri)
    succeed("nbdcopy", *options, uri, back)
    assert back.read_bytes() == data
    assert export.file.read_bytes() == data


def test_holes_stay_holes(lab: Laboratory, tmp_path: Path) -> None:
    """A sparse file through the gateway and back takes no more room than before."""
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        file.truncate(256 << 20)
        file.seek(100 << 20)
        file.write(content(1 << 20, seed=3))
    export = lab.export(256 << 20)
    with export.file.open("r+b") as file:
        file.seek(200 << 20)
        file.write(b"old" * 100_000)  # must be gone afterwards, not only covered
    succeed("nbdcopy", source, lab.uri(export.name))
    assert export.file.stat().st_blocks * 512 <= 2 << 20
    succeed("nbdcopy", lab.uri(export.name), back)
    assert back.stat().st_blocks * 512 <= 2 << 20
    succeed("cmp", source, back)


def test_from_one_export_to_another(lab: Laboratory) -> None:
    data = content(SIZE, seed=4)
    one, other = lab.export(SIZE, data), lab.export(SIZE)
    succeed("nbdcopy", lab.uri(one.name, "unix"), lab.uri(other.name, "tcp", "x509"))
    assert other.file.read_bytes() == data


def test_size_that_is_no_multiple_of_a_page(lab: Laboratory, tmp_path: Path) -> None:
    size = (1 << 20) + 512
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(content(size, seed=5))
    export = lab.export(size)
    succeed("nbdcopy", source, lab.uri(export.name))
    succeed("nbdcopy", lab.uri(export.name), back)
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("io", ["buffered", "direct"])
@pytest.mark.parametrize("cache", ["write-back", "write-through"])
def test_every_kind_of_volume(lab: Laboratory, tmp_path: Path, io: str, cache: str) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(content(SIZE, seed=6))
    export = lab.export(SIZE, io=io, cache=cache)
    succeed("nbdcopy", source, lab.uri(export.name))
    succeed("nbdcopy", lab.uri(export.name), back)
    assert back.read_bytes() == source.read_bytes()
    assert export.file.read_bytes() == source.read_bytes()
