"""What only extended headers can say: effect lengths above 32 bits, and extents as long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.nbdclient import (
    ALLOCATION,
    Client,
    Cmd,
    CmdFlag,
    Mode,
    Negotiation,
    Opt,
    OptionError,
    Rep,
    Request,
    TransmissionFlag,
)
from tests.lab.processes import Gateway

GIB = 1 << 30
SIZE = 9 * GIB
HOLE_AND_ZERO = 3


@pytest.fixture(scope="module")
def export(shared_gateway: Gateway) -> str:
    return shared_gateway.serve(SIZE)


@pytest.fixture
def nbd(shared_gateway: Gateway, export: str) -> Iterator[Client]:
    address = f"127.0.0.1:{shared_gateway.nbd_port}"
    with Client.open(address, export, mode=Mode.EXTENDED, contexts=[ALLOCATION]) as client:
        yield client


def test_flags(nbd: Client, shared_gateway: Gateway, export: str) -> None:
    assert nbd.info.flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD
    assert nbd.info.flags & TransmissionFlag.SEND_DF
    address = f"127.0.0.1:{shared_gateway.nbd_port}"
    with Client.open(address, export, mode=Mode.EXTENDED) as without:
        assert not without.info.flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD


def test_an_extent_longer_than_32_bits(nbd: Client) -> None:
    nbd.trim(0, SIZE)
    extents = nbd.block_status(0, SIZE)[ALLOCATION]
    assert sum(length for length, _ in extents) == SIZE
    assert extents == [(SIZE, HOLE_AND_ZERO)]
    assert nbd.block_status(0, SIZE, flags=CmdFlag.REQ_ONE)[ALLOCATION] == extents
    with_payload = nbd.block_status(0, SIZE, ids=list(nbd.contexts))[ALLOCATION]
    assert with_payload == extents


def test_zeroes_and_trim_longer_than_32_bits(nbd: Client) -> None:
    for change in ("write_zeroes", "trim"):
        nbd.write(123, b"early")
        nbd.write(6 * GIB, b"late")
        nbd.write(8 * GIB, b"behind")
        getattr(nbd, change)(0, 7 * GIB)
        if change == "write_zeroes":
            assert nbd.read(123, 5) == bytes(5)
            assert nbd.read(6 * GIB, 4) == bytes(4)
        assert nbd.read(8 * GIB, 6) == b"behind"
        status = nbd.block_status(0, 7 * GIB)[ALLOCATION]
        assert status[0] == (8 * GIB, HOLE_AND_ZERO) or status[0] == (7 * GIB, HOLE_AND_ZERO)


def test_cache_longer_than_32_bits(nbd: Client) -> None:
    nbd.cache(0, 8 * GIB)


def test_large_reads_are_refused_or_whole(nbd: Client) -> None:
    for length in (33 << 20, 5 * GIB):
        assert nbd.request(Cmd.READ, 0, length).error in (22, 75)
    assert nbd.read(0, 1) == b"\0"


def test_write_without_payload_len_is_an_error(nbd: Client) -> None:
    """ "The command NBD_CMD_WRITE MUST use the flag NBD_CMD_FLAG_PAYLOAD_LEN": without it no
    payload follows, so the stream stays whole."""
    cookie = nbd.submit(Cmd.WRITE, 4096, 512)
    assert nbd.wait(cookie).error == 22
    assert nbd.read(4096, 512) == bytes(512)


def test_payload_where_none_belongs_is_consumed(nbd: Client) -> None:
    for command in (Cmd.READ, Cmd.FLUSH, Cmd.TRIM, Cmd.CACHE, Cmd.WRITE_ZEROES, 77):
        assert nbd.request(command, 4096, payload=b"p" * 5000).error == 22
    assert nbd.request(Cmd.READ, 0, 16).error == 0


def test_block_status_payload_needs_contexts(shared_gateway: Gateway, export: str) -> None:
    address = f"127.0.0.1:{shared_gateway.nbd_port}"
    with Client.open(address, export, mode=Mode.EXTENDED) as nbd:
        assert nbd.request(Cmd.BLOCK_STATUS, 0, payload=bytes(12)).error == 22
        assert nbd.request(Cmd.BLOCK_STATUS, 0, 4096).error == 22
        assert nbd.read(0, 4) == bytes(4)


def test_disc_ends_the_connection(nbd: Client) -> None:
    reads = [nbd.submit(Cmd.READ, offset * 4096, 4096) for offset in range(64)]
    nbd.send_request(Request(Cmd.DISC, 1))
    # "The server MUST handle all outstanding requests."
    assert all(reply.error == 0 for reply in nbd.wait_all(reads))
    assert nbd.negotiation.closed_by_server()


def test_structured_replies_cannot_follow(shared_gateway: Gateway) -> None:
    connection = Negotiation.connect(f"127.0.0.1:{shared_gateway.nbd_port}")
    connection.structured_replies()
    connection.extended_headers()
    with pytest.raises(OptionError) as refused:
        connection.structured_replies()
    assert refused.value.kind == Rep.ERR_EXT_HEADER_REQD
    connection.close()


def test_export_name_cannot_follow(shared_gateway: Gateway, export: str) -> None:
    connection = Negotiation.connect(f"127.0.0.1:{shared_gateway.nbd_port}")
    connection.extended_headers()
    connection.send_option(Opt.EXPORT_NAME, export.encode())
    assert connection.closed_by_server()
