"""The sanitize operation of one unit: begun, carried through stretch by stretch, failed, over."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from blockgate.scsi import sanitize
from blockgate.scsi.facts import Facts
from blockgate.scsi.reactions import (
    GOOD,
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
from blockgate.scsi.sanitize import Operation, Stage
from blockgate.scsi.sense import CheckCondition, Sense, invalid_cdb

# A unit's gate has its progress; it is made anew when this much more of it is done.
_PROGRESS_STEPS = 64

# How a job ends that did not fail: the gateway is being stopped, the volume was closed, the lease
# has lapsed; or the volume was not there any more when it was to begin.
STOPPED: Final = (errno.ECANCELED, errno.ESHUTDOWN, errno.ENOENT)


class Sanitizer:
    """``start`` begins a job of the unit's; ``facts`` are the unit's, which may change; ``refuse``
    makes a reply of sense."""

    def __init__(
        self,
        facts: Callable[[], Facts],
        start: Callable[[Job, Callable[[int, int], Reaction]], StartJob],
        refuse: Callable[[Sense], Reply],
    ) -> None:
        self._facts = facts
        self._start = start
        self._refuse = refuse
        self._operation: Operation | None = None
        self._before: Operation | None = None
        self._key = 0
        self._length = 0  # of its stretch
        self._done_bytes = 0
        self._awaited = False

    @property
    def running(self) -> bool:
        return self._operation is not None and self._operation.stage is Stage.RUNNING

    @property
    def sense(self) -> Sense | None:
        """Why the unit cannot be used: the operation runs, or has failed."""
        if self._operation is None:
            return None
        return self._operation.sense(self._facts(), self._done_bytes)

    def execute(self, command: Command) -> Reaction:
        """SANITIZE while none runs. Raises CheckCondition."""
        cdb = command.cdb
        sanitize.check(cdb)
        action = cdb[1] & 0x1F
        failed = self._operation
        if action == sanitize.EXIT_FAILURE_MODE:
            return self._exit_failure_mode(cdb)
        asked = sanitize.decode(self._facts(), cdb, command.data)
        if failed is not None and not failed.unrestricted and asked.unrestricted:
            # In the restricted completion mode only another restricted operation that succeeds
            # leads out of a failure (SBC-3 4.11.3).
            raise invalid_cdb(1, 5)
        self._become(asked)
        self._awaited = not sanitize.is_immediate(cdb)
        begun = self._begin_stretch()
        return Reaction(None if self._awaited else GOOD, begun)

    def restore(self, record: bytes) -> None:
        """After a start: the operation that the record says was under way, or had failed."""
        self._operation = Operation.restored(record)
        self._awaited = False

    def closed(self) -> None:
        """The volume is closed: whatever its job may still say is of no account."""
        self._key = 0

    def resume(self) -> tuple[Effect, ...]:
        """Goes on with the stretch it was in, from its first block: after a start, when the volume
        is open again, when the job was stopped. Nothing while a job is at it."""
        if not self.running or self._key:
            return ()
        return (GateChanged(), self._start_stretch())

    def progress(self, key: int, done_bytes: int) -> tuple[Effect, ...]:
        """How far the job is. The gate says so to path checkers, in steps."""
        if key != self._key or not self.running:
            return ()
        size = self._facts().size_bytes
        before, self._done_bytes = self._done_bytes, done_bytes
        steps = (before * _PROGRESS_STEPS // size, done_bytes * _PROGRESS_STEPS // size)
        return (GateChanged(),) if steps[0] != steps[1] else ()

    def _exit_failure_mode(self, cdb: bytes) -> Reaction:
        """EXIT FAILURE MODE: nothing to do without a failure; after one, where it is allowed."""
        sanitize.require_no_list(cdb)
        if self._operation is None:
            return Reaction(GOOD)
        if not self._operation.unrestricted:
            raise invalid_cdb(1, 4)
        self._become(None)
        return Reaction(GOOD, (Persist(Part.SANITIZE, b""), GateChanged()))

    def _begin_stretch(self) -> tuple[Effect, ...]:
        job = self._start_stretch()
        assert self._operation is not None, "a stretch of no operation"
        return (Persist(Part.SANITIZE, self._operation.record()), GateChanged(), job)

    def _start_stretch(self) -> StartJob:
        assert self._operation is not None, "a stretch of no operation"
        self._done_bytes = 0
        stretch = self._operation.job(self._facts())
        job = self._start(stretch, lambda error, _done: self._ended(job.key, error))
        self._key, self._length = job.key, stretch.length
        return job

    def _ended(self, key: int, error: int) -> Reaction:
        operation = self._operation
        if operation is None or key != self._key:
            # Of a volume that was closed meanwhile, and opened again: another job does its work.
            return Reaction(None)
        self._key = 0
        if error in STOPPED:
            return Reaction(None)  # see :meth:`resume`
        if error:
            effects = self._fail(operation)
            return self._answer(self._refuse(sanitize.SANITIZE_COMMAND_FAILED), effects)
        further = operation.advanced(self._facts(), self._length)
        if further is not None:
            self._become(further)
            return Reaction(None, self._begin_stretch())
        self._become(None)
        return self._answer(GOOD, (Persist(Part.SANITIZE, b""), GateChanged()))

    def not_kept(self) -> None:
        """The record of the last change could not be made stable. One that was to begin has not
        begun; one that was under way has failed, also at its very end: its record would have a
        gateway that is started again go on with it."""
        self._awaited = False
        before = self._before
        if before is not None and before.stage is Stage.RUNNING:
            before = replace(before, stage=Stage.FAILED)
        self._operation = before

    def not_started(self, key: int) -> tuple[Effect, ...]:
        """The engine could not begin with a job: the operation has failed."""
        if key != self._key or self._operation is None:
            return ()
        self._awaited = False
        return self._fail(self._operation)

    def _fail(self, operation: Operation) -> tuple[Effect, ...]:
        failed = replace(operation, stage=Stage.FAILED)
        self._become(failed)
        return (Persist(Part.SANITIZE, failed.record()), GateChanged())

    def _become(self, operation: Operation | None) -> None:
        self._before, self._operation = self._operation, operation

    def _answer(self, reply: Reply, effects: tuple[Effect, ...]) -> Reaction:
        awaited, self._awaited = self._awaited, False
        return Reaction(reply if awaited else None, effects)

    def refuse_meanwhile(self, opcode: int, *, media: bool) -> None:
        """While it runs, all but a few commands are refused (SBC-3 4.11.2); after a failure those
        that need the medium. Raises CheckCondition."""
        sense = self.sense
        if sense is None:
            return
        if media or (self.running and opcode not in sanitize.SERVED):
            raise CheckCondition(sense)
