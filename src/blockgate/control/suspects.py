"""Volumes that may have lost acknowledged writes: on record until they are opened afresh.

After a sync that failed the kernel may have dropped what it could not write, and tells that to one
file description only. A gateway that starts again knows nothing of it by itself, and the next flush
of a client that was not told would be acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from blockgate.cluster.store import ClusterStore, Delete, Put, Write
from blockgate.control.state import SUSPECTS, dump, load
from blockgate.model.errors import BlockgateError

log = logging.getLogger(__name__)


class Suspects:
    """The record, and those that are to be opened with writes refused."""

    def __init__(self, store: Callable[[], ClusterStore]) -> None:
        self._store = store
        self._untold: dict[str, str] = {}
        self._record: dict[str, str] = {}
        self._saved: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        """What former processes have put on record: by this one, clients have not been told."""
        for entry in await self._store().range(SUSPECTS):
            self._saved[entry.key.removeprefix(SUSPECTS)] = str(load(entry.value)["reason"])
        self._record, self._untold = dict(self._saved), dict(self._saved)

    def reason(self, uuid: str) -> str | None:
        """Why this volume's next opening is to refuse writes; None: it need not."""
        return self._untold.get(uuid)

    def told(self, uuid: str, reason: str) -> None:
        """An open volume refuses writes from now on, as its clients see."""
        self._record[uuid] = reason
        self._begin(self._save(uuid))

    async def lost(self, uuid: str, reason: str) -> None:
        """It was closed, and its clients do not know: they are told when it is open again."""
        self._untold[uuid] = self._record[uuid] = reason
        await self._save(uuid)

    async def opened(self, uuid: str) -> None:
        """It is open, and whoever was to be told will be. If nobody was, all is well with it."""
        if self._untold.pop(uuid, None) is None:
            self._record.pop(uuid, None)
            await self._save(uuid)

    def seen(self, uuid: str) -> None:
        """Somebody who has seen the reason wants a volume that is closed to be opened afresh."""
        if self._untold.pop(uuid, None) is not None:
            self._record.pop(uuid, None)
            self._begin(self._save(uuid))

    async def settle(self) -> None:
        """Wait until all that was said is on record: before the store is closed."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _save(self, uuid: str) -> None:
        """As it is now, whatever it was when this was asked for."""
        async with self._turn:
            reason = self._record.get(uuid)
            if reason == self._saved.get(uuid):
                return
            key = SUSPECTS + uuid
            write: Write = Delete(key) if reason is None else Put(key, dump({"reason": reason}))
            try:
                await self._store().txn((), [write])
            except BlockgateError as error:
                log.error("whether volume %s has lost writes is not on record: %s", uuid, error)
                return
            if reason is None:
                del self._saved[uuid]
            else:
                self._saved[uuid] = reason
