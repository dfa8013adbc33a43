"""Both languages go by one table: whatever command comes, the engine says of it what Python says.

NACA is set in every CDB, which no unit here supports: so a command that is known is refused for
that bit, by the engine as well as by Python, and nothing is ever done.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final

import pytest

from blockgate.scsi import Command, LogicalUnit
from blockgate.scsi.alua import TargetPortGroups
from blockgate.scsi.opcodes import table
from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios.cdbs import GOOD
from tests.lab.processes import Gateway, add_target
from tests.unit.scsi.golden import make_unit, nexus

NACA: Final = 0x04
# GROUP CODE, the opcode's upper three bits, says where the control byte is (SPC-4 4.2.5.1).
CONTROL: Final = (5, 9, 9, 15, 15, 11, 15, 15)


def every_command() -> Iterator[bytes]:
    """A CDB for each opcode, and for each service action where the opcode has some."""
    for opcode in range(256):
        rows = table().by_opcode.get(opcode, ())
        has_actions = any(row.service_action is not None for row in rows)
        for action in range(32) if has_actions else (0,):
            cdb = bytearray(16)
            cdb[0], cdb[1], cdb[CONTROL[opcode >> 5]] = opcode, action, NACA
            yield bytes(cdb)


def python_unit(*, thin: bool, alua: str) -> LogicalUnit:
    """The unit as Python knows it: what it knows goes by provisioning and by who sets states."""
    unit = make_unit(thin="yes" if thin else "no")
    access = unit.port_groups.access
    explicit, implicit = alua in ("explicit", "both"), alua in ("implicit", "both")
    unit.port_groups = TargetPortGroups(replace(access, implicit=implicit, explicit=explicit))
    return unit


@pytest.mark.parametrize("alua", ["none", "implicit", "explicit"])
@pytest.mark.parametrize("provisioning", ["thin", "full"])
def test_engine_and_python_know_the_same_commands(
    iscsi: Gateway, provisioning: str, alua: str
) -> None:
    target = add_target(
        iscsi, volume={"scsi": {"provisioning": provisioning}}, parameters={"alua": alua}
    )
    unit = python_unit(thin=provisioning == "thin", alua=alua)
    with closing(Session(target.address, target.name).login()) as session:
        session.clear_attentions()
        assert known_by_both(session, unit) == len(unit.commands)


def known_by_both(session: Session, unit: LogicalUnit) -> int:
    """How many commands are known; of each the session's unit says what Python's says."""
    known = 0
    for cdb in every_command():
        reply = unit.execute(nexus("A"), Command(cdb, b"")).reply
        assert reply is not None
        answer = session.command(cdb)
        assert (answer.status, answer.sense) == (reply.status, reply.sense), cdb.hex(" ")
        # INVALID FIELD IN CDB that points to NACA, bit 2 of the control byte (SPC-4 4.5.2.4.2)
        at_naca = bytes((0xCA, 0, CONTROL[cdb[0] >> 5]))
        known += answer.sense_code == (5, 0x24, 0) and answer.sense[15:18] == at_naca
    return known


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        ("16 00 00 00 00 00", b""),  # RESERVE
        ("17 00 00 00 00 00", b""),  # RELEASE
        ("56 00 00 00 00 00 00 00 00 00", b""),
        ("57 00 00 00 00 00 00 00 00 00", b""),
        ("41 00 00000000 00 0001 00", bytes(512)),  # WRITE SAME
        ("93 00 0000000000000000 00000001 00 00", bytes(512)),
        ("9e 12 0000000000000000 00000018 00 00", b""),  # GET LBA STATUS
    ],
)
def test_bits_that_are_not_in_the_usage_data_are_not_looked_at(
    connect: Callable[..., Session], cdb: str, data: bytes
) -> None:
    """CDB usage data has a bit for whatever is evaluated (SPC-4 6.35.3), so for what is refused."""
    session, plain = connect(), bytes.fromhex(cdb)
    read = 24 if plain[0] == 0x9E else 0
    usage = bytearray(usage_data(session, plain))
    assert len(usage) == len(plain)
    usage[0] = 0xFF  # the opcode itself
    if read:
        usage[1] |= 0x1F  # SERVICE ACTION
    for index, mask in enumerate(usage):
        for bit in range(8):
            if mask >> bit & 1:
                continue
            asked = bytearray(plain)
            asked[index] ^= 1 << bit
            answer = session.command(bytes(asked), write=data, read=read)
            assert answer.status == GOOD, (index, bit, answer.sense_code)


def usage_data(session: Session, cdb: bytes) -> bytes:
    """What REPORT SUPPORTED OPERATION CODES says of a CDB's command (REPORTING OPTIONS 011b)."""
    action = cdb[1] & 0x1F if cdb[0] == 0x9E else 0
    ask = struct.pack(">BBBBHIBB", 0xA3, 0x0C, 3, cdb[0], action, 255, 0, 0)
    return session.command(ask, read=255).data[4:]
