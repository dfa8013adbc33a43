"""A nexus stalls in R2T, its data never comes: nobody waits for it who resets or preempts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.iscsi.client import Opcode, Pdu, Session
from tests.conformance.iscsi.scenarios import cdbs

Connect = Callable[..., Session]
SOLICITED = {"InitialR2T": "Yes", "ImmediateData": "No"}
BLOCKS = 128
DATA = b"\xa5" * (BLOCKS * cdbs.BLOCK)


def stall(session: Session, lba: int = 0) -> Pdu:
    """Starts a write and sends none of its data; the R2T."""
    itt = session.start(cdbs.write10(lba, BLOCKS), write=DATA)
    r2t, _ = session.connection.receive_until(lambda pdu: pdu.itt == itt)
    assert r2t.opcode == Opcode.R2T
    return r2t


def assert_unwritten(session: Session, lba: int = 0) -> None:
    answer = session.command(cdbs.read10(lba, BLOCKS), read=len(DATA))
    assert answer.status == cdbs.GOOD
    assert answer.data == bytes(len(DATA)), "data of a task that was aborted"


@pytest.mark.parametrize(
    ("function", "attentions"),
    [
        # SAM-5 6.3.3: BUS DEVICE RESET FUNCTION OCCURRED, or the more precise one
        (cdbs.LUN_RESET, {(6, 0x29, 0x03), (6, 0x29, 0x00)}),
        (cdbs.TARGET_WARM_RESET, {(6, 0x29, 0x02), (6, 0x29, 0x03), (6, 0x29, 0x00)}),
    ],
)
def test_resets_do_not_wait_for_it(
    connect: Connect, function: int, attentions: set[tuple[int, int, int]]
) -> None:
    victim, other = connect("victim", keys=SOLICITED), connect("other")
    r2t = stall(victim)
    response = other.manage(function)
    assert response == cdbs.COMPLETE
    assert victim.command(cdbs.TEST_UNIT_READY).sense_code in attentions
    # What comes too late for the task is dropped, and the session goes on.
    victim.send_data(r2t, DATA)
    assert victim.ping() == b"ping"
    other.clear_attentions()
    assert_unwritten(other)
    assert victim.command(cdbs.write10(0, 1), write=DATA[:512]).status == cdbs.GOOD


def test_clear_task_set_does_not_wait_for_it(connect: Connect) -> None:
    victim, other = connect("victim", keys=SOLICITED), connect("other")
    stall(victim)
    assert other.manage(cdbs.CLEAR_TASK_SET) == cdbs.COMPLETE


def test_preempt_and_abort_does_not_wait_for_it(connect: Connect) -> None:
    victim, other = connect("victim", keys=SOLICITED), connect("other")
    for session, key in ((victim, 0xA), (other, 0xB)):
        parameters = cdbs.reserve_parameters(0, key)
        assert session.command(cdbs.reserve_out(cdbs.REGISTER), write=parameters).status == 0
    reserve = cdbs.reserve_out(cdbs.RESERVE, cdbs.WRITE_EXCLUSIVE)
    assert victim.command(reserve, write=cdbs.reserve_parameters(0xA)).status == cdbs.GOOD
    r2t = stall(victim)
    preempt = cdbs.reserve_out(cdbs.PREEMPT_AND_ABORT, cdbs.WRITE_EXCLUSIVE)
    answer = other.command(preempt, write=cdbs.reserve_parameters(0xB, 0xA))
    assert answer.status == cdbs.GOOD
    # SPC-4 5.9.11.3: REGISTRATIONS PREEMPTED for the nexus that lost its registration
    assert (6, 0x2A, 0x05) in victim.clear_attentions()
    victim.send_data(r2t, DATA)
    assert victim.ping() == b"ping"
    assert_unwritten(other)
    assert victim.command(cdbs.write10(0, 1), write=DATA[:512]).status == cdbs.RESERVATION_CONFLICT


def test_abort_of_the_stalled_task_itself(connect: Connect) -> None:
    victim = connect("victim", keys=SOLICITED)
    r2t = stall(victim)
    assert victim.manage(cdbs.ABORT_TASK, referenced=r2t.itt) == cdbs.COMPLETE
    victim.send_data(r2t, DATA)
    assert victim.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD
    assert_unwritten(victim)
    # What it refers to is gone: "Task does not exist" (RFC 7143 section 11.6.1)
    assert victim.manage(cdbs.ABORT_TASK, referenced=r2t.itt) == cdbs.NO_SUCH_TASK


def test_abort_task_set_ends_them_all(connect: Connect) -> None:
    victim = connect("victim", keys=SOLICITED)
    stalled = [stall(victim, lba) for lba in range(0, 8 * BLOCKS, BLOCKS)]
    assert victim.manage(cdbs.ABORT_TASK_SET) == cdbs.COMPLETE
    for r2t in stalled:
        victim.send_data(r2t, DATA)
    assert victim.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD
    for lba in range(0, 8 * BLOCKS, BLOCKS):
        assert_unwritten(victim, lba)


def test_a_victim_that_disappears(connect: Connect, bystander: Session) -> None:
    victim = connect("victim", keys=SOLICITED)
    stall(victim)
    victim.close()
    assert bystander.manage(cdbs.LUN_RESET) == cdbs.COMPLETE
    bystander.clear_attentions()
    assert_unwritten(bystander)
