"""Task management: the plan of :mod:`blockgate.scsi.task_management`, carried out.

The engine has stopped what is in a function's scope and holds what comes after it. An answer waits
for the fate of every command in scope, which on a disk that hangs may be known never. So functions
do not wait for each other, nor units for other units of one function: each is let go by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from blockgate.dataplane.aborts import Aborts
from blockgate.dataplane.units import Unit
from blockgate.dataplane.wire import Wire
from blockgate.scsi.task_management import (
    AbortTask,
    AbortTasks,
    AttendUnit,
    Management,
    Plan,
    ResetUnit,
    Response,
    Step,
    UnitView,
    plan,
)

log = logging.getLogger(__name__)

# Resets of one unit that wait for its disk. One more would change nothing; and whoever loses its
# session over it and comes again would leave one each time, for as long as the disk hangs.
RESETS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class _Function:
    """One function under way, with the target of its session and the units that this one reached
    when it came: the session may have gone by the time that they are wanted."""

    task: int
    cut: int
    target: str
    units: Mapping[int, Unit]
    of_target: bool


class TaskManager:
    """Carries out functions. ``target_of`` names a session's target, ``end_sessions`` closes every
    session of one."""

    def __init__(
        self,
        wire: Wire,
        aborts: Aborts,
        units_of: Callable[[int], Mapping[int, Unit]],
        target_of: Callable[[int], str],
        end_sessions: Callable[[str], Awaitable[None]],
    ) -> None:
        self._wire = wire
        self._aborts = aborts
        self._units_of = units_of
        self._target_of = target_of
        self._end_sessions = end_sessions
        self._under_way: set[asyncio.Task[None]] = set()
        self._resets: Counter[int] = Counter()  # under way, by volume

    def handle(self, task: int, session: int, cut: int, asked: Management) -> None:
        """Begins one function; its answer comes when all that it takes has happened."""
        # As they are now: what is begun is carried out, wherever its session is by then.
        units = dict(self._units_of(session))
        try:
            made = self._plan(asked, units)
        except Exception:
            log.exception("a task management function failed in the gateway itself")
            made = Plan(Response.REJECTED)
        resets = _resets(made.steps)
        if any(self._resets[volume] >= RESETS_AT_ONCE for volume in resets):
            made = Plan(Response.REJECTED)
        if not made.steps and not made.afterwards:
            self._wire.management_done(task, made.response)
            return
        target = self._target_of(session)
        function = _Function(task, cut, target, units, of_target=asked.volume == 0)
        self._resets.update(resets)
        work = asyncio.get_running_loop().create_task(self._carry_out(function, made))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)

    @staticmethod
    def _plan(asked: Management, units: Mapping[int, Unit]) -> Plan:
        views = {
            volume: UnitView(frozenset(unit.seats), tas=unit.logical.pages.tas)
            for volume, unit in units.items()
        }
        return plan(asked, views, may_reset_target=_may_write(asked.nexus, units.values()))

    def stop(self) -> None:
        """Gives up what is under way: the engine has been stopped."""
        for work in self._under_way:
            work.cancel()

    async def _carry_out(self, function: _Function, made: Plan) -> None:
        response = Response.REJECTED
        steps: dict[int, list[Step]] = {}
        for step in made.steps:
            steps.setdefault(step.volume, []).append(step)
        try:
            # Of LUNs that are not mapped nothing is reset.
            self._let_go(function, 0)
            units = (self._carry_out_at(volume, its, function) for volume, its in steps.items())
            if all(await asyncio.gather(*units)):
                response = made.response
        finally:
            # Whatever went wrong: without an answer the engine would hold the units for ever.
            self._wire.management_done(function.task, response)
        if made.afterwards and response is Response.COMPLETE:
            await self._end_sessions(function.target)

    async def _carry_out_at(
        self, volume: int, steps: Collection[Step], function: _Function
    ) -> bool:
        """What a function does to one unit. True: all of it has happened."""
        try:
            for step in steps:
                await self._step(step, function.cut, function.units)
        except OSError as error:
            log.error("a task management function could not be carried out: %s", error)
            return False
        except Exception:
            log.exception("a task management function failed in the gateway itself")
            return False
        finally:
            self._resets -= Counter(_resets(steps))
            self._let_go(function, volume)
        return True

    def _let_go(self, function: _Function, volume: int) -> None:
        """What came for a unit after a function for the whole target goes on, while other units
        wait for their disks; one unit's does with the answer."""
        if function.of_target:
            self._wire.unit_done(function.task, volume)

    async def _step(self, step: Step, cut: int, units: Mapping[int, Unit]) -> None:
        match step:
            case AbortTask():
                unit = units.get(step.volume)
                if unit is not None:
                    await unit.aborted(task=step.task)
                await self._aborts.abort(step.volume, step.nexus, task=step.task, cut=cut)
                if unit is not None:
                    await unit.overtaken(task=step.task)
            case AbortTasks():
                await units[step.volume].aborted(nexuses=step.nexuses)
                nexuses = (0,) if step.nexuses is None else sorted(step.nexuses)
                await asyncio.gather(
                    *(
                        self._aborts.abort(step.volume, nexus, status=step.status, cut=cut)
                        for nexus in nexuses
                    )
                )
                await units[step.volume].overtaken(nexuses=step.nexuses)
            case ResetUnit():
                unit = units[step.volume]
                await unit.carry_out(unit.logical.reset())
            case AttendUnit():
                await units[step.volume].attend(step.attend)


def _resets(steps: Iterable[Step]) -> set[int]:
    """The volumes whose units are reset."""
    return {step.volume for step in steps if isinstance(step, ResetUnit)}


def _may_write(nexus: int, units: Iterable[Unit]) -> bool:
    """Whether a session may write to one of its units at least. One that may only read, or reaches
    nothing, has no errors to recover from that are worth everybody's commands and sessions."""
    seats = (unit.seats.get(nexus) for unit in units)
    return any(seat is not None and not seat.read_only for seat in seats)
