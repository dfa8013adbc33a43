"""Nexuses on their way out of units, and those that come after them by the same port.

A session that takes the place of another (RFC 7143 6.3.5) is the same I_T nexus to SCSI, and finds
nothing of the former one: a WRITE of that one which is still at the disk must not land after a READ
of this one was answered. For most that is a matter of milliseconds. Where a disk hangs, the session
begins all the same, and is held back at that unit alone, by the engine, until the former nexus has
left it: until what it had there is over, and its loss known to the unit.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockgate.dataplane.wire import Wire
from blockgate.iscsi import Port

_Place = tuple[Port, int]  # the two ports of a nexus, and a volume


class Departures:
    """Who leaves which unit, and who waits for that. Nexuses go by their numbers.

    However often an initiator comes back while its disk hangs, no more is kept than before: who was
    held back has begun nothing, so that it leaves at once, and its hold goes with it.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._leaving: dict[_Place, list[int]] = {}
        self._held: dict[_Place, set[int]] = {}

    def begin(self, port: Port, volume: int, nexus: int) -> None:
        """A nexus is to leave a unit: from now on another one by its port has to wait."""
        self._leaving.setdefault((port, volume), []).append(nexus)

    def end(self, port: Port, volume: int, nexus: int, *, left: bool) -> None:
        """All that it had there when that began is over. Not ``left``: it has the unit again."""
        place = port, volume
        leaving = self._leaving[place]
        leaving.remove(nexus)
        if not leaving:
            del self._leaving[place]
        for held in list(self._held.get(place, ())):
            if (left and held == nexus) or not _others(leaving, held):
                self._let_go(place, held)

    def hold(self, port: Port, volume: int, nexus: int) -> bool:
        """A nexus comes to a unit, and the engine does not know it there yet. True: from now on it
        has to wait, so that nothing of it begins there before those that are leaving have left."""
        place = port, volume
        if self.holds(port, volume, nexus) or not _others(self._leaving.get(place, ()), nexus):
            return False
        self._held.setdefault(place, set()).add(nexus)
        self._wire.hold(volume, nexus)
        return True

    def holds(self, port: Port, volume: int, nexus: int) -> bool:
        """Whether a nexus still waits at a unit."""
        return nexus in self._held.get((port, volume), ())

    def _let_go(self, place: _Place, nexus: int) -> None:
        held = self._held[place]
        held.discard(nexus)
        if not held:
            del self._held[place]
        _, volume = place
        self._wire.let_go(volume, nexus)


def _others(leaving: Iterable[int], nexus: int) -> bool:
    """Whether another one than this is among those."""
    return any(one != nexus for one in leaving)
