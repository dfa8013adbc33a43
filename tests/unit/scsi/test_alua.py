"""Target port groups: bytes as SPC-4 6.37 and 6.45 lay them out, states, and who is told."""

from __future__ import annotations

import struct

import pytest

from blockgate.scsi import (
    Attend,
    Attention,
    CheckCondition,
    GateChanged,
    Nexus,
    NexusName,
    Part,
    Persist,
)
from blockgate.scsi.alua import Access, AccessState, PortGroup, StatusCode, TargetPortGroups

AO, AN, STANDBY, UNAVAILABLE = 0, 1, 2, 3
OFFLINE, TRANSITIONING = 0xE, 0xF
CHANGED = Attention.ASYMMETRIC_ACCESS_STATE_CHANGED
A = Nexus(77, 1, NexusName("iqn.a,i,0x000000000001", "iqn.t,t,0x0001", 1))


def two(explicit: bool = True) -> TargetPortGroups:
    groups = (
        PortGroup(2, (3,), AccessState.ACTIVE_NONOPTIMIZED),
        PortGroup(1, (1, 2), preferred=True),
    )
    return TargetPortGroups(Access(groups, explicit=explicit), implicit_transition_s=30)


def rtpg(unit: TargetPortGroups, form: int = 0, length: int = 1024) -> bytes:
    return unit.report(bytes([0xA3, form << 5 | 0x0A, 0, 0, 0, 0]) + struct.pack(">Ixx", length))


def stpg(unit: TargetPortGroups, *groups: tuple[int, int], cut: int = 0):
    data = bytes(4) + b"".join(struct.pack(">BxH", state, number) for state, number in groups)
    return raw_stpg(unit, data[: len(data) - cut], len(data) - cut)


def raw_stpg(unit: TargetPortGroups, data: bytes, length: int):
    cdb = bytes([0xA4, 0x0A, 0, 0, 0, 0]) + struct.pack(">Ixx", length)
    try:
        return unit.set(A, cdb, data)
    except CheckCondition as failed:
        return (int(failed.sense.key), failed.sense.asc, failed.sense.ascq)


def states(unit: TargetPortGroups) -> dict[int, int]:
    return {group.number: int(group.state) for group in unit.access.groups}


def test_report_in_the_length_only_format():
    # T_SUP O_SUP U_SUP S_SUP AN_SUP AO_SUP; groups by number
    assert rtpg(two()) == bytes.fromhex(
        "0000001c80cf0001 00 00 00 02 00000001 0000000201cf0002 00 00 00 01 00000003"
    )


def test_report_in_the_extended_format():
    whole = rtpg(two(), form=1)
    assert whole[:8] == bytes.fromhex("00000020 10 1e 0000")
    assert whole[8:] == rtpg(two())[4:]


@pytest.mark.parametrize("form", range(2, 8))
def test_other_formats(form):
    with pytest.raises(CheckCondition, match="24/00"):
        rtpg(two(), form=form)


def test_the_data_is_whole_whatever_the_allocation_length():
    assert rtpg(two(), length=4) == rtpg(two())


def test_groups_of_ports():
    assert [two().group(port) for port in (1, 2, 3, 4)] == [1, 1, 2, 0]


def test_states_that_are_not_supported_are_not_announced():
    group = PortGroup(1, (1,), supported=frozenset({AccessState.ACTIVE_OPTIMIZED}))
    assert rtpg(TargetPortGroups(Access((group,))))[5] == 0x01


@pytest.mark.parametrize(
    ("implicit", "explicit", "bits"),
    [(False, False, 0b00), (True, False, 0b01), (False, True, 0b10), (True, True, 0b11)],
)
def test_tpgs(implicit, explicit, bits):
    assert TargetPortGroups(Access((), implicit=implicit, explicit=explicit)).tpgs == bits


def test_a_single_gateway_has_one_group():
    unit = TargetPortGroups.single([1, 2])
    assert rtpg(unit) == bytes.fromhex("00000010 00cf0001 00000002 00000001 00000002")
    assert unit.tpgs == 1 and unit.state(2) == "active_optimized"
    assert unit.state(9) == "unavailable"


class TestSetting:
    def test_every_other_nexus_is_told(self):
        unit = two()
        reaction = stpg(unit, (AN, 1), (AO, 2))
        kept, *effects = reaction.effects
        assert kept == Persist(Part.PORT_GROUPS, unit.record())
        assert effects == [GateChanged(), Attend(CHANGED, None, frozenset({77}))]
        assert states(unit) == {1: AN, 2: AO}
        assert unit.state(1) == "active_nonoptimized" and unit.state(3) == "active_optimized"
        assert rtpg(unit)[4 + 5] == 1, "STATUS CODE: set by SET TARGET PORT GROUPS"

    def test_what_is_not_named_stays(self):
        unit = two()
        stpg(unit, (STANDBY, 2))
        assert states(unit) == {1: AO, 2: STANDBY}
        assert unit.access.groups[1].status is StatusCode.NONE

    def test_what_is_so_already_is_no_change(self):
        unit = two()
        assert stpg(unit, (AO, 1)).effects == (Persist(Part.PORT_GROUPS, unit.record()),)
        assert stpg(unit, (AO, 1)).effects == ()

    @pytest.mark.parametrize("length", [0, 4])
    def test_lists_of_nothing(self, length):
        assert raw_stpg(two(), bytes(length), length).effects == ()

    @pytest.mark.parametrize("state", [4, 5, 0xD, OFFLINE, TRANSITIONING])
    def test_states_that_cannot_be_asked_for(self, state):
        unit = two()
        assert stpg(unit, (AN, 1), (state, 2)) == (5, 0x26, 0x00)
        assert states(unit) == {1: AO, 2: AN}, "all or nothing"

    def test_states_that_the_group_does_not_support(self):
        some = frozenset({AccessState.ACTIVE_OPTIMIZED, AccessState.STANDBY})
        unit = TargetPortGroups(Access((PortGroup(1, (1,), supported=some),), explicit=True))
        assert stpg(unit, (AN, 1)) == (5, 0x26, 0x00)
        assert stpg(unit, (STANDBY, 1)).effects != ()

    def test_groups_that_are_none_or_named_twice(self):
        assert stpg(two(), (AO, 3)) == (5, 0x26, 0x00)
        assert stpg(two(), (AN, 1), (AO, 1)) == (5, 0x26, 0x00)

    @pytest.mark.parametrize("length", [1, 3, 5, 10])
    def test_lengths_that_cut_a_descriptor(self, length):
        assert raw_stpg(two(), bytes(length), length) == (5, 0x1A, 0x00)

    def test_less_data_than_the_cdb_says(self):
        assert raw_stpg(two(), bytes(4), 8) == (5, 0x1A, 0x00)

    def test_not_while_the_group_is_in_transition(self):
        unit = two()
        unit.begin([1])
        assert stpg(unit, (AN, 1)) == (2, 0x04, 0x0A)
        assert stpg(unit, (AO, 2)).effects != ()

    def test_not_where_only_the_gateway_decides(self):
        assert stpg(two(explicit=False), (AN, 1)) == (5, 0x20, 0x00)


class TestRestart:
    """States that initiators have asked for are there again; the gateway's own are not."""

    def test_what_was_asked_for(self):
        unit = two()
        stpg(unit, (STANDBY, 2))
        unit.become({1: AccessState.UNAVAILABLE})
        again = two()
        again.restore(unit.record())
        assert states(again) == {1: AO, 2: STANDBY}
        assert [int(group.status) for group in again.access.groups] == [1, 0]
        stpg(again, (UNAVAILABLE, 1))
        third = two()
        third.restore(again.record())
        assert states(third) == {1: UNAVAILABLE, 2: STANDBY}

    def test_a_group_that_is_configured_later(self):
        unit = two()
        stpg(unit, (STANDBY, 2))
        again = TargetPortGroups(Access((PortGroup(1, (1,)),), explicit=True))
        again.restore(unit.record())
        later = (PortGroup(1, (1,)), PortGroup(2, (2,)))
        again.configure(Access(later, explicit=True))
        assert states(again) == {1: AO, 2: STANDBY}

    def test_what_is_not_had_any_more(self):
        unit = two()
        stpg(unit, (STANDBY, 1))
        implicit = two(explicit=False)
        implicit.restore(unit.record())
        assert states(implicit) == {1: AO, 2: AN}, "nobody could change it back"
        some = PortGroup(1, (1,), supported=frozenset({AccessState.ACTIVE_OPTIMIZED}))
        simple = TargetPortGroups(Access((some,), explicit=True))
        simple.restore(unit.record())
        assert states(simple) == {1: AO}

    def test_nothing_was_asked_for(self):
        unit = two()
        unit.restore(b"")
        assert states(unit) == {1: AO, 2: AN}

    def test_what_could_not_be_kept_has_not_happened(self):
        unit = two()
        stpg(unit, (STANDBY, 2))
        before = unit.record()
        stpg(unit, (AO, 2))
        unit.take_back()
        assert states(unit) == {1: AO, 2: STANDBY} and unit.record() == before


class TestImplicit:
    def test_a_transition_and_its_end(self):
        unit = two()
        assert unit.begin([1]) == (GateChanged(),)
        assert unit.state(1) == unit.state(2) == "transitioning"
        assert unit.become({1: AccessState.STANDBY}) == (GateChanged(), Attend(CHANGED))
        assert rtpg(unit)[4] == 0x82 and rtpg(unit)[4 + 5] == 2

    def test_nothing_new_is_nothing(self):
        unit = two()
        generation = unit.access.generation
        assert unit.become({1: AccessState.ACTIVE_OPTIMIZED}) == ()
        assert unit.begin([9]) == ()
        assert unit.access.generation == generation

    def test_new_ports_keep_the_groups_state(self):
        unit = two()
        unit.become({1: AccessState.STANDBY})
        groups = (PortGroup(1, (1, 2, 7)), PortGroup(5, (9,)))
        effects = unit.configure(Access(groups, explicit=True))
        assert effects == (GateChanged(),), "no port has another state than it had"
        assert unit.state(7) == "standby" and unit.state(9) == "active_optimized"
        assert unit.configure(Access(groups, explicit=True)) == ()

    def test_a_port_that_moves_to_a_group_in_another_state(self):
        unit = two()
        first, second = unit.access.groups
        moved = PortGroup(first.number, first.ports[:1]), PortGroup(7, first.ports[1:], STANDBY)
        effects = unit.configure(Access((*moved, second), explicit=True))
        assert effects == (GateChanged(), Attend(CHANGED))


class TestConfigured:
    """What the operator says of states, and of who else has a say."""

    @staticmethod
    def access(state: AccessState = AccessState.ACTIVE_OPTIMIZED, explicit: bool = True) -> Access:
        return Access((PortGroup(1, (1,), state), PortGroup(2, (2,))), explicit=explicit)

    def test_a_state_that_is_another_now(self):
        unit = TargetPortGroups(self.access())
        assert unit.configure(self.access(AccessState.STANDBY)) == (GateChanged(), Attend(CHANGED))
        assert states(unit) == {1: STANDBY, 2: AO}
        assert [int(group.status) for group in unit.access.groups] == [2, 0]
        assert unit.configure(self.access(AccessState.STANDBY)) == ()

    def test_who_spoke_last_has_the_last_word(self):
        unit = TargetPortGroups(self.access())
        unit.configure(self.access(AccessState.STANDBY))
        stpg(unit, (AN, 1), (UNAVAILABLE, 2))
        assert unit.configure(self.access(AccessState.STANDBY)) == ()
        assert states(unit) == {1: AN, 2: UNAVAILABLE}
        kept, *_ = unit.configure(self.access(AccessState.OFFLINE))
        assert states(unit) == {1: OFFLINE, 2: UNAVAILABLE}
        again = TargetPortGroups(self.access(AccessState.OFFLINE))
        again.restore(kept.record)
        assert states(again) == {1: OFFLINE, 2: UNAVAILABLE}

    def test_who_has_a_say_is_told_also_where_no_state_changes(self):
        unit = TargetPortGroups(self.access())
        told = Attend(CHANGED | Attention.INQUIRY_DATA_HAS_CHANGED)
        assert unit.configure(self.access(explicit=False)) == (GateChanged(), told)
        assert states(unit) == {1: AO, 2: AO}

    def test_what_initiators_asked_for_while_they_have_a_say(self):
        unit = TargetPortGroups(self.access())
        stpg(unit, (STANDBY, 2))
        told = Attend(CHANGED | Attention.INQUIRY_DATA_HAS_CHANGED)
        assert unit.configure(self.access(explicit=False)) == (GateChanged(), told)
        assert states(unit) == {1: AO, 2: AO} and unit.tpgs == 1
        assert unit.configure(self.access()) == (GateChanged(), told)
        assert states(unit) == {1: AO, 2: STANDBY} and unit.tpgs == 3


@pytest.mark.parametrize(
    "groups",
    [
        (PortGroup(1, (1,)), PortGroup(1, (2,))),
        (PortGroup(1, (1,)), PortGroup(2, (1,))),
    ],
)
def test_a_port_is_in_one_group(groups):
    with pytest.raises(ValueError, match="one target port group"):
        Access(groups)


@pytest.mark.parametrize("group", [(70000, (1,)), (1, (0,)), (1, tuple(range(1, 258)))])
def test_impossible_groups(group):
    with pytest.raises(ValueError, match="impossible"):
        PortGroup(*group)


def test_a_group_supports_its_state():
    with pytest.raises(ValueError, match="support"):
        PortGroup(1, (1,), AccessState.STANDBY, supported=frozenset({AccessState.OFFLINE}))
