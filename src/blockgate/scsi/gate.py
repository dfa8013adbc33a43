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
class Limits:
    """What the Block Limits page announces (SBC-3 6.5.3) and the engine holds to, in blocks."""

    transfer: int
    compare_and_write: int
    write_same: int
    unmap: int
    unmap_descriptors: int

    @classmethod
    def of(cls, block_size: int, *, thin: bool) -> Limits:
        """For blocks of this many bytes. COMPARE AND WRITE has both its halves in one buffer of
        the engine; 0 for UNMAP where it is not known."""
        return cls(
            transfer=(32 << 20) // block_size,
            compare_and_write=min(255, (128 << 10) // block_size),
            write_same=1 << 16,
            unmap=1 << 20 if thin else 0,
            unmap_descriptors=256 if thin else 0,
        )


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
    ``needs_met``: which needs of the opcode table's commands the unit has.
    ``not_ready`` is what commands that need the medium are answered. ``canned`` holds for every
    port; what differs is in ``ports``, by the engine's number.
    """

    block_size: int
    limits: Limits
    descriptor_sense: bool = False
    software_write_protect: bool = False
    tas: bool = False
    qerr: int = 0
    needs_met: frozenset[str] = frozenset()
    not_ready: Sense | None = None
    access: Mapping[int, Situation] = field(default_factory=dict)
    default_access: Situation = Situation.FREE
    canned: Mapping[bytes, bytes] = field(default_factory=dict)
    ports: Mapping[int, PortParts] = field(default_factory=dict)
