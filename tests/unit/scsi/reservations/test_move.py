"""REGISTER AND MOVE (SPC-4 5.12.8, table 208)."""

from __future__ import annotations

import pytest

from blockgate.scsi import Reaction, Situation
from tests.unit.scsi.reservations.lab import (
    A2,
    CONFLICT,
    INVALID_CDB,
    INVALID_LIST,
    LIST_LENGTH,
    MOVE,
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
    transport_id,
)

TO_B = transport_id(B.name.initiator_port)
UNREG, APTPL = 0x02, 0x01


def holding(kind: int = WE) -> Unit:
    unit = Unit()
    unit.register(A, 1)
    unit.out(A, RESERVE, 1, kind=kind)
    return unit


def test_bytes():
    unit = holding()
    identifier = bytes.fromhex("45000034") + (
        b"iqn.2026-01.example:host2,i,0x400000000002".ljust(52, b"\0")
    )
    data = bytes.fromhex("0000000000000001 00000000000000bb 00 03 0001 00000038") + identifier
    cdb = bytes.fromhex("5f 07 00 0000 00000050 00")
    assert isinstance(unit.raw_out(A, cdb, data), Reaction)
    assert unit.reserved() == (0xBB, WE) and unit.keys() == [0xBB]
    assert unit.it.state.aptpl


def test_the_reservation_moves_and_both_are_registered():
    unit = holding()
    before = unit.generation()
    reaction = unit.move(A, 1, 2, TO_B)
    assert unit.reserved() == (2, WE) and unit.keys() == [1, 2]
    assert attended(reaction) == {} and swaps(reaction)
    assert unit.situation(B) is Situation.FREE
    assert unit.situation(A) is Situation.WRITE_EXCLUSIVE_OTHER
    assert unit.generation() == before + 1


def test_a_registered_heir_gets_the_new_key():
    unit = holding()
    unit.register(B, 9)
    unit.move(A, 1, 2, TO_B)
    assert unit.keys() == [1, 2]


def test_to_the_same_initiator_port_at_another_target_port():
    unit = holding()
    unit.move(A, 1, 2, transport_id(A.name.initiator_port), relative_port=2, flags=UNREG)
    assert unit.it.state.reservation.holder == A2.name


def test_unregistered_conflicts():
    assert holding().move(B, 0, 2, TO_B) == CONFLICT


def test_a_registrant_that_does_not_hold_conflicts():
    unit = holding(WE_RO)
    unit.register(B, 2)
    assert unit.move(B, 2, 3, transport_id(C.name.initiator_port)) == CONFLICT


def test_all_registrants_cannot_be_moved():
    assert holding(WE_AR).move(A, 1, 2, TO_B) == CONFLICT


def test_nothing_to_move():
    unit = Unit()
    unit.register(A, 1)
    assert unit.move(A, 1, 2, TO_B) == INVALID_CDB


def test_wrong_key_conflicts():
    assert holding().move(A, 7, 2, TO_B) == CONFLICT


@pytest.mark.parametrize(
    ("to", "more"),
    [
        pytest.param(transport_id(A.name.initiator_port), {}, id="to itself"),
        pytest.param(TO_B, {"relative_port": 3}, id="no such port"),
        pytest.param(TO_B, {"relative_port": 0}, id="port zero"),
        pytest.param(transport_id("iqn.2026-01.example:host2"), {}, id="a device, no port"),
        pytest.param(TO_B + TO_B, {}, id="two"),
        pytest.param(TO_B[:20], {}, id="short"),
    ],
)
def test_destinations_that_are_none(to, more):
    unit = holding()
    assert unit.move(A, 1, 2, to, **more) == INVALID_LIST
    assert unit.reserved() == (1, WE)


def test_key_zero():
    assert holding().move(A, 1, 0, TO_B) == INVALID_LIST


def test_the_list_must_hold_its_identifier():
    unit = holding()
    assert unit.raw_out(A, out_cdb(MOVE, 0, 16), bytes(16)) == LIST_LENGTH
    data = bytes(20) + (24).to_bytes(4, "big")
    assert unit.raw_out(A, out_cdb(MOVE, 0, 24), data) == INVALID_LIST
