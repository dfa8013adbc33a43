"""Which function executes which command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from blockgate.scsi import diagnostics, medium, mode_select, sanitize
from blockgate.scsi.answers import ANSWERS
from blockgate.scsi.attentions import Event, attend
from blockgate.scsi.gate import Situation
from blockgate.scsi.nexus import Nexus, Port
from blockgate.scsi.opcodes import CommandRow
from blockgate.scsi.reactions import (
    GOOD,
    AbortNexus,
    Command,
    Effect,
    FlushJob,
    GateChanged,
    Part,
    Persist,
    Reaction,
    Reply,
)
from blockgate.scsi.reservations.parameters import concerns_others
from blockgate.scsi.sense import CheckCondition, Key, Sense, invalid_opcode

if TYPE_CHECKING:
    from blockgate.scsi.unit import LogicalUnit

Handler = Callable[["LogicalUnit", Nexus, Command], Reaction]
"""Raises CheckCondition or ReservationConflict; gives Data-In as a whole, not cut to its length."""


def execute(unit: LogicalUnit, nexus: Nexus, command: Command, row: CommandRow) -> Reaction:
    """Executes a command that nothing of the unit's state stands against."""
    code = (row.opcode, row.service_action)
    answer = ANSWERS.get(code)
    if answer is not None:
        port = Port(nexus.port, nexus.name.target_port, nexus.name.relative_port)
        return Reaction(Reply(data=answer(unit, command.cdb, port, command.read_only)))
    handler = _HANDLERS.get(code) or _BY_OPCODE.get(row.opcode)
    if handler is None:
        # A command that only the engine executes, or that a transport answers (REPORT LUNS).
        raise invalid_opcode()
    return handler(unit, nexus, command)


def governs(row: CommandRow, command: Command) -> bool:
    """Whether a command decides for every nexus how, or if at all, the unit can be used. That is
    not for one that may only read: it would stop, eject, write-protect or reserve what others write
    to. What is its own it keeps: it starts, it registers itself and takes that back, it releases.
    """
    if row.opcode == _PERSISTENT_RESERVE_OUT:
        return concerns_others(command.cdb, command.data)
    code = (row.opcode, row.service_action)
    return code in _GOVERNING and row.conflicts_in(Situation.WRITE_EXCLUSIVE_OTHER, command.cdb)


def _request_sense(unit: LogicalUnit, _nexus: Nexus, command: Command) -> Reaction:
    """REQUEST SENSE (SPC-4 6.39): pollable sense, in the format that DESC asks for. A pending
    unit attention has been returned by the engine."""
    sense = unit.not_ready or Sense(Key.NO_SENSE)
    return Reaction(Reply(data=sense.encode(descriptor=bool(command.cdb[1] & 0x01))))


def _mode_select(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    """MODE SELECT: the other nexuses are told when a value has changed (SPC-4 6.11)."""
    pages = mode_select.decode(unit.facts, unit.pages, command.cdb, command.data)
    save = mode_select.saves(command.cdb)
    changed = unit.pages.take(pages, save=save)
    effects: list[Effect] = []
    if pages and save:
        effects.append(Persist(Part.MODE_PAGES, unit.pages.record()))
    if changed:
        effects.append(GateChanged())
        effects.append(attend(Event.MODE_PARAMETERS_CHANGED, by=nexus.number))
    return Reaction(GOOD, tuple(effects))


def _start_stop(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    """START STOP UNIT: a medium that was loaded is news for every other nexus (SPC-4 5.6). What
    goes out of use takes no more writes first, and then has its cache written back."""
    had_medium = unit.medium.present
    if not unit.medium.start_stop(command.cdb):
        return Reaction(GOOD)
    effects: list[Effect] = [GateChanged()]
    if unit.medium.present and not had_medium:
        effects.append(attend(Event.MEDIUM_CHANGED, by=nexus.number))
    out_of_use = unit.medium.not_ready is not None
    if not (out_of_use and unit.facts.write_back and medium.flushes(command.cdb)):
        return Reaction(GOOD, tuple(effects))

    def flushed(error: int, _done: int) -> Reaction:
        if not error:
            return Reaction(GOOD)
        unit.medium.take_back()
        return Reaction(unit.refusal(medium.WRITE_ERROR), (GateChanged(),))

    effects.append(unit.start(FlushJob(), flushed))
    return Reaction(GOOD if medium.is_immediate(command.cdb) else None, tuple(effects))


def _prevent_allow(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    unit.medium.prevent_allow(nexus, command.cdb)
    return Reaction(GOOD)


def _send_diagnostic(_unit: LogicalUnit, _nexus: Nexus, command: Command) -> Reaction:
    diagnostics.send_diagnostic(command.cdb)
    return Reaction(GOOD)


def _log_sense(unit: LogicalUnit, _nexus: Nexus, command: Command) -> Reaction:
    return Reaction(Reply(data=diagnostics.log_sense(unit.facts, unit.pool, command.cdb)))


def _sanitize(unit: LogicalUnit, _nexus: Nexus, command: Command) -> Reaction:
    action = command.cdb[1] & 0x1F
    if action != sanitize.EXIT_FAILURE_MODE and unit.medium.not_ready is not None:
        raise CheckCondition(unit.medium.not_ready)
    return unit.sanitizer.execute(command)


def _extended_copy(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    return unit.copies.extended_copy(nexus, command)


def _receive_copy_results(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    return Reaction(Reply(data=unit.copies.receive_copy_results(nexus, command.cdb)))


def _persistent_reserve_in(unit: LogicalUnit, _nexus: Nexus, command: Command) -> Reaction:
    return unit.reservations.persistent_reserve_in(command.cdb)


def _persistent_reserve_out(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    """PREEMPT AND ABORT also ends what the preempted nexuses have prevented (SPC-4 5.12.11.2.6)."""
    ports = {port.relative: port.name for port in unit.ports}
    reaction = unit.reservations.persistent_reserve_out(
        nexus, command.cdb, command.data, ports=ports, tas=unit.pages.tas
    )
    for effect in reaction.effects:
        if isinstance(effect, AbortNexus):
            unit.medium.prevented_by -= effect.nexuses
    return reaction


def _reserve(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    return unit.reservations.reserve(nexus, command.cdb)


def _release(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    return unit.reservations.release(nexus, command.cdb)


def _set_target_port_groups(unit: LogicalUnit, nexus: Nexus, command: Command) -> Reaction:
    return unit.port_groups.set(nexus, command.cdb, command.data)


_HANDLERS: Final[Mapping[tuple[int, int | None], Handler]] = MappingProxyType(
    {
        (0x03, None): _request_sense,
        (0x15, None): _mode_select,
        (0x16, None): _reserve,
        (0x17, None): _release,
        (0x1B, None): _start_stop,
        (0x1D, None): _send_diagnostic,
        (0x1E, None): _prevent_allow,
        (0x4D, None): _log_sense,
        (0x55, None): _mode_select,
        (0x56, None): _reserve,
        (0x57, None): _release,
        (0x83, 0x00): _extended_copy,
        (0xA4, 0x0A): _set_target_port_groups,
    }
)
_PERSISTENT_RESERVE_OUT: Final = 0x5F
_GOVERNING: Final = frozenset(
    {
        *((0x15, None), (0x55, None)),  # MODE SELECT
        *((0x16, None), (0x56, None)),  # RESERVE
        (0x1B, None),  # START STOP UNIT
        (0x48, 0x1F),  # SANITIZE, EXIT FAILURE MODE; its other service actions write
        (0xA4, 0x0A),  # SET TARGET PORT GROUPS
    }
)
# Commands all of whose service actions go to one function
_BY_OPCODE: Final[Mapping[int, Handler]] = MappingProxyType(
    {
        0x48: _sanitize,
        0x5E: _persistent_reserve_in,
        0x5F: _persistent_reserve_out,
        0x84: _receive_copy_results,
    }
)
