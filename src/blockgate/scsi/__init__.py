"""SCSI as policy: a logical unit as values in, values out (SPC-4/5, SBC-3/4).

What the engine does not execute itself comes here as a :class:`Command` of a :class:`Nexus` and
leaves as a :class:`Reaction`. No sockets, clocks or threads; the transport is not known.
"""

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.diagnostics import PoolUsage
from blockgate.scsi.facts import Facts
from blockgate.scsi.gate import GateParts, Limits, PortParts, Situation
from blockgate.scsi.nexus import Nexus, NexusName, Port
from blockgate.scsi.reactions import (
    GOOD,
    AbortNexus,
    Attend,
    CancelJob,
    Command,
    CopyJob,
    Effect,
    FillJob,
    FlushJob,
    GateChanged,
    Job,
    Part,
    Persist,
    Reaction,
    Reply,
    StartJob,
    ZeroJob,
)
from blockgate.scsi.sense import CheckCondition, Key, ReservationConflict, Sense
from blockgate.scsi.status import Status
from blockgate.scsi.unit import LogicalUnit

__all__ = [
    "GOOD",
    "AbortNexus",
    "Attend",
    "Attention",
    "CancelJob",
    "CheckCondition",
    "Command",
    "CopyJob",
    "Effect",
    "Facts",
    "FillJob",
    "FlushJob",
    "GateChanged",
    "GateParts",
    "Job",
    "Key",
    "Limits",
    "LogicalUnit",
    "Nexus",
    "NexusName",
    "Part",
    "Persist",
    "PoolUsage",
    "Port",
    "PortParts",
    "Reaction",
    "Reply",
    "ReservationConflict",
    "Sense",
    "Situation",
    "StartJob",
    "Status",
    "ZeroJob",
]
