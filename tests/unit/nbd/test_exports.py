"""Peers, allow-lists, the directory of exports, transmission flags."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from blockgate.nbd import ExportDirectory, ExportView, Peer, transmission_flags
from tests.unit.nbd.scene import DISK, PLAIN, SCRATCH, haggling, name_data, replies

LIST = ExportView(
    "x",
    volume=1,
    size=512,
    allow=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("fe80::/10")),
)


@pytest.mark.parametrize(
    ("peer", "admitted"),
    [
        ("192.0.2.7:4711", True),
        ("192.0.3.7:4711", False),
        ("[2001:db8::7]:4711", True),
        ("[2001:db9::7]:4711", False),
        ("[::ffff:192.0.2.7]:4711", True),  # an IPv4 client of a dual-stack socket
        ("[::ffff:192.0.3.7]:4711", False),
        ("[fe80::1%eth0]:4711", True),
        ("unix:uid=0,gid=0,pid=12", True),
        ("nonsense", False),
        ("", False),
    ],
)
def test_allow_list(peer: str, admitted: bool) -> None:
    assert LIST.admits(Peer.parse(peer)) is admitted
    assert DISK.admits(Peer.parse(peer))


def test_who_is_not_admitted_neither_sees_nor_gets_the_export() -> None:
    directory = ExportDirectory.of([LIST])
    stranger = Peer.parse("203.0.113.1:99")
    handshake = haggling(directory, peer=stranger)
    assert [kind for _, kind, _ in replies(handshake.option(3, b"", directory))] == [1]
    answer = handshake.option(7, name_data("x"), directory)
    ((_, kind, text),) = replies(answer)
    assert kind == 0x80000006  # NBD_REP_ERR_UNKNOWN, as for a name that nothing has
    ((_, _, other),) = replies(handshake.option(7, name_data("y"), directory))
    assert text.replace(b"'x'", b"'y'") == other
    assert "203.0.113.1" in answer.note, "the log tells why"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a\0b"},
        {"name": "x" * 4097},
        {"description": "\0"},
        {"volume": -1},
        {"size": -1},
        {"size": 2**63},
        {"minimum_block": 3},
        {"minimum_block": 1 << 17},
        {"preferred_block": 256},
        {"minimum_block": 8192},  # preferred is smaller
        {"maximum_payload": 2048},
        {"maximum_payload": 2**32},
    ],
)
def test_impossible_exports(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="export"):
        ExportView(**{"name": "x", "volume": 1, "size": 512} | fields)  # type: ignore[arg-type]


def test_a_directory_is_a_snapshot() -> None:
    views = {"disk": DISK}
    directory = ExportDirectory(views)
    views.clear()
    assert directory.get("disk") is DISK
    with pytest.raises(TypeError):
        directory.exports["more"] = SCRATCH  # type: ignore[index]
    with pytest.raises(ValueError, match="two exports"):
        ExportDirectory.of([DISK, DISK])
    with pytest.raises(ValueError, match="stands under"):
        ExportDirectory({"other": DISK})
    assert directory != PLAIN


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("write_back", [False, True])
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("contexts", [False, True])
def test_flags(
    read_only: bool, write_back: bool, structured: bool, extended: bool, contexts: bool
) -> None:
    """Each bit of "Transmission flags" by its own rule."""
    view = ExportView("x", volume=1, size=512, read_only=read_only, write_back=write_back)
    flags = transmission_flags(view, structured=structured, extended=extended, contexts=contexts)
    bits = {bit for bit in range(16) if flags >> bit & 1}
    assert {0, 3, 8, 10} <= bits  # HAS_FLAGS, SEND_FUA, CAN_MULTI_CONN, SEND_CACHE
    assert (1 in bits) is read_only
    assert (2 in bits) is write_back  # SEND_FLUSH: there is a volatile cache
    assert ({5, 6, 11} <= bits) is not read_only  # TRIM, WRITE_ZEROES, FAST_ZERO
    assert (7 in bits) is (structured or extended)  # SEND_DF
    assert (12 in bits) is (extended and contexts)  # BLOCK_STATUS_PAYLOAD
    assert not bits & {4, 9, 13, 14, 15}
