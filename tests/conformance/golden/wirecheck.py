"""Compares what a server sends with bytes written out by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.conformance.nbdclient import Negotiation, annotated


def expect(connection: Negotiation, *alternatives: str) -> None:
    """The next bytes from the server are one of these (as for :func:`annotated`).

    More than one where the text leaves the choice to the server, such as whether the last content
    chunk carries NBD_REPLY_FLAG_DONE or an NBD_REPLY_TYPE_NONE chunk follows.
    """
    wanted = [annotated(text) for text in alternatives]
    got = b""
    while got not in wanted:
        got += connection.receive(_agreed(wanted, got) - len(got))
        assert any(one.startswith(got) for one in wanted), (
            f"got {got.hex(' ')}\nwanted {' or '.join(one.hex(' ') for one in wanted)}"
        )


def _agreed(wanted: Sequence[bytes], got: bytes) -> int:
    """How far the bytes can be read without waiting for some that may never come."""
    return min(len(one) for one in wanted if one.startswith(got))


def expect_error(connection: Negotiation, header: str, error: int, *, offset: bool = False) -> None:
    """The next message is an error chunk of any message text: ``header`` up to its length field,
    then error value, message length, message, and for NBD_REPLY_TYPE_ERROR_OFFSET the offset."""
    head = annotated(header)
    assert connection.receive(len(head)).hex(" ") == head.hex(" ")
    width = 8 if head.startswith(bytes.fromhex("6e8a278c")) else 4
    length = int.from_bytes(connection.receive(width), "big")
    payload = connection.receive(length)
    value, message = struct.unpack_from(">IH", payload)
    assert value == error
    assert length == 6 + message + (8 if offset else 0)
    payload[6 : 6 + message].decode()


def enter(address: str, export: str, *options: str) -> Negotiation:
    """A connection in transmission, after options given as hex (option number and data)."""
    connection = Negotiation.connect(address)
    for option in options:
        raw = annotated(option)
        connection.exchange(int.from_bytes(raw[:4], "big"), raw[4:])
    connection.go(export)
    return connection
