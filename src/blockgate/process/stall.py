"""How long the event loop stood still: sampled cheaply, exported as a histogram.

A lease is renewed on this loop in later versions, so its longest stall is a figure to watch.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from itertools import accumulate

log = logging.getLogger(__name__)

BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
INTERVAL_S = 0.5
WARN_S = 0.25


class StallMonitor:
    """Wakes every half second and notes by how much it was late."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._timer: asyncio.TimerHandle | None = None
        self.max_s = 0.0
        self.sum_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sample until `stop`."""
        self._schedule(loop)

    def stop(self) -> None:
        """No more samples; what was counted stays readable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cumulative(self) -> list[tuple[str, int]]:
        """Prometheus' view: (upper bound in seconds, samples up to it), ``+Inf`` last."""
        names = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))

    def note(self, late_s: float) -> None:
        """Count one sample."""
        self._counts[bisect_left(BOUNDS_S, late_s)] += 1
        self.sum_s += late_s
        self.max_s = max(self.max_s, late_s)
        if late_s >= WARN_S:
            log.warning("the event loop stood still", extra={"seconds": round(late_s, 3)})

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval_s
        self._timer = loop.call_at(due, self._wake, loop, due)

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.note(max(0.0, loop.time() - due))
        self._schedule(loop)
