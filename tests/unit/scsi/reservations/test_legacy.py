"""RESERVE and RELEASE, 6 and 10: SPC-2 5.5.1, and SPC-4 5.12.3 where PERSISTENT RESERVE OUT was
used."""

from __future__ import annotations

import pytest

from blockgate.scsi import GateChanged, Reaction, Situation
from tests.unit.scsi.reservations.lab import (
    CONFLICT,
    EA,
    EA_RO,
    IGNORE,
    INVALID_CDB,
    KINDS,
    RESERVE,
    WE,
    WE_AR,
    A,
    B,
    C,
    Unit,
)

LEGACY, FREE = Situation.LEGACY_OTHER, Situation.FREE
SIX = (bytes.fromhex("160000000000"), bytes.fromhex("170000000000"))
TEN = (bytes.fromhex("56000000000000000000"), bytes.fromhex("57000000000000000000"))


@pytest.mark.parametrize(("reserve", "release"), [SIX, TEN, (SIX[0], TEN[1]), (TEN[0], SIX[1])])
def test_one_has_it_until_released(reserve, release):
    unit = Unit()
    assert unit.reserve6(A, reserve) == Reaction(effects=(GateChanged(),))
    assert unit.reserve6(A, reserve) == Reaction(), "again is no error"
    assert (unit.situation(A), unit.situation(B), unit.situation(None)) == (FREE, LEGACY, LEGACY)
    assert unit.reserve6(B, reserve) == CONFLICT
    assert unit.release6(B, release) == Reaction(), "not his: good, and nothing happens"
    assert unit.situation(B) is LEGACY
    assert unit.release6(A, release) == Reaction(effects=(GateChanged(),))
    assert unit.situation(B) is FREE
    assert isinstance(unit.reserve6(B, reserve), Reaction)


@pytest.mark.parametrize(
    "cdb",
    [
        "160100000000",
        "161000000000",
        "160000000100",
        "56010000000000000000",
        "56020000000000000000",
        "56100000000000000000",
        "56000000000000000800",
        "57100000000000000000",
    ],
)
def test_third_parties_and_extents_are_refused(cdb):
    unit = Unit()
    assert unit.reserve6(A, bytes.fromhex(cdb)) == INVALID_CDB
    assert unit.situation(B) is FREE


def test_persistent_commands_conflict_for_everybody_while_it_lasts():
    unit = Unit()
    unit.reserve6(A)
    for who in (A, B):
        assert unit.out(who, IGNORE, 0, 1) == CONFLICT
    for action in range(4):
        assert unit.inward(action) == CONFLICT


def test_conflicts_while_anyone_is_registered():
    unit = Unit()
    unit.register(B, 2)
    for who in (A, B):
        assert unit.reserve6(who) == CONFLICT
        assert unit.release6(who) == CONFLICT


@pytest.mark.parametrize("kind", KINDS)
def test_compatible_handling_for_whom_the_reservation_lets_in(kind):
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=kind)
    before = unit.it.state
    assert unit.reserve6(A) == Reaction() and unit.release6(A) == Reaction()
    other = CONFLICT if kind in (WE, EA) else Reaction()
    assert unit.reserve6(B) == other and unit.release6(B) == other
    assert unit.reserve6(C) == CONFLICT and unit.release6(C) == CONFLICT
    assert unit.it.state == before


def test_ends_with_its_nexus():
    unit = Unit()
    unit.reserve6(A)
    assert unit.it.nexus_lost(B) == ()
    assert unit.it.nexus_lost(A) == (GateChanged(),)
    assert unit.situation(B) is FREE
    assert unit.it.attach(A) == ()
    assert isinstance(unit.reserve6(B), Reaction)


def test_ends_with_a_reset():
    unit = Unit()
    unit.reserve6(A)
    assert unit.it.reset() == (GateChanged(),)
    assert unit.situation(B) is FREE
    assert unit.it.reset() == ()


@pytest.mark.parametrize("kind", [WE, EA_RO, WE_AR])
def test_persistent_reservations_outlast_nexuses_and_resets(kind):
    unit = Unit()
    unit.register(A, 1)
    unit.out(A, RESERVE, 1, kind=kind)
    assert unit.it.reset() == ()
    assert unit.it.nexus_lost(A) == ()
    assert unit.situation(B) is not FREE
    assert unit.reserved() is not None
    assert unit.it.attach(A) == (GateChanged(),), "the gate has to name the holder again"
    assert unit.situation(A) is FREE
