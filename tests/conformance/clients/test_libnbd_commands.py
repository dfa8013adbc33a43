"""libnbd (nbdsh's library): every command with its flags, and what it leaves in the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.clients.conftest import every_way
from tests.conformance.clients.laboratory import (
    Export,
    Laboratory,
    Security,
    Transport,
    content,
    extents_of_file,
    libnbd,
    merged,
    succeed,
)

SIZE = 8 << 20
nbd = libnbd()


@pytest.fixture(params=["buffered", "direct"])
def io(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def export(lab: Laboratory, io: str) -> Export:
    return lab.export(SIZE, content(SIZE, seed=7), io=io)


@pytest.fixture
def handle(lab: Laboratory, export: Export) -> Iterator[Any]:
    handle = lab.connect(export.name, strict=False)
    yield handle
    handle.shutdown()


@every_way
def test_a_script_of_nbdsh(lab: Laboratory, transport: Transport, security: Security) -> None:
    export = lab.export(SIZE)
    script = f"""
h.set_uri_allow_local_file(True)
h.connect_uri({lab.uri(export.name, transport, security)!r})
assert h.get_size() == 8 << 20
assert h.get_protocol() == "newstyle-fixed"
assert h.get_structured_replies_negotiated()
h.pwrite(b"from nbdsh" * 100, 12345)
h.flush()
assert h.pread(1000, 12345) == b"from nbdsh" * 100
assert h.pread(1000, 0) == bytes(1000)
print(h.get_tls_negotiated())
"""
    output = succeed("nbdsh", "-c", script)
    assert output.decode().strip() == str(security != "plain")


def test_reads_and_writes_of_any_alignment(handle: Any, export: Export) -> None:
    image = bytearray(content(SIZE, seed=7))
    for number, (offset, length) in enumerate(
        [(0, 1), (511, 2), (4095, 4098), (12345, 65537), (SIZE - 1, 1), (1 << 20, 1 << 20)]
    ):
        data = bytes([number + 1]) * length
        handle.pwrite(data, offset)
        image[offset : offset + length] = data
        assert handle.pread(length, offset) == data
    assert handle.pread(SIZE, 0) == image
    handle.flush()
    assert export.file.read_bytes() == image


@pytest.mark.parametrize("length", [1 << 20, 4 << 20, 32 << 20])
def test_large_requests(lab: Laboratory, io: str, length: int) -> None:
    export = lab.export(33 << 20, io=io)
    handle = lab.connect(export.name)
    data = content(length, seed=length)
    handle.pwrite(data, 4096)
    assert handle.pread(length, 4096) == data
    handle.pwrite(data[: length - 3], 5001)
    assert handle.pread(length - 3, 5001) == data[: length - 3]
    simple = lab.connect(export.name, structured=False)
    assert simple.pread(length - 3, 5001) == data[: length - 3]


def test_df_gives_one_chunk(handle: Any) -> None:
    chunks: list[tuple[int, int]] = []

    def note(buffer: bytes, offset: int, status: int, error: Any) -> None:
        chunks.append((offset, len(buffer)))

    handle.pread_structured(1 << 20, 4096, note, nbd.CMD_FLAG_DF)
    assert chunks == [(4096, 1 << 20)]


def test_write_zeroes_leaves_a_hole_unless_told(handle: Any, export: Export) -> None:
    handle.zero(1 << 20, 0)
    handle.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_NO_HOLE)
    handle.flush()
    holes = [
        (offset, length) for offset, length, hole in extents_of_file(export.file, SIZE) if hole
    ]
    assert (0, 1 << 20) in holes
    # SEEK_HOLE takes blocks that were given and not written for a hole: the file has its blocks.
    assert os.stat(export.file).st_blocks * 512 >= SIZE - (1 << 20)
    assert handle.pread(3 << 20, 0) == bytes(1 << 20) + content(SIZE, seed=7)[
        1 << 20 : 2 << 20
    ] + bytes(1 << 20)


def test_fast_zero_succeeds_where_fallocate_does(handle: Any) -> None:
    assert handle.can_fast_zero()
    handle.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
    handle.zero(1 << 20, 3 << 20, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    assert handle.pread(1 << 20, 1 << 20) == bytes(1 << 20)
    assert handle.pread(1 << 20, 3 << 20) == bytes(1 << 20)


def test_zeroes_of_any_alignment(handle: Any, export: Export) -> None:
    image = bytearray(content(SIZE, seed=7))
    for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA):
        for offset, length in ((1, 1), (4095, 2), (10001, 99999), (SIZE - 777, 777)):
            handle.pwrite(b"\xff" * length, offset)
            handle.zero(length, offset, flags)
            image[offset : offset + length] = bytes(length)
    assert handle.pread(SIZE, 0) == image


def test_trim(handle: Any, export: Export) -> None:
    handle.trim(1 << 20, 1 << 20)
    handle.trim(1 << 20, 3 << 20, nbd.CMD_FLAG_FUA)
    handle.trim(5000, 1)  # whole blocks only, or none
    holes = [
        (offset, length) for offset, length, hole in extents_of_file(export.file, SIZE) if hole
    ]
    assert (1 << 20, 1 << 20) in holes
    assert (3 << 20, 1 << 20) in holes
    before = content(SIZE, seed=7)
    assert handle.pread(1, 0) == before[:1]
    assert handle.pread(100, 5001) == before[5001:5101], "not a byte outside is touched"


def test_cache(handle: Any) -> None:
    assert handle.can_cache()
    handle.cache(1 << 20, 0)
    handle.cache(SIZE, 0)


def test_write_with_fua(handle: Any) -> None:
    handle.pwrite(b"stable" * 1000, 777, nbd.CMD_FLAG_FUA)
    handle.zero(4096, 65536, nbd.CMD_FLAG_FUA)
    assert handle.pread(6000, 777) == b"stable" * 1000


def block_status(handle: Any, length: int, offset: int, flags: int = 0) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []

    def note(context: str, start: int, entries: list[int], error: Any) -> None:
        assert context == "base:allocation"
        assert start == offset
        found.extend(zip(entries[::2], entries[1::2], strict=True))

    handle.block_status(length, offset, note, flags)
    return found


def all_extents(handle: Any, size: int) -> list[tuple[int, int, bool]]:
    extents: list[tuple[int, int, bool]] = []
    at = 0
    while at < size:
        for length, state in block_status(handle, size - at, at):
            assert state in (0, nbd.STATE_HOLE | nbd.STATE_ZERO)
            extents.append((at, length, state != 0))
            at += length
    return merged(extents)


def test_block_status_equals_seek_hole(lab: Laboratory, io: str) -> None:
    export = lab.export(64 << 20, io=io)
    handle = lab.connect(export.name)
    assert all_extents(handle, export.size) == [(0, export.size, True)]
    for block in (0, 1, 5, 700, 1023, 9999, 16383):
        handle.pwrite(b"d" * 4096, block * 4096)
    handle.trim(4096, 0)
    handle.flush()
    assert all_extents(handle, export.size) == extents_of_file(export.file, export.size)


def test_block_status_with_req_one(lab: Laboratory) -> None:
    export = lab.export(1 << 20)
    handle = lab.connect(export.name)
    handle.pwrite(b"d" * 4096, 8192)
    one = nbd.CMD_FLAG_REQ_ONE
    assert block_status(handle, 1 << 20, 0, one) == [(8192, 3)]
    assert block_status(handle, 4096, 4096, one) == [(4096, 3)]
    assert block_status(handle, 100, 8200, one) == [(100, 0)]


def test_without_structured_replies(lab: Laboratory) -> None:
    export = lab.export(SIZE, content(SIZE, seed=8))
    handle = lab.connect(export.name, structured=False, strict=False)
    assert not handle.get_structured_replies_negotiated()
    assert not handle.can_df()
    assert handle.pread(SIZE, 0) == content(SIZE, seed=8)
    with pytest.raises(nbd.Error) as caught:
        handle.pread(SIZE + 1, 0)
    assert caught.value.errno == "EINVAL"
    with pytest.raises(nbd.Error):
        handle.block_status(4096, 0, lambda *_: 0)
    assert handle.pread(10, 0) == content(SIZE, seed=8)[:10], "the connection goes on"
