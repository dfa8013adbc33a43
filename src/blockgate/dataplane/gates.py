"""Gates: what control says of a volume and what its logical unit adds, as one snapshot.

Both change by themselves. Each change makes a whole new gate with the next generation, and is in
force when every shard has it; changes that come while a swap is under way go out together.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from blockgate.control import ports
from blockgate.dataplane.wire import Wire
from blockgate.scsi import GateParts

Parts = Callable[[], GateParts]


class VolumeGate:
    """The gate of one open volume. ``parts`` is its logical unit's share, None without one."""

    def __init__(self, volume: int, wire: Wire) -> None:
        self.volume = volume
        self.parts: Parts | None = None
        self._wire = wire
        self._control: ports.Gate | None = None
        self._generation = 0
        self._changes = 0
        self._in_force = 0
        self._turn = asyncio.Lock()

    @property
    def control(self) -> ports.Gate | None:
        """What control said last; None: nothing yet, and the volume answers nobody."""
        return self._control

    def set_control(self, gate: ports.Gate) -> None:
        """control's share is another one; :meth:`renew` puts it in force."""
        if self._control is not None and gate.generation < self._control.generation:
            raise OSError(errno.EINVAL, "a newer gate is in force")
        self._control = gate

    async def renew(self) -> None:
        """Composes the gate as it should be now; returns when every shard uses it."""
        self._changes += 1
        await self.settle()

    async def settle(self) -> None:
        """Returns when every shard uses what has changed so far, whoever changed it."""
        asked = self._changes
        async with self._turn:
            if self._in_force >= asked or self._control is None:
                return  # a swap that began after this change has taken it along
            covered = self._changes
            self._generation += 1
            parts = self.parts() if self.parts is not None else None
            await self._wire.swap_gate(self.volume, self._generation, self._control, parts)
            self._in_force = covered


class Gates:
    """The gates of all open volumes, by the engine's handle."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._gates: dict[int, VolumeGate] = {}

    def of(self, volume: int) -> VolumeGate:
        """The gate of a volume, from its first mention on."""
        gate = self._gates.get(volume)
        if gate is None:
            gate = self._gates[volume] = VolumeGate(volume, self._wire)
        return gate

    def forget(self, volume: int) -> None:
        """The volume is closed."""
        self._gates.pop(volume, None)
