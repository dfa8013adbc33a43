"""Threads for blocking work, apart for each pool, so that one that hangs delays no other.

They are daemon threads: a file system that never answers must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")

THREADS_MAX = 16
IDLE_S = 5.0


class Workers:
    """Up to `THREADS_MAX` threads, started when they are needed, ended when idle."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unclaimed = 0  # idle threads, less the jobs that wait for one

    async def run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """The result of `work(*arguments)`, run in a thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def job() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:
                _post(loop, _set_error, done, error)
            else:
                _post(loop, _set_result, done, result)

        with self._lock:
            self._queue.put(job)
            self._unclaimed -= 1
            if self._unclaimed < 0 and self._threads < THREADS_MAX:
                self._threads += 1
                self._unclaimed += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return await done

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._unclaimed <= 0:
                        continue  # a job has just been put for this thread
                    self._unclaimed -= 1
                    self._threads -= 1
                    return
            job()
            with self._lock:
                self._unclaimed += 1


def _post(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop has ended: nobody waits for this any more
        loop.call_soon_threadsafe(call, *arguments)


def _set_result(done: asyncio.Future[_T], result: _T) -> None:
    if not done.done():
        done.set_result(result)


def _set_error(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
