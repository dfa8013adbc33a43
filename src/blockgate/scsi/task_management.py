"""What a task management function does: a plan, step by step (RFC 7143 11.5, SAM-5 clause 7).

The engine has already stopped what is in the function's scope, and holds what comes after it. The
plan says what is aborted and with which status, which units are reset, who is told, and what is
answered; the answer follows the earlier statuses (RFC 7143 4.2.3.3). Task sets are per nexus
(TST=001b), so CLEAR TASK SET is ABORT TASK SET (SAM-5 7.5) and takes nobody else's commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from blockgate.scsi.attentions import Event, attend
from blockgate.scsi.reactions import Attend
from blockgate.scsi.status import Status


class Function(IntEnum):
    """Functions (RFC 7143 11.5.1; from 9 on RFC 7144 5.2, which iSCSIProtocolLevel 2 brings)."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class Response(IntEnum):
    """Responses (RFC 7143 11.6.1)."""

    COMPLETE = 0
    NO_SUCH_TASK = 1
    NO_SUCH_LUN = 2
    STILL_ALLEGIANT = 3
    NO_REASSIGNMENT = 4
    NOT_SUPPORTED = 5
    NOT_AUTHORIZED = 6
    REJECTED = 255


SUPPORTED: Final = frozenset(
    {
        Function.ABORT_TASK,
        Function.ABORT_TASK_SET,
        Function.CLEAR_TASK_SET,
        Function.LOGICAL_UNIT_RESET,
        Function.TARGET_WARM_RESET,
        Function.TARGET_COLD_RESET,
    }
)


class Verdict(Enum):
    """What the engine found of the task that ABORT TASK refers to (RFC 7143 11.5.1).

    ``NOT_RECEIVED``: its CmdSN is inside the window and before this function's; the engine counts
    it as received and drops it when it comes.
    """

    FOUND = "found"
    GONE = "gone"
    NOT_RECEIVED = "not_received"


@dataclass(frozen=True, slots=True)
class Management:
    """A function as it came. ``volume`` is 0 for a LUN that is not mapped, and for the functions
    that have none; ``referenced`` is the engine's handle of the task to abort, if it is there."""

    function: int
    nexus: int
    volume: int = 0
    referenced: int | None = None
    verdict: Verdict = Verdict.GONE


@dataclass(frozen=True, slots=True)
class UnitView:
    """What the plan must know of a unit: the nexuses that have it, and TAS of its control page."""

    nexuses: frozenset[int]
    tas: bool = False


@dataclass(frozen=True, slots=True)
class AbortTask:
    """Abort one task and wait until its fate is known."""

    volume: int
    nexus: int
    task: int


@dataclass(frozen=True, slots=True)
class AbortTasks:
    """Abort what these nexuses have at the unit, and wait until the fate of each is known. With
    ``nexuses`` None: whoever has anything there, NBD connections too. ``status`` is what each task
    is answered, None for nothing."""

    volume: int
    nexuses: frozenset[int] | None
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class ResetUnit:
    """``LogicalUnit.reset()``: RESERVE ends, prevention of medium removal ends, mode pages are the
    saved ones again (SAM-5 6.3.3, SPC-4 5.11.3). Persistent reservations stay (SPC-4 5.12.1), and
    so does what is being sanitized (SBC-3 4.11.3)."""

    volume: int


@dataclass(frozen=True, slots=True)
class AttendUnit:
    """Set an attention on nexuses of a unit."""

    volume: int
    attend: Attend


@dataclass(frozen=True, slots=True)
class EndSessions:
    """Close every connection of every session of the target, after the answer has gone out."""


Step = AbortTask | AbortTasks | ResetUnit | AttendUnit


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, those of one unit in their order, each to its end, while units do not wait for each
    other; then the response; then what comes after it."""

    response: Response
    steps: tuple[Step, ...] = ()
    afterwards: tuple[EndSessions, ...] = ()


def plan(
    asked: Management, units: Mapping[int, UnitView], *, may_reset_target: bool = True
) -> Plan:
    """The plan for a function. ``units`` are the units of the session's LUN map, by volume.

    ``may_reset_target`` false refuses resets of the whole target to this session. LOGICAL UNIT
    RESET is for everybody, also for who may only read there: it is the error recovery of a host
    whose command hangs (Linux sends it after ABORT TASK), and to end that one's own commands alone
    and call it a reset would be a lie. What it takes from others, commands and a RESERVE (SPC-2
    5.5.1), they are told of; persistent reservations stay.
    """
    match asked.function:
        case Function.ABORT_TASK:
            return _abort_task(asked)
        case Function.ABORT_TASK_SET | Function.CLEAR_TASK_SET | Function.LOGICAL_UNIT_RESET:
            if asked.volume not in units:
                return Plan(Response.NO_SUCH_LUN)
            if asked.function == Function.LOGICAL_UNIT_RESET:
                return Plan(
                    Response.COMPLETE,
                    tuple(_reset([asked.volume], asked, units, Event.LOGICAL_UNIT_RESET)),
                )
            own = AbortTasks(asked.volume, frozenset({asked.nexus}))
            return Plan(Response.COMPLETE, (own,))
        case Function.TARGET_WARM_RESET | Function.TARGET_COLD_RESET:
            if not may_reset_target:
                return Plan(Response.NOT_AUTHORIZED)
            return _target_reset(asked, units)
        case Function.TASK_REASSIGN:
            # ErrorRecoveryLevel 2 alone has connections to reassign to
            return Plan(Response.NO_REASSIGNMENT)
        case _:
            # CLEAR ACA among them: NORMACA is zero, so there is no ACA condition (SAM-5 7.4)
            return Plan(Response.NOT_SUPPORTED)


def _abort_task(asked: Management) -> Plan:
    """ABORT TASK. A task that is gone has been answered already, and its initiator learns that
    from the response; one that never came is as good as aborted (RFC 7143 11.6.1)."""
    match asked.verdict:
        case Verdict.FOUND if asked.referenced is not None:
            step = AbortTask(asked.volume, asked.nexus, asked.referenced)
            return Plan(Response.COMPLETE, (step,))
        case Verdict.NOT_RECEIVED:
            return Plan(Response.COMPLETE)
        case Verdict.GONE:
            return Plan(Response.NO_SUCH_TASK)
        case Verdict.FOUND:
            # Nobody can say which it is: no other is aborted in its place
            return Plan(Response.REJECTED)


def _target_reset(asked: Management, units: Mapping[int, UnitView]) -> Plan:
    """WARM and COLD RESET: every unit that the session can reach (RFC 7143 11.5.1).

    COLD RESET is answered, and then ends every session of the target, its own too: those begin
    anew as after a power on. It is no loss of power for persistent reservations: an APTPL of zero
    is about the gateway's own memory, and a unit may be in use through other targets.
    """
    cold = asked.function == Function.TARGET_COLD_RESET
    event = Event.POWER_ON if cold else Event.HARD_RESET
    steps = tuple(_reset(sorted(units), asked, units, event))
    return Plan(Response.COMPLETE, steps, (EndSessions(),) if cold else ())


def _reset(
    volumes: Iterable[int], asked: Management, units: Mapping[int, UnitView], event: Event
) -> Iterable[Step]:
    """Units first, so that no command that comes now meets what is about to go; then attentions;
    aborts last, since they take as long as the back end does."""
    volumes = list(volumes)
    for volume in volumes:
        yield ResetUnit(volume)
        yield AttendUnit(volume, attend(event, by=asked.nexus))
    for volume in volumes:
        others = units[volume].nexuses - {asked.nexus}
        if units[volume].tas and others:
            # what another nexus took from them is answered (SAM-5 5.6, TAS)
            yield AbortTasks(volume, others, Status.TASK_ABORTED)
        yield AbortTasks(volume, None)
