"""What a PERSISTENT RESERVE OUT does, before it is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.state import State

Names = frozenset[NexusName]


@dataclass(frozen=True, slots=True)
class Notice:
    """A unit attention, and for whom. Nexuses are named by their ports: who has no session at
    this moment is told nothing, his next one begins with an attention anyway."""

    attention: Attention
    nexuses: Names


@dataclass(frozen=True, slots=True)
class Change:
    """The next state, who is told, and who was preempted.

    ``counted`` says that PRgeneration goes up: for everything but RESERVE and RELEASE
    (SPC-4 6.16.2).
    """

    state: State
    notices: tuple[Notice, ...] = ()
    preempted: Names = frozenset()
    counted: bool = True
