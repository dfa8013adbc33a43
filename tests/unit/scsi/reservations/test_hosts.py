"""Two hosts at one disk, step by step as cluster managers and conformance suites use reservations:
what each step answers, and which reads and writes conflict by the opcode table."""

from __future__ import annotations

import pytest

from blockgate.scsi import Nexus, Reaction
from blockgate.scsi.opcodes import table
from tests.unit.scsi.reservations.lab import (
    CLEAR,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    IGNORE,
    KINDS,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RELEASE,
    RESERVE,
    WE,
    WE_AR,
    WE_RO,
    A,
    B,
    Unit,
    attended,
)

ONE, TWO = 0x1122334455667788, 0x99AABBCCDDEEFF00
READ10 = bytes.fromhex("28000000000100000100")
WRITE10 = bytes.fromhex("2a000000000100000100")
MODE_SENSE6 = bytes.fromhex("1a003f00ff00")
INQUIRY = bytes.fromhex("12000000ff00")
TEST_UNIT_READY = bytes(6)
COMPARE_AND_WRITE = bytes.fromhex("89") + bytes(12) + b"\x01" + bytes(2)
UNMAP = bytes.fromhex("42000000000000001800")


def allowed(unit: Unit, who: Nexus, cdb: bytes) -> bool:
    return not table().find(cdb).conflicts_in(unit.situation(who), cdb)


def good(answer: object) -> Reaction:
    assert isinstance(answer, Reaction), answer
    assert answer.reply.status == 0
    return answer


# read and write of the second host: registered, then not
@pytest.mark.parametrize(
    ("kind", "registered", "unregistered"),
    [
        (EA, (False, False), (False, False)),
        (WE, (True, False), (True, False)),
        (EA_RO, (True, True), (False, False)),
        (WE_RO, (True, True), (True, False)),
        (EA_AR, (True, True), (False, False)),
        (WE_AR, (True, True), (True, False)),
    ],
)
def test_access_while_registered_and_after(kind, registered, unregistered):
    unit = Unit(A, B)
    good(unit.out(A, IGNORE, 0, ONE))
    good(unit.out(B, IGNORE, 0, TWO))
    good(unit.out(A, RESERVE, ONE, kind=kind))
    assert unit.reserved() == (0 if kind in (EA_AR, WE_AR) else ONE, kind)
    assert allowed(unit, A, READ10) and allowed(unit, A, WRITE10)
    assert (allowed(unit, B, READ10), allowed(unit, B, WRITE10)) == registered
    assert allowed(unit, B, UNMAP) is allowed(unit, B, COMPARE_AND_WRITE) is registered[1]
    good(unit.out(B, REGISTER, TWO, 0))
    assert (allowed(unit, B, READ10), allowed(unit, B, WRITE10)) == unregistered
    assert allowed(unit, B, INQUIRY) and allowed(unit, B, TEST_UNIT_READY)
    good(unit.out(A, RELEASE, ONE, kind=kind))
    good(unit.out(A, REGISTER, ONE, 0))
    assert allowed(unit, B, WRITE10) and unit.keys() == []


@pytest.mark.parametrize("kind", KINDS)
def test_ownership_when_the_reserving_host_leaves(kind):
    unit = Unit(A, B)
    unit.register(A, ONE)
    unit.register(B, TWO)
    good(unit.out(A, RESERVE, ONE, kind=kind))
    good(unit.out(A, REGISTER, ONE, 0))
    if kind in (EA_AR, WE_AR):
        assert unit.reserved() == (0, kind)
        good(unit.out(B, RELEASE, TWO, kind=kind))
    assert unit.reserved() is None
    good(unit.out(B, REGISTER, TWO, 0))


def test_each_type_in_turn_then_clear():
    unit = Unit(A)
    unit.register(A, ONE)
    for kind in KINDS:
        good(unit.out(A, RESERVE, ONE, kind=kind))
        good(unit.out(A, RELEASE, ONE, kind=kind))
    generation = unit.generation()
    good(unit.out(A, RESERVE, ONE, kind=EA))
    good(unit.out(A, CLEAR, ONE))
    assert unit.reserved() is None and unit.keys() == []
    assert unit.generation() == generation + 1


def test_a_second_registration_must_name_the_first_key():
    unit = Unit(A)
    unit.register(A, ONE)
    assert unit.out(A, REGISTER, 0, ONE + 1) == CONFLICT
    assert unit.keys() == [ONE]


def test_preempting_a_registration():
    unit = Unit(A, B)
    unit.register(A, ONE)
    unit.register(B, TWO)
    generation = unit.generation()
    told = attended(good(unit.out(B, PREEMPT, TWO, ONE, kind=EA)))
    assert told == {"REGISTRATIONS_PREEMPTED": {A.number}}
    assert unit.keys() == [TWO] and unit.generation() == generation + 1


def test_fencing_as_a_cluster_manager_does_it():
    """Both register, one holds write exclusive registrants only; the other fences it, and the
    fenced host can neither write nor come back with the key it had."""
    unit = Unit(A, B)
    unit.register(A, ONE)
    unit.register(B, TWO)
    good(unit.out(A, RESERVE, ONE, kind=WE_RO))
    good(unit.out(B, PREEMPT_AND_ABORT, TWO, ONE, kind=WE_RO))
    assert unit.reserved() == (TWO, WE_RO) and unit.keys() == [TWO]
    assert not allowed(unit, A, WRITE10) and allowed(unit, B, WRITE10)
    for action in (RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT):
        assert unit.out(A, action, ONE, TWO, kind=WE_RO) == CONFLICT
    assert unit.out(A, REGISTER, ONE, ONE) == CONFLICT
    good(unit.out(A, REGISTER, 0, ONE))
    assert allowed(unit, A, WRITE10), "who registers again is let in again"


def test_reserve_of_scsi_2_between_two_hosts():
    unit = Unit(A, B)
    good(unit.reserve6(A))
    good(unit.reserve6(A))
    assert unit.reserve6(B) == CONFLICT
    good(unit.release6(B))
    assert allowed(unit, A, MODE_SENSE6) and not allowed(unit, B, MODE_SENSE6)
    assert allowed(unit, B, INQUIRY)
    assert unit.reserve6(B) == CONFLICT
    good(unit.release6(A))
    good(unit.reserve6(B))
    good(unit.release6(B))
    assert allowed(unit, A, WRITE10)


@pytest.mark.parametrize("end", ["nexus loss", "reset"])
def test_reserve_of_scsi_2_ends_with(end):
    unit = Unit(A, B)
    good(unit.reserve6(A))
    assert unit.reserve6(B) == CONFLICT
    if end == "reset":
        unit.it.reset()
    else:
        unit.it.nexus_lost(A)
    good(unit.reserve6(B))
