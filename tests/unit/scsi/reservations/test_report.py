"""PERSISTENT RESERVE IN: bytes as SPC-4 6.15 lays them out."""

from __future__ import annotations

import pytest

from tests.unit.scsi.reservations.lab import (
    A2,
    APTPL,
    EA,
    INVALID_CDB,
    RESERVE,
    WE_AR,
    A,
    B,
    Unit,
)


def test_nothing_registered():
    unit = Unit()
    assert unit.inward(0) == bytes(8)
    assert unit.inward(1) == bytes(8)
    assert unit.inward(3) == bytes(8)


def test_report_capabilities():
    unit = Unit()
    # CRH, SIP_C, ATP_C, PTPL_C; TMV; WR_EX_AR EX_AC_RO WR_EX_RO EX_AC WR_EX and EX_AC_AR
    assert unit.inward(2) == bytes.fromhex("0008 1d 80 ea01 0000")
    unit.register(A, 1, flags=APTPL)
    assert unit.inward(2) == bytes.fromhex("0008 1d 81 ea01 0000")
    unit.register(B, 1)
    assert unit.inward(2) == bytes.fromhex("0008 1d 80 ea01 0000"), "the last valid bit counts"


def test_lengths_are_of_the_untruncated_data():
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    whole = unit.inward(0)
    assert len(whole) == 24
    for length in (0, 1, 8, 15, 23, 24):
        assert unit.inward(0, length) == whole[:length]
    assert unit.inward(3, 8)[4:8] != bytes(4)


def test_full_status():
    unit = Unit()
    unit.register(A, 0xAA)
    unit.register(A2, 0xBB)
    unit.out(A, RESERVE, 0xAA, kind=EA)
    identifier = bytes.fromhex("4500002c") + (
        b"iqn.2026-01.example:host1,i,0x400000000001".ljust(44, b"\0")
    )
    assert unit.inward(3) == (
        bytes.fromhex("00000002 00000090")
        + bytes.fromhex("00000000000000aa 00000000 01 03 00000000 0001 00000030")
        + identifier
        + bytes.fromhex("00000000000000bb 00000000 00 00 00000000 0002 00000030")
        + identifier
    )


def test_full_status_of_all_registrants_names_each_as_holder():
    unit = Unit()
    unit.register(A, 1)
    unit.register(A2, 2)
    unit.out(A, RESERVE, 1, kind=WE_AR)
    data = unit.inward(3)
    assert data[8 + 12 : 8 + 14] == bytes.fromhex("0107")
    second = 8 + 24 + 48
    assert data[second + 12 : second + 14] == bytes.fromhex("0107")


@pytest.mark.parametrize("action", range(4, 32))
def test_service_actions_that_are_none(action):
    assert Unit().inward(action) == INVALID_CDB


def test_anybody_may_read():
    unit = Unit()
    unit.register(A, 1)
    unit.out(A, RESERVE, 1, kind=EA)
    assert unit.keys() == [1]
