"""SendTargets and other text in full feature phase (RFC 7143 13.3, 6.4, 11.10, appendix C)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from blockgate.iscsi import (
    Catalog,
    RejectReason,
    Session,
    SessionTable,
    Target,
    TextAnswer,
    TextExchange,
    TextRejected,
    plain,
)
from tests.unit.iscsi.scene import ALICE, BOB, CATALOG, DISK, LOCAL, LOCKED, Initiator, text, who

NONE = 0xFFFFFFFF


def session(target: str | None = None, initiator: str = ALICE, **keys: str) -> Session:
    table = SessionTable()
    login = Initiator(table=table)
    assert login.say(1, 3, **who(target, initiator), **keys).status == 0
    assert login.answer is not None and login.answer.agreed is not None
    return table.open(login.answer.agreed, 1)


def ask(
    exchange: TextExchange, data: bytes, ttt: int = NONE, catalog: Catalog = CATALOG, **bits: bool
) -> TextAnswer | TextRejected:
    flags = {"final": True, "continued": False} | bits
    return exchange.request(7, ttt, data, catalog, **flags)


def found(value: str, *, local: str = LOCAL, **more: str) -> list[tuple[str, list[str]]]:
    answer = ask(TextExchange(session(**more), local), text(SendTargets=value))  # type: ignore[arg-type]
    assert isinstance(answer, TextAnswer) and answer.final and answer.ttt == NONE
    targets: list[tuple[str, list[str]]] = []
    for pair in answer.data.decode().split("\0")[:-1]:
        key, _, value = pair.partition("=")
        if key == "TargetName":
            targets.append((value, []))
        else:
            assert key == "TargetAddress"
            targets[-1][1].append(value)
    return targets


def test_all_that_an_initiator_may_see() -> None:
    alice, bob = dict(found("All")), dict(found("All", initiator=BOB))
    assert alice.keys() - bob.keys() == {LOCKED, "iqn.2024-01.com.example:mutual"}
    assert list(alice) == sorted(alice)
    assert alice[DISK] == ["192.0.2.10:3260,1", "[2001:db8::10]:3260,1"]
    elsewhere = alice["iqn.2024-01.com.example:elsewhere"]
    assert elsewhere == ["198.51.100.1:3260,1", "[2001:db8::1]:3260,1"]


def test_the_address_that_was_reached_stands_first() -> None:
    addresses = dict(found("All", local="[2001:db8::10]:3260"))[DISK]
    assert addresses == ["[2001:db8::10]:3260,1", "192.0.2.10:3260,1"]


def test_wildcard_portals_are_told_as_what_was_reached() -> None:
    catalog = Catalog.of(
        [Target(DISK, open_access=True)], portals=("0.0.0.0:3260", "[::]:3260", "192.0.2.9:4000")
    )
    exchange = TextExchange(session(), "192.0.2.77:3260")
    answer = ask(exchange, text(SendTargets="All"), catalog=catalog)
    assert isinstance(answer, TextAnswer)
    assert answer.data == (
        b"TargetName=iqn.2024-01.com.example:disk\0"
        b"TargetAddress=192.0.2.77:3260,1\0TargetAddress=192.0.2.9:4000,1\0"
    )


@pytest.mark.parametrize(
    ("reached", "portals"),
    [
        ("192.0.2.77:3260", ["192.0.2.77:3260,1"]),
        ("[2001:db8::7]:3260", ["[2001:db8::7]:3260,1"]),
    ],
)
def test_a_dual_stack_portal(reached: str, portals: list[str]) -> None:
    both = ("0.0.0.0:3260", "[::]:3260")  # as the listener of one socket tells it
    catalog = Catalog.of([Target(DISK, open_access=True)], portals=both)
    answer = ask(TextExchange(session(), reached), text(SendTargets="All"), catalog=catalog)
    assert isinstance(answer, TextAnswer)
    pairs = [one.partition("=") for one in answer.data.decode().split("\0")[:-1]]
    assert [value for key, _, value in pairs if key == "TargetAddress"] == portals


def test_addresses_as_initiators_write_them() -> None:
    assert plain("[::ffff:192.0.2.1]:3260") == "192.0.2.1:3260"
    assert plain("192.0.2.1:3260") == "192.0.2.1:3260"
    assert plain("[2001:DB8:0::1]:3260") == "[2001:db8::1]:3260"


def test_one_target_by_its_name() -> None:
    assert [name for name, _ in found(LOCKED)] == [LOCKED]
    assert found(LOCKED, initiator=BOB) == []
    assert found("iqn.2024-01.com.example:none") == []
    assert found("nonsense") == []


def test_a_normal_session_learns_of_its_own_target() -> None:
    assert [name for name, _ in found("", target=DISK)] == [DISK]
    assert [name for name, _ in found(DISK, target=DISK)] == [DISK]
    assert found(LOCKED, target=DISK) == []


@pytest.mark.parametrize(
    ("target", "data"),
    [
        (None, text(SendTargets="")),
        (DISK, text(SendTargets="All")),
        (None, text(SendTargets="All") * 2),
        (None, text(InitialR2T="No")),
        (None, text(HeaderDigest="None")),
        (None, text(AuthMethod="None")),
        (None, text(TargetName=DISK)),
        (None, text(MaxRecvDataSegmentLength="511")),
        (None, text(MaxRecvDataSegmentLength="many")),
        (None, b"SendTargets"),
        (None, b"\xff=\xff\0"),
    ],
)
def test_what_is_rejected(target: str | None, data: bytes) -> None:
    answer = ask(TextExchange(session(target), LOCAL), data)
    assert isinstance(answer, TextRejected)
    assert answer.reason is RejectReason.PROTOCOL_ERROR


def test_other_keys() -> None:
    answer = ask(
        TextExchange(session(), LOCAL),
        text(InitiatorAlias="a", MaxRecvDataSegmentLength="65536", **{"X-com.example": "1"}),
    )
    assert answer == TextAnswer(
        b"X-com.example=NotUnderstood\0", NONE, final=True, continued=False, max_send_data=65536
    )


def test_a_receive_length_that_is_declared_anew() -> None:
    """13.12: either way; it holds when its negotiation is over, for text as well as for data."""
    exchange = TextExchange(session(MaxRecvDataSegmentLength="65536"), LOCAL)
    first = ask(exchange, text(MaxRecvDataSegmentLength="512"), final=False)
    assert isinstance(first, TextAnswer) and first.max_send_data is None
    last = ask(exchange, b"", first.ttt)
    assert last == TextAnswer(b"", NONE, final=True, continued=False, max_send_data=512)
    long = ask(exchange, text(SendTargets="All"))
    assert isinstance(long, TextAnswer) and len(long.data) == 512 and long.max_send_data is None


def test_a_request_in_parts() -> None:
    exchange = TextExchange(session(), LOCAL)
    first = ask(exchange, b"SendTar", final=False, continued=True)
    assert isinstance(first, TextAnswer)
    assert (first.data, first.final, first.continued) == (b"", False, False)
    assert first.ttt != NONE
    second = ask(exchange, b"gets=All\0", first.ttt)
    assert isinstance(second, TextAnswer) and second.final
    assert second.data.startswith(b"TargetName=")


def test_an_answer_in_pieces() -> None:
    exchange = TextExchange(session(MaxRecvDataSegmentLength="512"), LOCAL)
    pieces = []
    answer = ask(exchange, text(SendTargets="All"))
    for _ in range(100):
        assert isinstance(answer, TextAnswer)
        pieces.append(answer.data)
        assert len(answer.data) <= 512
        if answer.final:
            break
        assert answer.continued and answer.ttt != NONE
        answer = ask(exchange, b"", answer.ttt)
    assert answer.ttt == NONE
    whole = ask(
        TextExchange(session(MaxRecvDataSegmentLength="65536"), LOCAL), text(SendTargets="All")
    )
    assert isinstance(whole, TextAnswer)
    assert b"".join(pieces) == whole.data


def test_an_answer_is_as_long_as_it_may_be() -> None:
    """Some know no C bit, and read their first piece alone."""
    names = [f"iqn.2026-01.com.example:{at:06}-{'x' * 180}" for at in range(900)]
    everywhere = [Target(name, open_access=True) for name in names]
    catalog = Catalog.of(everywhere, portals=("192.0.2.10:3260",))
    exchange = TextExchange(session(MaxRecvDataSegmentLength="262144"), LOCAL)
    answer = ask(exchange, text(SendTargets="All"), catalog=catalog)
    assert isinstance(answer, TextAnswer) and answer.final
    assert answer.data.count(b"TargetName=") == 900 and len(answer.data) > 200_000


def test_tags_must_fit() -> None:
    exchange = TextExchange(session(), LOCAL)
    answer = ask(exchange, b"", 5)
    assert isinstance(answer, TextRejected)
    assert answer.reason is RejectReason.INVALID_PDU_FIELD
    first = ask(exchange, b"Send", final=False, continued=True)
    assert isinstance(first, TextAnswer)
    # A new negotiation forgets the one that was begun.
    assert isinstance(ask(exchange, text(SendTargets="All")), TextAnswer)
    assert isinstance(ask(exchange, b"", first.ttt), TextRejected)


def test_an_initiator_that_has_more_to_say() -> None:
    exchange = TextExchange(session(), LOCAL)
    answer = ask(exchange, text(SendTargets=DISK), final=False)
    assert isinstance(answer, TextAnswer)
    assert not answer.final and not answer.continued
    end = ask(exchange, b"", answer.ttt)
    assert end == TextAnswer(b"", NONE, final=True, continued=False)


def test_bits_that_exclude_each_other_and_endless_text() -> None:
    exchange = TextExchange(session(), LOCAL)
    assert isinstance(ask(exchange, b"", continued=True), TextRejected)
    answer = ask(exchange, bytes(60000), final=False, continued=True)
    assert isinstance(answer, TextAnswer)
    assert isinstance(ask(exchange, bytes(60000), answer.ttt), TextRejected)


def negotiate(exchange: TextExchange, datas: Iterable[bytes]) -> int:
    """Goes on with one negotiation, F and C 0 in each request; gives how many were answered."""
    ttt = NONE
    for count, data in enumerate(datas):
        answer = ask(exchange, data, ttt, final=False)
        if isinstance(answer, TextRejected):
            assert answer.reason is RejectReason.PROTOCOL_ERROR
            # Nothing of it is left: its tag is none any more.
            assert isinstance(ask(exchange, b"", ttt), TextRejected)
            return count
        ttt = answer.ttt
    raise AssertionError("a negotiation without an end")


EIGHT_KEYS_EACH = [
    b"".join(text(**{f"X-com.example.{n}.{k}": "1"}) for k in range(8)) for n in range(1000)
]


@pytest.mark.parametrize(
    ("datas", "answered"),
    [([bytes(4096)] * 1000, 16), (EIGHT_KEYS_EACH, 64), ([b""] * 1000, 256)],
    ids=["64 KiB", "512 keys", "256 requests"],
)
def test_a_negotiation_that_does_not_end(datas: list[bytes], answered: int) -> None:
    """6.1: 64 KiB of text in one negotiation, however it is spread."""
    exchange = TextExchange(session(), LOCAL)
    assert negotiate(exchange, datas) == answered
    # The next one begins anew.
    assert isinstance(ask(exchange, text(SendTargets="All")), TextAnswer)


def test_an_answer_may_take_as_many_requests_as_it_needs() -> None:
    """Who fetches it in pieces of 512 bytes has not begun to talk without an end."""
    name = "iqn.2024-01.com.example:" + "x" * 150
    catalog = Catalog.of(
        [Target(f"{name}{n:04}", open_access=True) for n in range(800)],
        portals=("192.0.2.10:3260",),
    )
    exchange = TextExchange(session(MaxRecvDataSegmentLength="512"), LOCAL)
    answer = ask(exchange, text(SendTargets="All"), catalog=catalog)
    fetched = 1
    while isinstance(answer, TextAnswer) and not answer.final:
        answer = ask(exchange, b"", answer.ttt, catalog)
        fetched += 1
    assert isinstance(answer, TextAnswer)
    assert fetched > 256
