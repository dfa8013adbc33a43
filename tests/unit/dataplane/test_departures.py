"""Sessions that begin before their predecessor has left every unit: a disk of it hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from blockgate.control import ports
from blockgate.dataplane.units import Unit
from blockgate.dataplane.wire import FIRST_NEXUS
from blockgate.scsi import Attention
from blockgate.scsi.gate import Situation
from blockgate.scsi.task_management import Function, Response
from tests.unit.dataplane.scene import (
    BOB,
    LUN_1,
    Site,
    copy_of_eight_blocks,
    lun_view,
    management,
    settle,
    target_view,
)

HUNG, SOUND = 3, 4
BOTH = target_view(
    {1: lun_view(HUNG), 2: lun_view(SOUND, uuid="22345678-1234-1234-1234-123456789abc")}
)
SOUND_ALONE = target_view({2: lun_view(SOUND, uuid="22345678-1234-1234-1234-123456789abc")})
RESERVE6 = "160000000000"


@pytest.fixture(autouse=True)
def _all_lose_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login does not wait at all for what its initiator has left behind."""
    monkeypatch.setattr("blockgate.dataplane.sessions.LEFT_BEHIND_SECONDS", 0)


async def site() -> Site:
    made = Site()
    await made.set_targets(BOTH)
    return made


def unit(gateway: Site, volume: int) -> Unit:
    found = gateway.iscsi.units.get(volume)
    assert found is not None
    return found


def held(gateway: Site) -> set[tuple[int, int]]:
    """What is held back now: volumes, with the nexuses."""
    holds = gateway.wire.named("hold")
    assert len(holds) == len(set(holds))
    return set(holds) - set(gateway.wire.named("let_go"))


async def come_again(gateway: Site) -> int:
    """The same port logs in; its nexus."""
    session = await gateway.login()
    return FIRST_NEXUS + session


async def test_a_session_waits_at_each_unit_that_its_predecessor_has_not_left() -> None:
    gateway = await site()
    first = FIRST_NEXUS + await gateway.login()
    gateway.wire.hold_aborts = True
    second = await come_again(gateway)
    params = gateway.wire.named("login_done")[1][2]
    assert params.attentions == dict.fromkeys((LUN_1, 2 * LUN_1), Attention.NEXUS_LOSS)
    assert held(gateway) == {(HUNG, second), (SOUND, second)}
    last = [name for name in gateway.wire.names() if name in ("hold", "login_done")][-1]
    assert last == "login_done", "it is held back before it can begin anything"
    gateway.wire.drain(SOUND)
    await settle()
    assert held(gateway) == {(HUNG, second)}
    assert set(unit(gateway, SOUND).seats) == {second}
    assert set(unit(gateway, HUNG).seats) == {first, second}
    gateway.wire.drain(HUNG)
    await settle()
    assert held(gateway) == set()
    assert set(unit(gateway, HUNG).seats) == {second}


async def test_who_was_lost_before_is_waited_for_as_well() -> None:
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    gateway.iscsi.connections.lost(1, "reset")
    second = await come_again(gateway)
    bob = FIRST_NEXUS + await gateway.login(BOB)
    assert held(gateway) == {(HUNG, second), (SOUND, second)}, "another initiator does not wait"
    assert bob in unit(gateway, HUNG).seats


async def test_however_often_one_comes_again_no_more_is_kept() -> None:
    gateway = await site()
    first = FIRST_NEXUS + await gateway.login()
    gateway.wire.hold_aborts = True
    await come_again(gateway)
    gateway.wire.drain(SOUND)
    gateway.wire.hold_aborts = False
    for _ in range(3):
        last = await come_again(gateway)
        assert held(gateway) == {(HUNG, last)}
        assert set(unit(gateway, HUNG).seats) == {first, last}
        assert set(unit(gateway, SOUND).seats) == {last}
    gateway.wire.drain()
    await settle()
    assert held(gateway) == set()
    assert set(unit(gateway, HUNG).seats) == {last}


async def test_a_session_that_is_held_back_logs_out_at_once() -> None:
    gateway = await site()
    first = await gateway.login()
    gateway.wire.hold_aborts = True
    second = await gateway.login()
    gateway.wire.drain(SOUND)
    gateway.wire.hold_aborts = False
    gateway.iscsi.sessions.logged_out(second, 2)
    await settle()
    assert gateway.wire.named("logout_done") == [(2, 0)]
    assert held(gateway) == set()
    assert set(unit(gateway, HUNG).seats) == {FIRST_NEXUS + first}


async def test_a_reserve_is_in_force_until_the_nexus_that_has_it_is_lost() -> None:
    """SPC-2 5.5.1. Neither does it end with a session that came after it, nor stay for that."""
    gateway = await site()
    first = await gateway.login()
    reply = gateway.reply(gateway.command(first, RESERVE6, volume=HUNG))
    await settle()
    assert reply is None or reply[0] == 0

    def others_are_kept_out() -> bool:
        parts = gateway.wire.gates[HUNG][2]
        assert parts is not None
        return parts.default_access is Situation.LEGACY_OTHER

    gateway.wire.hold_aborts = True
    await come_again(gateway)
    gateway.wire.hold_aborts = False
    await come_again(gateway)
    assert others_are_kept_out(), "the first one's WRITE may still be at the disk"
    gateway.wire.drain()
    await settle()
    assert not others_are_kept_out()


async def test_no_copy_goes_where_its_nexus_is_held_back() -> None:
    """It would not pass by the engine's hold."""
    gateway = Site()
    other = lun_view(SOUND, uuid="22345678-1234-1234-1234-123456789abc")
    other = replace(other, identity=replace(other.identity, wwn="7" * 32))
    await gateway.set_targets(target_view({1: lun_view(HUNG), 2: other}))
    await gateway.login()
    gateway.wire.hold_aborts = True
    second = await gateway.login()
    gateway.wire.drain(SOUND)
    await settle()
    copy, data = copy_of_eight_blocks("7" * 32, "6" * 32)
    reply = gateway.reply(gateway.command(second, copy, data, volume=SOUND))
    assert reply is not None and reply[2][12:14] == b"\x08\x04", "UNREACHABLE COPY TARGET"
    gateway.wire.drain()
    await settle()
    gateway.command(second, copy, data, volume=SOUND)
    await settle()
    assert len(gateway.wire.named("start_job")) == 1


async def test_a_lun_that_is_mapped_again_for_the_next_session() -> None:
    gateway = await site()
    first = FIRST_NEXUS + await gateway.login()
    gateway.wire.hold_aborts = True
    await gateway.set_targets(SOUND_ALONE)
    second = await come_again(gateway)
    gateway.wire.drain(SOUND)
    await settle()
    assert held(gateway) == set()
    await gateway.set_targets(BOTH)
    assert held(gateway) == {(HUNG, second)}
    assert [name for name in gateway.wire.names() if name in ("hold", "set_luns")][-1] == "set_luns"
    assert set(unit(gateway, HUNG).seats) == {first, second}
    gateway.wire.drain()
    await settle()
    assert held(gateway) == set()
    assert set(unit(gateway, HUNG).seats) == {second}


async def test_a_lun_that_is_taken_from_a_session_that_waits_at_it() -> None:
    gateway = await site()
    first = FIRST_NEXUS + await gateway.login()
    gateway.wire.hold_aborts = True
    second = await come_again(gateway)
    gateway.wire.drain(SOUND)
    # It has the unit again before it has left it: so it still has to wait.
    for targets in (SOUND_ALONE, BOTH):
        await gateway.set_targets(targets)
        await settle()
    *_, of_the_unmapped = gateway.wire.held
    gateway.iscsi.aborts.aborted(of_the_unmapped)
    await settle()
    assert held(gateway) == {(HUNG, second)}
    # Where it does not come back it has nothing left to wait for.
    gateway.wire.hold_aborts = False
    await gateway.set_targets(SOUND_ALONE)
    await settle()
    assert held(gateway) == set()
    assert set(unit(gateway, HUNG).seats) == {first}


async def test_resets_that_wait_for_a_disk_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose reset is not answered loses its session, comes again, and resets again."""
    monkeypatch.setattr("blockgate.dataplane.management.RESETS_AT_ONCE", 2)
    gateway = await site()
    gateway.wire.hold_aborts = True

    async def reset(volume: int) -> None:
        management(gateway, await gateway.login(), Function.LOGICAL_UNIT_RESET, volume=volume)
        await settle()

    def responses() -> list[int]:
        return [response for _, response in gateway.wire.named("management_done")]

    for _ in range(3):
        await reset(HUNG)
    assert responses() == [Response.REJECTED]
    await reset(SOUND)
    gateway.wire.drain(SOUND)
    await settle()
    assert responses()[1:] == [Response.COMPLETE]
    gateway.wire.drain(HUNG)
    gateway.wire.hold_aborts = False
    await reset(HUNG)
    assert responses()[2:] == [Response.COMPLETE] * 3


async def test_a_unit_whose_volume_is_closed_holds_nobody_back_for_ever() -> None:
    gateway = await site()
    await gateway.login()
    gateway.wire.hold_aborts = True
    await come_again(gateway)
    gateway.iscsi.units.forget(HUNG)
    await gateway.set_targets(SOUND_ALONE)
    gateway.wire.drain()
    await settle()
    gateway.wire.drain()
    await settle()
    assert held(gateway) == set()


@pytest.mark.parametrize("step", ["set_luns", "attend"])
async def test_a_session_that_ends_while_its_map_changes_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    gateway = await site()
    first = FIRST_NEXUS + await gateway.login()
    go, real = asyncio.Event(), getattr(gateway.wire, step)

    async def later(*arguments: object) -> None:
        await go.wait()
        await real(*arguments)

    monkeypatch.setattr(gateway.wire, step, later)
    hung_alone = target_view({1: lun_view(HUNG)})
    change = asyncio.get_running_loop().create_task(gateway.set_targets(hung_alone))
    await settle()
    second = asyncio.get_running_loop().create_task(come_again(gateway))
    await asyncio.sleep(0)  # the session has ended, and nothing else
    go.set()
    await change
    await second
    await gateway.set_targets(BOTH)
    third = await come_again(gateway)
    await settle()
    assert held(gateway) == set()
    assert set(unit(gateway, SOUND).seats) == {third} != {first}


async def test_a_session_that_ends_while_it_is_seated_anew_gets_no_further_seats() -> None:
    gateway = await site()
    await gateway.set_targets(target_view({1: lun_view(HUNG)}))
    await gateway.login()
    gateway.wire.pause_gates = asyncio.Event()
    read_only = lun_view(HUNG, read_only=True)
    sound = lun_view(SOUND, uuid="22345678-1234-1234-1234-123456789abc")
    changed = target_view({1: read_only, 2: sound})
    to_both = gateway.iscsi.set_targets(changed, ports.DiscoveryView())
    change = asyncio.get_running_loop().create_task(to_both)
    await settle()
    gateway.iscsi.connections.lost(1, "reset")
    await settle()
    gateway.wire.pause_gates.set()
    await change
    await settle()
    assert not unit(gateway, HUNG).seats and not unit(gateway, SOUND).seats
