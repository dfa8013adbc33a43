"""Aborts in progress: the engine tells by number when one has drained."""

from __future__ import annotations

import asyncio

from blockgate.dataplane.wire import Wire


class Aborts:
    """Each call of :meth:`abort` returns when the back end's fate of every command in its scope is
    known. On storage that hangs that may be never; who waits must not hold up anybody else."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._last = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def abort(
        self,
        volume: int,
        nexus: int,
        *,
        task: int | None = None,
        except_task: int = 0,
        status: int | None = None,
        cut: int = 0,
        conn: int = 0,
    ) -> None:
        """Aborts tasks, or one alone; 0 stands for every volume, every nexus, or every
        connection."""
        self._last += 1
        request = self._last
        future = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        try:
            self._wire.abort(
                *(request, volume, nexus),
                task=task,
                except_task=except_task,
                status=status,
                cut=cut,
                conn=conn,
            )
            await future
        finally:
            del self._waiting[request]

    def aborted(self, request: int) -> None:
        """The engine says that one is over. One that nobody waits for any more is no error."""
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_result(None)
