"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from enum import IntEnum
from typing import Final

from blockgate.scsi.opcodes import CommandRow, Table
from blockgate.scsi.sense import invalid_cdb

_RCTD: Final = 0x80
_REPD: Final = 0x80
_SERVACTV: Final = 0x01
_CTDP_ALL: Final = 0x02  # in a descriptor of all commands
_CTDP_ONE: Final = 0x80  # in the data of one command
# A command timeouts descriptor that indicates nothing (SPC-4 6.35.4): the times are the back end's.
_TIMEOUTS: Final = b"\x00\x0a" + bytes(10)

# Aborting of tasks and task sets, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET (which RFC 7143
# 11.5.1 has as warm and cold reset)
_TMFS: Final = 0x80 | 0x40 | 0x10 | 0x08 | 0x02


class Options(IntEnum):
    """REPORTING OPTIONS (SPC-4 table 281)."""

    ALL = 0
    OPCODE = 1
    SERVICE_ACTION = 2
    EITHER = 3


class Support(IntEnum):
    """SUPPORT (SPC-4 table 287)."""

    NOT_SUPPORTED = 1
    SUPPORTED = 3


def known(table: Table, needs_met: Collection[str | None]) -> tuple[CommandRow, ...]:
    """The commands of a unit: those with a need only where the unit has what they need."""
    return tuple(row for row in table.commands if row.needs in needs_met)


def operation_codes(rows: Iterable[CommandRow], cdb: bytes) -> bytes:
    """The whole parameter data. Raises CheckCondition where the options do not fit the opcode."""
    rows = tuple(rows)
    timeouts = bool(cdb[2] & _RCTD)
    try:
        options = Options(cdb[2] & 0x07)
    except ValueError:
        raise invalid_cdb(2, 2) from None
    if options is Options.ALL:
        body = b"".join(_descriptors(rows, timeouts))
        return len(body).to_bytes(4, "big") + body
    return _one_command(_chosen(rows, options, cdb), timeouts)


def _descriptors(rows: Iterable[CommandRow], timeouts: bool) -> Iterator[bytes]:
    for row in rows:
        action = row.service_action
        flags = _SERVACTV if action is not None else 0
        flags |= _CTDP_ALL if timeouts else 0
        yield struct.pack(">BxHxBH", row.opcode, action or 0, flags, row.cdb_length)
        if timeouts:
            yield _TIMEOUTS


def _chosen(rows: Iterable[CommandRow], options: Options, cdb: bytes) -> CommandRow | None:
    """The row that is asked for; None if there is none. Whether the opcode has service actions
    must be as the option says."""
    action = int.from_bytes(cdb[4:6], "big")
    of_opcode = [row for row in rows if row.opcode == cdb[3]]
    has_actions = any(row.service_action is not None for row in of_opcode)
    if of_opcode and options is Options.OPCODE and has_actions:
        raise invalid_cdb(2, 2)
    if of_opcode and options is Options.SERVICE_ACTION and not has_actions:
        raise invalid_cdb(2, 2)
    if options is Options.OPCODE:
        return of_opcode[0] if of_opcode else None
    return next((row for row in of_opcode if (row.service_action or 0) == action), None)


def _one_command(row: CommandRow | None, timeouts: bool) -> bytes:
    if row is None:
        return struct.pack(">xBH", Support.NOT_SUPPORTED, 0)
    flags = Support.SUPPORTED | (_CTDP_ONE if timeouts else 0)
    head = struct.pack(">xBH", flags, row.cdb_length)
    return head + row.usage + (_TIMEOUTS if timeouts else b"")


def task_management_functions(cdb: bytes) -> bytes:
    """The whole parameter data; the extended one says nothing of timeouts. Raises CheckCondition
    for an allocation length below four."""
    if int.from_bytes(cdb[6:10], "big") < 4:
        raise invalid_cdb(6)
    if cdb[2] & _REPD:
        return bytes((_TMFS, 0, 0, 12)) + bytes(12)
    return bytes((_TMFS, 0, 0, 0))
