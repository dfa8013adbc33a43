"""REGISTER and REGISTER AND IGNORE EXISTING KEY: tables 62 and 63 of SPC-4, row by row."""

from __future__ import annotations

import struct

import pytest

from blockgate.scsi import Reaction, Situation
from blockgate.scsi.reservations import REGISTRATION_LIMIT
from tests.unit.scsi.reservations.lab import (
    A2,
    ALL_TG_PT,
    APTPL,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    IGNORE,
    INVALID_CDB,
    INVALID_LIST,
    LIST_LENGTH,
    NO_RESOURCES,
    REGISTER,
    RESERVE,
    SPEC_I_PT,
    WE,
    WE_AR,
    WE_RO,
    A,
    B,
    C,
    Unit,
    attended,
    nexus,
    out_cdb,
    swaps,
    transport_id,
)


def listed(*identifiers: bytes) -> bytes:
    joined = b"".join(identifiers)
    return struct.pack(">I", len(joined)) + joined


def test_bytes_of_a_registration_and_read_keys():
    unit = Unit(A)
    cdb = bytes.fromhex("5f 00 00 00 00 00000018 00")
    data = bytes.fromhex("0000000000000000 0123456789abcdef 00000000 00 00 0000")
    assert isinstance(unit.raw_out(A, cdb, data), Reaction)
    assert unit.inward(0) == bytes.fromhex("00000001 00000008 0123456789abcdef")


def test_unregistered_with_a_key_conflicts():
    unit = Unit()
    assert unit.out(A, REGISTER, 5, 6) == CONFLICT
    assert unit.keys() == [] and unit.generation() == 0


def test_unregistered_with_nothing_is_good_and_nothing():
    unit = Unit()
    unit.register(B, 9, flags=APTPL)
    for action in (REGISTER, IGNORE):
        assert isinstance(unit.out(A, action, 0, 0), Reaction)
    assert unit.keys() == [9]
    assert unit.it.state.aptpl, "who does nothing does not end persistence either"


def test_registered_with_another_key_conflicts():
    unit = Unit()
    unit.register(A, 5)
    assert unit.out(A, REGISTER, 4, 6) == CONFLICT
    assert unit.out(A, REGISTER, 0, 6) == CONFLICT
    assert unit.keys() == [5]


def test_a_key_is_changed_and_taken_back():
    unit = Unit()
    unit.register(A, 5)
    unit.out(A, REGISTER, 5, 6)
    assert unit.keys() == [6]
    unit.out(A, REGISTER, 6, 0)
    assert unit.keys() == []
    assert unit.generation() == 3


def test_ignore_changes_and_removes_whatever_the_key_was():
    unit = Unit()
    unit.register(A, 5)
    unit.out(A, IGNORE, 77, 6)
    assert unit.keys() == [6]
    unit.out(A, IGNORE, 77, 0)
    assert unit.keys() == []


def test_several_nexuses_may_share_a_key_and_each_is_listed():
    unit = Unit()
    for one in (A, B, A2):
        unit.register(one, 5)
    assert unit.keys() == [5, 5, 5]


def test_scope_and_type_are_ignored():
    unit = Unit()
    assert isinstance(unit.out(A, REGISTER, 0, 5, kind=4, scope=2), Reaction)


@pytest.mark.parametrize("length", [0, 8, 23, 25, 28])
def test_lengths_other_than_24(length):
    unit = Unit()
    assert unit.raw_out(A, out_cdb(REGISTER, 0, length), bytes(length)) == LIST_LENGTH


def test_less_data_than_the_cdb_says():
    assert Unit().raw_out(A, out_cdb(REGISTER, 0, 24), bytes(16)) == LIST_LENGTH


@pytest.mark.parametrize("action", range(8, 32))
def test_service_actions_that_are_none(action):
    assert Unit().raw_out(A, out_cdb(action, 0, 24), bytes(24)) == INVALID_CDB


@pytest.mark.parametrize("kind", [WE, EA])
def test_the_holder_leaves_and_nobody_is_told(kind):
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=kind)
    reaction = unit.out(A, REGISTER, 1, 0)
    assert unit.reserved() is None
    assert attended(reaction) == {} and swaps(reaction)


@pytest.mark.parametrize("kind", [WE_RO, EA_RO])
def test_the_holder_leaves_and_the_other_registrants_are_told(kind):
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=kind)
    reaction = unit.out(A, REGISTER, 1, 0)
    assert unit.reserved() is None
    assert attended(reaction) == {"RESERVATIONS_RELEASED": {B.number}}, "C is not registered"


@pytest.mark.parametrize("kind", [WE_AR, EA_AR])
def test_all_registrants_hold_until_the_last_one_leaves(kind):
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=kind)
    assert attended(unit.out(A, REGISTER, 1, 0)) == {}
    assert unit.reserved() == (0, kind)
    assert unit.situation(A) is not Situation.FREE
    assert attended(unit.out(B, IGNORE, 0, 0)) == {}
    assert unit.reserved() is None and unit.situation(A) is Situation.FREE


def test_another_registrant_leaves_and_the_reservation_stays():
    unit = Unit()
    unit.register(A, 1)
    unit.register(B, 2)
    unit.out(A, RESERVE, 1, kind=WE_RO)
    reaction = unit.out(B, REGISTER, 2, 0)
    assert unit.reserved() == (1, WE_RO)
    assert attended(reaction) == {} and swaps(reaction), "B may not write any more"
    assert unit.situation(B) is Situation.WRITE_EXCLUSIVE_OTHER


def test_the_holders_new_key_is_the_reservations():
    unit = Unit()
    unit.register(A, 1)
    unit.out(A, RESERVE, 1, kind=EA)
    unit.out(A, REGISTER, 1, 7)
    assert unit.reserved() == (7, EA)


class TestAllTargetPorts:
    def test_registers_the_initiator_port_everywhere(self):
        unit = Unit()
        unit.out(A, REGISTER, 0, 5, flags=ALL_TG_PT)
        assert unit.keys() == [5, 5]
        unit.out(A, RESERVE, 5, kind=WE_RO)
        assert unit.situation(A2) is Situation.FREE
        assert unit.situation(B) is Situation.WRITE_EXCLUSIVE_OTHER

    def test_conflicts_as_a_whole_where_another_key_stands(self):
        unit = Unit()
        unit.register(A2, 6)
        assert unit.out(A, REGISTER, 0, 5, flags=ALL_TG_PT) == CONFLICT
        assert unit.keys() == [6]
        unit.register(A, 5, flags=ALL_TG_PT)
        assert sorted(unit.keys()) == [5, 5]

    def test_takes_back_what_has_that_key(self):
        unit = Unit()
        unit.register(A, 5, flags=ALL_TG_PT)
        unit.register(B, 5)
        unit.out(A, REGISTER, 5, 0, flags=ALL_TG_PT)
        assert unit.keys() == [5]

    def test_leaves_another_key_at_another_port(self):
        unit = Unit()
        unit.register(A, 5)
        unit.register(A2, 6)
        unit.out(A, REGISTER, 5, 0, flags=ALL_TG_PT)
        assert unit.keys() == [6]


class TestNamedInitiatorPorts:
    def test_registers_them_too(self):
        unit = Unit()
        more = listed(transport_id(B.name.initiator_port), transport_id(C.name.initiator_port))
        unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=more)
        assert unit.keys() == [5, 5, 5]
        assert unit.generation() == 1

    def test_leaves_who_is_registered(self):
        unit = Unit()
        unit.register(B, 6)
        more = listed(transport_id(B.name.initiator_port))
        unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=more)
        assert sorted(unit.keys()) == [5, 6]

    def test_a_name_alone_means_the_ports_that_are_known(self):
        unit = Unit()
        more = listed(transport_id("iqn.2026-01.example:host2"), transport_id("iqn.nobody"))
        unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=more)
        assert unit.keys() == [5, 5]
        assert unit.it.state.registrations[B.name] == 5

    def test_spelling_does_not_matter(self):
        unit = Unit()
        name = "IQN.2026-01.example:HOST2,i,0X400000000002"
        unit.out(
            A, REGISTER, 0, 5, flags=SPEC_I_PT, more=listed(transport_id(name.replace("X", "x")))
        )
        assert unit.it.state.registrations[B.name] == 5

    def test_with_all_target_ports(self):
        unit = Unit()
        more = listed(transport_id(B.name.initiator_port))
        unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT | ALL_TG_PT, more=more)
        assert unit.keys() == [5] * 4

    def test_not_when_registered(self):
        unit = Unit()
        unit.register(A, 5)
        more = listed(transport_id(B.name.initiator_port))
        assert unit.out(A, REGISTER, 5, 6, flags=SPEC_I_PT, more=more) == INVALID_CDB
        assert unit.keys() == [5]

    @pytest.mark.parametrize("action", [RESERVE, IGNORE, 2, 3, 4, 5])
    def test_not_with_other_service_actions(self, action):
        unit = Unit()
        assert unit.out(A, action, 0, 5, kind=1, flags=SPEC_I_PT, more=listed()) == INVALID_LIST

    @pytest.mark.parametrize(
        "more",
        [
            pytest.param(struct.pack(">I", 28) + transport_id("iqn.a"), id="longer than the list"),
            pytest.param(listed(transport_id("iqn.a")[:-4]), id="cuts an identifier"),
            pytest.param(listed(transport_id("iqn.a") + b"\x45"), id="ends inside a head"),
            pytest.param(listed(b"\x06" + transport_id("iqn.a")[1:]), id="another transport"),
            pytest.param(listed(b"\x85" + transport_id("iqn.a")[1:]), id="reserved format"),
            pytest.param(listed(b"\x45" + transport_id("iqn.a")[1:]), id="port format, no port"),
            pytest.param(listed(b"\x05" + transport_id("q,i,0x1")[1:]), id="name format, a port"),
            pytest.param(listed(transport_id("iqn.a,i,0xg")), id="no hexadecimal ISID"),
            pytest.param(listed(transport_id("iqn.a,i,0x1234567890123")), id="ISID too long"),
            pytest.param(listed(bytes.fromhex("05000014") + b"a" * 20), id="no NUL"),
            pytest.param(listed(bytes.fromhex("05000014") + bytes(20)), id="no name"),
            pytest.param(
                listed(bytes.fromhex("05000014") + b"a\0b".ljust(20, b"\0")), id="after the NUL"
            ),
            pytest.param(listed(bytes.fromhex("05000010") + b"a".ljust(16, b"\0")), id="short"),
            pytest.param(listed(bytes.fromhex("05000015") + b"a".ljust(21, b"\0")), id="odd"),
            pytest.param(listed(bytes.fromhex("05000014") + b"\xff".ljust(20, b"\0")), id="UTF-8"),
            pytest.param(listed(transport_id("a" * 224)), id="name too long"),
        ],
    )
    def test_lists_that_are_none(self, more):
        unit = Unit()
        assert unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=more) == INVALID_LIST
        assert unit.keys() == [] and unit.generation() == 0

    def test_a_list_without_its_length(self):
        assert Unit().out(A, REGISTER, 0, 5, flags=SPEC_I_PT) == LIST_LENGTH

    def test_a_list_of_nobody(self):
        unit = Unit()
        unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=listed())
        assert unit.keys() == [5]


def test_no_room_for_one_more():
    unit = Unit()
    everybody = [nexus(number) for number in range(10, 10 + REGISTRATION_LIMIT - 1)]
    for start in range(0, len(everybody), 200):
        chunk = everybody[start : start + 200]
        for one in chunk[:1]:
            names = [transport_id(other.name.initiator_port) for other in chunk[1:]]
            unit.out(one, REGISTER, 0, 3, flags=SPEC_I_PT, more=listed(*names))
    assert len(unit.keys()) == REGISTRATION_LIMIT - 1
    more = listed(transport_id(C.name.initiator_port))
    assert unit.out(A, REGISTER, 0, 5, flags=SPEC_I_PT, more=more) == NO_RESOURCES
    assert len(unit.keys()) == REGISTRATION_LIMIT - 1, "all of them or none"
    unit.register(A, 5)
    assert unit.out(B, IGNORE, 0, 5) == NO_RESOURCES
    assert isinstance(unit.out(A, IGNORE, 0, 6), Reaction), "a new key takes no room"
