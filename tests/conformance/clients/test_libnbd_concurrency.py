"""Many requests in flight, on one connection and on several."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.conformance.clients.conftest import some_ways
from tests.conformance.clients.laboratory import (
    Laboratory,
    Security,
    Transport,
    content,
    libnbd,
)

SIZE = 16 << 20
nbd = libnbd()


def drain(handle: Any, cookies: dict[int, Any], below: int = 0) -> None:
    """Waits until fewer than `below` + 1 requests are in flight; none may fail."""
    while len(cookies) > below:
        assert handle.poll(30_000) >= 0
        for cookie in list(cookies):
            if handle.aio_command_completed(cookie):
                del cookies[cookie]


@some_ways
@pytest.mark.parametrize("io", ["buffered", "direct"])
def test_random_requests_against_a_model(
    lab: Laboratory, transport: Transport, security: Security, io: str
) -> None:
    """Requests in flight never overlap here, so that the outcome of each is certain."""
    generator = random.Random(41)
    image = bytearray(content(SIZE, seed=9))
    handle = lab.connect(lab.export(SIZE, bytes(image), io=io).name, transport, security)
    for _ in range(30):
        cookies: dict[int, Any] = {}
        reads: list[tuple[Any, int, int]] = []
        places = generator.sample(range(SIZE // 65536), 64)
        for place in places:
            offset = place * 65536 + generator.randrange(0, 30000)
            length = generator.randrange(1, 35000)
            kind = generator.choice(["read", "read", "write", "zero", "trim"])
            if kind == "read":
                buffer = nbd.Buffer(length)
                cookies[handle.aio_pread(buffer, offset)] = buffer
                reads.append((buffer, offset, length))
            elif kind == "write":
                data = generator.randbytes(length)
                cookies[handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)] = (
                    data
                )
                image[offset : offset + length] = data
            elif kind == "zero":
                cookies[handle.aio_zero(length, offset)] = None
                image[offset : offset + length] = bytes(length)
            else:
                start, end = -(-offset // 4096) * 4096, (offset + length) // 4096 * 4096
                if start < end:
                    cookies[handle.aio_trim(end - start, start)] = None
                    image[start:end] = bytes(end - start)
        drain(handle, cookies)
        for buffer, offset, length in reads:
            assert buffer.to_bytearray() == image[offset : offset + length]
    assert handle.pread(SIZE, 0) == image
    handle.shutdown()


def test_hundreds_in_flight(lab: Laboratory) -> None:
    data = content(SIZE, seed=10)
    handle = lab.connect(lab.export(SIZE, data).name)
    buffers = [(nbd.Buffer(4096), number * 4096) for number in range(2000)]
    cookies = {handle.aio_pread(buffer, offset): None for buffer, offset in buffers}
    assert handle.aio_in_flight() > 0
    drain(handle, cookies)
    for buffer, offset in buffers:
        assert buffer.to_bytearray() == data[offset : offset + 4096]


def test_many_large_reads_at_once(lab: Laboratory) -> None:
    """More than a connection may hold in memory at once: they come in turns, and all come."""
    data = content(SIZE, seed=11)
    handle = lab.connect(lab.export(SIZE, data).name)
    buffers = [nbd.Buffer(SIZE) for _ in range(8)]
    drain(handle, {handle.aio_pread(buffer, 0): None for buffer in buffers})
    for buffer in buffers:
        assert buffer.to_bytearray() == data


def test_connections_of_a_volume_see_each_other(lab: Laboratory) -> None:
    export = lab.export(SIZE)
    handles = [lab.connect(export.name, transport) for transport in ("tcp", "unix", "tcp6")]
    assert all(handle.can_multi_conn() for handle in handles)
    for number, handle in enumerate(handles):
        handle.pwrite(bytes([number + 1]) * 4096, number * 4096)
    expected = b"".join(bytes([number + 1]) * 4096 for number in range(len(handles)))
    for handle in handles:
        assert handle.pread(len(expected), 0) == expected


@pytest.mark.parametrize("io", ["buffered", "direct"])
def test_neighbours_within_a_block_are_not_lost(lab: Laboratory, io: str) -> None:
    """Small writes side by side in the same blocks, all in flight at once, from two sides."""
    export = lab.export(1 << 20, io=io)
    handles = [lab.connect(export.name, "unix"), lab.connect(export.name, "tcp")]
    piece, count = 100, 400
    for turn in range(3):
        pending: list[dict[int, Any]] = [{}, {}]
        for number in range(count):
            which = (number + turn) % 2
            buffer = nbd.Buffer.from_bytearray(bytearray([1 + (number + turn) % 255]) * piece)
            pending[which][handles[which].aio_pwrite(buffer, number * piece)] = buffer
        for handle, cookies in zip(handles, pending, strict=True):
            drain(handle, cookies)
        expected = b"".join(bytes([1 + (number + turn) % 255]) * piece for number in range(count))
        assert handles[0].pread(count * piece, 0) == expected


def test_disconnect_with_requests_in_flight(lab: Laboratory) -> None:
    """What was acknowledged stays; the gateway forgets the rest and goes on."""
    export = lab.export(SIZE)
    handle = lab.connect(export.name)
    handle.pwrite(b"acknowledged", 0)
    buffer = nbd.Buffer.from_bytearray(bytearray(1 << 20))
    for number in range(8):
        handle.aio_pwrite(buffer, (number + 1) << 20)
    del handle
    again = lab.connect(export.name)
    assert again.pread(12, 0) == b"acknowledged"
    again.pwrite(b"x", SIZE - 1)
