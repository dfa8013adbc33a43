"""Logins step by step: what each stage answers, and which status every mistake gets (11.13.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockgate.iscsi import Catalog, Next, SessionTable, Status
from tests.unit.iscsi.scene import (
    ALICE,
    BOB,
    BUSY,
    CATALOG,
    DISK,
    ELSEWHERE,
    ISID,
    LOCKED,
    MOVED,
    SAFE,
    WIDE,
    Initiator,
    Response,
    status_of,
    text,
    who,
)


def test_the_shortest_login() -> None:
    """One request from the operational stage to full feature phase."""
    initiator = Initiator()
    response = initiator.say(1, 3, **who(), MaxRecvDataSegmentLength="65536", InitialR2T="No")
    assert response.status == 0
    assert response.transit
    assert response.stages == (1, 3)
    assert response.tsih != 0
    assert response.keys == [
        ("TargetAlias", "a disk"),
        ("TargetPortalGroupTag", "1"),
        ("InitialR2T", "No"),
        ("MaxRecvDataSegmentLength", "262144"),
    ]
    assert (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) == (0x200, 0x100, 0x100)
    assert initiator.answer is not None and initiator.answer.agreed is not None
    agreed = initiator.answer.agreed
    assert initiator.answer.next is Next.FULL_FEATURE
    assert agreed.stat_sn == 0x201
    assert agreed.exp_cmd_sn == 0x100
    assert agreed.port.initiator_port == f"{ALICE},i,0x400001370000"
    assert agreed.port.target_port == f"{DISK},t,0x0001"
    assert agreed.parameters.max_send_data == 65536
    assert agreed.parameters.max_recv_data == 262144
    assert not agreed.parameters.initial_r2t


def test_through_both_stages() -> None:
    initiator = Initiator()
    first = initiator.say(0, 1, **who(), AuthMethod="CHAP,None")
    assert first.transit and first.stages == (0, 1)
    assert first["AuthMethod"] == "None"
    assert first.tsih == 0
    second = initiator.say(1, None, HeaderDigest="CRC32C,None")
    assert not second.transit
    assert second["HeaderDigest"] == "CRC32C"
    third = initiator.say(1, 3, DataDigest="None")
    assert third.transit and third.tsih
    assert [one.stat_sn for one in (first, second, third)] == [0x200, 0x201, 0x202]
    assert initiator.answer is not None and initiator.answer.agreed is not None
    assert initiator.answer.agreed.parameters.header_digest
    assert not initiator.answer.agreed.parameters.data_digest


def test_from_security_straight_to_full_feature_phase() -> None:
    """Our segment length was never declared, so the default binds the initiator."""
    initiator = Initiator()
    response = initiator.say(0, 3, **who(), AuthMethod="None")
    assert response.stages == (0, 3)
    assert initiator.answer is not None and initiator.answer.agreed is not None
    assert initiator.answer.agreed.parameters.max_recv_data == 8192


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"HeaderDigest": "CRC32C"}, 0),
        ({"HeaderDigest": "None,CRC32C", "DataDigest": "None"}, 0),
        ({"HeaderDigest": "None"}, 0x0200),
        ({"DataDigest": "CRC32C"}, 0x0200),
    ],
)
def test_a_target_that_does_not_do_without_a_digest(keys: dict[str, str], status: int) -> None:
    initiator = Initiator()
    assert initiator.say(1, None, **who(SAFE), **keys).status == 0
    assert initiator.say(1, 3).status == status
    assert Initiator().say(0, 3, **who(SAFE), AuthMethod="None").status == 0x0200


def test_discovery_has_no_target() -> None:
    initiator = Initiator()
    response = initiator.say(1, 3, **who(None), MaxConnections="4", DefaultTime2Wait="2")
    assert response.status == 0
    assert "TargetPortalGroupTag" not in dict(response.keys)
    assert response["MaxConnections"] == "Irrelevant"
    assert response["DefaultTime2Wait"] == "2"
    assert initiator.answer is not None and initiator.answer.agreed is not None
    assert initiator.answer.agreed.discovery


def test_text_over_several_requests() -> None:
    """The C bit: each part is answered by an empty response; a pair may be cut anywhere."""
    initiator = Initiator()
    data = text(**who())
    for at in range(0, len(data), 7):
        empty = initiator.send(1, None, data[at : at + 7], continued=True)
        assert (empty.status, empty.data, empty.transit, empty.continued) == (0, b"", False, False)
    response = initiator.send(1, 3)
    assert response.status == 0
    assert response.transit


def test_an_answer_over_several_responses() -> None:
    """Ours is longer than the 8192 bytes of the login phase."""
    initiator = Initiator()
    keys = {f"X-com.example.a-long-name-of-a-key.{n:03}": "1" for n in range(300)}
    data = text(**who(), **keys)
    first = initiator.send(1, None, data[:8192], continued=True)
    assert first.data == b""
    second = initiator.send(1, 3, data[8192:])
    assert second.continued and not second.transit
    assert len(second.data) == 8192
    third = initiator.send(1, 3)
    assert not third.continued and third.transit
    whole = second.data + third.data
    assert whole.count(b"=NotUnderstood\0") == 300
    assert whole.endswith(b"MaxRecvDataSegmentLength=262144\0")


def test_text_before_ours_has_been_sent() -> None:
    initiator = Initiator()
    keys = {f"X-com.example.a-long-name-of-a-key.{n:03}": "1" for n in range(300)}
    data = text(**who(), **keys)
    initiator.send(1, None, data[:8192], continued=True)
    assert initiator.send(1, None, data[8192:]).continued
    assert initiator.say(1, 3, HeaderDigest="None").status == 0x0200


@pytest.mark.parametrize(
    ("status", "target", "initiator"),
    [
        (0x0000, DISK, BOB),
        (0x0000, DISK, ALICE.upper().replace("IQN", "iqn")),
        (0x0200, DISK, "alice"),
        (0x0201, LOCKED, ALICE),
        (0x0202, LOCKED, BOB),
        (0x0203, "iqn.2024-01.com.example:none", ALICE),
        (0x0203, "nonsense", ALICE),
        (0x0203, ELSEWHERE, ALICE),
        (0x0101, MOVED, ALICE),
        (0x0301, BUSY, ALICE),
    ],
)
def test_statuses_of_who_wants_what(status: int, target: str, initiator: str) -> None:
    assert status_of(target, initiator) == status


def test_the_portal_decides_which_targets_there_are() -> None:
    assert status_of(ELSEWHERE, local="198.51.100.1:3260") == 0
    assert status_of(ELSEWHERE, local="[2001:db8:0::1]:3260") == 0
    assert status_of(ELSEWHERE, local="198.51.100.1:3261") == 0x0203


def test_redirection_names_the_address() -> None:
    initiator = Initiator()
    response = initiator.say(0, 1, **who(MOVED), AuthMethod="None")
    assert response.status == 0x0101
    assert response.keys == [("TargetAddress", "[2001:db8::5]:3260")]
    assert initiator.answer is not None and initiator.answer.next is Next.CLOSE
    moved = CATALOG.targets[MOVED].moved
    assert moved is not None
    target = replace(CATALOG.targets[MOVED], moved=replace(moved, permanent=True))
    assert status_of(MOVED, catalog=Catalog.of([target])) == 0x0102


def test_nobody_is_sent_where_they_are() -> None:
    assert status_of(MOVED, local="[2001:db8:0::5]:3260") == 0
    assert status_of(MOVED, local="[2001:db8::5]:3261") == 0x0101


def test_a_gateway_that_stops() -> None:
    assert status_of(catalog=replace(CATALOG, closing=True)) == 0x0301


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"TargetName": DISK}, 0x0207),
        ({"InitiatorName": ALICE}, 0x0207),
        ({"InitiatorName": ALICE, "SessionType": "Other", "TargetName": DISK}, 0x0209),
        (who(AuthMethod="None"), 0x0200),
        (who(CHAP_A="5"), 0x0200),
        (who(TargetAlias="x"), 0x0200),
        (who(TargetPortalGroupTag="1"), 0x0200),
        (who(SendTargets="All"), 0x0200),
        (who(MaxRecvDataSegmentLength="511"), 0x0200),
        (who(MaxRecvDataSegmentLength="Irrelevant"), 0x0200),
        (who(HeaderDigest="NotUnderstood"), 0x0200),
    ],
)
def test_keys_that_end_a_login(keys: dict[str, str], status: int) -> None:
    assert Initiator().say(1, 3, **keys).status == status


@pytest.mark.parametrize(
    "data",
    [
        b"InitiatorName",
        b"=x\0",
        b"InitiatorName=x",
        b"Initiator Name=x\0",
        b"A\xff=x\0",
        b"K" * 64 + b"=x\0",
        b"K=" + b"x" * 256 + b"\0",
    ],
)
def test_text_that_is_none(data: bytes) -> None:
    assert Initiator().send(1, 3, data).status == 0x0200


def test_a_key_that_comes_twice() -> None:
    twice = text(**who()) + text(InitialR2T="No") + text(InitialR2T="No")
    assert Initiator().send(1, 3, twice).status == 0x0200
    later = Initiator()
    later.say(1, None, **who(), InitialR2T="No")
    assert later.say(1, 3, InitialR2T="No").status == 0x0200


@pytest.mark.parametrize("continued", [True, False])
def test_more_text_than_64_kib(continued: bool) -> None:
    """In one sequence of requests, or spread over many that are each complete."""
    initiator = Initiator()
    who_it_is = text(**who())
    first = who_it_is + bytes(8192 - len(who_it_is))
    assert initiator.send(1, None, first, continued=continued).status == 0
    for _ in range(7):
        assert initiator.send(1, None, bytes(8192), continued=continued).status == 0
    assert initiator.send(1, None, b"\0", continued=continued).status == 0x0200


@pytest.mark.parametrize(("stage", "to"), [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 3), (3, 3)])
def test_stages_that_do_not_follow(stage: int, to: int) -> None:
    assert Initiator().say(stage, to, **who()).status == 0x0200


def test_a_stage_that_was_left_does_not_come_back() -> None:
    initiator = Initiator()
    assert initiator.say(0, 1, **who(), AuthMethod="None").status == 0
    assert initiator.say(0, 1).status == 0x0200


def test_transit_and_continue_together() -> None:
    assert Initiator().send(1, 3, text(**who()), continued=True).status == 0x0200


def test_version_that_is_not_spoken() -> None:
    assert Initiator().send(1, 3, text(**who()), version=2, version_min=1).status == 0x0205
    assert Initiator().send(1, 3, text(**who()), version=2).status == 0


@pytest.mark.parametrize("change", [{"isid": bytes(6)}, {"cid": 9}, {"tsih": 5}])
def test_what_must_stay_the_same_in_one_login(change: dict[str, object]) -> None:
    initiator = Initiator()
    initiator.say(1, None, **who())
    for name, value in change.items():
        setattr(initiator, name, value)
    assert initiator.say(1, 3).status == 0x0200


def test_nothing_after_the_end() -> None:
    initiator = Initiator()
    initiator.say(1, 3, **who("nonsense"))
    answer = initiator.login.pdu(initiator.header(1, 3), b"", CATALOG)
    assert answer == replace(answer, pdu=b"", next=Next.CLOSE)


def test_requests_without_end() -> None:
    initiator = Initiator()
    initiator.say(1, None, **who())
    for _ in range(255):
        assert initiator.send(1, None).status == 0
    assert initiator.send(1, None).status == 0x0200


# Sessions.


def logged_in(table: SessionTable, conn: int = 1, target: str = WIDE, **more: object) -> int:
    """Logs in and opens what was agreed on, as the owner does; gives the TSIH."""
    initiator = Initiator(table=table, **more)  # type: ignore[arg-type]
    keys = {} if initiator.tsih else {"MaxConnections": "2"}
    response = initiator.say(1, 3, **who(target), **keys)
    assert response.status == 0
    assert initiator.answer is not None and initiator.answer.agreed is not None
    agreed = initiator.answer.agreed
    if agreed.joins is None:
        if (former := table.of_port(agreed.port)) is not None:
            table.close(former)
        table.open(agreed, conn)
    else:
        agreed.joins.connections[agreed.cid] = conn
    return response.tsih


def test_tsih_zero_takes_the_place_of_the_session_of_the_same_port() -> None:
    table = SessionTable()
    first = logged_in(table)
    second = logged_in(table)
    assert first != second
    assert len(table) == 1
    logged_in(table, isid=bytes(6))
    assert len(table) == 2


def test_a_second_connection_and_no_third() -> None:
    table = SessionTable()
    tsih = logged_in(table)
    assert logged_in(table, 2, tsih=tsih, cid=2) == tsih
    (session,) = table.all()
    assert session.connections == {1: 1, 2: 2}
    third = Initiator(table=table, tsih=tsih, cid=3)
    assert third.say(1, 3, **who(WIDE)).status == 0x0206
    # The same CID takes its predecessor's place, also when there is no room for another.
    assert logged_in(table, 4, tsih=tsih, cid=2) == tsih
    assert session.connections == {1: 1, 2: 4}


def test_what_the_leading_connection_has_settled() -> None:
    table = SessionTable()
    tsih = logged_in(table)
    again = Initiator(table=table, tsih=tsih, cid=2)
    assert again.say(1, 3, **who(WIDE), MaxConnections="2").status == 0x0200
    digests = Initiator(table=table, tsih=tsih, cid=2)
    response = digests.say(1, 3, **who(WIDE), HeaderDigest="CRC32C")
    assert response.status == 0
    # "If MaxCmdSN is less than ExpCmdSN-1, they are both ignored" (4.2.2.1)
    assert response.max_cmd_sn == response.exp_cmd_sn - 2


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"tsih": 99}, 0x020A),
        ({"isid": bytes(6)}, 0x020A),
    ],
)
def test_a_session_that_is_not_there(change: dict[str, object], status: int) -> None:
    table = SessionTable()
    tsih = logged_in(table)
    initiator = Initiator(**({"table": table, "tsih": tsih, "cid": 2} | change))  # type: ignore[arg-type]
    assert initiator.say(1, 3, **who(WIDE)).status == status


def test_the_session_ends_while_a_connection_logs_in() -> None:
    table = SessionTable()
    initiator = Initiator(table=table, tsih=logged_in(table), cid=2)
    assert initiator.say(1, None, **who(WIDE)).status == 0
    table.close(table.all()[0])
    assert initiator.say(1, 3).status == 0x020A


def test_discovery_joins_nothing() -> None:
    table = SessionTable()
    tsih = logged_in(table)
    assert Initiator(table=table, tsih=tsih).say(1, 3, **who(None)).status == 0x020A


def test_tsihs_are_given_back() -> None:
    table = SessionTable(limit=1)
    initiator = Initiator(table=table)
    assert initiator.say(1, 3, **who()).status == 0
    full = Initiator(table=table, isid=bytes(6))
    assert full.say(1, 3, **who()).status == 0x0302
    initiator.login.abandon()
    initiator.login.abandon()
    assert logged_in(table) == 2  # the longest unused first


def test_an_agreement_that_could_not_be_carried_out() -> None:
    table = SessionTable(limit=1)
    initiator = Initiator(table=table)
    good = initiator.say(1, 3, **who())
    header = initiator.header(1, 3)
    answer = initiator.login.refuse(header, Status.TARGET_ERROR, "its volume has gone")
    assert answer.next is Next.CLOSE
    assert answer.pdu[36:38] == b"\x03\x00"
    assert answer.pdu[24:28] == good.raw[24:28]
    assert answer.pdu[8:14] == ISID
    assert table.reserve() != 0


def test_the_number_of_a_refusal_wraps() -> None:
    """The agreement's response had the last StatSN there is; its successor was 0."""
    initiator = Initiator(exp_stat_sn=0xFFFFFFFF)
    assert initiator.say(1, 3, **who()).stat_sn == 0xFFFFFFFF
    refusal = initiator.login.refuse(initiator.header(1, 3), Status.TARGET_ERROR, "too late")
    assert Response(refusal.pdu).stat_sn == 0xFFFFFFFF
