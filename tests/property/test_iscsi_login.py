"""Whatever an initiator sends in login and text: nothing raises, every answer is of the protocol,
and every login ends or stays bounded."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from blockgate.iscsi import (
    Login,
    LoginAnswer,
    Next,
    Parameters,
    Port,
    Session,
    SessionTable,
    TextAnswer,
    TextExchange,
    TextRejected,
)
from blockgate.iscsi.catalog import Grant
from blockgate.iscsi.chap import Authentication
from blockgate.iscsi.text import TextError, build, parse
from tests.unit.iscsi.scene import ALICE, CATALOG, DISK, LOCAL, fixed_random

# 11.13.5, and nothing else
STATUSES = {0, 0x0101, 0x0102, *range(0x0200, 0x020C), 0x0300, 0x0301, 0x0302}

KEYS = [
    *("InitiatorName", "SessionType", "TargetName", "InitiatorAlias", "AuthMethod", "CHAP_A"),
    *("CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C", "HeaderDigest", "DataDigest", "MaxConnections"),
    *("InitialR2T", "ImmediateData", "MaxRecvDataSegmentLength", "MaxBurstLength"),
    *("FirstBurstLength", "DefaultTime2Wait", "DefaultTime2Retain", "MaxOutstandingR2T"),
    *("DataPDUInOrder", "DataSequenceInOrder", "ErrorRecoveryLevel", "TaskReporting"),
    *("iSCSIProtocolLevel", "IFMarker", "OFMarkInt", "SendTargets", "TargetAlias", "X-a.b"),
]
values = st.one_of(
    st.sampled_from(["Yes", "No", "None", "CRC32C,None", "CHAP,None", "CHAP", "5,7", "Reject"]),
    st.sampled_from(["Normal", "Discovery", "All", "", "0x10", "0bAAAA", "Irrelevant", "0"]),
    st.sampled_from([*sorted(CATALOG.targets), ALICE]),
    st.integers(0, 1 << 25).map(str),
    st.text(max_size=20),
)
pair = st.tuples(st.sampled_from(KEYS), values).map(lambda one: f"{one[0]}={one[1]}\0".encode())
sensible = st.sampled_from(
    [f"InitiatorName={ALICE}\0TargetName={name}\0".encode() for name in sorted(CATALOG.targets)]
    + [f"InitiatorName={ALICE}\0SessionType=Discovery\0".encode()]
)
data = st.one_of(
    st.binary(max_size=60),
    st.lists(pair, max_size=4).map(b"".join),
    st.builds(lambda head, rest: head + b"".join(rest), sensible, st.lists(pair, max_size=4)),
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    flags = draw(
        st.one_of(st.sampled_from([0x00, 0x04, 0x40, 0x44, 0x81, 0x83, 0x87]), st.integers(0, 255))
    )
    opcode = draw(st.sampled_from([0x43, 0x43, 0x43, 0x03, 0x01]))
    isid = draw(st.sampled_from([bytes(6), bytes(5) + b"\1"]))
    return struct.pack(
        ">BBBBI6sHIHHIIQQ",
        *(opcode, flags, draw(st.sampled_from([0, 0, 0, 1])), 0, 0, isid),
        *(draw(st.sampled_from([0, 0, 0, 1])), 7, draw(st.sampled_from([0, 0, 1])), 0),
        *(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1)), 0, 0),
    )


def check(answer: LoginAnswer) -> None:
    if not answer.pdu:
        assert answer.next is Next.CLOSE
        return
    raw = answer.pdu
    length = int.from_bytes(raw[5:8], "big")
    assert raw[0] == 0x23 and raw[4] == 0 and length <= 8192
    assert len(raw) == 48 + (length + 3) // 4 * 4
    status = int.from_bytes(raw[36:38], "big")
    assert status in STATUSES
    transit, continued = raw[1] & 0x80, raw[1] & 0x40
    assert not (transit and continued)
    assert (status == 0) == (answer.next is not Next.CLOSE)
    assert (answer.next is Next.FULL_FEATURE) == bool(transit and raw[1] & 3 == 3)
    assert (answer.agreed is not None) == (answer.next is Next.FULL_FEATURE)
    if answer.agreed is not None:
        assert int.from_bytes(raw[14:16], "big") == answer.agreed.tsih != 0


@given(st.lists(st.tuples(headers(), data), max_size=12), st.booleans())
def test_any_login(requests: list[tuple[bytes, bytes]], session_exists: bool) -> None:
    table = SessionTable(limit=2)
    if session_exists:
        table.reserve()
    login = Login(table, LOCAL, fixed_random)
    over = False
    for bhs, body in requests:
        answer = login.pdu(bhs, body, CATALOG)
        check(answer)
        if over:
            assert answer.pdu == b"" and answer.next is Next.CLOSE
        over = over or answer.next is not Next.LOGIN
    login.abandon()
    assert (table.reserve() != 0) and ((table.reserve() != 0) != session_exists)


def text_session(discovery: bool, receive: int) -> Session:
    parameters = Parameters(False, False, 1, True, True, receive, 8192, 65536, 65536, 1)
    port = Port(ALICE, bytes(6), "" if discovery else DISK, 0 if discovery else 1)
    return Session(1, 1, port, discovery, Grant(0, Authentication()), parameters)


requests = st.tuples(
    st.one_of(st.just(0xFFFFFFFF), st.just(None), st.integers(0, 3)),
    data,
    st.booleans(),
    st.booleans(),
)


@given(st.lists(requests, max_size=20), st.booleans(), st.sampled_from([512, 8192, 1 << 24]))
def test_any_text(
    sent: list[tuple[int | None, bytes, bool, bool]], discovery: bool, receive: int
) -> None:
    exchange = TextExchange(text_session(discovery, receive), LOCAL)
    tag = 0xFFFFFFFF
    for ttt, body, final, continued in sent:
        answer = exchange.request(
            7, tag if ttt is None else ttt, body, CATALOG, final=final, continued=continued
        )
        if isinstance(answer, TextRejected):
            tag = 0xFFFFFFFF
            continue
        assert isinstance(answer, TextAnswer)
        assert len(answer.data) <= receive
        assert not (answer.final and answer.continued)
        # 11.11.1, 11.11.4: a final answer has no tag, any other one has
        assert answer.final == (answer.ttt == 0xFFFFFFFF)
        assert final or not answer.final
        tag = answer.ttt


@given(st.binary(max_size=400))
def test_any_bytes_are_pairs_or_an_error(raw: bytes) -> None:
    try:
        pairs = parse(raw)
    except TextError:
        return
    assert parse(build(pairs)) == pairs
