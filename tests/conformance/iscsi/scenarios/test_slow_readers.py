"""A client that never reads its replies harms itself alone."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.client.pdu import Opcode, nop_out
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway

READ_BLOCKS = 512
READ_BYTES = READ_BLOCKS * cdbs.BLOCK
MOST_GROWTH_BYTES = 48 << 20
ORDERED = 2  # a task attribute (RFC 7143 11.3.1)


def test_a_client_that_never_reads(
    iscsi: Gateway, connect: Callable[..., Session], bystander: Session
) -> None:
    before = iscsi.rss_bytes
    sleeper = connect("sleeper", receive_buffer=4096)
    pattern = bytes(range(256)) * (READ_BYTES // 256)
    assert bystander.command(cdbs.write10(0, READ_BLOCKS), write=pattern).status == cdbs.GOOD
    tags: list[int] = []
    while sleeper.window and len(tags) < 256:
        tags.append(sleeper.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES))
    for _ in range(100):
        assert bystander.command(cdbs.read10(0, 8), read=4096).status == cdbs.GOOD
    assert iscsi.rss_bytes - before < MOST_GROWTH_BYTES
    # It wakes up at last: nothing is lost, nothing is mixed up.
    for tag in tags:
        answer = sleeper.finish(tag, read=READ_BYTES)
        assert (answer.status, answer.data) == (cdbs.GOOD, pattern)


def test_a_reset_does_not_wait_for_it(connect: Callable[..., Session], bystander: Session) -> None:
    sleeper = connect("sleeper", receive_buffer=4096)
    for _ in range(min(sleeper.window, 32)):
        sleeper.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES)
    assert bystander.manage(cdbs.LUN_RESET) == cdbs.COMPLETE


def test_an_ordered_read_is_over_when_what_stands_behind_it_begins(
    connect: Callable[..., Session],
) -> None:
    """ORDERED READ, ORDERED WRITE over its end, at once (SAM-5 8.6.3): the READ has the old data,
    however much of it has yet to be sent."""
    session = connect("orderly")
    old, new = b"O" * READ_BYTES, b"N" * 4096
    for _ in range(10):
        assert session.command(cdbs.write10(0, READ_BLOCKS), write=old).status == cdbs.GOOD
        reads = [
            session.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES, attribute=ORDERED)
            for _ in range(4)
        ]
        write = session.start(cdbs.write10(READ_BLOCKS - 8, 8), write=new, attribute=ORDERED)
        for tag in reads:
            assert session.finish(tag, read=READ_BYTES).data == old
        assert session.finish(write, write=new).status == cdbs.GOOD


def test_who_was_preempted_reads_nothing_that_is_written_later(
    connect: Callable[..., Session],
) -> None:
    """EXCLUSIVE ACCESS by PREEMPT AND ABORT (SPC-4 5.12.11.2.6): the reader's socket is full of
    READs that were under way; what it takes out of it later is older than the reservation."""
    reader, holder = connect("reader", receive_buffer=4096), connect("holder")
    old, secret = b"O" * READ_BYTES, b"S" * READ_BYTES
    assert holder.command(cdbs.write10(0, READ_BLOCKS), write=old).status == cdbs.GOOD
    for session, key in ((reader, 0xA), (holder, 0xB)):
        parameters = cdbs.reserve_parameters(0, key)
        registered = session.command(cdbs.reserve_out(cdbs.REGISTER), write=parameters)
        assert registered.status == cdbs.GOOD
    tags = [reader.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES) for _ in range(20)]
    # The first bytes are here: the others wait behind them, for a socket that takes no more.
    first = reader.connection.receive()
    kind = cdbs.EXCLUSIVE_ACCESS
    for action, of in ((cdbs.RESERVE, 0), (cdbs.PREEMPT_AND_ABORT, 0xA)):
        parameters = cdbs.reserve_parameters(0xB, of)
        assert holder.command(cdbs.reserve_out(action, kind), write=parameters).status == cdbs.GOOD
    assert holder.command(cdbs.write10(0, READ_BLOCKS), write=secret).status == cdbs.GOOD
    ping = reader.tag()
    reader.connection.send(reader.number(nop_out(ping)))
    _, before = reader.connection.receive_until(lambda pdu: pdu.itt == ping)
    read = [pdu for pdu in (first, *before) if pdu.opcode == Opcode.DATA_IN]
    assert {pdu.itt for pdu in read} & set(tags)
    assert not any(b"S" in pdu.data for pdu in read)
