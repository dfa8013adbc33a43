"""The same request gets the same answer whatever headers carry it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.nbdclient import ALLOCATION, Client, Cmd, CmdFlag, Mode
from tests.lab.processes import Gateway

MIB = 1 << 20
SIZE = 64 * MIB
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = CmdFlag.FUA, CmdFlag.NO_HOLE, CmdFlag.DF, 8, 16
EPERM, EINVAL, ENOSPC = 1, 22, 28


@pytest.fixture(scope="module")
def volume(shared_gateway: Gateway) -> str:
    """A volume with data, holes and zeroes: a pattern of 64 KiB pieces, and one larger run."""
    volume = shared_gateway.add_volume(SIZE)
    shared_gateway.add_export(volume, "styles")
    shared_gateway.add_export(volume, "styles-ro", read_only=True)
    rng = random.Random(20)
    with Client.open(f"127.0.0.1:{shared_gateway.nbd_port}", "styles") as nbd:
        for offset in range(0, 16 * MIB, 256 << 10):
            nbd.write(offset, rng.randbytes(64 << 10))
        nbd.write(20 * MIB, rng.randbytes(12 * MIB))
        nbd.flush()
    return volume


class Clients:
    """The same export over each style. ``structured`` ones have base:allocation."""

    def __init__(self, address: str, export: str, stack: ExitStack) -> None:
        self.simple = stack.enter_context(Client.open(address, export))
        self.structured, self.extended = (
            stack.enter_context(Client.open(address, export, mode=mode, contexts=[ALLOCATION]))
            for mode in (Mode.STRUCTURED, Mode.EXTENDED)
        )
        self.all = (self.simple, self.structured, self.extended)


@pytest.fixture
def clients(shared_gateway: Gateway, volume: str) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(f"127.0.0.1:{shared_gateway.nbd_port}", "styles", stack)


@pytest.fixture
def read_only(shared_gateway: Gateway, volume: str) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(f"127.0.0.1:{shared_gateway.nbd_port}", "styles-ro", stack)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (0, 4096),
        (511, 3),
        (65535, 2),  # from data into a hole
        (4095, 300_001),
        (0, 2 * MIB),
        (18 * MIB + 7, 3 * MIB),  # a hole, then data
        (16 * MIB, 32 * MIB),  # the maximum payload
        (SIZE - 1, 1),
    ],
)
def test_reads(
    clients: Clients, volume: str, shared_gateway: Gateway, offset: int, length: int
) -> None:
    with shared_gateway.backing_file(volume).open("rb") as file:
        truth = os.pread(file.fileno(), length, offset)
    for client in clients.all:
        assert client.read(offset, length) == truth
    for client in clients.all[1:]:
        reply = client.request(Cmd.READ, offset, length, flags=DF)
        assert (reply.error, bytes(reply.data)) in ((0, truth), (75, bytes(length)))
        if length <= 65536:  # "the server MUST support unfragmented reads" of these
            assert reply.error == 0


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (Cmd.READ, SIZE, 1, 0, EINVAL),
        (Cmd.READ, SIZE - 1, 2, 0, EINVAL),
        (Cmd.READ, 2**64 - 1, 2, 0, EINVAL),
        (Cmd.READ, 0, 32 * MIB + 1, 0, EINVAL),
        (Cmd.READ, 0, 512, 0x4000, EINVAL),
        (Cmd.READ, 0, 512, NO_HOLE, EINVAL),
        (Cmd.READ, 0, 512, REQ_ONE, EINVAL),
        (Cmd.READ, 0, 512, FAST_ZERO, EINVAL),
        (Cmd.READ, 0, 512, FUA, 0),  # "MUST accept all commands with this bit set"
        (Cmd.FLUSH, 0, 0, FUA, 0),
        (Cmd.FLUSH, 0, 0, DF, EINVAL),
        (Cmd.TRIM, SIZE - 512, 1024, 0, EINVAL),
        (Cmd.TRIM, 40 * MIB, 512, NO_HOLE, EINVAL),
        (Cmd.TRIM, 40 * MIB, MIB, FUA, 0),
        (Cmd.CACHE, 0, MIB, 0, 0),
        (Cmd.CACHE, SIZE, MIB, 0, EINVAL),
        (Cmd.CACHE, 0, MIB, 0x100, EINVAL),
        (Cmd.WRITE_ZEROES, SIZE - 512, 1024, 0, ENOSPC),
        (Cmd.WRITE_ZEROES, 40 * MIB, MIB, NO_HOLE, 0),
        (Cmd.WRITE_ZEROES, 41 * MIB, MIB, FUA, 0),
        (Cmd.WRITE_ZEROES, 41 * MIB, MIB, DF, EINVAL),
        (8, 0, 0, 0, EINVAL),  # NBD_CMD_RESIZE, left out
        (0xFFFF, 0, 0, 0, EINVAL),
    ],
)
def test_errors(
    clients: Clients, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    for client in clients.all:
        assert client.request(command, offset, length, flags=flags).error == error


def test_writes_beyond_the_end(clients: Clients) -> None:
    for client in clients.all:
        assert client.request(Cmd.WRITE, SIZE - 1, payload=b"xy").error == ENOSPC
        assert client.read(SIZE - 1, 1) == b"\0"


def test_read_only_exports_refuse_every_change(read_only: Clients) -> None:
    for client in read_only.all:
        assert client.info.flags & 2
        assert client.request(Cmd.WRITE, 0, payload=b"xy").error == EPERM
        assert client.request(Cmd.TRIM, 0, 4096).error == EPERM
        assert client.request(Cmd.WRITE_ZEROES, 0, 4096).error == EPERM
        assert client.request(Cmd.READ, 0, 4096).error == 0


def test_who_was_told_of_a_read_only_export_keeps_it_when_others_may_write(
    shared_gateway: Gateway, volume: str
) -> None:
    address = f"127.0.0.1:{shared_gateway.nbd_port}"
    export = shared_gateway.add_export(volume, read_only=True)
    with Client.open(address, export) as reader:
        shared_gateway.api("PATCH", f"exports/{export}", {"read_only": False})
        with Client.open(address, export) as writer:
            writer.write(0, b"new")
        assert reader.read(0, 3) == b"new"
        assert reader.request(Cmd.WRITE, 0, payload=b"xy").error == EPERM


def seek_extents(path: Path, offset: int, length: int) -> list[tuple[int, int]]:
    """(length, status) as SEEK_DATA and SEEK_HOLE tell it: 0 for data, HOLE | ZERO for holes."""
    found = []
    end = offset + length
    with path.open("rb") as file:
        while offset < end:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                data = end
            if data > offset:
                found.append((min(data, end) - offset, 3))
            if data < end:
                hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                found.append((min(hole, end) - data, 0))
                offset = hole
            else:
                offset = end
    return found


def clipped(extents: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Extents up to ``length``, neighbours of one status made one."""
    out: list[tuple[int, int]] = []
    for size, status in extents:
        size = min(size, length)
        length -= size
        if size and out and out[-1][1] == status:
            out[-1] = (out[-1][0] + size, status)
        elif size:
            out.append((size, status))
    return out


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, SIZE), (0, 64 << 10), (100_000, 1_000_000), (17 * MIB, 8 * MIB), (SIZE - 4096, 4096)],
)
def test_block_status(
    clients: Clients, volume: str, shared_gateway: Gateway, offset: int, length: int
) -> None:
    truth = seek_extents(shared_gateway.backing_file(volume), offset, length)
    for client in (clients.structured, clients.extended):
        found = client.block_status(offset, length)[ALLOCATION]
        assert clipped(found, length) == truth
        ((size, status),) = client.block_status(offset, length, flags=REQ_ONE)[ALLOCATION]
        assert (size, status) == truth[0]
    assert (
        clients.extended.block_status(offset, length)
        == clients.structured.block_status(offset, length)
        == clients.extended.block_status(offset, length, ids=list(clients.extended.contexts))
    )


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 512), (0, SIZE + 1), (2**63, 512)])
def test_block_status_beyond_the_end(clients: Clients, offset: int, length: int) -> None:
    for client in (clients.structured, clients.extended):
        assert client.request(Cmd.BLOCK_STATUS, offset, length).error == EINVAL
    assert clients.simple.request(Cmd.BLOCK_STATUS, 0, 512).error == EINVAL


def test_every_style_sees_what_another_wrote(clients: Clients) -> None:
    rng = random.Random(8)
    for number, writer in enumerate(clients.all):
        offset = 44 * MIB + number * MIB
        data = rng.randbytes(300_001)
        writer.write(offset + 13, data, flags=FUA)
        for reader in clients.all:
            assert reader.read(offset + 13, len(data)) == data
        writer.write_zeroes(offset + 1000, 100_000)
        for reader in clients.all:
            assert reader.read(offset + 1000, 100_000) == bytes(100_000)
            assert reader.read(offset + 999, 1) == data[986:987]


@pytest.mark.parametrize("mode", Mode)
def test_many_requests_in_flight(shared_gateway: Gateway, volume: str, mode: Mode) -> None:
    """512 reads and writes that do not touch one another, answered in whatever order."""
    rng = random.Random(5)
    base = 48 * MIB
    with Client.open(f"unix:{shared_gateway.nbd_socket}", "styles", mode=mode) as nbd:
        blocks = [rng.randbytes(4096) for _ in range(256)]
        writes = [
            nbd.submit(Cmd.WRITE, base + 8192 * i, payload=block) for i, block in enumerate(blocks)
        ]
        gaps = [nbd.submit(Cmd.READ, base + 8192 * i + 4096, 4096) for i in range(256)]
        assert all(reply.error == 0 for reply in nbd.wait_all(writes))
        assert all(bytes(reply.data) == bytes(4096) for reply in nbd.wait_all(gaps))
        wanted = {
            nbd.submit(Cmd.READ, base + 8192 * i, 4096): block for i, block in enumerate(blocks)
        }
        while wanted:
            cookie, reply = nbd.wait_any()
            assert bytes(reply.data) == wanted.pop(cookie)
        nbd.trim(base, 4 * MIB)
