"""One logical unit as the adapter drives it: policy in, effects carried out, then the reply.

A reaction's effects are carried out in their order, each to its end, before its command is answered
(see :mod:`blockgate.scsi.reactions`). Commands of one unit wait for each other while one has
effects, so that what the second is told is what the first has made stable; once nothing is left
but what may take as long as a disk hangs, the next one has its turn. What the unit learns
from outside (a nexus comes, goes, a reset) does not wait: each of its effects stands for the state
as it then is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

from blockgate.control import ports
from blockgate.dataplane.aborts import Aborts
from blockgate.dataplane.gates import VolumeGate
from blockgate.dataplane.records import Record
from blockgate.dataplane.wire import Attending, Wire
from blockgate.model.parameters import TargetParameters
from blockgate.scsi import (
    AbortNexus,
    Attend,
    Attention,
    CancelJob,
    Command,
    CopyJob,
    Effect,
    GateChanged,
    Job,
    Key,
    LogicalUnit,
    Nexus,
    Part,
    Persist,
    PoolUsage,
    Reaction,
    Reply,
    Sense,
    StartJob,
    Status,
)
from blockgate.scsi.alua import AccessState

log = logging.getLogger(__name__)

# Commands of one unit that are answered before the loop gets its turn again.
COMMANDS_PER_TURN: Final = 32

Done = Callable[[Reply], None]
Over = Callable[[], bool]
"""Whether a command has ended meanwhile, as by an abort."""

# Of a command that is over: nobody will read it (SAM-5 5.3.1, the closest that there is).
NOBODY: Final = Reply(Status.BUSY)


class Jobs(Protocol):
    """Long work in the engine, see :mod:`~blockgate.dataplane.jobs`."""

    def start(self, unit: Unit, key: int, job: Job) -> None: ...

    def cancel(self, unit: Unit, keys: Collection[int]) -> list[asyncio.Future[None]]: ...

    def outlaw(self, unit: Unit) -> list[asyncio.Future[None]]: ...


# INTERNAL TARGET FAILURE: nothing that the initiator did is at fault.
_FAILURE: Final = Sense(Key.HARDWARE_ERROR, 0x44, 0x00)


@dataclass(frozen=True, slots=True)
class Seat:
    """A nexus at a unit: by which session it reaches it, and by which LUN fields, each with whether
    it is read-only there."""

    nexus: Nexus
    session: int
    luns: Mapping[int, bool]

    @property
    def read_only(self) -> bool:
        """By none of its LUNs it may write."""
        return all(self.luns.values())

    @property
    def write_protected(self) -> bool:
        """By one of them at least it may not: there MODE SENSE says so."""
        return any(self.luns.values())


@dataclass(slots=True)
class Mapped:
    """A volume as all targets together map it: the target ports by which it is reached, as the
    engine numbers them, by name, and the access states that the gateway gives them. ``threshold``:
    its pool is low when less than so many percent are free; 0: never. ``implicit``, ``explicit``:
    whether the gateway, and whether initiators change access states."""

    view: ports.LunView
    threshold: int = 0
    by_ports: dict[str, int] = field(default_factory=dict)
    states: dict[str, AccessState] = field(default_factory=dict)
    implicit: bool = False
    explicit: bool = False

    def reach(self, port: str, number: int, parameters: TargetParameters) -> None:
        """A target maps it, too. Where targets differ the volume is still one unit: who has a say
        by one of them has it, and the highest threshold holds."""
        self.by_ports[port] = number
        self.states[port] = AccessState.of_word(parameters.access_state.replace("-", "_"))
        self.threshold = max(self.threshold, parameters.pool_threshold)
        self.implicit |= parameters.alua in ("implicit", "both")
        self.explicit |= parameters.alua in ("explicit", "both")


@dataclass(frozen=True, slots=True)
class _Turn:
    """Something that waits for its unit. ``nexus`` and ``task`` are a command's, else 0; ``job``:
    it is the end of the job with this key, and the unit has to hear of it whatever became of the
    command."""

    work: Callable[[], Reaction]
    done: Done
    nexus: int = 0
    task: int = 0
    job: int | None = None
    over: Over = lambda: False


class Unit:
    """A logical unit: its policy, its part of the gate, its record, and who is connected to it."""

    def __init__(
        self,
        *,
        logical: LogicalUnit,
        gate: VolumeGate,
        record: Record,
        wire: Wire,
        aborts: Aborts,
        jobs: Jobs,
        others: Callable[[int], Iterable[int]],
    ) -> None:
        """``others``: connections without ports (NBD) that use a volume now."""
        self.mapped: Mapped | None = None  # as it was last made known in full
        self.logical = logical
        self.gate = gate
        self.record = record
        self.seats: dict[int, Seat] = {}
        self._wire = wire
        self._aborts = aborts
        self._jobs = jobs
        self._others = others
        self._queue: deque[_Turn] = deque()
        self._busy = False
        self._turn: _Turn | None = None  # what keeps it busy
        self._idle = asyncio.Event()
        self._idle.set()
        self._again = False
        self._stopped = False
        self._answers: dict[int, _Turn] = {}  # jobs whose end answers a command, by their key
        self._warning: asyncio.Task[None] | None = None  # sets attentions: the pool runs low
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def volume(self) -> int:
        """The engine's handle of its volume."""
        return self.gate.volume

    def named_ports(self) -> frozenset[int]:
        """The relative port identifiers by which somebody knows a port: they must not become those
        of another one."""
        names = {*self.logical.reservations.state.registrations}
        names |= {seat.nexus.name for seat in self.seats.values()}
        current = {port.relative for port in self.logical.ports}
        asked = self.logical.port_groups.asked
        return frozenset({name.relative_port for name in names} | current | asked)

    # Commands.

    def command(self, nexus: Nexus, command: Command, task: int, done: Done, over: Over) -> None:
        """A command that the engine handed up; ``done`` answers it, maybe at once. Once it is
        ``over`` it is not begun any more: an abort may have been answered before its turn came."""
        work = partial(self.logical.execute, nexus, command)
        turn = _Turn(work, done, nexus.number, task, over=over)
        if self._busy or self._queue:
            self._queue.append(turn)
        else:
            self._begin(turn)

    def job_done(self, key: int, error: int, done_bytes: int) -> None:
        """A job has ended; the command that began it, if it waits, is answered."""
        asked = self._answers.pop(key, None)
        work = partial(self.logical.job_done, key, error, done_bytes)
        if asked is not None:
            turn = replace(asked, work=work, job=key)
        else:
            turn = _Turn(work, _nobody, job=key)
        if self._busy:
            self._queue.appendleft(turn)
        else:
            self._begin(turn)

    def job_progress(self, key: int, done_bytes: int) -> None:
        """How far a job is; what follows needs no command's turn."""
        effects = self.logical.job_progress(key, done_bytes)
        if effects:
            self._spawn(self._follow(effects))

    def go_on(self) -> None:
        """A job was stopped, and not by its unit: what must not end with it is begun again."""
        effects = () if self._stopped else self.logical.sanitizer.resume()
        if effects:
            self._spawn(self._follow(effects))

    def pool_found(self, size: int, usage: PoolUsage, *, low: bool) -> None:
        """How large and how full the pool was found; what follows needs no command's turn."""
        changed = self.logical.set_pool_size(size)
        if changed:
            self._spawn(self._tell(changed))
        self._warn(self.logical.set_pool(usage, low=low))

    def pool_is_full(self, then: Callable[[], None]) -> None:
        """A write, or a job's, found no room. ``then`` comes once every nexus has the attention
        that the threshold was reached; whether from now, or since somebody looked at the pool."""
        if self.logical.facts.watched and self.mapped is not None and self.mapped.threshold:
            self._warn(self.logical.pool_is_full())
        if self._warning is None or self._warning.done():
            then()
        else:
            self._warning.add_done_callback(lambda _warning: then())

    def _warn(self, effects: Iterable[Effect]) -> None:
        """Has initiators told that the pool runs low, if they are to be."""
        if effects:
            log.warning("the pool under unit %s runs low: initiators are told", self.record.uuid)
            self._warning = self._spawn(self._tell(effects))

    def _begin(self, turn: _Turn) -> None:
        if turn.job is None and turn.over():
            turn.done(NOBODY)
            return
        reaction = self._react(turn.work)
        if reaction.effects:
            self._busy = True
            self._turn = turn
            self._idle.clear()
            self._spawn(self._carry_out(turn, reaction))
        elif reaction.reply is not None:
            turn.done(reaction.reply)

    def _react(self, work: Callable[[], Reaction]) -> Reaction:
        try:
            return work()
        except Exception:
            log.exception("unit %s: a command failed in the gateway itself", self.record.uuid)
            return Reaction(self.logical.refusal(_FAILURE))

    async def _carry_out(self, turn: _Turn, reaction: Reaction) -> None:
        held = True
        reply = reaction.reply
        undone = list(reaction.effects)
        try:
            for effect in reaction.effects:
                covers = isinstance(effect, StartJob) and not isinstance(effect.job, CopyJob)
                if held and (covers or isinstance(effect, AbortNexus)):
                    held = False
                    self._release()
                if isinstance(effect, StartJob) and reply is None:
                    self._answers[effect.key] = turn
                if covers:
                    # The whole medium: what others may write no more must not come after it.
                    await _over(self._jobs.outlaw(self))
                await self._effect(effect, turn.task)
                del undone[0]
            if held:
                held = False
                self._release()
            await _over(self._jobs.outlaw(self))
        except OSError as error:
            log.error("unit %s: an effect could not be had: %s", self.record.uuid, error)
            reply = self.logical.refusal(_FAILURE)
            with contextlib.suppress(OSError):
                await self.carry_out(self.logical.not_done(undone))
        except Exception:
            # The engine waits for the answer however long it takes, so a mistake must have one.
            log.exception("unit %s: a command failed in the gateway itself", self.record.uuid)
            reply = self.logical.refusal(_FAILURE)
            with contextlib.suppress(Exception):
                await self.carry_out(self.logical.not_done(undone))
        finally:
            if held:
                self._release()
        if reply is not None:
            turn.done(reply)

    async def _follow(self, effects: Iterable[Effect]) -> None:
        try:
            await self.carry_out(effects)
        except OSError as error:
            log.error("unit %s: an effect could not be had: %s", self.record.uuid, error)

    async def _tell(self, effects: Iterable[Effect]) -> None:
        """As :meth:`_follow`, but nothing that may take as long as a disk hangs is waited for."""
        try:
            await self.put_in_force(effects)
        except OSError as error:
            log.error("unit %s: initiators could not be told: %s", self.record.uuid, error)

    def _release(self) -> None:
        """The next commands have their turn; a bounded number before the loop has its own."""
        self._busy = False
        self._turn = None
        self._idle.set()
        if self._queue and not self._again:
            self._again = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._again = False
        for _ in range(COMMANDS_PER_TURN):
            if self._busy or not self._queue:
                return
            self._begin(self._queue.popleft())
        if self._queue and not self._busy:
            self._release()

    # What comes from outside.

    async def attach(self, seat: Seat) -> Attention:
        """A session reaches the unit from now on; over when the gate knows it. Returns the
        attentions that it finds there: they are set when the engine has the session."""
        self.seats[seat.nexus.number] = seat
        found = Attention(0)
        for effect in self.logical.attach(seat.nexus, read_only=seat.write_protected):
            if isinstance(effect, Attend) and effect.nexuses == frozenset({seat.nexus.number}):
                found |= effect.attentions
            else:
                await self._effect(effect, 0)
        # What this one needs of the gate another may have changed a moment ago, and still waits.
        await self.gate.settle()
        return found

    async def reseat(self, seat: Seat) -> None:
        """A session that reaches it does so by other LUNs, or read-only now; over when the gate
        knows it."""
        self.seats[seat.nexus.number] = seat
        await self.put_in_force(self.logical.remap(seat.nexus, read_only=seat.write_protected))
        await self.gate.settle()

    async def detach(self, nexus: int) -> None:
        """It does not any more. Its commands have drained; on return its copies have, too, as far
        as they write here. Those that were asked for here and write elsewhere are stopped, and
        waited for there: without this seat they may not go on, and that disk may hang."""
        seat = self.seats.pop(nexus, None)
        if seat is None:
            return
        for effect in self.logical.detach(seat.nexus):
            if isinstance(effect, CancelJob):
                self._jobs.cancel(self, {effect.key})
            else:
                await self._effect(effect, 0)
        await _over(self._jobs.outlaw(self))

    async def aborted(
        self, *, nexuses: Iterable[int] | None = None, task: int | None = None
    ) -> None:
        """Commands were aborted, all or those of these nexuses or one task: those that wait for
        their turn never have it (SAM-5 5.6), and jobs that others wait for and that end with them
        are stopped. One whose effects are being carried out has them: over when they are in force,
        or taken back."""
        meant = _meant(nexuses, task)
        self._queue = deque(turn for turn in self._queue if turn.job is not None or not meant(turn))
        await self._end(meant)

    async def overtaken(
        self, *, nexuses: Iterable[int] | None = None, task: int | None = None
    ) -> None:
        """The same commands are over in the engine now, so that no other of them begins: what was
        begun since :meth:`aborted` looked is stopped, or has happened, on return."""
        meant = _meant(nexuses, task)
        await self._end(lambda turn: turn.over() and meant(turn))

    def abandoned(self) -> None:
        """A command has failed, and others are over with it (QERR, SPC-4 7.5.8): what they have
        begun is stopped. Nobody waits for that."""
        self._spawn(self._stop_what_is_over())

    async def _stop_what_is_over(self) -> None:
        try:
            await self.overtaken()
        except OSError as error:
            log.error("unit %s: a job could not be stopped: %s", self.record.uuid, error)

    async def _end(self, meant: Callable[[_Turn], bool]) -> None:
        """What these commands have begun is stopped, or over."""
        turn = self._turn if self._turn is not None and meant(self._turn) else None
        await self.carry_out(self._abandon(meant))
        if turn is not None:
            # Where it begins a job in the end, that is none of an aborted command's.
            while self._turn is turn:
                await self._idle.wait()
            await self.carry_out(self._abandon(lambda other: other.task == turn.task))

    def _abandon(self, meant: Callable[[_Turn], bool]) -> list[Effect]:
        """Jobs of these commands are followed by no others: not when they run, nor when they have
        ended and the unit is still to hear of it. All at once: while one is being stopped another
        may end."""
        keys = [key for key, turn in self._answers.items() if meant(turn)]
        keys += [turn.job for turn in self._queue if turn.job is not None and meant(turn)]
        return [effect for key in keys for effect in self.logical.task_aborted(key)]

    async def carry_out(self, effects: Iterable[Effect]) -> None:
        """Carries out effects that no command has asked for. Jobs are stopped all at once: one that
        hangs must not let the others go on. Raises OSError."""
        effects = list(effects)
        stopped = {effect.key for effect in effects if isinstance(effect, CancelJob)}
        ends = self._jobs.cancel(self, stopped)
        for effect in effects:
            if not isinstance(effect, CancelJob):
                await self._effect(effect, 0)
        await _over(ends)
        await _over(self._jobs.outlaw(self))

    async def put_in_force(self, effects: Iterable[Effect]) -> None:
        """Carries out effects of what control has changed. Copies that may not go on now are
        stopped, and not waited for: what one of them has begun to write is like a WRITE under way,
        of which nobody was told that it has ended. Its disk may hang, and the changes of all
        targets, which come one after another, would hang with it. Raises OSError."""
        for effect in effects:
            await self._effect(effect, 0)
        self._jobs.outlaw(self)

    def stop(self) -> None:
        """Gives up what is under way; the engine has been stopped or the volume closed."""
        self._stopped = True
        self._queue.clear()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Effects.

    async def _effect(self, effect: Effect, task: int) -> None:
        match effect:
            case GateChanged():
                await self.gate.renew()
            case Attend():
                await self.attend(effect)
            case AbortNexus():
                await self._abort(effect, task)
            case Persist():
                await self._persist(effect)
            case StartJob():
                self._start(effect)
            case CancelJob():
                await _over(self._jobs.cancel(self, {effect.key}))

    def _start(self, effect: StartJob) -> None:
        """A job that cannot be started has ended at once."""
        try:
            self._jobs.start(self, effect.key, effect.job)
        except OSError as error:
            log.error("unit %s: a job was not started: %s", self.record.uuid, error)
            self.job_done(effect.key, error.errno or errno.EIO, 0)

    async def _persist(self, effect: Persist) -> None:
        """A change whose record cannot be had must not be there after all."""
        former = self.record.parts.get(effect.part, b"")
        self.record.put(effect.part, effect.record)
        try:
            await self.record.save()
        except OSError:
            self.record.put(effect.part, former)
            raise
        if effect.part is Part.PORT_GROUPS:  # whoever wonders why a path is not used
            log.info(
                "unit %s: initiators have set access states of target port groups: %s",
                self.record.uuid,
                effect.record.decode(),
            )

    async def attend(self, effect: Attend) -> None:
        """Sets unit attentions; in force on return. Nexuses that are gone need none."""
        numbers = self.seats.keys() if effect.nexuses is None else effect.nexuses
        attending = [
            Attending(seat.session, lun, effect.attentions)
            for number in numbers
            if number not in effect.but and (seat := self.seats.get(number)) is not None
            for lun in seat.luns
        ]
        if attending:
            await self._wire.attend(attending)

    async def _abort(self, effect: AbortNexus, task: int) -> None:
        """PREEMPT AND ABORT. The new gate refuses what connections without ports (NBD) might still
        write too: they can not be preempted by name, so what they have begun is waited for."""
        nexuses = [*effect.nexuses, *self._others(self.volume)]
        await asyncio.gather(
            *(
                self._aborts.abort(
                    self.volume,
                    nexus,
                    except_task=task,
                    status=effect.status if nexus in effect.nexuses else None,
                )
                for nexus in nexuses
            ),
            self.aborted(nexuses=effect.nexuses),
        )
        await self.overtaken(nexuses=effect.nexuses)


def _meant(nexuses: Iterable[int] | None, task: int | None) -> Callable[[_Turn], bool]:
    """Which commands are meant: one task, those of these nexuses, or all."""
    wanted = None if nexuses is None else frozenset(nexuses)
    if task is not None:
        return lambda turn: turn.task == task
    return lambda turn: wanted is None or turn.nexus in wanted


async def _over(ends: Iterable[asyncio.Future[None]]) -> None:
    """Returns when these jobs have ended, others' waiting for them left alone."""
    for end in ends:
        await asyncio.shield(end)


def _nobody(_reply: Reply) -> None:
    """The command that began a job has been answered already."""
