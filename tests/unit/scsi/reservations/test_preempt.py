"""PREEMPT and PREEMPT AND ABORT: SPC-4 5.12.11.2.4 to 5.12.11.2.6, case by case."""

from __future__ import annotations

import pytest

from blockgate.scsi import Reaction, Situation
from tests.unit.scsi.reservations.lab import (
    APTPL,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    IGNORE,
    INVALID_CDB,
    INVALID_LIST,
    KINDS,
    LIST_LENGTH,
    PREEMPT,
    PREEMPT_AND_ABORT,
    RESERVE,
    WE,
    WE_AR,
    WE_RO,
    A,
    B,
    C,
    Unit,
    aborted,
    attended,
    kinds_of,
    nexus,
    out_cdb,
    swaps,
)

GONE = "REGISTRATIONS_PREEMPTED"
RELEASED = "RESERVATIONS_RELEASED"
D = nexus(4)


def three(kind: int | None = None) -> Unit:
    """A, B, C registered with 1, 2, 3; A holds."""
    unit = Unit(A, B, C, D)
    for who, key in ((A, 1), (B, 2), (C, 3)):
        unit.register(who, key)
    if kind is not None:
        unit.out(A, RESERVE, 1, kind=kind)
    return unit


def test_without_a_reservation_registrations_go():
    unit = three()
    before = unit.generation()
    reaction = unit.out(B, PREEMPT, 2, 1, kind=EA)
    assert attended(reaction) == {GONE: {A.number}}
    assert unit.keys() == [2, 3] and unit.reserved() is None
    assert unit.generation() == before + 1


def test_scope_and_type_are_ignored_where_nothing_is_reserved():
    assert isinstance(three().out(B, PREEMPT, 2, 1, kind=0, scope=5), Reaction)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_key_that_nobody_has(kind):
    unit = three(kind)
    before = unit.generation()
    assert unit.out(B, PREEMPT, 2, 99, kind=WE) == CONFLICT
    assert unit.generation() == before


def test_key_zero_is_nobodys_where_nothing_is_reserved():
    assert three().out(B, PREEMPT, 2, 0, kind=WE) == CONFLICT


@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
def test_key_zero_is_refused_where_one_nexus_holds(kind):
    assert three(kind).out(B, PREEMPT, 2, 0, kind=WE) == INVALID_LIST


def test_by_the_unregistered_or_with_a_wrong_key():
    unit = three(WE)
    assert unit.out(D, PREEMPT, 0, 1, kind=WE) == CONFLICT
    assert unit.out(B, PREEMPT, 3, 1, kind=WE) == CONFLICT
    assert unit.raw_out(B, out_cdb(PREEMPT, WE, 20), bytes(20)) == LIST_LENGTH


@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
def test_the_holders_key_with_the_same_type(kind):
    unit = three(kind)
    reaction = unit.out(B, PREEMPT, 2, 1, kind=kind)
    assert attended(reaction) == {GONE: {A.number}}
    assert unit.reserved() == (2, kind) and unit.keys() == [2, 3]
    assert unit.situation(B) is Situation.FREE
    assert unit.situation(A) is not Situation.FREE
    assert swaps(reaction)


@pytest.mark.parametrize("new", KINDS)
def test_the_holders_key_with_another_type(new):
    unit = three(EA_RO if new != EA_RO else WE)
    reaction = unit.out(B, PREEMPT, 2, 1, kind=new)
    assert attended(reaction) == {GONE: {A.number}, RELEASED: {C.number}}
    assert unit.reserved() == (0 if new in (WE_AR, EA_AR) else 2, new)


@pytest.mark.parametrize("kind", [0, 2, 9])
def test_taking_over_needs_a_type(kind):
    unit = three(WE)
    assert unit.out(B, PREEMPT, 2, 1, kind=kind) == INVALID_CDB
    assert unit.reserved() == (1, WE) and len(unit.keys()) == 3
    assert unit.out(B, PREEMPT, 2, 1, kind=WE, scope=1) == INVALID_CDB


def test_another_registrants_key_leaves_the_reservation():
    unit = three(WE)
    reaction = unit.out(B, PREEMPT, 2, 3, kind=EA)
    assert attended(reaction) == {GONE: {C.number}}
    assert unit.reserved() == (1, WE) and unit.keys() == [1, 2]


def test_the_holder_preempts_itself_to_change_the_type():
    unit = three(WE)
    reaction = unit.out(A, PREEMPT, 1, 1, kind=EA)
    assert attended(reaction) == {RELEASED: {B.number, C.number}}
    assert unit.reserved() == (1, EA) and unit.keys() == [1, 2, 3]


def test_ones_own_key_without_being_holder():
    unit = three(WE)
    reaction = unit.out(B, PREEMPT, 2, 2, kind=WE)
    assert attended(reaction) == {}
    assert unit.reserved() == (1, WE) and unit.keys() == [1, 3]


def test_a_key_shared_with_the_holder_spares_only_oneself():
    unit = Unit(A, B, C, D)
    for who in (A, B, C):
        unit.register(who, 7)
    unit.out(A, RESERVE, 7, kind=WE_RO)
    reaction = unit.out(B, PREEMPT, 7, 7, kind=WE_RO)
    assert attended(reaction) == {GONE: {A.number, C.number}}
    assert list(unit.it.state.registrations) == [B.name]
    assert unit.it.state.reservation.holder == B.name


@pytest.mark.parametrize("kind", [WE_AR, EA_AR])
class TestAllRegistrants:
    def test_key_zero_takes_over_from_all(self, kind):
        unit = three(kind)
        reaction = unit.out(B, PREEMPT, 2, 0, kind=WE)
        assert attended(reaction) == {GONE: {A.number, C.number}}
        assert unit.reserved() == (2, WE) and unit.keys() == [2]

    def test_a_key_removes_registrations_only(self, kind):
        unit = three(kind)
        reaction = unit.out(B, PREEMPT, 2, 1, kind=WE)
        assert attended(reaction) == {GONE: {A.number}}
        assert unit.reserved() == (0, kind) and unit.keys() == [2, 3]
        assert unit.situation(A) is not Situation.FREE

    def test_a_key_that_all_share_ends_it(self, kind):
        unit = Unit(A, B, C, D)
        for who in (A, B):
            unit.register(who, 7)
        unit.out(A, RESERVE, 7, kind=kind)
        reaction = unit.out(B, PREEMPT, 7, 7, kind=kind)
        assert attended(reaction) == {GONE: {A.number}}
        assert unit.keys() == [] and unit.reserved() is None


class TestAndAbort:
    def test_order_of_effects(self):
        unit = three(WE)
        unit.register(B, 2, flags=APTPL)
        reaction = unit.out(B, PREEMPT_AND_ABORT, 2, 1, kind=WE)
        assert kinds_of(reaction) == ["Persist", "GateChanged", "Attend", "Attend", "AbortNexus"]
        assert reaction.reply.status == 0

    def test_silently_and_the_preempted_are_told(self):
        reaction = three(WE).out(B, PREEMPT_AND_ABORT, 2, 1, kind=WE)
        assert attended(reaction) == {GONE: {A.number}, "COMMANDS_CLEARED": {A.number}}
        assert aborted(reaction) == {frozenset({A.number}): None}

    def test_with_tas_the_commands_end_with_task_aborted(self):
        reaction = three(WE).out(B, PREEMPT_AND_ABORT, 2, 1, kind=WE, tas=True)
        assert attended(reaction) == {GONE: {A.number}}
        assert aborted(reaction) == {frozenset({A.number}): 0x40}

    def test_ones_own_commands_never_have_a_status_of_others(self):
        reaction = three(WE).out(A, PREEMPT_AND_ABORT, 1, 1, kind=EA, tas=True)
        assert aborted(reaction) == {frozenset(): None, frozenset({A.number}): None}
        assert attended(reaction) == {RELEASED: {B.number, C.number}}

    def test_all_registrants_but_oneself(self):
        reaction = three(EA_AR).out(B, PREEMPT_AND_ABORT, 2, 0, kind=WE)
        assert aborted(reaction) == {frozenset({A.number, C.number}): None}

    def test_plain_preempt_aborts_nothing(self):
        assert aborted(three(WE).out(B, PREEMPT, 2, 1, kind=WE)) == {}

    def test_a_conflict_aborts_nothing(self):
        assert three(WE).out(B, PREEMPT_AND_ABORT, 2, 99, kind=WE) == CONFLICT

    def test_who_has_no_session_is_preempted_all_the_same(self):
        unit = three(WE)
        unit.it.nexus_lost(A)
        reaction = unit.out(B, PREEMPT_AND_ABORT, 2, 1, kind=WE)
        assert kinds_of(reaction) == ["GateChanged", "AbortNexus"]
        assert aborted(reaction) == {frozenset(): None}, "NBD connections have to drain"
        assert unit.reserved() == (2, WE)


# SPC-4 table 57: service actions in the presence of a reservation of another nexus
@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize(
    ("action", "registered", "unregistered"),
    [
        (RESERVE, False, False),
        (2, True, False),
        (3, True, False),
        (PREEMPT, True, False),
        (PREEMPT_AND_ABORT, True, False),
        (0, True, True),
        (IGNORE, True, True),
    ],
)
def test_what_each_situation_allows(kind, action, registered, unregistered):
    for who, key, allowed in ((B, 2, registered), (D, 0, unregistered)):
        unit = three(kind)
        answer = unit.out(who, action, key, 1 if action in (4, 5) else 9, kind=WE)
        assert (answer != CONFLICT) is allowed
