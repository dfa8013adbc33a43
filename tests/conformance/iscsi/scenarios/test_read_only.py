"""What an initiator whose ACL is read-only leaves to those that write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, Target, add_target

WRITE_PROTECTED = (0x07, 0x27, 0x00)
RESERVE_6 = bytes((0x16, 0, 0, 0, 0, 0))
NOT_AUTHORIZED = 6  # RFC 7143 11.6.1


@pytest.fixture
def target(iscsi: Gateway) -> Target:
    acls = [
        {"initiator": f"iqn.2026-01.org.example:{name}", "read_only": name == "reader"}
        for name in ("reader", "writer")
    ]
    return add_target(iscsi, acls=acls)


def session(target: Target, name: str) -> Iterator[Session]:
    initiator = f"iqn.2026-01.org.example:{name}"
    with Session(target.address, target.name, initiator=initiator).login() as made:
        made.clear_attentions()
        yield made


@pytest.fixture
def reader(target: Target) -> Iterator[Session]:
    yield from session(target, "reader")


@pytest.fixture
def writer(target: Target) -> Iterator[Session]:
    yield from session(target, "writer")


def write(session: Session) -> int:
    return session.command(cdbs.write10(0, 1), write=bytes(cdbs.BLOCK)).status


def reserve_out(session: Session, action: int, key: int, of: int, kind: int = 0) -> int:
    parameters = cdbs.reserve_parameters(key, of)
    answer = session.command(cdbs.reserve_out(action, kind), write=parameters)
    if answer.status == cdbs.CHECK_CONDITION:
        assert answer.sense_code == WRITE_PROTECTED
    return answer.status


def test_it_reserves_nothing(reader: Session, writer: Session) -> None:
    assert reader.command(RESERVE_6).sense_code == WRITE_PROTECTED
    assert write(writer) == cdbs.GOOD


def test_it_preempts_nobody_and_is_admitted_by_its_key(reader: Session, writer: Session) -> None:
    registrants_only = 6  # Exclusive Access, Registrants Only (SPC-4 table 197)
    assert reserve_out(writer, cdbs.REGISTER, 0, 0xA) == cdbs.GOOD
    assert reserve_out(writer, cdbs.RESERVE, 0xA, 0, registrants_only) == cdbs.GOOD
    read = cdbs.read10(0, 1)
    assert reader.command(read, read=cdbs.BLOCK).status == cdbs.RESERVATION_CONFLICT
    assert reserve_out(reader, cdbs.REGISTER_AND_IGNORE, 0, 0xB) == cdbs.GOOD
    assert reader.command(read, read=cdbs.BLOCK).status == cdbs.GOOD
    for action in (cdbs.PREEMPT, cdbs.PREEMPT_AND_ABORT, cdbs.CLEAR):
        refused = reserve_out(reader, action, 0xB, 0xA, cdbs.EXCLUSIVE_ACCESS)
        assert refused == cdbs.CHECK_CONDITION
    assert write(writer) == cdbs.GOOD
    assert reserve_out(reader, cdbs.REGISTER, 0xB, 0) == cdbs.GOOD
    assert write(writer) == cdbs.GOOD


@pytest.mark.parametrize("function", [cdbs.TARGET_WARM_RESET, cdbs.TARGET_COLD_RESET])
def test_it_does_not_reset_the_target(reader: Session, writer: Session, function: int) -> None:
    assert reader.manage(function) == NOT_AUTHORIZED
    # no attention, and the session is still there
    assert write(writer) == cdbs.GOOD
    assert writer.manage(function) == cdbs.COMPLETE


def test_it_recovers_from_errors(reader: Session, writer: Session) -> None:
    """LOGICAL UNIT RESET; everybody is told of it."""
    assert reader.manage(cdbs.LUN_RESET) == cdbs.COMPLETE
    assert (0x06, 0x29, 0x03) in writer.clear_attentions()
    assert write(writer) == cdbs.GOOD
