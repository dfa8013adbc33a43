"""Long work that units give to the engine: copies and sanitizing, and what ends them."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from blockgate.scsi import Attention
from blockgate.scsi.task_management import Verdict
from tests.unit.dataplane.scene import (
    BOB,
    DISK,
    Site,
    aptpl,
    copy_of_eight_blocks,
    lun_view,
    management,
    register,
    reserve,
    settle,
    target_view,
    two_sessions,
)

LOW = Attention.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED
SECOND = "22345678-1234-1234-1234-123456789abc"
INQUIRY = "12000000ff00"
READ_KEYS = "5e000000000000ff0000"
REQUEST_SENSE = "030000001200"
BLOCK_ERASE = "48820000000000000000"  # SANITIZE, IMMED (SBC-3 5.24)
SANITIZE_IN_PROGRESS = b"\x04\x1b"


async def test_a_copy_is_answered_by_its_end() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    task = gateway.command(alice, *copy_of_eight_blocks())
    await settle()
    ((number, job, source, destination),) = gateway.wire.named("start_job")
    assert (source, destination, job.length) == (3, 3, 4096)
    assert gateway.reply(task) is None
    assert gateway.reply(gateway.command(alice, INQUIRY)) is not None
    gateway.iscsi.units.jobs.done(number, 0, 4096)
    await settle()
    assert gateway.reply(task) == (0, b"", b"")
    gateway.iscsi.units.jobs.done(number, 0, 4096)


async def test_a_copy_ends_with_its_command() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    task = gateway.command(alice, *copy_of_eight_blocks())
    await settle()
    management(gateway, alice, 1, referenced=task, verdict=Verdict.FOUND)
    await settle()
    ((number,),) = gateway.wire.named("cancel_job")
    assert gateway.wire.named("management_done") == []
    gateway.iscsi.units.jobs.done(number, errno.ECANCELED, 0)
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]


@pytest.mark.parametrize("function", [1, 2, 5])
async def test_a_copy_between_two_segments_ends_with_its_command(function: int) -> None:
    """The end of a segment waits for its turn at the unit: the next one does not begin after the
    answer of ABORT TASK, ABORT TASK SET or LOGICAL UNIT RESET."""
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    task = gateway.command(alice, *copy_of_eight_blocks(times=2))
    await settle()
    gateway.store.pause = asyncio.Event()
    gateway.command(bob, *aptpl(register(1)))
    await settle()
    ((number, *_),) = gateway.wire.named("start_job")
    gateway.iscsi.units.jobs.done(number, 0, 4096)
    management(gateway, alice, function, referenced=task, verdict=Verdict.FOUND)
    await settle()
    gateway.store.pause.set()
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]
    assert len(gateway.wire.named("start_job")) == 1


async def test_a_copy_ends_with_a_command_that_has_failed() -> None:
    """QERR (SPC-4 7.5.8): the engine has ended it, the unit stops what it has begun."""
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    task = gateway.command(alice, *copy_of_eight_blocks(list_id=1, times=2))
    gateway.command(alice, *copy_of_eight_blocks(list_id=2))
    await settle()
    gateway.over = {task}
    unit = gateway.iscsi.units.get(3)
    assert unit is not None
    unit.abandoned()
    await settle()
    (number, *_), _ = gateway.wire.named("start_job")
    assert gateway.wire.named("cancel_job") == [(number,)]
    gateway.iscsi.units.jobs.done(number, 0, 4096)
    await settle()
    assert len(gateway.wire.named("start_job")) == 2
    assert gateway.reply(task) is not None, "in the engine it counts until it is answered"


async def test_copies_are_aborted_at_once() -> None:
    """While the one is being stopped, the other does not begin with its next segment."""
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, *copy_of_eight_blocks(list_id=1))
    gateway.command(alice, *copy_of_eight_blocks(list_id=2, times=2))
    await settle()
    (slow, *_), (quick, *_) = gateway.wire.named("start_job")
    management(gateway, alice, 2)
    await settle()
    assert gateway.wire.named("cancel_job") == [(slow,), (quick,)]
    gateway.iscsi.units.jobs.done(quick, 0, 4096)
    await settle()
    gateway.iscsi.units.jobs.done(slow, errno.ECANCELED, 0)
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]
    assert len(gateway.wire.named("start_job")) == 2


async def copy_to_a_second_unit(gateway: Site, *, space: str = "") -> tuple[int, int, int]:
    """Alice's, from the unit of volume 3 to that of volume 4, whose file is ``space``; gives Bob's
    session, its task and the number of its job."""
    other = replace(lun_view(4, uuid=SECOND), space=space)
    other = replace(other, identity=replace(other.identity, wwn="7" * 32))
    await gateway.set_targets(target_view({1: lun_view(), 2: other}))
    alice, bob = await gateway.login(), await gateway.login(BOB)
    task = gateway.command(alice, *copy_of_eight_blocks("6" * 32, "7" * 32))
    await settle()
    ((number, _job, source, destination),) = gateway.wire.named("start_job")
    assert (source, destination) == (3, 4)
    return bob, task, number


async def test_a_copy_that_finds_no_room_ends_when_everybody_has_been_warned() -> None:
    """Of the unit that it writes to, once (SBC-3 4.7.3.7): before its command is answered."""
    gateway = Site()
    _, task, number = await copy_to_a_second_unit(gateway, space="/pool/b")
    seen = len(gateway.wire.calls)
    gateway.iscsi.units.jobs.done(number, errno.ENOSPC, 0)
    await settle()
    calls = [call for call in gateway.wire.calls[seen:] if call[0] in ("attend", "complete")]
    assert [name for name, _ in calls] == ["attend", "attend", "complete"]
    assert {(lun, what) for _, (_, lun, what) in calls[:2]} == {(2 << 48, LOW)}
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2], reply[2][12:14]) == (2, 0x0A, b"\x27\x07")
    gateway.iscsi.stop()


async def test_a_warning_waits_for_no_copy_that_hangs() -> None:
    """One that has no right to the unit any more has been stopped, and its source hangs."""
    gateway = Site()
    bob, _, number = await copy_to_a_second_unit(gateway, space="/pool/b")
    gateway.command(bob, *register(1), volume=4)
    await settle()
    gateway.command(bob, *reserve(1), volume=4)
    await settle()
    assert gateway.wire.named("cancel_job") == [(number,)]
    gateway.iscsi.commands.no_room(7, bob, 4)
    await settle()
    assert gateway.wire.named("resume") == [(7,)]
    gateway.iscsi.stop()


async def test_a_reservation_is_answered_when_no_copy_writes_against_it_any_more() -> None:
    gateway = Site()
    bob, task, number = await copy_to_a_second_unit(gateway)
    gateway.command(bob, *register(1), volume=4)
    await settle()
    reserved = gateway.command(bob, *reserve(1), volume=4)
    await settle()
    assert gateway.wire.named("cancel_job") == [(number,)]
    assert gateway.reply(reserved) is None, "what the copy has begun to write may be under way"
    assert gateway.reply(gateway.command(bob, INQUIRY, volume=4)) is not None
    gateway.iscsi.units.jobs.done(number, errno.ECANCELED, 0)
    await settle()
    assert gateway.reply(reserved) == (0, b"", b"")
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2]) == (2, 0x0A)  # COPY ABORTED
    assert len(gateway.wire.named("start_job")) == 1


async def test_what_was_only_read_by_a_copy_is_sanitized_before_that_one_ends() -> None:
    """The disk that it writes to may hang; nothing of it comes to the unit that it read from."""
    gateway = Site()
    bob, _, number = await copy_to_a_second_unit(gateway)
    sanitize = gateway.command(bob, BLOCK_ERASE, volume=3)
    await settle()
    assert gateway.wire.named("cancel_job") == [(number,)] * 2
    assert gateway.reply(sanitize) == (0, b"", b"")
    assert len(gateway.wire.named("start_job")) == 2


async def test_a_sanitize_operation_begins_when_no_copy_writes_there_any_more() -> None:
    """Others are told of it meanwhile, however long that may take."""
    gateway = Site()
    bob, _, number = await copy_to_a_second_unit(gateway)
    sanitize = gateway.command(bob, BLOCK_ERASE, volume=4)
    await settle()
    assert gateway.wire.named("cancel_job") == [(number,)]
    assert (gateway.reply(sanitize), len(gateway.wire.named("start_job"))) == (None, 1)
    sense = gateway.reply(gateway.command(bob, REQUEST_SENSE, volume=4))
    assert sense is not None and sense[1][12:14] == SANITIZE_IN_PROGRESS
    assert gateway.reply(gateway.command(bob, READ_KEYS, volume=4)) is not None
    gateway.iscsi.units.jobs.done(number, errno.ECANCELED, 0)
    await settle()
    assert gateway.reply(sanitize) == (0, b"", b"")
    assert [what[2] for what in gateway.wire.named("start_job")] == [3, 4]


async def test_targets_change_while_a_copy_hangs_whose_session_has_gone() -> None:
    """It is stopped, and waited for by whoever is told that it has ended."""
    gateway = Site()
    alice, bob = await two_sessions(gateway)
    gateway.command(alice, *copy_of_eight_blocks())
    await settle()
    ((number, *_),) = gateway.wire.named("start_job")
    gateway.iscsi.sessions.ended_by_number(alice)
    await settle()
    changed = {1: lun_view(), 2: lun_view(4, uuid=SECOND)}
    await asyncio.wait_for(gateway.set_targets(target_view(changed)), 60)
    assert set(gateway.iscsi.sessions.units_of(bob)) == {3, 4}
    renamed = {1: replace(lun_view(), volume="pool/other", size=2 << 20), 2: changed[2]}
    await asyncio.wait_for(gateway.set_targets(target_view(renamed)), 60)
    management(gateway, bob, 5)
    await settle()
    assert set(gateway.wire.named("cancel_job")) == {(number,)}
    assert gateway.wire.named("management_done") == []
    gateway.iscsi.units.jobs.done(number, errno.ECANCELED, 0)
    await settle()
    assert gateway.wire.named("management_done") == [(900, 0)]


async def test_a_sanitize_operation_goes_on_when_its_volume_is_open_again() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, "48820000000000000000")  # BLOCK ERASE, IMMED (SBC-3 5.24)
    await settle()
    ((number, job, *_),) = gateway.wire.named("start_job")
    await gateway.set_targets(target_view({}))
    await settle()
    gateway.iscsi.units.forget(3)
    await gateway.set_targets(target_view({1: lun_view(4)}))
    await settle()
    (_, (again, same, volume, _)) = gateway.wire.named("start_job")
    assert (same, volume) == (job, 4)
    gateway.iscsi.units.jobs.done(number, errno.ESHUTDOWN, 512)
    gateway.iscsi.units.jobs.done(again, 0, 1 << 20)
    await settle()
    _, _, parts = gateway.wire.gates[4]
    assert parts is not None and parts.not_ready is None


async def test_a_sanitize_operation_goes_on_though_its_unit_could_not_be_had_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blockgate.dataplane.iscsi.RETRY_SECONDS", 0)
    gateway = Site()
    alice, _ = await two_sessions(gateway)
    gateway.command(alice, BLOCK_ERASE)
    await settle()
    await gateway.set_targets({})
    gateway.iscsi.units.forget(3)
    gateway.store.fails = True
    other = "iqn.2024-01.com.example:other"  # its port is a new one
    await gateway.set_targets({other: replace(target_view({1: lun_view(4)})[DISK], name=other)})
    assert len(gateway.wire.named("start_job")) == 1
    gateway.store.fails = False
    await settle()
    assert [job[2] for job in gateway.wire.named("start_job")] == [3, 4]
    gateway.iscsi.stop()


async def test_a_job_that_cannot_be_started() -> None:
    gateway = Site()
    alice, _ = await two_sessions(gateway)

    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "too many")

    gateway.wire.start_job = refuse  # type: ignore[method-assign]
    task = gateway.command(alice, *copy_of_eight_blocks())
    await settle()
    reply = gateway.reply(task)
    assert reply is not None and (reply[0], reply[2][2]) == (2, 0x0A)  # COPY ABORTED
