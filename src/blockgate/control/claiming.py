"""Claims the configured pools at the start, and tries on where one is not to be had."""

from __future__ import annotations

import asyncio
import logging

from blockgate.control.core import Core
from blockgate.model.config import Pool
from blockgate.model.errors import BlockgateError
from blockgate.model.names import PoolName

log = logging.getLogger(__name__)

RETRY_S = 5.0


class Claiming:
    """Keeps every configured pool claimed, also one that nothing is done in."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running: dict[PoolName, asyncio.Task[None]] = {}
        self._told: dict[PoolName, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Try all pools once, then go on in the background."""
        self._begin()
        if self._running:
            wait_s = self._core.settings.start_wait_s
            await asyncio.wait(self._running.values(), timeout=wait_s)
        self._task = asyncio.create_task(self._keep_trying())

    async def stop(self) -> None:
        """Stop trying. A try that hangs in a thread is left to itself."""
        for task in [*self._running.values(), *([self._task] if self._task else [])]:
            task.cancel()
            await asyncio.wait([task])

    def _begin(self) -> bool:
        """Begin a try for each pool that is not claimed; whether there are any."""
        missing = [
            pool for pool in self._core.config.pools.values() if not self._core.claims.has(pool)
        ]
        for pool in missing:
            running = self._running.get(pool.name)
            if running is None or running.done():
                self._running[pool.name] = asyncio.create_task(self._try(pool))
        return bool(missing)

    async def _try(self, pool: Pool) -> None:
        try:
            await self._core.in_pool(pool, lambda: None)
        except (BlockgateError, OSError) as error:
            if self._told.get(pool.name) != str(error):  # once for each reason
                log.warning("a pool is not to be had: %s", error)
                self._told[pool.name] = str(error)
        else:
            self._told.pop(pool.name, None)

    async def _keep_trying(self) -> None:
        while True:
            missing = self._begin()
            self._core.claim_lost.clear()
            if missing:
                await asyncio.sleep(RETRY_S)
            else:
                await self._core.claim_lost.wait()
