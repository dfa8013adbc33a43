"""Plays the files below `pdus`; and the player itself, which must not pass what differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.iscsi.golden.replay import play
from tests.conformance.iscsi.golden.script import Differs, Known, Line, compare, encode, read
from tests.lab.processes import Gateway, Target

PDUS = Path(__file__).with_name("pdus")
# What a file includes is played with those that do.
FILES = sorted(path.stem for path in PDUS.glob("*.pdus") if not path.stem.startswith("in-"))
TARGET = "iqn.2026-01.org.example:golden"


@pytest.fixture(scope="module")
def iscsi(start_module_gateway: Callable[..., Gateway]) -> Gateway:
    return start_module_gateway(iscsi="127.0.0.1:0")


@contextlib.contextmanager
def served(gateway: Gateway, lines: list[Line]) -> Iterator[Target]:
    """The target that the files speak to, with a new volume as LUN 0."""
    said: dict[str, dict[str, str]] = {"parameters": {}, "volume": {"size": "64KiB"}}
    while lines[0].word in said:
        line = lines.pop(0)
        said[line.word] |= dict(pair.split("=", 1) for pair in line.rest.split())
    face: dict[str, Any] = said["volume"]
    if face.pop("removable", "") == "true":
        face["scsi"] = {"removable": True}
    volume = gateway.add_volume(**face)
    # Nobody is asked whether he lives while the bytes are looked at.
    parameters = {"nop_interval": "0", **said["parameters"]}
    body = {"name": TARGET, "access": "open", "luns": [{"lun": 0, "volume": volume}]}
    gateway.api("POST", "targets", body | {"parameters": parameters})
    try:
        yield Target(gateway, TARGET, {0: volume})
    finally:
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            gateway.api("DELETE", f"targets/{TARGET}", force=True)


@pytest.mark.parametrize("file", FILES)
def test_pdus(iscsi: Gateway, file: str) -> None:
    lines = list(read(PDUS / f"{file}.pdus"))
    with served(iscsi, lines) as target:

        def resize(size: str) -> None:
            iscsi.cli("volume", "resize", target.volumes[0], "--size", size)

        def remove() -> None:  # it waits for whoever is asked to log out
            meanwhile.submit(iscsi.cli, "target", "remove", TARGET, "--force")

        with ThreadPoolExecutor(1) as meanwhile:
            play(lines, target.address, {"resize": resize, "remove": remove})


def pdu(text: str, tmp_path: Path) -> Line:
    file = tmp_path / "one.pdus"
    file.write_text(f"< one\n{text}\n")
    (line,) = read(file)
    return line


HEADER = '0 20 80 "ab"\n4 SN:2 SN+1:2 open:1 00*3'


def test_what_is_as_written(tmp_path: Path) -> None:
    known: Known = {}
    compare(pdu(HEADER, tmp_path), known, b"\x20\x80ab\0\x07\0\x08\xff\0\0\0")
    assert known["SN"] == 7
    sent = encode(pdu("0 SN-7:2 SN+65529:2 pad 01 pad digest", tmp_path), known)
    assert sent[:8] == b"\0\0\0\0\1\0\0\0" and len(sent) == 12


@pytest.mark.parametrize(
    "came",
    [
        b"\x20\x81ab\0\x07\0\x08\xff\0\0\0",  # a bit
        b"\x20\x80ab\0\x07\0\x09\xff\0\0\0",  # what is known already
        b"\x20\x80ab\0\x07\0\x08\xff\0\0",  # too little
        b"\x20\x80ab\0\x07\0\x08\xff\0\0\0\0",  # too much
    ],
)
def test_what_is_not(tmp_path: Path, came: bytes) -> None:
    with pytest.raises(Differs):
        compare(pdu(HEADER, tmp_path), {}, came)


def test_an_offset_that_lies(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="stands at 4"):
        encode(pdu("0 00*4\n5 00", tmp_path), {})
