"""Task tags, the command window, and unit attentions in it."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.iscsi.client import Opcode, Session
from tests.conformance.iscsi.client import pdu as p
from tests.conformance.iscsi.scenarios import cdbs

Connect = Callable[..., Session]


def test_a_tag_reused_at_once(connect: Connect) -> None:
    session = connect()
    for number in range(200):
        data = bytes([number]) * cdbs.BLOCK
        itt = session.start(cdbs.write10(number, 1), write=data, itt=7)
        assert session.finish(itt, write=data).status == cdbs.GOOD
        itt = session.start(cdbs.read10(number, 1), read=cdbs.BLOCK, itt=7)
        assert session.finish(itt, read=cdbs.BLOCK).data == data


def test_a_tag_reused_after_its_abort(connect: Connect) -> None:
    """Late data for the former task must not reach the one that has its tag now."""
    session = connect(keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    stale, fresh = b"\x11" * 4096, b"\x22" * 4096
    itt = session.start(cdbs.write10(0, 8), write=stale, itt=9)
    r2t, _ = session.connection.receive_until(lambda pdu: pdu.itt == itt)
    assert session.manage(cdbs.ABORT_TASK, referenced=itt) == cdbs.COMPLETE
    session.start(cdbs.write10(0, 8), write=fresh, itt=9)
    again, _ = session.connection.receive_until(lambda pdu: pdu.itt == itt)
    assert again.opcode == Opcode.R2T
    assert again.ttt != r2t.ttt, "the former task's data could not be told apart"
    session.send_data(again, fresh)
    assert session.finish(itt, write=fresh).status == cdbs.GOOD
    assert session.command(cdbs.read10(0, 8), read=4096).data == fresh


def test_a_tag_that_is_in_use(connect: Connect, bystander: Session) -> None:
    """RFC 7143 section 11.2.1.8: a tag is unique among those outstanding; the second is refused."""
    session = connect(keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    data = bytes(4096)
    itt = session.start(cdbs.write10(0, 8), write=data, itt=5)
    r2t, _ = session.connection.receive_until(lambda pdu: pdu.itt == itt)
    session.start(cdbs.TEST_UNIT_READY, itt=5)
    refused, _ = session.connection.receive_until(lambda pdu: pdu.opcode == Opcode.REJECT)
    assert refused.response in (0x04, 0x07, 0x09)  # protocol error, task in progress, field
    session.send_data(r2t, data)
    assert session.finish(itt, write=data).status == cdbs.GOOD


def test_unit_attention_with_a_full_window(connect: Connect, bystander: Session) -> None:
    """A window full of commands arrives at once: one reports the attention, the rest run."""
    session = connect()
    assert bystander.manage(cdbs.LUN_RESET) == cdbs.COMPLETE
    bystander.clear_attentions()
    count = session.window
    tags = [session.tag() for _ in range(count)]
    commands = [
        session.number(p.scsi_command(itt, 1, cdbs.read10(0, 1), read=True, expected=cdbs.BLOCK))
        for itt in tags
    ]
    session.connection.send(*commands)
    answers: dict[int, int] = {}
    while len(answers) < count:
        pdu = session.connection.receive()
        if pdu.opcode == Opcode.SCSI_RESPONSE or pdu.flags & 0x01:
            answers[pdu.itt] = pdu.status
            session.see(pdu)
    refused = [itt for itt in tags if answers[itt] == cdbs.CHECK_CONDITION]
    assert len(refused) == 1
    assert session.window == count, "the window did not open again"


def test_beyond_the_window(connect: Connect, bystander: Session) -> None:
    """RFC 7143 section 4.2.2.1: a command beyond MaxCmdSN is silently ignored."""
    session = connect()
    number = session.cmd_sn
    session.cmd_sn = session.max_cmd_sn + 1
    session.start(cdbs.TEST_UNIT_READY)
    session.cmd_sn = number - 5
    session.start(cdbs.TEST_UNIT_READY)
    assert session.connection.silent_for(0.5)
    session.cmd_sn = number
    assert session.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD


def test_commands_that_arrive_out_of_order(connect: Connect) -> None:
    session = connect()
    first, second = (session.number(p.scsi_command(tag, 1, bytes(6))) for tag in (100, 101))
    session.connection.send(second)
    assert session.connection.silent_for(0.3), "answered before the one that goes before it"
    session.connection.send(first)
    assert [session.connection.receive().itt for _ in range(2)] == [100, 101]


def test_an_ordered_command_waits_for_those_before_it(connect: Connect) -> None:
    """SAM-5 8.7.3; and what comes after it waits for it."""
    session = connect(keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    data = b"\x33" * 4096
    write = session.start(cdbs.write10(0, 8), write=data)
    r2t, _ = session.connection.receive_until(lambda pdu: pdu.itt == write)
    ordered = session.start(cdbs.read10(0, 8), read=4096, attribute=2)
    after = session.start(cdbs.TEST_UNIT_READY)
    assert session.connection.silent_for(0.3)
    session.send_data(r2t, data)
    assert session.finish(write, write=data).status == cdbs.GOOD
    assert session.finish(ordered, read=4096).data == data
    assert session.finish(after).status == cdbs.GOOD
