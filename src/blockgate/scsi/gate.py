"""A logical unit's part of its volume's gate: what the engine answers and refuses by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from blockgate.scsi.sense import Sense


class Situation(IntEnum):
    """How the reservations of a unit stand towards one nexus (SPC-4 5.12.1). Its bit in a row of
    the opcode table says that the command is a RESERVATION CONFLICT in this situation."""

    FREE = 0
    WRITE_EXCLUSIVE_OTHER = 1
    EXCLUSIVE_ACCESS_OTHER = 2
    LEGACY_OTHER = 3


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why media commands are refused: sense, and how far the cause is (SBC-3 4.33)."""

    sense: Sense


@dataclass(frozen=True, slots=True)
class PortParts:
    """A gate's part for one target port: its ALUA state by the seam's name, and ready answers by
    CDB key."""

    alua: str = "active_optimized"
    canned: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateParts:
    """What a unit adds to its volume's gate (the rest, size and mapping, is control's).

    ``access`` has a situation for each nexus number whose situation is not ``default_access``.
    ``canned`` holds for every port; what differs is in ``ports``, by the engine's number.
    """

    block_size: int
    physical_block_size: int
    descriptor_sense: bool = False
    software_write_protect: bool = False
    tas: bool = False
    qerr: int = 0
    thin: bool = True
    write_cache: bool = True
    read_only: bool = False
    not_ready: NotReady | None = None
    access: Mapping[int, Situation] = field(default_factory=dict)
    default_access: Situation = Situation.FREE
    canned: Mapping[bytes, bytes] = field(default_factory=dict)
    ports: Mapping[int, PortParts] = field(default_factory=dict)
