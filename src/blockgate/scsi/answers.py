"""Answers that depend on nothing but the unit, its state and the port: the ones that the gate has
ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from blockgate.scsi import (
    capacity,
    diagnostics,
    inquiry,
    mode_sense,
    report_opcodes,
    vpd,
)
from blockgate.scsi.nexus import Port
from blockgate.scsi.opcodes import table

if TYPE_CHECKING:
    from blockgate.scsi.unit import LogicalUnit

Answer = Callable[["LogicalUnit", bytes, Port, bool], bytes]
"""Unit, CDB, port, whether the nexus may only read; gives the whole data, or raises
CheckCondition."""


def _inquiry(unit: LogicalUnit, cdb: bytes, port: Port, _read_only: bool) -> bytes:
    groups = unit.port_groups
    group = groups.group(port.relative)
    return inquiry.answer(unit.facts, cdb, port, group, tpgs=groups.tpgs, ports=len(unit.ports))


def _mode_sense(unit: LogicalUnit, cdb: bytes, _port: Port, read_only: bool) -> bytes:
    protected = read_only or unit.write_protected
    return mode_sense.answer(unit.facts, unit.pages, cdb, write_protected=protected)


ANSWERS: Final[Mapping[tuple[int, int | None], Answer]] = MappingProxyType(
    {
        (0x00, None): lambda _unit, _cdb, _port, _read_only: b"",
        (0x12, None): _inquiry,
        (0x1A, None): _mode_sense,
        (0x5A, None): _mode_sense,
        (0x25, None): lambda unit, _cdb, _port, _ro: capacity.read_capacity_10(unit.facts),
        (0x9E, 0x10): lambda unit, _cdb, _port, _ro: capacity.read_capacity_16(unit.facts),
        (0x37, None): lambda _unit, cdb, _port, _ro: diagnostics.read_defect_data(cdb),
        (0xB7, None): lambda _unit, cdb, _port, _ro: diagnostics.read_defect_data(cdb),
        (0xA3, 0x0A): lambda unit, cdb, _port, _ro: unit.port_groups.report(cdb),
        (0xA3, 0x0C): lambda unit, cdb, _port, _ro: report_opcodes.operation_codes(
            unit.commands, cdb
        ),
        (0xA3, 0x0D): lambda _u, cdb, _p, _ro: report_opcodes.task_management_functions(cdb),
    }
)


def ready_everywhere(unit: LogicalUnit) -> dict[bytes, bytes]:
    """Ready answers of every port, by CDB key. What needs the medium is left to be asked while
    there is none, and so is everything while the unit is being sanitized."""
    if unit.sanitizer.running:
        return {}
    # Any port will do: none of these looks at it.
    return dict(_made(unit, _cdbs(unit), Port(0, "", 0)))


def ready_of_port(unit: LogicalUnit, port: Port) -> dict[bytes, bytes]:
    """Ready answers of one port: INQUIRY, whose pages name the port."""
    return dict(_made(unit, _inquiries(), port))


def _made(unit: LogicalUnit, cdbs: Iterator[bytes], port: Port) -> Iterator[tuple[bytes, bytes]]:
    for cdb in cdbs:
        row = table().find(cdb)
        if row.media and unit.not_ready is not None:
            continue
        yield row.key(cdb), ANSWERS[row.opcode, row.service_action](unit, cdb, port, False)


def _inquiries() -> Iterator[bytes]:
    yield bytes.fromhex("120000000000")
    for page in vpd.PAGES:
        yield bytes((0x12, 0x01, page, 0, 0, 0))


def _cdbs(unit: LogicalUnit) -> Iterator[bytes]:
    yield bytes(6)  # TEST UNIT READY
    yield bytes.fromhex("25000000000000000000")
    yield bytes.fromhex("9e10" + "00" * 14)
    for options in (0x00, 0x80):  # all commands, with and without timeouts
        yield bytes((0xA3, 0x0C, options, *bytes(9)))
    if unit.port_groups.tpgs:
        for formats in (0x0A, 0x2A):  # both forms of REPORT TARGET PORT GROUPS
            yield bytes((0xA3, formats, *bytes(10)))
    if unit.mapped_alike:
        # WP tells a nexus that may only read; with both sorts there is no one answer.
        yield from mode_sense.useful_cdbs(unit.pages)
