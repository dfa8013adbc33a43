"""EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4 6.5, 6.22-6.25): segments one after another.

The copy manager reaches the units that the session which asks has mapped, with that session's
rights: a copy can do nothing that its nexus could not do by reading and writing.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from blockgate.scsi import copy_limits, copy_parameters, designators
from blockgate.scsi.copy_parameters import CopyList, Cscd, ListIdUsage, Segment
from blockgate.scsi.gate import Situation
from blockgate.scsi.nexus import Nexus
from blockgate.scsi.reactions import (
    GOOD,
    CancelJob,
    Command,
    CopyJob,
    Effect,
    Reaction,
    Reply,
)
from blockgate.scsi.sense import CheckCondition, Key, SegmentPointer, Sense, invalid_cdb

if TYPE_CHECKING:
    from blockgate.scsi.unit import LogicalUnit

OPERATION_IN_PROGRESS: Final = Sense(Key.ILLEGAL_REQUEST, 0x00, 0x16)
UNREACHABLE_COPY_TARGET: Final = Sense(Key.COPY_ABORTED, 0x08, 0x04)
THIRD_PARTY_DEVICE_FAILURE: Final = Sense(Key.COPY_ABORTED, 0x0D, 0x01)
WRITE_PROTECTED: Final = Sense(Key.COPY_ABORTED, 0x27, 0x00)
SPACE_ALLOCATION_FAILED: Final = Sense(Key.COPY_ABORTED, 0x27, 0x07)
INVALID_SEGMENT: Final = Sense(Key.COPY_ABORTED, 0x26, 0x00)
NO_INFORMATION: Final = Sense(Key.COPY_ABORTED)

# As of a WRITE that the engine answers itself: full, over its quota, longer than files may be.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_KIB_FROM: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A unit that a session has mapped, the one that was asked among them: its nexus as this unit
    names it, whose target port has an identifier at each unit, and whether it may only read it, as
    it is at this moment."""

    unit: LogicalUnit
    nexus: Nexus
    read_only: bool


Neighbours = Callable[[Nexus], Iterable[Neighbour]]
"""The units that the session of a nexus has mapped."""


class Status(IntEnum):
    """COPY MANAGER STATUS (SPC-4 table 236)."""

    IN_PROGRESS = 0
    COMPLETED = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Result:
    """How a copy stands, for RECEIVE COPY RESULTS."""

    status: Status = Status.IN_PROGRESS
    segments: int = 0
    transferred: int = 0
    sense: Sense | None = None


class CopyManager:
    """The copies that one unit was asked for: those that run, and what became of others."""

    def __init__(self, unit: LogicalUnit, neighbours: Neighbours) -> None:
        self._unit = unit
        self._neighbours = neighbours
        self._running: dict[int, _Run] = {}
        self._results: dict[tuple[int, int], Result] = {}

    def extended_copy(self, nexus: Nexus, command: Command) -> Reaction:
        """EXTENDED COPY(LID1): checks the list and begins with its first segment."""
        announced = int.from_bytes(command.cdb[10:14], "big")
        if announced == 0:
            return Reaction(GOOD)
        copy = copy_parameters.decode(announced, command.data)
        if len(self._running) == copy_limits.CONCURRENT_COPIES:
            raise CheckCondition(OPERATION_IN_PROGRESS)
        held = self._results.get((nexus.number, copy.list_id))
        if held is not None and held.status is Status.IN_PROGRESS and _has_id(copy):
            raise CheckCondition(OPERATION_IN_PROGRESS)
        return _Run(self, nexus, copy).go_on()

    def receive_copy_results(self, nexus: Nexus, cdb: bytes) -> bytes:
        """RECEIVE COPY RESULTS; the whole parameter data. Raises CheckCondition."""
        action = cdb[1] & 0x1F
        if action == 0x03:
            return copy_limits.operating_parameters(self._unit.facts)
        result = self._results.get((nexus.number, cdb[2]))
        if result is None:
            raise invalid_cdb(2)
        if action == 0x00:
            return _copy_status(result)
        if result.sense is None:
            raise invalid_cdb(2)
        sense = result.sense.encode(descriptor=self._unit.pages.descriptor_sense)
        body = bytes(52) + struct.pack(">BxH", 0x02, len(sense)) + sense
        return len(body).to_bytes(4, "big") + body

    def detach(self, nexus: Nexus) -> tuple[Effect, ...]:
        """The session has ended: its copies stop, and their results go (SPC-4 5.16.4.5)."""
        mine = [key for key, run in self._running.items() if run.nexus.number == nexus.number]
        effects = [effect for key in mine for effect in self.abort(key)]
        for held in [held for held in self._results if held[0] == nexus.number]:
            del self._results[held]
        return tuple(effects)

    def abort(self, key: int) -> tuple[Effect, ...]:
        """The command of a copy was aborted: the copy stops, nobody will ask what became of it."""
        run = self._running.get(key)
        if run is None:
            return ()
        run.abandoned = True
        if _has_id(run.copy):
            self._results.pop((run.nexus.number, run.copy.list_id), None)
        return (CancelJob(key),)

    def may_go_on(self, key: int) -> bool:
        """Whether the segment that a job carries out could begin now. Its nexus may have lost its
        rights to a unit since, as by PREEMPT: whoever took them asks, and stops it if not."""
        run = self._running.get(key)
        return run is None or run.refused() is None

    def not_started(self, key: int) -> None:
        """The engine could not begin with a segment: the copy is over."""
        run = self._running.pop(key, None)
        if run is not None:
            run.ended(errno.EIO, 0)

    def reach(self, run: _Run, number: int) -> Neighbour | None:
        """The unit that a segment names by the number of its CSCD descriptor. Asked for each job:
        the rights that a session has to a unit, this one too, change while a copy runs."""
        reached = self._neighbours(run.nexus)
        if number == copy_limits.THIS_UNIT:
            return next((one for one in reached if one.unit is self._unit), None)
        if number >= len(run.copy.cscds):
            return None
        cscd = run.copy.cscds[number]
        return next((one for one in reached if _is_named(one.unit, cscd)), None)

    def start(self, run: _Run, job: CopyJob) -> Reaction:
        """Begins a run's next job."""
        effect = self._unit.start(job, lambda error, done: self._ended(effect.key, error, done))
        self._running[effect.key] = run
        self.keep(run)
        return Reaction(None, (effect,))

    def refusal(self, sense: Sense) -> Reply:
        return self._unit.refusal(sense)

    def keep(self, run: _Run) -> None:
        """Remembers how a run stands: while it runs, and afterwards where its list asks for it.
        The oldest of a nexus that is over goes when there are too many. What an abandoned run, or
        one without an identifier, has in its place is another copy's (SPC-4 table 124)."""
        if run.abandoned or not _has_id(run.copy):
            return
        list_id = (run.nexus.number, run.copy.list_id)
        self._results.pop(list_id, None)
        over = run.result.status is not Status.IN_PROGRESS
        if over and run.copy.usage is not ListIdUsage.HOLD:
            return
        mine = [held for held in self._results if held[0] == run.nexus.number]
        if len(mine) >= copy_limits.HELD_RESULTS:
            done = [held for held in mine if self._results[held].status is not Status.IN_PROGRESS]
            for oldest in done[:1]:
                del self._results[oldest]
        self._results[list_id] = run.result

    def _ended(self, key: int, error: int, done: int) -> Reaction:
        return self._running.pop(key).ended(error, done)


class _Run:
    """One EXTENDED COPY on its way through its segments."""

    def __init__(self, manager: CopyManager, nexus: Nexus, copy: CopyList) -> None:
        self.nexus = nexus
        self.copy = copy
        self.result = Result()
        self.abandoned = False
        self._manager = manager

    def go_on(self) -> Reaction:
        """The next segment that has something to copy, or the end."""
        while self.result.segments < len(self.copy.segments):
            try:
                job = self._job(self.copy.segments[self.result.segments])
            except CheckCondition as refused:
                return self._fail(refused.sense)
            if job.length:
                return self._manager.start(self, job)
            self.result = replace(self.result, segments=self.result.segments + 1)
        self.result = replace(self.result, status=Status.COMPLETED)
        self._manager.keep(self)
        return Reaction(GOOD)

    def ended(self, error: int, done: int) -> Reaction:
        """The job of a segment is over."""
        self.result = replace(self.result, transferred=self.result.transferred + done)
        if error == errno.ECANCELED or self.abandoned:
            # It was stopped; or its segment was done before it could be.
            return self._fail(self.refused() or THIRD_PARTY_DEVICE_FAILURE)
        if error in NO_SPACE:
            return self._fail(SPACE_ALLOCATION_FAILED)
        if error:
            return self._fail(THIRD_PARTY_DEVICE_FAILURE)
        self.result = replace(self.result, segments=self.result.segments + 1)
        return self.go_on()

    def refused(self) -> Sense | None:
        """What the segment whose turn it is would be refused with now; None: it may be done."""
        try:
            self._job(self.copy.segments[self.result.segments])
        except CheckCondition as refused:
            return refused.sense
        return None

    def _fail(self, sense: Sense) -> Reaction:
        """COPY ABORTED; COMMAND-SPECIFIC INFORMATION is the number of the segment that failed
        (SPC-4 5.16.7.4)."""
        sense = replace(sense, command=self.result.segments)
        self.result = replace(self.result, status=Status.FAILED, sense=sense)
        self._manager.keep(self)
        return Reaction(self._manager.refusal(sense))

    def _job(self, segment: Segment) -> CopyJob:
        """What a segment comes to. Raises CheckCondition where it cannot be done."""
        source = self._reach(segment.source, 4)
        destination = self._reach(segment.destination, 6)
        _check_ready(source, destination)
        sizes = source.unit.facts.block_size, destination.unit.facts.block_size
        if segment.length or not segment.blocks:
            length = segment.length
        else:
            length = segment.blocks * sizes[1 if segment.counts_destination else 0]
        if length > copy_limits.SEGMENT_BYTES:
            raise CheckCondition(_at(INVALID_SEGMENT, 8))
        begin = segment.source_lba * sizes[0] + segment.source_offset
        to = segment.destination_lba * sizes[1] + segment.destination_offset
        if segment.source_offset >= sizes[0] or segment.destination_offset >= sizes[1]:
            raise CheckCondition(_at(INVALID_SEGMENT, 28))
        # What goes to a disk is whole blocks of it; there is no residual data here (CAT, PAD).
        if begin % sizes[0] or to % sizes[1] or length % sizes[1]:
            raise CheckCondition(_at(INVALID_SEGMENT, 8))
        if begin + length > _size(source) or to + length > _size(destination):
            raise CheckCondition(NO_INFORMATION)
        uuids = source.unit.facts.identity.uuid, destination.unit.facts.identity.uuid
        return CopyJob(uuids[0], begin, uuids[1], to, length)

    def _reach(self, number: int, field: int) -> Neighbour:
        """The unit of a CSCD; DISK BLOCK LENGTH must be its own (SPC-4 6.4.5.2)."""
        found = self._manager.reach(self, number)
        if found is None:
            raise CheckCondition(_at(UNREACHABLE_COPY_TARGET, field))
        if number == copy_limits.THIS_UNIT:
            return found
        if self.copy.cscds[number].block_size != found.unit.facts.block_size:
            raise CheckCondition(INVALID_SEGMENT)
        return found


def _check_ready(source: Neighbour, destination: Neighbour) -> None:
    """Whether the nexus itself, by its target port, could read the one and write the other now."""
    for neighbour in (source, destination):
        active = neighbour.unit.port_groups.is_active(neighbour.nexus.name.relative_port)
        if not active or neighbour.unit.not_ready is not None:
            raise CheckCondition(UNREACHABLE_COPY_TARGET)
    reading = source.unit.reservations.situation(source.nexus)
    if reading in (Situation.EXCLUSIVE_ACCESS_OTHER, Situation.LEGACY_OTHER):
        raise CheckCondition(THIRD_PARTY_DEVICE_FAILURE)
    if destination.unit.reservations.situation(destination.nexus) is not Situation.FREE:
        raise CheckCondition(THIRD_PARTY_DEVICE_FAILURE)
    if destination.read_only or destination.unit.write_protected:
        raise CheckCondition(WRITE_PROTECTED)


def _has_id(copy: CopyList) -> bool:
    return copy.usage is not ListIdUsage.DISABLED


def _is_named(unit: LogicalUnit, cscd: Cscd) -> bool:
    """Whether one of the unit's own designators is the CSCD's."""
    wanted = (cscd.code_set, cscd.kind, cscd.designator)
    return wanted in designators.parse(designators.of_unit(unit.facts.identity))


def _at(sense: Sense, byte: int) -> Sense:
    return replace(sense, specific=SegmentPointer(byte, descriptor=True))


def _size(neighbour: Neighbour) -> int:
    return neighbour.unit.facts.blocks * neighbour.unit.facts.block_size


def _copy_status(result: Result) -> bytes:
    """RECEIVE COPY RESULTS, COPY STATUS (SPC-4 6.25). Bytes, or KiB where they are too many."""
    units, count = (0, result.transferred)
    if count >= _KIB_FROM:
        units, count = 1, count >> 10
    return struct.pack(">IBHBI", 8, result.status, result.segments, units, count)
