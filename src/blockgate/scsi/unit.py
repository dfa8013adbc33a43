"""A logical unit: all that SCSI has of one volume, however often it is mapped.

:meth:`LogicalUnit.execute` is what commands come in by, :meth:`LogicalUnit.gate` what the engine
answers and refuses without asking. The methods between them say what happened outside (a session
began or ended, the volume grew, a job ended); each gives the effects that follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count
from typing import Final

from blockgate.scsi import answers, families, report_opcodes
from blockgate.scsi.alua import TargetPortGroups
from blockgate.scsi.attention_table import Attention
from blockgate.scsi.attentions import Event, attend, new_nexus
from blockgate.scsi.copy_manager import CopyManager, Neighbours
from blockgate.scsi.diagnostics import PoolUsage
from blockgate.scsi.facts import Facts
from blockgate.scsi.gate import GateParts, PortParts
from blockgate.scsi.medium import Medium
from blockgate.scsi.mode_pages import ModePages
from blockgate.scsi.nexus import Nexus, NexusName, Port
from blockgate.scsi.opcodes import CommandRow, table
from blockgate.scsi.reactions import (
    Attend,
    Command,
    Effect,
    GateChanged,
    Job,
    Part,
    Persist,
    Reaction,
    Reply,
    StartJob,
)
from blockgate.scsi.reservations import Reservations
from blockgate.scsi.sanitizer import Sanitizer
from blockgate.scsi.sense import (
    CheckCondition,
    Key,
    ReservationConflict,
    Sense,
    invalid_cdb,
)
from blockgate.scsi.status import Status

WRITE_PROTECTED: Final = Sense(Key.DATA_PROTECT, 0x27, 0x00)
SOFTWARE_WRITE_PROTECTED: Final = Sense(Key.DATA_PROTECT, 0x27, 0x02)

# Nexuses whose name is remembered, so that they learn of a lost nexus when they come again
NAMES_REMEMBERED: Final = 4096

_NACA: Final = 0x04

JobEnd = Callable[[int, int], Reaction]
"""What follows when a job has ended: by its errno (0: none) and the bytes that are done."""


class LogicalUnit:
    """One logical unit. ``neighbours`` tells EXTENDED COPY what a session reaches."""

    def __init__(
        self,
        facts: Facts,
        reservations: Reservations,
        port_groups: TargetPortGroups,
        neighbours: Neighbours = lambda _nexus: (),
    ) -> None:
        self.facts: Facts = facts
        self.reservations: Reservations = reservations
        self.port_groups: TargetPortGroups = port_groups
        self.pages = ModePages(facts)
        self.medium = Medium(facts.identity.removable)
        self.copies = CopyManager(self, neighbours)
        self.sanitizer = Sanitizer(lambda: self.facts, self.start, self.refusal)
        self.ports: tuple[Port, ...] = ()
        self.pool: PoolUsage | None = None
        self.pool_is_low = False
        self._read_only_of: dict[int, bool] = {}
        self._names: set[NexusName] = set()
        self._keys = count(1)
        self._jobs: dict[int, JobEnd] = {}

    # Commands.

    def execute(self, nexus: Nexus, command: Command) -> Reaction:
        """What becomes of a command that the engine has handed up."""
        try:
            row = self._row(command.cdb)
            self._admit(row, nexus, command)
            reaction = families.execute(self, nexus, command, row)
        except CheckCondition as refused:
            return Reaction(self.refusal(refused.sense))
        except ReservationConflict:
            return Reaction(Reply(Status.RESERVATION_CONFLICT))
        return _cut(row, command.cdb, reaction)

    def refusal(self, sense: Sense) -> Reply:
        """CHECK CONDITION, with sense in the format that D_SENSE says."""
        data = sense.encode(descriptor=self.pages.descriptor_sense)
        return Reply(Status.CHECK_CONDITION, sense=data)

    @property
    def not_ready(self) -> Sense | None:
        """What commands that need the medium are answered; None: it can be used."""
        return self.sanitizer.sense or self.medium.not_ready

    @property
    def write_protected(self) -> bool:
        """For every nexus: the volume is, or SWP says so."""
        return self.facts.read_only or self.pages.software_write_protect

    @property
    def commands(self) -> tuple[CommandRow, ...]:
        """The commands that the unit knows."""
        return report_opcodes.known(table(), self._needs_met())

    @property
    def mapped_alike(self) -> bool:
        """Whether no session has the unit read-only that others may write."""
        return self.facts.read_only or not any(self._read_only_of.values())

    def _needs_met(self) -> set[str | None]:
        """The values of the column ``needs`` that this unit has."""
        met: set[str | None] = {None}
        if self.facts.thin:
            met.add("thin")
        if self.port_groups.access.explicit:
            met.add("explicit_alua")
        if self.port_groups.tpgs:
            met.add("alua")
        return met

    def _row(self, cdb: bytes) -> CommandRow:
        row = table().find(cdb, self._needs_met())
        if cdb[row.cdb_length - 1] & _NACA:
            raise invalid_cdb(row.cdb_length - 1, 2)  # NORMACA is zero (SAM-5 5.2)
        return row

    def _admit(self, row: CommandRow, nexus: Nexus, command: Command) -> None:
        """What stands against a command now. The engine has asked its gate; since then another
        command may have changed what that one said."""
        if row.conflicts_in(self.reservations.situation(nexus), command.cdb):
            raise ReservationConflict
        self.sanitizer.refuse_meanwhile(row.opcode, media=row.media)
        if row.media and self.medium.not_ready is not None:
            raise CheckCondition(self.medium.not_ready)
        writes = row.writes and (command.read_only or self.facts.read_only)
        if writes or (command.read_only and families.governs(row, command)):
            raise CheckCondition(WRITE_PROTECTED)
        if row.writes and self.pages.software_write_protect:
            raise CheckCondition(SOFTWARE_WRITE_PROTECTED)

    # The gate.

    def gate(self) -> GateParts:
        """What the unit adds to its volume's gate."""
        default, access = self.reservations.access()
        return GateParts(
            block_size=self.facts.block_size,
            limits=self.facts.limits,
            descriptor_sense=self.pages.descriptor_sense,
            software_write_protect=self.pages.software_write_protect,
            tas=self.pages.tas,
            qerr=self.pages.qerr,
            needs_met=frozenset(need for need in self._needs_met() if need is not None),
            not_ready=self.not_ready,
            access=access,
            default_access=default,
            canned=answers.ready_everywhere(self),
            ports={
                port.number: PortParts(
                    self.port_groups.state(port.relative), answers.ready_of_port(self, port)
                )
                for port in self.ports
            },
        )

    # Sessions.

    def set_ports(self, ports: Iterable[Port]) -> tuple[Effect, ...]:
        """The target ports by which the unit is reached now."""
        before, self.ports = self.ports, tuple(ports)
        return (GateChanged(),) if before != self.ports else ()

    def attach(self, nexus: Nexus, *, read_only: bool = False) -> tuple[Effect, ...]:
        """A session has begun. It finds a unit attention (SAM-5 5.14): of the lost nexus if it
        had been here before, else of the unit's own beginning; and of a pool that is low, of which
        it was not told with the others."""
        attention = new_nexus(returning=nexus.name in self._names)
        if self.facts.thin and self.pool_is_low:
            attention |= Attention.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED
        if len(self._names) < NAMES_REMEMBERED:
            self._names.add(nexus.name)
        return (
            *self.reservations.attach(nexus),
            *self.remap(nexus, read_only=read_only),
            Attend(attention, frozenset((nexus.number,))),
        )

    def remap(self, nexus: Nexus, *, read_only: bool) -> tuple[Effect, ...]:
        """A nexus may only read now, or may write again. Who maps it tells it so: MODE PARAMETERS
        CHANGED (SPC-4 5.7.1) must not come before what it speaks of."""
        alike = self.mapped_alike
        self._read_only_of[nexus.number] = read_only
        return (GateChanged(),) if alike != self.mapped_alike else ()

    def detach(self, nexus: Nexus) -> tuple[Effect, ...]:
        """A session has ended: what it prevented is allowed, its copies stop (SAM-5 6.3.4)."""
        alike = self.mapped_alike
        self._read_only_of.pop(nexus.number, None)
        self.medium.prevented_by.discard(nexus.number)
        effects = [*self.reservations.nexus_lost(nexus), *self.copies.detach(nexus)]
        if alike != self.mapped_alike:
            effects.append(GateChanged())
        return tuple(effects)

    def reset(self) -> tuple[Effect, ...]:
        """Logical unit reset (SAM-5 6.3.3), but for tasks and attentions, which are of whoever
        asked for it: mode pages are what was saved, a sanitize operation goes on."""
        effects = list(self.reservations.reset())
        if any((self.pages.reset(), self.medium.reset())):
            effects.append(GateChanged())
        return tuple(effects)

    # The volume.

    def set_facts(self, facts: Facts) -> tuple[Effect, ...]:
        """The volume is another one now: grown, read-only, renamed; every nexus is told."""
        before, self.facts = self.facts, facts
        if before == facts:
            return ()
        self.pages.become(facts)
        news = Attention(0)
        if self.medium.become(removable=facts.identity.removable):
            news |= Attention.MEDIUM_MAY_HAVE_CHANGED
        if before.blocks != facts.blocks:
            news |= Attention.CAPACITY_DATA_HAS_CHANGED
        if before.identity != facts.identity:
            news |= Attention.INQUIRY_DATA_HAS_CHANGED
        if (before.write_back, before.read_only) != (facts.write_back, facts.read_only):
            news |= Attention.MODE_PARAMETERS_CHANGED
        news |= _of_threshold(before, facts)
        return (GateChanged(), Attend(news)) if news else (GateChanged(),)

    def set_capacity(self, blocks: int) -> tuple[Effect, ...]:
        """The volume has another size (SBC-3 4.10: CAPACITY DATA HAS CHANGED)."""
        return self.set_facts(replace(self.facts, blocks=blocks))

    def set_pool_size(self, size: int) -> tuple[Effect, ...]:
        """How large the pool under a thin unit is, of which its threshold is a part. No ready
        answer in the gate tells of that."""
        before, self.facts = self.facts, replace(self.facts, pool_size=size)
        self.pages.become(self.facts)
        news = _of_threshold(before, self.facts)
        return (Attend(news),) if news else ()

    def set_pool(self, usage: PoolUsage | None, *, low: bool) -> tuple[Effect, ...]:
        """How full the pool under a thin unit is. Every nexus is told once when it becomes low
        (SBC-3 4.7.3.7)."""
        self.pool = usage
        return self._pool_low(low=low)

    def pool_is_full(self) -> tuple[Effect, ...]:
        """A write found no room: the pool is low, whatever the last look at it said."""
        return self._pool_low(low=True)

    def _pool_low(self, *, low: bool) -> tuple[Effect, ...]:
        was_low, self.pool_is_low = self.pool_is_low, low
        if self.facts.thin and low and not was_low:
            return (attend(Event.SOFT_THRESHOLD_REACHED),)
        return ()

    # What outlives a restart, and jobs.

    def restore(self, records: Mapping[Part, bytes]) -> tuple[Effect, ...]:
        """After a start, before there is a gate: saved mode pages, states of port groups, and a
        sanitize operation that goes on."""
        self.pages.restore(records.get(Part.MODE_PAGES, b""))
        self.port_groups.restore(records.get(Part.PORT_GROUPS, b""))
        self.sanitizer.restore(records.get(Part.SANITIZE, b""))
        return self.sanitizer.resume()

    def start(self, job: Job, ended: JobEnd) -> StartJob:
        """A job with a key of its own, and what is to happen when it has ended."""
        key = next(self._keys)
        self._jobs[key] = ended
        return StartJob(key, job)

    def job_done(self, key: int, error: int, done_bytes: int) -> Reaction:
        """A job has ended. A reply in the reaction is that of the command which started it."""
        ended = self._jobs.pop(key, None)
        return ended(error, done_bytes) if ended is not None else Reaction(None)

    def not_done(self, effects: Iterable[Effect]) -> tuple[Effect, ...]:
        """Effects of a reaction that could not be had: the first of them failed, the others were
        not tried, and the command was refused. What they stood for has not happened; the effects
        that come back make the rest of the world agree."""
        more: list[Effect] = []
        effects = tuple(effects)
        for effect in effects:
            if isinstance(effect, StartJob):
                self._jobs.pop(effect.key, None)
                self.copies.not_started(effect.key)
        match effects[0]:
            case Persist(part):
                self._take_back(part)
                # Made anew meanwhile for somebody else, it may say what has not happened.
                more.append(GateChanged())
            case _:
                for effect in effects:
                    if isinstance(effect, StartJob):
                        more += self.sanitizer.not_started(effect.key)
        return tuple(more)

    def _take_back(self, part: Part) -> None:
        match part:
            case Part.RESERVATIONS:
                self.reservations.take_back()
            case Part.MODE_PAGES:
                self.pages.take_back()
            case Part.PORT_GROUPS:
                self.port_groups.take_back()
            case Part.SANITIZE:
                self.sanitizer.not_kept()

    def task_aborted(self, key: int) -> tuple[Effect, ...]:
        """The command that started a job and waits for it was aborted. A copy ends with it, a
        sanitize operation does not (SBC-3 4.11.2)."""
        return self.copies.abort(key)

    def job_progress(self, key: int, done_bytes: int) -> tuple[Effect, ...]:
        """How far a job is."""
        return self.sanitizer.progress(key, done_bytes)


def _of_threshold(before: Facts, facts: Facts) -> Attention:
    """The Logical Block Provisioning mode page says something else, and no initiator has asked for
    that (SBC-3 6.4.7). That it is there from the first look at the pool on is no news."""
    changed = before.soft_threshold != facts.soft_threshold and before.pool_size
    return Attention.MODE_PARAMETERS_CHANGED if changed else Attention(0)


def _cut(row: CommandRow, cdb: bytes, reaction: Reaction) -> Reaction:
    """Data-In ends at the CDB's allocation length (SPC-4 4.2.5.6)."""
    reply = reaction.reply
    if reply is None or row.allocation is None:
        return reaction
    data = reply.data[: row.allocation_length(cdb)]
    return replace(reaction, reply=replace(reply, data=data))
