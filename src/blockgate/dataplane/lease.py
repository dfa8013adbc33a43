"""The lease, renewed on the event loop so that it says of the loop that it runs.

The engine holds the deadline and acts on it by itself: when this loop stands still for a whole
lease, whatever holds it up, its shards give nothing to a volume any more. The first turn of the
loop after that renews, and lifts it: a gateway that gives itself its lease has nobody to ask.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

log = logging.getLogger(__name__)

# Renewals in the time that a lease is valid: one may be late by more than half of it.
RENEWALS: Final = 3


class Leased(Protocol):
    """The part of the engine that is needed here."""

    def renew_lease(self, ttl_ms: int) -> bool: ...


class Lease:
    """Renews it, from :meth:`start` to :meth:`stop`."""

    def __init__(self, engine: Leased, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first lease begins now."""
        if not self._engine.renew_lease(round(self._seconds * 1000)):
            log.warning("the lease had lapsed, and is renewed: reads and writes go on")
        self._timer = loop.call_later(self._seconds / RENEWALS, self.start, loop)

    def stop(self) -> None:
        """It is not renewed any more, and runs out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
