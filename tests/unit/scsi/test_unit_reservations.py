"""Reservations, port groups and resets through the whole unit: what is answered in bytes, what the
gate says then."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from blockgate.model.units import UnitIdentity
from blockgate.scsi import AbortNexus, Attend, Attention, Command, GateChanged, Situation
from blockgate.scsi.alua import Access, AccessState, PortGroup, TargetPortGroups
from blockgate.scsi.attentions import Event, attend
from blockgate.scsi.facts import Facts
from blockgate.scsi.nexus import Nexus, Port
from blockgate.scsi.reservations import Reservations
from blockgate.scsi.task_management import AttendUnit, Management, ResetUnit, UnitView, plan
from blockgate.scsi.unit import LogicalUnit
from tests.unit.scsi.reservations.lab import (
    APTPL,
    IGNORE,
    PORTS,
    PREEMPT_AND_ABORT,
    RESERVE,
    WE,
    A,
    B,
    nexus,
    out_cdb,
)

CHECK_CONDITION, RESERVATION_CONFLICT = 0x02, 0x18
PREVENT = bytes.fromhex("1e0000000100")
EJECT = bytes.fromhex("1b0000000600")
RESERVE6, RELEASE6 = bytes.fromhex("160000000000"), bytes.fromhex("170000000000")
MODE_SENSE6 = bytes.fromhex("1a003f00ff00")
LUN_RESET, WARM_RESET = 5, 6


def made(*, removable: bool = False, explicit: bool = False) -> LogicalUnit:
    identity = UnitIdentity(
        uuid="653e4072-8aad-4e9d-900e-4059f0e19e7e",
        vendor="BLKGATE",
        product="volume",
        revision="0001",
        serial="",
        wwn="",
        removable=removable,
    )
    groups = Access((PortGroup(1, (1,)), PortGroup(2, (2,))), explicit=explicit)
    unit = LogicalUnit(Facts(identity, 2048), Reservations(), TargetPortGroups(groups))
    unit.set_ports(Port(relative, name, relative) for relative, name in PORTS.items())
    for one in (A, B):
        unit.attach(one)
    return unit


def run(unit: LogicalUnit, who: Nexus, cdb: bytes, data: bytes = b""):
    return unit.execute(who, Command(cdb, data))


def out(unit: LogicalUnit, who: Nexus, action: int, key=0, action_key=0, kind=0, flags=0):
    data = struct.pack(">QQ4xB3x", key, action_key, flags)
    return run(unit, who, out_cdb(action, kind, len(data)), data)


def set_tas(unit: LogicalUnit, who: Nexus):
    """The control mode page as it is, with TAS (SPC-4 7.5.8: byte 5, bit 6)."""
    page = bytearray(run(unit, who, bytes.fromhex("1a080a00ff00")).reply.data[4:])
    page[0] &= 0x3F
    page[5] |= 0x40
    select = bytes((0x15, 0x10, 0, 0, 4 + len(page), 0))
    return run(unit, who, select, bytes(4) + bytes(page))


def registered(**more) -> LogicalUnit:
    unit = made(**more)
    out(unit, A, IGNORE, 0, 1)
    out(unit, B, IGNORE, 0, 2)
    return unit


def test_a_reservation_is_in_the_gate():
    unit = registered()
    reaction = out(unit, A, RESERVE, 1, kind=WE)
    assert reaction.effects == (GateChanged(),) and reaction.reply.status == 0
    gate = unit.gate()
    assert gate.default_access is Situation.WRITE_EXCLUSIVE_OTHER
    assert dict(gate.access) == {A.number: Situation.FREE}


def test_a_conflict_has_a_status_and_no_sense():
    unit = registered()
    reply = out(unit, A, RESERVE, 9, kind=WE).reply
    assert (reply.status, reply.sense, reply.data) == (RESERVATION_CONFLICT, b"", b"")


def test_a_wrong_field_is_pointed_at():
    unit = registered()
    reply = out(unit, A, RESERVE, 1, kind=2).reply
    # fixed format: 70, ILLEGAL REQUEST, 24/00, SKSV C/D BPV bit 3, byte 2
    assert reply.status == CHECK_CONDITION
    assert reply.sense == bytes.fromhex("70 00 05 00000000 0a 00000000 24 00 00 cb 0002")


def test_what_the_gate_let_through_is_judged_again():
    """A command that waited while another one reserved."""
    unit = registered()
    run(unit, A, MODE_SENSE6)
    out(unit, A, RESERVE, 1, kind=3)
    assert run(unit, B, MODE_SENSE6).reply.status == RESERVATION_CONFLICT


def test_preempt_and_abort_ends_what_was_prevented():
    unit = registered(removable=True)
    run(unit, A, PREVENT)
    run(unit, nexus(3), PREVENT)
    assert run(unit, B, EJECT).reply.status == CHECK_CONDITION
    reaction = out(unit, B, PREEMPT_AND_ABORT, 2, 1, kind=WE)
    assert AbortNexus(frozenset({A.number})) in reaction.effects
    assert unit.medium.prevented_by == {nexus(3).number}


def test_tas_makes_the_aborted_commands_end_with_a_status():
    unit = registered()
    assert set_tas(unit, B).reply.status == 0
    reaction = out(unit, B, PREEMPT_AND_ABORT, 2, 1, kind=WE)
    assert AbortNexus(frozenset({A.number}), 0x40) in reaction.effects


def test_scsi_2_reservations_and_sessions():
    unit = made()
    assert run(unit, A, RESERVE6).effects == (GateChanged(),)
    assert run(unit, B, RESERVE6).reply.status == RESERVATION_CONFLICT
    assert run(unit, B, MODE_SENSE6).reply.status == RESERVATION_CONFLICT
    assert run(unit, B, RELEASE6).reply.status == 0
    assert run(unit, A, MODE_SENSE6).reply.status == 0
    assert GateChanged() in unit.detach(A)
    assert run(unit, B, RESERVE6).reply.status == 0


def test_a_holder_that_comes_again_is_in_the_gate_again():
    unit = registered()
    out(unit, A, RESERVE, 1, kind=WE)
    unit.detach(A)
    assert dict(unit.gate().access) == {}
    again = replace(A, number=A.number + 4096)
    effects = unit.attach(again)
    assert GateChanged() in effects
    assert Attend(Attention.NEXUS_LOSS, frozenset({again.number})) in effects
    assert dict(unit.gate().access) == {again.number: Situation.FREE}


def test_a_lun_reset_as_planned():
    unit = registered(removable=True)
    unit.execute(A, Command(PREVENT))
    out(unit, A, RESERVE, 1, kind=WE, flags=APTPL)
    steps = plan(Management(LUN_RESET, B.number, 7), {7: UnitView(frozenset({A.number, B.number}))})
    assert steps.steps[:2] == (
        ResetUnit(7),
        AttendUnit(7, Attend(Attention.LOGICAL_UNIT_RESET)),
    )
    unit.reset()
    assert run(unit, A, EJECT).reply.status == 0, "nothing is prevented any more"
    assert unit.gate().default_access is Situation.WRITE_EXCLUSIVE_OTHER, "SPC-4 5.12.1"


@pytest.mark.parametrize("function", [LUN_RESET, WARM_RESET])
def test_a_reset_ends_a_scsi_2_reservation(function):
    unit = made()
    run(unit, A, RESERVE6)
    assert ResetUnit(7) in plan(Management(function, B.number, 7), {7: UnitView(frozenset())}).steps
    assert GateChanged() in unit.reset()
    assert run(unit, B, RESERVE6).reply.status == 0


class TestPortGroups:
    STPG = bytes.fromhex("a40a00000000 00000008 0000")

    def test_each_port_has_its_word_in_the_gate(self):
        unit = made()
        unit.port_groups.become({2: AccessState.STANDBY})
        ports = unit.gate().ports
        assert (ports[1].alua, ports[2].alua) == ("active_optimized", "standby")

    def test_set_by_an_initiator(self):
        unit = made(explicit=True)
        reaction = run(unit, A, self.STPG, bytes.fromhex("00000000 02000002"))
        changed = Attention.ASYMMETRIC_ACCESS_STATE_CHANGED
        kept, *effects = reaction.effects
        assert effects == [GateChanged(), Attend(changed, None, frozenset({A.number}))]
        assert unit.gate().ports[2].alua == "standby"
        restarted = made(explicit=True)
        restarted.restore({kept.part: kept.record})
        assert restarted.gate().ports[2].alua == "standby"
        unit.not_done(reaction.effects)
        assert unit.gate().ports[2].alua == "active_optimized"

    def test_not_had_where_the_gateway_decides(self):
        reply = run(made(), A, self.STPG, bytes.fromhex("00000000 02000002")).reply
        assert reply.status == CHECK_CONDITION

    def test_the_report_is_ready_in_the_gate_in_both_formats(self):
        unit = made()
        gate = unit.gate()
        for form in (0x0A, 0x2A):
            key = bytes((0xA3, form, *bytes(10)))
            ready = gate.canned.get(key) or gate.ports[1].canned[key]
            assert ready == unit.port_groups.report(key)


def test_who_is_told_of_mode_parameters_has_one_source():
    unit = made()
    reaction = set_tas(unit, B)
    assert attend(Event.MODE_PARAMETERS_CHANGED, by=B.number) in reaction.effects
