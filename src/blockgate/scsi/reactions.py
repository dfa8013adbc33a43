"""What a logical unit is asked and what it answers: values, no I/O.

``LogicalUnit.execute(nexus, command)`` gives a :class:`Reaction`. Whoever drives the unit carries
out the effects in their order, each to its end, and only then sends the reply: that order is what
makes a reservation, a mode page or a record true before the initiator hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.status import Status


@dataclass(frozen=True, slots=True)
class Command:
    """A command that the engine handed up. ``data`` is the whole of Data-Out.

    ``read_only`` says that this nexus has the unit read-only, whatever the unit itself says.
    """

    cdb: bytes
    data: bytes = b""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What ends a command. ``data`` is Data-In, already cut to the CDB's allocation length;
    ``sense`` raw sense data in the format that the unit sends."""

    status: Status = Status.GOOD
    data: bytes = b""
    sense: bytes = b""


GOOD = Reply()


class Part(Enum):
    """The records that a unit keeps beyond a restart: one of each, as bytes that it wrote."""

    RESERVATIONS = "reservations"
    MODE_PAGES = "mode-pages"
    SANITIZE = "sanitize"
    PORT_GROUPS = "port-groups"


@dataclass(frozen=True, slots=True)
class GateChanged:
    """The unit's gate is another one: compose it and have every shard use it."""


@dataclass(frozen=True, slots=True)
class Attend:
    """Set unit attentions (SAM-5 5.14): on the nexuses named, or, when None, on every nexus of the
    unit but those in ``but``."""

    attentions: Attention
    nexuses: frozenset[int] | None = None
    but: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class AbortNexus:
    """Abort all tasks that these nexuses have at the unit, and wait until the fate of each is
    known. ``status`` is what they are answered, None for nothing (SPC-4 5.12.11.2.6; SAM-5 5.3.1
    on TASK ABORTED)."""

    nexuses: frozenset[int]
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Persist:
    """Make a record stable. Empty: there is nothing to keep any more."""

    part: Part
    record: bytes


@dataclass(frozen=True, slots=True)
class CopyJob:
    """Copy bytes from one unit to another, or within one; units by their UUID."""

    source: str
    source_offset: int
    destination: str
    destination_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FillJob:
    """Write a pattern over a range, again and again; stable when the job has ended."""

    offset: int
    length: int
    pattern: bytes


@dataclass(frozen=True, slots=True)
class ZeroJob:
    """Make a range read as zeroes, stable when the job has ended; ``punch``: blocks may be given
    back to the pool."""

    offset: int
    length: int
    punch: bool


@dataclass(frozen=True, slots=True)
class FlushJob:
    """Make stable all that has been written."""


Job = CopyJob | FillJob | ZeroJob | FlushJob


@dataclass(frozen=True, slots=True)
class StartJob:
    """Long work in the engine. ``key`` is the unit's own name for it: ``LogicalUnit.job_done(key,
    ...)`` wants to hear of its end. Where the reaction has no reply, the reply comes then."""

    key: int
    job: Job


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop a job, and go on when it has stopped."""

    key: int


Effect = GateChanged | Attend | AbortNexus | Persist | StartJob | CancelJob


@dataclass(frozen=True, slots=True)
class Reaction:
    """Effects, then the reply; without one the command goes on (a job's end will answer it)."""

    reply: Reply | None = GOOD
    effects: tuple[Effect, ...] = ()
