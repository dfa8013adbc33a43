"""Calls that touch a volume, in threads that are apart for each place where volumes lie.

Such a call may wait for its file system, in the worst case for ever. Then it holds up those of its
place, a directory or a device, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from blockgate.control.workers import Workers

_T = TypeVar("_T")


class VolumeCalls:
    """Open volumes are named by their handles."""

    def __init__(self) -> None:
        # A place is known as long as a volume is open there, or a call has not returned.
        self._places: WeakValueDictionary[str, Workers] = WeakValueDictionary()
        self._of_handles: dict[int, Workers] = {}

    async def open(self, path: str, call: Callable[..., int], *args: Any) -> int:
        """Runs what opens the volume at a path; its handle."""
        workers = self._at(path)
        handle = await workers.run(call, *args)
        self._of_handles[handle] = workers
        return handle

    async def on(self, handle: int, call: Callable[..., _T], *args: Any) -> _T:
        """Runs a call on an open volume. Of one that is not open, the call says so itself."""
        workers = self._of_handles.get(handle) or self._at("")
        return await workers.run(call, *args)

    async def at(self, path: str, call: Callable[..., _T], *args: Any) -> _T:
        """Runs a call on what lies at a path."""
        return await self._at(path).run(call, *args)

    def forget(self, handle: int) -> None:
        """That volume is not open any more."""
        self._of_handles.pop(handle, None)

    def _at(self, path: str) -> Workers:
        place = str(PurePath(path).parent)
        workers = self._places.get(place)
        if workers is None:
            workers = self._places[place] = Workers("engine-volume")
        return workers
