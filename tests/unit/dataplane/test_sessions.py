"""Sessions: log-ins, who takes whose place, what a change of targets does to them."""

from __future__ import annotations

import asyncio

import pytest

from blockgate.control import ports
from blockgate.dataplane.wire import FIRST_NEXUS
from blockgate.iscsi import TextAnswer
from blockgate.scsi import Attention
from tests.unit.dataplane.scene import (
    ALICE,
    BOB,
    DISK,
    LUN_1,
    Site,
    lun_view,
    register,
    settle,
    target_view,
)

OTHER = "22345678-1234-1234-1234-123456789abc"


@pytest.fixture(autouse=True)
def _nobody_loses_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login waits for what its initiator has left behind as long as it takes."""
    monkeypatch.setattr("blockgate.dataplane.sessions.LEFT_BEHIND_SECONDS", 600)


async def site() -> Site:
    made = Site()
    await made.set_targets()
    return made


async def test_a_login_knows_its_nexus_its_luns_and_its_attentions() -> None:
    gateway = await site()
    conn = gateway.begin_login()
    await settle()
    ((_, pdu, params),) = gateway.wire.named("login_done")
    assert pdu[36:38] == b"\0\0"
    assert (params.session, params.nexus) == (1, FIRST_NEXUS + 1)
    assert params.luns.luns == {LUN_1: (3, False)}
    assert params.luns.report_luns[bytes.fromhex("a00000000000000000000000")] == (
        b"\0\0\0\x08" + bytes(4) + b"\0\1" + bytes(6)
    )
    assert params.attentions == {LUN_1: Attention.POWER_ON}
    assert params.queue_depth == 128
    known = gateway.iscsi.connections.get(conn)
    assert known is not None and known.session is not None
    assert known.session.port.initiator == ALICE


async def test_a_successor_waits_until_its_predecessor_has_drained() -> None:
    gateway = await site()
    first = await gateway.login()
    gateway.wire.hold_aborts = True
    conn = gateway.begin_login()
    await settle()
    # The old connection is closed, its commands are aborted; nothing is answered yet.
    assert gateway.wire.named("disconnect") == [(1,)]
    assert gateway.wire.named("abort") == [(0, FIRST_NEXUS + first, None, 0, None, 0)]
    ends = [name for name in gateway.wire.names() if name in ("disconnect", "abort")]
    assert ends == ["disconnect", "abort"], "nothing comes behind the abort"
    assert len(gateway.wire.named("login_done")) == 1
    gateway.wire.drain()
    await settle()
    _, second = gateway.wire.named("login_done")
    assert second[0] == conn
    assert second[2].session != first
    assert second[2].attentions == {LUN_1: Attention.NEXUS_LOSS}
    assert len(gateway.iscsi.sessions.table) == 1


async def test_so_does_one_that_comes_after_its_predecessor_was_lost() -> None:
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    gateway.iscsi.connections.lost(1, "reset")
    assert len(gateway.iscsi.sessions.table) == 0
    gateway.begin_login()
    await settle()
    assert len(gateway.wire.named("login_done")) == 1
    # Another initiator does not wait.
    gateway.begin_login(BOB)
    await settle()
    assert len(gateway.wire.named("login_done")) == 2
    gateway.wire.drain()
    await settle()
    assert len(gateway.wire.named("login_done")) == 3


async def test_three_at_once_from_one_port_leave_one_session() -> None:
    gateway = await site()
    for _ in range(3):
        gateway.begin_login()
    await settle()
    await settle()
    assert len(gateway.iscsi.sessions.table) == 1
    assert [what[0] for what in gateway.wire.named("login_done")] == [1, 2, 3]
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and len(unit.seats) == 1


async def test_a_connection_that_is_lost_while_it_waits() -> None:
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    conn = gateway.begin_login()
    await settle()
    assert gateway.iscsi.connections.lost(conn, "gave up")
    gateway.wire.drain()
    await settle()
    assert len(gateway.wire.named("login_done")) == 1
    assert len(gateway.iscsi.sessions.table) == 0
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and unit.seats == {}


async def test_a_target_that_goes_while_a_login_waits() -> None:
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    conn = gateway.begin_login()
    await settle()
    await gateway.set_targets({})
    gateway.wire.drain()
    await settle()
    ((refused, pdu, then),) = gateway.wire.named("login_reply")
    assert (refused, pdu[36:38], then) == (conn, b"\x03\x01", "close")


CHAP = ports.ChapView("alice", b"0123456789ab")


def replies(gateway: Site) -> list[tuple[int, bytes]]:
    """The connections whose login was refused, each with its status."""
    return [(conn, pdu[36:38]) for conn, pdu, _ in gateway.wire.named("login_reply")]


async def test_chap_that_is_asked_for_while_a_login_without_it_waits() -> None:
    """It has shown nothing, so it comes again (0301h) and is asked."""
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    conn = gateway.begin_login()
    await settle()
    await gateway.set_targets(target_view(chap=CHAP))
    gateway.wire.drain()
    await settle()
    assert replies(gateway) == [(conn, b"\x03\x01")]
    assert len(gateway.wire.named("login_done")) == 1
    assert len(gateway.iscsi.sessions.table) == 0


READ_ONLY = lun_view(read_only=True)


@pytest.mark.parametrize(
    ("luns", "chap"),
    [
        ({1: READ_ONLY, 2: lun_view(4, uuid=OTHER)}, None),
        ({}, None),
        ({1: READ_ONLY}, CHAP),
    ],
    ids=["one LUN more", "one LUN less", "CHAP"],
)
async def test_a_target_that_changes_while_a_session_takes_its_seats(
    luns: dict[int, ports.LunView], chap: ports.ChapView | None
) -> None:
    """The engine would never hear of what came before it knew the session."""
    gateway = Site()
    both = {1: lun_view(), 2: lun_view(4, uuid=OTHER)}

    async def alice_has(luns: dict[int, ports.LunView], chap: ports.ChapView | None = None) -> None:
        acl = ports.AclView(frozenset({ALICE}), luns, chap=chap)
        await gateway.set_targets(target_view(both, acls=(acl,)))

    await alice_has({1: READ_ONLY})
    await gateway.login(BOB)
    # Now one session may write and one may not: the gate is another one, and takes its time.
    gateway.wire.pause_gates = asyncio.Event()
    conn = gateway.begin_login()
    await settle()
    change = asyncio.create_task(alice_has(luns, chap))
    await settle()
    gateway.wire.pause_gates.set()
    await change
    await settle()
    assert replies(gateway) == [(conn, b"\x03\x01")]
    assert [one.port.initiator for one in gateway.iscsi.sessions.table.all()] == [BOB]


async def test_no_more_connections_than_were_agreed_come_at_once() -> None:
    gateway = await site()
    session = await gateway.login(MaxConnections="2")
    active = gateway.iscsi.sessions.get(session)
    assert active is not None
    tsih = active.session.tsih
    joined, *refused = [gateway.begin_login(tsih=tsih, cid=cid) for cid in range(2, 7)]
    await settle()
    assert [what[0] for what in gateway.wire.named("login_done")] == [1, joined]
    assert replies(gateway) == [(conn, b"\x02\x06") for conn in refused]
    assert active.session.connections == {1: 1, 2: joined}
    # One of a CID that is there takes its place.
    again = gateway.begin_login(tsih=tsih, cid=2)
    await settle()
    assert active.session.connections == {1: 1, 2: again}


async def two_connections(gateway: Site) -> tuple[int, int]:
    """A session's number, and the second of its connections; the first is 1."""
    session = await gateway.login(MaxConnections="2")
    active = gateway.iscsi.sessions.get(session)
    assert active is not None
    joined = gateway.begin_login(tsih=active.session.tsih, cid=2)
    await settle()
    return session, joined


async def test_a_connection_is_logged_out_when_its_commands_have_drained() -> None:
    gateway = await site()
    session, joined = await two_connections(gateway)
    nexus = FIRST_NEXUS + session
    gateway.wire.hold_aborts = True
    gateway.iscsi.sessions.logged_out(session, 1, joined)
    await settle()
    assert gateway.wire.named("abort") == [(0, nexus, None, 0, None, 0, joined)]
    assert gateway.wire.named("logout_done") == []
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("logout_done") == [(1, joined)]
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and nexus in unit.seats
    # The last one of a session closes that.
    gateway.iscsi.connections.lost(joined, "logged out")
    gateway.iscsi.sessions.logged_out(session, 1, 1)
    await settle()
    assert gateway.wire.named("abort")[1:] == [(0, nexus, None, 0, None, 0)]
    assert len(gateway.wire.named("logout_done")) == 1
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("logout_done")[1:] == [(1, 1)]
    assert unit.seats == {}


async def test_a_logout_of_a_connection_waits_for_what_its_commands_have_begun() -> None:
    gateway = await site()
    session, joined = await two_connections(gateway)
    gateway.store.pause = asyncio.Event()
    cdb, data = register(1)
    persists = data[:20] + b"\1" + data[21:]  # APTPL (SPC-4 6.16.3)
    task = gateway.command(session, cdb, persists)
    await settle()
    gateway.over.add(task)
    gateway.iscsi.sessions.logged_out(session, joined, joined)
    await settle()
    assert gateway.wire.named("logout_done") == []
    gateway.store.pause.set()
    await settle()
    assert gateway.wire.named("logout_done") == [(joined, joined)]


async def test_discovery() -> None:
    gateway = await site()
    gateway.iscsi.add_portal(1, "192.0.2.1:3260", "[2001:db8::1]:3260")
    await gateway.login(SessionType="Discovery")
    gateway.iscsi.connections.text(
        1, 9, 0xFFFFFFFF, b"SendTargets=All\0", final=True, continued=False
    )
    addresses = "TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1]:3260,1\0"
    expected = f"TargetName={DISK}\0{addresses}".encode()
    answer = TextAnswer(expected, 0xFFFFFFFF, final=True, continued=False)
    assert gateway.wire.named("text_reply") == [(1, 9, answer)]
    gateway.iscsi.connections.text(1, 9, 5, b"", final=True, continued=False)
    assert gateway.wire.named("reject") == [(1, 9)]
    gateway.iscsi.connections.lost(1, "logout")
    assert len(gateway.iscsi.sessions.table) == 0
    assert gateway.wire.named("abort") == []


async def test_events_of_connections_that_are_gone() -> None:
    gateway = await site()
    gateway.iscsi.connections.login(99, bytes(48), b"")
    gateway.iscsi.connections.text(99, 0, 0, b"", final=True, continued=False)
    assert not gateway.iscsi.connections.lost(99, "")
    gateway.command(99, "12000000ff00")
    assert gateway.wire.names().count("login_reply") == 0


async def test_a_refused_login_is_closed() -> None:
    gateway = await site()
    gateway.begin_login(TargetName="iqn.2024-01.com.example:none")
    ((_, pdu, then),) = gateway.wire.named("login_reply")
    assert (pdu[36:38], then) == (b"\x02\x03", "close")


async def test_a_changed_map_is_told() -> None:
    gateway = await site()
    session = await gateway.login()
    await gateway.set_targets(target_view({1: lun_view(), 2: lun_view(4, uuid=OTHER)}))
    (changed,) = gateway.wire.named("set_luns")
    assert changed[1] == {LUN_1: (3, False), 2 * LUN_1: (4, False)}
    assert changed[2] == {2 * LUN_1: Attention.POWER_ON}
    attended = gateway.wire.named("attend")
    assert attended == [(session, None, Attention.REPORTED_LUNS_DATA_HAS_CHANGED)]
    assert set(gateway.iscsi.sessions.units_of(session)) == {3, 4}
    # The same again is no change.
    await gateway.set_targets(target_view({1: lun_view(), 2: lun_view(4, uuid=OTHER)}))
    assert len(gateway.wire.named("set_luns")) == 1
    await gateway.set_targets(target_view({2: lun_view(4, uuid=OTHER)}))
    await settle()
    assert set(gateway.iscsi.sessions.units_of(session)) == {4}
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and unit.seats == {}
    assert gateway.wire.named("abort") == [(3, FIRST_NEXUS + session, None, 0, None, 0)]


async def test_a_lun_that_becomes_read_only_for_one_initiator_and_writable_again() -> None:
    """WP of MODE SENSE (SPC-4 7.4.3) is another one for it alone, and it is told when it is so."""
    gateway = Site()

    async def alice_has(*, read_only: bool) -> None:
        acl = ports.AclView(frozenset({ALICE}), {1: lun_view(read_only=read_only)})
        await gateway.set_targets(target_view(acls=(acl,)))

    def wp_is_ready() -> bool:
        """Whether the gate answers MODE SENSE (6) of all pages, to everybody alike."""
        parts = gateway.wire.gates[3][2]
        assert parts is not None
        return any(key.startswith(b"\x1a") for key in parts.canned)

    await alice_has(read_only=False)
    alice, _ = await gateway.login(), await gateway.login(BOB)
    assert wp_is_ready()
    for read_only in (True, False):
        del gateway.wire.calls[:]
        await alice_has(read_only=read_only)
        assert wp_is_ready() is not read_only
        assert gateway.wire.named("attend") == [
            (alice, None, Attention.REPORTED_LUNS_DATA_HAS_CHANGED),
            (alice, LUN_1, Attention.MODE_PARAMETERS_CHANGED),
        ]
        assert gateway.wire.names() == ["swap_gate", "set_luns", "attend", "attend"]
    await alice_has(read_only=False)
    assert gateway.wire.names() == ["swap_gate", "set_luns", "attend", "attend"], "no change"


async def test_two_paths_that_are_read_only_and_log_in_together() -> None:
    """The first one's login changes the gate; the second has to wait for that, too, or is told by
    MODE SENSE that it may write."""
    gateway = Site()
    await gateway.set_targets(target_view({1: lun_view(read_only=True)}))
    gateway.wire.pause_gates = asyncio.Event()
    paths = [gateway.begin_login(isid=bytes(5) + bytes((number,))) for number in (1, 2)]
    await settle()
    assert gateway.wire.named("login_done") == []
    gateway.wire.pause_gates.set()
    await settle()
    assert sorted(what[0] for what in gateway.wire.named("login_done")) == paths


async def test_a_volume_that_has_one_lun_to_write_and_one_to_read() -> None:
    gateway = Site()
    await gateway.set_targets(target_view({1: lun_view()}))
    session = await gateway.login()
    await gateway.set_targets(target_view({1: lun_view(), 2: lun_view(read_only=True)}))
    parts = gateway.wire.gates[3][2]
    assert parts is not None and not any(key.startswith(b"\x1a") for key in parts.canned)
    unit = gateway.iscsi.units.get(3)
    assert unit is not None
    assert not unit.seats[FIRST_NEXUS + session].read_only, "copies may write to it"


async def test_a_lun_that_is_mapped_again_before_its_commands_have_drained() -> None:
    """The end of the former mapping must not take the new one's seat."""
    gateway = Site()
    both = target_view({1: lun_view(), 2: lun_view(4, uuid=OTHER)})
    await gateway.set_targets(both)
    session = await gateway.login()
    gateway.wire.hold_aborts = True
    await gateway.set_targets(target_view({2: lun_view(4, uuid=OTHER)}))
    await settle()
    await gateway.set_targets(both)
    gateway.wire.drain()
    await settle()
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and set(unit.seats) == {FIRST_NEXUS + session}
    reply = gateway.reply(gateway.command(session, "120000002400"))
    assert reply is not None and reply[1][0] == 0, "peripheral qualifier 000b, a disk"
    # And when it goes again, its own end is its end.
    await gateway.set_targets(target_view({2: lun_view(4, uuid=OTHER)}))
    await settle()
    gateway.wire.drain()
    await settle()
    assert unit.seats == {}


async def test_who_is_not_let_in_any_more_is_asked_to_leave_and_then_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockgate.dataplane.sessions.LOGOUT_SECONDS", 0)
    gateway = await site()
    session = await gateway.login()
    acl = ports.AclView(frozenset({BOB}), {1: lun_view()})
    await gateway.set_targets(target_view(open_access=False, acls=(acl,)))
    assert gateway.wire.named("set_luns")[0][1] == {}
    assert gateway.wire.named("ask_for_logout") == [(session,)]
    await asyncio.sleep(0.01)
    await settle()
    assert gateway.wire.named("disconnect") == [(1,)]
    assert len(gateway.iscsi.sessions.table) == 0


async def test_a_dismissed_session_that_logs_out_is_not_waited_for() -> None:
    gateway = await site()
    session = await gateway.login()
    leaving = asyncio.create_task(gateway.iscsi.sessions.dismiss([session, 99]))
    await settle()
    await gateway.set_targets({})  # is asked once
    assert gateway.wire.named("ask_for_logout") == [(session,)]
    assert not leaving.done()
    gateway.iscsi.sessions.ended_by_number(session)
    await asyncio.wait_for(leaving, 1)
    assert gateway.wire.named("disconnect") == []


async def test_which_sessions_began_before_the_targets_changed() -> None:
    gateway = await site()
    first = await gateway.login()
    gateway.wire.pause_gates = asyncio.Event()
    unit = gateway.iscsi.units.get(3)
    assert unit is not None
    changed = target_view({1: lun_view(read_only=True)})
    changing = asyncio.create_task(gateway.iscsi.set_targets(changed, ports.DiscoveryView()))
    await settle()
    gateway.begin_login(BOB)
    await settle()
    assert not changing.done(), "the session's seat is being changed"
    gateway.wire.pause_gates.set()
    assert await changing == first
    assert gateway.iscsi.sessions.table.last_number > first


OTHER_DISK = lun_view(4, uuid=OTHER)


async def test_a_number_that_is_another_disk_ends_the_session() -> None:
    """It is asked to leave, and has what it had until then: no disk in the place of another, and
    none that is new."""
    gateway = await site()
    session = await gateway.login()
    await gateway.set_targets(target_view({1: OTHER_DISK, 2: lun_view()}))
    assert gateway.wire.named("ask_for_logout") == [(session,)]
    assert gateway.wire.named("set_luns") == []
    assert set(gateway.iscsi.sessions.units_of(session)) == {3}
    await gateway.set_targets(target_view({2: OTHER_DISK}))
    (last,) = gateway.wire.named("set_luns")
    assert last[1] == {}, "what is taken away is not given back under another number"
    await gateway.set_targets(target_view({1: OTHER_DISK}))
    assert len(gateway.wire.named("set_luns")) == 1
    gateway.iscsi.sessions.ended_by_number(session)


async def test_a_closed_disk_is_not_kept_for_who_leaves() -> None:
    gateway = await site()
    session = await gateway.login()
    await gateway.set_targets(target_view({1: OTHER_DISK}))
    gateway.iscsi.units.forget(3)
    await gateway.set_targets(target_view({1: OTHER_DISK}, alias="x"))
    assert gateway.wire.named("set_luns") == [(session, {}, {})]
    gateway.iscsi.sessions.ended_by_number(session)


async def test_a_disk_that_was_opened_anew_is_the_same_one() -> None:
    gateway = await site()
    await gateway.login()
    await gateway.set_targets(target_view({1: lun_view(5)}))
    assert gateway.wire.named("ask_for_logout") == []


async def test_a_login_that_waits_while_its_lun_becomes_another_disk() -> None:
    gateway = Site()
    bob = (ports.AclView(frozenset({BOB}), {1: OTHER_DISK}),)
    await gateway.set_targets(target_view({1: READ_ONLY}, acls=bob))
    gateway.wire.pause_gates = asyncio.Event()
    conn = gateway.begin_login()
    await settle()
    change = asyncio.create_task(gateway.set_targets(target_view({1: OTHER_DISK}, acls=bob)))
    await settle()
    gateway.wire.pause_gates.set()
    await change
    await settle()
    assert replies(gateway) == [(conn, b"\x03\x01")]
    assert len(gateway.iscsi.sessions.table) == 0


async def test_each_initiator_has_its_own_map_and_a_rotated_secret_ends_nobody() -> None:
    gateway = Site()
    own = ports.AclView(frozenset({ALICE}), {1: lun_view(read_only=True)})
    await gateway.set_targets(target_view(acls=(own,)))
    await gateway.login()
    await gateway.login(BOB)
    alice, bob = [what[2].luns.luns for what in gateway.wire.named("login_done")]
    assert alice == {LUN_1: (3, True)}
    assert bob == {LUN_1: (3, False)}
    rotated = ports.AclView(own.initiators, own.luns, chap=ports.ChapView("alice", b"a new secret"))
    await gateway.set_targets(target_view(acls=(rotated,)))
    assert gateway.wire.named("set_luns") == []
    assert len(gateway.iscsi.sessions.table) == 2


async def test_the_end_of_the_gateway() -> None:
    gateway = await site()
    session = await gateway.login()
    gateway.wire.hold_aborts = True
    gateway.begin_login()
    await settle()
    gateway.iscsi.close()
    # Who comes now, and who waits, is told so; the session is gone, and nobody is waited for.
    gateway.begin_login(BOB)
    gateway.wire.drain()
    await settle()
    replies = gateway.wire.named("login_reply")
    assert [reply[1][36:38] for reply in replies] == [b"\x03\x01"] * 2
    assert len(gateway.wire.named("login_done")) == 1
    await asyncio.wait_for(gateway.iscsi.drain(5), 1)
    assert gateway.wire.named("ask_for_logout") == []
    assert session not in [one.number for one in gateway.iscsi.sessions.table.all()]
    gateway.iscsi.stop()
    await settle()


async def test_the_end_waits_for_logouts() -> None:
    gateway = await site()
    first, second = await gateway.login(), await gateway.login(BOB)
    await gateway.login("iqn.1994-05.com.example:looking", SessionType="Discovery")
    gateway.iscsi.close()
    end = asyncio.create_task(gateway.iscsi.drain(60))
    await settle()
    assert gateway.wire.named("ask_for_logout") == [(first,), (second,), (3,)]
    gateway.iscsi.connections.lost(1, "logged out")
    await settle()
    assert not end.done()
    gateway.iscsi.connections.lost(2, "logged out")
    await asyncio.wait_for(end, 1)


async def test_the_end_does_not_wait_longer_than_it_may() -> None:
    gateway = await site()
    await gateway.login()
    gateway.iscsi.close()
    await asyncio.wait_for(gateway.iscsi.drain(0.01), 1)
    assert len(gateway.iscsi.sessions.table) == 1
