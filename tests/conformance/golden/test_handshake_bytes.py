"""The handshake with the real daemon, byte for byte, over TCP and a Unix socket."""

from __future__ import annotations

import pytest

from tests.conformance.golden.wirecheck import expect
from tests.conformance.nbdclient import Negotiation, Rep, annotated, connect_socket
from tests.lab.processes import Gateway

IHAVEOPT = "49484156454f5054"
REPLY = "0003e889045565a9"
SIZE = "0000000000100000"  # 1 MiB
# HAS_FLAGS SEND_FLUSH SEND_FUA SEND_TRIM SEND_WRITE_ZEROES CAN_MULTI_CONN SEND_CACHE
# SEND_FAST_ZERO
FLAGS = "0d6d"


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, shared_gateway: Gateway) -> str:
    if request.param == "unix":
        return f"unix:{shared_gateway.nbd_socket}"
    return f"127.0.0.1:{shared_gateway.nbd_port}"


@pytest.fixture(scope="module")
def export(shared_gateway: Gateway) -> str:
    return shared_gateway.add_export(shared_gateway.add_volume("1MiB"), "golden")


@pytest.fixture
def connection(address: str, export: str) -> Negotiation:
    """A connection that has sent and received nothing yet."""
    return Negotiation(connect_socket(address))


GREETING = "4e42444d41474943 49484156454f5054 0003  # NBDMAGIC IHAVEOPT FIXED_NEWSTYLE|NO_ZEROES"


def test_export_name(connection: Negotiation) -> None:
    expect(connection, GREETING)
    connection.send(annotated(f'00000003 {IHAVEOPT} 00000001 00000006 "golden"'))
    expect(connection, f"{SIZE} {FLAGS}")
    # Transmission has begun: a compact NBD_CMD_READ of 4 bytes at 0 gets a simple reply.
    connection.send(annotated("25609513 0000 0000 c0ffee0000000001 0000000000000000 00000004"))
    expect(connection, "67446698 00000000 c0ffee0000000001 00000000")
    connection.close()


def test_export_name_with_zeroes(connection: Negotiation) -> None:
    expect(connection, GREETING)
    connection.send(annotated(f'00000001 {IHAVEOPT} 00000001 00000006 "golden"'))
    expect(connection, f"{SIZE} {FLAGS} 124*00")
    connection.close()


def test_unknown_export_name_closes(connection: Negotiation) -> None:
    expect(connection, GREETING)
    connection.send(annotated(f'00000003 {IHAVEOPT} 00000001 00000004 "none"'))
    assert connection.closed_by_server()


@pytest.mark.parametrize("flags", ["00000004", "80000003", "ffffffff"])
def test_unknown_client_flags_close(connection: Negotiation, flags: str) -> None:
    expect(connection, GREETING)
    connection.send(annotated(flags))
    assert connection.closed_by_server()


def test_wrong_option_magic_closes(connection: Negotiation) -> None:
    expect(connection, GREETING)
    connection.send(annotated("00000003 4948415645 4f5055 00000003 00000000"))
    assert connection.closed_by_server()


def test_options_in_pieces(connection: Negotiation) -> None:
    expect(connection, GREETING)
    for byte in annotated(f'00000003 {IHAVEOPT} 00000007 0000000c 00000006 "golden" 0000'):
        connection.send(bytes([byte]))
    expect(
        connection,
        f"""
        {REPLY} 00000007 00000003 0000000c 0000 {SIZE} {FLAGS}
        {REPLY} 00000007 00000001 00000000
        """,
    )
    connection.close()


def test_a_conversation(connection: Negotiation, shared_gateway: Gateway, export: str) -> None:
    """One connection through every option that does not end it, then NBD_OPT_GO."""
    (volume,) = shared_gateway.api("GET", "volumes")
    description = f"{volume['pool']}/{volume['name']} ({volume['wwn']})"
    listed = f"{10 + len(description):08x}"
    expect(connection, GREETING)
    connection.send(annotated(f"00000003 {IHAVEOPT} 00000003 00000000"))  # NBD_OPT_LIST
    expect(
        connection,
        f"""
        {REPLY} 00000003 00000002 {listed} 00000006 "golden" "{description}"
        {REPLY} 00000003 00000001 00000000
        """,
    )
    connection.send(annotated(f"{IHAVEOPT} 00000008 00000000"))  # NBD_OPT_STRUCTURED_REPLY
    expect(connection, f"{REPLY} 00000008 00000001 00000000")
    connection.send(annotated(f"{IHAVEOPT} 0000000b 00000000"))  # NBD_OPT_EXTENDED_HEADERS
    expect(connection, f"{REPLY} 0000000b 00000001 00000000")
    query = '00000006 "golden" 00000001 00000005 "base:"'
    connection.send(annotated(f"{IHAVEOPT} 00000009 00000017 {query}"))  # LIST_META_CONTEXT
    expect(
        connection,
        f"""
        {REPLY} 00000009 00000004 00000013 00000000 "base:allocation"
        {REPLY} 00000009 00000001 00000000
        """,
    )
    query = '00000006 "golden" 00000001 0000000f "base:allocation"'
    connection.send(annotated(f"{IHAVEOPT} 0000000a 00000021 {query}"))  # SET_META_CONTEXT
    expect(
        connection,
        f"""
        {REPLY} 0000000a 00000004 00000013 00000001 "base:allocation"
        {REPLY} 0000000a 00000001 00000000
        """,
    )
    # NBD_OPT_INFO asking for NAME and BLOCK_SIZE; the flags have SEND_DF and
    # BLOCK_STATUS_PAYLOAD added.
    connection.send(annotated(f'{IHAVEOPT} 00000006 00000010 00000006 "golden" 0002 0001 0003'))
    expect(
        connection,
        f"""
        {REPLY} 00000006 00000003 0000000c 0000 {SIZE} 1ded
        {REPLY} 00000006 00000003 00000008 0001 "golden"
        {REPLY} 00000006 00000003 0000000e 0003 00000001 00001000 02000000
        {REPLY} 00000006 00000001 00000000
        """,
    )
    connection.send(annotated(f'{IHAVEOPT} 00000007 0000000c 00000006 "golden" 0000'))
    expect(
        connection,
        f"""
        {REPLY} 00000007 00000003 0000000c 0000 {SIZE} 1ded
        {REPLY} 00000007 00000001 00000000
        """,
    )
    connection.close()


def test_abort_is_acknowledged_then_closed(connection: Negotiation) -> None:
    expect(connection, GREETING)
    connection.send(annotated(f"00000003 {IHAVEOPT} 00000002 00000000"))
    expect(connection, f"{REPLY} 00000002 00000001 00000000")
    assert connection.closed_by_server()


@pytest.mark.parametrize(
    ("option", "data", "kind"),
    [
        (4, b"", Rep.ERR_UNSUP),  # NBD_OPT_PEEK_EXPORT, withdrawn
        (0x7FFFFFFF, b"x" * 100, Rep.ERR_UNSUP),
        (3, b"x", Rep.ERR_INVALID),
        (5, b"", Rep.ERR_POLICY),  # no TLS here
        (6, b"\0\0\0\4none\0\0", Rep.ERR_UNKNOWN),
        (7, b"\0\0\0\0\0\0", Rep.ERR_UNKNOWN),
        (7, b"\0\0\0\x63golden\0\0", Rep.ERR_INVALID),
        (7, b"x" * 100_000, Rep.ERR_TOO_BIG),  # skipped by the engine
        (10, b"\0\0\0\6golden\0\0\0\0", Rep.ERR_INVALID),  # before structured replies
    ],
)
def test_error_replies(address: str, export: str, option: int, data: bytes, kind: Rep) -> None:
    connection = Negotiation.connect(address)
    connection.send_option(option, data)
    reply = connection.receive_reply(option)
    assert reply.kind == kind
    assert reply.data.decode()
    # The connection has lost nothing of the stream.
    assert [name for name, _ in connection.list_exports()] == ["golden"]
    connection.abort()
    connection.close()


def test_an_option_beyond_every_bound_closes(address: str, export: str) -> None:
    connection = Negotiation.connect(address)
    connection.send(annotated(f"{IHAVEOPT} 00000063 7fffffff"))
    assert connection.closed_by_server()
