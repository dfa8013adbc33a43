"""Long work in the engine that units have asked for, by the numbers that the engine knows it by."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from blockgate.dataplane.units import Unit
from blockgate.dataplane.wire import Wire
from blockgate.scsi import CopyJob, Job
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
    """The jobs that run. ``volume_of`` finds the handle of an open volume by its UUID, else 0."""

    def __init__(self, wire: Wire, volume_of: Callable[[str], int]) -> None:
        self._wire = wire
        self._volume_of = volume_of
        self._last = 0
        self._running: dict[int, _Running] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, unit: Unit, key: int, job: Job) -> None:
        """Starts a job; its end is told to the unit. Raises OSError."""
        source = destination = unit.volume
        if isinstance(job, CopyJob):
            source, destination = self._volume_of(job.source), self._volume_of(job.destination)
            if not source or not destination:
                raise OSError(errno.ENOENT, "a unit of the copy is not there any more")
        self._last += 1
        self._wire.start_job(self._last, job, source, destination)
        self._running[self._last] = _Running(unit, key, job)
        self._look_later()

    def cancel(self, unit: Unit, keys: Collection[int]) -> list[asyncio.Future[None]]:
        """Stops jobs, all of them now. Gives their ends; the unit is told of each one first."""
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
        """The engine says that one has ended."""
        running = self._running.pop(number, None)
        if running is not None:
            running.over.set_result(None)
            running.unit.job_done(running.key, error, done_bytes)
            if error in STOPPED:
                loop = asyncio.get_running_loop()
                loop.call_later(PROGRESS_SECONDS, running.unit.go_on)
