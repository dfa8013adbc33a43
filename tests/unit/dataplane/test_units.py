"""Units: effects before replies, one command's after another's, gates, records, task management."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import Any

import pytest

from blockgate.control import ports
from blockgate.dataplane.wire import FIRST_NEXUS
from blockgate.scsi import Attention, Situation
from blockgate.scsi.task_management import Verdict
from tests.unit.dataplane.scene import (
    BOB,
    DISK,
    LUN_1,
    UUID,
    Site,
    aptpl,
    copy_of_eight_blocks,
    export_view,
    lun_view,
    management,
    preempt_and_abort,
    register,
    reserve,
    settle,
    target_view,
    two_sessions,
)

INQUIRY = "12000000ff00"
SECOND = "22345678-1234-1234-1234-123456789abc"
READ_KEYS = "5e000000000000ff0000"


async def restarted_with_a_reservation() -> Site:
    """A gateway whose predecessor's store has one that outlives it (APTPL)."""
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    for command in (register(1), reserve(1)):
        gateway.command(alice, *aptpl(command))
        await settle()
    return Site(store=gateway.store)


async def no_trouble(gateway: Site) -> None:
    """What could not be had is tried again, and had."""
    async with asyncio.timeout(60):
        while gateway.iscsi.troubles:
            await asyncio.sleep(0.01)


async def test_what_needs_no_effect_is_answered_at_once() -> None:
    gateway = Site()
    session, _ = await two_sessions(gateway)
    reply = gateway.reply(gateway.command(session, INQUIRY))
    assert reply is not None
    assert reply[0] == 0 and reply[1][8:16] == b"BLKGATE "


async def test_a_lun_that_is_not_mapped() -> None:
    gateway = Site()
    session, _ = await two_sessions(gateway)
    reply = gateway.reply(gateway.command(session, INQUIRY, volume=0))
    assert reply is not None and reply[1][0] == 0x7F
    luns = gateway.reply(gateway.command(session, "a000020000000000010000 00", volume=0))
    assert luns is not None and luns[1] == b"\0\0\0\x08" + bytes(4) + b"\0\1" + bytes(6)
    bad = gateway.reply(gateway.command(session, "a000440000000000010000 00", volume=0))
    assert bad is not None and (bad[0], bad[2][2], bad[2][12]) == (2, 5, 0x24)
    ready = gateway.reply(gateway.command(session, "000000000000", volume=0))
    assert ready is not None and (ready[0], ready[2][12]) == (2, 0x25)


async def test_a_reservation_is_in_force_before_it_is_answered() -> None:
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(alice, *register(1))
    await settle()
    swaps = len(gateway.wire.named("swap_gate"))
    gateway.wire.pause_gates = asyncio.Event()
    task = gateway.command(alice, *reserve(1))
    after = gateway.command(bob, READ_KEYS)
    await settle()
    assert gateway.reply(task) is None
    assert gateway.reply(after) is None, "a command waits for the effects of the one before it"
    gateway.wire.pause_gates.set()
    await settle()
    assert len(gateway.wire.named("swap_gate")) == swaps + 1
    assert gateway.reply(task) == (0, b"", b"")
    assert gateway.reply(after) is not None
    _, _, parts = gateway.wire.gates[3]
    assert parts is not None
    assert parts.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    assert parts.access == {FIRST_NEXUS + alice: Situation.FREE}


async def test_preempt_and_abort_drains_and_lets_others_go_on() -> None:
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    for session, key in ((alice, 1), (bob, 2)):
        gateway.command(session, *register(key))
        await settle()
    gateway.command(bob, *reserve(2))
    await settle()
    gateway.wire.hold_aborts = True
    gateway.others = [17]  # a connection of NBD
    task = gateway.command(alice, *preempt_and_abort(1, 2))
    after = gateway.command(alice, READ_KEYS)
    await settle()
    assert gateway.reply(task) is None
    assert gateway.reply(after) is not None, "only the drain is left, and that may take for ever"
    aborted = {(what[0], what[1], what[3]) for what in gateway.wire.named("abort")}
    assert aborted == {(3, FIRST_NEXUS + bob, task), (3, 17, task)}
    assert gateway.wire.named("attend")
    gateway.wire.drain()
    await settle()
    assert gateway.reply(task) == (0, b"", b"")


async def test_what_is_to_outlive_a_restart_is_stable_first_and_comes_back() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    cdb, data = register(7)
    gateway.store.fails = True
    persist = data[:20] + b"\1" + data[21:]  # APTPL
    task = gateway.command(alice, cdb, persist)
    await settle()
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2], reply[2][12]) == (2, 4, 0x44)
    gateway.store.fails = False
    keys = gateway.reply(gateway.command(alice, READ_KEYS))
    assert keys is not None and keys[1][4:8] == bytes(4), "the change was taken back"
    task = gateway.command(alice, cdb, persist)
    await settle()
    assert gateway.reply(task) == (0, b"", b"")
    restarted = Site(store=gateway.store)
    alice, _ = await two_sessions(restarted)
    keys = restarted.reply(restarted.command(alice, READ_KEYS))
    assert keys is not None and keys[1][8:16] == (7).to_bytes(8, "big")


async def test_relative_ports_stay_and_a_broken_record_is_no_end() -> None:
    gateway = Site()
    await gateway.set_targets()
    record = gateway.store.records[UUID]
    assert b'"iqn.2024-01.com.example:disk,t,0x0001": 1' in record
    for broken in (
        b"{",
        b"[]",
        b'{"version": 9}',
        record.replace(b'"parts": {', b'"parts": {"x": "",'),
    ):
        other = Site()
        other.store.records[UUID] = broken
        await other.set_targets()
        assert other.iscsi.units.get(3) is not None


@pytest.mark.parametrize("what", ["the record", "the reservations in it"])
async def test_reservations_that_cannot_be_read_let_nobody_in_until_they_are_cleared(
    what: str,
) -> None:
    gateway = Site()
    await gateway.set_targets()
    record = gateway.store.records[UUID]
    broken = record.replace(b'"parts": {', b'"parts": {"reservations": "e30="')
    gateway.store.records[UUID] = b"{" if what == "the record" else broken
    for _ in range(2):  # and the next restart does not forget it
        gateway = Site(store=gateway.store)
        alice, _ = await two_sessions(gateway)
        parts = gateway.wire.gates[3][2]
        assert parts is not None and parts.default_access is Situation.EXCLUSIVE_ACCESS_OTHER
    gateway.command(alice, *register(1))
    await settle()
    clear = gateway.command(alice, "5f030000000000001800", bytes(7) + b"\1" + bytes(16))
    await settle()
    assert gateway.reply(clear) == (0, b"", b"")
    parts = gateway.wire.gates[3][2]
    assert parts is not None and parts.default_access is Situation.FREE
    restarted = Site(store=gateway.store)
    await two_sessions(restarted)
    parts = restarted.wire.gates[3][2]
    assert parts is not None and parts.default_access is Situation.FREE


@pytest.mark.parametrize("closed", [False, True])
async def test_ports_of_targets_that_are_gone_are_forgotten_where_there_were_many(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Each attachment of a volume may be a target of its own. A registration keeps its port."""
    monkeypatch.setattr("blockgate.dataplane.records.PORTS_KEPT", 8)
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, *aptpl(register(7)))
    await settle()
    for count in range(40):
        name = f"iqn.2024-01.com.example:attachment{count}"
        luns = {1: lun_view(3 + count * closed)}
        await gateway.set_targets({name: replace(target_view(luns)[DISK], name=name)})
        assert gateway.iscsi.troubles == {}
        assert f"{name},t,".encode() in gateway.store.records[UUID]
        assert f'{DISK},t,0x0001": 1'.encode() in gateway.store.records[UUID]
        assert gateway.store.records[UUID].count(b",t,") <= 1 + 8
        if closed:
            await gateway.set_targets({})
            await settle()
            gateway.iscsi.units.forget(3 + count)


@pytest.mark.parametrize("what", ["its record cannot be had", "its port cannot be kept"])
async def test_who_needs_no_port_is_bound_before_there_is_a_unit(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The target waits; NBD does not, and must not write meanwhile what it was to be kept from."""
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0.01)
    restarted = await restarted_with_a_reservation()
    restarted.store.unreadable = what == "its record cannot be had"
    restarted.store.fails = not restarted.store.unreadable
    other = "iqn.2024-01.com.example:other"
    await restarted.set_targets({other: replace(target_view()[DISK], name=other)})
    assert set(restarted.iscsi.troubles) == {other}
    parts = restarted.wire.gates[3][2]
    assert parts is not None
    assert parts.default_access is (
        Situation.EXCLUSIVE_ACCESS_OTHER
        if restarted.store.unreadable
        else Situation.WRITE_EXCLUSIVE_OTHER
    )
    told = restarted.iscsi.unit_trouble(3)
    assert "it is tried again by itself" in told if restarted.store.unreadable else not told
    restarted.store.unreadable = restarted.store.fails = False
    await no_trouble(restarted)
    assert restarted.iscsi.unit_trouble(3) == ""
    parts = restarted.wire.gates[3][2]
    assert parts is not None and parts.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    restarted.iscsi.stop()


async def test_a_reservation_binds_an_export_though_no_target_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0.01)
    restarted = await restarted_with_a_reservation()
    for handle in (3, 4):
        gate = ports.Gate(generation=1, size=1 << 20, read_only=False)
        await restarted.iscsi.units.regate(handle, gate)
    restarted.store.unreadable = True
    await restarted.iscsi.set_exports([export_view(3, UUID)])
    parts = restarted.wire.gates[3][2]
    assert parts is not None and parts.default_access is Situation.EXCLUSIVE_ACCESS_OTHER
    restarted.store.unreadable = False
    async with asyncio.timeout(60):
        while restarted.iscsi.units.get(3) is None:
            await asyncio.sleep(0.01)
    parts = restarted.wire.gates[3][2]
    assert parts is not None and parts.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    # What never had a unit needs none, and nothing is written of it.
    await restarted.iscsi.set_exports([export_view(3, UUID), export_view(4, SECOND)])
    assert restarted.wire.gates[4][2] is None and set(restarted.store.records) == {UUID}
    # A target that comes to map the volume finds the unit that binds the export.
    await restarted.set_targets()
    await restarted.login()
    parts = restarted.wire.gates[3][2]
    assert parts is not None and len(parts.ports) == 1
    assert parts.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    restarted.iscsi.stop()


async def test_a_unit_that_cannot_be_had_is_the_trouble_of_its_target_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0.01)
    gateway = Site()
    await gateway.set_targets()
    session = await gateway.login()
    other = "iqn.2024-01.com.example:other"
    both = target_view({1: lun_view(), 2: lun_view(4, uuid=SECOND)})
    alone = {other: replace(target_view()[DISK], name=other, luns={1: lun_view()})}
    gateway.store.full = {SECOND}
    await gateway.set_targets(both | alone)
    # Who is there keeps what it has; who comes is told to try again; the other target is served.
    assert set(gateway.iscsi.troubles) == {DISK} and "no space" in gateway.iscsi.troubles[DISK]
    assert set(gateway.iscsi.sessions.units_of(session)) == {3}
    gateway.begin_login(BOB)
    assert gateway.wire.named("login_reply")[-1][1][36:38] == b"\x03\x01"
    await gateway.login(BOB, TargetName=other)
    gateway.store.full = set()
    await no_trouble(gateway)
    await settle()
    assert set(gateway.iscsi.sessions.units_of(session)) == {3, 4}
    gateway.iscsi.stop()


async def test_a_port_that_cannot_be_kept_takes_the_unit_from_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state's disk is full for a moment while one more target maps the volume."""
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0.01)
    gateway = Site()
    await gateway.set_targets()
    session = await gateway.login()
    other = "iqn.2024-01.com.example:other"
    both = target_view() | {other: replace(target_view()[DISK], name=other)}
    gateway.store.fails = True
    await gateway.set_targets(both)
    assert set(gateway.iscsi.troubles) == {other}
    assert set(gateway.iscsi.sessions.units_of(session)) == {3}
    await gateway.login(BOB)
    gateway.begin_login(BOB, TargetName=other)
    assert gateway.wire.named("login_reply")[-1][1][36:38] == b"\x03\x01"
    assert not gateway.wire.named("set_luns")
    gateway.store.fails = False
    await no_trouble(gateway)
    await gateway.login(BOB, TargetName=other)
    unit = gateway.iscsi.units.get(3)
    assert unit is not None and [port.relative for port in unit.logical.ports] == [1, 2]
    gateway.iscsi.stop()


async def test_a_change_that_was_not_in_force_is_so_by_the_next_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0.01)
    gateway = Site()
    await gateway.set_targets()
    generation = gateway.wire.gates[3][0]
    swap, broken = gateway.wire.swap_gate, True

    async def swap_gate(*what: Any) -> None:
        if broken:
            raise OSError(5, "no answer")
        await swap(*what)

    monkeypatch.setattr(gateway.wire, "swap_gate", swap_gate)
    other = "iqn.2024-01.com.example:other"
    both = target_view() | {other: replace(target_view()[DISK], name=other)}
    await gateway.set_targets(both)
    assert set(gateway.iscsi.troubles) == {other}
    broken = False
    await no_trouble(gateway)
    now, _, parts = gateway.wire.gates[3]
    assert now > generation and parts is not None and len(parts.ports) == 2
    gateway.iscsi.stop()


async def test_a_volume_that_grows() -> None:
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    await gateway.iscsi.units.regate(3, ports.Gate(generation=2, size=2 << 20, read_only=False))
    assert gateway.wire.named("attend") == [
        (alice, LUN_1, Attention.CAPACITY_DATA_HAS_CHANGED),
        (bob, LUN_1, Attention.CAPACITY_DATA_HAS_CHANGED),
    ]
    generation, gate, parts = gateway.wire.gates[3]
    assert gate.size == 2 << 20 and parts is not None
    with pytest.raises(OSError) as refused:
        await gateway.iscsi.units.regate(3, ports.Gate(generation=1, size=1, read_only=False))
    assert refused.value.errno == errno.EINVAL
    generations = [what[1] for what in gateway.wire.named("swap_gate")]
    assert generations == sorted(set(generations)) and generations[-1] == generation


async def test_swaps_that_come_together_are_one() -> None:
    gateway = Site()
    await gateway.set_targets()
    gate = gateway.iscsi.units.get(3).gate  # type: ignore[union-attr]
    gateway.wire.pause_gates = asyncio.Event()
    before = len(gateway.wire.named("swap_gate"))
    waiting = [asyncio.ensure_future(gate.renew()) for _ in range(20)]
    await settle()
    gateway.wire.pause_gates.set()
    await asyncio.gather(*waiting)
    assert len(gateway.wire.named("swap_gate")) == before + 2


# Task management.


async def test_abort_task_is_answered_when_its_fate_is_known() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.wire.hold_aborts = True
    management(gateway, alice, 1, referenced=5, verdict=Verdict.FOUND)
    await settle()
    assert gateway.wire.named("abort") == [(3, FIRST_NEXUS + alice, 5, 0, None, 77)]
    assert gateway.wire.named("management_done") == []
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]
    management(gateway, alice, 1, verdict=Verdict.GONE)
    assert gateway.wire.named("management_done")[-1] == (900, 1)


@pytest.mark.parametrize(
    ("function", "more", "keys_left"),
    [(5, {}, {1}), (2, {}, {1, 8}), (1, {"referenced": 0, "verdict": Verdict.FOUND}, {1, 8})],
)
async def test_what_was_aborted_while_it_waited_is_not_executed(
    function: int, more: dict[str, object], keys_left: set[int]
) -> None:
    """LOGICAL UNIT RESET takes every waiting command, ABORT TASK SET those of its own nexus."""
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(alice, *register(1))
    await settle()
    gateway.wire.pause_gates = asyncio.Event()
    gateway.command(alice, *reserve(1))
    await settle()
    gateway.command(bob, *register(8))
    waiting = gateway.command(alice, *register(9))
    if "referenced" in more:
        more = more | {"referenced": waiting}
    management(gateway, alice, function, **more)
    await settle()
    gateway.wire.pause_gates.set()
    await settle()
    keys = gateway.reply(gateway.command(bob, READ_KEYS))
    assert keys is not None
    assert {keys[1][at + 7] for at in range(8, len(keys[1]), 8)} == keys_left


async def test_what_has_ended_before_its_turn_is_not_executed() -> None:
    """A function that aborts overtakes commands, on their way up and here."""
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(alice, *register(1))
    await settle()
    gateway.over = {2, 4}
    assert gateway.reply(gateway.command(alice, *register(9))) == (8, b"", b"")
    gateway.wire.pause_gates = asyncio.Event()
    gateway.command(alice, *reserve(1))
    await settle()
    waiting = gateway.command(bob, *register(8))
    gateway.wire.pause_gates.set()
    await settle()
    assert waiting in gateway.over and gateway.reply(waiting) == (8, b"", b"")
    keys = gateway.reply(gateway.command(bob, READ_KEYS))
    assert keys is not None and keys[1][4:] == b"\0\0\0\x08" + bytes(7) + b"\1"


@pytest.mark.parametrize("function", [1, 2, 5])
async def test_what_was_taken_while_the_engine_aborted_is_stopped_too(function: int) -> None:
    """A command comes up after its unit was looked through, and before the engine has ended it."""
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.wire.hold_aborts = True
    management(gateway, alice, function, referenced=1, verdict=Verdict.FOUND)
    await settle()
    task = gateway.command(alice, *copy_of_eight_blocks())
    await settle()
    ((number, *_),) = gateway.wire.named("start_job")
    gateway.over = {task}
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("cancel_job") == [(number,)]
    assert gateway.wire.named("management_done") == []
    gateway.iscsi.units.jobs.done(number, errno.ECANCELED, 0)
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]


async def test_a_reset_is_answered_when_a_reservation_under_way_is_in_force() -> None:
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(alice, *aptpl(register(1)))
    await settle()
    gateway.store.pause = asyncio.Event()
    task = gateway.command(alice, *reserve(1, 3))
    await settle()
    management(gateway, bob, 5)
    await settle()
    assert gateway.wire.named("management_done") == [], "its fate is not known"
    gateway.store.pause.set()
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]
    _, _, parts = gateway.wire.gates[3]
    assert parts is not None and parts.default_access is Situation.EXCLUSIVE_ACCESS_OTHER
    assert gateway.reply(task) is not None


async def test_a_reservation_that_cannot_be_kept_is_in_no_gate() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, *aptpl(register(1)))
    await settle()
    gateway.store.pause = asyncio.Event()
    gateway.store.fails = True
    task = gateway.command(alice, *reserve(1, 3))
    await settle()
    # For another reason the gate is made anew meanwhile.
    await gateway.iscsi.units.regate(3, ports.Gate(generation=2, size=1 << 20, read_only=False))
    gateway.store.pause.set()
    await settle()
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2]) == (2, 0x04)  # HARDWARE ERROR
    _, _, parts = gateway.wire.gates[3]
    assert parts is not None and parts.default_access is Situation.FREE


async def test_a_command_that_fails_in_the_gateway_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise KeyError("a mistake")

    gateway = Site()
    alice, _ = await two_sessions(gateway)
    with monkeypatch.context() as mistaken:
        mistaken.setattr(gateway.wire, "swap_gate", fail)
        task = gateway.command(alice, "160000000000")  # RESERVE(6)
        await settle()
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2]) == (2, 0x04)  # HARDWARE ERROR
    later = gateway.command(alice, INQUIRY)
    await settle()
    assert gateway.reply(later) is not None


async def test_a_reset_of_the_unit_tells_everybody_and_drains() -> None:
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(bob, "160000000000")  # RESERVE(6)
    await settle()
    gateway.wire.hold_aborts = True
    management(gateway, alice, 5)
    await settle()
    attended = {(what[0], what[2]) for what in gateway.wire.named("attend")}
    assert attended == {(s, Attention.LOGICAL_UNIT_RESET) for s in (alice, bob)}
    assert gateway.wire.named("abort") == [(3, 0, None, 0, None, 77)]
    _, _, parts = gateway.wire.gates[3]
    assert parts is not None and parts.default_access is Situation.FREE
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]


async def test_a_reset_whose_session_goes_is_carried_out() -> None:
    """What the engine holds for it would stay held for everybody."""
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(bob, "160000000000")  # RESERVE(6): its end takes another gate
    await settle()
    gateway.wire.pause_gates = asyncio.Event()
    management(gateway, alice, 5)
    gateway.iscsi.connections.lost(1, "closed")
    await settle()
    assert gateway.iscsi.sessions.get(alice) is None
    gateway.wire.pause_gates.set()
    await settle()
    assert (3, 0, None, 0, None, 77) in gateway.wire.named("abort")
    assert gateway.wire.named("management_done") == [(900, 0)]


@pytest.mark.parametrize("wrong", ["attend", "abort"])
async def test_a_function_that_fails_in_the_gateway_holds_nothing(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a mistake")

    gateway = Site()
    alice, _ = await two_sessions(gateway)
    monkeypatch.setattr(gateway.wire, wrong, fail)
    management(gateway, alice, 5)
    await settle()
    assert gateway.wire.named("management_done") == [(900, 255)]
    assert "a mistake" in caplog.text


async def test_a_cold_reset_ends_the_sessions_after_its_answer() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    management(gateway, alice, 7, volume=0)
    await settle()
    names = gateway.wire.names()
    assert names.index("management_done") < names.index("disconnect")
    assert {what[0] for what in gateway.wire.named("disconnect")} == {1, 2}
    assert len(gateway.iscsi.sessions.table) == 0


async def test_a_cold_reset_ends_the_sessions_though_the_one_that_asked_has_gone() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.wire.hold_aborts = True
    management(gateway, alice, 7, volume=0)
    await settle()
    gateway.iscsi.sessions.ended_by_number(alice)
    await settle()
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("disconnect") == [(2,)]


async def test_a_reset_of_the_target_lets_go_unit_by_unit() -> None:
    gateway = Site()
    await gateway.set_targets(target_view({1: lun_view(), 2: lun_view(4, uuid=SECOND)}))
    alice = await gateway.login()
    gateway.wire.hold_aborts = True
    management(gateway, alice, 6, volume=0)
    await settle()
    assert gateway.wire.named("unit_done") == [(900, 0)]
    _hung, sound = gateway.wire.held
    gateway.iscsi.aborts.aborted(sound)
    await settle()
    assert gateway.wire.named("unit_done")[1:] == [(900, 4)]
    assert gateway.wire.named("management_done") == []
    gateway.wire.drain()
    await settle()
    assert gateway.wire.named("unit_done")[2:] == [(900, 3)]
    assert gateway.wire.names()[-1] == "management_done"


async def test_a_function_on_a_lun_that_is_not_there() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    management(gateway, alice, 5, volume=0)
    assert gateway.wire.named("management_done") == [(900, 2)]


# Jobs.


async def test_the_same_target_again_changes_nothing() -> None:
    gateway = Site()
    await gateway.set_targets(target_view())
    before = len(gateway.wire.named("swap_gate"))
    await gateway.set_targets(target_view())
    assert len(gateway.wire.named("swap_gate")) == before


async def test_a_volume_that_is_opened_again_keeps_its_reservations() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    for command in (register(1), reserve(1)):
        gateway.command(alice, *command)
        await settle()
    await gateway.set_targets(target_view({}))
    await settle()
    gateway.iscsi.units.forget(3)
    await gateway.set_targets(target_view({1: lun_view(4)}))
    _, _, parts = gateway.wire.gates[4]
    assert parts is not None
    assert parts.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    assert parts.access == {FIRST_NEXUS + alice: Situation.FREE}


async def test_what_is_in_force_again_is_on_record_again() -> None:
    """A volume was deleted and is back from a copy: its record went with it, its unit did not."""
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, *aptpl(register(7)))
    await settle()
    record = gateway.store.records[UUID]
    await gateway.set_targets(target_view({}))
    gateway.iscsi.units.forget(3)
    del gateway.store.records[UUID]
    await gateway.set_targets(target_view({1: lun_view(4)}))
    assert gateway.store.records == {UUID: record}
