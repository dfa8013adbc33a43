"""The reservations of one logical unit as a value: what is registered, what is reserved, by whom.

A command makes of one :class:`State` the next; nothing is ever changed in place. So a change can be
made stable, shared with other gateways or given up as a whole, and ``generation`` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from blockgate.scsi.gate import Situation
from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.codes import Kind
from blockgate.scsi.sense import ReservationConflict


@dataclass(frozen=True, slots=True)
class Reservation:
    """A persistent reservation. Of the all-registrants types every registered nexus is a holder,
    so no one of them is named (SPC-4 5.12.10)."""

    kind: Kind
    holder: NexusName | None

    def __post_init__(self) -> None:
        if (self.holder is None) is not self.kind.all_registrants:
            raise ValueError("a reservation has one holder, or all registrants hold it")


@dataclass(frozen=True, slots=True)
class State:
    """All reservations of a logical unit.

    ``registrations`` has the reservation key of each registered nexus, in the order in which they
    came. ``legacy`` is the nexus that holds the unit by RESERVE(6) or (10) (SPC-2 5.5.1).
    ``pr_generation`` is SPC-4's PRgeneration, ``aptpl`` the last valid APTPL bit;
    ``generation`` counts every change of this value and never goes back. ``lost``: the record of
    what was reserved could not be read, so it may be anything, and by anyone, until CLEAR.
    """

    registrations: Mapping[NexusName, int] = field(default_factory=dict)
    reservation: Reservation | None = None
    legacy: NexusName | None = None
    aptpl: bool = False
    pr_generation: int = 0
    generation: int = 0
    lost: bool = False

    def __post_init__(self) -> None:
        held = self.reservation
        holders = {held.holder} if held and held.holder else self.registrations.keys()
        if held and not (holders and holders <= self.registrations.keys()):
            raise ValueError("the holder of a persistent reservation is not registered")
        if self.legacy is not None and self.registrations:
            raise ValueError("registrations and a RESERVE exclude each other")
        if self.lost and (held is not None or self.legacy is not None):
            raise ValueError("what was lost is not known")
        if not all(0 < key < 1 << 64 for key in self.registrations.values()):
            raise ValueError("a reservation key has 64 bits and is not zero")
        object.__setattr__(self, "registrations", MappingProxyType(dict(self.registrations)))

    def holds(self, nexus: NexusName) -> bool:
        """Whether this nexus is a holder of the persistent reservation (SPC-4 5.12.10)."""
        if self.reservation is None:
            return False
        if self.reservation.kind.all_registrants:
            return nexus in self.registrations
        return self.reservation.holder == nexus

    def registrants(self, key: int) -> frozenset[NexusName]:
        """The nexuses registered with this key: several may share one."""
        return frozenset(name for name, own in self.registrations.items() if own == key)

    def verify(self, nexus: NexusName, key: int) -> None:
        """Raises ReservationConflict unless the nexus is registered with this key (SPC-4 6.16.3,
        RESERVATION KEY field)."""
        if self.registrations.get(nexus) != key:
            raise ReservationConflict

    def situation(self, nexus: NexusName | None) -> Situation:
        """How the reservations stand towards a nexus; None is one that cannot be registered.

        Who is a holder or let in by the type is free; for others the type says whether reads
        conflict too (SPC-4 5.12.1).
        """
        if self.lost:
            return Situation.EXCLUSIVE_ACCESS_OTHER
        if self.legacy is not None:
            return Situation.FREE if nexus == self.legacy else Situation.LEGACY_OTHER
        held = self.reservation
        if held is None:
            return Situation.FREE
        if nexus is not None:
            admitted = held.kind.admits_registrants and nexus in self.registrations
            if admitted or self.holds(nexus):
                return Situation.FREE
        if held.kind.excludes_reads:
            return Situation.EXCLUSIVE_ACCESS_OTHER
        return Situation.WRITE_EXCLUSIVE_OTHER

    def with_key(self, nexuses: Iterable[NexusName], key: int) -> State:
        """These nexuses registered with the key, or their key changed to it."""
        return replace(self, registrations={**self.registrations, **dict.fromkeys(nexuses, key)})

    def without(self, nexuses: Iterable[NexusName]) -> State:
        """These registrations removed. The reservation goes when its holder does; one of the
        all-registrants types, with the last registrant (SPC-4 5.12.11.2.3)."""
        gone = frozenset(nexuses)
        left = {name: key for name, key in self.registrations.items() if name not in gone}
        held = self.reservation
        if held is not None and (not left or held.holder in gone):
            held = None
        return replace(self, registrations=left, reservation=held)
