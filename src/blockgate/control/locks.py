"""Who works on what: one change at a time for each volume, export, pool or user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from blockgate.model.errors import Conflict

WAIT_S = 10.0
"""How long a change waits for another one on the same thing, before it is refused."""


class Locks:
    """Named locks, all of a set taken at once, so that no two owners wait for each other."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._released = asyncio.Condition()

    def try_take(self, names: Iterable[str], owner: str) -> bool:
        """Take all names if none is held by somebody else."""
        wanted = frozenset(names)
        if any(name in self._held for name in wanted):
            return False
        self._held.update(dict.fromkeys(wanted, owner))
        return True

    async def take(self, names: Iterable[str], owner: str) -> None:
        """Take all names; `Conflict` if that is not to be had within `WAIT_S`."""
        wanted = frozenset(names)
        try:
            async with asyncio.timeout(WAIT_S), self._released:
                await self._released.wait_for(lambda: self.try_take(wanted, owner))
        except TimeoutError:
            name = next((n for n in sorted(wanted) if n in self._held), "it")
            holder = self._held.get(name)
            raise Conflict(
                f"Another change is at work on {name}{f' ({holder})' if holder else ''}.",
                f"Try again when it has ended: `blockgate operation {holder}` tells how far it is."
                if holder
                else "Try again.",
                code="busy",
            ) from None

    async def release(self, names: Iterable[str], owner: str) -> None:
        """Let go of those names that `owner` holds."""
        for name in names:
            if self._held.get(name) == owner:
                del self._held[name]
        async with self._released:
            self._released.notify_all()

    def holder(self, name: str) -> str | None:
        """Who works on `name` at the moment."""
        return self._held.get(name)
