"""NBD beside reservations: a connection is a nexus that never registers, with rows in the one
opcode table. What SCSI may not do from an unregistered nexus, NBD may not do either."""

from __future__ import annotations

import pytest

from blockgate.scsi import Situation
from blockgate.scsi.opcodes import table
from tests.unit.scsi.reservations.lab import (
    CLEAR,
    EA,
    EA_AR,
    EA_RO,
    KINDS,
    PREEMPT_AND_ABORT,
    RELEASE,
    RESERVE,
    WE,
    A,
    B,
    C,
    Unit,
    aborted,
    kinds_of,
)

READS = {"READ", "CACHE", "BLOCK_STATUS"}
WRITES = {"WRITE", "TRIM", "WRITE_ZEROES", "FLUSH"}
ROWS = {row.name: row.conflicts for row in table().nbd}


def refused(unit: Unit) -> set[str]:
    """NBD's commands that are EPERM now."""
    return {name for name, conflicts in ROWS.items() if unit.situation(None) in conflicts}


def reserved(kind: int) -> Unit:
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=kind)
    return unit


def test_every_command_is_known():
    assert ROWS.keys() == READS | WRITES


def test_registrations_alone_bind_nobody():
    unit = Unit()
    unit.register(A, 1)
    assert refused(unit) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_each_type(kind):
    unit = reserved(kind)
    assert refused(unit) == (READS | WRITES if kind in (EA, EA_RO, EA_AR) else WRITES)
    unit.out(A, RELEASE, 1, kind=kind)
    assert refused(unit) == set()


def test_a_reserve_of_scsi_2_is_for_its_nexus_alone():
    unit = Unit()
    unit.reserve6(A)
    assert refused(unit) == READS | WRITES
    unit.it.nexus_lost(A)
    assert refused(unit) == set()


def test_clear_lets_everybody_in():
    unit = reserved(EA)
    unit.out(B, CLEAR, 2)
    assert refused(unit) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_an_unregistered_nexus_of_scsi(kind):
    """READ(16) and WRITE(16) of an unregistered nexus conflict exactly where NBD's do."""
    unit = reserved(kind)
    for opcode, name in ((0x88, "READ"), (0x8A, "WRITE")):
        cdb = bytes([opcode]) + bytes(15)
        conflicts = table().find(cdb).conflicts_in(unit.situation(C), cdb)
        assert conflicts is (name in refused(unit))


def test_preempt_and_abort_refuses_before_it_waits():
    """Else a write of NBD could begin after the wait and land after the answer."""
    unit = reserved(WE)
    reaction = unit.out(B, PREEMPT_AND_ABORT, 2, 1, kind=EA)
    kinds = kinds_of(reaction)
    assert kinds.index("GateChanged") < kinds.index("AbortNexus") == len(kinds) - 1


def test_preempt_and_abort_waits_for_nbd_also_where_nobody_has_a_session():
    unit = reserved(WE)
    unit.it.nexus_lost(A)
    assert aborted(unit.out(B, PREEMPT_AND_ABORT, 2, 1, kind=WE)) == {frozenset(): None}


def test_what_a_connection_may_do_never_depends_on_its_number():
    unit = reserved(EA)
    default, named = unit.it.access()
    assert default is Situation.EXCLUSIVE_ACCESS_OTHER
    assert set(named) == {A.number}, "only the holder is named"
