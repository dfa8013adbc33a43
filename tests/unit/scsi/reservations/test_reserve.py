"""RESERVE, RELEASE, CLEAR, and what each type lets whom do."""

from __future__ import annotations

import pytest

from blockgate.scsi import Reaction, Situation
from tests.unit.scsi.reservations.lab import (
    CLEAR,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    INVALID_CDB,
    INVALID_RELEASE,
    KINDS,
    LIST_LENGTH,
    RELEASE,
    RESERVE,
    WE,
    WE_AR,
    WE_RO,
    A,
    B,
    C,
    Unit,
    attended,
    out_cdb,
    swaps,
)

FREE, WRITES, ALL = (
    Situation.FREE,
    Situation.WRITE_EXCLUSIVE_OTHER,
    Situation.EXCLUSIVE_ACCESS_OTHER,
)


def registered(*pairs) -> Unit:
    unit = Unit()
    for who, key in pairs or ((A, 1), (B, 2)):
        unit.register(who, key)
    return unit


# SPC-4 5.12.1: what the holder, another registered nexus and an unregistered one may do
@pytest.mark.parametrize(
    ("kind", "other_registered", "unregistered"),
    [
        (WE, WRITES, WRITES),
        (EA, ALL, ALL),
        (WE_RO, FREE, WRITES),
        (EA_RO, FREE, ALL),
        (WE_AR, FREE, WRITES),
        (EA_AR, FREE, ALL),
    ],
)
def test_who_is_let_in(kind, other_registered, unregistered):
    unit = registered()
    reaction = unit.out(A, RESERVE, 1, kind=kind)
    assert swaps(reaction) and attended(reaction) == {}
    assert unit.situation(A) is FREE
    assert unit.situation(B) is other_registered
    assert unit.situation(C) is unregistered
    assert unit.situation(None) is unregistered, "an NBD connection is not registered"


def test_bytes_of_a_reservation():
    unit = Unit()
    unit.register(A, 0x0123456789ABCDEF)
    cdb = bytes.fromhex("5f 01 06 00 00 00000018 00")
    assert isinstance(unit.raw_out(A, cdb, bytes.fromhex("0123456789abcdef") + bytes(16)), Reaction)
    assert unit.inward(1) == bytes.fromhex("00000001 00000010 0123456789abcdef 00000000 00 06 0000")


@pytest.mark.parametrize("kind", [WE_AR, EA_AR])
def test_all_registrants_hold_with_no_key(kind):
    unit = registered()
    unit.out(A, RESERVE, 1, kind=kind)
    assert unit.reserved() == (0, kind)


def test_neither_reserve_nor_release_counts():
    unit = registered()
    before = unit.generation()
    unit.out(A, RESERVE, 1, kind=WE)
    unit.out(A, RELEASE, 1, kind=WE)
    assert unit.generation() == before


@pytest.mark.parametrize("kind", [0, 2, 4, *range(9, 16)])
def test_types_that_are_obsolete_or_reserved(kind):
    assert registered().out(A, RESERVE, 1, kind=kind) == INVALID_CDB


@pytest.mark.parametrize("scope", [1, 2, 15])
def test_scopes_that_are_obsolete_or_reserved(scope):
    assert registered().out(A, RESERVE, 1, kind=WE, scope=scope) == INVALID_CDB


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR])
def test_only_with_ones_own_key(action):
    unit = registered()
    assert unit.out(C, action, 1, kind=WE) == CONFLICT
    assert unit.out(A, action, 2, kind=WE) == CONFLICT
    assert unit.out(A, action, 0, kind=WE) == CONFLICT
    assert len(unit.keys()) == 2 and unit.reserved() is None


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR])
def test_exactly_24_bytes(action):
    unit = registered()
    assert unit.raw_out(A, out_cdb(action, WE, 32), bytes(32)) == LIST_LENGTH


def test_again_is_good_another_type_conflicts():
    unit = registered()
    unit.out(A, RESERVE, 1, kind=WE_RO)
    assert unit.out(A, RESERVE, 1, kind=WE_RO) == Reaction()
    assert unit.out(A, RESERVE, 1, kind=WE) == CONFLICT
    assert unit.out(B, RESERVE, 2, kind=WE_RO) == CONFLICT, "registered is not holder"
    assert unit.reserved() == (1, WE_RO)


def test_every_registrant_may_ask_again_for_all_registrants():
    unit = registered()
    unit.out(A, RESERVE, 1, kind=WE_AR)
    assert unit.out(B, RESERVE, 2, kind=WE_AR) == Reaction()
    assert unit.out(B, RESERVE, 2, kind=EA_AR) == CONFLICT


@pytest.mark.parametrize("kind", KINDS)
def test_release_tells_whom_the_type_let_in(kind):
    unit = registered()
    unit.out(A, RESERVE, 1, kind=kind)
    reaction = unit.out(A, RELEASE, 1, kind=kind)
    told = {} if kind in (WE, EA) else {"RESERVATIONS_RELEASED": {B.number}}
    assert attended(reaction) == told
    assert unit.reserved() is None and len(unit.keys()) == 2
    assert swaps(reaction) and unit.situation(C) is FREE


def test_any_registrant_releases_for_all():
    unit = registered()
    unit.out(A, RESERVE, 1, kind=EA_AR)
    assert attended(unit.out(B, RELEASE, 2, kind=EA_AR)) == {"RESERVATIONS_RELEASED": {A.number}}


def test_release_of_what_one_does_not_hold_is_good_and_nothing():
    unit = registered()
    assert unit.out(A, RELEASE, 1, kind=WE) == Reaction()
    unit.out(A, RESERVE, 1, kind=WE_RO)
    assert unit.out(B, RELEASE, 2, kind=EA) == Reaction()
    assert unit.reserved() == (1, WE_RO)


def test_release_must_name_what_it_releases():
    unit = registered()
    unit.out(A, RESERVE, 1, kind=WE_RO)
    assert unit.out(A, RELEASE, 1, kind=WE) == INVALID_RELEASE
    assert unit.out(A, RELEASE, 1, kind=WE_RO, scope=1) == INVALID_RELEASE
    assert unit.reserved() == (1, WE_RO)


@pytest.mark.parametrize("who", [A, B])
def test_clear_by_anyone_registered(who):
    unit = registered()
    unit.out(A, RESERVE, 1, kind=EA)
    before = unit.generation()
    other = B if who is A else A
    reaction = unit.out(who, CLEAR, 1 if who is A else 2, kind=15, scope=15)
    assert attended(reaction) == {"RESERVATIONS_PREEMPTED": {other.number}}
    assert unit.keys() == [] and unit.reserved() is None
    assert unit.generation() == before + 1 and swaps(reaction)
