"""Long work in the engine that units have asked for, by the numbers that the engine knows it by."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from blockgate.dataplane.units import Unit
from blockgate.dataplane.wire import Wire
from blockgate.scsi import CopyJob, Job
from blockgate.scsi.copy_manager import NO_SPACE
from blockgate.scsi.sanitizer import STOPPED

# How often units are told how far their jobs are.
PROGRESS_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Running:
    unit: Unit
    key: int
    job: Job
    over: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class JobTable:
    """The jobs that run. ``unit_of`` finds the unit of an open volume by its UUID."""

    def __init__(self, wire: Wire, unit_of: Callable[[str], Unit | None]) -> None:
        self._wire = wire
        self._unit_of = unit_of
        self._last = 0
        self._running: dict[int, _Running] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, unit: Unit, key: int, job: Job) -> None:
        """Starts a job; its end is told to the unit. Raises OSError."""
        source = destination = unit.volume
        if isinstance(job, CopyJob):
            reached = self._unit_of(job.source), self._unit_of(job.destination)
            if reached[0] is None or reached[1] is None:
                raise OSError(errno.ENOENT, "a unit of the copy is not there any more")
            source, destination = reached[0].volume, reached[1].volume
        self._last += 1
        self._wire.start_job(self._last, job, source, destination)
        self._running[self._last] = _Running(unit, key, job)
        self._look_later()

    def cancel(self, unit: Unit, keys: Collection[int]) -> list[asyncio.Future[None]]:
        """Stops jobs, all of them now. Gives their ends."""
        meant = [
            (number, running.over)
            for number, running in self._running.items()
            if running.unit is unit and running.key in keys
        ]
        for number, _ in meant:
            self._wire.cancel_job(number)
        return [over for _, over in meant]

    def outlaw(self, unit: Unit) -> list[asyncio.Future[None]]:
        """Stops copies that reach a unit and could not begin any more: their nexus has lost its
        rights there, or the medium is not to be had. Gives the ends of those that write there: with
        them the back end's fate of all that they have written is known. What was only read there
        has none to wait for: nothing comes of it, and the disk that it was to be written to may
        hang."""
        unlawful = [
            (number, running.job, running.over)
            for number, running in self._running.items()
            if isinstance(running.job, CopyJob)
            and unit.record.uuid in (running.job.source, running.job.destination)
            and not running.unit.logical.copies.may_go_on(running.key)
        ]
        for number, _, _ in unlawful:
            self._wire.cancel_job(number)
        return [over for _, job, over in unlawful if job.destination == unit.record.uuid]

    def stop(self) -> None:
        """Looks at nothing any more: the engine has been stopped."""
        self._running.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PROGRESS_SECONDS, self._look)

    def _look(self) -> None:
        """Tells units how far their jobs are; REQUEST SENSE has it from there (SBC-3 4.11.4)."""
        self._timer = None
        for number, running in list(self._running.items()):
            running.unit.job_progress(running.key, self._wire.job_progress(number))
        if self._running:
            self._look_later()

    def done(self, number: int, error: int, done_bytes: int) -> None:
        """The engine says that one has ended. Its unit is told at once; but for one that found no
        room: first every nexus of the unit that it wrote to is warned, like those of a WRITE (see
        :meth:`Unit.pool_is_full`), and the command that it answers ends after that."""
        running = self._running.pop(number, None)
        if running is None:
            return
        running.over.set_result(None)
        ended = partial(running.unit.job_done, running.key, error, done_bytes)
        full = self._written_by(running) if error in NO_SPACE else None
        if full is not None:
            full.pool_is_full(ended)
        else:
            ended()
        if error in STOPPED:
            asyncio.get_running_loop().call_later(PROGRESS_SECONDS, running.unit.go_on)

    def _written_by(self, running: _Running) -> Unit | None:
        if isinstance(running.job, CopyJob):
            return self._unit_of(running.job.destination)
        return running.unit
