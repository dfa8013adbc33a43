"""How much room the pools under thin units have: looked at every few seconds, and the sooner the
less there is; told to the units.

What a unit makes of it, the Logical Block Provisioning log page and the unit attention THIN
PROVISIONING SOFT THRESHOLD REACHED (SBC-3 4.7.3.7), is its own affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from blockgate.dataplane.units import Unit
from blockgate.scsi import PoolUsage

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 3.0
# An initiator is to be warned before its writes find no room, so the next look comes before half of
# what is left could be gone: no disk, and hardly a page cache, takes more than this. The last few
# hundred MiB may go faster than anybody looks: then the first write without room brings the warning
# (see `Unit.pool_is_full`).
FILLED_BYTES_PER_SECOND: Final = 4 << 30
LEAST_SECONDS: Final = 0.2
# A pool that was low is low until this much more of it is free: one that stands at its threshold
# must not be told of again with every file that comes and goes.
RELIEF_PERCENT: Final = 1
# The size of a file system may be what others have left of it, as with ZFS, and follow each of
# their writes. Initiators are told where the threshold is: there it stays until the size is another
# one, by more than this.
SIZE_PERCENT: Final = 1


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of the file system under a file, of how much, and what the file has of it;
    bytes."""

    size: int
    available: int
    used: int

    def is_low(self, threshold: int, *, was_low: bool) -> bool:
        """Whether less than ``threshold`` percent are free; 0: never."""
        if not threshold:
            return False
        percent = threshold + (RELIEF_PERCENT if was_low else 0)
        return self.available * 100 < self.size * percent

    def in_pool_of(self, size: int) -> Room:
        """The same in a pool of the size that was found before, unless it really has changed."""
        changed = abs(self.size - size) * 100 > size * SIZE_PERCENT
        return self if changed else replace(self, size=size)

    @property
    def look_seconds(self) -> float:
        """When to look again at a pool that is not low."""
        half_gone = self.available / 2 / FILLED_BYTES_PER_SECOND
        return min(LOOK_SECONDS, max(LEAST_SECONDS, half_gone))


Measure = Callable[[Sequence[str]], Awaitable[Mapping[str, Room]]]


async def measure_in_thread(paths: Sequence[str]) -> Mapping[str, Room]:
    """:func:`measure`, away from the loop."""
    return await asyncio.to_thread(measure, paths)


def measure(paths: Sequence[str]) -> dict[str, Room]:
    """The room of each file. Blocks, for as long as its file system does; a file that is not there
    is left out."""
    found = {}
    for path in paths:
        try:
            system, file = os.statvfs(path), Path(path).stat()
        except OSError as error:
            log.debug("the room under %s is not known: %s", path, error)
            continue
        unit = system.f_frsize
        found[path] = Room(system.f_blocks * unit, system.f_bavail * unit, file.st_blocks * 512)
    return found


class PoolWatch:
    """Looks while there is something to look at. A pool that hangs is waited for, once: the looks
    at the others go on."""

    def __init__(self, units: Callable[[], Iterable[Unit]], measure: Measure) -> None:
        self._units = units
        self._measure = measure
        self._timer: asyncio.TimerHandle | None = None
        self._looks: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Units have come or changed: looks at once, and again later."""
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def stop(self) -> None:
        """Looks at nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for look in self._looks.values():
            look.cancel()

    def _look(self) -> None:
        pools: dict[str, list[Unit]] = defaultdict(list)
        for unit in self._units():
            if unit.logical.facts.watched and unit.mapped is not None:
                pools[str(Path(unit.mapped.view.space).parent)].append(unit)
        loop = asyncio.get_running_loop()
        for pool, units in pools.items():
            if pool not in self._looks:
                look = loop.create_task(self._look_at(units))
                self._looks[pool] = look
                look.add_done_callback(partial(self._looked, pool))
        self._timer = loop.call_later(LOOK_SECONDS, self._look) if pools else None

    def _look_within(self, seconds: float) -> None:
        """Brings the next look forward, if it would be later."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._timer is not None and self._timer.when() > when:
            self._timer.cancel()
            self._timer = loop.call_at(when, self._look)

    def _looked(self, pool: str, _look: asyncio.Task[None]) -> None:
        del self._looks[pool]

    async def _look_at(self, units: Sequence[Unit]) -> None:
        paths = [unit.mapped.view.space for unit in units if unit.mapped is not None]
        were_low = {unit: unit.logical.pool_is_low for unit in units}
        try:
            rooms = await self._measure(paths)
        except OSError as error:
            log.debug("pools were not looked at: %s", error)
            return
        for unit in units:
            if unit.mapped is None or (room := rooms.get(unit.mapped.view.space)) is None:
                continue
            if unit.logical.pool_is_low and not were_low[unit]:
                continue  # a write has found no room since the look began: that is the later news
            room = room.in_pool_of(unit.logical.facts.pool_size)
            low = room.is_low(unit.mapped.threshold, was_low=unit.logical.pool_is_low)
            unit.pool_found(room.size, PoolUsage(room.available, room.used), low=low)
            if unit.mapped.threshold and not low:
                self._look_within(room.look_seconds)
